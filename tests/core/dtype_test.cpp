#include <bit>
#include <cmath>
#include <limits>

#include <tessera/core/dtype.hpp>
#include <tessera/core/random.hpp>

#include "support/catch.hpp"

using namespace tessera;

namespace {

// The value of a number with `fraction_bits` of fraction and an exponent field that is all ones for infinity.
double value_of(uint16_t bits, int fraction_bits, int bias) {
  const int exponent_bits = 15 - fraction_bits, exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1)
    return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  const double significand =
      exponent ? 1 + std::ldexp(double(fraction), -fraction_bits) : std::ldexp(double(fraction), -fraction_bits);
  return sign * std::ldexp(significand, (exponent ? exponent : 1) - bias);
}

/// All 65,536 values widen to what their bits mean; they, the midpoints between neighbours and the floats just beside
/// the midpoints round to nearest, ties to even.
template <class T>
void check_exhaustively(int fraction_bits, int bias) {
  int wrong = 0;
  const auto expect = [&](float from, uint16_t bits) { wrong += narrow<T>(from).bits != bits; };
  const uint16_t infinity = uint16_t(((1 << (15 - fraction_bits)) - 1) << fraction_bits);
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const T x{uint16_t(bits)};
    const double meant = value_of(x.bits, fraction_bits, bias);
    const float wide = widen(x);
    if (std::isnan(meant)) {
      wrong += !std::isnan(wide) || !std::isnan(widen(narrow<T>(wide)));
      continue;
    }
    wrong += double(wide) != meant || std::signbit(wide) != std::signbit(meant);
    expect(wide, x.bits);
    if ((bits & 0x7fff) >= infinity) continue;
    // The neighbour away from zero; beyond the largest, what would follow it.
    const bool last = (bits & 0x7fff) == infinity - 1u;
    const double step = std::abs(meant) - std::abs(value_of(uint16_t(bits - 1), fraction_bits, bias));
    const double next = (bits & 0x7fff) == 0 ? value_of(1, fraction_bits, bias)
                        : last               ? std::abs(meant) + step
                                             : std::abs(value_of(uint16_t(bits + 1), fraction_bits, bias));
    const double exact = (std::abs(meant) + next) / 2;
    if (double(float(exact)) != exact) continue;  // a midpoint below float's own steps
    const float sign = bits >> 15 ? -1.0f : 1.0f, middle = float(exact);
    const uint16_t even = uint16_t(bits & 1 ? bits + 1 : bits);
    expect(sign * middle, even);
    expect(sign * std::nextafter(middle, 0.0f), uint16_t(bits));
    expect(sign * std::nextafter(middle, std::numeric_limits<float>::infinity()), uint16_t(bits + 1));
  }
  CHECK(wrong == 0);
}
}  // namespace

TEST_CASE("dtype: bfloat16 widens exactly and rounds to nearest even, all values", "[core]") {
  check_exhaustively<bfloat16>(7, 127);
}
TEST_CASE("dtype: float16 widens exactly and rounds to nearest even, all values", "[core]") {
  check_exhaustively<float16>(10, 15);
}

TEST_CASE("dtype: NaN, infinity and overflow", "[core]") {
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(narrow<float16>(infinity).bits == 0x7c00);
  CHECK(narrow<float16>(-1e30f).bits == 0xfc00);
  CHECK(narrow<float16>(65519.0f).bits == 0x7bff);
  CHECK(narrow<float16>(65520.0f).bits == 0x7c00);
  CHECK(narrow<float16>(1e-9f).bits == 0);
  CHECK(narrow<bfloat16>(std::numeric_limits<float>::max()).bits == 0x7f80);
  for (uint32_t payload : {0x7f800001u, 0x7fffffffu, 0xff800001u}) {
    CHECK(std::isnan(widen(narrow<bfloat16>(std::bit_cast<float>(payload)))));
    CHECK(std::isnan(widen(narrow<float16>(std::bit_cast<float>(payload)))));
  }
}

TEST_CASE("dtype: names, sizes and accumulation types", "[core]") {
  static_assert(std::is_same_v<accumulate_t<bfloat16>, float> && std::is_same_v<accumulate_t<const double>, double>);
  static_assert(dtype_of<const float> == Dtype::f32 && dtype_of<bool> == Dtype::boolean);
  CHECK((dtype_name(Dtype::bf16) == "BF16" && dtype_size(Dtype::bf16) == sizeof(bfloat16)));
  CHECK((dtype_name(Dtype::boolean) == "BOOL" && dtype_size(Dtype::i64) == 8 && dtype_size(Dtype::u8) == 1));
}
