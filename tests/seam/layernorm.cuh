// Layer normalisation's forward pass as a CUDA kernel behind the same public operation: one block a row.
#pragma once
#include <tessera/ops/layernorm.hpp>

#include "vocabulary.cuh"

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct layernorm_traits {
  static constexpr int threads = 64, warp = 32;
};

/// Sum of `value` over the block, the same for all threads.
TESSERA_DEVICE float block_sum(float value, float* shared) {
  for (unsigned lane_mask = layernorm_traits::warp / 2; lane_mask > 0; lane_mask /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, lane_mask);
  if (threadIdx.x % layernorm_traits::warp == 0) shared[threadIdx.x / layernorm_traits::warp] = value;
  __syncthreads();
  float sum = 0;
  for (unsigned w = 0; w < blockDim.x / layernorm_traits::warp; ++w) sum += shared[w];
  __syncthreads();
  return sum;
}

// ---- forward ----
template <class T>
TESSERA_KERNEL void layernorm_forward_kernel(T* y, float* mean, float* rstd, const T* x, const float* weight,
                                             const float* bias, int64_t channels, float epsilon) {
  TESSERA_SHARED(float, shared, layernorm_traits::threads / layernorm_traits::warp);
  const T* x_row = x + int64_t(blockIdx.x) * channels;
  T* y_row = y + int64_t(blockIdx.x) * channels;
  float sum = 0;
  for (int64_t c = threadIdx.x; c < channels; c += blockDim.x) sum += widen(x_row[c]);
  const float m = block_sum(sum, shared) / float(channels);
  float squares = 0;
  for (int64_t c = threadIdx.x; c < channels; c += blockDim.x) {
    const float centred = widen(x_row[c]) - m;
    squares += centred * centred;
  }
  const float scale = rsqrtf(block_sum(squares, shared) / float(channels) + epsilon);
  for (int64_t c = threadIdx.x; c < channels; c += blockDim.x)
    y_row[c] = narrow<T>((widen(x_row[c]) - m) * scale * weight[c] + bias[c]);
  if (threadIdx.x == 0) {
    if (mean) mean[blockIdx.x] = m;
    if (rstd) rstd[blockIdx.x] = scale;
  }
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::layernorm, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 2, Device> y, Out<float, 1, Device> mean, Out<float, 1, Device> rstd,
                      In<T, 2, Device> x, In<float, 1, Device> weight, In<float, 1, Device> bias,
                      LayernormOptions options) {
    kernels::launch("layernorm_forward", kernels::layernorm_forward_kernel<T>, unsigned(x.shape[0]),
                    unsigned(kernels::layernorm_traits::threads), ctx, y.data, mean.data, rstd.data, x.data, weight.data,
                    bias.data, x.shape[1], options.epsilon);
  }
};

}  // namespace tessera
