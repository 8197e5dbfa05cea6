// Patches on kernels' devices. Forward, a thread copies a pack of one line of one patch; backward, a thread sums a
// pixel over the patches that hold it, in their order. From decoded pictures, a thread normalises a stretch of pixels
// in all channels, so that the interleaved bytes are read once.
#pragma once
#include <tessera/kernels/strided.cuh>
#include <tessera/ops/patches.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct patches_traits {
  static constexpr int threads = 256;
};

/// Images and their grid of patches; `strides` are those of the images' first three axes.
struct PatchShape {
  int64_t items, channels, height, width;
  int64_t grid_height, grid_width, kernel, stride;
  int64_t strides[3];
};

/// patches [items, P, channels * kernel * kernel] from images [items, channels, height, width].
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(patches_traits::threads)
    patchify_kernel(T* patches, const T* images, PatchShape s) {
  const int64_t packs_of_line = s.kernel / Count;
  const int64_t pack = int64_t(blockIdx.x) * patches_traits::threads + threadIdx.x;
  int64_t rest = pack;
  const int64_t kx = rest % packs_of_line * Count;
  rest /= packs_of_line;
  const int64_t ky = rest % s.kernel;
  rest /= s.kernel;
  const int64_t c = rest % s.channels;
  rest /= s.channels;
  const int64_t gx = rest % s.grid_width;
  rest /= s.grid_width;
  const int64_t gy = rest % s.grid_height, item = rest / s.grid_height;
  if (item >= s.items) return;
  const int64_t y = gy * s.stride + ky, x = gx * s.stride + kx;
  const T* from = images + item * s.strides[0] + c * s.strides[1] + y * s.strides[2] + x;
  Elements<T, Count> values;
  if (y < s.height && x + Count <= s.width) {
    values = load_elements<Count>(from);
  } else {  // padding
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) values[i] = y < s.height && x + i < s.width ? from[i] : narrow<T>(0.0f);
  }
  store_elements<Count>(patches + pack * Count, values);
}

/// d_images [items, channels, height, width] from d_patches; one thread a pixel.
template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(patches_traits::threads)
    patchify_backward_kernel(T* d_images, const T* d_patches, PatchShape s) {
  const int64_t number = int64_t(blockIdx.x) * patches_traits::threads + threadIdx.x;
  int64_t rest = number;
  const int64_t x = rest % s.width;
  rest /= s.width;
  const int64_t y = rest % s.height;
  rest /= s.height;
  const int64_t c = rest % s.channels, item = rest / s.channels;
  if (item >= s.items) return;
  const int64_t area = s.kernel * s.kernel, columns = s.channels * area;
  const int64_t top = y < s.kernel ? 0 : (y - s.kernel) / s.stride + 1;
  const int64_t left = x < s.kernel ? 0 : (x - s.kernel) / s.stride + 1;
  const int64_t bottom = min(s.grid_height - 1, y / s.stride), right = min(s.grid_width - 1, x / s.stride);
  float sum = 0;
  for (int64_t gy = top; gy <= bottom; ++gy)
    for (int64_t gx = left; gx <= right; ++gx) {
      const int64_t patch = (item * s.grid_height + gy) * s.grid_width + gx;
      sum += widen(d_patches[patch * columns + c * area + (y - gy * s.stride) * s.kernel + x - gx * s.stride]);
    }
  d_images[item * s.strides[0] + c * s.strides[1] + y * s.strides[2] + x] = narrow<T>(sum);
}

