// A model behind a type-erased interface: what goes in and out is float in host memory; the model computes with
// elements of type T on the device of the context that loaded it.
#pragma once
#include <type_traits>

#include <tessera/core/context.hpp>
#include <tessera/core/tensor.hpp>

namespace tessera::systems::detail {

template <class To, class From, int Rank>
Tensor<To, Rank> converted(Context<Cpu>& ctx, const TensorView<From, Rank>& from) {
  Tensor<To, Rank> to(ctx, from.shape);
  for (int64_t i = 0; i < to.size(); ++i) to.data[i] = narrow<To>(accumulate_t<To>(widen(from.data[i])));
  return to;
}

template <class T, class Device>
class OnDevice {
 public:
  explicit OnDevice(const Context<Device>& device) : device_(device) {}

 protected:
  /// Where the model computes: on Cpu in the caller's context, so that threads may use one model.
  Context<Device>& device([[maybe_unused]] Context<Cpu>& ctx) const {
    if constexpr (std::is_same_v<Device, Cpu>)
      return ctx;
    else
      return device_;
  }
  template <class U, int Rank>
  Tensor<U, Rank, Device> upload(Context<Cpu>& ctx, const Tensor<U, Rank>& host) const {
    if constexpr (std::is_same_v<Device, Cpu>)
      return host;
    else
      return Tensor<U, Rank, Device>::from_host(device(ctx), host.shape, host.data);
  }
  template <int Rank>
  static Tensor<float, Rank> to_floats(Context<Cpu>& ctx, const Tensor<T, Rank, Device>& values) {
    if constexpr (std::is_same_v<Device, Cpu>)
      return converted<float>(ctx, view(values));
    else
      return converted<float>(ctx, view(Tensor<T, Rank>::from_host(ctx, values.shape, to_host(view(values)))));
  }
  /// Images as the tower takes them.
  Tensor<T, 4, Device> input(Context<Cpu>& ctx, const Tensor<float, 4>& images) const {
    return upload(ctx, converted<T>(ctx, view(images)));
  }

 private:
  mutable Context<Device> device_;  // shares the loading context's memory and stream
};

}  // namespace tessera::systems::detail
