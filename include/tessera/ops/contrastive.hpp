// Contrastive losses between images and texts with a learnable, clamped scale.
//
// `contrastive` is CLIP's symmetric InfoNCE (Radford et al., 2021): logits = scale image textᵀ, cross-entropy over rows
// and over columns, label i for row i. The logits [B, B] are never held: tiles of them are made, used and made again.
// `multi_text_contrastive` takes a matrix of scores [B, K] (cosines, or pair_compatibility's phi) where each image owns
// several texts and some pairs are excluded.
//
// In both, scale = min(exp(logit_scale), largest_scale); no gradient reaches logit_scale beyond the clamp.
#pragma once
#include <algorithm>
#include <cmath>

#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct contrastive;
struct multi_text_contrastive;
}  // namespace op

/// Which cross-entropies are taken.
enum class ContrastiveLoss : uint8_t {
  symmetric,  ///< half of each: rows (text given image) and columns (image given text)
  rows,       ///< rows alone: for local rows against the columns gathered from all ranks
};

/// Where CLIP's training stops the factor on cosines from growing.
inline constexpr double largest_logit_factor = 100;

/// The factor on cosines that a learned logit_scale, its logarithm, stands for: exp(logit_scale), at most `largest`.
/// Losses, probabilities and the dense models' scale all take it from here.
inline double logit_factor(double logit_scale, double largest = largest_logit_factor) {
  return std::min(std::exp(logit_scale), largest);
}

/// What a contrastive loss compares.
struct ContrastiveOptions {
  double largest_scale = largest_logit_factor;  ///< of exp(logit_scale)
  ContrastiveLoss loss = ContrastiveLoss::symmetric;
  /// Row i belongs to column first_label + i. 0 for the symmetric loss.
  int64_t first_label = 0;
};

namespace detail {
template <class A, class T, class Device>
void expect_contrastive(std::string_view name, In<A, 1, Device> row_log_sum_exp, In<A, 1, Device> column_log_sum_exp,
                        In<T, 2, Device> image, In<T, 2, Device> text, In<A, 0, Device> logit_scale,
                        const ContrastiveOptions& options) {
  const int64_t rows = image.shape[0], columns = text.shape[0];
  const bool symmetric = options.loss == ContrastiveLoss::symmetric;
  require<ShapeError>(rows > 0 && image.shape[1] > 0, name, ": image ", to_string(image.shape),
                      " must have at least one row and one channel");
  expect_shape(name, "text", text.shape, {symmetric ? rows : columns, image.shape[1]}, "B D", "image");
  require(!symmetric || options.first_label == 0, name, ": first_label is ", options.first_label,
          " but must be 0 for the symmetric loss (take ContrastiveLoss::rows for local rows and gathered columns)");
  require(options.first_label >= 0 && options.first_label + rows <= columns, name, ": rows ", options.first_label,
          " to ", options.first_label + rows - 1, " have no column of their own among ", columns);
  require(options.largest_scale > 0, name, ": largest_scale is ", options.largest_scale, " but must be positive");
  expect_present(name, "logit_scale", logit_scale);
  expect_shape(name, "row_log_sum_exp", row_log_sum_exp.shape, {rows}, "rows", "image");
  if (symmetric) expect_shape(name, "column_log_sum_exp", column_log_sum_exp.shape, {columns}, "columns", "text");
  expect_contiguous(name, "image", image);
  expect_contiguous(name, "text", text);
}
}  // namespace detail

/// loss [] of image [R, D] and text [C, D], both L2-normalised by the caller, and logit_scale [] (a logarithm).
/// row_log_sum_exp [R] and, for the symmetric loss, column_log_sum_exp [C] are written for the backward pass. Means are
/// taken over rows (and columns). Throws ShapeError where shapes disagree and ValueError for bad options.
template <class A, class Device, class T>
void contrastive_forward(Context<Device>& ctx, TensorView<A, 0, Device> loss, Out<A, 1, Device> row_log_sum_exp,
                         Out<A, 1, Device> column_log_sum_exp, const TensorView<T, 2, Device>& image,
                         In<std::remove_const_t<T>, 2, Device> text, In<A, 0, Device> logit_scale,
                         ContrastiveOptions options = {}) {
  using Value = std::remove_const_t<T>;
  static_assert(std::is_same_v<A, accumulate_t<T>>, "tessera: losses are float, or double where the features are");
  constexpr auto name = "contrastive_forward";
  expect_present(name, "loss", loss);
  detail::expect_contrastive<A, Value, Device>(name, row_log_sum_exp, column_log_sum_exp, image, text, logit_scale,
                                               options);
  Backend<op::contrastive, Device>::template forward<Value>(ctx, loss, row_log_sum_exp, column_log_sum_exp, image, text,
                                                            logit_scale, options);
}

