// The seam under nvcc: the same operation and kernel sources, instantiated for Cuda (compiled, not run).
#include <tessera/ops/layernorm.hpp>

#include "layernorm.cuh"

namespace tessera {
template auto layernorm(Context<Cuda>&, const TensorView<const float, 2, Cuda>&, In<float, 1, Cuda>, In<float, 1, Cuda>,
                        LayernormOptions);
template auto layernorm(Context<Cuda>&, const TensorView<const bfloat16, 3, Cuda>&, In<float, 1, Cuda>,
                        In<float, 1, Cuda>, LayernormOptions);
}  // namespace tessera
