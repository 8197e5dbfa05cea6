#include <omp.h>

#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/symmetric_kl.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

/// log softmax of a row, in double.
template <class T>
std::vector<double> log_probabilities(const T* row, int64_t classes) {
  double largest = widen(row[0]), sum = 0;
  for (int64_t c = 0; c < classes; ++c) largest = std::max(largest, double(widen(row[c])));
  for (int64_t c = 0; c < classes; ++c) sum += std::exp(widen(row[c]) - largest);
  std::vector<double> log(static_cast<size_t>(classes));
  for (int64_t c = 0; c < classes; ++c) log[size_t(c)] = widen(row[c]) - largest - std::log(sum);
  return log;
}

/// The sum over all elements of (P - Q)(log P - log Q), by the definition.
template <class T>
double expected(const TensorView<T, 2>& p, const TensorView<T, 2>& q) {
  double sum = 0;
  for (int64_t r = 0; r < p.shape[0]; ++r) {
    const auto log_p = log_probabilities(&p(r, 0), p.shape[1]), log_q = log_probabilities(&q(r, 0), p.shape[1]);
    for (size_t c = 0; c < log_p.size(); ++c) sum += (std::exp(log_p[c]) - std::exp(log_q[c])) * (log_p[c] - log_q[c]);
  }
  return sum;
}

}  // namespace

TEMPLATE_TEST_CASE("symmetric_kl: the loss is the definition, the gradients those of double", "[ops][symmetric_kl]",
                   float, double, bfloat16) {
  using T = TestType;
  using A = accumulate_t<T>;
  const double tolerance = std::is_same_v<T, bfloat16> ? 5e-3 : std::is_same_v<T, float> ? 2e-6 : 1e-13;
  auto ctx = nan_filled_context();
  for (const auto& [rows, classes] : {std::pair{1, 2}, {63, 8}, {65, 64}, {7, 129}, {3, 197}, {2100, 8}}) {
    INFO(rows << "x" << classes);
    const Shape<2> shape{rows, classes};
    const auto p = random_tensor<T>(ctx, shape, 1, 2.0), q = random_tensor<T>(ctx, shape, 2, 2.0);
    const double sum = expected(view(p), view(q));
    CHECK(std::abs(symmetric_kl(ctx, p, q)() - 0.5 * sum / (rows * classes)) < 1e-6 * sum / (rows * classes));
    CHECK(std::abs(symmetric_kl(ctx, p, q, {.per_row = true})() - 0.5 * sum / rows) < 1e-6 * sum / rows);

    Tensor<double, 2> p_wide(ctx, shape), q_wide(ctx, shape), d_p_wide(ctx, shape), d_q_wide(ctx, shape);
    for (int64_t i = 0; i < p.size(); ++i) {
      p_wide.data[i] = widen(p.data[i]);
      q_wide.data[i] = widen(q.data[i]);
    }
    const double cotangent = 0.75;
    const auto d_loss_wide = Tensor<double, 0>::from_host(ctx, {}, &cotangent);
    const A narrowed = A(cotangent);
    const auto d_loss = Tensor<A, 0>::from_host(ctx, {}, &narrowed);
    Tensor<double, 2> statistics_wide(ctx, {rows, 4});
    Tensor<A, 2> statistics(ctx, {rows, 4});
    Tensor<double, 0> unused(ctx, {});
    symmetric_kl_forward(ctx, unused, statistics_wide, view(p_wide), q_wide);
    symmetric_kl_backward(ctx, view(d_p_wide), d_q_wide, d_loss_wide, statistics_wide, p_wide, q_wide);
    symmetric_kl_forward(ctx, {}, statistics, view(p), q);  // statistics alone
    Tensor<T, 2> d_p(ctx, shape), d_q(ctx, shape), alone(ctx, shape);
    symmetric_kl_backward(ctx, view(d_p), d_q, d_loss, statistics, p, q);
    CHECK(largest_difference(to_host(d_p), to_host(d_p_wide)) < tolerance);
    CHECK(largest_difference(to_host(d_q), to_host(d_q_wide)) < tolerance);
    symmetric_kl_backward(ctx, view(alone), {}, d_loss, statistics, p, q);
    CHECK(largest_difference(view(alone), view(d_p)) < tolerance);
    symmetric_kl_backward(ctx, TensorView<T, 2>{}, alone, d_loss, statistics, p, q);
    CHECK(largest_difference(view(alone), view(d_q)) < tolerance);
    symmetric_kl_backward(ctx, view(p), q, d_loss, statistics, p, q);  // in place
    CHECK(largest_difference(view(p), view(d_p)) == 0);
    CHECK(largest_difference(view(q), view(d_q)) == 0);
  }
}

