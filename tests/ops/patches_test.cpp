#include <omp.h>

#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/matmul.hpp>
#include <tessera/autograd/patches.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
struct Case {
  int64_t items, channels, height, width;
  PatchOptions options;
};
const std::vector<Case> cases = {
    {2, 3, 8, 12, {4, 4}},
    {1, 1, 1, 1, {1, 1}},
    {2, 3, 7, 9, {3, 2}},    // overlapping
    {1, 2, 65, 63, {3, 1}},  // every pixel in nine patches
    {2, 3, 11, 8, {2, 3}},   // pixels between the patches
    {1, 3, 197, 129, {16, 16, PatchRemainder::drop}},
    {1, 3, 197, 129, {16, 16, PatchRemainder::pad}},
    {2, 2, 3, 10, {4, 3, PatchRemainder::pad}},  // smaller than a patch
};

// The value of column (c, ky, kx) of patch (gy, gx): the definition.
template <class T>
double expected(const TensorView<const T, 4>& images, int64_t b, int64_t c, int64_t y, int64_t x) {
  return y < images.shape[2] && x < images.shape[3] ? double(widen(images(b, c, y, x))) : 0.0;
}
}  // namespace

TEMPLATE_TEST_CASE("patches: forward is the definition, backward its transpose", "[ops][patches]", float, double,
                   bfloat16) {
  using T = TestType;
  using A = accumulate_t<T>;
  auto ctx = nan_filled_context();
  for (const auto& [items, channels, height, width, options] : cases) {
    INFO(channels << " x " << height << " x " << width << ", kernel " << options.kernel << ", stride "
                  << options.stride);
    auto images = random_tensor<T, 4>(ctx, {items, channels, height, width}, 1);
    const PatchGrid grid = patch_grid(height, width, options);
    auto patches = patchify(ctx, images, options);
    const int64_t k = options.kernel;
    REQUIRE(patches.shape == Shape<3>{items, grid.count(), channels * k * k});
    auto d_patches = random_tensor<T, 3>(ctx, patches.shape, 2);
    Tensor<T, 4> d_images(ctx, images.shape);
    patchify_backward(ctx, view(d_images), d_patches, options);
    std::vector<double> d_expected(size_t(images.size()));
    int64_t different = 0;
    for (int64_t b = 0; b < items; ++b)
      for (int64_t gy = 0; gy < grid.height; ++gy)
        for (int64_t gx = 0; gx < grid.width; ++gx)
          for (int64_t c = 0; c < channels; ++c)
            for (int64_t ky = 0; ky < k; ++ky)
              for (int64_t kx = 0; kx < k; ++kx) {
                const int64_t y = gy * options.stride + ky, x = gx * options.stride + kx;
                const int64_t p = gy * grid.width + gx, column = (c * k + ky) * k + kx;
                different += double(widen(patches(b, p, column))) != expected<T>(images, b, c, y, x);
                if (y < height && x < width)
                  d_expected[size_t(((b * channels + c) * height + y) * width + x)] +=
                      double(widen(d_patches(b, p, column)));
              }
    CHECK(different == 0);
    const double tolerance = std::is_same_v<T, bfloat16> ? 4e-3 : std::is_same_v<A, float> ? 1e-6 : 1e-15;
    CHECK(largest_difference(to_host(d_images), d_expected) < tolerance);
  }
}

TEST_CASE("patches: strided images", "[ops][patches]") {
  auto ctx = nan_filled_context();
  auto wide = random_tensor<float, 4>(ctx, {2, 3, 10, 20}, 1);
  const auto crop = wide.slice(2, 1, 9).slice(3, 3, 15);
  Tensor<float, 4> copy(ctx, crop.shape);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t c = 0; c < 3; ++c)
      for (int64_t y = 0; y < 8; ++y)
        for (int64_t x = 0; x < 12; ++x) copy(b, c, y, x) = crop(b, c, y, x);
  CHECK(to_host(patchify(ctx, crop, {4, 4})) == to_host(patchify(ctx, copy, {4, 4})));
}

TEST_CASE("patches: decoded pictures become the patches of the normalised images", "[ops][patches]") {
  auto ctx = nan_filled_context();
  const std::vector<float> means = {0.48f, 0.45f, 0.4f}, deviations = {0.26f, 0.25f, 0.27f};
  const auto mean = Tensor<float, 1>::from_host(ctx, {3}, means);
  const auto deviation = Tensor<float, 1>::from_host(ctx, {3}, deviations);
  for (const PatchOptions options :
       {PatchOptions{4, 4}, PatchOptions{3, 2, PatchRemainder::drop}, PatchOptions{5, 5, PatchRemainder::pad}}) {
    Tensor<uint8_t, 4> pixels(ctx, {2, 8, 12, 3});
    Tensor<float, 4> images(ctx, {2, 3, 8, 12});
    const RandomStream random{7, 0, 0};
    for (int64_t i = 0; i < pixels.size(); ++i) pixels.data[i] = uint8_t(random.normal(uint64_t(i)) * 40 + 128);
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t y = 0; y < 8; ++y)
        for (int64_t x = 0; x < 12; ++x)
          for (int64_t c = 0; c < 3; ++c)
            images(b, c, y, x) = (float(pixels(b, y, x, c)) / 255 - means[size_t(c)]) / deviations[size_t(c)];
    const auto reference = patchify(ctx, images, options);
    Tensor<float, 3> patches(ctx, reference.shape);
    patchify_pixels(ctx, view(patches), pixels, mean, deviation, options);
    CHECK(largest_difference(view(patches), view(reference)) < 1e-6);
  }
}

