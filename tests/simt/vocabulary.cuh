// A user's kernels, outside tessera's namespace: every word of the vocabulary by one using-directive. The same file is
// compiled by nvcc.
#pragma once
#include <tessera/device/launch.cuh>
#include <tessera/device/reduce.cuh>

namespace users {
using namespace tessera::kernels;

struct traits {
  static constexpr int threads = 64;
  static constexpr size_t shared_bytes = 4096;
};

/// CUDA's own words. Each result is a number that the test knows.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) cuda_words_kernel(float* out, int* counters) {
  TESSERA_SHARED(int, shared, traits::threads);
  const int lane = threadIdx.x % warpSize;
  const int me = int(threadIdx.x + blockIdx.x * blockDim.x + gridDim.x - 1);
  shared[threadIdx.x] = me;
  __syncthreads();
  float sum = float(shared[(threadIdx.x + 1) % blockDim.x]);  // 1 … 64, in another order
  __syncwarp();
  sum += float(__shfl_sync(full_mask, lane, 5));                                                // 5
  sum += float(__shfl_up_sync(full_mask, 1, 1));                                                // 1
  sum += float(__shfl_down_sync(full_mask, 1, 1));                                              // 1
  sum += float(__shfl_xor_sync(full_mask, 1, 1));                                               // 1
  sum += float(__popc(__ballot_sync(full_mask, lane < 7)));                                     // 7
  sum += float(__any_sync(full_mask, lane == 3));                                               // 1
  sum += float(__all_sync(full_mask, lane >= 0));                                               // 1
  sum += float(__syncthreads_or(threadIdx.x == 60) != 0);                                       // 1
  sum += float(__syncthreads_and(threadIdx.x < 64) != 0);                                       // 1
  sum += float(__syncthreads_count(threadIdx.x < 10));                                          // 10
  sum += float(__ffs(8) + __clz(1) + __popcll(7ull) + __ffsll(2ll) + __clzll(1ll));             // 4 + 31 + 3 + 2 + 63
  sum += float(__brev(1u) >> 31) + float(__umulhi(1u << 31, 4u)) + float(__mulhi(1 << 30, 8));  // 1 + 2 + 2
  sum += float(__umul64hi(1ull << 63, 4ull));                                                   // 2
  sum += float(__funnelshift_l(1u << 31, 1u, 1u) + __funnelshift_r(2u, 1u, 1u) - (1u << 31));   // 3 + 1
  sum += float(min(1, 2) + max(1, 2)) + min(0.5f, 1.0f) + max(0.5f, 0.25f);                     // 3 + 0.5 + 0.5
  sum += __uint_as_float(__float_as_uint(1.0f)) + __int_as_float(__float_as_int(1.0f));         // 2
  sum += rsqrtf(4.0f) + __frcp_rn(2.0f) + __fsqrt_rn(4.0f) + __fdividef(3.0f, 2.0f);            // 0.5 + 0.5 + 2 + 1.5
  sum += __expf(0.0f) + __logf(1.0f) + __log2f(2.0f) + __powf(2.0f, 1.0f) + __sinf(0.0f) + __cosf(0.0f);  // 5
  sum += __saturatef(3.0f) + float(__float2int_rn(2.5f));                                                 // 1 + 2
  sum += sqrtf(4.0f) + fmaxf(1.0f, 0.0f) + fmaf(1.0f, 1.0f, 1.0f) + fabsf(-1.0f);  // 2 + 1 + 2 + 1
  __threadfence();
  __threadfence_block();
  __stcs(out + me, sum + __ldg(out + me) + __ldcs(out + me));  // + 0 + 0
  if (sum < 0) __trap();

  atomicAdd(&counters[0], 1);
  atomicSub(&counters[1], 1);
  atomicMin(&counters[2], me);
  atomicMax(&counters[3], me);
  atomicAnd(&counters[4], ~(1 << lane));
  atomicOr(&counters[5], 1 << lane);
  atomicXor(&counters[6], 1);
  atomicExch(&counters[7], 7);
  atomicCAS(&counters[8], 0, 9);
  atomicAdd(reinterpret_cast<float*>(&counters[9]), 0.5f);
}

/// tessera's words.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) tessera_words_kernel(float* out, const float* in) {
  SharedArena arena;
  float* copied = arena.array<float>(traits::threads * 4);
  const auto stages = arena.stages<uint32_t, 2, 128>();
  const int me = threadIdx.x, lane = me % warp_size;
  cp_async16(copied + 4 * me, in + 4 * me);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  const auto pack = load_pack<float>(copied + 4 * (me ^ 1));
  Pack<float> doubled;
  TESSERA_UNROLL
  for (int i = 0; i < Pack<float>::count; ++i) doubled[i] = 2 * pack[i];
  store_pack(out + 4 * (me ^ 1), doubled);

  for (int stage = 0; stage < 2; ++stage)  // 128 pairs of bfloat16: all ones
    for (int i = me; i < 128; i += traits::threads) stages[stage][i] = pack_bf16(1.0f, 1.0f);
  __syncthreads();
  uint32_t r1[1], r2[2], r4[4];
  const uint32_t* row = stages[0] + lane * 4;  // 32 rows of 16 bytes
  ldmatrix_x1(r1, row);
  ldmatrix_x1_trans(r1, row);
  ldmatrix_x2(r2, row);
  ldmatrix_x2_trans(r2, row);
  ldmatrix_x4(r4, row);
  ldmatrix_x4_trans(r4, row);
  float d[4] = {};
  mma_bf16_m16n8k16(d, r4, r2[0], r1[0]);  // 16
  const uint32_t one = to_tf32(1.0f), ones[4] = {one, one, one, one};
  mma_tf32_m16n8k8(d, ones, one, one);                                                      // + 8
  float sum = d[0] + d[3];                                                                  // 48
  sum += unpack_bf16_low(pack_bf16(3.0f, 4.0f)) + unpack_bf16_high(pack_bf16(3.0f, 4.0f));  // 7
  sum += exp2_approximate(3.0f) + reciprocal_approximate(0.5f) + tanh_approximate(0.0f);    // 8 + 2
  sum += warp_sum(1.0f) + warp_max(float(lane));                                            // 32 + 31
  sum += block_sum<traits::threads>(1.0f, copied);                                          // 64
  sum += float(ceil_div(5, 2) + round_up(5, 2));                                            // 3 + 6
  if (me == 0) out[4 * traits::threads] = sum;
}

}  // namespace users
