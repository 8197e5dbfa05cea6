// Sums, means and maxima over an axis on kernels' devices. Sums: sums.cuh. A maximum over the last axis is a warp's,
// over another axis a thread's, which walks down its column beside 31 others.
#pragma once
#include <tessera/kernels/strided.cuh>
#include <tessera/kernels/sums.cuh>
#include <tessera/ops/reduce.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct max_traits {
  static constexpr int threads = 256;
  static constexpr int warps = threads / warp_size;
};

/// A value and where it was found.
struct Found {
  float value;
  int64_t index;
  /// Whether this comes before `other`: larger, or as large and earlier. NaN is largest.
  TESSERA_DEVICE bool before(const Found& other) const {
    const bool nan = value != value, other_nan = other.value != other.value;
    if (nan || other_nan) return nan && (!other_nan || index < other.index);
    return value > other.value || (value == other.value && index < other.index);
  }
};

/// y [rows], index [rows] (may be null): the largest of each of x's rows [rows, n]. One warp a row.
template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(max_traits::threads)
    row_max_kernel(T* y, int32_t* index, const T* x, int64_t rows, int64_t n) {
  const int64_t row = int64_t(blockIdx.x) * max_traits::warps + threadIdx.x / warp_size;
  if (row >= rows) return;  // the whole warp
  const int lane = int(threadIdx.x % warp_size);
  const T* from = x + row * n;
  Found best{__uint_as_float(0xff800000u), n};  // -infinity, after all that there is
  for (int64_t j = lane; j < n; j += warp_size) {
    const Found found{widen(from[j]), j};
    if (found.before(best)) best = found;
  }
  TESSERA_UNROLL
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
    const Found other{__shfl_xor_sync(full_mask, best.value, distance),
                      __shfl_xor_sync(full_mask, best.index, distance)};
    if (other.before(best)) best = other;
  }
  if (lane != 0) return;
  y[row] = from[best.index];
  if (index) index[row] = int32_t(best.index);
}

/// The same over the axis before the last: y [outer, inner] from x [outer, n, inner]. One thread a column.
template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(max_traits::threads)
    column_max_kernel(T* y, int32_t* index, const T* x, int64_t outer, int64_t n, int64_t inner) {
  const int64_t at = int64_t(blockIdx.x) * max_traits::threads + threadIdx.x;
  if (at >= outer * inner) return;
  const int64_t o = at / inner;
  const T* from = x + o * n * inner + (at - o * inner);
  Found best{widen(from[0]), 0};
  for (int64_t j = 1; j < n; ++j) {
    const Found found{widen(from[j * inner]), j};
    if (found.before(best)) best = found;
  }
  y[at] = from[best.index * inner];
  if (index) index[at] = int32_t(best.index);
}

/// d_x [outer, n, inner]: d_y where the maximum was, else zero. One thread an element.
template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(max_traits::threads)
    max_backward_kernel(T* d_x, const T* d_y, const int32_t* index, int64_t size, int64_t n, int64_t inner) {
  const int64_t at = int64_t(blockIdx.x) * max_traits::threads + threadIdx.x;
  if (at >= size) return;
  const int64_t row = at / inner, outer = row / n, j = row - outer * n, i = at - row * inner;
  const int64_t from = outer * inner + i;
  d_x[at] = index[from] == j ? d_y[from] : narrow<T>(0.0f);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::reduce, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;

  template <class C, class T>
  static void forward(Context<Device>& ctx, C* y, const T* x, detail::AxisSplit split, Reduction kind) {
    const float factor = kind == Reduction::mean ? 1.0f / float(split.n) : 1.0f;
    kernels::sum_over_axis("reduce_forward", ctx, y, x, split.outer, split.n, split.inner, factor);
  }
  template <class T, class TY>
  static void backward(Context<Device>& ctx, T* d_x, const TY* d_y, detail::AxisSplit split, Reduction kind) {
    const float factor = kind == Reduction::mean ? 1.0f / float(std::max<int64_t>(1, split.n)) : 1.0f;
    const Shape<3> shape{split.outer, split.n, split.inner};
    kernels::elementwise("reduce_backward", ctx, kernels::Scale<T>{factor},
                         {shape, {contiguous_strides(shape), Shape<3>{split.inner, 0, 1}}}, d_x, d_y);
  }
};

template <>
struct Backend<op::max, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::max_traits;

  template <class T>
  static void forward(Context<Device>& ctx, T* y, int32_t* index, const T* x, detail::AxisSplit split) {
    const int64_t results = split.outer * split.inner;
    if (results == 0) return;
    if (split.inner == 1)
      kernels::launch("max_forward", kernels::row_max_kernel<T>, kernels::blocks_for(results, Traits::warps),
                      unsigned(Traits::threads), 0, ctx, y, index, x, split.outer, split.n);
    else
      kernels::launch("max_forward", kernels::column_max_kernel<T>, kernels::blocks_for(results, Traits::threads),
                      unsigned(Traits::threads), 0, ctx, y, index, x, split.outer, split.n, split.inner);
  }
  template <class T>
  static void backward(Context<Device>& ctx, T* d_x, const T* d_y, const int32_t* index, detail::AxisSplit split) {
    const int64_t size = split.outer * split.n * split.inner;
    if (size == 0) return;
    kernels::launch("max_backward", kernels::max_backward_kernel<T>, kernels::blocks_for(size, Traits::threads),
                    unsigned(Traits::threads), 0, ctx, d_x, d_y, index, size, split.n, split.inner);
  }
};

}  // namespace tessera
