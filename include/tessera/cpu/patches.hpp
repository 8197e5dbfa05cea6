// Patches on Cpu.
#pragma once
#include <algorithm>

#include <tessera/core/parallel.hpp>
#include <tessera/ops/patches.hpp>

namespace tessera {

template <>
struct Backend<op::patches, Cpu> {
  template <class T>
  static void forward(Context<Cpu>&, Out<T, 3, Cpu> patches, In<T, 4, Cpu> images, PatchGrid grid,
                      PatchOptions options) {
    const auto [items, channels, height, width] = images.shape;
    const int64_t k = options.kernel, columns = patches.shape[2], line = grid.width * columns;
    parallel_for(items * grid.height, row_grain(line),
                 [&, channels = channels, height = height, width = width](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     const int64_t item = i / grid.height, top = i % grid.height * options.stride;
                     for (int64_t c = 0; c < channels; ++c)
                       for (int64_t ky = 0; ky < k; ++ky) {
                         const bool inside = top + ky < height;
                         const T* pixels = images.data + item * images.strides[0] + c * images.strides[1] +
                                           (inside ? (top + ky) * images.strides[2] : 0);
                         T* to = patches.data + i * line + (c * k + ky) * k;
                         for (int64_t gx = 0; gx < grid.width; ++gx) {
                           const int64_t left = gx * options.stride;
                           const int64_t count = inside ? std::clamp<int64_t>(width - left, 0, k) : 0;
                           std::copy_n(pixels + (count ? left : 0), count, to + gx * columns);
                           std::fill_n(to + gx * columns + count, k - count, T{});
                         }
                       }
                   }
                 });
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>& ctx, Out<T, 4, Cpu> d_images, In<T, 3, Cpu> d_patches, PatchGrid grid,
                       PatchOptions options) {
    const auto [items, channels, height, width] = d_images.shape;
    const int64_t k = options.kernel, stride = options.stride, columns = d_patches.shape[2];
    const int64_t reached = (grid.width - 1) * stride + k;
    parallel_for(
        items * channels * height, row_grain(width),
        [&, channels = channels, height = height, width = width](int64_t begin, int64_t end) {
          Tensor<A, 1> line(ctx, {std::max(width, reached)});  // one row of pixels
          for (int64_t i = begin; i < end; ++i) {
            const int64_t item = i / height / channels, c = i / height % channels, y = i % height;
            std::fill_n(line.data, line.size(), A(0));
            // The patches over this row, from top to bottom and left to right.
            const int64_t first = y < k ? 0 : (y - k) / stride + 1, last = std::min(grid.height - 1, y / stride);
            for (int64_t gy = first; gy <= last; ++gy)
              for (int64_t gx = 0; gx < grid.width; ++gx) {
                const T* from = d_patches.data + ((item * grid.height + gy) * grid.width + gx) * columns +
                                (c * k + y - gy * stride) * k;
                A* to = line.data + gx * stride;
#pragma omp simd
                for (int64_t kx = 0; kx < k; ++kx) to[kx] += widen(from[kx]);
              }
            T* row = d_images.data + item * d_images.strides[0] + c * d_images.strides[1] + y * d_images.strides[2];
#pragma omp simd
            for (int64_t x = 0; x < width; ++x) row[x] = narrow<T>(line.data[x]);
          }
        });
  }

  template <class T, class A = accumulate_t<T>>
  static void from_pixels(Context<Cpu>&, Out<T, 3, Cpu> patches, In<uint8_t, 4, Cpu> pixels, In<float, 1, Cpu> mean,
                          In<float, 1, Cpu> deviation, PatchGrid grid, PatchOptions options) {
    const auto [items, height, width, channels] = pixels.shape;
    const int64_t k = options.kernel, columns = patches.shape[2], line = grid.width * columns;
    parallel_for(items * grid.height, row_grain(line),
                 [&, channels = channels, height = height, width = width](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     const int64_t item = i / grid.height, top = i % grid.height * options.stride;
                     for (int64_t c = 0; c < channels; ++c) {
                       const A factor = A(1) / (A(255) * A(deviation.data[c])),
                               shift = -A(mean.data[c]) / A(deviation.data[c]);
                       for (int64_t ky = 0; ky < k; ++ky) {
                         const bool inside = top + ky < height;
                         for (int64_t gx = 0; gx < grid.width; ++gx) {
                           const int64_t left = gx * options.stride;
                           const int64_t count = inside ? std::clamp<int64_t>(width - left, 0, k) : 0;
                           T* to = patches.data + i * line + gx * columns + (c * k + ky) * k;
                           if (count > 0) {
                             const uint8_t* from = pixels.data + item * pixels.strides[0] +
                                                   (top + ky) * pixels.strides[1] + left * pixels.strides[2] + c;
                             for (int64_t x = 0; x < count; ++x)
                               to[x] = narrow<T>(A(from[x * pixels.strides[2]]) * factor + shift);
                           }
                           std::fill_n(to + count, k - count, T{});
                         }
                       }
                     }
                   }
                 });
  }
};

}  // namespace tessera
