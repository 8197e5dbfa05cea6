// Clipping by the global norm: all gradients are scaled by one factor where their norm together is too large. The
// factor is handed to the optimiser's step, so that gradients are read once more and never written.
#pragma once
#include <cmath>

#include <tessera/ops/adamw.hpp>
#include <tessera/optim/parameter_list.hpp>

namespace tessera::optim {

/// The L2 norm of all gradients together; parameters without a gradient count as zero. Summed in double, block by block
/// and then over blocks in order: the same bits at any thread count. The host waits for it.
template <class Device>
double gradient_norm(Context<Device>& ctx, const BasicParameterList<Device>& parameters) {
  std::vector<AdamWTensor> tensors;
  for (const auto& parameter : parameters)
    tensors.push_back({.gradient = parameter.gradient(),
                       .size = parameter.size(),
                       .dtype = parameter.dtype(),
                       .gradient_dtype = parameter.gradient_dtype()});
  const Tensor<double, 0, Device> norm(ctx, {});
  gradient_norm_forward(ctx, view(norm), tensors);
  return to_host(view(norm))[0];
}
inline double gradient_norm(const ParameterList& parameters) {
  Context<Cpu> ctx;
  return gradient_norm(ctx, parameters);
}

/// What gradients of this norm are multiplied by: 1, or what brings them to `largest_norm` (with PyTorch's 1e-6 in the
/// denominator).
inline double clip_factor(double norm, double largest_norm) { return std::min(1.0, largest_norm / (norm + 1e-6)); }

}  // namespace tessera::optim
