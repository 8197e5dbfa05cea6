// The contrastive losses' kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/contrastive.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

/// Rows of length about 1, as similar as trained features are.
template <class T>
Tensor<T, 2> features(Context<Cpu>& ctx, int64_t rows, int64_t channels, uint64_t seed) {
  return random_tensor<T, 2>(ctx, {rows, channels}, seed, 1 / std::sqrt(double(channels)));
}
Tensor<float, 0> scalar(Context<Cpu>& ctx, float value) { return Tensor<float, 0>::from_host(ctx, {}, &value); }

template <class T>
struct Results {
  std::vector<float> loss, row_sums, column_sums, d_scale;
  std::vector<T> d_image, d_text;
};

template <class T, class Device>
Results<T> run(Context<Device>& ctx, const Tensor<T, 2, Device>& image, const Tensor<T, 2, Device>& text,
               const Tensor<float, 0, Device>& logit_scale, const Tensor<float, 0, Device>& d_loss,
               ContrastiveOptions options) {
  Tensor<float, 0, Device> loss(ctx, {}), d_scale(ctx, {});
  Tensor<float, 1, Device> row_sums(ctx, {image.shape[0]}), column_sums;
  if (options.loss == ContrastiveLoss::symmetric) column_sums = Tensor<float, 1, Device>(ctx, {text.shape[0]});
  Tensor<T, 2, Device> d_image(ctx, image.shape), d_text(ctx, text.shape);
  contrastive_forward(ctx, view(loss), row_sums, column_sums, image, text, logit_scale, options);
  contrastive_backward(ctx, view(d_image), d_text, d_scale, d_loss, row_sums, column_sums, image, text, logit_scale,
                       options);
  return {to_host(loss), to_host(row_sums), to_host(column_sums), to_host(d_scale), to_host(d_image), to_host(d_text)};
}

}  // namespace

TEMPLATE_TEST_CASE("contrastive: kernels agree with Cpu, forward and backward", "[kernels]", float, bfloat16) {
  using T = TestType;
  const bool narrow_type = std::is_same_v<T, bfloat16>;
  auto ctx = nan_filled_context();
  Context<Device> device;
  struct Case {
    int64_t rows, columns, channels, first_label;
  };
  for (const auto& c : {Case{1, 1, 1, 0},
                        {2, 2, 63, 0},
                        {63, 63, 64, 0},
                        {64, 64, 65, 0},
                        {65, 65, 8, 0},
                        {128, 128, 32, 0},
                        {129, 129, 40, 0},
                        {197, 197, 16, 0},
                        {3, 300, 24, 131},
                        {130, 261, 8, 131}}) {
    const bool symmetric = c.rows == c.columns;
    const ContrastiveOptions options{.loss = symmetric ? ContrastiveLoss::symmetric : ContrastiveLoss::rows,
                                     .first_label = c.first_label};
    const auto image = features<T>(ctx, c.rows, c.channels, 1), text = features<T>(ctx, c.columns, c.channels, 2);
    const auto logit_scale = scalar(ctx, c.rows == 64 ? 7.0f : 2.5f), d_loss = scalar(ctx, 1.7f);  // 7: clamped
    const auto expected = run(ctx, image, text, logit_scale, d_loss, options);
    const auto image_s = on_device(device, image), text_s = on_device(device, text);
    const auto scale_s = on_device(device, logit_scale), d_loss_s = on_device(device, d_loss);
    const auto result = run(device, image_s, text_s, scale_s, d_loss_s, options);
    INFO("rows " << c.rows << ", columns " << c.columns << ", channels " << c.channels);
    const double clamped = c.rows == 64 ? 8 : 1;  // logits are 8 times as large, and so are their errors
    CHECK(largest_difference(result.loss, expected.loss) < 2e-6);
    CHECK(largest_difference(result.row_sums, expected.row_sums) < 2e-6);
    CHECK(largest_difference(result.column_sums, expected.column_sums) < 2e-6);
    // bfloat16: gradients of the logits are rounded to it before the products, and the results once more.
    const double tolerance = narrow_type ? 8e-3 : 4e-6 * clamped;
    if (c.rows == 1) {  // gradients are zero but for rounding
      for (const T& d : result.d_image) CHECK(std::abs(widen(d)) < 1e-6);
      continue;
    }
    CHECK(largest_difference(result.d_image, expected.d_image) < tolerance);
    CHECK(largest_difference(result.d_text, expected.d_text) < tolerance);
    CHECK(std::abs(result.d_scale[0] - expected.d_scale[0]) < 2e-5);  // a sum of terms up to 20 that cancel

    // Any part of the gradient alone is the same part.
    Tensor<float, 0, Device> loss(device, {}), d_scale(device, {});
    Tensor<float, 1, Device> row_sums(device, {c.rows}), column_sums;
    if (symmetric) column_sums = Tensor<float, 1, Device>(device, {c.columns});
    contrastive_forward(device, view(loss), row_sums, column_sums, image_s, text_s, scale_s, options);
    CHECK(to_host(loss) == result.loss);
    Tensor<T, 2, Device> d_text(device, text.shape), none;
    contrastive_backward(device, view(none), d_text, {}, d_loss_s, row_sums, column_sums, image_s, text_s, scale_s,
                         options);
    CHECK(largest_difference(to_host(d_text), result.d_text) == 0);
    contrastive_backward(device, view(none), {}, d_scale, d_loss_s, row_sums, column_sums, image_s, text_s, scale_s,
                         options);
    CHECK(to_host(d_scale) == result.d_scale);
  }
}

