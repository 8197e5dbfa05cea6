// Resampling of maps: nearest, bilinear and bicubic (Keys, 1981, with a = -0.75), without antialiasing, by the
// conventions of PyTorch's interpolate: coordinates in accumulate_t<T>, borders repeated.
//
// On each axis, output cell o samples the input at a coordinate s (input cell i has its centre at s = i):
//   half pixels (default):  s = step (o + 1/2) - 1/2,             step = input extent / output extent
//   align_corners:          s = step o,                           step = (input extent - 1) / (output extent - 1)
//   cells of one's own:     s = step (o + 1/2) + offset - 1/2     (AxisSampling)
// Layouts: [B, C, H, W] (interpolate) and channels last [B, H, W, C] (interpolate_tokens). Math:
// docs/math/interpolate.md.
#pragma once
#include <cmath>

#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct interpolate;
}

/// Which neighbours an output is made of: the nearest, 2 x 2 of them, or 4 x 4.
enum class Interpolation : uint8_t { nearest, bilinear, bicubic };

/// Where one axis is sampled.
struct AxisSampling {
  enum class Rule : uint8_t { extents, scale_factor, cells };
  Rule rule = Rule::extents;
  double step = 0;    ///< input cells an output cell
  double offset = 0;  ///< input cells; only with Rule::cells

  /// PyTorch's scale_factor: step = 1 / factor whatever the extents are. The output extent is floor(input * factor).
  static AxisSampling scale_factor(double factor) { return {Rule::scale_factor, 1 / factor, 0}; }
  /// s = step (o + 1/2) + offset - 1/2.
  static AxisSampling cells(double step, double offset) { return {Rule::cells, step, offset}; }
  /// Input cell i has its centre at input_first + i * input_spacing, output cell o at output_first + o *
  /// output_spacing, all four in one unit, say pixels.
  static AxisSampling centres(double input_first, double input_spacing, double output_first, double output_spacing) {
    const double step = output_spacing / input_spacing;
    return {Rule::cells, step, (output_first - input_first) / input_spacing - 0.5 * step + 0.5};
  }
};

/// PyTorch's conventions; by default its bilinear mode without align_corners.
struct InterpolateOptions {
  Interpolation mode = Interpolation::bilinear;
  bool align_corners = false;  ///< bilinear and bicubic; not together with `rows` or `columns`
  AxisSampling rows = {}, columns = {};
};

/// The inputs that one output cell is made of: sum over k < count of weight[k] * input[index[k]]. Indices lie inside
/// the input; near a border some are equal.
template <class A>
struct Taps {
  int count;
  int32_t index[4];
  A weight[4];
};

/// The step of an axis in the precision A in which coordinates are computed.
template <class A>
TESSERA_HOST_DEVICE A sampling_step(int64_t input, int64_t output, const AxisSampling& axis, bool align_corners) {
  if (align_corners) return output > 1 ? A(input - 1) / A(output - 1) : A(0);
  return axis.rule == AxisSampling::Rule::extents ? A(input) / A(output) : A(axis.step);
}

