// What the tests of kernels share.
#pragma once
#include <vector>

#include <support/random.hpp>
#include <tessera/simt/device.hpp>

namespace tessera_test {

/// A copy of a Cpu tensor on another device.
template <class T, int Rank, class Device>
tessera::Tensor<T, Rank, Device> on_device(tessera::Context<Device>& ctx, const tessera::Tensor<T, Rank>& tensor) {
  return tessera::Tensor<T, Rank, Device>::from_host(ctx, tensor.shape, tensor.data);
}

/// Sets the emulator's order for as long as it lives.
class InOrder {
 public:
  explicit InOrder(tessera::simt::Order order, uint64_t seed = 1) : before_(tessera::simt::settings()) {
    tessera::simt::settings().order = order;
    tessera::simt::settings().seed = seed;
  }
  ~InOrder() { tessera::simt::settings() = before_; }
  InOrder(const InOrder&) = delete;
  InOrder& operator=(const InOrder&) = delete;

 private:
  tessera::simt::Settings before_;
};

}  // namespace tessera_test
