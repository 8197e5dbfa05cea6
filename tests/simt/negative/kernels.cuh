// Known-bad kernels: each template is right with Flaw::none and has one flaw otherwise. They test the emulator, which
// must find every one of them.
#pragma once
#include <tessera/device/launch.cuh>
#include <tessera/device/reduce.cuh>

namespace flawed {
using namespace tessera::kernels;
using tessera::bfloat16;
using tessera::narrow;
using tessera::widen;

enum class Flaw {
  none,
  missing_barrier,
  missing_barrier_before_use,
  missing_barrier_after_use,
  wrong_width,
  wrong_mask,
  off_by_one_row,
  shared_overflow,
  early_exit,
  missing_wait,
  missing_commit,
  no_padding,
  tail_not_zeroed,
  plain_addition,
};

struct traits {
  static constexpr int threads = 128;
};

// ---- a row's mean: one block a row ----

template <Flaw flaw>
TESSERA_DEVICE float sum_of_block(float value, float* scratch) {
  constexpr unsigned mask = flaw == Flaw::wrong_mask ? 0x0000ffffu : full_mask;
  constexpr int width = flaw == Flaw::wrong_width ? 16 : 32;
  constexpr int shift = flaw == Flaw::shared_overflow ? 1 : 0;
  const int warp = threadIdx.x / warp_size;
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(mask, value, distance, width);
  if (threadIdx.x % warp_size == 0) scratch[warp + shift] = value;
  if constexpr (flaw != Flaw::missing_barrier) __syncthreads();
  float sum = 0;
  for (int w = 0; w < traits::threads / warp_size; ++w) sum += scratch[w + shift];
  __syncthreads();
  return sum;
}

/// y = x - mean of the row.
template <Flaw flaw>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) centre_kernel(float* y, const float* x, int channels) {
  TESSERA_SHARED(float, scratch, traits::threads / warp_size);
  const int row = int(blockIdx.x) + (flaw == Flaw::off_by_one_row ? 1 : 0);
  if (flaw == Flaw::early_exit && int(threadIdx.x) >= channels) return;
  const float* x_row = x + row * channels;
  float sum = 0;
  for (int c = threadIdx.x; c < channels; c += traits::threads) sum += x_row[c];
  const float mean = sum_of_block<flaw>(sum, scratch) / float(channels);
  for (int c = threadIdx.x; c < channels; c += traits::threads) y[blockIdx.x * channels + c] = x_row[c] - mean;
}

// ---- a histogram: shared counters, then global ones ----

template <Flaw flaw>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) histogram_kernel(int* counts, const int* values, int n) {
  constexpr int bins = 8;
  TESSERA_SHARED(int, local, bins);
  for (int i = threadIdx.x; i < bins; i += traits::threads) local[i] = 0;
  if constexpr (flaw != Flaw::missing_barrier) __syncthreads();
  for (int i = blockIdx.x * traits::threads + threadIdx.x; i < n; i += gridDim.x * traits::threads)
    atomicAdd(&local[values[i]], 1);
  __syncthreads();
  for (int i = threadIdx.x; i < bins; i += traits::threads) {
    if constexpr (flaw == Flaw::plain_addition)
      counts[i] += local[i];
    else
      atomicAdd(&counts[i], local[i]);
  }
}

// ---- attention: 64 queries a block, tiles of 32 keys in two stages by cp.async, mma ----

struct attention_traits {
  static constexpr int threads = 128;
  static constexpr int queries = 64, keys = 32, width = 32;
  static constexpr int stride = width + 8;  // of a row in shared memory: no bank conflicts in ldmatrix
  static constexpr size_t shared_bytes = (queries + 4 * keys) * stride * sizeof(bfloat16);
};