/// patches from pixels [items, height, width, channels] of bytes: (pixel / 255 - mean[c]) / deviation[c].
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(patches_traits::threads)
    patchify_pixels_kernel(T* patches, const uint8_t* pixels, const float* mean, const float* deviation, PatchShape s) {
  const int64_t packs_of_line = s.kernel / Count;
  int64_t rest = int64_t(blockIdx.x) * patches_traits::threads + threadIdx.x;
  const int64_t kx = rest % packs_of_line * Count;
  rest /= packs_of_line;
  const int64_t ky = rest % s.kernel, patch = rest / s.kernel;
  const int64_t gx = patch % s.grid_width, line = patch / s.grid_width;
  const int64_t gy = line % s.grid_height, item = line / s.grid_height;
  if (item >= s.items) return;
  const int64_t y = gy * s.stride + ky, x = gx * s.stride + kx;
  const uint8_t* from = pixels + item * s.strides[0] + y * s.strides[1] + x * s.strides[2];
  T* to = patches + ((patch * s.channels * s.kernel) + ky) * s.kernel + kx;
  for (int64_t c = 0; c < s.channels; ++c) {
    const float factor = 1.0f / (255.0f * deviation[c]), shift = -mean[c] / deviation[c];
    Elements<T, Count> values;
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) {
      const bool inside = y < s.height && x + i < s.width;
      values[i] = narrow<T>(inside ? float(from[i * s.strides[2] + c]) * factor + shift : 0.0f);
    }
    store_elements<Count>(to + c * s.kernel * s.kernel, values);
  }
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::patches, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::patches_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 3, Device> patches, In<T, 4, Device> images, PatchGrid grid,
                      PatchOptions options) {
    const auto [items, channels, height, width] = images.shape;
    const auto [item_stride, channel_stride, row_stride, column_stride] = images.strides;
    const kernels::PatchShape shape{items,          channels,       height,
                                    width,          grid.height,    grid.width,
                                    options.kernel, options.stride, {item_stride, channel_stride, row_stride}};
    constexpr int most = kernels::Pack<T>::count;
    const bool fits = kernels::fits_packs<T>(options.kernel, {patches.data, images.data}) &&
                      options.stride % most == 0 && item_stride % most == 0 && channel_stride % most == 0 &&
                      row_stride % most == 0;
    const auto start = [&](auto* kernel, int64_t packs) {
      kernels::launch("patchify_forward", kernel, kernels::blocks_for(packs, Traits::threads),
                      unsigned(Traits::threads), 0, ctx, patches.data, images.data, shape);
    };
    if (fits)
      start(kernels::patchify_kernel<T, most>, patches.size() / most);
    else
      start(kernels::patchify_kernel<T, 1>, patches.size());
  }

  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 4, Device> d_images, In<T, 3, Device> d_patches, PatchGrid grid,
                       PatchOptions options) {
    const auto [items, channels, height, width] = d_images.shape;
    const kernels::PatchShape shape{
        items,          channels,       height,
        width,          grid.height,    grid.width,
        options.kernel, options.stride, {d_images.strides[0], d_images.strides[1], d_images.strides[2]}};
    kernels::launch("patchify_backward", kernels::patchify_backward_kernel<T>,
                    kernels::blocks_for(d_images.size(), Traits::threads), unsigned(Traits::threads), 0, ctx,
                    d_images.data, d_patches.data, shape);
  }

  template <class T>
  static void from_pixels(Context<Device>& ctx, Out<T, 3, Device> patches, In<uint8_t, 4, Device> pixels,
                          In<float, 1, Device> mean, In<float, 1, Device> deviation, PatchGrid grid,
                          PatchOptions options) {
    const auto [items, height, width, channels] = pixels.shape;
    const kernels::PatchShape shape{
        items,          channels,       height,
        width,          grid.height,    grid.width,
        options.kernel, options.stride, {pixels.strides[0], pixels.strides[1], pixels.strides[2]}};
    const auto start = [&](auto* kernel, int64_t threads) {
      kernels::launch("patchify_pixels", kernel, kernels::blocks_for(threads, Traits::threads),
                      unsigned(Traits::threads), 0, ctx, patches.data, pixels.data, mean.data, deviation.data, shape);
    };
    const int64_t threads = items * grid.count() * options.kernel * options.kernel;
    constexpr int most = kernels::Pack<T>::count;
    if (kernels::fits_packs<T>(options.kernel, {patches.data}))
      start(kernels::patchify_pixels_kernel<T, most>, threads / most);
    else
      start(kernels::patchify_pixels_kernel<T, 1>, threads);
  }
};

}  // namespace tessera
