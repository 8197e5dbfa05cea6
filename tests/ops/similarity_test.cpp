#include <omp.h>

#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/similarity.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
double length(const std::vector<double>& x) {
  double squares = 0;
  for (double v : x) squares += v * v;
  return std::sqrt(squares);
}
template <class T>
std::vector<double> row(const TensorView<T, 2>& x, int64_t r) {
  std::vector<double> values;
  for (int64_t c = 0; c < x.shape[1]; ++c) values.push_back(double(widen(x(r, c))));
  return values;
}
}  // namespace

TEMPLATE_TEST_CASE("similarity: forward is the definition at every size", "[ops][similarity]", float, double,
                   bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, bfloat16> ? 8e-3 : std::is_same_v<T, float> ? 1e-6 : 1e-14;
  auto ctx = nan_filled_context();
  for (int64_t channels : {1, 63, 64, 65, 127, 129, 197}) {
    INFO("channels " << channels);
    auto a = random_tensor<T, 2>(ctx, {5, channels}, 1, 3.0), b = random_tensor<T, 2>(ctx, {4, channels}, 2);
    std::vector<double> unit, cosines;
    for (int64_t i = 0; i < 5; ++i) {
      const auto x = row(view(a), i);
      for (double v : x) unit.push_back(v / length(x));
      for (int64_t j = 0; j < 4; ++j) {
        const auto y = row(view(b), j);
        double dot = 0;
        for (size_t c = 0; c < x.size(); ++c) dot += x[c] * y[c];
        cosines.push_back(dot / length(x) / length(y));
      }
    }
    CHECK(largest_difference(to_host(l2_normalise(ctx, a)), unit) < tolerance);
    CHECK(largest_difference(to_host(cosine_similarity(ctx, a, b)), cosines) < 2 * tolerance);
  }
}

TEST_CASE("similarity: gradients agree with finite differences", "[ops][similarity]") {
  auto ctx = nan_filled_context();
  auto x = random_variable<3>(ctx, {2, 3, 7}, 1);
  auto texts = random_variable<2>(ctx, {4, 7}, 2), images = random_variable<2>(ctx, {3, 7}, 3);
  for (double epsilon : {0.0, 1e-12, 100.0}) {
    const auto result = gradcheck(
        ctx, [&](auto& tape, auto a) { return l2_normalise(tape, a, {.epsilon = epsilon}); }, x);
    INFO(result.message);
    CHECK(result);
  }
  const auto pairs = gradcheck(
      ctx, [](auto& tape, auto a, auto b) { return cosine_similarity(tape, a, b); }, images, texts);
  INFO(pairs.message);
  CHECK(pairs);
  const auto patches = gradcheck(
      ctx, [](auto& tape, auto a, auto b) { return cosine_similarity(tape, a, b); }, x, texts);
  INFO(patches.message);
  CHECK(patches);
  const auto itself = gradcheck(
      ctx, [](auto& tape, auto a) { return cosine_similarity(tape, a, a); }, texts);
  INFO(itself.message);
  CHECK(itself);
}

TEMPLATE_TEST_CASE("similarity: values and gradients are PyTorch's", "[ops][similarity]", float, double) {
  Oracle<TestType> oracle("similarity");
  const auto plain = oracle.template input<3>("plain.x");
  const auto shorter = oracle.template input<2>("epsilon.x");
  oracle.check(
      "plain", {"x"}, [](auto& tape, auto a) { return l2_normalise(tape, a); }, plain);
  oracle.check(
      "epsilon", {"x"}, [](auto& tape, auto a) { return l2_normalise(tape, a, {.epsilon = 0.25}); }, shorter);
  const auto cosine = [](auto& tape, auto a, auto b) { return cosine_similarity(tape, a, b); };
  const auto a = oracle.template input<2>("pairs.a"), b = oracle.template input<2>("pairs.b");
  oracle.check("pairs", {"a", "b"}, cosine, a, b);
  const auto patches = oracle.template input<3>("patches.a");
  const auto texts = oracle.template input<2>("patches.b");
  oracle.check("patches", {"a", "b"}, cosine, patches, texts);
}

TEST_CASE("similarity: a zero vector gives zeros and no gradient, NaN stays NaN", "[ops][similarity]") {
  auto ctx = nan_filled_context();
  auto x = random_tensor<float, 2>(ctx, {3, 20}, 1), d_y = random_tensor<float, 2>(ctx, {3, 20}, 2);
  for (int64_t c = 0; c < 20; ++c) x(1, c) = 0;
  x(2, 7) = std::nanf("");
  Tensor<float, 2> y(ctx, x.shape), d_x(ctx, x.shape);
  Tensor<float, 1> norm(ctx, {3});
  l2_normalise_forward(ctx, view(y), norm, x);
  l2_normalise_backward(ctx, view(d_x), d_y, norm, y);
  for (int64_t c = 0; c < 20; ++c) {
    CHECK((y(1, c) == 0 && d_x(1, c) == 0));
    CHECK((std::isnan(y(2, c)) && std::isnan(d_x(2, c))));
    CHECK((std::isfinite(y(0, c)) && std::isfinite(d_x(0, c))));
  }
  CHECK(std::isnan(l2_normalise(ctx, x, {.epsilon = 1e-6})(2, 0)));
}

