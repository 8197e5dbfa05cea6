// Pair compatibility's kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/pair_compatibility.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

template <class T>
struct Results {
  std::vector<float> phi;
  std::vector<T> d_patches, d_texts;
};

template <class T, class Device, class Weighting = SoftmaxWeights, class Score = CosineScore>
Results<T> run(Context<Device>& ctx, const Tensor<T, 3, Device>& patches, const Tensor<T, 2, Device>& texts,
               const Tensor<float, 2, Device>& d_phi, PairCompatibilityOptions options, Weighting weighting = {},
               Score score = {}) {
  Tensor<float, 2, Device> phi(ctx, d_phi.shape);
  Tensor<T, 3, Device> d_patches(ctx, patches.shape);
  Tensor<T, 2, Device> d_texts(ctx, texts.shape);
  pair_compatibility_forward(ctx, view(phi), patches, texts, options, weighting, score);
  pair_compatibility_backward(ctx, view(d_patches), d_texts, d_phi, phi, patches, texts, options, weighting, score);
  return {to_host(phi), to_host(d_patches), to_host(d_texts)};
}

}  // namespace

TEMPLATE_TEST_CASE("pair_compatibility: kernels agree with Cpu, forward and backward", "[kernels]", float, bfloat16) {
  using T = TestType;
  const bool is_float = std::is_same_v<T, float>;
  auto ctx = nan_filled_context();
  Context<Device> device;
  struct Case {
    int64_t images, patches, channels, texts;
  };
  for (const auto& c : {Case{1, 1, 1, 1}, {2, 3, 5, 4}, {3, 49, 16, 63}, {1, 65, 24, 129}, {2, 130, 8, 5}})
    for (const bool normalized : {false, true}) {
      const PairCompatibilityOptions options{.attention_scale = c.images == 2 ? 10.0 : 1.0,
                                             .pool_normalized = normalized};
      auto patches = random_tensor<T, 3>(ctx, {c.images, c.patches, c.channels}, 1, 2.0);
      auto texts = random_tensor<T, 2>(ctx, {c.texts, c.channels}, 2, 3.0);
      if (c.texts > 3) {  // a patch and a text without a direction
        std::fill_n(patches.data + c.channels, c.channels, T{});
        std::fill_n(texts.data + 2 * c.channels, c.channels, T{});
      }
      const auto d_phi = random_tensor<float, 2>(ctx, {c.images, c.texts}, 3);
      const auto expected = run(ctx, patches, texts, d_phi, options);
      const auto patches_s = on_device(device, patches);
      const auto texts_s = on_device(device, texts);
      const auto d_phi_s = on_device(device, d_phi);
      const auto result = run(device, patches_s, texts_s, d_phi_s, options);
      INFO("images " << c.images << ", patches " << c.patches << ", channels " << c.channels << ", texts " << c.texts
                     << ", normalized " << normalized);
      // bfloat16: attention weights are rounded to it before patches are pooled, and the backward pass's coefficients
      // before their sums.
      CHECK(largest_difference(result.phi, expected.phi) < (is_float ? 3e-6 : 4e-3));
      if (c.channels == 1) continue;  // gradients are zero but for rounding
      CHECK(largest_difference(result.d_patches, expected.d_patches) < (is_float ? 2e-5 : 1.5e-2));
      CHECK(largest_difference(result.d_texts, expected.d_texts) < (is_float ? 2e-5 : 1.5e-2));

      // Any part of the results alone is the same part.
      CHECK(to_host(pair_compatibility(device, patches_s, texts_s, options)) == result.phi);
      Tensor<float, 2, Device> phi(device, d_phi.shape);
      pair_compatibility_forward(device, view(phi), patches_s, texts_s, options);
      Tensor<T, 2, Device> d_texts(device, texts.shape);
      pair_compatibility_backward(device, TensorView<T, 3, Device>{}, d_texts, d_phi_s, phi, patches_s, texts_s,
                                  options);
      CHECK(largest_difference(to_host(d_texts), result.d_texts) == 0);
    }
}

TEST_CASE("pair_compatibility: kernels agree with Cpu on other weights and scores", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const auto patches = random_tensor<float, 3>(ctx, {2, 37, 12}, 1);
  const auto texts = random_tensor<float, 2>(ctx, {9, 12}, 2);
  const auto d_phi = random_tensor<float, 2>(ctx, {2, 9}, 3);
  const auto check = [&](auto weighting, auto score, PairCompatibilityOptions options) {
    INFO("normalized " << options.pool_normalized);
    const auto expected = run(ctx, patches, texts, d_phi, options, weighting, score);
    const auto result = run(device, on_device(device, patches), on_device(device, texts), on_device(device, d_phi),
                            options, weighting, score);
    CHECK(largest_difference(result.phi, expected.phi) < 3e-6);
    CHECK(largest_difference(result.d_patches, expected.d_patches) < 2e-5);
    CHECK(largest_difference(result.d_texts, expected.d_texts) < 2e-5);
  };
  check(SigmoidWeights{.bias = -1}, CosineScore{}, {.attention_scale = 10});
  for (const bool normalized : {false, true})
    check(SoftmaxWeights{}, DotScore{}, {.attention_scale = 0.2, .pool_normalized = normalized});
}

TEST_CASE("pair_compatibility: several rounds of images and texts, and every order", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  // Rounds of at most 1024 texts: two of them, and one more part of 128 in the second.
  const auto patches = random_tensor<bfloat16, 3>(ctx, {2, 5, 8}, 1);
  const auto texts = random_tensor<bfloat16, 2>(ctx, {1200, 8}, 2);
  const auto d_phi = random_tensor<float, 2>(ctx, {2, 1200}, 3);
  const auto expected = run(ctx, patches, texts, d_phi, {});
  std::vector<float> first;
  for (const auto order : all_orders) {
    const InOrder in_order(order, 13);
    const auto result = run(device, on_device(device, patches), on_device(device, texts), on_device(device, d_phi), {});
    CHECK(largest_difference(result.phi, expected.phi) < 4e-3);
    CHECK(largest_difference(result.d_patches, expected.d_patches) < 1.5e-2);
    CHECK(largest_difference(result.d_texts, expected.d_texts) < 1.5e-2);
    if (first.empty()) first = result.phi;
    CHECK(result.phi == first);
  }
}

TEST_CASE("pair_compatibility: no images or texts, and views that are not aligned", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const auto values = random_tensor<float, 1>(ctx, {1 + 2 * 6 * 8 + 3 * 8}, 1);
  const auto values_s = on_device(device, values);
  const auto of = [](auto* data) { return TensorView<std::remove_pointer_t<decltype(data)>, 3>(data, {2, 6, 8}); };
  const TensorView<float, 2> texts(values.data + 97, {3, 8});
  const TensorView<float, 3, Device> patches_s(values_s.data + 1, {2, 6, 8});
  const TensorView<float, 2, Device> texts_s(values_s.data + 97, {3, 8});
  CHECK(largest_difference(to_host(pair_compatibility(device, patches_s, texts_s)),
                           to_host(pair_compatibility(ctx, of(values.data + 1), texts))) < 3e-6);

  const TensorView<float, 2, Device> no_texts(values_s.data, {0, 8});
  CHECK(to_host(pair_compatibility(device, patches_s, no_texts)).empty());
  Tensor<float, 3, Device> d_patches(device, {2, 6, 8});
  Tensor<float, 2, Device> none(device, {2, 0});
  pair_compatibility_backward(device, view(d_patches), {}, none, none, patches_s, no_texts);
  CHECK(to_host(d_patches) == std::vector<float>(96, 0.0f));
}
