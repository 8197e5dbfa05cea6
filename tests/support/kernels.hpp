// What the tests of kernels share. The same test runs on the emulated device and, compiled by nvcc from a file that
// only includes it, on a GPU.
#pragma once
#include <vector>

#include <support/random.hpp>
#include <tessera/core/tensor.hpp>
#include <tessera/device/launch.cuh>
#if !defined(__CUDACC__)
#include <tessera/simt/emulator.hpp>
#endif

namespace tessera_test {

/// The device that this file's kernels are compiled for: Simt or Cuda.
using Device = tessera::kernels::KernelDevice;

/// A copy of a Cpu tensor on another device.
template <class T, int Rank, class Target>
tessera::Tensor<T, Rank, Target> on_device(tessera::Context<Target>& ctx, const tessera::Tensor<T, Rank>& tensor) {
  return tessera::Tensor<T, Rank, Target>::from_host(ctx, tensor.shape, tensor.data);
}

#if defined(__CUDACC__)
using tessera::cuda::Fault;
/// Whether the device works on after a kernel stopped with a fault. A GPU does not: the process is lost to it.
inline constexpr bool survives_faults = false;
/// A GPU has its own order; running twice tells at least whether it matters.
enum class Order { ascending, descending, random };
inline constexpr std::array<Order, 2> all_orders = {Order::random, Order::random};

struct InOrder {
  explicit InOrder(Order, uint64_t = 1) {}
  ~InOrder() {}  // as if it did something, so that no compiler warns of an unused variable
};
/// A GPU's shared memory is what it is.
struct SharedLimit {
  explicit SharedLimit(size_t) {}
  ~SharedLimit() {}
};
#else
using tessera::simt::all_orders;
using tessera::simt::Fault;
inline constexpr bool survives_faults = true;
using tessera::simt::Order;

/// Sets the emulator's order for as long as it lives.
class InOrder {
 public:
  explicit InOrder(Order order, uint64_t seed = 1) : before_(tessera::simt::settings()) {
    tessera::simt::settings().order = order;
    tessera::simt::settings().seed = seed;
  }
  ~InOrder() { tessera::simt::settings() = before_; }
  InOrder(const InOrder&) = delete;
  InOrder& operator=(const InOrder&) = delete;

 private:
  tessera::simt::Settings before_;
};

/// Gives blocks on the emulator so much shared memory, for as long as it lives.
class SharedLimit {
 public:
  explicit SharedLimit(size_t bytes) : before_(tessera::simt::settings().shared_bytes) {
    tessera::simt::settings().shared_bytes = bytes;
  }
  ~SharedLimit() { tessera::simt::settings().shared_bytes = before_; }
  SharedLimit(const SharedLimit&) = delete;
  SharedLimit& operator=(const SharedLimit&) = delete;

 private:
  size_t before_;
};
#endif

}  // namespace tessera_test
