// Small kernels, each for one rule of the emulator.
#pragma once
#include <tessera/device/launch.cuh>
#include <tessera/device/reduce.cuh>

namespace rules {
using namespace tessera::kernels;
using tessera::bfloat16;

// ---- order within a warp ----
/// Groups of 8 lanes, each with a mask of its own, in branches: true rendezvous, not the whole warp's.
TESSERA_KERNEL void groups_kernel(int* out) {
  const int lane = threadIdx.x, group = lane / 8;
  const unsigned mask = 0xffu << (8 * group);
  int value = lane;
  for (int round = 0; round <= group; ++round)  // as many rounds as the group's number
    for (int distance = 4; distance > 0; distance /= 2) value += __shfl_xor_sync(mask, value, distance, 8);
  out[lane] = value;
}
/// __syncwarp orders memory within its mask, and only there.
template <unsigned mask>
TESSERA_KERNEL void partial_sync_kernel(int* out) {
  TESSERA_SHARED(int, shared, 32);
  const int lane = threadIdx.x;
  shared[lane] = -1;
  __syncwarp();
  shared[lane] = lane;
  if (mask >> lane & 1u) __syncwarp(mask);
  out[lane] = lane < 8 ? shared[lane ^ 1] : 0;
}
/// Order passes on: 0 and 1 meet, then 1 and 2; so 2 may read what 0 wrote.
template <bool second_meeting>
TESSERA_KERNEL void chain_kernel(int* out) {
  TESSERA_SHARED(int, shared, 1);
  const int lane = threadIdx.x;
  if (lane == 3) shared[0] = 0;
  __syncwarp();
  if (lane == 0) shared[0] = 5;
  if (lane < 2) __syncwarp(0x3);
  if (second_meeting && (lane == 1 || lane == 2)) __syncwarp(0x6);
  if (lane == 2) out[0] = shared[0];
}
/// A write after reads: lane 1 reads before it meets lane 2, lane 0 does not meet it at all.
template <bool lane_0_reads>
TESSERA_KERNEL void write_after_reads_kernel(int* out) {
  TESSERA_SHARED(int, shared, 1);
  const int lane = threadIdx.x;
  if (lane == 0) shared[0] = 5;
  __syncwarp();
  int value = 0;
  if (lane == 1 || (lane_0_reads && lane == 0)) value = shared[0];
  if (lane == 1 || lane == 2) __syncwarp(0x6);
  if (lane == 2) shared[0] = 6;
  out[lane] = value;
}

// ---- order within a block and a grid ----
/// Neighbours exchange over and over, with a barrier for each direction.
template <bool second_barrier>
TESSERA_KERNEL void exchange_kernel(int* out) {
  TESSERA_SHARED(int, shared, 64);
  int value = threadIdx.x;
  for (int round = 0; round < 3; ++round) {
    shared[threadIdx.x] = value;
    __syncthreads();
    value = shared[(threadIdx.x + 33) % 64];
    if constexpr (second_barrier) __syncthreads();
  }
  out[threadIdx.x] = value;
}
/// Blocks that read what all read, and write what only they write.
TESSERA_KERNEL void own_part_kernel(int* out, const int* in) { out[blockIdx.x] = in[0]; }
TESSERA_KERNEL void neighbours_part_kernel(int* out) {
  out[blockIdx.x] = 1;
  if (blockIdx.x == 1) out[0] = 2;
}
TESSERA_KERNEL void read_then_written_kernel(int* data) {
  if (blockIdx.x < 2 && data[0] == 77) data[1] = 1;
  if (blockIdx.x == 2) data[0] = 5;
}
/// One byte a thread, side by side: no race.
TESSERA_KERNEL void bytes_kernel(uint8_t* out) { out[threadIdx.x] = uint8_t(threadIdx.x); }
/// Atomics of many, then a plain read of the sum by one of them.
template <bool barrier>
TESSERA_KERNEL void atomic_then_read_kernel(int* out) {
  TESSERA_SHARED(int, sum, 1);
  if (threadIdx.x == 0) sum[0] = 0;
  __syncthreads();
  atomicAdd(sum, 1);
  if constexpr (barrier) __syncthreads();
  if (threadIdx.x == 31) out[0] = sum[0];
}
/// Atomics of all blocks, then a plain read by one: its barrier orders its own additions, not the others'.
TESSERA_KERNEL void atomics_of_blocks_kernel(int* sum, int* out, bool read) {
  atomicAdd(sum, 1);
  __syncthreads();
  if (read && blockIdx.x == 2 && threadIdx.x == 0) out[0] = sum[0];
}

/// Halves of a block at the same barriers of one function, but by different calls of it.
TESSERA_KERNEL void two_calls_kernel(float* out) {
  TESSERA_SHARED(float, scratch, 2);
  float sum;
  if (threadIdx.x < 32)
    sum = block_sum<64>(1, scratch);
  else
    sum = block_sum<64>(2, scratch);
  out[threadIdx.x] = sum;
}

// ---- memory ----
TESSERA_KERNEL void read_kernel(float* out, const float* in, int offset) {
  out[threadIdx.x] = in[int(threadIdx.x) + offset];
}
TESSERA_KERNEL void add_one_kernel(float* data) { data[threadIdx.x] += 1; }
TESSERA_KERNEL void double_kernel(float* data) { data[threadIdx.x] *= 2; }
TESSERA_KERNEL void misaligned_pack_kernel(float* out, const float* in) { store_pack(out, load_pack(in + 1)); }
TESSERA_KERNEL void arena_kernel(float* out, int count) {
  SharedArena arena;
  float* part = arena.array<float>(count);
  part[threadIdx.x] = 1;
  out[threadIdx.x] = part[threadIdx.x];
}
/// The array is aligned to 16 bytes, and no better.
TESSERA_KERNEL void static_array_kernel(float* out) {
  TESSERA_SHARED(float, shared, 1024);
  shared[threadIdx.x] = float(reinterpret_cast<uintptr_t>(shared) % 32);
  out[threadIdx.x] = shared[threadIdx.x];
}
TESSERA_KERNEL void deep_kernel(float* out) {
  volatile char large[400000];
  for (int i = 399999; i >= 0; i -= 1000) large[i] = 1;
  out[threadIdx.x] = float(large[0]);
}
TESSERA_KERNEL void wrong_group_count_kernel(float* out, const float* in) {
  TESSERA_SHARED(float, shared, 8);
  cp_async16(shared, in);
  cp_async_commit();
  cp_async16(shared + 4, in + 4);
  cp_async_commit();
  cp_async_wait<1>();  // the first has arrived, the second has not
  out[0] = load_pack(shared)[0];
  out[1] = load_pack(shared + 4)[0];
  cp_async_wait<0>();
}
/// The thread itself changes what its copy may not have read yet.
TESSERA_KERNEL void changed_source_kernel(float* out, float* in) {
  TESSERA_SHARED(float, shared, 4);
  cp_async16(shared, in);
  cp_async_commit();
  in[1] = 5;
  cp_async_wait<0>();
  out[0] = shared[1];
}
inline int variable_of_the_host = 7;
inline constexpr int constants[4] = {1, 2, 3, 4};
TESSERA_KERNEL void reads_constant_kernel(int* out) { out[threadIdx.x] = constants[threadIdx.x % 4]; }
TESSERA_KERNEL void reads_variable_kernel(int* out) { out[threadIdx.x] = variable_of_the_host; }
TESSERA_KERNEL void writes_variable_kernel(int* out) {
  out[threadIdx.x] = 1;
  variable_of_the_host = out[0];
}
/// Rows of `stride` floats, read by column: a conflict for each row where the stride is a multiple of 32.
template <int stride>
TESSERA_KERNEL void column_kernel(float* out, const float* in) {
  TESSERA_SHARED(float, shared, 32 * stride);
  for (int row = 0; row < 32; ++row) shared[row * stride + threadIdx.x] = in[row * 32 + threadIdx.x];
  __syncthreads();
  out[threadIdx.x * 8] = shared[threadIdx.x * stride];
}
TESSERA_KERNEL void packs_kernel(float* out, const float* in) {
  store_pack(out + 4 * threadIdx.x, load_pack(in + 4 * threadIdx.x));
}

// ---- matrices: D = A B for A [16, K] and B [K, 8], by ldmatrix and mma as in attention ----
TESSERA_KERNEL void product_bf16_kernel(float* d, const bfloat16* a, const bfloat16* b_transposed, const bfloat16* b) {
  TESSERA_SHARED(bfloat16, a_tile, 16 * 16);
  TESSERA_SHARED(bfloat16, bt_tile, 8 * 16);
  TESSERA_SHARED(bfloat16, b_tile, 16 * 8);
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  for (int i = lane; i < 256; i += 32) a_tile[i] = a[i];
  for (int i = lane; i < 128; i += 32) {
    bt_tile[i] = b_transposed[i];
    b_tile[i] = b[i];
  }
  __syncthreads();
  uint32_t fragment[4], straight[2], turned[2];
  ldmatrix_x4(fragment, a_tile + lane % 16 * 16 + lane / 16 * 8);
  ldmatrix_x2(straight, bt_tile + lane % 8 * 16 + lane / 8 % 2 * 8);  // rows are columns of B
  ldmatrix_x2_trans(turned, b_tile + lane % 16 * 8);                  // rows are rows of B
  float sum[4] = {};
  mma_bf16_m16n8k16(sum, fragment, straight[0], straight[1]);
  mma_bf16_m16n8k16(sum, fragment, turned[0], turned[1]);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];  // 2 A B
}
TESSERA_KERNEL void product_tf32_kernel(float* d, const float* a, const float* b) {
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  const uint32_t fragment[4] = {to_tf32(a[g * 8 + t]), to_tf32(a[(g + 8) * 8 + t]), to_tf32(a[g * 8 + t + 4]),
                                to_tf32(a[(g + 8) * 8 + t + 4])};
  float sum[4] = {};
  mma_tf32_m16n8k8(sum, fragment, to_tf32(b[t * 8 + g]), to_tf32(b[(t + 4) * 8 + g]));
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

}  // namespace rules
