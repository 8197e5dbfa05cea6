// PACL (Mukhoti et al., "Open vocabulary semantic segmentation with patch aligned contrastive learning", CVPR 2023): an
// image is compared with a text through the patches that look like the text, so that patches, not pictures, learn the
// words. In two forms:
//   the paper's: a small vision embedder on the patch tokens of a trained image tower, towards the texts of a trained
//   text tower; both towers frozen (make_pacl_on);
//   end to end: both towers from random weights, without a class token; the image tower's projected patches take the
//   place of the embedder's output (make_pacl).
//
// The multi-text form of the loss (several texts an image, texts that another image's caption implies left out) makes
// the objective learn from few pictures: each caption comes with a prompt for every noun in it.
#pragma once
#include <filesystem>

#include <tessera/autograd/contrastive.hpp>
#include <tessera/autograd/elementwise.hpp>
#include <tessera/autograd/pair_compatibility.hpp>
#include <tessera/autograd/similarity.hpp>
#include <tessera/systems/image_encoder.hpp>

namespace tessera::systems {

/// The sizes of both towers; their embed_dim must agree. Set vision.class_token and vision.pre_norm to false.
struct PaclConfig {
  nn::VisionConfig vision;
  nn::TextConfig text;
  double attention_scale = 1;                       ///< on the cosines inside the softmax over patches (the paper: 1)
  double initial_logit_scale = 2.6592600369327779;  ///< ln(1 / 0.07)
};

/// The vision embedder e_v: h -> (W2 relu(W1 h + b1) + b2) + (W3 h + b3), tokens [B, P, C] to [B, P, E].
template <class T, class Device = Cpu>
struct VisionEmbedder {
  nn::Linear<T, Device> linear1, linear2, skip;  // W1 [E, C], W2 [E, E], W3 [E, C]

  void members(auto&& visit) {
    visit("linear1", linear1);
    visit("linear2", linear2);
    visit("skip", skip);
  }
  explicit operator bool() const { return bool(linear1.weight); }

  Variable<T, 3, Device> operator()(Tape<Device>& tape, const Variable<T, 3, Device>& tokens) const {
    const auto hidden = linear1(tape, tokens, Activation::relu);
    return add(tape, linear2(tape, hidden), skip(tape, tokens));
  }
};

/// With random weights and biases, uniform up to 1 / sqrt(inputs): PyTorch's rule for its Linear.
template <class T, class Device>
VisionEmbedder<T, Device> make_vision_embedder(Context<Device>& ctx, int64_t width, int64_t embed_dim) {
  const auto linear = [&](int64_t inputs) {
    const double bound = std::pow(double(inputs), -0.5);
    nn::Linear<T, Device> layer;
    layer.weight = nn::uniform<T, 2>(ctx, {embed_dim, inputs}, bound);
    layer.bias = nn::uniform<accumulate_t<T>, 1>(ctx, {embed_dim}, bound);
    return layer;
  };
  VisionEmbedder<T, Device> embedder;
  embedder.linear1 = linear(width);
  embedder.linear2 = linear(embed_dim);
  embedder.skip = linear(width);
  return embedder;
}

/// Both towers, the embedder where there is one, the learned scale, and the scale of the paper's softmax over patches.
template <class T, class Device = Cpu>
struct Pacl {
  nn::VisionTransformer<T, Device> visual;
  nn::TextTransformer<T, Device> text;
  Parameter<accumulate_t<T>, 0, Device> logit_scale;
  double attention_scale = 1;
  VisionEmbedder<T, Device> embedder = {};            // absent end to end
  PatchTokens embedder_input = PatchTokens::ln_post;  ///< what the embedder is given: the paper's H
  std::string encoder = {};                           ///< where the image tower came from: "clip" or "vit"

  void members(auto&& visit) {
    text.members(visit);
    visit("visual", visual);
    visit("logit_scale", logit_scale);
    visit("embedder", embedder);
  }
  /// For pair_compatibility on this model's patches.
  PairCompatibilityOptions pair_options() const { return {.attention_scale = attention_scale}; }