TEST_CASE("patches: gradients on the tape agree with finite differences", "[ops][patches]") {
  auto ctx = nan_filled_context();
  for (const PatchOptions options : {PatchOptions{3, 3}, PatchOptions{3, 1}, PatchOptions{2, 3, PatchRemainder::pad}}) {
    auto images = random_variable<4>(ctx, {2, 2, 6, 9}, 1);
    const auto result = gradcheck(
        ctx, [&](auto& tape, auto x) { return patchify(tape, x, options); }, images);
    INFO(result.message);
    CHECK(result);
  }
}

TEST_CASE("patches: 1, 2, 3 and 16 threads give equal bits", "[ops][patches]") {
  Context<Cpu> ctx;
  const int most = omp_get_max_threads();
  const PatchOptions options{8, 3, PatchRemainder::drop};
  auto images = random_tensor<float, 4>(ctx, {4, 3, 100, 90}, 1);
  auto d_patches = random_tensor<float, 3>(ctx, patchify(ctx, images, options).shape, 2);
  std::vector<float> first;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    Tensor<float, 4> d_images(ctx, images.shape);
    patchify_backward(ctx, view(d_images), d_patches, options);
    if (first.empty()) first = to_host(d_images);
    CHECK(to_host(d_images) == first);
  }
  omp_set_num_threads(most);
}

TEST_CASE("patches: sizes that do not fit", "[ops][patches]") {
  auto ctx = nan_filled_context();
  CHECK(patch_grid(224, 224, {16, 16}) == PatchGrid{14, 14});
  CHECK(patch_grid(64, 96, {8, 4}) == PatchGrid{15, 23});
  CHECK(patch_grid(230, 15, {16, 16, PatchRemainder::pad}) == PatchGrid{15, 1});
  CHECK(patch_grid(230, 17, {16, 16, PatchRemainder::drop}) == PatchGrid{14, 1});
  REQUIRE_ERROR(patch_grid(224, 230, {16, 16}), ShapeError,
                "axis W of the images has 230 pixels, of which the last 6 lie in no patch (kernel 16, stride 16)");
  REQUIRE_ERROR(patch_grid(15, 224, {16, 16}), ShapeError,
                "axis H of the images has 15 pixels, less than one patch of 16");
  REQUIRE_ERROR(patch_grid(15, 224, {16, 16, PatchRemainder::drop}), ShapeError, "less than one patch");
  REQUIRE_ERROR(patch_grid(16, 16, {16, 0}), ValueError, "kernel 16 and stride 0 must be positive");
  Tensor<float, 4> images(ctx, {1, 3, 32, 32});
  Tensor<float, 3> patches(ctx, {1, 4, 767});
  REQUIRE_ERROR(patchify_forward(ctx, view(patches), images, {16, 16}), ShapeError,
                "patchify_forward: axis C*k*k of patches [1, 4, 767] is 767 but must be 768");
}

TEMPLATE_TEST_CASE("patches: agree with PyTorch's unfold, and with a linear layer its convolution", "[ops][patches]",
                   float, double) {
  Oracle<TestType> oracle("patches");
  const std::pair<const char*, PatchOptions> unfolded[] = {
      {"usual", {4, 4}}, {"overlapping", {3, 2}}, {"gaps", {2, 3}}};
  for (const auto& [name, options] : unfolded)
    oracle.check(
        name, {"images"},
        [&, options = options](auto& tape, const auto& images) { return patchify(tape, images, options); },
        oracle.template input<4>(std::string(name) + ".images"));
  const std::pair<const char*, PatchOptions> embedded[] = {{"embedding", {4, 4}}, {"embedding_overlapping", {4, 2}}};
  for (const auto& [name, options] : embedded) {
    const std::string prefix = std::string(name) + ".";
    oracle.check(
        name, {"images", "weight", "bias"},
        [&, options = options](auto& tape, const auto& images, const auto& weight, const auto& bias) {
          return linear(tape, patchify(tape, images, options), weight, bias);
        },
        oracle.template input<4>(prefix + "images"), oracle.template input<2>(prefix + "weight"),
        oracle.template input<1>(prefix + "bias"));
  }
}
