// Sums, means and maxima over one axis or over all elements.
#pragma once
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct reduce;
struct max;
}  // namespace op

/// How many numbers become one.
enum class Reduction : uint8_t { sum, mean };

namespace detail {

/// A shape as [outer, n, inner] around one axis.
struct AxisSplit {
  int64_t outer = 1, n = 1, inner = 1;
};
template <size_t Rank>
AxisSplit split_at(std::string_view op, const std::array<int64_t, Rank>& shape, int axis) {
  require<ShapeError>(axis >= 0 && axis < int(Rank), op, ": there is no axis ", axis, " in x ", to_string(shape));
  AxisSplit split;
  for (size_t a = 0; a < Rank; ++a) (int(a) < axis ? split.outer : int(a) > axis ? split.inner : split.n) *= shape[a];
  return split;
}
template <size_t Rank>
std::array<int64_t, Rank - 1> without_axis(const std::array<int64_t, Rank>& shape, int axis) {
  std::array<int64_t, Rank - 1> rest{};
  for (size_t from = 0, to = 0; from < Rank; ++from)
    if (int(from) != axis) rest[to++] = shape[from];
  return rest;
}
}  // namespace detail

/// y = sum or mean of x [...] over `axis`; y has the other axes, of type T or accumulate_t<T>. The mean of an empty
/// axis is an error, its sum 0. Throws ShapeError where extents do not fit or a view is not contiguous.
template <class C, int RankY, class Device, class TX>
void reduce_forward(Context<Device>& ctx, TensorView<C, RankY, Device> y, const TensorView<TX, RankY + 1, Device>& x,
                    int axis, Reduction kind) {
  constexpr auto name = "reduce_forward";
  const auto split = detail::split_at(name, x.shape, axis);
  expect_shape(name, "y", y.shape, detail::without_axis(x.shape, axis), "", "x without the axis");
  expect_contiguous(name, "y", y);
  expect_contiguous(name, "x", x);
  require<ShapeError>(kind == Reduction::sum || split.n > 0, name, ": the mean over axis ", axis, " of x ",
                      to_string(x.shape), ", which is empty");
  Backend<op::reduce, Device>::forward(ctx, y.data, static_cast<const TX*>(x.data), split, kind);
}
/// d_x = d_y, repeated along `axis`, divided by its extent for the mean.
template <class T, int Rank, class Device, class TY>
void reduce_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x, const TensorView<TY, Rank - 1, Device>& d_y,
                     int axis, Reduction kind) {
  constexpr auto name = "reduce_backward";
  const auto split = detail::split_at(name, d_x.shape, axis);
  expect_shape(name, "d_y", d_y.shape, detail::without_axis(d_x.shape, axis), "", "d_x without the axis");
  expect_contiguous(name, "d_x", d_x);
  expect_contiguous(name, "d_y", d_y);
  Backend<op::reduce, Device>::backward(ctx, d_x.data, static_cast<const TY*>(d_y.data), split, kind);
}

/// y = the largest of x over `axis`, index = where it is (the first of equals). A NaN counts as largest. index may be
/// absent; the backward pass needs it. An empty axis is an error.
template <class T, int RankY, class Device, class TX>
void max_forward(Context<Device>& ctx, TensorView<T, RankY, Device> y, Out<int32_t, RankY, Device> index,
                 const TensorView<TX, RankY + 1, Device>& x, int axis) {
  constexpr auto name = "max_forward";
  const auto split = detail::split_at(name, x.shape, axis);
  require<ShapeError>(split.n > 0, name, ": axis ", axis, " of x ", to_string(x.shape), " is empty");
  expect_shape(name, "y", y.shape, detail::without_axis(x.shape, axis), "", "x without the axis");
  if (index) expect_shape(name, "index", index.shape, y.shape, "", "y");
  expect_contiguous(name, "y", y);
  expect_contiguous(name, "index", index);
  expect_contiguous(name, "x", x);
  Backend<op::max, Device>::template forward<T>(ctx, y.data, index.data, x.data, split);
}
/// d_x = d_y at the saved index, zero elsewhere.
template <class T, int Rank, class Device>
void max_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x, In<T, Rank - 1, Device> d_y,
                  In<int32_t, Rank - 1, Device> index, int axis) {
  constexpr auto name = "max_backward";
  const auto split = detail::split_at(name, d_x.shape, axis);
  expect_shape(name, "d_y", d_y.shape, detail::without_axis(d_x.shape, axis), "", "d_x without the axis");
  expect_shape(name, "index", index.shape, d_y.shape, "", "d_y");
  expect_contiguous(name, "d_x", d_x);
  expect_contiguous(name, "d_y", d_y);
  expect_contiguous(name, "index", index);
  Backend<op::max, Device>::template backward<T>(ctx, d_x.data, d_y.data, index.data, split);
}

namespace detail {
template <class TX, int Rank, class Device>
auto reduced(Context<Device>& ctx, const TensorView<TX, Rank, Device>& x, int axis, Reduction kind) {
  split_at("reduce", x.shape, axis);
  Tensor<std::remove_const_t<TX>, Rank - 1, Device> y(ctx, without_axis(x.shape, axis));
  reduce_forward(ctx, view(y), x, axis, kind);
  return y;
}
template <class TX, int Rank, class Device>
auto reduced(Context<Device>& ctx, const TensorView<TX, Rank, Device>& x, Reduction kind) {
  Tensor<accumulate_t<TX>, 0, Device> y(ctx, {});
  reduce_forward(ctx, view(y), x.flat(), 0, kind);
  return y;
}
}  // namespace detail

/// What max returns: the largest values and where they are along the axis.
template <class T, int Rank, class Device = Cpu>
struct MaxResult {
  Tensor<T, Rank, Device> values;
  Tensor<int32_t, Rank, Device> index;
};

/// The sum over `axis` as a new tensor.
template <class TX, int Rank, class Device>
auto sum(Context<Device>& ctx, const TensorView<TX, Rank, Device>& x, int axis) {
  return detail::reduced(ctx, x, axis, Reduction::sum);
}
/// The mean over `axis` as a new tensor.
template <class TX, int Rank, class Device>
auto mean(Context<Device>& ctx, const TensorView<TX, Rank, Device>& x, int axis) {
  return detail::reduced(ctx, x, axis, Reduction::mean);
}
/// The sum of all elements, a scalar of type accumulate_t<T>.
template <class TX, int Rank, class Device>
auto sum(Context<Device>& ctx, const TensorView<TX, Rank, Device>& x) {
  return detail::reduced(ctx, x, Reduction::sum);
}
/// The mean of all elements, a scalar of type accumulate_t<T>.
template <class TX, int Rank, class Device>
auto mean(Context<Device>& ctx, const TensorView<TX, Rank, Device>& x) {
  return detail::reduced(ctx, x, Reduction::mean);
}
/// The largest values over `axis` and their index, as new tensors.
template <class TX, int Rank, class Device>
auto max(Context<Device>& ctx, const TensorView<TX, Rank, Device>& x, int axis) {
  detail::split_at("max", x.shape, axis);
  const auto shape = detail::without_axis(x.shape, axis);
  MaxResult<std::remove_const_t<TX>, Rank - 1, Device> result{{ctx, shape}, {ctx, shape}};
  max_forward(ctx, view(result.values), result.index, x, axis);
  return result;
}

}  // namespace tessera

#include <tessera/cpu/reduce.hpp>
