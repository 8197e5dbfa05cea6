// Layer normalisation over the last axis (Ba, Kiros & Hinton, 2016): y = (x - mean) * rstd * weight + bias,
// rstd = 1 / sqrt(variance + epsilon), with the biased variance. Mean and rstd are saved, one a row.
#pragma once
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct layernorm;
}

/// What keeps 1 / sqrt(variance + epsilon) finite.
struct LayernormOptions {
  double epsilon = 1e-5;  ///< added to the variance
};

/// y [..., C] from x [..., C], weight [C], bias [C]. mean and rstd [rows] are written where present; the backward pass
/// needs them. Throws ShapeError where shapes disagree or a view is not contiguous.
template <class T, int Rank, class Device>
void layernorm_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, Out<accumulate_t<T>, 1, Device> mean,
                       Out<accumulate_t<T>, 1, Device> rstd, In<T, Rank, Device> x,
                       In<accumulate_t<T>, 1, Device> weight, In<accumulate_t<T>, 1, Device> bias,
                       LayernormOptions options = {}) {
  constexpr auto name = "layernorm_forward";
  const int64_t channels = x.shape[Rank - 1], rows = channels ? x.size() / channels : 0;
  require<ShapeError>(channels > 0, name, ": x ", to_string(x.shape), " has no channels");
  require(options.epsilon >= 0, name, ": epsilon is ", options.epsilon, " but must not be negative");
  expect_shape(name, "y", y.shape, x.shape, "", "x");
  expect_shape(name, "weight", weight.shape, {channels}, "C", "x");
  expect_shape(name, "bias", bias.shape, {channels}, "C", "x");
  if (mean) expect_shape(name, "mean", mean.shape, {rows}, "rows", "x");
  if (rstd) expect_shape(name, "rstd", rstd.shape, {rows}, "rows", "x");
  for (const auto& [view, argument] : {std::pair{In<T, Rank, Device>(y), "y"}, {x, "x"}})
    expect_contiguous(name, argument, view);
  Backend<op::layernorm, Device>::template forward<T>(ctx, y.rows(), mean, rstd, x.rows(), weight, bias, options);
}

/// d_x [..., C], d_weight [C] and d_bias [C], each where present, from d_y and what the forward pass saved. d_x may be
/// d_y itself.
template <class T, int Rank, class Device>
void layernorm_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x, Out<accumulate_t<T>, 1, Device> d_weight,
                        Out<accumulate_t<T>, 1, Device> d_bias, In<T, Rank, Device> d_y,
                        In<accumulate_t<T>, 1, Device> mean, In<accumulate_t<T>, 1, Device> rstd, In<T, Rank, Device> x,
                        In<accumulate_t<T>, 1, Device> weight) {
  constexpr auto name = "layernorm_backward";
  const int64_t channels = x.shape[Rank - 1], rows = channels ? x.size() / channels : 0;
  expect_shape(name, "d_y", d_y.shape, x.shape, "", "x");
  if (d_x) expect_shape(name, "d_x", d_x.shape, x.shape, "", "x");
  if (d_weight) expect_shape(name, "d_weight", d_weight.shape, {channels}, "C", "x");
  if (d_bias) expect_shape(name, "d_bias", d_bias.shape, {channels}, "C", "x");
  expect_shape(name, "weight", weight.shape, {channels}, "C", "x");
  expect_shape(name, "mean", mean.shape, {rows}, "rows", "x");
  expect_shape(name, "rstd", rstd.shape, {rows}, "rows", "x");
  for (const auto& [view, argument] : {std::pair{In<T, Rank, Device>(d_x), "d_x"}, {d_y, "d_y"}, {x, "x"}})
    expect_contiguous(name, argument, view);
  const TensorView<T, 2, Device> d_x_rows = d_x ? d_x.rows() : TensorView<T, 2, Device>{};
  Backend<op::layernorm, Device>::template backward<T>(ctx, d_x_rows, d_weight, d_bias, d_y.rows(), mean, rstd,
                                                       x.rows(), weight);
}

/// The normalised x as a new tensor.
template <class T, int Rank, class Device>
auto layernorm(Context<Device>& ctx, const TensorView<T, Rank, Device>& x, In<accumulate_t<T>, 1, Device> weight,
               In<accumulate_t<T>, 1, Device> bias, LayernormOptions options = {}) {
  Tensor<std::remove_const_t<T>, Rank, Device> y(ctx, x.shape);
  layernorm_forward(ctx, view(y), {}, {}, x, weight, bias, options);
  return y;
}

}  // namespace tessera

#include <tessera/cpu/layernorm.hpp>
