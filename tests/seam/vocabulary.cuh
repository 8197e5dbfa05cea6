// The smallest set of words that lets one kernel source be compiled by nvcc for a GPU and by the host compiler for a
// check on the CPU, where each CUDA thread is a thread of the system. It proves the seam of core/device.hpp until the
// emulated device takes its place.
#pragma once
#include <tessera/core/tensor.hpp>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define TESSERA_PROVIDER cuda_provider
#define TESSERA_KERNEL __global__
#define TESSERA_DEVICE __device__ __forceinline__
#define TESSERA_SHARED(T, name, n) __shared__ T name[n]

namespace tessera {
template <>
struct Memory<Cuda> {
  static void check(cudaError_t status, const char* what) {
    require<Error>(status == cudaSuccess, what, ": ", cudaGetErrorString(status));
  }
  static void* allocate(size_t bytes) {
    void* data = nullptr;
    check(cudaMalloc(&data, bytes), "cudaMalloc");
    return data;
  }
  static void release(void* data) noexcept { cudaFree(data); }
  static void fill(void* to, int byte, size_t bytes) { check(cudaMemset(to, byte, bytes), "cudaMemset"); }
  static void to_host(void* to, const void* from, size_t bytes) {
    check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
  }
  static void from_host(void* to, const void* from, size_t bytes) {
    check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
};
template <>
struct Context<Cuda> {
  std::shared_ptr<Pool<Cuda>> pool = std::make_shared<Pool<Cuda>>();
  RandomState random;
  cudaStream_t stream = nullptr;
};
namespace kernels {
inline namespace cuda_provider {
using KernelDevice = Cuda;
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), unsigned grid, unsigned block, Context<Cuda>& ctx, A... arguments) {
  kernel<<<grid, block, 0, ctx.stream>>>(static_cast<P>(arguments)...);
  Memory<Cuda>::check(cudaGetLastError(), name);
}
}  // namespace cuda_provider
}  // namespace kernels
}  // namespace tessera

#else
#include <barrier>
#include <thread>
#include <vector>
#define TESSERA_PROVIDER thread_provider
#define TESSERA_KERNEL static
#define TESSERA_DEVICE inline
#define TESSERA_SHARED(T, name, n) \
  T(&name)[n] = *reinterpret_cast<T(*)[n]>(tessera::kernels::thread_provider::current_block->shared)

namespace tessera {
template <>
struct Memory<Simt> : Memory<Cpu> {};
template <>
struct Context<Simt> {
  std::shared_ptr<Pool<Simt>> pool = std::make_shared<Pool<Simt>>();
  RandomState random;
};
namespace kernels {
// CUDA's words live in this namespace, never in the global one: a program may include CUDA's headers too.
inline namespace thread_provider {
using KernelDevice = Simt;
struct Index {
  unsigned x = 0, y = 0, z = 0;
};
inline thread_local Index threadIdx, blockIdx, blockDim;
struct Block {
  explicit Block(unsigned threads) : exchange(threads), barrier(threads) {}
  alignas(64) unsigned char shared[8192];
  std::vector<float> exchange;
  std::barrier<> barrier;
};
inline thread_local Block* current_block = nullptr;
inline void __syncthreads() { current_block->barrier.arrive_and_wait(); }
inline float __shfl_xor_sync(unsigned, float value, unsigned lane_mask) {
  current_block->exchange[threadIdx.x] = value;
  __syncthreads();
  const float other = current_block->exchange[threadIdx.x ^ lane_mask];
  __syncthreads();
  return other;
}
inline float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }
template <class... P, class... A>
void launch(const char*, void (*kernel)(P...), unsigned grid, unsigned block, Context<Simt>&, A... arguments) {
  for (unsigned number = 0; number < grid; ++number) {
    Block state(block);
    std::vector<std::jthread> threads;
    for (unsigned thread = 0; thread < block; ++thread)
      threads.emplace_back([=, &state] {
        threadIdx = {thread};
        blockIdx = {number};
        blockDim = {block};
        current_block = &state;
        kernel(static_cast<P>(arguments)...);
      });
  }
}
}  // namespace thread_provider
}  // namespace kernels
}  // namespace tessera
#endif
