// flags: -std=c++20
// says: tessera: compile with OpenMP (-fopenmp)
#include <tessera/core/tensor.hpp>
