// SegCLIP (Luo et al., "SegCLIP: patch aggregation with learnable centers for open-vocabulary semantic segmentation",
// ICML 2023): CLIP whose image tower gathers patches into a few groups on the way, so that a picture falls into regions
// that carry words. Trained from captions by three losses: contrastive on the largest group values, reconstruction of
// masked patches from the groups, and agreement of the assignment within superpixels.
//
//   images -> conv1, positions, ln_pre -> blocks [0, group_layer) on patches -> semantic groups -> the other blocks on
//   groups -> largest value of each channel, and the groups -> ln_post, proj -> image embedding, region embeddings
//
// The official code's behaviour is the default, the paper's an option (SegclipConfig, nn::SemanticGroupConfig).
// Parameter names are the official checkpoints'.
#pragma once
#include <memory>
#include <span>

#include <tessera/nn/gathered_contrastive.hpp>
#include <tessera/autograd/reduce.hpp>
#include <tessera/autograd/segment_reduce.hpp>
#include <tessera/autograd/softmax.hpp>
#include <tessera/autograd/symmetric_kl.hpp>
#include <tessera/nn/masked_decoder.hpp>
#include <tessera/systems/clip.hpp>

namespace tessera::systems {

/// Sizes and choices.
struct SegclipConfig {
  nn::VisionConfig vision;
  nn::TextConfig text = {.context_length = 77};
  double initial_logit_scale = 4.605170185988092;  ///< ln 100, where CLIP's training ended
  int64_t group_layer = 10;       ///< blocks of the image tower that see patches; the others see groups
  nn::SemanticGroupConfig group;  ///< width, heads and epsilon follow from `vision`
  double mask_ratio = 0.75;
  int64_t reconstruction_layers = 2;  ///< blocks between the groups and the decoder
  int64_t decoder_width = 384, decoder_layers = 3, decoder_heads = 8;
  bool reconstruction = true;         ///< false: no decoder, and no parameters for one
  bool paper_reconstruction = false;  ///< equation 4: GELU; code: QuickGELU
  bool paper_superpixels = false;     ///< equations 5, 6: means of probabilities, summed over patches; code: see there
};

/// What one pass of the image tower gives.
template <class T, class Device = Cpu>
struct SegclipFeatures {
  Variable<T, 2, Device> image;       ///< [B, E], not normalised
  Variable<T, 3, Device> regions;     ///< [B, G, E], not normalised
  Variable<T, 3, Device> assignment;  ///< [B, N, G]
  Variable<T, 3, Device> logits;      ///< [B, N, G]
};

/// The image tower: CLIP's, whose first group_layer blocks see patches and whose others see groups.
template <class T, class Device = Cpu>
struct SegclipVision : nn::VisionTransformer<T, Device> {
  struct ReconstructLayer {
    nn::Linear<T, Device> a_fc;  // [G, G]

    void members(auto&& visit) {
      Inner inner{a_fc};
      visit("rec_proj_a", inner);
    }

   private:
    struct Inner {
      nn::Linear<T, Device>& a_fc;
      void members(auto&& visit) { visit("a_fc", a_fc); }
    };
  };
  int64_t group_layer = 10;
  nn::SemanticGroup<T, Device> semantic_layer2;
  nn::Transformer<T, Device> layers_mae2;  // with the next, absent without reconstruction
  ReconstructLayer reconstruct_layer2;
  Activation reconstruction_activation = Activation::quick_gelu;

  void members(auto&& visit) {
    visit("class_embedding", this->class_embedding);
    visit("positional_embedding", this->positional_embedding);
    visit("proj", this->proj);
    visit("conv1", this->conv1);
    visit("ln_pre", this->ln_pre);
    Stages stages{*this};
    visit("transformer", stages);
    visit("ln_post", this->ln_post);
  }

