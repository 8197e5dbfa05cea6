// launch("name", kernel<T>, grid, block, shared_bytes, ctx, arguments…): the one way in which tessera starts a kernel,
// on the GPU and in the emulator. The name appears in errors, reports and counters. The arguments are converted to the
// kernel's parameters and copied.
#pragma once
#include <tessera/device/vocabulary.cuh>

#if defined(__CUDACC__)
#include <tessera/cuda/context.hpp>

namespace tessera::kernels {
inline namespace cuda_provider {

/// The shared memory that a block may have on this device: 163 KiB on sm_80, 227 on sm_90, 99 on 8.6, 8.9 and 12.0.
inline size_t most_shared_bytes(const Context<Cuda>&) {
  int device = 0, bytes = 0;
  cuda::check(cudaGetDevice(&device), "the current CUDA device");
  cuda::check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
              "the shared memory of a block");
  return size_t(bytes);
}

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
                      " bytes of shared memory failed (this GPU gives a block at most ", most_shared_bytes(ctx),
                      " together with the kernel's own arrays): ", cudaGetErrorString(status));
  };
  // Without asking, a block gets 48 KiB together with the kernel's own arrays, whose size is not known here.
  if (shared_bytes > 0)
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

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

/// Host: the blocks of a launch in which each does `of_block` of `work`. Throws ShapeError where no grid has so many.
inline unsigned blocks_for(int64_t work, int64_t of_block) {
  constexpr int64_t most = (int64_t(1) << 31) - 1;
  const int64_t blocks = ceil_div(work, of_block);
  require<ShapeError>(blocks <= most, "kernels: ", work, " pieces of work need ", blocks, " blocks; a launch has ",
                      most, " at most (cut the tensors)");
  return unsigned(blocks);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
