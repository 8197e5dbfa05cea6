// patch_entropy's kernels, for a GPU (nvcc) and for tessera's emulator (the host compiler): one source.
#pragma once
#include <tessera/device/launch.cuh>
#include <tessera/device/reduce.cuh>

#include "patch_entropy.hpp"

namespace undecided {
// Kernels for the emulator and for a GPU may be in one program: their names lie in namespaces of their own.
inline namespace TESSERA_PROVIDER {
using namespace tessera::kernels;  // threadIdx, warp_sum, TESSERA_KERNEL, … in a namespace that is not tessera's

// The thread count, once: for the compiler's bounds and for the launch.
struct entropy_traits {
  static constexpr int threads = 128;
  static constexpr int rows = threads / warp_size;  // a warp a row
};

struct EntropyRow {
  float largest, log_z, entropy;
};

/// What both passes know of a row; all lanes of the warp get the same.
template <class T>
TESSERA_DEVICE EntropyRow entropy_row(const T* x, int64_t classes, float scale) {
  const int lane = int(threadIdx.x) % warp_size;
  const float nothing = -std::numeric_limits<float>::infinity();
  float largest = nothing;
  for (int64_t k = lane; k < classes; k += warp_size) largest = fmaxf(largest, tessera::widen(x[k]));
  largest = warp_max(largest);
  if (largest == nothing) return {0, 0, 0};  // the whole warp
  float z = 0, weighted = 0;
  for (int64_t k = lane; k < classes; k += warp_size) {
    const float t = (tessera::widen(x[k]) - largest) * scale, e = __expf(t);
    z += e;
    weighted += e > 0 ? e * t : 0.0f;
  }
  z = warp_sum(z);
  weighted = warp_sum(weighted);
  const float log_z = logf(z);
  return {largest, log_z, log_z - weighted / z};
}

template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(entropy_traits::threads)
    patch_entropy_forward_kernel(float* h, const T* x, int64_t rows, int64_t classes, float scale) {
  const int64_t r = int64_t(blockIdx.x) * entropy_traits::rows + threadIdx.x / warp_size;
  if (r >= rows) return;  // the whole warp: no lane is waited for
  const EntropyRow row = entropy_row(x + r * classes, classes, scale);
  if (threadIdx.x % warp_size == 0) h[r] = row.entropy;
}

template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(entropy_traits::threads)
    patch_entropy_backward_kernel(T* d_x, const float* d_h, const T* x, int64_t rows, int64_t classes, float scale) {
  const int64_t r = int64_t(blockIdx.x) * entropy_traits::rows + threadIdx.x / warp_size;
  if (r >= rows) return;
  const EntropyRow row = entropy_row(x + r * classes, classes, scale);
  const float factor = -d_h[r] * scale;
  for (int64_t k = threadIdx.x % warp_size; k < classes; k += warp_size) {
    const float log_p = (tessera::widen(x[r * classes + k]) - row.largest) * scale - row.log_z, p = __expf(log_p);
    d_x[r * classes + k] = tessera::narrow<T>(p > 0 ? factor * p * (log_p + row.entropy) : 0.0f);
  }
}

}  // namespace TESSERA_PROVIDER
}  // namespace undecided

// For Simt or Cuda, whichever this file is compiled for. A grid of no blocks is an error, so nothing is launched for
// nothing.
template <>
struct tessera::Backend<undecided::patch_entropy_op, tessera::kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = undecided::entropy_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<float, 1, Device> h, In<T, 2, Device> x, double scale) {
    const auto [rows, classes] = x.shape;
    if (rows == 0) return;
    kernels::launch("patch_entropy_forward", undecided::patch_entropy_forward_kernel<T>, blocks(rows),
                    unsigned(Traits::threads), 0, ctx, h.data, x.data, rows, classes, float(scale));
  }
  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 2, Device> d_x, In<float, 1, Device> d_h, In<T, 2, Device> x,
                       double scale) {
    const auto [rows, classes] = x.shape;
    if (rows * classes == 0) return;
    kernels::launch("patch_entropy_backward", undecided::patch_entropy_backward_kernel<T>, blocks(rows),
                    unsigned(Traits::threads), 0, ctx, d_x.data, d_h.data, x.data, rows, classes, float(scale));
  }

 private:
  static unsigned blocks(int64_t rows) {
    const int64_t count = (rows + Traits::rows - 1) / Traits::rows;
    require(count < int64_t(1) << 31, "patch_entropy: ", rows, " rows are more than a grid holds");
    return unsigned(count);
  }
};
