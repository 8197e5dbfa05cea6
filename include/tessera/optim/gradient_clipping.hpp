// Clipping by the global norm: all gradients are scaled by one factor where their norm together is too large. The
// factor is handed to the optimiser's step, so that gradients are read once more and never written.
#pragma once
#include <cmath>

#include <tessera/ops/adamw.hpp>
#include <tessera/optim/parameter_list.hpp>

namespace tessera::optim {

/// The L2 norm of all gradients together; parameters without a gradient count as zero. Summed in double, block by block
/// and then over blocks in order: the same bits at any thread count.
inline double gradient_norm(const ParameterList& parameters) {
  std::vector<AdamWTensor> tensors;
  for (const ParameterHandle& parameter : parameters)
    tensors.push_back({.gradient = parameter.gradient(),
                       .size = parameter.size(),
                       .dtype = parameter.dtype(),
                       .gradient_dtype = parameter.gradient_dtype()});
  Context<Cpu> ctx;
  double norm = 0;
  gradient_norm_forward(ctx, TensorView<double, 0>(&norm, {}), tensors);
  return norm;
}

/// What gradients of this norm are multiplied by: 1, or what brings them to `largest_norm` (with PyTorch's 1e-6 in the
/// denominator).
inline double clip_factor(double norm, double largest_norm) { return std::min(1.0, largest_norm / (norm + 1e-6)); }

}  // namespace tessera::optim
