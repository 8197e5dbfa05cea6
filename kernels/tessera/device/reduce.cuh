// Sums and maxima over a warp and over a block, in a fixed order: the same bits on every run, and in every lane.
#pragma once
#include <tessera/device/vocabulary.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

/// The sum over the 32 lanes of a full warp, in every lane. Each lane adds the same pairs, so all get the same bits.
TESSERA_DEVICE float warp_sum(float value TESSERA_CALLER) {
  TESSERA_UNROLL
  for (int distance = warp_size / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(full_mask, value, distance, warp_size TESSERA_PASS_CALLER);
  return value;
}
/// The largest value of the 32 lanes of a full warp, in every lane.
TESSERA_DEVICE float warp_max(float value TESSERA_CALLER) {
  TESSERA_UNROLL
  for (int distance = warp_size / 2; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(full_mask, value, distance, warp_size TESSERA_PASS_CALLER));
  return value;
}

/// The sum over a block of `threads` threads (a multiple of 32), in every thread. `scratch` is shared memory for
/// threads / 32 floats; it may be used again at once.
template <int threads>
TESSERA_DEVICE float block_sum(float value, float* scratch TESSERA_CALLER) {
  static_assert(threads % warp_size == 0, "tessera: whole warps");
  value = warp_sum(value TESSERA_PASS_CALLER);
  if (threadIdx.x % warp_size == 0) scratch[threadIdx.x / warp_size] = value;
  __syncthreads(TESSERA_CALLED);
  float sum = 0;
  TESSERA_UNROLL
  for (int warp = 0; warp < threads / warp_size; ++warp) sum += scratch[warp];
  __syncthreads(TESSERA_CALLED);
  return sum;
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
