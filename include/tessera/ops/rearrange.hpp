// Moving values without changing them: copies of strided and broadcast views, permuted axes, slices, concatenation.
#pragma once
#include <tessera/ops/elementwise.hpp>

namespace tessera {
namespace op {
struct copy;
struct sum_onto;
}  // namespace op

/// y = x, for any strides of both, x broadcast to y's shape: x has y's rank or less, and extents equal to y's or 1.
/// Converts between element types.
template <class T, int Rank, class Device, class TX, int RankX>
void copy_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, const TensorView<TX, RankX, Device>& x) {
  using X = const std::remove_const_t<TX>;
  Backend<op::copy, Device>::run(ctx, y, detail::broadcast_view("copy", "x", TensorView<X, RankX, Device>(x), y.shape));
}
/// d_x = d_y summed over the axes along which x was repeated. d_x and d_y are contiguous.
template <class G, int RankX, class Device, class TY, int Rank>
void copy_backward(Context<Device>& ctx, TensorView<G, RankX, Device> d_x, const TensorView<TY, Rank, Device>& d_y) {
  detail::broadcast_view("copy", "d_x", d_x, d_y.shape);
  expect_contiguous("copy", "d_x", d_x);
  expect_contiguous("copy", "d_y", d_y);
  const TensorView<G, Rank, Device> lifted(d_x.data, detail::lifted<size_t(Rank)>(d_x.shape));
  Backend<op::sum_onto, Device>::run(ctx, lifted, TensorView<const std::remove_const_t<TY>, Rank, Device>(d_y));
}

namespace detail {
/// x's axes in the order `axes`, as a view whose last stride need not be 1: for Backend<op::copy> alone.
template <class T, int Rank, class Device>
TensorView<T, Rank, Device> permuted_view(std::string_view op, const TensorView<T, Rank, Device>& x,
                                          const std::array<int, size_t(Rank)>& axes) {
  TensorView<T, Rank, Device> view;
  view.data = x.data;
  uint64_t seen = 0;
  for (size_t axis = 0; axis < size_t(Rank); ++axis) {
    const int from = axes[axis];
    require<ShapeError>(from >= 0 && from < Rank && !(seen >> from & 1), op, ": the axes name ", from,
                        " twice, or it is none of the ", Rank, " axes of x ", to_string(x.shape));
    seen |= uint64_t(1) << from;
    view.shape[axis] = x.shape[size_t(from)];
    view.strides[axis] = x.strides[size_t(from)];
  }
  return view;
}
template <size_t Rank>
std::array<int, Rank> inverse_axes(const std::array<int, Rank>& axes) {
  std::array<int, Rank> inverse{};
  for (size_t axis = 0; axis < Rank; ++axis) inverse[size_t(axes[axis])] = int(axis);
  return inverse;
}
template <size_t Rank>
void expect_axis(std::string_view op, int axis, const std::array<int64_t, Rank>& shape) {
  require<ShapeError>(axis >= 0 && axis < int(Rank), op, ": there is no axis ", axis, " in ", to_string(shape));
}
}  // namespace detail

/// y = x with its axes in another order: y's axis i is x's axis axes[i]. Any strides.
template <class T, int Rank, class Device>
void permute_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, In<T, Rank, Device> x,
                     const std::array<int, size_t(Rank)>& axes) {
  const auto from = detail::permuted_view("permute", x, axes);
  expect_shape("permute", "y", y.shape, from.shape, "", "x and the axes");
  Backend<op::copy, Device>::run(ctx, y, from);
}
/// d_x = d_y with its axes back in x's order.
template <class T, int Rank, class Device>
void permute_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x, In<T, Rank, Device> d_y,
                      const std::array<int, size_t(Rank)>& axes) {
  detail::permuted_view("permute", d_x, axes);  // checks the axes before they are inverted
  permute_forward(ctx, d_x, d_y, detail::inverse_axes(axes));
}

/// y = x[begin, begin + extent) along `axis`, the extent being y's. Any strides.
template <class T, int Rank, class Device>
void slice_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, In<T, Rank, Device> x, int axis,
                   int64_t begin) {
  detail::expect_axis("slice", axis, x.shape);
  const auto part = x.slice(axis, begin, begin + y.shape[size_t(axis)]);
  expect_shape("slice", "y", y.shape, part.shape, "", "x");
  copy_forward(ctx, y, part);
}
/// d_x = d_y at [begin, …) along `axis`, zero elsewhere. d_x is contiguous.
template <class T, int Rank, class Device>
void slice_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x, In<T, Rank, Device> d_y, int axis,
                    int64_t begin) {
  detail::expect_axis("slice", axis, d_x.shape);
  expect_contiguous("slice", "d_x", d_x);
  const auto part = d_x.slice(axis, begin, begin + d_y.shape[size_t(axis)]);
  expect_shape("slice", "d_y", d_y.shape, part.shape, "", "d_x");
  fill(ctx, d_x, 0);
  copy_forward(ctx, part, d_y);
}

