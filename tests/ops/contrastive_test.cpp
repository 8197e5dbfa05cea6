#include <omp.h>
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
template <class T>
Tensor<T, 2> unit_rows(Context<Cpu>& ctx, int64_t rows, int64_t channels, uint64_t seed) {
  auto x = random_tensor<T, 2>(ctx, {rows, channels}, seed);
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (int64_t c = 0; c < channels; ++c) squares += std::pow(double(widen(x(r, c))), 2);
    for (int64_t c = 0; c < channels; ++c)
      x(r, c) = narrow<T>(accumulate_t<T>(double(widen(x(r, c))) / std::sqrt(squares)));
  }
  return x;
}
double log_sum_exp(const std::vector<double>& x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double v : x) sum += std::exp(v - largest);
  return largest + std::log(sum);
}
template <class T>
double dot(const TensorView<T, 2>& a, int64_t i, const TensorView<T, 2>& b, int64_t j) {
  double sum = 0;
  for (int64_t c = 0; c < a.shape[1]; ++c) sum += double(widen(a(i, c))) * double(widen(b(j, c)));
  return sum;
}

// InfoNCE from the definition, with all logits, in double.
template <class T>
double reference(const TensorView<T, 2>& image, const TensorView<T, 2>& text, double logit_scale,
                 const ContrastiveOptions& options) {
  const double scale = std::min(std::exp(logit_scale), options.largest_scale);
  const int64_t rows = image.shape[0], columns = text.shape[0];
  double row_loss = 0, column_loss = 0;
  for (int64_t i = 0; i < rows; ++i) {
    std::vector<double> logits;
    for (int64_t j = 0; j < columns; ++j) logits.push_back(scale * dot(image, i, text, j));
    row_loss += (log_sum_exp(logits) - logits[size_t(options.first_label + i)]) / double(rows);
  }
  if (options.loss == ContrastiveLoss::rows) return row_loss;
  for (int64_t j = 0; j < columns; ++j) {
    std::vector<double> logits;
    for (int64_t i = 0; i < rows; ++i) logits.push_back(scale * dot(image, i, text, j));
    column_loss += (log_sum_exp(logits) - logits[size_t(j)]) / double(columns);
  }
  return (row_loss + column_loss) / 2;
}

template <class T>
struct Gradients {
  Tensor<accumulate_t<T>, 0> loss, d_logit_scale;
  Tensor<T, 2> d_image, d_text;
};
template <class T>
Gradients<T> run(Context<Cpu>& ctx, const Tensor<T, 2>& image, const Tensor<T, 2>& text, double logit_scale,
                 ContrastiveOptions options = {}, double d_loss = 1) {
  using A = accumulate_t<T>;
  const auto scale = scalar<A>(ctx, logit_scale);
  Tensor<A, 1> rows(ctx, {image.shape[0]}), columns(ctx, {text.shape[0]});
  Gradients<T> g{Tensor<A, 0>(ctx, {}), Tensor<A, 0>(ctx, {}), Tensor<T, 2>(ctx, image.shape),
                 Tensor<T, 2>(ctx, text.shape)};
  contrastive_forward(ctx, view(g.loss), rows, columns, view(image), text, scale, options);
  contrastive_backward(ctx, view(g.d_image), g.d_text, g.d_logit_scale, scalar<A>(ctx, d_loss), rows, columns, image,
                       text, scale, options);
  return g;
}
template <class To, class From, int Rank>
Tensor<To, Rank> converted(Context<Cpu>& ctx, const TensorView<From, Rank>& from) {
  Tensor<To, Rank> to(ctx, from.shape);
  for (int64_t i = 0; i < to.size(); ++i) to.data[i] = narrow<To>(accumulate_t<To>(widen(from.data[i])));
  return to;
}

}  // namespace

TEMPLATE_TEST_CASE("contrastive: forward is the definition at every size", "[ops][contrastive]", float, double,
                   bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, double> ? 1e-12 : 2e-6;
  auto ctx = nan_filled_context();
  for (int64_t batch : {1, 2, 63, 64, 65, 129, 600})
    for (int64_t channels : {1, 33})
      for (double logit_scale : {2.6, 4.0, 6.0}) {  // the last is beyond the clamp
        INFO("B " << batch << " D " << channels << " logit_scale " << logit_scale);
        auto image = unit_rows<T>(ctx, batch, channels, 1), text = unit_rows<T>(ctx, batch, channels, 2);
        const auto loss = contrastive(ctx, image, text, scalar<accumulate_t<T>>(ctx, logit_scale));
        const double expected = reference(view(image), view(text), logit_scale, {});
        CHECK(std::abs(double(loss()) - expected) <= tolerance * std::max(1.0, expected));
      }
}

