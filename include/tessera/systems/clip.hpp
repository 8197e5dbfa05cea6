// CLIP (Radford et al., "Learning transferable visual models from natural language supervision", 2021): an image tower
// and a text tower whose embeddings of a picture and its caption are pulled together by a symmetric contrastive loss.
// Parameter names are those of OpenAI's checkpoints.
#pragma once
#include <tessera/autograd/contrastive.hpp>
#include <tessera/autograd/similarity.hpp>
#include <tessera/nn/text_transformer.hpp>
#include <tessera/nn/vision_transformer.hpp>
#include <tessera/ops/softmax.hpp>

namespace tessera::systems {

/// The sizes of both towers; their embed_dim must agree.
struct ClipConfig {
  nn::VisionConfig vision;
  nn::TextConfig text;
  double initial_logit_scale = 2.6592600369327779;  ///< ln(1 / 0.07)
};

/// Both towers and the learned scale.
template <class T, class Device = Cpu>
struct Clip {
  nn::VisionTransformer<T, Device> visual;
  nn::TextTransformer<T, Device> text;
  Parameter<accumulate_t<T>, 0, Device> logit_scale;  ///< the logarithm of the factor on cosines

  void members(auto&& visit) {
    text.members(visit);  // at the top level of the checkpoint
    visit("visual", visual);
    visit("logit_scale", logit_scale);
  }

  /// The sizes of both towers.
  ClipConfig config() const { return {visual.config, text.config}; }

  /// [B, E], not normalised, from normalised images [B, 3, H, W].
  Variable<T, 2, Device> encode_image(Tape<Device>& tape, const Variable<T, 4, Device>& images) const {
    return visual(tape, images);
  }
  /// [N, E], not normalised, from token ids [N, L].
  Variable<T, 2, Device> encode_text(Tape<Device>& tape, const Tensor<int32_t, 2, Device>& ids) const {
    return text(tape, ids);
  }
  /// The same where the texts' ends are known: the host waits for nothing.
  Variable<T, 2, Device> encode_text(Tape<Device>& tape, const nn::TextInput<Device>& texts) const {
    return text(tape, texts);
  }
  /// The contrastive loss of a batch: image i belongs to text i. `texts` are token ids [B, L], or an nn::TextInput, by
  /// which the whole step is work of the device.
  template <class Texts>
  Variable<accumulate_t<T>, 0, Device> loss(Tape<Device>& tape, const Variable<T, 4, Device>& images,
                                            const Texts& texts, const ContrastiveOptions& options = {}) const {
    const auto image_features = l2_normalise(tape, encode_image(tape, images));
    const auto text_features = l2_normalise(tape, encode_text(tape, texts));
    return contrastive(tape, image_features, text_features, logit_scale, options);
  }
};

/// A model with random weights.
template <class T, class Device>
Clip<T, Device> make_clip(Context<Device>& ctx, const ClipConfig& config,
                          nn::Initialisation initialisation = nn::Initialisation::clip) {
  require(config.vision.embed_dim == config.text.embed_dim, "clip: the image tower's embeddings have ",
          config.vision.embed_dim, " channels, the text tower's ", config.text.embed_dim);
  Clip<T, Device> clip;
  clip.text = nn::make_text_transformer<T>(ctx, config.text, initialisation);
  clip.visual = nn::make_vision_transformer<T>(ctx, config.vision, initialisation);
  clip.visual.conv1.bias = {};  // CLIP has none; its files have no place for one
  clip.logit_scale = nn::constant<accumulate_t<T>, 0>(ctx, {}, config.initial_logit_scale);
  return clip;
}

/// Zero-shot classification: softmax over classes of logit_factor(logit_scale) times the cosines. image_embeddings [B,
/// E] and class_embeddings [N, E], both L2-normalised; the result is [B, N].
template <class T, class Device>
Tensor<T, 2, Device> class_probabilities(Context<Device>& ctx, const TensorView<T, 2, Device>& image_embeddings,
                                         In<T, 2, Device> class_embeddings, double logit_scale) {
  const auto cosines = matmul(ctx, image_embeddings, class_embeddings, {}, {.transpose_b = true});
  return softmax(ctx, view(scale(ctx, view(cosines), logit_factor(logit_scale))));
}

}  // namespace tessera::systems
