// What the two halves of the program know of each other.
#pragma once
#include <string>
#include <vector>

#include <tessera/core/tensor.hpp>

/// layernorm of [3, 65] values, by the kernels on the emulated device.
std::vector<float> normalised_by_simt(const std::vector<float>& values);
/// The same by the kernels of the same names on the GPU; where there is none, `reason` says so.
std::vector<float> normalised_by_cuda(const std::vector<float>& values, std::string& reason);
