// CUDA's and cuBLAS's status codes as exceptions. A call that fails says what was asked for and by whom.
#pragma once
#include <cuda_runtime_api.h>

#include <string>
#include <string_view>

#include <tessera/core/error.hpp>

namespace tessera::cuda {

/// A call that CUDA or one of its libraries refused. Most are final: a kernel that faulted spoils the whole process.
struct Fault : Error {
  using Error::Error;
};

/// Throws Fault unless the call succeeded: "layernorm_forward: an illegal memory access was encountered
/// (cudaErrorIllegalAddress)". `who` names the operation or what was being done.
inline void check(cudaError_t status, std::string_view who) {
  if (status == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // forgets what can be forgotten, so that the next call is not blamed for this one
  fail<Fault>(who, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
}

/// Why no kernel can run here (no driver, no GPU, one older than sm_80), or an empty string where one can.
inline std::string why_unavailable() {
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
    cudaGetLastError();
    return sentence("no CUDA device: ", cudaGetErrorString(status));
  }
  if (count == 0) return "no CUDA device: the driver finds none";
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "the current CUDA device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "compute capability");
  if (major < 8) return sentence("the CUDA device has compute capability ", major, ".", minor, " but 8.0 is needed");
  return {};
}

}  // namespace tessera::cuda
