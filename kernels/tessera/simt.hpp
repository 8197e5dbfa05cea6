// The Simt device and all kernels: include in one or more files that the host compiler compiles, and link
// tessera::simt.
#pragma once
#include <tessera/kernels.cuh>
#include <tessera/simt/device.hpp>
#include <tessera/simt/emulator.hpp>
