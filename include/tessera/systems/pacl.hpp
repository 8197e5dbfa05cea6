// PACL's objective (Mukhoti et al., "Open vocabulary semantic segmentation with patch aligned contrastive learning",
// CVPR 2023), trained end to end from captions: an image is compared with a text through the patches that look like
// the text, so that patches, not pictures, learn the words. Two towers without a class token; the image tower's
// projected patches are the paper's embedder outputs V.
//
// The multi-text form of the loss (several texts an image, texts that another image's caption implies left out) makes
// the objective learn from few pictures: each caption comes with a prompt for every noun in it.
#pragma once
#include <filesystem>

#include <tessera/autograd/contrastive.hpp>
#include <tessera/autograd/pair_compatibility.hpp>
#include <tessera/autograd/similarity.hpp>
#include <tessera/systems/clip_checkpoint.hpp>

namespace tessera::systems {

/// The sizes of both towers; their embed_dim must agree. Set vision.class_token and vision.pre_norm to false.
struct PaclConfig {
  nn::VisionConfig vision;
  nn::TextConfig text;
  double attention_scale = 1;                       ///< on the cosines inside the softmax over patches (the paper: 1)
  double initial_logit_scale = 2.6592600369327779;  ///< ln(1 / 0.07)
};

/// Both towers, the learned scale, and the scale of the paper's softmax over patches.
template <class T, class Device = Cpu>
struct Pacl {
  nn::VisionTransformer<T, Device> visual;
  nn::TextTransformer<T, Device> text;
  Parameter<accumulate_t<T>, 0, Device> logit_scale;
  double attention_scale = 1;

  void members(auto&& visit) {
    text.members(visit);
    visit("visual", visual);
    visit("logit_scale", logit_scale);
  }
  /// For pair_compatibility on this model's patches.
  PairCompatibilityOptions pair_options() const { return {.attention_scale = attention_scale}; }

  /// V [B, P, E], not normalised, from normalised images [B, 3, H, W]; a stride below the patch size gives a denser
  /// grid.
  Variable<T, 3, Device> patch_embeddings(Tape<Device>& tape, const Variable<T, 4, Device>& images,
                                          int64_t stride = 0) const {
    return visual.dense(tape, images, nn::DenseMode::unchanged, stride);
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

/// Saves the model as a folder: config.json (model_type "pacl"), model.safetensors, preprocessor_config.json. `prompts`
/// as for save_clip.
template <class T, class Device>
void save_pacl(Pacl<T, Device>& pacl, const ImageStatistics& statistics, const std::filesystem::path& folder,
               const std::string& prompts = "") {
  io::Json json = detail::own_config_to_json({pacl.visual.config, pacl.text.config}, "pacl");
  json["attention_scale"] = pacl.attention_scale;
  detail::save_folder(pacl, own_names, json, prompts, statistics, folder);
}

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
  const ClipConfig towers = folder.towers(false, false);
  LoadedPacl<T, Device> loaded;
  loaded.model =
      make_pacl<T>(ctx, {towers.vision, towers.text, folder.config().get_or<double>("attention_scale", 1.0)});
  load_module(loaded.model, folder.weights, own_names);
  loaded.statistics = folder.statistics;
  return loaded;
}

}  // namespace tessera::systems
