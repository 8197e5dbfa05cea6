// flags: -std=c++20 -fopenmp
// says: tessera: this operation has no implementation for this device here
#include <tessera/ops/softmax.hpp>

void f(tessera::Context<tessera::Cpu>& ctx) {
  tessera::Backend<struct unknown_operation, tessera::Cpu>::template forward<float>(ctx);
}