/// `rows` rows of a [n, width] matrix from row `first` on; zeros beyond n.
template <Flaw flaw, int rows>
TESSERA_DEVICE void load_tile(bfloat16* tile, const bfloat16* from, int first, int n) {
  using A = attention_traits;
  constexpr int packs = A::width / 8;
  for (int i = threadIdx.x; i < rows * packs; i += A::threads) {
    const int row = i / packs, column = i % packs * 8;
    const bool valid = flaw == Flaw::off_by_one_row ? first + row <= n : first + row < n;
    if (flaw == Flaw::tail_not_zeroed && !valid) continue;
    cp_async16(tile + row * A::stride + column, from + (valid ? first + row : 0) * A::width + column, valid);
  }
}

/// out [n, width] = softmax(q k^T / sqrt(width)) v for one head; q, k, v [n, width].
template <Flaw flaw>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(attention_traits::threads)
    attention_kernel(float* out, const bfloat16* q, const bfloat16* k, const bfloat16* v, int n) {
  using A = attention_traits;
  constexpr unsigned tile = A::keys * (flaw == Flaw::no_padding ? A::width : A::stride);
  SharedArena arena;
  bfloat16* q_tile = arena.array<bfloat16>(A::queries * A::stride);
  const auto k_tiles = arena.stages<bfloat16, 2, tile>();
  const auto v_tiles = arena.stages<bfloat16, 2, tile>();
  const int first_query = blockIdx.x * A::queries, lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int tiles = (n + A::keys - 1) / A::keys;
  const float scale = 1.4426950408889634f / sqrtf(float(A::width));  // exp2 instead of exp

  load_tile<Flaw::none, A::queries>(q_tile, q, first_query, n);
  load_tile<flaw, A::keys>(k_tiles[0], k, 0, n);
  load_tile<flaw, A::keys>(v_tiles[0], v, 0, n);
  cp_async_commit();

  uint32_t query[2][4];
  float output[4][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  for (int t = 0; t < tiles; ++t) {
    const int stage = t % 2;
    if (t + 1 < tiles) {
      load_tile<flaw, A::keys>(k_tiles[1 - stage], k, (t + 1) * A::keys, n);
      load_tile<flaw, A::keys>(v_tiles[1 - stage], v, (t + 1) * A::keys, n);
    }
    if constexpr (flaw != Flaw::missing_commit) cp_async_commit();
    if constexpr (flaw != Flaw::missing_wait) cp_async_wait<1>();
    if constexpr (flaw != Flaw::missing_barrier_before_use) __syncthreads();
    if (t == 0)
      for (int step = 0; step < 2; ++step)
        ldmatrix_x4(query[step], q_tile + (16 * warp + lane % 16) * A::stride + step * 16 + lane / 16 * 8);

    float scores[4][4] = {};
    for (int step = 0; step < 2; ++step)
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t b[4];
        const int key = 16 * pair + lane % 8 + lane / 16 * 8, column = step * 16 + lane / 8 % 2 * 8;
        ldmatrix_x4(b, k_tiles[stage] + key * A::stride + column);
        mma_bf16_m16n8k16(scores[2 * pair], query[step], b[0], b[1]);
        mma_bf16_m16n8k16(scores[2 * pair + 1], query[step], b[2], b[3]);
      }

    for (int half = 0; half < 2; ++half) {
      float largest = most[half];
      for (int j = 0; j < 4; ++j)
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          const int key = t * A::keys + 8 * j + 2 * (lane % 4) + i % 2;
          scores[j][i] = key < n ? scores[j][i] * scale : -INFINITY;
          largest = fmaxf(largest, scores[j][i]);
        }
      for (int distance = 1; distance < 4; distance *= 2)
        largest = fmaxf(largest, __shfl_xor_sync(full_mask, largest, distance));
      const float shrink = exp2_approximate(most[half] - largest);
      most[half] = largest;
      total[half] *= shrink;
      for (int j = 0; j < 4; ++j)
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          output[j][i] *= shrink;
          scores[j][i] = exp2_approximate(scores[j][i] - largest);
          total[half] += scores[j][i];
        }
    }

    for (int step = 0; step < 2; ++step) {
      const uint32_t weights[4] = {pack_bf16(scores[2 * step][0], scores[2 * step][1]),
                                   pack_bf16(scores[2 * step][2], scores[2 * step][3]),
                                   pack_bf16(scores[2 * step + 1][0], scores[2 * step + 1][1]),
                                   pack_bf16(scores[2 * step + 1][2], scores[2 * step + 1][3])};
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t b[4];
        const int key = 16 * step + lane % 16, column = 16 * pair + lane / 16 * 8;
        ldmatrix_x4_trans(b, v_tiles[stage] + key * A::stride + column);
        mma_bf16_m16n8k16(output[2 * pair], weights, b[0], b[1]);
        mma_bf16_m16n8k16(output[2 * pair + 1], weights, b[2], b[3]);
      }
    }
    if constexpr (flaw != Flaw::missing_barrier_after_use) __syncthreads();
  }
  if constexpr (flaw != Flaw::missing_wait) cp_async_wait<0>();

  for (int half = 0; half < 2; ++half) {
    for (int distance = 1; distance < 4; distance *= 2)
      total[half] += __shfl_xor_sync(full_mask, total[half], distance);
    const int row = first_query + 16 * warp + lane / 4 + 8 * half;
    if (row >= n) continue;
    for (int j = 0; j < 4; ++j)
      for (int i = 0; i < 2; ++i)
        out[row * A::width + 8 * j + 2 * (lane % 4) + i] = output[j][2 * half + i] / total[half];
  }
}

