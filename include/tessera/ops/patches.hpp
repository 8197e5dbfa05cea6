// Patches of images as rows of a matrix (im2col), so that a patch embedding is a linear layer: a convolution's weight
// [D, C, k, k] viewed as [D, C * k * k] is the layer's weight.
//
// Axes: images [B, C, H, W], patches [B, P, C * k * k] with P = grid height * grid width in row-major order and columns
// in the order channel, row, column. Patches overlap where stride < kernel; pixels between them are skipped where
// stride > kernel.
#pragma once
#include <algorithm>

#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct patches;
}

/// What happens to rows and columns at the bottom and the right that no patch reaches.
enum class PatchRemainder : uint8_t {
  reject,  ///< ShapeError
  drop,    ///< left out, as an unpadded convolution does
  pad,     ///< zeros are added until every pixel lies in a patch
};

/// The size of patches and how they lie.
struct PatchOptions {
  int64_t kernel = 16;  ///< side of a patch in pixels
  int64_t stride = 16;  ///< distance of two patches in pixels
  PatchRemainder remainder = PatchRemainder::reject;
};

/// Patches along both axes of an image.
struct PatchGrid {
  int64_t height = 0, width = 0;
  /// Patches of an image.
  int64_t count() const { return height * width; }
  bool operator==(const PatchGrid&) const = default;
};

/// The number of patches along one axis of `extent` pixels.
inline int64_t patch_count(int64_t extent, const char* axis, PatchOptions options) {
  const auto [kernel, stride, remainder] = options;
  require(kernel > 0 && stride > 0, "patches: kernel ", kernel, " and stride ", stride, " must be positive");
  if (remainder == PatchRemainder::pad && extent > 0)
    return 1 + (std::max<int64_t>(0, extent - kernel) + stride - 1) / stride;
  require<ShapeError>(extent >= kernel, "patches: axis ", axis, " of the images has ", extent,
                      " pixels, less than one patch of ", kernel,
                      "; resize the images, or pad with PatchRemainder::pad");
  const int64_t count = 1 + (extent - kernel) / stride, reached = (count - 1) * stride + kernel;
  const bool skipped_anyway = stride > kernel && extent - reached <= stride - kernel;
  require<ShapeError>(remainder == PatchRemainder::drop || reached == extent || skipped_anyway, "patches: axis ", axis,
                      " of the images has ", extent, " pixels, of which the last ", extent - reached,
                      " lie in no patch (kernel ", kernel, ", stride ", stride,
                      "); resize the images, or choose PatchRemainder::pad or drop");
  return count;
}

/// The grid of patches on images of height x width pixels. Throws ShapeError where an image is smaller than a patch or,
/// unless options.remainder allows it, where pixels at the bottom or the right would be lost.
inline PatchGrid patch_grid(int64_t height, int64_t width, PatchOptions options) {
  return {patch_count(height, "H", options), patch_count(width, "W", options)};
}

namespace detail {
template <class PatchesView, class ImagesView>
PatchGrid expect_patches(std::string_view op, std::string_view name, const PatchesView& patches,
                         const ImagesView& images, PatchOptions options) {
  const auto [items, channels, height, width] = images.shape;
  const PatchGrid grid = patch_grid(height, width, options);
  expect_shape(op, name, patches.shape, {items, grid.count(), channels * options.kernel * options.kernel}, "B P C*k*k",
               "images and options");
  expect_contiguous(op, name, patches);
  return grid;
}
}  // namespace detail

/// patches [B, P, C * k * k] from images [B, C, H, W]; images may have any strides on all axes but the last.
template <class T, class Device>
void patchify_forward(Context<Device>& ctx, TensorView<T, 3, Device> patches, In<T, 4, Device> images,
                      PatchOptions options) {
  const PatchGrid grid = detail::expect_patches("patchify_forward", "patches", patches, images, options);
  if (patches.size() == 0) return;
  Backend<op::patches, Device>::template forward<T>(ctx, patches, images, grid, options);
}

/// d_images [B, C, H, W] from d_patches: every pixel's sum over the patches that hold it, 0 where there is none.
template <class T, class Device>
void patchify_backward(Context<Device>& ctx, TensorView<T, 4, Device> d_images, In<T, 3, Device> d_patches,
                       PatchOptions options) {
  if (!d_images) return;
  const PatchGrid grid = detail::expect_patches("patchify_backward", "d_patches", d_patches, d_images, options);
  if (d_images.size() == 0) return;
  Backend<op::patches, Device>::template backward<T>(ctx, d_images, d_patches, grid, options);
}

/// Patches of decoded pictures, normalised: (pixel / 255 - mean[c]) / deviation[c]. pixels [B, H, W, C] as decoders
/// give them, mean and deviation [C]. Padding is 0 after normalisation.
template <class T, class Device>
void patchify_pixels(Context<Device>& ctx, TensorView<T, 3, Device> patches, In<uint8_t, 4, Device> pixels,
                     In<float, 1, Device> mean, In<float, 1, Device> deviation, PatchOptions options) {
  constexpr auto name = "patchify_pixels";
  const auto [items, height, width, channels] = pixels.shape;
  const PatchGrid grid = patch_grid(height, width, options);
  expect_shape(name, "patches", patches.shape, {items, grid.count(), channels * options.kernel * options.kernel},
               "B P C*k*k", "pixels and options");
  expect_contiguous(name, "patches", patches);
  expect_shape(name, "mean", mean.shape, {channels}, "C", "pixels");
  expect_shape(name, "deviation", deviation.shape, {channels}, "C", "pixels");
  if (patches.size() == 0) return;
  Backend<op::patches, Device>::template from_pixels<T>(ctx, patches, pixels, mean, deviation, grid, options);
}

/// The patches as a new tensor.
template <class T, class Device>
auto patchify(Context<Device>& ctx, const TensorView<T, 4, Device>& images, PatchOptions options) {
  const auto [items, channels, height, width] = images.shape;
  const PatchGrid grid = patch_grid(height, width, options);
  Tensor<std::remove_const_t<T>, 3, Device> patches(ctx,
                                                    {items, grid.count(), channels * options.kernel * options.kernel});
  patchify_forward(ctx, view(patches), images, options);
  return patches;
}

}  // namespace tessera

#include <tessera/cpu/patches.hpp>
