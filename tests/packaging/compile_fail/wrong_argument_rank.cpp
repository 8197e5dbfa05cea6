// flags: -std=c++20 -fopenmp
// says: layernorm
#include <tessera/ops/layernorm.hpp>

// The weight must have rank 1.
auto f(tessera::Context<tessera::Cpu>& ctx, tessera::Tensor<float, 3> x, tessera::Tensor<float, 2> weight) {
  return layernorm(ctx, view(x), weight, {});
}
