// flags: -std=c++20 -fopenmp
// says: tessera: #include <tessera/cuda.hpp> for Context<Cuda>
#include <tessera/ops/softmax.hpp>

void f() { tessera::Context<tessera::Cuda> ctx; }
