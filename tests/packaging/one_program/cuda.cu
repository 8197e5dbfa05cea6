#include "both.hpp"

#include <tessera/kernels/layernorm.cuh>

#include <tessera/cuda/graph.hpp>

std::vector<float> normalised_by_cuda(const std::vector<float>& values, std::string& reason) {
  using namespace tessera;
  reason = cuda::why_unavailable();
  if (!reason.empty()) return {};
  Context<Cuda> ctx;
  const auto x = Tensor<float, 2, Cuda>::from_host(ctx, {3, 65}, values);
  const auto weight = Tensor<float, 1, Cuda>::from_host(ctx, {65}, std::vector<float>(65, 2.0f));
  return to_host(layernorm(ctx, x, weight, Tensor<float, 1, Cuda>::zeros(ctx, {65})));
}
