// The Cuda device. In a file that nvcc compiles: the device and all kernels. In a file for the host compiler: the device
// alone, so that it may hold contexts, tensors, graphs and events, and call what files for nvcc define. Link
// tessera::cuda.
#pragma once
#include <tessera/cuda/blas.hpp>
#include <tessera/cuda/context.hpp>
#include <tessera/cuda/graph.hpp>
#if defined(__CUDACC__)
#include <tessera/kernels.cuh>
#endif
