// The convolution of the device whose kernels this file is compiled for: cuDNN's, or on the emulated device Cpu's.
#pragma once
#if defined(__CUDACC__)
#include <tessera/cuda/conv2d.hpp>
#else
#include <tessera/simt/conv2d.hpp>
#endif
