// Rows that a group of threads works on together: a warp where rows are short, a whole block where they are long.
// Sums and maxima over the group come out alike in every thread, in a fixed order.
#pragma once
#include <tessera/device/reduce.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

/// `threads` of a block, `group` of them to a row: 32, or all.
template <int threads, int group>
struct RowGroup {
  static_assert(group == warp_size || group == threads, "tessera: a row is a warp's or a block's");
  static constexpr int rows_of_block = threads / group;

  /// The row that this thread's group begins with, and how many rows the whole grid takes at a time.
  TESSERA_DEVICE static int64_t first_row() {
    return int64_t(blockIdx.x) * rows_of_block + (group == warp_size ? threadIdx.x / warp_size : 0);
  }
  TESSERA_DEVICE static int64_t rows_of_grid() { return int64_t(gridDim.x) * rows_of_block; }
  TESSERA_DEVICE static int lane() { return int(threadIdx.x) % group; }

  /// Calls visit(c) for this thread's packs of `Count` elements of a row of `columns`.
  template <int Count, class F>
  TESSERA_DEVICE static void for_each_pack(int64_t columns, F&& visit) {
    for (int64_t c = int64_t(lane()) * Count; c < columns; c += int64_t(group) * Count) visit(c);
  }

  /// `scratch` is shared memory for threads / 32 floats; a warp's group does not use it.
  TESSERA_DEVICE static float sum(float value, float* scratch TESSERA_CALLER) {
    if constexpr (group == warp_size)
      return warp_sum(value TESSERA_PASS_CALLER);
    else
      return block_sum<threads>(value, scratch TESSERA_PASS_CALLER);
  }
  TESSERA_DEVICE static float max(float value, float* scratch TESSERA_CALLER) {
    value = warp_max(value TESSERA_PASS_CALLER);
    if constexpr (group != warp_size) {
      if (threadIdx.x % warp_size == 0) scratch[threadIdx.x / warp_size] = value;
      __syncthreads(TESSERA_CALLED);
      value = scratch[0];
      TESSERA_UNROLL
      for (int warp = 1; warp < threads / warp_size; ++warp) value = fmaxf(value, scratch[warp]);
      __syncthreads(TESSERA_CALLED);
    }
    return value;
  }
};

/// A pack's elements as floats.
template <class T, int Count>
TESSERA_DEVICE void load_wide(float (&to)[Count], const T* from TESSERA_CALLER) {
  const auto pack = load_pack<T, Count>(from TESSERA_PASS_CALLER);
  TESSERA_UNROLL
  for (int i = 0; i < Count; ++i) to[i] = widen(pack[i]);
}
template <class T, int Count>
TESSERA_DEVICE void store_narrow(T* to, const float (&values)[Count] TESSERA_CALLER) {
  Pack<T, Count> pack;
  TESSERA_UNROLL
  for (int i = 0; i < Count; ++i) pack[i] = narrow<T>(values[i]);
  store_pack(to, pack TESSERA_PASS_CALLER);
}

/// The sum over a block of `threads` threads, in every thread, in a fixed order; in double. `scratch`: threads / 32.
template <int threads>
TESSERA_DEVICE double block_sum_double(double value, double* scratch TESSERA_CALLER) {
  TESSERA_UNROLL
  for (int distance = warp_size / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(full_mask, value, distance, warp_size TESSERA_PASS_CALLER);
  if (threadIdx.x % warp_size == 0) scratch[threadIdx.x / warp_size] = value;
  __syncthreads(TESSERA_CALLED);
  double sum = 0;
  TESSERA_UNROLL
  for (int warp = 0; warp < threads / warp_size; ++warp) sum += scratch[warp];
  __syncthreads(TESSERA_CALLED);
  return sum;
}

/// -infinity, written so that both compilers take it in device code.
TESSERA_DEVICE float negative_infinity() { return __uint_as_float(0xff800000u); }
TESSERA_DEVICE float not_a_number() { return __uint_as_float(0x7fc00000u); }

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
