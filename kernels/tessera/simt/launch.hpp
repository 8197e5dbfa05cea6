// launch() of the emulator: see device/launch.cuh.
#pragma once
#include <type_traits>
#include <utility>

#include <tessera/device/vocabulary.cuh>
#include <tessera/simt/device.hpp>

namespace tessera::kernels {
inline namespace simt_provider {

// A tuple that may be copied byte by byte, as a GPU's launch copies its arguments.
template <size_t Index, class T>
struct KernelArgument {
  T value;
};
template <class Indices, class... T>
struct KernelCall;
template <size_t... Index, class... T>
struct KernelCall<std::index_sequence<Index...>, T...> : KernelArgument<Index, T>... {
  void (*kernel)(T...);

  template <class... Argument>
  explicit KernelCall(void (*function)(T...), const Argument&... arguments)
      : KernelArgument<Index, T>{static_cast<T>(arguments)}..., kernel(function) {}
  void operator()() const { kernel(static_cast<const KernelArgument<Index, T>&>(*this).value...); }
};

/// The shared memory that a block may have on this device.
inline size_t most_shared_bytes(const Context<Simt>&) { return simt::settings().shared_bytes; }

/// Queues `kernel` on the context's stream. Throws simt::Fault where CUDA would refuse the launch; what the kernel does
/// wrong is thrown by the next synchronisation (as by Memory<Simt>::to_host).
template <class... Parameter, class... Argument>
void launch(const char* name, void (*kernel)(Parameter...), dim3 grid, dim3 block, size_t shared_bytes,
            Context<Simt>& ctx, const Argument&... arguments) {
  static_assert(sizeof...(Parameter) == sizeof...(Argument), "tessera: launch needs one argument a parameter");
  static_assert((std::is_trivially_copyable_v<Parameter> && ...),
                "tessera: a kernel's arguments are copied byte by byte");
  using Call = KernelCall<std::index_sequence_for<Parameter...>, Parameter...>;
  const Call call(kernel, arguments...);
  simt::detail::queue_launch(
      *ctx.stream, name, {{grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes},
      [](const void* given) { (*static_cast<const Call*>(given))(); }, &call, sizeof call);
}

}  // namespace simt_provider
}  // namespace tessera::kernels
