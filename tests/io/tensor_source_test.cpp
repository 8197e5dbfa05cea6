// Conversion between stored and wanted types, sharded checkpoints, folders.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <tessera/io/tensor_source.hpp>

#include "io/folder.hpp"

using namespace tessera;
using namespace tessera::io;
using tessera_test::Folder;

namespace {

/// The value of sign, exponent and fraction fields, by the definition of IEEE 754.
double field_value(unsigned bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const unsigned exponent = (bits >> fraction_bits) & ((1u << exponent_bits) - 1u);
  const unsigned fraction = bits & ((1u << fraction_bits) - 1u);
  const double sign = (bits >> (exponent_bits + fraction_bits)) & 1u ? -1.0 : 1.0;
  if (exponent == (1u << exponent_bits) - 1u)
    return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(double(fraction), 1 - bias - fraction_bits);
  return sign * std::ldexp(double(fraction + (1u << fraction_bits)), int(exponent) - bias - fraction_bits);
}

/// Checks widening of all 65536 values of Half, narrowing back, and rounding at and beside every midpoint between
/// neighbours.
template <class Half>
void check_all_halves(int exponent_bits, int fraction_bits) {
  std::vector<Half> all(65536);
  for (unsigned bits = 0; bits < 65536; ++bits) all[bits].bits = uint16_t(bits);
  const AnyTensor stored = make_any<Half>({65536}, all);
  const std::vector<float> wide = to_vector<float>(stored, "halves");
  const std::vector<Half> back = to_vector<Half>(make_any<float>({65536}, wide), "floats");
  int wrong = 0;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const double expected = field_value(bits, exponent_bits, fraction_bits);
    if (std::isnan(expected)) {
      wrong += !std::isnan(wide[bits]) || !std::isnan(field_value(back[bits].bits, exponent_bits, fraction_bits));
    } else {
      wrong += double(wide[bits]) != expected || std::signbit(wide[bits]) != std::signbit(expected);
      wrong += back[bits].bits != bits;
    }
  }
  REQUIRE(wrong == 0);

  const unsigned infinity = ((1u << exponent_bits) - 1u) << fraction_bits;
  for (unsigned bits = 0; bits < infinity; ++bits) {
    // The neighbour above the largest finite value counts as the next power of two, as IEEE 754 rounds.
    const double low = field_value(bits, exponent_bits, fraction_bits);
    const double high = bits + 1 == infinity
                            ? 2.0 * field_value(infinity - (1u << fraction_bits), exponent_bits, fraction_bits)
                            : field_value(bits + 1, exponent_bits, fraction_bits);
    const float middle = float((low + high) / 2);
    const unsigned even = bits % 2 == 0 ? bits : bits + 1;
    for (const float sign : {1.0f, -1.0f}) {
      const unsigned sign_bit = sign < 0 ? 0x8000u : 0u;
      wrong += narrow<Half>(sign * middle).bits != (sign_bit | even);
      wrong += narrow<Half>(sign * std::nextafter(middle, 0.0f)).bits != (sign_bit | bits);
      wrong += narrow<Half>(sign * std::nextafter(middle, std::numeric_limits<float>::infinity())).bits !=
               (sign_bit | (bits + 1));
    }
  }
  REQUIRE(wrong == 0);
}

}  // namespace

TEST_CASE("conversion: all 65536 float16 values, and rounding to nearest even at every midpoint", "[io]") {
  check_all_halves<float16>(5, 10);
}

TEST_CASE("conversion: all 65536 bfloat16 values, and rounding to nearest even at every midpoint", "[io]") {
  check_all_halves<bfloat16>(8, 7);
}

