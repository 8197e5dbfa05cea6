// From host memory to a device: what is made on the host (pictures, token ids) goes to where a model lies.
#pragma once
#include <type_traits>

#include <tessera/core/tensor.hpp>

namespace tessera {

/// Carries host tensors to a device, in the order of the context's work; the host tensor may be changed or freed as
/// soon as the call returns. On Cpu the result is the tensor itself, which then shares its memory. On Cuda copies go
/// through page-locked buffers while the GPU computes. One thread at a time.
template <class Device>
class Staging {
 public:
  template <class T, int Rank>
  Tensor<T, Rank, Device> operator()(Context<Device>& ctx, const Tensor<T, Rank>& host) {
    if constexpr (std::is_same_v<Device, Cpu>)
      return host;
    else
      return Tensor<T, Rank, Device>::from_host(ctx, host.shape, host.data);
  }
};

}  // namespace tessera
