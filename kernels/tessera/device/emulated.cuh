// The vocabulary for the emulator: CUDA's own words and tessera's, as plain functions of the host compiler. They live
// in an inline namespace, never in the global one, so that a program may include CUDA's headers as well.
//
// Words that CUDA defines but that mean nothing here are left out, so that a kernel that uses them does not compile:
// __activemask (which lanes run together is an accident) and the words without _sync.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <tessera/core/device.hpp>
#include <tessera/core/dtype.hpp>
#include <tessera/simt/calls.hpp>

#define TESSERA_PROVIDER simt_provider
#define TESSERA_KERNEL inline
#define TESSERA_DEVICE inline
#define TESSERA_LAUNCH_BOUNDS(...)
#if defined(__clang__)
#define TESSERA_UNROLL _Pragma("unroll")
#else
#define TESSERA_UNROLL _Pragma("GCC unroll 16")
#endif
#define TESSERA_NO_UNROLL
/// An array in shared memory of constant size, aligned to 16 bytes; all threads of a block see the same.
#define TESSERA_SHARED(T, name, count) \
  static const char name##_key = 0;    \
  T(&name)                             \
  [count] = *static_cast<T(*)[count]>( \
      ::tessera::simt::shared_array(&name##_key, sizeof(T) * (count), alignof(T), ::tessera::simt::Site::here()))
/// As the last parameter of a device function: where it was called, for the emulator's messages.
#define TESSERA_CALLER , ::tessera::simt::Site caller = ::tessera::simt::Site::here()
#define TESSERA_PASS_CALLER , caller
/// The same for a barrier, as its only argument: __syncthreads(TESSERA_CALLED). It is another barrier for every caller.
#define TESSERA_CALLED ::tessera::simt::Site::here().called_at(caller)

namespace tessera::kernels {
inline namespace simt_provider {

using KernelDevice = Simt;
using simt::Site;

// ---- vector types and the built-in variables ----
struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
constexpr int2 make_int2(int x, int y) { return {x, y}; }
constexpr int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
constexpr uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
constexpr uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
constexpr float2 make_float2(float x, float y) { return {x, y}; }
constexpr float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

extern constinit thread_local uint3 threadIdx, blockIdx;
extern constinit thread_local dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

// ---- barriers ----
inline void __syncthreads(Site caller = Site::here()) { simt::block_sync(simt::BlockOperation::sync, 0, caller); }
inline int __syncthreads_or(int predicate, Site caller = Site::here()) {
  return simt::block_sync(simt::BlockOperation::sync_or, predicate, caller);
}
inline int __syncthreads_and(int predicate, Site caller = Site::here()) {
  return simt::block_sync(simt::BlockOperation::sync_and, predicate, caller);
}
inline int __syncthreads_count(int predicate, Site caller = Site::here()) {
  return simt::block_sync(simt::BlockOperation::sync_count, predicate, caller);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, Site caller = Site::here()) { simt::warp_sync(mask, caller); }
// One thread runs at a time and its writes are seen at once, so fences have nothing to do; they order no access of
// another thread in the race detector's eyes either.
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- between the lanes of a warp ----
template <class T>
inline T shuffle(simt::WarpOperation operation, unsigned mask, T value, int argument, int width, Site caller) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "tessera: a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = simt::warp_shuffle(operation, mask, bits, argument, width, caller);
  memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, Site caller = Site::here()) {
  return shuffle(simt::WarpOperation::shuffle, mask, value, lane, width, caller);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, Site caller = Site::here()) {
  return shuffle(simt::WarpOperation::shuffle_up, mask, value, int(delta), width, caller);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, Site caller = Site::here()) {
  return shuffle(simt::WarpOperation::shuffle_down, mask, value, int(delta), width, caller);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, Site caller = Site::here()) {
  return shuffle(simt::WarpOperation::shuffle_xor, mask, value, lane_mask, width, caller);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, Site caller = Site::here()) {
  return simt::warp_vote(simt::WarpOperation::ballot, mask, predicate != 0, caller);
}
inline int __any_sync(unsigned mask, int predicate, Site caller = Site::here()) {
  return simt::warp_vote(simt::WarpOperation::any, mask, predicate != 0, caller) != 0;
}
inline int __all_sync(unsigned mask, int predicate, Site caller = Site::here()) {
  return simt::warp_vote(simt::WarpOperation::all, mask, predicate != 0, caller) == mask;
}
unsigned __activemask() = delete;  // which lanes happen to run together says nothing that a kernel may rely on

// ---- integers ----
inline int __popc(unsigned v) { return std::popcount(v); }
inline int __popcll(unsigned long long v) { return std::popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __clz(int v) { return std::countl_zero(unsigned(v)); }
inline int __clzll(long long v) { return std::countl_zero(static_cast<unsigned long long>(v)); }
inline unsigned __brev(unsigned v) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (v >> bit & 1u) << (31 - bit);
  return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using wide = unsigned __int128;
  return static_cast<unsigned long long>(wide(a) * b >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) << (shift & 31u) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) >> (shift & 31u));
}
template <class T>
concept Number = std::is_arithmetic_v<T>;
template <Number T>
constexpr T min(T a, T b) {
  return b < a || a != a ? b : a;  // a NaN is passed over, as by fminf
}
template <Number T>
constexpr T max(T a, T b) {
  return a < b || a != a ? b : a;
}

// ---- floating point; the rest (sqrtf, fmaxf, fmaf, tanhf, erff, …) is the C library's ----
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline float __int_as_float(int v) { return std::bit_cast<float>(v); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fdividef(float x, float y) { return x / y; }
#if defined(__GLIBC__)  // declares these names itself; simt/glibc.cpp defines them
using ::__cosf;
using ::__expf;
using ::__log2f;
using ::__logf;
using ::__powf;
using ::__sinf;
#else
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
#endif
inline float __saturatef(float x) { return x > 0.0f ? std::min(x, 1.0f) : 0.0f; }  // NaN gives 0
inline int __float2int_rn(float x) {                                               // saturates; NaN gives 0
  if (!(x == x)) return 0;
  if (x >= 2147483648.0f) return 2147483647;
  if (x < -2147483648.0f) return -2147483647 - 1;
  return int(std::nearbyint(x));
}

// ---- loads past the caches' habits ----
template <class T>
inline T __ldg(const T* from) {
  return *from;
}
template <class T>
inline T __ldcs(const T* from) {
  return *from;
}
template <class T>
inline void __stcs(T* to, T value) {
  *to = value;
}

// ---- atomics: each returns the old value; for the types for which CUDA has them ----
template <class T, class... Types>
concept OneOf = (std::same_as<T, Types> || ...);
using ulonglong = unsigned long long;

template <class T, class F>
inline T change_atomically(T* operand, Site caller, F&& change) {
  const uint64_t bits = simt::atomic_begin(operand, sizeof(T), caller);
  T old;
  memcpy(&old, &bits, sizeof old);
  const T changed = change(old);
  uint64_t changed_bits = 0;
  memcpy(&changed_bits, &changed, sizeof changed);
  simt::atomic_end(operand, sizeof(T), changed_bits);
  return old;
}
template <OneOf<int, unsigned, ulonglong, float, double> T>
inline T atomicAdd(T* operand, std::type_identity_t<T> value, Site caller = Site::here()) {
  return change_atomically(operand, caller, [=](T old) {
    if constexpr (std::is_same_v<T, int>)
      return int(unsigned(old) + unsigned(value));  // wraps on a GPU
    else
      return T(old + value);
  });
}
template <OneOf<int, unsigned> T>
inline T atomicSub(T* operand, std::type_identity_t<T> value, Site caller = Site::here()) {
  return change_atomically(operand, caller, [=](T old) { return T(unsigned(old) - unsigned(value)); });
}
template <OneOf<int, unsigned, long long, ulonglong> T>
inline T atomicMin(T* operand, std::type_identity_t<T> value, Site caller = Site::here()) {
  return change_atomically(operand, caller, [=](T old) { return std::min(old, value); });
}
template <OneOf<int, unsigned, long long, ulonglong> T>
inline T atomicMax(T* operand, std::type_identity_t<T> value, Site caller = Site::here()) {
  return change_atomically(operand, caller, [=](T old) { return std::max(old, value); });
}
template <OneOf<int, unsigned, ulonglong> T>
inline T atomicAnd(T* operand, std::type_identity_t<T> value, Site caller = Site::here()) {
  return change_atomically(operand, caller, [=](T old) { return T(old & value); });
}
template <OneOf<int, unsigned, ulonglong> T>
inline T atomicOr(T* operand, std::type_identity_t<T> value, Site caller = Site::here()) {
  return change_atomically(operand, caller, [=](T old) { return T(old | value); });
}
template <OneOf<int, unsigned, ulonglong> T>
inline T atomicXor(T* operand, std::type_identity_t<T> value, Site caller = Site::here()) {
  return change_atomically(operand, caller, [=](T old) { return T(old ^ value); });
}
template <OneOf<int, unsigned, ulonglong, float> T>
inline T atomicExch(T* operand, std::type_identity_t<T> value, Site caller = Site::here()) {
  return change_atomically(operand, caller, [=](T) { return value; });
}
template <OneOf<int, unsigned, ulonglong, unsigned short> T>
inline T atomicCAS(T* operand, std::type_identity_t<T> expected, std::type_identity_t<T> value,
                   Site caller = Site::here()) {
  return change_atomically(operand, caller, [=](T old) { return old == expected ? value : old; });
}
[[noreturn]] inline void __trap(Site caller = Site::here()) { simt::trap(caller); }

// ---- tessera's words: loads and stores of packs ----
template <class P, class T>
inline P provider_load(const T* from, Site caller) {
  P pack;
  simt::load(&pack, from, sizeof pack, caller);
  return pack;
}
template <class P, class T>
inline void provider_store(T* to, const P& pack, Site caller) {
  simt::store(to, &pack, sizeof pack, caller);
}

// ---- shared memory whose size the launch gives ----
/// `Count` equal parts of shared memory: parts[i] is the i-th. Forbidden bytes lie between them.
template <class T, unsigned Count>
struct StageList {
  T* parts[Count];
  T* operator[](int stage) const { return parts[stage]; }
};

/// Hands out the shared memory that the launch gave, in order. One a kernel; all threads ask for the same.
class SharedArena {
 public:
  template <class T>
  T* array(unsigned count, unsigned alignment = 16, Site caller = Site::here()) {
    return static_cast<T*>(part(size_t(count) * sizeof(T), alignment, caller));
  }
  template <class T, unsigned Count, unsigned Elements>
  StageList<T, Count> stages(Site caller = Site::here()) {
    static_assert(Elements * sizeof(T) % 16 == 0, "tessera: a stage must be a multiple of 16 bytes");
    StageList<T, Count> list;
    for (T*& stage : list.parts) stage = static_cast<T*>(part(Elements * sizeof(T), 16, caller));
    return list;
  }

 private:
  void* part(size_t bytes, size_t alignment, Site caller) {
    offset_ = (offset_ + alignment - 1) / alignment * alignment;
    void* data = simt::shared_part(index_++, offset_, bytes, caller);
    offset_ += bytes;
    return data;
  }
  size_t offset_ = 0;
  unsigned index_ = 0;
};

// ---- asynchronous copies ----
inline void cp_async16(void* shared, const void* global, bool valid = true, Site caller = Site::here()) {
  simt::copy_async(shared, global, valid, caller);
}
inline void cp_async_commit() { simt::copy_async_commit(); }
template <int Pending>
inline void cp_async_wait(Site caller = Site::here()) {
  simt::copy_async_wait(Pending, caller);
}

// ---- matrices from shared memory ----
inline void ldmatrix_x1(uint32_t (&r)[1], const void* row, Site caller = Site::here()) {
  simt::warp_load_matrices(r, row, 1, false, caller);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, Site caller = Site::here()) {
  simt::warp_load_matrices(r, row, 2, false, caller);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, Site caller = Site::here()) {
  simt::warp_load_matrices(r, row, 4, false, caller);
}
inline void ldmatrix_x1_trans(uint32_t (&r)[1], const void* row, Site caller = Site::here()) {
  simt::warp_load_matrices(r, row, 1, true, caller);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row, Site caller = Site::here()) {
  simt::warp_load_matrices(r, row, 2, true, caller);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, Site caller = Site::here()) {
  simt::warp_load_matrices(r, row, 4, true, caller);
}

// ---- products of small matrices ----
inline void mma_bf16_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                              Site caller = Site::here()) {
  const uint32_t b[2] = {b0, b1};
  simt::warp_multiply(simt::Multiply::bf16_m16n8k16, d, a, b, caller);
}
inline void mma_tf32_m16n8k8(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                             Site caller = Site::here()) {
  const uint32_t b[2] = {b0, b1};
  simt::warp_multiply(simt::Multiply::tf32_m16n8k8, d, a, b, caller);
}

// ---- conversions and approximations: correctly rounded here, a few units off on a GPU ----
inline uint32_t pack_bf16(float low, float high) {
  return uint32_t(narrow<bfloat16>(low).bits) | uint32_t(narrow<bfloat16>(high).bits) << 16;
}
inline uint32_t to_tf32(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits;  // infinity and NaN
  return (bits + 0x1000u) & 0xffffe000u;                 // nearest, ties away from zero
}
inline float exp2_approximate(float x) {
  const float y = std::exp2(x);
  return y < 1.1754943508222875e-38f ? 0.0f : y;  // subnormals as zero
}
inline float reciprocal_approximate(float x) {
  const float y = 1.0f / (std::fabs(x) < 1.1754943508222875e-38f ? std::copysign(0.0f, x) : x);  // subnormals as zero
  return std::fabs(y) < 1.1754943508222875e-38f ? std::copysign(0.0f, y) : y;
}
inline float tanh_approximate(float x) { return std::tanh(x); }

}  // namespace simt_provider
}  // namespace tessera::kernels