TEST_CASE("similarity: absent gradients are skipped, in place, float agrees with double", "[ops][similarity]") {
  auto ctx = nan_filled_context();
  auto a = random_tensor<float, 3>(ctx, {3, 50, 65}, 1), d_s = random_tensor<float, 3>(ctx, {3, 50, 9}, 3);
  auto b = random_tensor<float, 2>(ctx, {9, 65}, 2);
  CosineSimilaritySaved<float, 3> saved(ctx, a.shape, b.shape);
  Tensor<float, 3> s(ctx, d_s.shape), d_a(ctx, a.shape), d_a_alone(ctx, a.shape);
  Tensor<float, 2> d_b(ctx, b.shape), d_b_alone(ctx, b.shape);
  cosine_similarity_forward(ctx, view(s), saved, a, b);
  cosine_similarity_backward(ctx, view(d_a), d_b, d_s, saved);
  cosine_similarity_backward(ctx, view(d_a_alone), {}, d_s, saved);
  cosine_similarity_backward(ctx, TensorView<float, 3>{}, d_b_alone, d_s, saved);
  CHECK(to_host(d_a_alone) == to_host(d_a));
  CHECK(to_host(d_b_alone) == to_host(d_b));

  auto ad = random_tensor<double, 3>(ctx, {3, 50, 65}, 1), d_sd = random_tensor<double, 3>(ctx, {3, 50, 9}, 3);
  auto bd = random_tensor<double, 2>(ctx, {9, 65}, 2);
  CosineSimilaritySaved<double, 3> saved_d(ctx, a.shape, b.shape);
  Tensor<double, 3> sd(ctx, d_s.shape), d_ad(ctx, a.shape);
  Tensor<double, 2> d_bd(ctx, b.shape);
  cosine_similarity_forward(ctx, view(sd), saved_d, ad, bd);
  cosine_similarity_backward(ctx, view(d_ad), d_bd, d_sd, saved_d);
  CHECK(largest_difference(view(s), view(sd)) < 2e-6);
  CHECK(largest_difference(view(d_a), view(d_ad)) < 2e-6);
  CHECK(largest_difference(view(d_b), view(d_bd)) < 2e-6);

  const auto unit = l2_normalise(ctx, b);
  l2_normalise_forward(ctx, view(b), {}, b);
  CHECK(to_host(b) == to_host(unit));
}

TEST_CASE("similarity: the number of threads changes no bit", "[ops][similarity]") {
  auto ctx = nan_filled_context();
  auto a = random_tensor<float, 3>(ctx, {4, 197, 64}, 1), d_s = random_tensor<float, 3>(ctx, {4, 197, 21}, 3);
  auto b = random_tensor<float, 2>(ctx, {21, 64}, 2);
  const int before = omp_get_max_threads();
  std::vector<std::vector<float>> first;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    CosineSimilaritySaved<float, 3> saved(ctx, a.shape, b.shape);
    Tensor<float, 3> s(ctx, d_s.shape), d_a(ctx, a.shape);
    Tensor<float, 2> d_b(ctx, b.shape);
    cosine_similarity_forward(ctx, view(s), saved, a, b);
    cosine_similarity_backward(ctx, view(d_a), d_b, d_s, saved);
    const std::vector<std::vector<float>> all{to_host(s), to_host(d_a), to_host(d_b)};
    if (threads == 1) first = all;
    CHECK(all == first);
  }
  omp_set_num_threads(before);
}

TEST_CASE("similarity: errors name the argument, the axis and the numbers", "[ops][similarity]") {
  auto ctx = nan_filled_context();
  auto a = random_tensor<float, 2>(ctx, {3, 8}, 1), b = random_tensor<float, 2>(ctx, {2, 7}, 2);
  REQUIRE_ERROR(cosine_similarity(ctx, a, b), ShapeError,
                "cosine_similarity: axis C is 8 in a [3, 8] but 7 in b [2, 7]");
  REQUIRE_ERROR(l2_normalise(ctx, a, {.epsilon = -1}), ValueError, "epsilon is -1 but must not be negative");
  REQUIRE_ERROR(l2_normalise(ctx, a.slice(1, 0, 7)), ShapeError, "needs it contiguous");
  Tensor<float, 2> y(ctx, {3, 8});
  REQUIRE_ERROR(l2_normalise_forward(ctx, view(y), Tensor<float, 1>(ctx, {2}), a), ShapeError,
                "axis rows of norm [2] is 2 but must be 3");
}
