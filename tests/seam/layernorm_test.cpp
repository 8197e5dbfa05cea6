// One operation, two devices: the public layernorm reaches a CUDA kernel's source compiled by the host compiler (and, in
// tests/seam/layernorm.cu, by nvcc). The kernel's header comes after the operation's, on purpose: the backend is found at
// instantiation.
#include <tessera/ops/layernorm.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

#include "layernorm.cuh"

using namespace tessera;
using namespace tessera_test;

TEMPLATE_TEST_CASE("seam: the kernel of layernorm agrees with Cpu", "[seam]", float, bfloat16) {
  using T = TestType;
  Context<Cpu> ctx;
  Context<Simt> kernel_ctx;
  for (int64_t channels : {1, 63, 64, 65, 197}) {
    auto x = random_tensor<T, 2>(ctx, {3, channels}, 1);
    auto weight = random_tensor<float, 1>(ctx, {channels}, 2), bias = random_tensor<float, 1>(ctx, {channels}, 3);
    const auto expected = layernorm(ctx, x, weight, bias);
    const auto y = layernorm(kernel_ctx, Tensor<T, 2, Simt>::from_host(kernel_ctx, {3, channels}, to_host(view(x))),
                             Tensor<float, 1, Simt>::from_host(kernel_ctx, {channels}, to_host(view(weight))),
                             Tensor<float, 1, Simt>::from_host(kernel_ctx, {channels}, to_host(view(bias))));
    INFO("channels " << channels);
    CHECK(largest_difference(to_host(view(y)), to_host(view(expected))) < (std::is_same_v<T, float> ? 2e-6 : 8e-3));
  }
}

TEST_CASE("seam: checks come before the kernel, whatever the device", "[seam]") {
  Context<Simt> ctx;
  Tensor<float, 2, Simt> x(ctx, {2, 8});
  Tensor<float, 1, Simt> weight(ctx, {7}), bias(ctx, {8});
  REQUIRE_ERROR(layernorm(ctx, x, weight, bias), ShapeError, "axis C of weight [7] is 7 but must be 8");
}
