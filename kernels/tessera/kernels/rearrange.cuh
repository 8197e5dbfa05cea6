// Copies between views of any strides on kernels' devices: permuted axes, slices, concatenation, broadcasting, sums
// back over repeated axes. Where x's contiguous axis is not y's last one, tiles go through shared memory, so that both
// are read and written along memory; everything else is elementwise().
#pragma once
#include <tessera/kernels/elementwise.cuh>
#include <tessera/kernels/strided.cuh>
#include <tessera/kernels/sums.cuh>
#include <tessera/ops/rearrange.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

/// A function for elementwise(): the element itself, converted where the types differ.
template <class Y>
struct Convert {
  template <class X>
  TESSERA_DEVICE Y operator()(X x) const {
    if constexpr (std::is_same_v<X, Y>)
      return x;
    else
      return narrow<Y>(widen(x));
  }
};

struct transpose_traits {
  static constexpr int threads = 256;
  static constexpr int tile = 32;  // rows and columns
  static constexpr int rows_at_once = threads / tile;
};

/// What a transposing copy walks over: matrices [rows, columns] of y, columns contiguous in y and rows in x, at each
/// index of the other axes.
struct TransposeShape {
  int64_t rows, columns;
  int64_t y_row, x_column;  // strides
  int64_t row_tiles, column_tiles;
  int outer_axes = 0;
  int64_t extents[StridedAxes<2>::most_axes] = {};
  int64_t strides[StridedAxes<2>::most_axes][2] = {};
};

/// y = x, a tile a block: read along x's contiguous axis, written along y's.
template <class Y, class X>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(transpose_traits::threads)
    transpose_kernel(Y* y, const X* x, TransposeShape shape) {
  constexpr int tile = transpose_traits::tile;
  // One column more than a tile has, so that a column's elements lie in different banks.
  TESSERA_SHARED(X, values, tile * (tile + 1));
  const int along = int(threadIdx.x) % tile, across = int(threadIdx.x) / tile;
  int64_t rest = int64_t(blockIdx.x);
  const int64_t column_tile = rest % shape.column_tiles;
  rest /= shape.column_tiles;
  const int64_t row_tile = rest % shape.row_tiles;
  rest /= shape.row_tiles;
  for (int axis = shape.outer_axes - 1; axis >= 0; --axis) {
    const int64_t index = rest % shape.extents[axis];
    rest /= shape.extents[axis];
    y += index * shape.strides[axis][0];
    x += index * shape.strides[axis][1];
  }
  const int64_t first_row = row_tile * tile, first_column = column_tile * tile;

  for (int c = across; c < tile; c += transpose_traits::rows_at_once) {
    const int64_t row = first_row + along, column = first_column + c;
    if (row < shape.rows && column < shape.columns) values[c * (tile + 1) + along] = x[row + column * shape.x_column];
  }
  __syncthreads();
  for (int r = across; r < tile; r += transpose_traits::rows_at_once) {
    const int64_t row = first_row + r, column = first_column + along;
    if (row < shape.rows && column < shape.columns)
      y[row * shape.y_row + column] = Convert<Y>{}(values[along * (tile + 1) + r]);
  }
}

/// Host: the axis along which x is contiguous, where a transposing copy pays; else -1.
inline int transposed_axis(const StridedAxes<2>& axes) {
  const int last = axes.axes - 1;
  if (axes.inner_strides()[0] != 1 || axes.inner_strides()[1] <= 1) return -1;
  if (axes.extents[size_t(last)] < transpose_traits::tile / 4) return -1;
  for (int axis = 0; axis < last; ++axis)
    if (axes.strides[size_t(axis)][1] == 1 && axes.extents[size_t(axis)] >= transpose_traits::tile / 4) return axis;
  return -1;
}

/// Host: queues y = x; the first of the arrays in `axes` is y.
template <class Y, class X>
void copy_strided(Context<KernelDevice>& ctx, const StridedAxes<2>& axes, Y* y, const X* x) {
  const int row_axis = transposed_axis(axes);
  if (row_axis < 0 || axes.size() == 0) return elementwise("copy", ctx, Convert<Y>{}, axes, y, x);
  const auto last = size_t(axes.axes - 1), row = size_t(row_axis);
  TransposeShape shape{axes.extents[row],
                       axes.extents[last],
                       axes.strides[row][0],
                       axes.strides[last][1],
                       ceil_div(axes.extents[row], transpose_traits::tile),
                       ceil_div(axes.extents[last], transpose_traits::tile)};
  int64_t blocks = shape.row_tiles * shape.column_tiles;
  for (size_t axis = 0; axis < last; ++axis) {
    if (axis == row) continue;
    const int at = shape.outer_axes++;
    shape.extents[at] = axes.extents[axis];
    std::copy_n(axes.strides[axis].begin(), 2, shape.strides[at]);
    blocks *= axes.extents[axis];
  }
  launch("copy_transposed", transpose_kernel<Y, X>, blocks_for(blocks, 1), unsigned(transpose_traits::threads), 0, ctx,
         y, x, shape);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::copy, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  template <class T, class TX, int Rank>
  static void run(Context<Device>& ctx, TensorView<T, Rank, Device> y, TensorView<const TX, Rank, Device> x) {
    kernels::copy_strided(ctx, {y.shape, {y.strides, x.strides}}, y.data, x.data);
  }
};

template <>
struct Backend<op::sum_onto, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  template <class G, class T, int Rank>
  static void run(Context<Device>& ctx, TensorView<G, Rank, Device> y, TensorView<const T, Rank, Device> x) {
    kernels::sum_onto(ctx, y.data, y.shape, x.data, x.shape);
  }
};

}  // namespace tessera
