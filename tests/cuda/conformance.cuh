// Every word of the vocabulary that is an instruction, used once on numbers that tell one lane from another: the same
// kernels on the emulator and on a GPU must give the same bits, or for approximations nearly the same numbers.
#pragma once
#include <string>
#include <vector>

#include <simt/vocabulary.cuh>
#include <tessera/core/tensor.hpp>

namespace conformance {

/// What one primitive gave, as bits; `tolerance` is relative (absolute below 1) for floats, and 0 asks for equal bits.
struct Result {
  std::string name;
  std::vector<uint32_t> bits;
  double tolerance = 0;
};
/// All of them on the emulated device (conformance_emulated.cpp).
std::vector<Result> emulated_results();

inline namespace TESSERA_PROVIDER {
using namespace tessera::kernels;
using tessera::bfloat16;
using tessera::Context;
using tessera::Tensor;

struct traits {
  static constexpr int threads = 32, inputs = 8;         // a warp, with so many numbers a lane
  static constexpr int shared_words = threads * inputs;  // eight 8x8 matrices of 2-byte elements, as words
};

// ---- kernels: out[lane * words + i] ----
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) mma_bf16_kernel(uint32_t* out, const uint32_t* in) {
  const int lane = int(threadIdx.x);
  uint32_t a[4];
  float d[4];
  for (int i = 0; i < 4; ++i) {
    a[i] = in[lane * traits::inputs + i];
    d[i] = float(lane - 4 * i);
  }
  mma_bf16_m16n8k16(d, a, in[lane * traits::inputs + 4], in[lane * traits::inputs + 5]);
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = __float_as_uint(d[i]);
}

TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) mma_tf32_kernel(uint32_t* out, const float* in) {
  const int lane = int(threadIdx.x);
  uint32_t a[4];
  float d[4];
  for (int i = 0; i < 4; ++i) {
    a[i] = to_tf32(in[lane * traits::inputs + i]);
    d[i] = float(lane - 4 * i);
  }
  mma_tf32_m16n8k8(d, a, to_tf32(in[lane * traits::inputs + 4]), to_tf32(in[lane * traits::inputs + 5]));
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = __float_as_uint(d[i]);
}

/// Words of shared memory, each its own number; rows of 16 bytes in an order that no other lane has.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) ldmatrix_kernel(uint32_t* out, const uint32_t* in) {
  TESSERA_SHARED(uint32_t, rows, traits::shared_words);
  const int lane = int(threadIdx.x);
  for (int i = 0; i < traits::inputs; ++i) rows[i * traits::threads + lane] = in[i * traits::threads + lane];
  __syncthreads();
  const uint32_t* row = rows + (lane * 5 + 3) % traits::threads * 8 + lane / 16 * 4;
  uint32_t x1[1], x2[2], x4[4];
  uint32_t* to = out + lane * 14;
  ldmatrix_x1(x1, row);
  ldmatrix_x2(x2, row);
  ldmatrix_x4(x4, row);
  to[0] = x1[0];
  for (int i = 0; i < 2; ++i) to[1 + i] = x2[i];
  for (int i = 0; i < 4; ++i) to[3 + i] = x4[i];
  ldmatrix_x1_trans(x1, row);
  ldmatrix_x2_trans(x2, row);
  ldmatrix_x4_trans(x4, row);
  to[7] = x1[0];
  for (int i = 0; i < 2; ++i) to[8 + i] = x2[i];
  for (int i = 0; i < 4; ++i) to[10 + i] = x4[i];
}

/// Two groups in flight, one copy of each four that is not valid.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) cp_async_kernel(uint32_t* out, const uint32_t* in) {
  SharedArena arena;
  const auto stages = arena.stages<uint32_t, 2, 4 * traits::threads>();
  const int lane = int(threadIdx.x), other = (lane + 9) % traits::threads;
  for (int stage = 0; stage < 2; ++stage) {
    cp_async16(stages[stage] + 4 * lane, in + (stage * traits::threads + lane) * 4, lane % 4 != stage);
    cp_async_commit();
  }
  cp_async_wait<1>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) out[lane * 8 + i] = stages[0][4 * other + i];
  cp_async_wait<0>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) out[lane * 8 + 4 + i] = stages[1][4 * other + i];
}

TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) packs_kernel(uint32_t* out, const uint32_t* in) {
  const int lane = int(threadIdx.x);
  const auto four = load_pack(in + 4 * lane);
  const auto two = load_pack<uint32_t, 2>(in + 4 * lane + 2);
  Pack<uint32_t> mixed;
  for (int i = 0; i < 4; ++i) mixed[i] = four[i] ^ two[i % 2];
  store_pack(out + 4 * lane, mixed);
}

TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) pack_bf16_kernel(uint32_t* out, const float* in) {
  const int lane = int(threadIdx.x);
  for (int i = 0; i < traits::inputs; i += 2) {
    const float low = in[lane * traits::inputs + i], high = in[lane * traits::inputs + i + 1];
    const uint32_t pair = pack_bf16(low, high);
    out[lane * traits::inputs + i] = pair;
    out[lane * traits::inputs + i + 1] = __float_as_uint(unpack_bf16_low(pair) - unpack_bf16_high(pair));
  }
}
/// mma ignores the bits below tf32's fraction, so they are not compared.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) to_tf32_kernel(uint32_t* out, const float* in) {
  for (int i = 0; i < traits::inputs; ++i) {
    const int at = int(threadIdx.x) * traits::inputs + i;
    out[at] = to_tf32(in[at]) & 0xffffe000u;
  }
}
enum class Approximation { exp2, reciprocal, tanh };
template <Approximation which>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) approximation_kernel(uint32_t* out, const float* in) {
  for (int i = 0; i < traits::inputs; ++i) {
    const int at = int(threadIdx.x) * traits::inputs + i;
    float y;
    if constexpr (which == Approximation::exp2)
      y = exp2_approximate(in[at]);
    else if constexpr (which == Approximation::reciprocal)
      y = reciprocal_approximate(in[at]);
    else
      y = tanh_approximate(in[at]);
    out[at] = __float_as_uint(y);
  }
}
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) shuffles_kernel(uint32_t* out, const uint32_t* in) {
  const int lane = int(threadIdx.x);
  const uint32_t mine = in[lane];
  uint32_t* to = out + lane * 8;
  to[0] = __shfl_sync(full_mask, mine, (lane * 7 + 1) % 32);
  to[1] = __shfl_sync(full_mask, mine, 3, 8);
  to[2] = __shfl_up_sync(full_mask, mine, 3u);
  to[3] = __shfl_up_sync(full_mask, mine, 5u, 16);
  to[4] = __shfl_down_sync(full_mask, mine, 9u);
  to[5] = __shfl_down_sync(full_mask, mine, 2u, 4);
  to[6] = __shfl_xor_sync(full_mask, mine, 21);
  to[7] = __ballot_sync(full_mask, int(mine & 1u));
}
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(traits::threads) reductions_kernel(uint32_t* out, const float* in) {
  const float value = in[threadIdx.x];
  out[threadIdx.x * 2] = __float_as_uint(warp_sum(value));
  out[threadIdx.x * 2 + 1] = __float_as_uint(warp_max(value));
}