/// y = the parts one after the other along `axis`. Their other extents are equal; y's along `axis` is their sum.
template <class T, int Rank, class Device, class... Part>
void concatenate_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, int axis, const Part&... parts) {
  detail::expect_axis("concatenate", axis, y.shape);
  auto rest = y.shape;
  int64_t sum = 0;
  const auto check = [&](const auto& part) {
    rest[size_t(axis)] = part.shape[size_t(axis)];
    sum += part.shape[size_t(axis)];
    expect_shape("concatenate", "a part", part.shape, rest, "", "y");
  };
  (check(parts), ...);
  require<ShapeError>(sum == y.shape[size_t(axis)], "concatenate: axis ", axis, " of y ", to_string(y.shape), " is ",
                      y.shape[size_t(axis)], " but the parts' sum is ", sum);
  int64_t begin = 0;
  const auto place = [&](const auto& part) {
    const int64_t end = begin + part.shape[size_t(axis)];
    copy_forward(ctx, y.slice(axis, begin, end), part);
    begin = end;
  };
  (place(parts), ...);
}
/// Each part's gradient, where present, from d_y. The parts' extents along `axis` are given, since parts may be absent.
template <class TY, int Rank, class Device, class... Part>
void concatenate_backward(Context<Device>& ctx, const std::array<int64_t, sizeof...(Part)>& extents,
                          const TensorView<TY, Rank, Device>& d_y, int axis, const Part&... d_parts) {
  detail::expect_axis("concatenate", axis, d_y.shape);
  int64_t begin = 0;
  size_t number = 0;
  const auto fetch = [&](const auto& d_part) {
    const int64_t end = begin + extents[number++];
    const auto from = d_y.slice(axis, begin, end);
    if (d_part) {
      expect_shape("concatenate", "a part's gradient", d_part.shape, from.shape, "", "d_y");
      copy_forward(ctx, view(d_part), from);
    }
    begin = end;
  };
  (fetch(d_parts), ...);
}

/// A contiguous copy of a view with any strides.
template <class T, int Rank, class Device>
auto copy(Context<Device>& ctx, const TensorView<T, Rank, Device>& x) {
  Tensor<std::remove_const_t<T>, Rank, Device> y(ctx, x.shape);
  copy_forward(ctx, view(y), x);
  return y;
}
/// x with elements of another type; x itself, sharing its memory, where it has that type.
template <class To, class T, int Rank, class Device>
Tensor<To, Rank, Device> convert(Context<Device>& ctx, const Tensor<T, Rank, Device>& x) {
  if constexpr (std::is_same_v<To, T>) {
    return x;
  } else {
    Tensor<To, Rank, Device> y(ctx, x.shape);
    copy_forward(ctx, view(y), x);
    return y;
  }
}
/// x repeated along the axes where its extent is 1 (or that it lacks in front) until it has `shape`.
template <class T, int RankX, class Device, size_t Rank>
auto broadcast_to(Context<Device>& ctx, const TensorView<T, RankX, Device>& x, const std::array<int64_t, Rank>& shape) {
  Tensor<std::remove_const_t<T>, int(Rank), Device> y(ctx, shape);
  copy_forward(ctx, view(y), x);
  return y;
}
/// x with its axes in another order, as a new tensor: permute(ctx, x, {0, 2, 1}) swaps the last two of three.
template <class T, int Rank, class Device>
auto permute(Context<Device>& ctx, const TensorView<T, Rank, Device>& x,
             const std::type_identity_t<std::array<int, size_t(Rank)>>& axes) {
  const auto shape = detail::permuted_view("permute", x, axes).shape;
  Tensor<std::remove_const_t<T>, Rank, Device> y(ctx, shape);
  permute_forward(ctx, view(y), x, axes);
  return y;
}
/// The parts one after the other along `axis`, as a new tensor.
template <class T, int Rank, class Device, class... Part>
auto concatenate(Context<Device>& ctx, int axis, const TensorView<T, Rank, Device>& first, const Part&... others) {
  detail::expect_axis("concatenate", axis, first.shape);
  auto shape = first.shape;
  ((shape[size_t(axis)] += others.shape[size_t(axis)]), ...);
  Tensor<std::remove_const_t<T>, Rank, Device> y(ctx, shape);
  concatenate_forward(ctx, view(y), axis, first, others...);
  return y;
}

}  // namespace tessera

#include <tessera/cpu/rearrange.hpp>
