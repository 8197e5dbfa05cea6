// launch("name", kernel<T>, grid, block, shared_bytes, ctx, arguments…): the one way in which tessera starts a kernel,
// on the GPU and in the emulator. The name appears in errors, reports and counters. The arguments are converted to the
// kernel's parameters and copied.
#pragma once
#include <tessera/device/vocabulary.cuh>

#if defined(__CUDACC__)
#include <tessera/cuda/context.hpp>

namespace tessera::kernels {
inline namespace cuda_provider {

/// Queues `kernel` on the context's stream. Throws cuda::Fault where CUDA refuses the launch.
template <class... Parameter, class... Argument>
void launch(const char* name, void (*kernel)(Parameter...), dim3 grid, dim3 block, size_t shared_bytes,
            Context<Cuda>& ctx, const Argument&... arguments) {
  static_assert(sizeof...(Parameter) == sizeof...(Argument), "tessera: launch needs one argument a parameter");
  const auto check = [&](cudaError_t status) {
    if (status == cudaSuccess) [[likely]]
      return;
    cudaGetLastError();
    fail<cuda::Fault>(name, ": the launch of ", grid.x, "x", grid.y, "x", grid.z, " blocks of ", block.x, "x", block.y,
                      "x", block.z, " threads with ", shared_bytes,
                      " bytes of shared memory failed: ", cudaGetErrorString(status));
  };
  constexpr size_t without_asking = 48 * 1024;
  if (shared_bytes > without_asking)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)));
  const auto start = [&](auto... values) {
    void* pointers[] = {static_cast<void*>(&values)..., nullptr};
    check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared_bytes,
                           ctx.stream->handle()));
  };
  start(static_cast<std::remove_cv_t<Parameter>>(arguments)...);
}

}  // namespace cuda_provider
}  // namespace tessera::kernels
#else
#include <tessera/simt/launch.hpp>
#endif