// ---- host ----
/// Numbers that differ, from a generator that is the same everywhere.
inline std::vector<uint32_t> random_words(size_t count, uint64_t seed) {
  std::vector<uint32_t> words(count);
  const tessera::RandomStream random{seed, 0, 0};
  for (size_t i = 0; i < count; ++i) words[i] = random.bits(i);
  return words;
}
/// Integers from -8 to 8: products and sums of them are exact in any order.
inline std::vector<float> small_integers(size_t count, uint64_t seed) {
  std::vector<float> values(count);
  const tessera::RandomStream random{seed, 0, 0};
  for (size_t i = 0; i < count; ++i) values[i] = float(int(random.below(i, 17)) - 8);
  return values;
}
/// Normal numbers times `scale`, with ties of rounding, subnormals, infinities and zeros among them.
inline std::vector<float> floats(size_t count, uint64_t seed, float scale, bool special) {
  std::vector<float> values(count);
  const tessera::RandomStream random{seed, 0, 0};
  for (size_t i = 0; i < count; ++i) values[i] = scale * random.normal(i);
  if (special) {
    const uint32_t bits[] = {0x00000000u, 0x80000000u, 0x7f800000u, 0xff800000u, 0x3f808000u, 0x3f818000u, 0x3f801000u,
                             0x3f803000u, 0x00000001u, 0x807fffffu, 0x7f7fffffu, 0xbf80ffffu, 0x3f7fffffu};
    for (size_t i = 0; i < std::size(bits); ++i) std::memcpy(&values[3 * i], &bits[i], 4);
  }
  return values;
}

template <class In, class Kernel>
Result run(Context<KernelDevice>& ctx, const char* name, Kernel kernel, const std::vector<In>& in, int words_of_lane,
           double tolerance = 0, size_t shared_bytes = 0) {
  const auto input = Tensor<In, 1, KernelDevice>::from_host(ctx, {int64_t(in.size())}, in);
  Tensor<uint32_t, 1, KernelDevice> out(ctx, {int64_t(traits::threads) * words_of_lane});
  launch(name, kernel, 1u, unsigned(traits::threads), shared_bytes, ctx, out.data, input.data);
  return {name, tessera::to_host(out), tolerance};
}

inline std::vector<Result> all_results(Context<KernelDevice>& ctx) {
  constexpr size_t words = traits::shared_words;
  std::vector<uint32_t> bf16_pairs(words);
  const auto low = small_integers(words, 1), high = small_integers(words, 2);
  for (size_t i = 0; i < words; ++i)
    bf16_pairs[i] = uint32_t(tessera::narrow<bfloat16>(low[i]).bits) | uint32_t(tessera::narrow<bfloat16>(high[i]).bits)
                                                                           << 16;
  const auto bits = random_words(words, 3);
  const auto any = floats(words, 4, 3.0f, true), plain = floats(words, 5, 3.0f, false);
  std::vector<Result> results;
  results.push_back(run(ctx, "mma_bf16_m16n8k16", mma_bf16_kernel, bf16_pairs, 4));
  results.push_back(run(ctx, "mma_tf32_m16n8k8", mma_tf32_kernel, small_integers(words, 6), 4));
  results.push_back(run(ctx, "ldmatrix", ldmatrix_kernel, bits, 14));
  results.push_back(run(ctx, "cp_async16", cp_async_kernel, bits, 8, 0, 2 * 4 * traits::threads * sizeof(uint32_t)));
  results.push_back(run(ctx, "packs", packs_kernel, bits, 4));
  results.push_back(run(ctx, "pack_bf16", pack_bf16_kernel, plain, traits::inputs));
  results.push_back(run(ctx, "to_tf32", to_tf32_kernel, any, traits::inputs));
  // Errors that NVIDIA states for these instructions, with one more rounding.
  results.push_back(
      run(ctx, "exp2_approximate", approximation_kernel<Approximation::exp2>, plain, traits::inputs, 4e-7));
  results.push_back(run(ctx, "reciprocal_approximate", approximation_kernel<Approximation::reciprocal>, plain,
                        traits::inputs, 2.4e-7));
  results.push_back(
      run(ctx, "tanh_approximate", approximation_kernel<Approximation::tanh>, plain, traits::inputs, 6e-4));
  results.push_back(run(ctx, "shuffles", shuffles_kernel, bits, 8));
  results.push_back(run(ctx, "warp_sum and warp_max", reductions_kernel, plain, 2));
  return results;
}

}  // namespace TESSERA_PROVIDER
}  // namespace conformance
