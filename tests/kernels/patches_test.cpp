// Patches by kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/patches.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEMPLATE_TEST_CASE("patches: any kernel, stride and remainder, forward and backward", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  struct Case {
    int64_t height, width;
    PatchOptions options;
  };
  const Case cases[] = {{32, 48, {16, 16}},
                        {16, 40, {16, 8}},                        // overlapping
                        {15, 21, {3, 3}},                         //
                        {9, 13, {4, 3, PatchRemainder::drop}},    //
                        {13, 10, {8, 8, PatchRemainder::pad}},    //
                        {13, 22, {8, 16, PatchRemainder::drop}},  // with gaps
                        {5, 7, {1, 1}}};
  for (const auto& [height, width, options] : cases)
    for (const int64_t items : {1, 3}) {
      INFO(height << " x " << width << ", kernel " << options.kernel << ", stride " << options.stride);
      auto images = random_tensor<T>(ctx, Shape<4>{items, 3, height, width}, 1);
      const auto images_s = on_device(device, images);
      const auto patches = patchify(ctx, images, options);
      const auto patches_s = patchify(device, images_s, options);
      CHECK(largest_difference(to_host(patches_s), to_host(patches)) == 0);
      auto d_patches = random_tensor<T>(ctx, patches.shape, 2);
      Tensor<T, 4> d_images(ctx, images.shape);
      Tensor<T, 4, Device> d_images_s(device, images.shape);
      patchify_backward(ctx, view(d_images), d_patches, options);
      patchify_backward(device, view(d_images_s), on_device(device, d_patches), options);
      CHECK(largest_difference(to_host(d_images_s), to_host(d_images)) < (std::is_same_v<T, float> ? 1e-6 : 4e-3));

      Tensor<uint8_t, 4> pixels(ctx, {items, height, width, 3});
      for (int64_t i = 0; i < pixels.size(); ++i) pixels.data[i] = uint8_t(i * 37 % 256);
      const auto mean = Tensor<float, 1>::from_host(ctx, {3}, {0.48f, 0.46f, 0.41f});
      const auto deviation = Tensor<float, 1>::from_host(ctx, {3}, {0.27f, 0.26f, 0.28f});
      Tensor<T, 3> normalised(ctx, patches.shape);
      Tensor<T, 3, Device> normalised_s(device, patches.shape);
      patchify_pixels(ctx, view(normalised), pixels, mean, deviation, options);
      patchify_pixels(device, view(normalised_s), on_device(device, pixels), on_device(device, mean),
                      on_device(device, deviation), options);
      CHECK(largest_difference(to_host(normalised_s), to_host(normalised)) < (std::is_same_v<T, float> ? 1e-6 : 4e-3));
    }
  // parts of images
  auto images = random_tensor<T>(ctx, Shape<4>{2, 3, 20, 24}, 1);
  const auto images_s = on_device(device, images);
  CHECK(largest_difference(to_host(patchify(device, images_s.slice(2, 4, 20).slice(3, 8, 24), {8, 8})),
                           to_host(patchify(ctx, images.slice(2, 4, 20).slice(3, 8, 24), {8, 8}))) == 0);
}
