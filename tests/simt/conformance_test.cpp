// The emulator's half of the conformance of primitives (tests/cuda/conformance_test.cu): its kernels are right in every
// order, and what can be said without a second opinion is said.
#include "cuda/conformance.cuh"
#include "support/catch.hpp"
#include "support/kernels.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
}  // namespace

TEST_CASE("conformance: the primitives give the same bits in every order of the emulator", "[simt]") {
  Context<Simt> ctx;
  const auto expected = conformance::all_results(ctx);
  CHECK(expected.size() == 12);
  for (const auto order : all_orders) {
    const InOrder in_order(order, 3);
    const auto found = conformance::all_results(ctx);
    for (size_t i = 0; i < expected.size(); ++i) {
      INFO(expected[i].name);
      CHECK(found[i].bits == expected[i].bits);
    }
  }
}

TEST_CASE("conformance: products of fragments are those of the matrices", "[simt]") {
  Context<Simt> ctx;
  const auto results = conformance::all_results(ctx);
  // tf32, m16n8k8. Lane l of four in a row: a0 is row l / 4, column l % 4; a1 eight rows below, a2 four columns right,
  // a3 both; b0 is row l % 4, column l / 4, b1 four rows below; d0, d1 are row l / 4, columns 2 (l % 4) and the next,
  // d2, d3 eight rows below.
  const auto in = conformance::small_integers(conformance::traits::shared_words, 6);
  double a[16][8], b[8][8], d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const float* own = in.data() + lane * conformance::traits::inputs;
    for (int i = 0; i < 4; ++i) {
      a[lane / 4 + 8 * (i % 2)][lane % 4 + 4 * (i / 2)] = own[i];
      d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = lane - 4 * i;
    }
    for (int i = 0; i < 2; ++i) b[lane % 4 + 4 * i][lane / 4] = own[4 + i];
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      double sum = d[row][column];
      for (int k = 0; k < 8; ++k) sum += a[row][k] * b[k][column];
      CHECK(double(as_float(results[1].bits[size_t(lane * 4 + i)])) == sum);
    }
}
