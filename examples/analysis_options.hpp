// What the programs that look at patches share: encoders named side by side, their patches with the classes that label
// maps give them, and vectors for words.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <tessera/io/json.hpp>
#include <tessera/ops/similarity.hpp>
#include <tessera/segmentation/correspondences.hpp>
#include <tessera/systems/patch_encoder.hpp>
#include <tessera/train/progress.hpp>

#include "labelled_pictures.hpp"
#include "segmentation_options.hpp"

namespace examples {

/// Looks, before long work, whether results can be written into `folder`, which need not exist yet.
inline void require_result_folder(const fs::path& folder) {
  std::error_code ignored;
  fs::path there = fs::absolute(folder, ignored);
  while (there.has_relative_path() && !fs::exists(there, ignored)) there = there.parent_path();
  tessera::require<tessera::IoError>(fs::is_directory(there, ignored) && ::access(there.c_str(), W_OK) == 0,
                                     "--output ", folder.string(), " cannot be made: ", there.string(),
                                     " is read-only or no folder");
}

/// --encoder NAME=FOLDER[:tokens]
struct EncoderChoice {
  std::string name, checkpoint;
  std::optional<systems::PatchTokens> tokens;
};

/// "NAME=FOLDER:tokens"; without NAME= the folder's name is its name, without :tokens the encoder's usual ones are
/// taken.
inline EncoderChoice parse_encoder(const std::string& text) {
  EncoderChoice choice;
  const size_t equals = text.find('=');
  choice.checkpoint = equals == text.npos ? text : text.substr(equals + 1);
  std::error_code ignored;
  if (const size_t colon = choice.checkpoint.rfind(':');
      colon != text.npos && !fs::exists(choice.checkpoint, ignored)) {
    choice.tokens = systems::patch_tokens_from_name(choice.checkpoint.substr(colon + 1));
    choice.checkpoint.resize(colon);
  }
  choice.name = equals == text.npos ? fs::path(choice.checkpoint).filename().string() : text.substr(0, equals);
  tessera::require(!choice.name.empty() && !choice.checkpoint.empty(), "--encoder ", text,
                   " must be NAME=FOLDER or NAME=FOLDER:tokens");
  return choice;
}

/// The options of all programs that look at patches.
struct AnalysisOptions {
  std::vector<std::string> encoders;
  std::string output, dtype = "f32", activation;
  int size = 0, threads = 0;

  void add_to(CLI::App& app, const std::string& output_default) {
    output = output_default;
    app.add_option("--encoder", encoders,
                   "NAME=FOLDER[:tokens], repeated for several side by side: a CLIP, PACL, SegCLIP or ViT (DINO); "
                   "tokens: last_block, ln_post, projected (to the space of texts) or aligned (a PACL's)")
        ->required();
    app.add_option("--output", output, "folder for report.html, pictures and JSON")->capture_default_str();
    app.add_option("--size", size, "side of the pictures that encoders see; default: each encoder's image size")
        ->check(CLI::Range(1, 2048));
    app.add_option("--activation", activation,
                   "quick_gelu (OpenAI's weights) or gelu, where CLIPs' checkpoints do not tell it")
        ->check(CLI::IsMember({"quick_gelu", "gelu"}));
    app.add_option("--dtype", dtype, "element type of the encoders: f32 or bf16 (half the memory)")
        ->check(CLI::IsMember({"f32", "bf16"}))
        ->capture_default_str();
    add_threads(app, threads);
  }

  std::vector<EncoderChoice> choices() const {
    std::vector<EncoderChoice> result;
    for (const auto& text : encoders) {
      result.push_back(parse_encoder(text));
      for (size_t i = 0; i + 1 < result.size(); ++i)
        tessera::require(result[i].name != result.back().name, "two encoders are called ", result.back().name,
                         "; name them apart: --encoder NAME=FOLDER");
    }
    return result;
  }
  /// The checkpoint's settings, as the programs that segment have them.
  ModelOptions model(const std::string& checkpoint, const std::string& prompts = "") const {
    ModelOptions options;
    options.checkpoint = checkpoint;
    options.prompts = prompts;
    options.dtype = dtype;
    const std::string type = systems::describe_checkpoint(checkpoint).model_type;
    if (type != "pacl" && type != "segclip" && type != "vit") options.activation = activation;
    return options;
  }
};

/// An encoder that was named, and the side of the pictures that it sees.
struct NamedEncoder {
  std::string name, checkpoint;
  std::unique_ptr<systems::PatchEncoder> encoder;
  int side = 0;

