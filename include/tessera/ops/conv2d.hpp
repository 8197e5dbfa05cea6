// Two-dimensional convolution of feature maps, as neural networks mean it (cross-correlation, the kernel not flipped):
//
//   y[b, o, i, j] = bias[o] + sum over c, k, l of weight[o, c, k, l] x[b, c', i stride + k dilation - padding, …]
//
// with zeros outside the map. With G groups, channels come in G blocks: outputs of block g read inputs of block g alone
// (c' = g C/G + c). Axes: x [B, C, H, W], weight [O, C/G, kernel height, kernel width], bias [O], y [B, O, h, w]. Math:
// docs/math/conv2d.md.
#pragma once
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct conv2d;
}

/// A number for rows and one for columns; `1` stands for {1, 1}.
struct PerAxis {
  // Of 32 bits: g++ 12 garbles the constant {1, 1, 0, 0} of 64-bit numbers in options that are passed by value.
  int32_t rows, columns;
  PerAxis(int64_t both) : PerAxis(both, both) {}
  PerAxis(int64_t of_rows, int64_t of_columns) : rows(bounded(of_rows)), columns(bounded(of_columns)) {}
  bool operator==(const PerAxis&) const = default;

 private:
  static int32_t bounded(int64_t n) {
    constexpr int64_t most = int64_t(1) << 30;
    require(-most < n && n < most, "PerAxis: ", n, " is out of bounds: numbers must lie within 2^30");
    return int32_t(n);
  }
};

/// How the kernel moves over the map: conv2d(ctx, x, weight, bias, {.padding = 1}).
struct Conv2dOptions {
  PerAxis stride = 1;    ///< cells between two places of the kernel
  PerAxis padding = 0;   ///< rows and columns of zeros on each side
  PerAxis dilation = 1;  ///< cells between two taps of the kernel
  int64_t groups = 1;    ///< blocks of channels that are convolved apart
};

/// The extents of a convolution's output: {h, w} of a map {H, W} under a kernel {height, width}. Throws ValueError for
/// options that make no sense, ShapeError where the kernel is larger than the padded map.
inline Shape<2> conv2d_extents(Shape<2> map, Shape<2> kernel, const Conv2dOptions& options) {
  const auto along = [&](const char* axis, int64_t extent, int64_t taps, int64_t stride, int64_t padding,
                         int64_t dilation) {
    require(stride > 0 && dilation > 0 && padding >= 0, "conv2d: on axis ", axis, " stride is ", stride, ", padding ",
            padding, " and dilation ", dilation, ", but stride and dilation must be at least 1 and padding at least 0");
    require<ShapeError>(extent > 0 && taps > 0 && taps < (int64_t(1) << 30), "conv2d: axis ", axis, " of the map has ",
                        extent, " cells and the kernel ", taps, "; both need at least one");
    const int64_t reach = (taps - 1) * dilation + 1;
    require<ShapeError>(extent + 2 * padding >= reach, "conv2d: axis ", axis, " of the map has ", extent,
                        " cells, with padding ", extent + 2 * padding, ", but the kernel reaches over ", reach, " (",
                        taps, " taps, dilation ", dilation, ")");
    return (extent + 2 * padding - reach) / stride + 1;
  };
  return {along("H", map[0], kernel[0], options.stride.rows, options.padding.rows, options.dilation.rows),
          along("W", map[1], kernel[1], options.stride.columns, options.padding.columns, options.dilation.columns)};
}

namespace detail {
/// The shape of y. Throws unless x, weight and options fit together.
inline Shape<4> expect_conv2d(std::string_view op, const Shape<4>& x, const Shape<4>& weight,
                              const Conv2dOptions& options) {
  const int64_t groups = options.groups, channels = x[1], outputs = weight[0];
  require(groups > 0 && channels % groups == 0 && outputs % groups == 0, op, ": groups is ", groups,
          " but must divide the channels of x ", to_string(x), " and of weight ", to_string(weight));
  require<ShapeError>(channels > 0 && outputs > 0, op, ": x ", to_string(x), " and weight ", to_string(weight),
                      " need channels");
  expect_shape(op, "weight", weight, {outputs, channels / groups, weight[2], weight[3]}, "O C/G height width",
               "x and options.groups");
  const auto [height, width] = conv2d_extents({x[2], x[3]}, {weight[2], weight[3]}, options);
  return {x[0], outputs, height, width};
}
}  // namespace detail

