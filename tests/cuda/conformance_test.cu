// Whether the GPU's instructions do what the emulator says that they do. Kernels of one name for both devices are in
// this program. When this fails, the emulator is wrong or device/ptx.cuh is, and no other test of kernels means
// anything.
#include "cuda/conformance.cuh"
#include "support/catch.hpp"

using namespace tessera;

namespace {
bool near(uint32_t found_bits, uint32_t expected_bits, double tolerance) {
  if (found_bits == expected_bits) return true;
  if (tolerance == 0) return false;
  float found, expected;
  std::memcpy(&found, &found_bits, 4);
  std::memcpy(&expected, &expected_bits, 4);
  return std::abs(double(found) - double(expected)) <= tolerance * std::max(1.0, std::abs(double(expected)));
}
}  // namespace

TEST_CASE("conformance: every primitive gives what the emulator gives", "[cuda]") {
  Context<Cuda> ctx;
  const auto expected = conformance::emulated_results();
  const auto found = conformance::all_results(ctx);
  REQUIRE(found.size() == expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    INFO(expected[i].name);
    REQUIRE(found[i].bits.size() == expected[i].bits.size());
    size_t wrong = 0, first = 0;
    for (size_t j = found[i].bits.size(); j-- > 0;)
      if (!near(found[i].bits[j], expected[i].bits[j], expected[i].tolerance)) {
        ++wrong;
        first = j;
      }
    INFO(wrong << " of " << found[i].bits.size() << " words differ, the first is word " << first << ": "
               << found[i].bits[first] << " but " << expected[i].bits[first] << " on the emulator");
    CHECK(wrong == 0);
  }
}

TEST_CASE("conformance: CUDA's own words", "[cuda]") {
  Context<Cuda> ctx;
  auto out = Tensor<float, 1, Cuda>::zeros(ctx, {64});
  auto counters = Tensor<int, 1, Cuda>::from_host(ctx, {10}, {0, 0, 99, 0, -1, 0, 0, 0, 0, 0});
  kernels::launch("cuda_words", users::cuda_words_kernel, 1u, unsigned(users::traits::threads), 0, ctx, out.data,
                  counters.data);
  const auto values = to_host(out);
  // What simt/vocabulary_test.cpp adds up, beside each thread's own number.
  for (size_t i = 0; i < 64; ++i) CHECK(std::abs(values[i] - values[63] - float((i + 1) % 64)) < 1e-3);
  CHECK(to_host(counters) == std::vector<int>{64, -64, 0, 63, 0, -1, 0, 7, 9, 0x42000000});
}