/// d_image [R, D], d_text [C, D] and d_logit_scale [], each where present, from d_loss [] and what the forward pass
/// saved. Outputs must not overlap inputs.
template <class T, class Device>
void contrastive_backward(Context<Device>& ctx, TensorView<T, 2, Device> d_image, Out<T, 2, Device> d_text,
                          Out<accumulate_t<T>, 0, Device> d_logit_scale, In<accumulate_t<T>, 0, Device> d_loss,
                          In<accumulate_t<T>, 1, Device> row_log_sum_exp,
                          In<accumulate_t<T>, 1, Device> column_log_sum_exp, In<T, 2, Device> image,
                          In<T, 2, Device> text, In<accumulate_t<T>, 0, Device> logit_scale,
                          ContrastiveOptions options = {}) {
  constexpr auto name = "contrastive_backward";
  expect_present(name, "d_loss", d_loss);
  detail::expect_contrastive<accumulate_t<T>, T, Device>(name, row_log_sum_exp, column_log_sum_exp, image, text,
                                                         logit_scale, options);
  if (d_image) expect_shape(name, "d_image", d_image.shape, image.shape, "R D", "image");
  if (d_text) expect_shape(name, "d_text", d_text.shape, text.shape, "C D", "text");
  expect_contiguous(name, "d_image", d_image);
  expect_contiguous(name, "d_text", d_text);
  Backend<op::contrastive, Device>::template backward<T>(ctx, d_image, d_text, d_logit_scale, d_loss, row_log_sum_exp,
                                                         column_log_sum_exp, image, text, logit_scale, options);
}

/// The loss [] as a new tensor.
template <class T, class Device>
auto contrastive(Context<Device>& ctx, const TensorView<T, 2, Device>& image,
                 In<std::remove_const_t<T>, 2, Device> text, In<accumulate_t<T>, 0, Device> logit_scale,
                 ContrastiveOptions options = {}) {
  using A = accumulate_t<T>;
  Tensor<A, 0, Device> loss(ctx, {});
  Tensor<A, 1, Device> rows(ctx, {image.shape[0]}), columns(ctx, {text.shape[0]});
  contrastive_forward(ctx, view(loss), rows, columns, image, text, logit_scale, options);
  return loss;
}

/// The bound of the learned scale.
struct MultiTextContrastiveOptions {
  double largest_scale = largest_logit_factor;  ///< of exp(logit_scale)
};

namespace detail {
template <class A, class T, class Device>
void expect_multi_text_contrastive(std::string_view name, In<A, 1, Device> text_log_sum_exp,
                                   In<A, 1, Device> negative_log_sum_exp, In<T, 2, Device> scores,
                                   In<int32_t, 1, Device> owner, In<uint8_t, 2, Device> excluded,
                                   In<A, 0, Device> logit_scale, const MultiTextContrastiveOptions& options) {
  const auto [images, texts] = scores.shape;
  require<ShapeError>(images > 0 && texts > 0, name, ": scores ", to_string(scores.shape), " must not be empty");
  expect_shape(name, "owner", owner.shape, {texts}, "K", "scores");
  if (excluded) expect_shape(name, "excluded", excluded.shape, scores.shape, "B K", "scores");
  expect_shape(name, "text_log_sum_exp", text_log_sum_exp.shape, {texts}, "K", "scores");
  expect_shape(name, "negative_log_sum_exp", negative_log_sum_exp.shape, {images}, "B", "scores");
  expect_present(name, "logit_scale", logit_scale);
  require(options.largest_scale > 0, name, ": largest_scale is ", options.largest_scale, " but must be positive");
  expect_contiguous(name, "scores", scores);
  expect_contiguous(name, "excluded", excluded);
}
}  // namespace detail