  /// V [B, P, E], not normalised, from normalised images [B, 3, H, W]; a stride below the patch size gives a denser
  /// grid.
  Variable<T, 3, Device> patch_embeddings(Tape<Device>& tape, const Variable<T, 4, Device>& images,
                                          int64_t stride = 0) const {
    if (!embedder) return visual.dense(tape, images, nn::DenseMode::unchanged, stride);
    return embedder(tape, patch_tokens(tape, visual, images, embedder_input, stride));
  }
  /// [N, E], L2-normalised, from token ids [N, L], or from an nn::TextInput, for which the host waits for nothing.
  template <class Texts>
  Variable<T, 2, Device> text_embeddings(Tape<Device>& tape, const Texts& texts) const {
    return l2_normalise(tape, text(tape, texts));
  }
  /// The compatibility phi [B, K] of all images with all texts (paper, equations 2 and 3).
  auto compatibility(Tape<Device>& tape, const Variable<T, 3, Device>& patches,
                     const Variable<T, 2, Device>& texts) const {
    return pair_compatibility(tape, patches, texts, pair_options());
  }
};

/// A model with random weights.
template <class T, class Device>
Pacl<T, Device> make_pacl(Context<Device>& ctx, const PaclConfig& config,
                          nn::Initialisation initialisation = nn::Initialisation::xavier) {
  require(config.vision.embed_dim == config.text.embed_dim, "pacl: the image tower's embeddings have ",
          config.vision.embed_dim, " channels, the text tower's ", config.text.embed_dim);
  Pacl<T, Device> pacl;
  pacl.text = nn::make_text_transformer<T>(ctx, config.text, initialisation);
  pacl.visual = nn::make_vision_transformer<T>(ctx, config.vision, initialisation);
  // The image tower begins without attention: patches that know only themselves learn words where the words are. From
  // random attention some runs learn to spread an object's word over all patches, which names pictures as well and
  // segments nothing.
  for (auto& block : pacl.visual.transformer.resblocks) block.attn.out_proj.weight.state().value.set_zero();
  pacl.logit_scale = nn::constant<accumulate_t<T>, 0>(ctx, {}, config.initial_logit_scale);
  pacl.attention_scale = config.attention_scale;
  return pacl;
}

/// What an embedder on trained towers begins with.
struct EmbedderOptions {
  PatchTokens input = PatchTokens::ln_post;  ///< last_block, ln_post or (of a CLIP) projected
  double attention_scale = 1;
  double initial_logit_scale = 2.6592600369327779;  ///< ln(1 / 0.07)
  bool fixed_logit_scale = false;                   ///< not learned
};

/// The paper's model: a new embedder on the patches of a trained image tower, towards the texts of a trained text
/// tower. Both towers are frozen.
template <class T, class Device>
Pacl<T, Device> make_pacl_on(Context<Device>& ctx, LoadedTower<T, Device> encoder, nn::TextTransformer<T, Device> text,
                             const EmbedderOptions& options = {}) {
  require(options.input != PatchTokens::projected || encoder.visual.proj,
          "pacl: the encoder is a ViT without a projection to a space of texts; embed ln_post or last_block tokens");
  require(options.input != PatchTokens::aligned, "pacl: the embedder makes aligned patches; it cannot be given them");
  Pacl<T, Device> pacl;
  pacl.visual = std::move(encoder.visual);
  pacl.text = std::move(text);
  nn::set_requires_grad(pacl.visual, false);
  nn::set_requires_grad(pacl.text, false);
  pacl.embedder = make_vision_embedder<T>(ctx, width_of(pacl.visual.config, options.input), pacl.text.config.embed_dim);
  pacl.embedder_input = options.input;
  pacl.encoder = encoder.model_type;
  pacl.logit_scale = nn::constant<accumulate_t<T>, 0>(ctx, {}, options.initial_logit_scale);
  pacl.logit_scale.state().requires_grad = !options.fixed_logit_scale;
  pacl.attention_scale = options.attention_scale;
  return pacl;
}

/// Saves the model as a folder: config.json (model_type "pacl"), model.safetensors, preprocessor_config.json. An
/// embedder's folder holds both towers too: it is read without the checkpoints that they came from. `prompts` as for
/// save_clip.
template <class T, class Device>
void save_pacl(Pacl<T, Device>& pacl, const ImageStatistics& statistics, const std::filesystem::path& folder,
               const std::string& prompts = "") {
  const ClipConfig towers{.vision = pacl.visual.config, .text = pacl.text.config};  // named: nvcc loses a braced list
  io::Json json = detail::own_config_to_json(towers, "pacl");
  json["attention_scale"] = pacl.attention_scale;
  if (pacl.embedder) {
    json["projection_dim"] = pacl.text.config.embed_dim;
    json["embedder"] = {{"encoder", pacl.encoder}, {"input", patch_tokens_name(pacl.embedder_input)}};
  }
  detail::save_folder(pacl, own_names, json, prompts, statistics, folder);
}

namespace detail {

/// The tokens that a folder's embedder is given. `projection`: channels of the image tower's projection, 0 without.
inline PatchTokens embedder_input(const io::JsonView& json, int64_t projection) {
  const std::string name = json["embedder"].get_or<std::string>("input", "ln_post");
  const bool known = name == "last_block" || name == "ln_post" || (name == "projected" && projection > 0);
  require<IoError>(
      known, json.name(), ": embedder.input is \"", name, "\"; ",
      name == "projected" ? "this image tower has no projection" : "it may be last_block, ln_post or projected");
  return patch_tokens_from_name(name);
}

}  // namespace detail

/// A model, and how its pictures are normalised.
template <class T, class Device = Cpu>
struct LoadedPacl {
  Pacl<T, Device> model;
  ImageStatistics statistics;
};

/// Loads what save_pacl wrote: the folder, or a .safetensors file with config.json beside it. Throws IoError with a
/// sentence.
template <class T, class Device>
LoadedPacl<T, Device> load_pacl(Context<Device>& ctx, const std::filesystem::path& path) {
  const ModelFolder folder = open_model_folder(path, "pacl");
  const io::JsonView json = folder.config();
  ClipConfig towers = folder.towers(false, false);
  const double attention_scale = json.get_or<double>("attention_scale", 1.0);
  LoadedPacl<T, Device> loaded{{}, folder.statistics};
  if (json.has("embedder")) {
    // A ViT has no projection, and a CLIP's need not be as wide as the texts of another.
    towers.vision.embed_dim = json["vision_config"].get<int64_t>("projection_dim", 0, detail::largest_extent);
    const auto input = detail::embedder_input(json, towers.vision.embed_dim);
    const int64_t inputs = width_of(towers.vision, input), embed_dim = towers.text.embed_dim;
    detail::check_parameter_count(
        towers.vision.parameter_count() + towers.text.parameter_count() + (2 * inputs + embed_dim + 3) * embed_dim,
        json.name(), folder.weights);
    LoadedTower<T, Device> encoder{nn::make_vision_transformer<T>(ctx, towers.vision, nn::Initialisation::none),
                                   folder.statistics, json["embedder"].get_or<std::string>("encoder", "clip")};
    encoder.visual.conv1.bias = {};
    if (folder.weights.contains("visual.conv1.bias"))  // a ViT's
      encoder.visual.conv1.bias = nn::unset<accumulate_t<T>, 1>(ctx, {towers.vision.transformer.width});
    loaded.model = make_pacl_on<T>(ctx, std::move(encoder),
                                   nn::make_text_transformer<T>(ctx, towers.text, nn::Initialisation::none),
                                   {.input = input, .attention_scale = attention_scale});
  } else {
    loaded.model = make_pacl<T>(ctx, {towers.vision, towers.text, attention_scale});
  }
  load_module(loaded.model, folder.weights, own_names);
  return loaded;
}

}  // namespace tessera::systems