TEST_CASE("contrastive: gradients summed over strips of rows, and every order, give the same result", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  // 33000 columns: a strip of 16 MiB holds less than two tiles of 128 rows, so there are two strips.
  const auto image = features<bfloat16>(ctx, 130, 8, 1), text = features<bfloat16>(ctx, 33000, 8, 2);
  const auto logit_scale = scalar(ctx, 2.5f), d_loss = scalar(ctx, 1);
  const ContrastiveOptions options{.loss = ContrastiveLoss::rows, .first_label = 32870};
  const auto expected = run(ctx, image, text, logit_scale, d_loss, options);
  const auto result = run(device, on_device(device, image), on_device(device, text), on_device(device, logit_scale),
                          on_device(device, d_loss), options);
  CHECK(largest_difference(result.loss, expected.loss) < 2e-6);
  CHECK(largest_difference(result.d_image, expected.d_image) < 8e-3);
  CHECK(largest_difference(result.d_text, expected.d_text) < 8e-3);

  const auto small_image = features<bfloat16>(ctx, 131, 33, 3), small_text = features<bfloat16>(ctx, 131, 33, 4);
  Results<bfloat16> first;
  for (const auto order : all_orders) {
    const InOrder in_order(order, 11);
    const auto again = run(device, on_device(device, small_image), on_device(device, small_text),
                           on_device(device, logit_scale), on_device(device, d_loss), {});
    if (first.loss.empty()) first = again;
    CHECK(again.loss == first.loss);
    CHECK(again.d_scale == first.d_scale);
    CHECK(largest_difference(again.d_image, first.d_image) == 0);
    CHECK(largest_difference(again.d_text, first.d_text) == 0);
  }
}

TEMPLATE_TEST_CASE("contrastive: multi-text kernels agree with Cpu", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& [images, texts] : {std::pair{1, 1}, {1, 5}, {5, 63}, {64, 65}, {33, 129}, {7, 300}, {300, 5}})
    for (const bool with_excluded : {false, true}) {
      const Shape<2> shape{images, texts};
      const auto scores = random_tensor<T>(ctx, shape, 1, 0.4);
      Tensor<int32_t, 1> owner(ctx, {texts});
      Tensor<uint8_t, 2> excluded(ctx, shape);
      for (int64_t j = 0; j < texts; ++j) owner.data[j] = int32_t((j * 3 + 1) % images / (images > 6 ? 2 : 1));
      for (int64_t k = 0; k < excluded.size(); ++k) excluded.data[k] = k * 7919 % 3 == 0;
      const auto logit_scale = scalar(ctx, 1.5f), d_loss = scalar(ctx, 0.7f);
      Tensor<float, 0> loss(ctx, {}), d_scale(ctx, {});
      Tensor<float, 1> text_sums(ctx, {texts}), negatives(ctx, {images});
      Tensor<T, 2> d_scores(ctx, shape);
      const auto mask = with_excluded ? view(excluded) : TensorView<uint8_t, 2>{};
      multi_text_contrastive_forward(ctx, view(loss), text_sums, negatives, scores, owner, mask, logit_scale);
      multi_text_contrastive_backward(ctx, view(d_scores), d_scale, d_loss, text_sums, negatives, scores, owner, mask,
                                      logit_scale);

      const auto scores_s = on_device(device, scores);
      const auto owner_s = on_device(device, owner);
      const auto excluded_s = on_device(device, excluded);
      const auto mask_s = with_excluded ? view(excluded_s) : TensorView<uint8_t, 2, Device>{};
      const auto scale_s = on_device(device, logit_scale), d_loss_s = on_device(device, d_loss);
      Tensor<float, 0, Device> loss_s(device, {}), d_scale_s(device, {}), d_scale_alone(device, {});
      Tensor<float, 1, Device> text_sums_s(device, {texts}), negatives_s(device, {images});
      Tensor<T, 2, Device> d_scores_s(device, shape);
      multi_text_contrastive_forward(device, view(loss_s), text_sums_s, negatives_s, scores_s, owner_s, mask_s,
                                     scale_s);
      multi_text_contrastive_backward(device, view(d_scores_s), d_scale_s, d_loss_s, text_sums_s, negatives_s, scores_s,
                                      owner_s, mask_s, scale_s);
      multi_text_contrastive_backward(device, TensorView<T, 2, Device>{}, d_scale_alone, d_loss_s, text_sums_s,
                                      negatives_s, scores_s, owner_s, mask_s, scale_s);
      INFO("images " << images << ", texts " << texts << ", excluded " << with_excluded);
      CHECK(largest_difference(to_host(loss_s), to_host(loss)) < 1e-6);
      CHECK(largest_difference(to_host(text_sums_s), to_host(text_sums)) < 1e-6);
      if (images > 1) {
        CHECK(largest_difference(to_host(negatives_s), to_host(negatives)) < 1e-6);
        CHECK(largest_difference(to_host(d_scores_s), to_host(d_scores)) < (std::is_same_v<T, float> ? 1e-6 : 4e-3));
      }
      CHECK(std::abs(to_host(d_scale_s)[0] - to_host(d_scale)[0]) < 1e-6);
      CHECK(to_host(d_scale_alone) == to_host(d_scale_s));
    }
  const auto scores = on_device(device, random_tensor<T>(ctx, Shape<2>{3, 4}, 1));
  const auto owner = Tensor<int32_t, 1, Device>::from_host(device, {4}, std::vector<int32_t>{0, 1, 3, 2});
  const auto scale = on_device(device, scalar(ctx, 1));
  CHECK(std::isnan(to_host(multi_text_contrastive(device, scores, owner, {}, scale))[0]));
}