  /// Patch tokens [B, N, C] before the first block. The class token is dropped: patches never see it.
  Variable<T, 3, Device> embed_patches(Tape<Device>& tape, const Variable<T, 4, Device>& images) const {
    const auto tokens = this->embed(tape, images);
    return this->config.class_token ? slice(tape, tokens, 1, 1, tokens.shape()[1]) : tokens;
  }
  /// The blocks that see patches, and the grouping.
  nn::SemanticGroups<T, Device> group(Tape<Device>& tape, const Variable<T, 3, Device>& tokens,
                                      const nn::AssignmentNoise<T, Device>& noise) const {
    return semantic_layer2(tape, this->transformer(tape, tokens, false, group_layer), noise);
  }
  /// Embeddings of patch tokens (from embed_patches). Without noise: evaluation.
  SegclipFeatures<T, Device> features(Tape<Device>& tape, const Variable<T, 3, Device>& tokens,
                                      const nn::AssignmentNoise<T, Device>& noise = {}) const {
    const auto grouped = group(tape, tokens, noise);
    auto x = grouped.groups;
    const auto& blocks = this->transformer.resblocks;
    for (size_t i = size_t(group_layer); i < blocks.size(); ++i) x = blocks[i](tape, x);
    const auto [batch, groups, channels] = x.shape();
    const auto pooled = reshape(tape, max(tape, x, 1), Shape<3>{batch, 1, channels});  // before ln_post
    const auto hidden = matmul(tape, this->ln_post(tape, concatenate(tape, 1, pooled, x)), this->proj);
    const int64_t embed_dim = hidden.shape()[2];
    return {reshape(tape, slice(tape, hidden, 1, 0, 1), Shape<2>{batch, embed_dim}),
            slice(tape, hidden, 1, 1, 1 + groups), grouped.assignment, grouped.logits};
  }
  /// Tokens of the visible patches [B, K, C], made from their groups alone: what the decoder is given.
  Variable<T, 3, Device> reconstruct(Tape<Device>& tape, const Variable<T, 3, Device>& tokens,
                                     const nn::PatchMasking<Device>& masking,
                                     const nn::AssignmentNoise<T, Device>& noise) const {
    const auto grouped = group(tape, nn::visible_tokens(tape, tokens, masking), noise);
    return layers_mae2(tape, spread(tape, grouped.assignment, grouped.groups));
  }
  /// Each patch from its groups (equation 4): activation(linear(assignment) groups), [B, N, C].
  Variable<T, 3, Device> spread(Tape<Device>& tape, const Variable<T, 3, Device>& assignment,
                                const Variable<T, 3, Device>& groups) const {
    const auto shares = reconstruct_layer2.a_fc(tape, assignment);
    return activation(tape, matmul(tape, shares, groups), reconstruction_activation);
  }

 private:
  // The tower's parts under the official names.
  struct Stages {
    SegclipVision& tower;
    void members(auto&& visit) {
      const std::span blocks(tower.transformer.resblocks);
      std::span first = blocks.first(size_t(tower.group_layer)), last = blocks.subspan(size_t(tower.group_layer));
      visit("layers0", first);
      visit("semantic_layer2", tower.semantic_layer2);
      visit("layers2", last);
      if (!tower.reconstruct_layer2.a_fc.weight) return;
      visit("layers_mae2", tower.layers_mae2.resblocks);
      visit("reconstruct_layer2", tower.reconstruct_layer2);
    }
  };
};

/// The model.
template <class T, class Device = Cpu>
struct Segclip {
  SegclipConfig config;
  SegclipVision<T, Device> visual;
  nn::TextTransformer<T, Device> text;
  Parameter<accumulate_t<T>, 0, Device> logit_scale;
  nn::MaskedDecoder<T, Device> vis_mae_decoder;

  void members(auto&& visit) {
    ClipNames names{*this};
    visit("clip", names);
    if (config.reconstruction) visit("vis_mae_decoder", vis_mae_decoder);
  }

  /// Embeddings of normalised images [B, 3, H, W], in evaluation.
  SegclipFeatures<T, Device> encode_image(Tape<Device>& tape, const Variable<T, 4, Device>& images) const {
    return visual.features(tape, visual.embed_patches(tape, images));
  }
  /// [N, E], not normalised, from token ids [N, L], or from an nn::TextInput.
  template <class Texts>
  Variable<T, 2, Device> encode_text(Tape<Device>& tape, const Texts& texts) const {
    return text(tape, texts);
  }

  /// Reconstruction of the masked patches of normalised images [B, 3, H, W] whose patch tokens are `tokens`.
  Variable<accumulate_t<T>, 0, Device> reconstruction_loss(Tape<Device>& tape, const Variable<T, 3, Device>& tokens,
                                                           const Variable<T, 4, Device>& images,
                                                           const nn::PatchMasking<Device>& masking,
                                                           const nn::AssignmentNoise<T, Device>& noise) const {
    require(config.reconstruction, "segclip: this model has no decoder (SegclipConfig::reconstruction is false)");
    return vis_mae_decoder.loss(tape, visual.reconstruct(tape, tokens, masking, noise), images, masking);
  }
  /// How far the assignment [B, N, G] varies within superpixels [B, N] (numbers below N): the symmetric divergence of
  /// each patch's assignment and its superpixel's mean. Official: softmax of the one-hot rows and of their means,
  /// averaged over patches and groups; the paper: softmax of the rows, then the mean, summed over patches.
  Variable<accumulate_t<T>, 0, Device> superpixel_loss(Tape<Device>& tape, const Variable<T, 3, Device>& assignment,
                                                       const Tensor<int32_t, 2, Device>& superpixels) const {
    const int64_t patches = assignment.shape()[1], groups = assignment.shape()[2];
    const auto mean_of_superpixel = [&](const Variable<T, 3, Device>& x) {
      return segment_gather(tape, segment_reduce(tape, x, superpixels, patches, SegmentReduction::mean), superpixels);
    };
    if (!config.paper_superpixels) return symmetric_kl(tape, assignment, mean_of_superpixel(assignment));
    // The logarithm of a mean of probabilities is a vector of logits for exactly that mean.
    const auto mean_probability = log(tape, mean_of_superpixel(softmax(tape, assignment)));
    return scale(tape, symmetric_kl(tape, assignment, mean_probability), double(2 * patches * groups));
  }

