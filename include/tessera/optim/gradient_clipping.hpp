// Clipping by the global norm: all gradients are scaled by one factor where their norm together is too large. The
// factor is handed to the optimiser's step, so that gradients are read once more and never written.
#pragma once
#include <cmath>

#include <tessera/optim/parameter_list.hpp>

namespace tessera::optim {

/// The L2 norm of all gradients together; parameters without a gradient count as zero. Summed in double, block by block
/// and then over blocks in order: the same bits at any thread count.
inline double gradient_norm(const ParameterList& parameters) {
  std::vector<const void*> gradients;
  for (const ParameterHandle& parameter : parameters) gradients.push_back(parameter.gradient());
  const auto blocks =
      detail::blocks_of(detail::sizes_of(parameters), [&](size_t p) { return gradients[p] != nullptr; });
  const double squares = parallel_sum<double>(int64_t(blocks.size()), 1, [&](int64_t first, int64_t last) {
    double sum = 0;
    for (int64_t b = first; b < last; ++b) {
      const detail::Block& block = blocks[size_t(b)];
      detail::visit_floating(parameters[block.parameter].gradient_dtype(), [&]<class G>(G) {
        const G* gradient = static_cast<const G*>(gradients[block.parameter]);
#pragma omp simd reduction(+ : sum)
        for (int64_t i = block.begin; i < block.end; ++i) {
          const double g = double(widen(gradient[i]));
          sum += g * g;
        }
      });
    }
    return sum;
  });
  return std::sqrt(squares);
}

/// What gradients of this norm are multiplied by: 1, or what brings them to `largest_norm` (with PyTorch's 1e-6 in the
/// denominator).
inline double clip_factor(double norm, double largest_norm) { return std::min(1.0, largest_norm / (norm + 1e-6)); }

}  // namespace tessera::optim
