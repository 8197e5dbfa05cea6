// The options of programs that segment by words, and what they build from them: a model, vectors for the classes, and
// the rule that turns scores into labels.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include <tessera/segmentation/class_embeddings.hpp>
#include <tessera/segmentation/classes.hpp>
#include <tessera/systems/dense_models.hpp>

#include "common.hpp"
#include "devices.hpp"

namespace examples {

using tessera::Context;
using tessera::Cpu;
namespace data = tessera::data;
namespace segmentation = tessera::segmentation;
namespace systems = tessera::systems;

/// Which model, and how it is asked.
struct ModelOptions {
  std::string checkpoint, tokenizer, prompts, activation, dtype = "f32", synonyms = "average", names;
  int threads = 0;

  void add_to(CLI::App& app) {
    app.add_option("--checkpoint", checkpoint,
                   "a folder (config.json, model.safetensors, tokenizer files) or one .safetensors file with OpenAI's "
                   "or OpenCLIP's parameter names")
        ->required();
    app.add_option("--tokenizer", tokenizer,
                   "folder, tokenizer.json or bpe_simple_vocab_16e6.txt.gz; default: the checkpoint's folder");
    app.add_option("--activation", activation,
                   "quick_gelu (OpenAI's weights) or gelu, where the checkpoint does not tell it")
        ->check(CLI::IsMember({"quick_gelu", "gelu", "gelu_tanh", "relu"}));
    app.add_option("--prompts", prompts,
                   "a prompt set (simple1, imagenet80, maskclip85, ...), a file with a template a line, or one "
                   "template with {} in it; default: the checkpoint's own, else maskclip85");
    app.add_option("--synonyms", synonyms,
                   "of classes with several names (person|man): average of their vectors, or the best name's score")
        ->check(CLI::IsMember({"average", "best"}))
        ->capture_default_str();
    app.add_option("--class-names", names,
                   "the words that this system uses for a benchmark's classes, where its list has them")
        ->check(CLI::IsMember({"maskclip", "groupvit", "pixelclip", "sclip"}));
    app.add_option("--dtype", dtype, "element type of the model: f32 or bf16 (half the memory)")
        ->check(CLI::IsMember({"f32", "bf16"}))
        ->capture_default_str();
    add_threads(app, threads);
  }

  systems::DenseModelOptions dense() const {
    systems::DenseModelOptions options;
    options.dtype = dtype == "bf16" ? tessera::Dtype::bf16 : tessera::Dtype::f32;
    if (activation == "quick_gelu") options.activation = tessera::Activation::quick_gelu;
    if (activation == "gelu") options.activation = tessera::Activation::gelu;
    if (activation == "gelu_tanh") options.activation = tessera::Activation::gelu_tanh;
    if (activation == "relu") options.activation = tessera::Activation::relu;
    return options;
  }
  segmentation::PromptSet prompt_set(const std::string& otherwise) const {
    const std::string& own = systems::describe_checkpoint(checkpoint).prompts;
    const std::string& chosen = !prompts.empty() ? prompts : !own.empty() ? own : otherwise;
    if (chosen.find("{}") == std::string::npos) return segmentation::load_prompt_set(chosen);
    return {chosen, segmentation::EnsembleRule::normalise_each, {chosen}};
  }
  data::Tokenizer load_tokenizer() const {
    const fs::path folder = systems::describe_checkpoint(checkpoint).folder;
    try {
      return data::Tokenizer::load(!tokenizer.empty() ? fs::path(tokenizer) : folder.empty() ? fs::path(".") : folder);
    } catch (const tessera::IoError& error) {
      tessera::require<tessera::IoError>(!tokenizer.empty(), error.what(), "; name one with --tokenizer");
      throw;
    }
  }
  /// Vectors for the classes of `list`, all but `without`.
  segmentation::ClassEmbeddings embed(Context<Cpu>& ctx, const segmentation::DenseModel& model,
                                      const segmentation::ClassList& list, int without,
                                      const segmentation::PromptSet& prompt_set) const {
    auto queries = segmentation::class_queries(list, names);
    if (without >= 0) queries.erase(queries.begin() + without);
    tessera::require(!queries.empty(), "there is no class to look for besides the background");
    const auto rule = synonyms == "best" ? segmentation::SynonymRule::best : segmentation::SynonymRule::average;
    auto embeddings = segmentation::embed_classes(ctx, model, load_tokenizer(), prompt_set, queries, {rule});
    if (embeddings.shortened > 0)
      std::printf("note: %lld of %lld prompts are longer than the model's %lld tokens and were cut\n",
                  static_cast<long long>(embeddings.shortened), static_cast<long long>(embeddings.texts),
                  static_cast<long long>(model.context_length()));
    return embeddings;
  }
};

/// How pictures are segmented.
struct SegmentationOptions {
  ModelOptions model;
  std::string classes, system = "auto", numerics = "clip";
  segmentation::PredictorOptions predictor;
  std::string device = "cpu";
  double background = 0, background_entropy = 0, entropy_scale = 100, key_smoothing = 0, prompt_denoising = 0;
  std::optional<double> gate;
  int64_t patch_stride = 0, likely_classes = 5;

