// MaskCLIP (Zhou, Loy & Dai, "Extract free dense labels from CLIP", 2022): dense features from CLIP without training.
// The last block's attention is replaced by the identity, so that every patch keeps its own value embedding, which is
// compared with the classes' text embeddings. Later papers use the name for two forms of the last block (MaskclipForm);
// the official code's numerics differ from CLIP's (MaskclipNumerics).
#pragma once
#include <tessera/systems/clip_checkpoint.hpp>

namespace tessera::systems {

/// What is left of the last block.
enum class MaskclipForm : uint8_t {
  residual,  ///< residual and MLP kept, as the official code does ("maskclip")
  value,     ///< normalise(proj(ln_post(out_proj(v_proj(ln_1 x))))) ("maskclip-value")
};

/// Whose activation, epsilon and image statistics.
enum class MaskclipNumerics : uint8_t {
  clip,      ///< the checkpoint's activation, epsilon and image statistics
  official,  ///< the official code's: GELU by erf, epsilon 1e-6, ImageNet's statistics
};

/// The form, and the paper's two refinements.
struct MaskclipOptions {
  MaskclipForm form = MaskclipForm::residual;
  /// Classes whose largest probability over all patches is below this get score -1 everywhere; 0: off (paper: 0.5).
  double prompt_denoising = 0;
  /// Patches whose largest probability is below this take a mean over similar patches; 0: off (official: 1.0).
  double key_smoothing = 0;
  /// The factor on cosines before both refinements' softmax.
  double refinement_scale = 100;
  /// Pixels from patch to patch; 0: the patch size. Smaller gives overlapping patches and a denser grid.
  int64_t patch_stride = 0;
};

/// The same weights under the official code's numerics. Image statistics: data::imagenet_statistics.
template <class T, class Device>
Clip<T, Device> with_official_numerics(Clip<T, Device> clip) {
  auto& vision = clip.visual;
  vision.config.transformer.activation = Activation::gelu;
  vision.config.transformer.epsilon = vision.ln_pre.epsilon = vision.ln_post.epsilon = 1e-6;
  for (auto& block : vision.transformer.resblocks) {
    block.mlp.activation = Activation::gelu;
    block.ln_1.epsilon = block.ln_2.epsilon = 1e-6;
  }
  return clip;
}

/// Per-patch embeddings [B, P, E], L2-normalised, of normalised images [B, 3, H, W]; differentiable.
template <class T, class Device>
Variable<T, 3, Device> maskclip_patch_embeddings(Tape<Device>& tape, const Clip<T, Device>& clip,
                                                 const Variable<T, 4, Device>& images, MaskclipForm form) {
  const auto mode = form == MaskclipForm::value ? nn::DenseMode::value_path : nn::DenseMode::identity_attention;
  return l2_normalise(tape, clip.visual.dense(tape, images, mode));
}

/// What MaskCLIP makes of one image.
struct MaskclipScores {
  Tensor<float, 2> patch_embeddings;  ///< [P, E], L2-normalised
  Tensor<float, 2> scores;            ///< [P, N]: cosines; after key smoothing, probabilities
  PatchGrid grid;
};

namespace detail {

/// softmax over classes of factor * scores, rows [P, N].
inline Tensor<float, 2> patch_probabilities(Context<Cpu>& ctx, const Tensor<float, 2>& scores, double factor) {
  return softmax(ctx, view(scale(ctx, view(scores), factor)));
}

/// Largest entry of row r.
inline float row_maximum(const Tensor<float, 2>& matrix, int64_t r) {
  const float* row = matrix.data + r * matrix.shape[1];
  return *std::max_element(row, row + matrix.shape[1]);
}

/// Prompt denoising: a class that no patch takes for likely is taken out.
inline void denoise_prompts(Context<Cpu>& ctx, Tensor<float, 2>& scores, const MaskclipOptions& options) {
  const auto probabilities = patch_probabilities(ctx, scores, options.refinement_scale);
  for (int64_t n = 0; n < scores.shape[1]; ++n) {
    float largest = 0;
    for (int64_t p = 0; p < scores.shape[0]; ++p) largest = std::max(largest, probabilities(p, n));
    if (largest < float(options.prompt_denoising))
      for (int64_t p = 0; p < scores.shape[0]; ++p) scores(p, n) = -1.0f;
  }
}

/// Key smoothing: uncertain patches become sums over all patches, weighted by the similarity of keys [P, C]. As in the
/// official code the keys are normalised along the patches, one channel at a time, and the weights' rows are not.
inline void smooth_by_keys(Context<Cpu>& ctx, Tensor<float, 2>& scores, Tensor<float, 2> keys,
                           const MaskclipOptions& options) {
  const auto probabilities = patch_probabilities(ctx, scores, options.refinement_scale);
  for (int64_t c = 0; c < keys.shape[1]; ++c) {
    double squares = 0;
    for (int64_t p = 0; p < keys.shape[0]; ++p) squares += double(keys(p, c)) * double(keys(p, c));
    const float factor = float(1 / std::max(std::sqrt(squares), 1e-12));
    for (int64_t p = 0; p < keys.shape[0]; ++p) keys(p, c) *= factor;
  }
  // (K Kt) probabilities = K (Kt probabilities): no P x P matrix
  const auto gathered = matmul(ctx, keys, probabilities, {}, {.transpose_a = true});
  const auto smoothed = matmul(ctx, keys, gathered);
  for (int64_t p = 0; p < scores.shape[0]; ++p) {
    const auto& from = row_maximum(probabilities, p) < float(options.key_smoothing) ? smoothed : probabilities;
    std::copy_n(from.data + p * scores.shape[1], scores.shape[1], scores.data + p * scores.shape[1]);
  }
}

}  // namespace detail

/// Scores of the classes at every patch of one normalised image [1, 3, H, W], H and W multiples of the patch size.
/// class_embeddings [N, E], L2-normalised, are in host memory, as the result is: the towers run on the model's device,
/// and what is compared with the classes is small.
template <class T, class Device>
MaskclipScores maskclip(Context<Device>& ctx, const Clip<T, Device>& clip, const Tensor<T, 4, Device>& image,
                        const TensorView<const float, 2>& class_embeddings, const MaskclipOptions& options = {}) {
  require<ShapeError>(image.shape[0] == 1, "maskclip: one image at a time, not ", image.shape[0]);
  Tape<Device> tape(ctx, false);
  const Variable<T, 4, Device> input(image);
  MaskclipScores result;
  result.grid = clip.visual.grid(image.shape[2], image.shape[3], options.patch_stride);
  const auto before = clip.visual.before_last_block(tape, input, options.patch_stride);
  const auto mode = options.form == MaskclipForm::value ? nn::DenseMode::value_path : nn::DenseMode::identity_attention;
  const auto embeddings =
      l2_normalise(tape, clip.visual.project_patches(tape, clip.visual.last_block(tape, before, mode))).value();
  Context<Cpu> host;
  const auto as_float = [&](const auto& from, int64_t first_row) {  // rows from first_row on, as float, in host memory
    const auto values = to_host(view(from));
    const int64_t columns = from.shape[2], rows = from.shape[1];
    Tensor<float, 2> to(host, {rows - first_row, columns});
    for (int64_t i = 0; i < to.size(); ++i) to.data[i] = float(widen(values[size_t(first_row * columns + i)]));
    return to;
  };
  result.patch_embeddings = as_float(embeddings, 0);
  result.scores = matmul(host, result.patch_embeddings, class_embeddings, {}, {.transpose_b = true});
  if (options.prompt_denoising > 0) detail::denoise_prompts(host, result.scores, options);
  if (options.key_smoothing > 0) {
    const auto& block = clip.visual.transformer.resblocks.back();
    const auto keys = block.attn.key_path(tape, block.ln_1(tape, before)).value();
    detail::smooth_by_keys(host, result.scores, as_float(keys, clip.visual.config.class_token ? 1 : 0), options);
  }
  return result;
}

}  // namespace tessera::systems
