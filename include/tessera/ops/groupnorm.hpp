// Group normalisation (Wu & He, 2018) of feature maps [B, C, …]: the channels lie in G groups of neighbours, and every
// group of an item is normalised over its channels and all positions: y = (x - mean) * rstd * weight + bias, rstd =
// 1 / sqrt(variance + epsilon), with the biased variance. Weight and bias are a channel's. Mean and rstd are saved, one
// a group. With one group it is layer normalisation of a whole map, with C groups instance normalisation. Math:
// docs/math/groupnorm.md.
#pragma once
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct groupnorm;
}

/// How channels are grouped, and what keeps 1 / sqrt(variance + epsilon) finite.
struct GroupnormOptions {
  int64_t groups = 32;    ///< divides the channels
  double epsilon = 1e-5;  ///< added to the variance
};

namespace detail {
/// Throws unless x [B, C, …] can be normalised in groups; gives [B, C, positions], what backends see.
template <class T, int Rank, class Device>
TensorView<const T, 3, Device> expect_groups(std::string_view op, const TensorView<const T, Rank, Device>& x,
                                             int64_t groups) {
  static_assert(Rank >= 2, "tessera: group normalisation takes [B, C, …]");
  const int64_t items = x.shape[0], channels = x.shape[1];
  int64_t positions = 1;
  for (size_t axis = 2; axis < size_t(Rank); ++axis) positions *= x.shape[axis];
  require<ShapeError>(channels > 0 && positions > 0, op, ": x ", to_string(x.shape), " has groups without elements");
  require(groups > 0 && channels % groups == 0, op, ": groups is ", groups, " but must divide the ", channels,
          " channels of x ", to_string(x.shape));
  expect_contiguous(op, "x", x);
  return x.reshape(Shape<3>{items, channels, positions});
}
}  // namespace detail

/// y [B, C, …] from x [B, C, …], weight [C], bias [C]. mean and rstd [B, groups] are written where present; the
/// backward pass needs them. y may be x itself. Throws ShapeError where shapes disagree or a view is not contiguous,
/// ValueError where the groups do not divide the channels.
template <class T, int Rank, class Device>
void groupnorm_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, Out<accumulate_t<T>, 2, Device> mean,
                       Out<accumulate_t<T>, 2, Device> rstd, In<T, Rank, Device> x,
                       In<accumulate_t<T>, 1, Device> weight, In<accumulate_t<T>, 1, Device> bias,
                       GroupnormOptions options = {}) {
  constexpr auto name = "groupnorm_forward";
  const auto maps = detail::expect_groups<T, Rank, Device>(name, x, options.groups);
  const int64_t items = x.shape[0], channels = x.shape[1];
  require(options.epsilon >= 0, name, ": epsilon is ", options.epsilon, " but must not be negative");
  expect_shape(name, "y", y.shape, x.shape, "B C", "x");
  expect_shape(name, "weight", weight.shape, {channels}, "C", "x");
  expect_shape(name, "bias", bias.shape, {channels}, "C", "x");
  for (const auto& [statistic, argument] : {std::pair{mean, "mean"}, {rstd, "rstd"}}) {
    if (statistic) expect_shape(name, argument, statistic.shape, {items, options.groups}, "B G", "x and options");
    expect_contiguous(name, argument, statistic);
  }
  expect_contiguous(name, "y", y);
  if (items == 0) return;
  Backend<op::groupnorm, Device>::template forward<T>(ctx, y.reshape(maps.shape), mean, rstd, maps, weight, bias,
                                                      options);
}

/// d_x [B, C, …], d_weight [C] and d_bias [C], each where present, from d_y and what the forward pass saved. d_x may be
/// d_y itself. The number of groups is that of mean.
template <class T, int Rank, class Device>
void groupnorm_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x, Out<accumulate_t<T>, 1, Device> d_weight,
                        Out<accumulate_t<T>, 1, Device> d_bias, In<T, Rank, Device> d_y,
                        In<accumulate_t<T>, 2, Device> mean, In<accumulate_t<T>, 2, Device> rstd, In<T, Rank, Device> x,
                        In<accumulate_t<T>, 1, Device> weight) {
  constexpr auto name = "groupnorm_backward";
  const auto maps = detail::expect_groups<T, Rank, Device>(name, x, mean.shape[1]);
  const int64_t items = x.shape[0], channels = x.shape[1];
  expect_shape(name, "d_y", d_y.shape, x.shape, "B C", "x");
  if (d_x) expect_shape(name, "d_x", d_x.shape, x.shape, "B C", "x");
  if (d_weight) expect_shape(name, "d_weight", d_weight.shape, {channels}, "C", "x");
  if (d_bias) expect_shape(name, "d_bias", d_bias.shape, {channels}, "C", "x");
  expect_shape(name, "weight", weight.shape, {channels}, "C", "x");
  expect_shape(name, "mean", mean.shape, {items, mean.shape[1]}, "B G", "x");
  expect_shape(name, "rstd", rstd.shape, mean.shape, "B G", "mean");
  for (const auto& [view, argument] : {std::pair{In<T, Rank, Device>(d_x), "d_x"}, {d_y, "d_y"}})
    expect_contiguous(name, argument, view);
  for (const auto& [view, argument] : {std::pair{mean, "mean"}, {rstd, "rstd"}})
    expect_contiguous(name, argument, view);
  const TensorView<T, 3, Device> d_maps = d_x ? d_x.reshape(maps.shape) : TensorView<T, 3, Device>{};
  Backend<op::groupnorm, Device>::template backward<T>(ctx, d_maps, d_weight, d_bias, d_y.reshape(maps.shape), mean,
                                                       rstd, maps, weight);
}

/// The normalised x as a new tensor.
template <class T, int Rank, class Device>
auto groupnorm(Context<Device>& ctx, const TensorView<T, Rank, Device>& x, In<accumulate_t<T>, 1, Device> weight,
               In<accumulate_t<T>, 1, Device> bias, GroupnormOptions options = {}) {
  Tensor<std::remove_const_t<T>, Rank, Device> y(ctx, x.shape);
  groupnorm_forward(ctx, view(y), {}, {}, x, weight, bias, options);
  return y;
}

}  // namespace tessera

#include <tessera/cpu/groupnorm.hpp>
