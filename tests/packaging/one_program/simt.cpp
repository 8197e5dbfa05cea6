#include "both.hpp"

#include <tessera/kernels/layernorm.cuh>
#include <tessera/simt/device.hpp>

// The device's handles, beside the emulator, in a file for the host compiler.
#include <tessera/cuda.hpp>

std::vector<float> normalised_by_simt(const std::vector<float>& values) {
  using namespace tessera;
  Context<Simt> ctx;
  const auto x = Tensor<float, 2, Simt>::from_host(ctx, {3, 65}, values);
  const auto weight = Tensor<float, 1, Simt>::from_host(ctx, {65}, std::vector<float>(65, 2.0f));
  return to_host(layernorm(ctx, x, weight, Tensor<float, 1, Simt>::zeros(ctx, {65})));
}