 private:
  struct ClipNames {
    Segclip& model;
    void members(auto&& visit) {
      model.text.members(visit);
      visit("visual", model.visual);
      visit("logit_scale", model.logit_scale);
    }
  };
};

/// The groups' own sizes, which follow from the image tower's.
inline nn::SemanticGroupConfig group_config(const SegclipConfig& config) {
  nn::SemanticGroupConfig group = config.group;
  group.width = config.vision.transformer.width;
  group.heads = config.vision.transformer.heads;
  group.epsilon = config.vision.transformer.epsilon;
  return group;
}

/// SegCLIP around a CLIP that is already there (trained, or random): its towers and scale are used as they are, the new
/// parts get the official initial values. `config`'s vision, text and scale are the CLIP's.
template <class T, class Device>
Segclip<T, Device> make_segclip(Context<Device>& ctx, SegclipConfig config, nn::VisionTransformer<T, Device> vision,
                                nn::TextTransformer<T, Device> text,
                                Parameter<accumulate_t<T>, 0, Device> logit_scale) {
  config.vision = vision.config;
  config.text = text.config;
  const auto& blocks = config.vision.transformer;
  require(config.group_layer >= 0 && config.group_layer <= blocks.layers, "segclip: the groups are formed after block ",
          config.group_layer, " of ", blocks.layers);
  require(config.vision.embed_dim == config.text.embed_dim, "segclip: the image tower's embeddings have ",
          config.vision.embed_dim, " channels, the text tower's ", config.text.embed_dim);
  Segclip<T, Device> model;
  config.group = group_config(config);
  model.config = config;
  static_cast<nn::VisionTransformer<T, Device>&>(model.visual) = std::move(vision);
  model.visual.group_layer = config.group_layer;
  model.visual.semantic_layer2 = nn::make_semantic_group<T>(ctx, config.group);
  model.text = std::move(text);
  model.logit_scale = std::move(logit_scale);
  if (!config.reconstruction) return model;
  nn::TransformerConfig reconstruction = blocks;
  reconstruction.layers = config.reconstruction_layers;
  const int64_t centres = config.group.centres;
  model.visual.layers_mae2 = nn::make_transformer<T>(ctx, reconstruction, nn::Initialisation::normal);
  model.visual.reconstruct_layer2.a_fc = {nn::normal<T, 2>(ctx, {centres, centres}, 0.02),
                                          nn::constant<accumulate_t<T>, 1>(ctx, {centres}, 0)};
  if (config.paper_reconstruction) model.visual.reconstruction_activation = Activation::gelu;
  model.vis_mae_decoder = nn::make_masked_decoder<T>(ctx, {.grid = config.vision.grid(),
                                                           .patch_size = config.vision.patch_size,
                                                           .channels = config.vision.channels,
                                                           .input_width = blocks.width,
                                                           .width = config.decoder_width,
                                                           .layers = config.decoder_layers,
                                                           .heads = config.decoder_heads});
  return model;
}
/// A model with random weights throughout.
template <class T, class Device>
Segclip<T, Device> make_segclip(Context<Device>& ctx, const SegclipConfig& config,
                                nn::Initialisation initialisation = nn::Initialisation::normal) {
  auto text = nn::make_text_transformer<T>(ctx, config.text, initialisation);
  auto vision = nn::make_vision_transformer<T>(ctx, config.vision, initialisation);
  return make_segclip(ctx, config, std::move(vision), std::move(text),
                      nn::constant<accumulate_t<T>, 0>(ctx, {}, config.initial_logit_scale));
}

/// How the released training treats a parameter that comes from a CLIP: embeddings and the patch convolution are not
/// trained at all; the blocks on patches, the text tower and the scale learn a thousand times slower than what is new,
/// to which the published rule counts the image tower's last blocks, ln_post and proj.
enum class SegclipPace : uint8_t { frozen, slow, fast };
inline SegclipPace segclip_pace(std::string_view name) {
  const auto begins = [&](std::string_view start) { return name.starts_with(start); };
  for (const char* frozen : {"clip.visual.class_embedding", "clip.visual.positional_embedding", "clip.visual.conv1",
                             "clip.visual.ln_pre", "clip.token_embedding", "clip.positional_embedding"})
    if (begins(frozen)) return SegclipPace::frozen;
  for (const char* slow : {"clip.visual.transformer.layers0.", "clip.transformer.resblocks.", "clip.ln_final",
                           "clip.text_projection", "clip.logit_scale"})
    if (begins(slow)) return SegclipPace::slow;
  return SegclipPace::fast;
}

}  // namespace tessera::systems
