// The class of every pixel from a coarse map of scores: argmax over classes of the bilinear upsampling, without holding
// classes x H x W. Equal, bit for bit, to interpolate followed by an argmax in which ties go to the lowest class and
// NaN is greater than everything (as in PyTorch).
//
// Inside one cell of the coarse map a bilinear function lies between its values at the corners, so a class whose
// largest corner is below another class's smallest corner (by more than rounding could make up for) wins nowhere in the
// cell and is left out. The result is a class number: there is no gradient and no backward pass.
// docs/math/upsample_argmax.md.
#pragma once
#include <limits>

#include <tessera/ops/interpolate.hpp>

namespace tessera {
namespace op {
struct upsample_argmax;
}

/// labels [B, H, W] (uint16_t or int32_t) and, where present, best_score [B, H, W], the winning class's upsampled
/// score, from scores [B, C, h, w]. `options` says where pixels lie, as for interpolate; its mode must be bilinear.
/// Scores should be finite: mask a class with a large negative number, not with -infinity (whose differences are NaN).
/// bfloat16 scores are widened and compared as floats. Throws ShapeError where shapes disagree or a view is not
/// contiguous, ValueError where there are no classes or more than Label can number.
template <class Label, class T, class Device>
void upsample_argmax_forward(Context<Device>& ctx, TensorView<Label, 3, Device> labels,
                             Out<accumulate_t<T>, 3, Device> best_score, const TensorView<T, 4, Device>& scores,
                             InterpolateOptions options = {}) {
  static_assert(std::is_same_v<Label, uint16_t> || std::is_same_v<Label, int32_t>);
  constexpr auto name = "upsample_argmax_forward";
  using Value = std::remove_const_t<T>;
  detail::expect_sampling(name, options);
  require(options.mode == Interpolation::bilinear, name, ": options.mode must be bilinear");
  require(scores.shape[1] > 0 && scores.shape[1] <= int64_t(std::numeric_limits<Label>::max()), name, ": scores ",
          to_string(scores.shape), " have ", scores.shape[1], " classes, but between 1 and ",
          std::numeric_limits<Label>::max(), " fit the type of labels");
  const Shape<4> with_classes{labels.shape[0], scores.shape[1], labels.shape[1], labels.shape[2]};
  detail::expect_maps(name, with_classes, scores.shape, "labels (with C)", "scores", "B C H W", 2);
  if (best_score) expect_shape(name, "best_score", best_score.shape, labels.shape, "B H W", "labels");
  expect_contiguous(name, "labels", labels);
  expect_contiguous(name, "best_score", best_score);
  expect_contiguous(name, "scores", scores);
  Backend<op::upsample_argmax, Device>::template forward<Value, Label>(ctx, labels, best_score, scores, options);
}

/// The labels of scores [B, C, h, w] at `size` = {H, W}, as a new tensor [B, H, W].
template <class Label = uint16_t, class T, class Device>
auto upsample_argmax(Context<Device>& ctx, const TensorView<T, 4, Device>& scores, Shape<2> size,
                     InterpolateOptions options = {}) {
  Tensor<Label, 3, Device> labels(ctx, {scores.shape[0], size[0], size[1]});
  upsample_argmax_forward(ctx, view(labels), {}, scores, options);
  return labels;
}

}  // namespace tessera

#include <tessera/cpu/upsample_argmax.hpp>