  void add_to(CLI::App& app, const std::string& classes_help) {
    model.add_to(app);
    app.add_option("--classes", classes, classes_help)->required();
    app.add_option("--system", system,
                   "maskclip (any CLIP; the last block keeps residual and MLP, as the official code), maskclip-value "
                   "(value path alone), pacl, segclip (the released evaluation), segclip-cosine (the paper's), or "
                   "auto: what config.json names, else maskclip")
        ->check(CLI::IsMember({"auto", "maskclip", "maskclip-value", "pacl", "segclip", "segclip-cosine"}))
        ->capture_default_str();
    app.add_option("--background", background,
                   "label 0 (background) where the largest probability, softmax over classes of scale * cosine "
                   "(segclip: the largest affinity), is below this")
        ->check(in_range(0, 1));
    app.add_option("--background-entropy", background_entropy,
                   "label 0 (background) where the entropy, in nats, of the softmax over classes of --entropy-scale * "
                   "score is above this (PACL: 1.5)")
        ->check(in_range(0, 1000));
    app.add_option("--entropy-scale", entropy_scale, "factor on scores before that softmax")
        ->check(in_range(1e-6, 1e6))
        ->capture_default_str();
    app.add_option("--size", predictor.size, "short side of the resized picture; default: the checkpoint's image size")
        ->check(CLI::Range(1, 2048));
    app.add_option("--window", predictor.window,
                   "side of sliding windows on the resized picture; default: none (segclip: the image size)")
        ->check(CLI::Range(1, 2048));
    app.add_option("--stride", predictor.window_stride,
                   "pixels from window to window; default: half the window (segclip: the window)")
        ->check(CLI::Range(1, 2048));
    app.add_flag("--opencv-resize", predictor.opencv_resize,
                 "resize pictures as mmsegmentation does (OpenCV's bilinear filter) instead of as CLIP does");
    app.add_option("--likely-classes", likely_classes,
                   "segclip: only the classes that fit the whole window best are considered, so many")
        ->check(CLI::Range(int64_t(1), int64_t(100000)))
        ->capture_default_str();
    app.add_option("--numerics", numerics,
                   "clip: the checkpoint's activation, epsilon and image statistics; official: those of MaskCLIP's "
                   "code (GELU, 1e-6, ImageNet's)")
        ->check(CLI::IsMember({"clip", "official"}))
        ->capture_default_str();
    app.add_option("--key-smoothing", key_smoothing,
                   "maskclip: patches whose largest probability is below this take the mean of similar patches "
                   "(official: 1; 0: off)")
        ->check(in_range(0, 1));
    app.add_option("--prompt-denoising", prompt_denoising,
                   "maskclip: classes whose largest probability on all patches is below this are left out (official: "
                   "0.5; 0: off)")
        ->check(in_range(0, 1));
    app.add_option("--gate", gate,
                   "factor on the score of whole picture and class, added to every patch's (default: pacl trained end "
                   "to end 1, "
                   "others 0)")
        ->check(in_range(-1000, 1000));
    app.add_option(
           "--patch-stride", patch_stride,
           "pixels from patch to patch (default: pacl 4, trained end to end half the patch size; maskclip the patch "
           "size)")
        ->check(CLI::Range(int64_t(1), int64_t(1024)));
    add_device(app, device);
  }
};

/// A loaded model with the vectors of its classes.
struct Segmenter {
  std::unique_ptr<segmentation::DenseModel> model;
  segmentation::ClassList list;  ///< all labels, the background's too
  segmentation::PromptSet prompts;
  segmentation::ClassEmbeddings embeddings;
  segmentation::LabelRule rule;
  segmentation::PredictorOptions predictor;