TEST_CASE("symmetric_kl: gradients agree with finite differences", "[ops][symmetric_kl]") {
  auto ctx = nan_filled_context();
  const auto p = random_variable<3>(ctx, {2, 3, 5}, 1), q = random_variable<3>(ctx, {2, 3, 5}, 2);
  for (const bool per_row : {false, true}) {
    const auto result = gradcheck(
        ctx, [=](auto& tape, auto a, auto b) { return symmetric_kl(tape, a, b, {.per_row = per_row}); }, p, q);
    INFO(result.message);
    CHECK(result);
  }
}

TEMPLATE_TEST_CASE("symmetric_kl: values and gradients are PyTorch's", "[ops][symmetric_kl]", float, double) {
  Oracle<TestType> oracle("symmetric_kl");
  const auto p = oracle.template input<3>("elements.p"), q = oracle.template input<3>("elements.q");
  oracle.check(
      "elements", {"p", "q"}, [](auto& tape, auto a, auto b) { return symmetric_kl(tape, a, b); }, p, q);
  const auto p_rows = oracle.template input<2>("rows.p"), q_rows = oracle.template input<2>("rows.q");
  oracle.check(
      "rows", {"p", "q"}, [](auto& tape, auto a, auto b) { return symmetric_kl(tape, a, b, {.per_row = true}); },
      p_rows, q_rows);
}

TEST_CASE("symmetric_kl: equal, huge and masked logits, no rows", "[ops][symmetric_kl]") {
  auto ctx = nan_filled_context();
  const float infinity = std::numeric_limits<float>::infinity();
  const auto p = Tensor<float, 2>::from_host(ctx, {2, 3}, {20000, 20001, -infinity, 5, -infinity, 4});
  const auto q = Tensor<float, 2>::from_host(ctx, {2, 3}, {-20000, -20001, -infinity, 5, -infinity, 6});
  const auto small_p = Tensor<float, 2>::from_host(ctx, {2, 2}, {0, 1, 1, 0});
  const auto small_q = Tensor<float, 2>::from_host(ctx, {2, 2}, {1, 0, 0, 1});
  CHECK(symmetric_kl(ctx, p, p)() == 0);
  // masked classes take no part but in the number of elements; shifts of a row change nothing
  CHECK(std::abs(symmetric_kl(ctx, p, q, {.per_row = true})() -
                 symmetric_kl(ctx, small_p, small_q, {.per_row = true})()) < 1e-7f);
  Tensor<float, 0> loss(ctx, {});
  Tensor<float, 2> statistics(ctx, {2, 4}), d_p(ctx, p.shape), d_q(ctx, p.shape);
  symmetric_kl_forward(ctx, loss, statistics, view(p), q);
  symmetric_kl_backward(ctx, view(d_p), d_q, loss, statistics, p, q);
  CHECK(d_p(0, 2) == 0);
  CHECK(d_q(1, 1) == 0);
  CHECK(std::isfinite(d_p(0, 0)));
  const Tensor<float, 2> none(ctx, {0, 3});
  CHECK(symmetric_kl(ctx, none, none)() == 0);
}

TEST_CASE("symmetric_kl: the number of threads changes no bit", "[ops][symmetric_kl]") {
  auto ctx = nan_filled_context();
  const auto p = random_tensor<float, 2>(ctx, {9000, 8}, 1), q = random_tensor<float, 2>(ctx, {9000, 8}, 2);
  const int before = omp_get_max_threads();
  std::vector<float> first;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    const auto loss = to_host(symmetric_kl(ctx, p, q));
    if (threads == 1) first = loss;
    CHECK(loss == first);
  }
  omp_set_num_threads(before);
}

TEST_CASE("symmetric_kl: errors name the argument and the axis", "[ops][symmetric_kl]") {
  auto ctx = nan_filled_context();
  const Tensor<float, 2> p(ctx, {2, 3}), q(ctx, {2, 4}), empty(ctx, {2, 0});
  REQUIRE_ERROR(symmetric_kl(ctx, p, q), ShapeError,
                "symmetric_kl_forward: axis 1 of q [2, 4] is 4 but must be 3 (from p)");
  REQUIRE_ERROR(symmetric_kl(ctx, empty, empty), ShapeError, "p [2, 0] has no classes");
  Tensor<float, 2> d_p(ctx, p.shape);
  const Tensor<float, 0> d_loss(ctx, {});
  REQUIRE_ERROR(symmetric_kl_backward(ctx, view(d_p), {}, d_loss, {}, p, p), ValueError,
                "symmetric_kl_backward: statistics is absent but needed here");
}