/// The taps of output cell `o`. A nearest cell is floor(step o), as in PyTorch, or with cells of one's own the cell
/// that holds the point: floor(step (o + 1/2) + offset).
template <class A>
TESSERA_HOST_DEVICE Taps<A> sampling_taps(int64_t o, int64_t input, int64_t output, A step, Interpolation mode,
                                          const AxisSampling& axis, bool align_corners) {
  const bool own_cells = axis.rule == AxisSampling::Rule::cells;
  const A last = A(input - 1);
  if (mode == Interpolation::nearest) {
    const A edge = own_cells ? step * (A(o) + A(0.5)) + A(axis.offset) : A(o) * step;
    const A cell = std::floor(edge);
    const A bounded = cell < 0 ? A(0) : (cell > last ? last : cell);
    return {1, {input == output && !own_cells ? int32_t(o) : int32_t(bounded)}, {A(1)}};
  }
  A s = align_corners ? step * A(o) : step * (A(o) + A(0.5)) + (own_cells ? A(axis.offset - 0.5) : A(-0.5));
  if (mode == Interpolation::bilinear) {
    if (input == output && !own_cells) s = A(o);  // PyTorch's rule, also where a scale_factor says otherwise
    s = s < 0 ? A(0) : (s > last ? last : s);
    const A cell = std::floor(s), fraction = s - cell;
    const int32_t i = int32_t(cell);
    return {2, {i, i + (i < int32_t(last))}, {A(1) - fraction, fraction}};
  }
  s = s < A(-3) ? A(-3) : (s > last + A(1) ? last + A(1) : s);  // beyond, all taps are the border cell
  const A floored = std::floor(s), cell = floored > last ? last : floored;
  const A t = s - cell, u = A(1) - t, a = A(-0.75);
  Taps<A> taps{4, {}, {}};
  for (int k = 0; k < 4; ++k) {
    const A i = cell + A(k - 1);
    taps.index[k] = int32_t(i < 0 ? A(0) : (i > last ? last : i));
  }
  taps.weight[0] = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a;
  taps.weight[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
  taps.weight[2] = ((a + 2) * u - (a + 3)) * u * u + 1;
  taps.weight[3] = ((a * (u + 1) - 5 * a) * (u + 1) + 8 * a) * (u + 1) - 4 * a;
  return taps;
}

namespace detail {

inline void expect_sampling(std::string_view op, const InterpolateOptions& options) {
  for (const auto& [axis, name] : {std::pair{options.rows, "rows"}, {options.columns, "columns"}}) {
    if (axis.rule == AxisSampling::Rule::extents) continue;
    require(axis.step > 0 && axis.step < 1e6 && std::abs(axis.offset) < 1e6, op, ": ", name, ".step is ", axis.step,
            " and ", name, ".offset ", axis.offset, ", but a step must lie in (0, 1e6) and an offset within 1e6");
    require(!options.align_corners, op, ": align_corners fixes the sampling; ", name, " must be left at its default");
  }
  require(!options.align_corners || options.mode != Interpolation::nearest, op,
          ": align_corners has no meaning for nearest (use bilinear or bicubic, or leave it false)");
}
/// Axes: H and W are those of shapes at `height` and `height + 1`; all others agree.
inline void expect_maps(std::string_view op, Shape<4> y, Shape<4> x, std::string_view y_name, std::string_view x_name,
                        std::string_view axes, size_t height) {
  for (size_t axis : {height, height + 1}) {
    require<ShapeError>(x[axis] > 0 && y[axis] > 0, op, ": ", x_name, " ", to_string(x), " and ", y_name, " ",
                        to_string(y), " need rows and columns");
    require<ShapeError>(x[axis] < (int64_t(1) << 24) && y[axis] < (int64_t(1) << 24), op, ": ", x_name, " ",
                        to_string(x), " or ", y_name, " ", to_string(y), " has an axis of 2^24 cells or more");
  }
  Shape<4> expected = x;
  expected[height] = y[height];
  expected[height + 1] = y[height + 1];
  expect_shape(op, y_name, y, expected, axes, x_name);
}
/// [outer, H, W, inner]: what backends see of both layouts.
template <class T, class Device>
TensorView<T, 4, Device> as_planes(const TensorView<T, 4, Device>& x) {
  return x.reshape(Shape<4>{x.shape[0] * x.shape[1], x.shape[2], x.shape[3], 1});
}

template <class T, class Device>
void check_and_interpolate(Context<Device>& ctx, std::string_view name, TensorView<T, 4, Device> y, In<T, 4, Device> x,
                           const InterpolateOptions& options, bool channels_last) {
  expect_sampling(name, options);
  expect_maps(name, y.shape, x.shape, "y", "x", channels_last ? "B H W C" : "B C H W", channels_last ? 1 : 2);
  expect_contiguous(name, "y", y);
  expect_contiguous(name, "x", x);
  using Interpolate = Backend<op::interpolate, Device>;
  if (channels_last)
    Interpolate::template forward<T>(ctx, y, x, options);
  else
    Interpolate::template forward<T>(ctx, as_planes(y), as_planes(x), options);
}
template <class G, class T, class Device>
void check_and_interpolate_back(Context<Device>& ctx, std::string_view name, TensorView<G, 4, Device> d_x,
                                In<T, 4, Device> d_y, const InterpolateOptions& options, bool channels_last) {
  expect_sampling(name, options);
  if (!d_x) return;
  expect_maps(name, d_y.shape, d_x.shape, "d_y", "d_x", channels_last ? "B H W C" : "B C H W", channels_last ? 1 : 2);
  expect_contiguous(name, "d_x", d_x);
  expect_contiguous(name, "d_y", d_y);
  using Interpolate = Backend<op::interpolate, Device>;
  if (channels_last)
    Interpolate::template backward<T, G>(ctx, d_x, d_y, options);
  else
    Interpolate::template backward<T, G>(ctx, as_planes(d_x), as_planes(d_y), options);
}

}  // namespace detail

/// y [B, C, h, w] from x [B, C, H, W]; y's extents are the target. Throws ShapeError where B or C differ, an axis is
/// empty or a view is not contiguous, ValueError for options that contradict each other.
template <class T, class Device>
void interpolate_forward(Context<Device>& ctx, TensorView<T, 4, Device> y, In<T, 4, Device> x,
                         InterpolateOptions options = {}) {
  detail::check_and_interpolate<T, Device>(ctx, "interpolate_forward", y, x, options, false);
}
/// d_x [B, C, H, W] from d_y [B, C, h, w]: every input cell gathers from the outputs that it was part of.
template <class T, class Device>
void interpolate_backward(Context<Device>& ctx, TensorView<T, 4, Device> d_x, In<T, 4, Device> d_y,
                          InterpolateOptions options = {}) {
  detail::check_and_interpolate_back<T, T, Device>(ctx, "interpolate_backward", d_x, d_y, options, false);
}
/// y [B, h, w, C] from x [B, H, W, C]: channels last, as tokens [B, H W, C] lie in memory.
template <class T, class Device>
void interpolate_tokens_forward(Context<Device>& ctx, TensorView<T, 4, Device> y, In<T, 4, Device> x,
                                InterpolateOptions options = {}) {
  detail::check_and_interpolate<T, Device>(ctx, "interpolate_tokens_forward", y, x, options, true);
}
/// d_x [B, H, W, C] from d_y [B, h, w, C].
template <class T, class Device>
void interpolate_tokens_backward(Context<Device>& ctx, TensorView<T, 4, Device> d_x, In<T, 4, Device> d_y,
                                 InterpolateOptions options = {}) {
  detail::check_and_interpolate_back<T, T, Device>(ctx, "interpolate_tokens_backward", d_x, d_y, options, true);
}

/// x [B, C, H, W] resampled to `size` = {h, w}, as a new tensor.
template <class T, class Device>
auto interpolate(Context<Device>& ctx, const TensorView<T, 4, Device>& x, Shape<2> size,
                 InterpolateOptions options = {}) {
  Tensor<std::remove_const_t<T>, 4, Device> y(ctx, {x.shape[0], x.shape[1], size[0], size[1]});
  interpolate_forward(ctx, view(y), x, options);
  return y;
}
/// x [B, H, W, C] resampled to `size` = {h, w}, as a new tensor.
template <class T, class Device>
auto interpolate_tokens(Context<Device>& ctx, const TensorView<T, 4, Device>& x, Shape<2> size,
                        InterpolateOptions options = {}) {
  Tensor<std::remove_const_t<T>, 4, Device> y(ctx, {x.shape[0], size[0], size[1], x.shape[3]});
  interpolate_tokens_forward(ctx, view(y), x, options);
  return y;
}

/// A stored table of positions and the grid of patches that it is wanted for.
struct PositionalGrid {
  int64_t stored_height = 0, stored_width = 0;
  int64_t height = 0, width = 0;
  bool class_token = true;  ///< row 0 is the class token's: it is copied
  /// With patches that overlap (stride < patch_size), positions are sampled at the patches' centres; the stored grid
  /// covers the image. 0, or a stride equal to the patch size: PyTorch's interpolate to the new extents.
  int64_t patch_size = 0, stride = 0;
  /// PyTorch's scale_factor, where a system resizes by one (0: by the extents).
  double scale_factor_height = 0, scale_factor_width = 0;

  int64_t stored_rows() const { return class_token + stored_height * stored_width; }
  int64_t rows() const { return class_token + height * width; }
  InterpolateOptions sampling() const {
    InterpolateOptions options{.mode = Interpolation::bicubic};
    if (patch_size != stride) {
      options.rows = overlapping(stored_height, height);
      options.columns = overlapping(stored_width, width);
    }
    if (scale_factor_height > 0) options.rows = AxisSampling::scale_factor(scale_factor_height);
    if (scale_factor_width > 0) options.columns = AxisSampling::scale_factor(scale_factor_width);
    return options;
  }

 private:
  AxisSampling overlapping(int64_t stored, int64_t patches) const {
    const double cell = double((patches - 1) * stride + patch_size) / double(stored);  // in pixels
    return AxisSampling::centres(0.5 * cell, cell, 0.5 * double(patch_size), double(stride));
  }
};

namespace detail {
template <class T, class Device>
TensorView<T, 4, Device> grid_of(const TensorView<T, 2, Device>& table, bool class_token, int64_t height,
                                 int64_t width) {
  return table.slice(0, class_token, table.shape[0]).reshape(Shape<4>{1, height, width, table.shape[1]});
}
inline void expect_grid(std::string_view op, const PositionalGrid& grid) {
  require(grid.stored_height > 0 && grid.stored_width > 0 && grid.height > 0 && grid.width > 0, op,
          ": the stored grid ", grid.stored_height, "x", grid.stored_width, " and the grid ", grid.height, "x",
          grid.width, " need rows and columns");
  require(grid.patch_size >= 0 && grid.stride >= 0 && (grid.patch_size > 0) == (grid.stride > 0), op, ": patch_size ",
          grid.patch_size, " and stride ", grid.stride, " must both be positive or both be 0");
}
}  // namespace detail

/// Bicubic resampling of a positional embedding: positions [1 + h w, C] from table [1 + H W, C]; row 0, the class
/// token's, is copied. On equal grids all bits are. Throws where the table's rows are not those of the stored grid.
template <class T, class Device>
void resize_positional_embedding_forward(Context<Device>& ctx, TensorView<T, 2, Device> positions,
                                         In<T, 2, Device> table, PositionalGrid grid) {
  constexpr auto name = "resize_positional_embedding_forward";
  detail::expect_grid(name, grid);
  expect_shape(name, "table", table.shape, {grid.stored_rows(), table.shape[1]}, "P C", "the stored grid");
  expect_shape(name, "positions", positions.shape, {grid.rows(), table.shape[1]}, "P C", "the grid and table");
  expect_contiguous(name, "table", table);
  expect_contiguous(name, "positions", positions);
  Backend<op::interpolate, Device>::template copy_rows<T>(ctx, positions, table, grid.class_token);
  interpolate_tokens_forward(ctx, detail::grid_of(positions, grid.class_token, grid.height, grid.width),
                             detail::grid_of(table, grid.class_token, grid.stored_height, grid.stored_width),
                             grid.sampling());
}
/// d_table [1 + H W, C], of a type G of its own (a parameter's gradient is accumulate_t<T>), from d_positions.
template <class G, class T, class Device>
void resize_positional_embedding_backward(Context<Device>& ctx, TensorView<G, 2, Device> d_table,
                                          const TensorView<T, 2, Device>& d_positions, PositionalGrid grid) {
  constexpr auto name = "resize_positional_embedding_backward";
  detail::expect_grid(name, grid);
  if (!d_table) return;
  expect_shape(name, "d_table", d_table.shape, {grid.stored_rows(), d_positions.shape[1]}, "P C", "the stored grid");
  expect_shape(name, "d_positions", d_positions.shape, {grid.rows(), d_positions.shape[1]}, "P C", "the grid");
  expect_contiguous(name, "d_table", d_table);
  expect_contiguous(name, "d_positions", d_positions);
  using Value = std::remove_const_t<T>;
  Backend<op::interpolate, Device>::template copy_rows<Value>(ctx, d_table, d_positions, grid.class_token);
  detail::check_and_interpolate_back<G, Value, Device>(
      ctx, name, detail::grid_of(d_table, grid.class_token, grid.stored_height, grid.stored_width),
      detail::grid_of(d_positions, grid.class_token, grid.height, grid.width), grid.sampling(), true);
}
/// The resampled table as a new tensor [1 + h w, C].
template <class T, class Device>
auto resize_positional_embedding(Context<Device>& ctx, const TensorView<T, 2, Device>& table, PositionalGrid grid) {
  Tensor<std::remove_const_t<T>, 2, Device> positions(ctx, {std::max<int64_t>(0, grid.rows()), table.shape[1]});
  resize_positional_embedding_forward(ctx, view(positions), table, grid);
  return positions;
}

}  // namespace tessera

#include <tessera/cpu/interpolate.hpp>
