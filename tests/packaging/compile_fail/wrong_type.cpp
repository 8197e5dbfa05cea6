// flags: -std=c++20 -fopenmp
// says: layernorm
#include <tessera/ops/layernorm.hpp>

// Norm parameters of bfloat16 activations are float.
auto f(tessera::Context<tessera::Cpu>& ctx, tessera::Tensor<tessera::bfloat16, 3> x,
       tessera::Tensor<tessera::bfloat16, 1> weight) {
  return layernorm(ctx, view(x), weight, {});
}
