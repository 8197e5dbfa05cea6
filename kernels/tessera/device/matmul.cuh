// The matrix product of the device whose kernels this file is compiled for: cuBLASLt's, or on the emulated device
// Cpu's.
#pragma once
#if defined(__CUDACC__)
#include <tessera/cuda/matmul.hpp>
#else
#include <tessera/simt/matmul.hpp>
#endif
