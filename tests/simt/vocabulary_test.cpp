// The whole vocabulary, used from a user's namespace, beside CUDA's own headers where they are installed.
#if __has_include(<cuda_runtime.h>)
#include <cuda_runtime.h>
#endif
#include "simt/vocabulary.cuh"
#include "support/catch.hpp"
#include "support/kernels.hpp"

using namespace tessera;
using namespace tessera_test;

TEST_CASE("vocabulary: CUDA's words mean what CUDA says", "[simt]") {
  Context<Simt> ctx;
  for (simt::Order order : simt::all_orders) {
    const InOrder setting(order);
    auto out = Tensor<float, 1, Simt>::zeros(ctx, {64});
    auto counters = Tensor<int, 1, Simt>::from_host(ctx, {10}, {0, 0, 99, 0, -1, 0, 0, 0, 0, 0});
    kernels::launch("cuda_words", users::cuda_words_kernel, 1u, unsigned(users::traits::threads), 0, ctx, out.data,
                    counters.data);
    const auto values = to_host(out);
    constexpr float others = 5 + 1 + 1 + 1 + 7 + 1 + 1 + 1 + 1 + 10 + (4 + 31 + 3 + 2 + 63) + (1 + 2 + 2) + 2 +
                             (3 + 1) + 4 + 2 + 4.5f + 5 + 3 + 6;
    for (size_t i = 0; i < 64; ++i) CHECK(values[i] == others + float((i + 1) % 64));
    CHECK(to_host(counters) == std::vector<int>{64, -64, 0, 63, 0, -1, 0, 7, 9, 0x42000000});  // the last: 32.0f
  }
}

TEST_CASE("vocabulary: tessera's words", "[simt]") {
  Context<Simt> ctx;
  std::vector<float> in(256), doubled(256);
  for (size_t i = 0; i < 256; ++i) {
    in[i] = float(i);
    doubled[i] = 2 * in[i];
  }
  const auto in_device = Tensor<float, 1, Simt>::from_host(ctx, {256}, in);
  for (simt::Order order : simt::all_orders) {
    const InOrder setting(order);
    Tensor<float, 1, Simt> out(ctx, {257});
    kernels::launch("tessera_words", users::tessera_words_kernel, 1u, unsigned(users::traits::threads),
                    users::traits::shared_bytes, ctx, out.data, in_device.data);
    auto values = to_host(out);
    CHECK(values.back() == 48 + 7 + 8 + 2 + 32 + 31 + 64 + 9);
    values.pop_back();
    CHECK(values == doubled);
  }
}
