#include <omp.h>

#include <numeric>

#include <tessera/autograd/contrastive.hpp>
#include <tessera/autograd/gradcheck.hpp>
#include <tessera/io/tensor_source.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

template <class T>
Tensor<T, 0> scalar(Context<Cpu>& ctx, double value) {
  const T v = T(value);
  return Tensor<T, 0>::from_host(ctx, {}, &v);
}
Variable<double, 0> scalar_variable(Context<Cpu>& ctx, double value) {
  return Variable<double, 0>(scalar<double>(ctx, value), true);
}
double log_sum_exp(const std::vector<double>& x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double v : x) sum += std::exp(v - largest);
  return largest + std::log(sum);
}
template <class To, class From, int Rank>
Tensor<To, Rank> converted(Context<Cpu>& ctx, const TensorView<From, Rank>& from) {
  Tensor<To, Rank> to(ctx, from.shape);
  for (int64_t i = 0; i < to.size(); ++i) to.data[i] = narrow<To>(accumulate_t<To>(widen(from.data[i])));
  return to;
}

// A made-up batch of the multi-text loss: every image but the last owns texts, every fifth pair is excluded.
struct Batch {
  Tensor<int32_t, 1> owner;
  Tensor<uint8_t, 2> excluded;
};
Batch make_batch(Context<Cpu>& ctx, int64_t images, int64_t texts) {
  Batch b{Tensor<int32_t, 1>(ctx, {texts}), Tensor<uint8_t, 2>(ctx, {images, texts})};
  for (int64_t j = 0; j < texts; ++j) b.owner.data[j] = int32_t(j * j % std::max<int64_t>(1, images - 1));
  for (int64_t p = 0; p < images * texts; ++p) b.excluded.data[p] = p % 5 == 2;
  return b;
}

// The multi-text loss from the definition, in double.
template <class T>
double reference(const TensorView<T, 2>& scores, const Batch& batch, double logit_scale, double largest_scale) {
  const double scale = std::min(std::exp(logit_scale), largest_scale);
  const auto [images, texts] = scores.shape;
  const auto logit = [&](int64_t i, int64_t j) { return scale * double(widen(scores(i, j))); };
  const auto owns = [&](int64_t i, int64_t j) { return batch.owner(j) == i; };
  double text_loss = 0, image_loss = 0;
  int64_t images_with_texts = 0;
  for (int64_t j = 0; j < texts; ++j) {
    std::vector<double> logits;
    for (int64_t i = 0; i < images; ++i)
      if (owns(i, j) || !batch.excluded(i, j)) logits.push_back(logit(i, j));
    text_loss += (log_sum_exp(logits) - logit(batch.owner(j), j)) / double(texts);
  }
  for (int64_t i = 0; i < images; ++i) {
    double sum = 0;
    int64_t own = 0;
    for (int64_t j = 0; j < texts; ++j) {
      if (!owns(i, j)) continue;
      std::vector<double> logits{logit(i, j)};
      for (int64_t other = 0; other < texts; ++other)
        if (!owns(i, other) && !batch.excluded(i, other)) logits.push_back(logit(i, other));
      sum += log_sum_exp(logits) - logit(i, j);
      ++own;
    }
    images_with_texts += own > 0;
    image_loss += own ? sum / double(own) : 0;
  }
  return (text_loss + image_loss / double(images_with_texts)) / 2;
}

}  // namespace

TEMPLATE_TEST_CASE("multi_text_contrastive: forward is the definition at every size", "[ops][contrastive]", float,
                   double, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, double> ? 1e-12 : 2e-6;
  auto ctx = nan_filled_context();
  const int64_t sizes[][2] = {{1, 1}, {1, 4}, {2, 1}, {3, 63}, {32, 130}, {65, 300}};
  for (const auto& [images, texts] : sizes)
    for (double logit_scale : {2.6, 6.0}) {
      INFO("B " << images << " K " << texts << " logit_scale " << logit_scale);
      auto scores = random_tensor<T, 2>(ctx, {images, texts}, 1, 0.3);
      const Batch batch = make_batch(ctx, images, texts);
      const auto loss =
          multi_text_contrastive(ctx, scores, batch.owner, batch.excluded, scalar<accumulate_t<T>>(ctx, logit_scale));
      const double expected = reference(view(scores), batch, logit_scale, 100);
      CHECK(std::abs(double(loss()) - expected) <= tolerance * std::max(1.0, expected));
    }
}

TEST_CASE("multi_text_contrastive: one text an image and nothing excluded is the symmetric loss",
          "[ops][contrastive]") {
  auto ctx = nan_filled_context();
  auto image = random_tensor<double, 2>(ctx, {9, 5}, 1, 0.4), text = random_tensor<double, 2>(ctx, {9, 5}, 2, 0.4);
  const auto scores = matmul(ctx, image, text, {}, {.transpose_b = true});
  Tensor<int32_t, 1> owner(ctx, {9});
  std::iota(owner.data, owner.data + 9, 0);
  const auto scale = scalar<double>(ctx, 2);
  CHECK(multi_text_contrastive(ctx, scores, owner, {}, scale)() ==
        Approx(contrastive(ctx, image, text, scale)()).epsilon(1e-13));
}

