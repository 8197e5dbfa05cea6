// flags: -std=c++20 -fopenmp
// says: tessera: one index an axis
#include <tessera/core/tensor.hpp>

float f(const tessera::Tensor<float, 2>& x) { return x(1, 2, 3); }
