// The words that a kernel may use beside CUDA's own. One kernel source is compiled by nvcc for a GPU and by the host
// compiler for the emulator of simt/; this file picks the provider of the words and adds those that need none.
//
// Kernels live in namespace tessera::kernels (or say `using namespace tessera::kernels`), inside
// `inline namespace TESSERA_PROVIDER` where they belong to tessera, so that both compilations fit into one program.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include <tessera/core/dtype.hpp>

#if defined(__CUDACC__)
#include <tessera/device/ptx.cuh>
#else
#include <tessera/device/emulated.cuh>
#endif

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

/// Lanes of a warp, and the mask that names all of them.
inline constexpr int warp_size = 32;
inline constexpr unsigned full_mask = 0xffffffffu;
/// The shared memory that every GPU from sm_80 on gives a block, for kernels that are to run on all of them.
inline constexpr size_t least_shared_bytes = 99 * 1024;

/// Consecutive elements that move as one load or store of up to 16 bytes; the address must be a multiple of the size.
template <class T, int Count = int(16 / sizeof(T))>
struct alignas(sizeof(T) * Count) Pack {
  static_assert(sizeof(T) * Count <= 16, "tessera: one load moves at most 16 bytes");
  static constexpr int count = Count;
  T values[Count];
  TESSERA_DEVICE T& operator[](int i) { return values[i]; }
  TESSERA_DEVICE const T& operator[](int i) const { return values[i]; }
};

/// One load of a whole pack; `from` is aligned to the pack's size.
template <class T, int Count = int(16 / sizeof(T))>
TESSERA_DEVICE Pack<T, Count> load_pack(const T* from TESSERA_CALLER) {
  return provider_load<Pack<T, Count>>(from TESSERA_PASS_CALLER);
}
/// One store of a whole pack; `to` is aligned to the pack's size.
template <class T, int Count>
TESSERA_DEVICE void store_pack(T* to, const Pack<T, Count>& pack TESSERA_CALLER) {
  provider_store(to, pack TESSERA_PASS_CALLER);
}

/// Two bfloat16 in one register, as mma takes them: `low` in bits 0-15.
TESSERA_DEVICE float unpack_bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
TESSERA_DEVICE float unpack_bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

/// The smallest multiple of `step` that is not below `n`, and how many steps that is.
TESSERA_HOST_DEVICE constexpr int64_t ceil_div(int64_t n, int64_t step) { return (n + step - 1) / step; }
TESSERA_HOST_DEVICE constexpr int64_t round_up(int64_t n, int64_t step) { return ceil_div(n, step) * step; }

/// Host: whether rows of `length` elements of T that begin at these addresses can be read in packs of 16 bytes.
template <class T>
bool fits_packs(int64_t length, std::initializer_list<const void*> addresses) {
  if (length % Pack<T>::count != 0) return false;
  for (const void* address : addresses)
    if (reinterpret_cast<uintptr_t>(address) % 16 != 0) return false;
  return true;
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