/// y [B, O, h, w] from x [B, C, H, W], weight [O, C/G, kernel height, kernel width] and, where present, bias [O].
/// Throws ShapeError where shapes disagree or a view is not contiguous, ValueError for options that make no sense.
template <class T, class Device>
void conv2d_forward(Context<Device>& ctx, TensorView<T, 4, Device> y, In<T, 4, Device> x, In<T, 4, Device> weight,
                    In<accumulate_t<T>, 1, Device> bias, Conv2dOptions options = {}) {
  constexpr auto name = "conv2d_forward";
  const Shape<4> shape = detail::expect_conv2d(name, x.shape, weight.shape, options);
  expect_shape(name, "y", y.shape, shape, "B O H W", "x, weight and options");
  if (bias) expect_shape(name, "bias", bias.shape, {shape[1]}, "O", "weight");
  for (const auto& [view, argument] : {std::pair{In<T, 4, Device>(y), "y"}, {x, "x"}, {weight, "weight"}})
    expect_contiguous(name, argument, view);
  if (y.size() == 0) return;
  Backend<op::conv2d, Device>::template forward<T>(ctx, y, x, weight, bias, options);
}

/// d_x, d_weight (of T or of accumulate_t<T>) and d_bias, each where present, from d_y.
template <class T, class Device, class G>
void conv2d_backward(Context<Device>& ctx, TensorView<T, 4, Device> d_x, const TensorView<G, 4, Device>& d_weight,
                     Out<accumulate_t<T>, 1, Device> d_bias, In<T, 4, Device> d_y, In<T, 4, Device> x,
                     In<T, 4, Device> weight, Conv2dOptions options = {}) {
  static_assert(std::is_same_v<G, T> || std::is_same_v<G, accumulate_t<T>>);
  constexpr auto name = "conv2d_backward";
  const Shape<4> shape = detail::expect_conv2d(name, x.shape, weight.shape, options);
  expect_shape(name, "d_y", d_y.shape, shape, "B O H W", "x, weight and options");
  if (d_x) expect_shape(name, "d_x", d_x.shape, x.shape, "B C H W", "x");
  if (d_weight) expect_shape(name, "d_weight", d_weight.shape, weight.shape, "O C/G height width", "weight");
  if (d_bias) expect_shape(name, "d_bias", d_bias.shape, {shape[1]}, "O", "weight");
  for (const auto& [view, argument] :
       {std::pair{In<T, 4, Device>(d_x), "d_x"}, {d_y, "d_y"}, {x, "x"}, {weight, "weight"}})
    expect_contiguous(name, argument, view);
  expect_contiguous(name, "d_weight", d_weight);
  using Conv2d = Backend<op::conv2d, Device>;
  if (d_bias) Conv2d::template bias_gradient<T>(ctx, d_bias, d_y);
  if (d_weight) Conv2d::template weight_gradient<T, G>(ctx, d_weight, d_y, x, options);
  if (d_x && d_x.size() > 0) Conv2d::template input_gradient<T>(ctx, d_x, d_y, weight, options);
}

/// The convolution as a new tensor. bias may be {}.
template <class T, class Device>
auto conv2d(Context<Device>& ctx, const TensorView<T, 4, Device>& x, In<std::remove_const_t<T>, 4, Device> weight,
            In<accumulate_t<T>, 1, Device> bias, Conv2dOptions options = {}) {
  Tensor<std::remove_const_t<T>, 4, Device> y(ctx, detail::expect_conv2d("conv2d", x.shape, weight.shape, options));
  conv2d_forward(ctx, view(y), x, weight, bias, options);
  return y;
}

}  // namespace tessera

#include <tessera/cpu/conv2d.hpp>