TEST_CASE("contrastive: local rows against gathered columns", "[ops][contrastive]") {
  auto ctx = nan_filled_context();
  auto image = unit_rows<double>(ctx, 700, 8, 1), text = unit_rows<double>(ctx, 2100, 8, 2);
  const ContrastiveOptions rows{.loss = ContrastiveLoss::rows, .first_label = 1390};
  const auto loss = contrastive(ctx, image, text, scalar<double>(ctx, 3), rows);
  CHECK(loss() == Approx(reference(view(image), view(text), 3, rows)).epsilon(1e-12));

  // Two ranks' row losses and column losses add up to the symmetric loss, gradients too.
  auto all_images = unit_rows<double>(ctx, 6, 5, 3), all_texts = unit_rows<double>(ctx, 6, 5, 4);
  const auto whole = run(ctx, all_images, all_texts, 2);
  double sum = 0, d_scale = 0;
  std::vector<double> d_image(30);
  for (int64_t rank = 0; rank < 2; ++rank)
    for (bool image_rows : {true, false}) {
      const auto& local = image_rows ? all_images : all_texts;
      const auto& gathered = image_rows ? all_texts : all_images;
      const auto part = Tensor<double, 2>::from_host(ctx, {3, 5}, local.data + rank * 15);
      const auto g = run(ctx, part, gathered, 2, {.loss = ContrastiveLoss::rows, .first_label = rank * 3}, 0.25);
      sum += 0.25 * g.loss();
      d_scale += g.d_logit_scale();
      for (int64_t i = 0; i < 30; ++i) {
        if (!image_rows) d_image[size_t(i)] += g.d_text.data[i];
        if (image_rows && i / 15 == rank) d_image[size_t(i)] += g.d_image.data[i % 15];
      }
    }
  CHECK(sum == Approx(whole.loss()).epsilon(1e-13));
  CHECK(d_scale == Approx(whole.d_logit_scale()).epsilon(1e-10));
  CHECK(largest_difference(d_image, to_host(whole.d_image)) < 1e-13);
}

TEST_CASE("contrastive: gradients agree with finite differences", "[ops][contrastive]") {
  auto ctx = nan_filled_context();
  for (int64_t batch : {1, 2, 7}) {
    auto image = Variable<double, 2>(unit_rows<double>(ctx, batch, 5, 1), true);
    auto text = Variable<double, 2>(unit_rows<double>(ctx, batch, 5, 2), true);
    auto scale = scalar_variable(ctx, 1.5);
    const auto loss = [](auto& tape, auto a, auto b, auto s) { return contrastive(tape, a, b, s); };
    const auto result = gradcheck(ctx, loss, image, text, scale);
    INFO(result.message);
    CHECK(result);
    auto beyond = scalar_variable(ctx, 5);
    CHECK(gradcheck(ctx, loss, image, text, beyond));
    CHECK(beyond.grad()() == 0);
  }
  auto image = Variable<double, 2>(unit_rows<double>(ctx, 3, 5, 1), true);
  auto text = Variable<double, 2>(unit_rows<double>(ctx, 8, 5, 2), true);
  auto scale = scalar_variable(ctx, 1.5);
  const auto result = gradcheck(
      ctx,
      [](auto& tape, auto a, auto b, auto s) {
        return contrastive(tape, a, b, s, {.loss = ContrastiveLoss::rows, .first_label = 4});
      },
      image, text, scale);
  INFO(result.message);
  CHECK(result);
}

TEMPLATE_TEST_CASE("contrastive: backward over several tiles agrees with double, absent outputs change nothing",
                   "[ops][contrastive]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 2e-5 : 5e-3;  // bfloat16: the stores' rounding
  auto ctx = nan_filled_context();
  const int64_t batch = 2177;  // five tiles of rows, two of columns
  auto image = unit_rows<T>(ctx, batch, 17, 1), text = unit_rows<T>(ctx, batch, 17, 2);
  const auto g = run(ctx, image, text, 4, {}, 3.0);
  const auto wide = run(ctx, converted<double>(ctx, view(image)), converted<double>(ctx, view(text)), 4, {}, 3.0);
  CHECK(double(g.loss()) == Approx(wide.loss()).epsilon(2e-6));
  CHECK(double(g.d_logit_scale()) == Approx(wide.d_logit_scale()).epsilon(2e-5));
  CHECK(largest_difference(view(g.d_image), view(wide.d_image)) < tolerance);
  CHECK(largest_difference(view(g.d_text), view(wide.d_text)) < tolerance);

  const auto scale = scalar<float>(ctx, 4), d_loss = scalar<float>(ctx, 3);
  Tensor<float, 1> rows(ctx, {batch}), columns(ctx, {batch});
  Tensor<float, 0> loss(ctx, {}), d_scale(ctx, {});
  Tensor<T, 2> d_text(ctx, text.shape);
  contrastive_forward(ctx, view(loss), rows, columns, view(image), text, scale);
  contrastive_backward(ctx, TensorView<T, 2>{}, d_text, {}, d_loss, rows, columns, image, text, scale);
  contrastive_backward(ctx, TensorView<T, 2>{}, {}, d_scale, d_loss, rows, columns, image, text, scale);
  CHECK(largest_difference(view(d_text), view(g.d_text)) == 0);
  CHECK(d_scale() == g.d_logit_scale());
}