TEST_CASE("multi_text_contrastive: gradients agree with finite differences", "[ops][contrastive]") {
  auto ctx = nan_filled_context();
  const int64_t sizes[][2] = {{1, 1}, {1, 3}, {2, 2}, {5, 14}};
  for (const auto& [images, texts] : sizes)
    for (bool excluding : {false, true}) {
      auto scores = random_variable<2>(ctx, {images, texts}, 1, 0.3);
      auto scale = scalar_variable(ctx, 1.5), beyond = scalar_variable(ctx, 5);
      const Batch batch = make_batch(ctx, images, texts);
      const auto excluded = excluding ? batch.excluded : Tensor<uint8_t, 2>();
      const auto loss = [&](auto& tape, auto x, auto s) {
        return multi_text_contrastive(tape, x, batch.owner, excluded, s);
      };
      const auto result = gradcheck(ctx, loss, scores, scale);
      INFO("B " << images << " K " << texts << " " << result.message);
      CHECK(result);
      CHECK(gradcheck(ctx, loss, scores, beyond));
      CHECK(beyond.grad()() == 0);
    }
}

TEST_CASE("multi_text_contrastive: float agrees with double, threads and absent outputs change nothing",
          "[ops][contrastive]") {
  auto ctx = nan_filled_context();
  auto scores = random_tensor<float, 2>(ctx, {200, 701}, 1, 0.3);
  const Batch batch = make_batch(ctx, 200, 701);
  const auto gradients = [&]<class T>(const Tensor<T, 2>& x, bool both) {
    const auto scale = scalar<T>(ctx, 3), d_loss = scalar<T>(ctx, 2);
    Tensor<T, 0> loss(ctx, {}), d_scale(ctx, {});
    Tensor<T, 1> texts(ctx, {701}), negatives(ctx, {200});
    Tensor<T, 2> d_scores(ctx, x.shape);
    multi_text_contrastive_forward(ctx, view(loss), texts, negatives, view(x), batch.owner, batch.excluded, scale);
    if (both) {
      multi_text_contrastive_backward(ctx, view(d_scores), d_scale, d_loss, texts, negatives, x, batch.owner,
                                      batch.excluded, scale);
    } else {
      multi_text_contrastive_backward(ctx, view(d_scores), {}, d_loss, texts, negatives, x, batch.owner, batch.excluded,
                                      scale);
      multi_text_contrastive_backward(ctx, TensorView<T, 2>{}, d_scale, d_loss, texts, negatives, x, batch.owner,
                                      batch.excluded, scale);
    }
    auto values = to_host(d_scores);
    values.push_back(d_scale());
    values.push_back(loss());
    return values;
  };
  const auto one = gradients(scores, true);
  CHECK(largest_difference(one, gradients(converted<double>(ctx, view(scores)), true)) < 5e-6);
  CHECK(one == gradients(scores, false));
  const int before = omp_get_max_threads();
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    CHECK(one == gradients(scores, true));
  }
  omp_set_num_threads(before);
}

TEST_CASE("multi_text_contrastive: errors name the argument, the axis and the numbers", "[ops][contrastive]") {
  auto ctx = nan_filled_context();
  auto scores = random_tensor<float, 2>(ctx, {3, 4}, 1);
  Batch batch = make_batch(ctx, 3, 4);
  const auto scale = scalar<float>(ctx, 1);
  batch.owner.data[2] = 3;
  REQUIRE_ERROR(multi_text_contrastive(ctx, scores, batch.owner, batch.excluded, scale), ValueError,
                "owner[2] is 3, not one of 3 images");
  REQUIRE_ERROR(multi_text_contrastive(ctx, scores, Tensor<int32_t, 1>(ctx, {5}), {}, scale), ShapeError,
                "axis K of owner [5] is 5 but must be 4");
  REQUIRE_ERROR(multi_text_contrastive(ctx, scores, batch.owner, Tensor<uint8_t, 2>(ctx, {4, 4}), scale), ShapeError,
                "axis B of excluded [4, 4] is 4 but must be 3");
}

TEMPLATE_TEST_CASE("multi_text_contrastive: values and gradients are PyTorch's", "[ops][contrastive]", float, double) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 5e-6 : 1e-12;
  Context<Cpu> ctx;
  const auto file = io::TensorSource::open(TESSERA_TEST_DIR "/golden/contrastive.safetensors");
  const auto owner = file.read<int32_t, 1>(ctx, "owner");
  const auto excluded = file.read<uint8_t, 2>(ctx, "excluded");
  const Variable<T, 2> scores(file.read<T, 2>(ctx, "scores"), true);
  const Variable<T, 0> scale(file.read<T, 0>(ctx, "multi.logit_scale"), true);
  Tape<Cpu> tape(ctx);
  const auto loss = multi_text_contrastive(tape, scores, owner, excluded, scale);
  tape.backward(loss);
  CHECK(double(loss.value()()) == Approx(file.read_vector<double>("multi.loss")[0]).epsilon(tolerance));
  CHECK(double(scale.grad()()) == Approx(file.read_vector<double>("multi.d_logit_scale")[0]).epsilon(tolerance));
  CHECK(largest_difference(to_host(scores.grad()), file.read_vector<double>("multi.d_scores")) < tolerance);
}