// ---- small ones ----

TESSERA_KERNEL void different_barriers_kernel(float* out) {
  if (threadIdx.x < 64)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}
// clang-format off
TESSERA_KERNEL void barriers_of_one_line_kernel(float* out) {
  if (threadIdx.x < 64) __syncthreads(); else __syncthreads();
  out[threadIdx.x] = 1;
}
// clang-format on
TESSERA_KERNEL void divergent_loop_kernel(float* out) {
  float value = float(threadIdx.x);
  for (unsigned i = 0; i <= threadIdx.x / 16; ++i) value += __shfl_xor_sync(full_mask, value, 1);
  out[threadIdx.x] = value;
}
TESSERA_KERNEL void shuffle_as_barrier_kernel(float* out) {
  TESSERA_SHARED(float, shared, 64);
  shared[threadIdx.x] = float(threadIdx.x);
  const float one = __shfl_xor_sync(full_mask, 1.0f, 1);
  out[threadIdx.x] = shared[threadIdx.x ^ 1] * one;
}
/// Whether a float4 is read before the barrier that its writer's store needs.
template <bool barrier>
TESSERA_KERNEL void float4_kernel(float4* out, const float4* in) {
  TESSERA_SHARED(float4, shared, 64);
  shared[threadIdx.x] = in[threadIdx.x];
  if constexpr (barrier) __syncthreads();
  out[threadIdx.x] = shared[(threadIdx.x + 33) % 64];
}
template <bool barrier>
TESSERA_KERNEL void memcpy_kernel(float* out, const float* in) {
  TESSERA_SHARED(float, shared, 64 * 16);
  memset(shared + threadIdx.x * 16, 0, 64);  // so that what is read too early has been written
  __syncthreads();
  memcpy(shared + threadIdx.x * 16, in + threadIdx.x * 16, 64);
  if constexpr (barrier) __syncthreads();
  memcpy(out + threadIdx.x * 16, shared + (threadIdx.x + 33) % 64 * 16, 64);
}
TESSERA_KERNEL void local_overflow_kernel(float* out, int n) {
  float values[8];
  for (int i = 0; i < 8; ++i) values[i] = float(i);
  for (int i = 0; i < n; ++i) values[i] += 1;
  out[threadIdx.x] = values[threadIdx.x % 8];
}
TESSERA_KERNEL void shift_kernel(unsigned* out, int distance) { out[threadIdx.x] = 1u << (threadIdx.x + distance); }
TESSERA_KERNEL void null_kernel(float* out) {
  float* nothing = out - reinterpret_cast<uintptr_t>(out) / sizeof(float);
  nothing[threadIdx.x] = 1;
}
TESSERA_KERNEL void copy_kernel(float* out, const float* in) { out[threadIdx.x] = in[threadIdx.x]; }

}  // namespace flawed