TEST_CASE("contrastive: beyond features, gradients and one tile it needs a few numbers a row", "[ops][contrastive]") {
  Context<Cpu> ctx;
  const int64_t batch = 4096, channels = 16;
  auto image = unit_rows<float>(ctx, batch, channels, 1), text = unit_rows<float>(ctx, batch, channels, 2);
  const size_t inputs = ctx.pool->bytes_in_use();
  ctx.pool->reset_peak();
  const auto g = run(ctx, image, text, 3);
  const size_t gradients = size_t(2 * batch * channels) * sizeof(float);
  const size_t tile = size_t(512 * 2048) * sizeof(float);
  // a second tile for what the matrix product's library asks for
  CHECK(ctx.pool->peak_bytes() - inputs < gradients + 2 * tile + size_t(batch) * 64);
}

// Run by its tag: 4.4 TFLOP.
TEST_CASE("contrastive: a batch of 32,768 x 512 needs less than 1 GiB beyond features and gradients", "[.slow]") {
  Context<Cpu> ctx;
  auto image = unit_rows<float>(ctx, 32768, 512, 1), text = unit_rows<float>(ctx, 32768, 512, 2);
  const size_t inputs = ctx.pool->bytes_in_use();
  ctx.pool->reset_peak();
  const auto g = run(ctx, image, text, 4);
  const size_t gradients = size_t(g.d_image.size() + g.d_text.size()) * sizeof(float);
  const size_t peak = ctx.pool->peak_bytes() - inputs - gradients;
  WARN("loss " << g.loss() << ", peak beyond features and gradients " << double(peak) / (1 << 20) << " MiB");
  CHECK(peak < (size_t(1) << 30));
}

TEST_CASE("contrastive: 1, 2, 3 and 16 threads give equal bits", "[ops][contrastive]") {
  auto ctx = nan_filled_context();
  auto image = unit_rows<float>(ctx, 2177, 48, 1), text = unit_rows<float>(ctx, 2177, 48, 2);
  const int before = omp_get_max_threads();
  std::vector<Gradients<float>> runs;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    runs.push_back(run(ctx, image, text, 3));
  }
  omp_set_num_threads(before);
  for (size_t i = 1; i < runs.size(); ++i) {
    CHECK(runs[i].loss() == runs[0].loss());
    CHECK(runs[i].d_logit_scale() == runs[0].d_logit_scale());
    CHECK(to_host(runs[i].d_image) == to_host(runs[0].d_image));
    CHECK(to_host(runs[i].d_text) == to_host(runs[0].d_text));
  }
}

TEST_CASE("contrastive: errors name the argument, the axis and the numbers", "[ops][contrastive]") {
  auto ctx = nan_filled_context();
  auto image = unit_rows<float>(ctx, 4, 8, 1), text = unit_rows<float>(ctx, 5, 8, 2);
  const auto scale = scalar<float>(ctx, 1);
  REQUIRE_ERROR(contrastive(ctx, image, text, scale), ShapeError, "axis B of text [5, 8] is 5 but must be 4");
  REQUIRE_ERROR(contrastive(ctx, image, image, {}), ValueError, "logit_scale is absent");
  REQUIRE_ERROR(contrastive(ctx, image, image, scale, {.first_label = 1}), ValueError, "first_label is 1");
  REQUIRE_ERROR(contrastive(ctx, image, text, scale, {.loss = ContrastiveLoss::rows, .first_label = 2}), ValueError,
                "rows 2 to 5 have no column of their own among 5");
  REQUIRE_ERROR(contrastive(ctx, image, image, scale, {.largest_scale = 0}), ValueError, "largest_scale is 0");
}

TEMPLATE_TEST_CASE("contrastive: values and gradients are PyTorch's", "[ops][contrastive]", float, double) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 5e-6 : 1e-12;
  Context<Cpu> ctx;
  const auto file = io::TensorSource::open(TESSERA_TEST_DIR "/golden/contrastive.safetensors");
  const auto image = file.read<T, 2>(ctx, "image"), text = file.read<T, 2>(ctx, "text");
  for (const std::string variant : {"below", "clamped"}) {
    INFO(variant);
    const auto g = run(ctx, image, text, file.read_vector<double>(variant + ".logit_scale")[0]);
    CHECK(double(g.loss()) == Approx(file.read_vector<double>(variant + ".loss")[0]).epsilon(tolerance));
    CHECK(double(g.d_logit_scale()) ==
          Approx(file.read_vector<double>(variant + ".d_logit_scale")[0]).epsilon(tolerance).margin(1e-12));
    CHECK(largest_difference(to_host(g.d_image), file.read_vector<double>(variant + ".d_image")) < tolerance);
    CHECK(largest_difference(to_host(g.d_text), file.read_vector<double>(variant + ".d_text")) < tolerance);
  }
}