  std::string description() const {
    return encoder->name() + ", " + systems::patch_tokens_name(encoder->tokens()) + ", patches of " +
           std::to_string(encoder->patch_size()) + " at " + std::to_string(side);
  }
  tessera::io::Json json() const {
    return {{"name", name},
            {"checkpoint", checkpoint},
            {"system", encoder->name()},
            {"tokens", systems::patch_tokens_name(encoder->tokens())},
            {"patch_size", encoder->patch_size()},
            {"size", side},
            {"width", encoder->width()}};
  }
};

inline NamedEncoder open_encoder(Context<Cpu>& ctx, const AnalysisOptions& options, const EncoderChoice& choice) {
  const auto dense = options.model(choice.checkpoint).dense();
  NamedEncoder result{
      choice.name, choice.checkpoint,
      systems::load_patch_encoder(ctx, choice.checkpoint,
                                  {.tokens = choice.tokens, .dtype = dense.dtype, .activation = dense.activation})};
  tessera::require(result.encoder->width() > 0, "the encoder ", result.name, " (", result.checkpoint,
                   ") has no projection to the space of texts; take aligned, ln_post or last_block tokens");
  result.side = options.size > 0 ? options.size : int(result.encoder->image_size());
  tessera::require(result.side % result.encoder->patch_size() == 0, "--size ", result.side,
                   " is not a multiple of the patches of ", result.name, ", which are ", result.encoder->patch_size(),
                   " pixels wide");
  return result;
}

/// Where vectors for words come from.
struct TextSource {
  std::unique_ptr<segmentation::DenseModel> model;
  ModelOptions options;

  /// The sentences that names are put into: `given`, where it is "" the checkpoint's own, else CLIP's best seven.
  segmentation::PromptSet prompts(const std::string& given) const {
    ModelOptions asked = options;
    asked.prompts = given;
    return asked.prompt_set("clip_best7");
  }
  /// [N, E], of length 1, of the classes of `list`.
  tessera::Tensor<float, 2> embed(Context<Cpu>& ctx, const segmentation::ClassList& list,
                                  const segmentation::PromptSet& sentences) const {
    return options.embed(ctx, *model, list, -1, sentences).vectors;
  }
};

/// The text tower of `text` (a checkpoint), or where it is "" of the encoder's own checkpoint. Encoders whose tokens
/// were not named take those that texts can be compared with.
inline TextSource open_texts(Context<Cpu>& ctx, const AnalysisOptions& options, EncoderChoice& choice,
                             const std::string& text) {
  const std::string type = systems::describe_checkpoint(choice.checkpoint).model_type;
  tessera::require(type != "vit" || !text.empty(), "the encoder ", choice.name, " (", choice.checkpoint,
                   ") is a ViT, which has no text tower, so its patches cannot be compared with words");
  if (!choice.tokens) choice.tokens = type == "pacl" ? systems::PatchTokens::aligned : systems::PatchTokens::projected;
  tessera::require(*choice.tokens == systems::PatchTokens::aligned || *choice.tokens == systems::PatchTokens::projected,
                   "the encoder ", choice.name, ": ", systems::patch_tokens_name(*choice.tokens),
                   " tokens do not lie in the space of texts; take projected or aligned");
  TextSource source;
  source.options = options.model(text.empty() ? choice.checkpoint : text);
  source.model = systems::load_dense_model(ctx, source.options.checkpoint, source.options.dense());
  return source;
}

/// The rows of `tokens` [P, C], each of length 1.
inline tessera::Tensor<float, 2> unit_rows(Context<Cpu>& ctx, const tessera::Tensor<float, 2>& tokens,
                                           const std::string& encoder) {
  for (int64_t i = 0; i < tokens.size(); ++i)
    tessera::require(std::isfinite(tokens.data[i]), "the encoder ", encoder,
                     " gave a patch that is not a number; its weights hold NaN or infinite values");
  return tessera::l2_normalise(ctx, view(tokens));
}

/// The patches of the middle square of a picture, [P, C], of length 1.
inline tessera::Tensor<float, 2> square_patches(Context<Cpu>& ctx, const NamedEncoder& named,
                                                const data::Image& picture) {
  const auto& encoder = *named.encoder;
  const auto pixels = data::to_tensor(ctx, data::clip_resize(picture, named.side), encoder.statistics());
  const auto tokens = encoder.patches(ctx, pixels.reshaped(tessera::Shape<4>{1, 3, named.side, named.side}));
  return unit_rows(ctx, tokens.reshaped(tessera::Shape<2>{tokens.shape[1], tokens.shape[2]}), named.name);
}

/// The labels of these patches.
inline std::vector<int32_t> square_labels(const NamedEncoder& named, const data::LabelMap& truth, int classes) {
  const auto& encoder = *named.encoder;
  return segmentation::patch_labels(segmentation::centre_labels(truth, named.side),
                                    encoder.grid(named.side, named.side), encoder.patch_size(), encoder.patch_size(),
                                    classes);
}

/// A class list's meaning of label values (see truth_table). A background class is taken out of the list: what is not
/// one thing is no class of patches.
inline std::vector<uint16_t> take_foreground(segmentation::ClassList& list, bool raw) {
  auto table = truth_table(list, raw);
  const int background = list.background;
  if (background < 0) return table;
  list.classes.erase(list.classes.begin() + background);
  list.background = -1;
  tessera::require(!list.classes.empty(), "the class list has no class besides its background");
  for (uint16_t& label : table) {
    if (label == ignored_label || int(label) < background) continue;
    label = int(label) == background ? ignored_label : uint16_t(label - 1);
  }
  return table;
}

/// All labelled patches of a data set, picture by picture.
struct LabelledPatches {
  std::vector<float> features;  ///< [N, channels], of length 1
  int64_t channels = 0;
  std::vector<int32_t> labels;      ///< [N]
  std::vector<int64_t> of_picture;  ///< how many of each picture
  int64_t left_out = 0;             ///< patches of no class, or of no majority

