// Convolution on kernels' devices: products by the library of the device (included at the end); here the bias of each
// channel of maps [B, C, …], which the library leaves out: added to the maps, and its gradient.
#pragma once
#include <tessera/kernels/matmul.cuh>
#include <tessera/kernels/sums.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

/// Host: queues y += bias, y [B, C, H, W] contiguous, bias [C].
template <class T>
void add_channel_bias(Context<KernelDevice>& ctx, const TensorView<T, 4, KernelDevice>& y, const float* bias) {
  const Shape<3> planes{y.shape[0], y.shape[1], y.shape[2] * y.shape[3]};
  const Shape<3> strides = contiguous_strides(planes);
  elementwise("channel_bias", ctx, BiasActivate<T, Activation::none>{}, {planes, {strides, strides, Shape<3>{0, 1, 0}}},
              y.data, static_cast<const T*>(y.data), bias);
}

/// Host: queues d_bias [C] = the sums of d_y [B, C, H, W], contiguous, over all axes but the channels'.
template <class T>
void channel_bias_gradient(Context<KernelDevice>& ctx, float* d_bias, const TensorView<const T, 4, KernelDevice>& d_y) {
  const Shape<3> planes{d_y.shape[0], d_y.shape[1], d_y.shape[2] * d_y.shape[3]};
  sum_onto(ctx, d_bias, Shape<3>{1, planes[1], 1}, d_y.data, planes);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

#include <tessera/device/conv2d.cuh>
