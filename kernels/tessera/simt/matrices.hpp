// ldmatrix and mma, computed for a whole warp at once.
#pragma once
#include <tessera/simt/machine.hpp>

namespace tessera::simt {
void finish_load_matrices(Warp& warp);
void finish_multiply(Warp& warp);
}  // namespace tessera::simt