  tessera::TensorView<const float, 2> view() const {
    return {features.data(), tessera::Shape<2>{int64_t(labels.size()), channels}};
  }
  std::vector<int64_t> counts(int classes) const {
    std::vector<int64_t> result(static_cast<size_t>(classes));
    for (const int32_t label : labels) ++result[size_t(label)];
    return result;
  }
};

/// Holds every patch in memory: 4 x channels bytes each.
inline LabelledPatches labelled_patches(Context<Cpu>& ctx, const NamedEncoder& named,
                                        const std::vector<Sample>& samples, const std::vector<uint16_t>& table,
                                        int classes) {
  LabelledPatches result;
  result.channels = named.encoder->width();
  tessera::train::Progress progress(named.name, int64_t(samples.size()), "pictures");
  for (const Sample& sample : samples) {
    const data::Image picture = data::read_image(sample.image);
    const auto labels = square_labels(named, read_truth(sample, table, picture), classes);
    const auto patches = square_patches(ctx, named, picture);
    int64_t counted = 0;
    for (size_t p = 0; p < labels.size(); ++p) {
      if (labels[p] == segmentation::no_class) continue;
      result.labels.push_back(labels[p]);
      const float* patch = &patches(int64_t(p), 0);
      result.features.insert(result.features.end(), patch, patch + result.channels);
      ++counted;
    }
    result.of_picture.push_back(counted);
    result.left_out += int64_t(labels.size()) - counted;
    progress.advance(1);
  }
  progress.finish();
  tessera::require(!result.labels.empty(), "no patch of the ", samples.size(),
                   " label maps belongs to a class of the list; are these label maps and this list of one data set "
                   "(--raw-labels, reduce_zero_label)?");
  return result;
}

/// A picture enlarged by a whole number until its shorter side has at least `least` pixels, or made smaller until it
/// has about `most`.
inline data::Image for_display(const data::Image& picture, int least, int most) {
  const int side = std::min(picture.width, picture.height);
  const int zoom = (least + side - 1) / side;
  if (zoom > 1) return data::resize(picture, picture.width * zoom, picture.height * zoom, data::Filter::nearest);
  if (side <= most) return picture;
  const auto size = data::short_side_size(picture.width, picture.height, most);
  return data::resize(picture, size.width, size.height, data::Filter::bicubic);
}

}  // namespace examples