  segmentation::ScoreMap score(Context<Cpu>& ctx, const data::Image& picture) const {
    return segmentation::score_picture(ctx, *model, embeddings.vectors, picture, predictor);
  }
  data::LabelMap label(Context<Cpu>& ctx, const segmentation::ScoreMap& map) const {
    return segmentation::label_picture(ctx, map, rule);
  }
};

/// A segmenter whose model computes on the device of `device`; its classes and maps lie in host memory, from `ctx`.
/// With --background or --background-entropy, the background is the list's own background class, its class of that
/// name, or one put before all others (label 0). No text is asked for it.
template <class Device>
Segmenter make_segmenter(Context<Cpu>& ctx, Context<Device>& device, const SegmentationOptions& options) {
  use_threads(options.model.threads);
  tessera::require(options.predictor.window_stride == 0 || options.predictor.window > 0, "--stride ",
                   options.predictor.window_stride, " needs --window N");
  tessera::require(options.predictor.window_stride <= options.predictor.window, "--stride ",
                   options.predictor.window_stride, " leaves gaps between windows of ", options.predictor.window,
                   " pixels; it must be at most --window");
  Segmenter segmenter;
  segmenter.predictor = options.predictor;
  segmenter.list = segmentation::load_class_list(options.classes);
  segmenter.prompts = options.model.prompt_set(std::string(segmentation::default_prompt_set));

  systems::DenseModelOptions dense = options.model.dense();
  dense.system = options.system;
  if (options.numerics == "official") dense.numerics = systems::MaskclipNumerics::official;
  dense.maskclip.key_smoothing = options.key_smoothing;
  dense.maskclip.prompt_denoising = options.prompt_denoising;
  dense.maskclip.patch_stride = options.patch_stride;
  dense.maskclip_gate = options.gate.value_or(0);
  dense.pacl = {options.patch_stride, options.gate};
  dense.segclip = {.likely_classes = options.likely_classes, .background = options.background};
  segmenter.model = systems::load_dense_model(device, options.model.checkpoint, dense);
  const int64_t usual_window = segmenter.model->usual_window();
  if (segmenter.predictor.window == 0 && usual_window > 0) {
    segmenter.predictor.window = int(usual_window);
    segmenter.predictor.window_stride = int(usual_window);
  }

  auto& list = segmenter.list;
  int background = -1;
  tessera::require(options.background == 0 || options.background_entropy == 0,
                   "--background and --background-entropy are two rules for the same pixels; give one of them");
  tessera::require(options.background_entropy == 0 || segmenter.model->groups() == 0,
                   "--background-entropy is a rule for scores of patches; the checkpoint ", options.model.checkpoint,
                   " is a ", segmenter.model->system());
  if (options.background > 0 || options.background_entropy > 0) {
    background = list.background;
    for (size_t c = 0; background < 0 && c < list.classes.size(); ++c)
      if (list.classes[c].name == "background") background = int(c);
    if (background < 0) {
      segmentation::ClassEntry entry;
      entry.name = "background";
      list.classes.insert(list.classes.begin(), entry);
      background = 0;
    }
    list.background = background;
  }
  segmenter.embeddings = options.model.embed(ctx, *segmenter.model, list, background, segmenter.prompts);
  for (const int32_t asked : segmenter.embeddings.class_of_row)
    segmenter.rule.label_of_row.push_back(uint16_t(asked + (background >= 0 && asked >= background ? 1 : 0)));
  segmenter.rule.background_label = uint16_t(std::max(background, 0));
  if (segmenter.model->scores_background())  // by itself, in the row behind the classes
    segmenter.rule.label_of_row.push_back(segmenter.rule.background_label);
  else
    segmenter.rule.background_threshold = options.background;
  segmenter.rule.background_entropy = options.background_entropy;
  segmenter.rule.entropy_scale = options.entropy_scale;
  segmenter.rule.scale = segmenter.model->scale();
  return segmenter;
}

}  // namespace examples