/// loss [] of scores [B, K], owner [K] (the image that each text belongs to) and excluded [B, K] (not 0: the pair is no
/// negative; has no effect on a text's own image; may be absent). Half the sum of
///   - each text's cross-entropy over the images that it is not excluded from, meaned over texts, and
///   - each own text's cross-entropy against the image's negatives (an image's other texts are left out), meaned over
///     the image's texts, then over the images that own texts.
/// text_log_sum_exp [K] and negative_log_sum_exp [B] are written for the backward pass. Throws ValueError for an owner
/// out of range.
template <class A, class Device, class T>
void multi_text_contrastive_forward(Context<Device>& ctx, TensorView<A, 0, Device> loss,
                                    Out<A, 1, Device> text_log_sum_exp, Out<A, 1, Device> negative_log_sum_exp,
                                    const TensorView<T, 2, Device>& scores, In<int32_t, 1, Device> owner,
                                    In<uint8_t, 2, Device> excluded, In<A, 0, Device> logit_scale,
                                    MultiTextContrastiveOptions options = {}) {
  using Value = std::remove_const_t<T>;
  static_assert(std::is_same_v<A, accumulate_t<T>>, "tessera: losses are float, or double where the scores are");
  constexpr auto name = "multi_text_contrastive_forward";
  expect_present(name, "loss", loss);
  detail::expect_multi_text_contrastive<A, Value, Device>(name, text_log_sum_exp, negative_log_sum_exp, scores, owner,
                                                          excluded, logit_scale, options);
  Backend<op::multi_text_contrastive, Device>::template forward<Value>(
      ctx, loss, text_log_sum_exp, negative_log_sum_exp, scores, owner, excluded, logit_scale, options);
}

/// d_scores [B, K] and d_logit_scale [], each where present, from d_loss [] and what the forward pass saved.
template <class T, class Device>
void multi_text_contrastive_backward(Context<Device>& ctx, TensorView<T, 2, Device> d_scores,
                                     Out<accumulate_t<T>, 0, Device> d_logit_scale,
                                     In<accumulate_t<T>, 0, Device> d_loss,
                                     In<accumulate_t<T>, 1, Device> text_log_sum_exp,
                                     In<accumulate_t<T>, 1, Device> negative_log_sum_exp, In<T, 2, Device> scores,
                                     In<int32_t, 1, Device> owner, In<uint8_t, 2, Device> excluded,
                                     In<accumulate_t<T>, 0, Device> logit_scale,
                                     MultiTextContrastiveOptions options = {}) {
  constexpr auto name = "multi_text_contrastive_backward";
  expect_present(name, "d_loss", d_loss);
  detail::expect_multi_text_contrastive<accumulate_t<T>, T, Device>(name, text_log_sum_exp, negative_log_sum_exp,
                                                                    scores, owner, excluded, logit_scale, options);
  if (d_scores) expect_shape(name, "d_scores", d_scores.shape, scores.shape, "B K", "scores");
  expect_contiguous(name, "d_scores", d_scores);
  Backend<op::multi_text_contrastive, Device>::template backward<T>(ctx, d_scores, d_logit_scale, d_loss,
                                                                    text_log_sum_exp, negative_log_sum_exp, scores,
                                                                    owner, excluded, logit_scale, options);
}

/// The loss [] as a new tensor.
template <class T, class Device>
auto multi_text_contrastive(Context<Device>& ctx, const TensorView<T, 2, Device>& scores, In<int32_t, 1, Device> owner,
                            In<uint8_t, 2, Device> excluded, In<accumulate_t<T>, 0, Device> logit_scale,
                            MultiTextContrastiveOptions options = {}) {
  using A = accumulate_t<T>;
  Tensor<A, 0, Device> loss(ctx, {});
  Tensor<A, 1, Device> texts(ctx, {scores.shape[1]}), negatives(ctx, {scores.shape[0]});
  multi_text_contrastive_forward(ctx, view(loss), texts, negatives, scores, owner, excluded, logit_scale, options);
  return loss;
}

}  // namespace tessera

#include <tessera/cpu/contrastive.hpp>
