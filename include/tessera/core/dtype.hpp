// Element types. Matrices are stored as T (float, double, bfloat16, float16); sums, statistics, losses and parameter
// gradients are accumulate_t<T>. Arithmetic widens, stores narrow: y = narrow<T>(widen(a) + widen(b)).
#pragma once
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

#include <tessera/core/error.hpp>

namespace tessera {

/// The upper half of an IEEE float: 8 bits of exponent, 7 of fraction. Storage only.
struct bfloat16 {
  uint16_t bits;
};
/// IEEE half precision: 5 bits of exponent, 10 of fraction. Storage only.
struct float16 {
  uint16_t bits;
};

template <class T>
using accumulate_t = std::conditional_t<std::is_same_v<std::remove_const_t<T>, double>, double, float>;

TESSERA_HOST_DEVICE inline float widen(float v) { return v; }
TESSERA_HOST_DEVICE inline double widen(double v) { return v; }
TESSERA_HOST_DEVICE inline float widen(bfloat16 v) {
  const uint32_t word = uint32_t(v.bits) << 16;
  float f;
  memcpy(&f, &word, sizeof f);
  return f;
}
TESSERA_HOST_DEVICE inline float widen(float16 v) {
  const uint32_t sign = uint32_t(v.bits & 0x8000u) << 16, exponent = (v.bits >> 10) & 31u, fraction = v.bits & 1023u;
  uint32_t word;
  if (exponent == 31) {
    word = sign | 0x7f800000u | fraction << 13;
  } else if (exponent != 0) {
    word = sign | (exponent + 112) << 23 | fraction << 13;
  } else {  // zero and subnormals: fraction * 2^-24 is exact in float
    const float magnitude = float(fraction) * 5.9604644775390625e-8f;
    memcpy(&word, &magnitude, sizeof word);
    word |= sign;
  }
  float f;
  memcpy(&f, &word, sizeof f);
  return f;
}

namespace detail {
template <class T>
struct Narrow {
  template <class A>
  TESSERA_HOST_DEVICE static T from(A v) {
    return T(v);
  }
};
template <>
struct Narrow<bfloat16> {  // round to nearest even; NaN stays NaN
  TESSERA_HOST_DEVICE static bfloat16 from(float v) {
    uint32_t word;
    memcpy(&word, &v, sizeof word);
    const uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    return {uint16_t((word & 0x7fffffffu) > 0x7f800000u ? (word >> 16) | 0x40u : rounded)};
  }
};
template <>
struct Narrow<float16> {  // round to nearest even; overflow gives infinity
  TESSERA_HOST_DEVICE static float16 from(float v) {
    uint32_t word;
    memcpy(&word, &v, sizeof word);
    const uint32_t sign = (word >> 16) & 0x8000u, magnitude = word & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};
    if (magnitude < 0x38800000u) {  // below the smallest normal: let float addition round at 2^-24
      float f;
      memcpy(&f, &magnitude, sizeof f);
      f += 0.5f;
      uint32_t shifted;
      memcpy(&shifted, &f, sizeof shifted);
      return {uint16_t(sign | (shifted - 0x3f000000u))};
    }
    return {uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13))};
  }
};
}  // namespace detail

/// Rounds an accumulated value to the storage type T.
template <class T, class A>
TESSERA_HOST_DEVICE inline T narrow(A v) {
  return detail::Narrow<T>::from(v);
}

/// Element types by value, for files and optimisers. Names are those of the safetensors format.
enum class Dtype : uint8_t { f32, f64, bf16, f16, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

template <class T>
struct dtype_traits;  // specialised below for every storable type
#define TESSERA_DTYPE(type, value)              \
  template <>                                   \
  struct dtype_traits<type> {                   \
    static constexpr Dtype dtype = Dtype::value; \
  }
TESSERA_DTYPE(float, f32);
TESSERA_DTYPE(double, f64);
TESSERA_DTYPE(bfloat16, bf16);
TESSERA_DTYPE(float16, f16);
TESSERA_DTYPE(int64_t, i64);
TESSERA_DTYPE(int32_t, i32);
TESSERA_DTYPE(int16_t, i16);
TESSERA_DTYPE(int8_t, i8);
TESSERA_DTYPE(uint64_t, u64);
TESSERA_DTYPE(uint32_t, u32);
TESSERA_DTYPE(uint16_t, u16);
TESSERA_DTYPE(uint8_t, u8);
TESSERA_DTYPE(bool, boolean);
#undef TESSERA_DTYPE
template <class T>
inline constexpr Dtype dtype_of = dtype_traits<std::remove_const_t<T>>::dtype;

/// "F32", … as in safetensors files.
inline constexpr std::string_view dtype_name(Dtype d) {
  constexpr std::string_view names[] = {"F32", "F64", "BF16", "F16", "I64", "I32", "I16",
                                        "I8",  "U64", "U32",  "U16", "U8",  "BOOL"};
  return names[size_t(d)];
}
/// Bytes of one element.
inline constexpr size_t dtype_size(Dtype d) {
  constexpr size_t sizes[] = {4, 8, 2, 2, 8, 4, 2, 1, 8, 4, 2, 1, 1};
  return sizes[size_t(d)];
}

}  // namespace tessera