TEST_CASE("conversion: floating types into each other, integers into integers", "[io]") {
  const AnyTensor doubles = make_any<double>({3}, {1.0, 0.1, 1e300});
  REQUIRE(to_vector<float>(doubles, "t") == std::vector<float>{1.0f, 0.1f, std::numeric_limits<float>::infinity()});
  REQUIRE(to_vector<double>(doubles, "t") == std::vector<double>{1.0, 0.1, 1e300});
  REQUIRE(to_vector<double>(make_any<float>({1}, {0.1f}), "t")[0] == double(0.1f));
  REQUIRE(to_vector<int32_t>(make_any<uint8_t>({2}, {0, 255}), "t") == std::vector<int32_t>{0, 255});
  REQUIRE(to_vector<int32_t>(make_any<int64_t>({1}, {-2147483648}), "t")[0] == -2147483648);

  REQUIRE_ERROR(to_vector<int32_t>(make_any<int64_t>({2}, {1, 2147483648}), "t"), ValueError,
                "t: element 1 is 2147483648, out of range of I32");
  REQUIRE_ERROR(to_vector<int64_t>(make_any<uint64_t>({1}, {18446744073709551615u}), "t"), ValueError, "out of range");
  REQUIRE_ERROR(to_vector<int32_t>(doubles, "t"), ValueError, "t is stored as F64, which is not converted to I32");
  REQUIRE_ERROR(to_vector<float>(make_any<int64_t>({1}, {1}), "t"), ValueError, "I64, which is not converted to F32");
}

TEST_CASE("conversion: large tensors are converted whole", "[io]") {
  std::vector<float> values(300'001);
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(i);
  const bool equal =
      to_vector<double>(make_any<float>({300'001}, values), "t") == std::vector<double>(values.begin(), values.end());
  REQUIRE(equal);
}

TEST_CASE("tensor source: reads into tensors of the wanted type and rank", "[io]") {
  const Folder folder;
  Context<Cpu> ctx;
  write_safetensors(folder / "m.safetensors", {{"w", make_any<float16>({2, 1}, {{0x3c00}, {0xc000}})}});
  const auto source = TensorSource::open(folder / "m.safetensors");
  const Tensor<float, 2> w = source.read<float, 2>(ctx, "w");
  REQUIRE(w.shape == Shape<2>{2, 1});
  REQUIRE(w(1, 0) == -2.0f);
  REQUIRE(source.dtype("w") == Dtype::f16);
  REQUIRE_ERROR((source.read<float, 1>(ctx, "w")), ShapeError, "tensor w: shape [2, 1] has rank 2, not 1");
  REQUIRE_ERROR((source.read<float, 1>(ctx, "v")), IoError, "m.safetensors: there is no tensor v");
  REQUIRE(to_any(w).as<float>() == w.data);
}

TEST_CASE("tensor source: a checkpoint in several files of the reference library", "[io]") {
  const auto folder = std::filesystem::path(TESSERA_TEST_DIR) / "golden/safetensors/sharded";
  for (const auto& path : {folder, folder / "model.safetensors.index.json"}) {
    const auto source = TensorSource::open(path);
    REQUIRE(source.names() == std::vector<std::string>{"a", "b", "c"});
    REQUIRE(source.read_vector<float>("a") == std::vector<float>{1, 2});
    REQUIRE(source.read_vector<int64_t>("b") == std::vector<int64_t>{3});
    REQUIRE(source.shape("c") == std::vector<int64_t>{2, 1});
    REQUIRE(source.read_vector<float>("c") == std::vector<float>{4, 5});
    REQUIRE(source.metadata().at("format") == "pt");
  }
}

TEST_CASE("tensor source: a damaged index gives a sentence", "[io]") {
  const Folder folder;
  const auto index = folder / "model.safetensors.index.json";
  const auto expect = [&](const std::string& text, const std::string& error) {
    INFO(error);
    tessera_test::write_bytes(index, text);
    REQUIRE_ERROR(TensorSource::open(folder.path()), IoError, error);
  };
  REQUIRE_ERROR(TensorSource::open(folder.path()), IoError, "neither model.safetensors nor");
  expect("{}", "weight_map is missing");
  expect(R"({"weight_map": []})", "weight_map must be an object");
  expect(R"({"weight_map": {"a": 1}})", "the file of a must be a string");
  expect(R"({"weight_map": {"a": "gone.safetensors"}})", "gone.safetensors: No such file");
  for (const char* name : {"../x.safetensors", "/etc/passwd", "..", ".", "", "a\\\\b", "a\\u0000b"})
    expect(std::string(R"({"weight_map": {"a": ")") + name + "\"}}", "is not the plain name of a file");
  write_safetensors(folder / "s.safetensors", {{"b", make_any<float>({1}, {1.0f})}});
  expect(R"({"weight_map": {"a": "s.safetensors"}})", "tensor a should be in s.safetensors but is not");
}
