#include <omp.h>

#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/softmax.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
constexpr double infinity = std::numeric_limits<double>::infinity();

// From the definition, in double, by rows.
template <class T>
std::vector<double> reference(const TensorView<T, 2>& x, bool logarithm) {
  std::vector<double> y;
  for (int64_t r = 0; r < x.shape[0]; ++r) {
    double largest = -infinity, sum = 0;
    for (int64_t c = 0; c < x.shape[1]; ++c) largest = std::max(largest, double(widen(x(r, c))));
    for (int64_t c = 0; c < x.shape[1]; ++c) sum += std::exp(double(widen(x(r, c))) - largest);
    for (int64_t c = 0; c < x.shape[1]; ++c) {
      const double log_probability = double(widen(x(r, c))) - largest - std::log(sum);
      y.push_back(logarithm ? log_probability : std::exp(log_probability));
    }
  }
  return y;
}
}  // namespace

TEMPLATE_TEST_CASE("softmax: forward is the definition at every size", "[ops][softmax]", float, double, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, bfloat16> ? 4e-3 : std::is_same_v<T, float> ? 1e-6 : 1e-14;
  auto ctx = nan_filled_context();
  for (int64_t columns : {1, 63, 64, 65, 127, 128, 129, 197}) {
    auto x = random_tensor<T, 2>(ctx, {7, columns}, 1, 5.0);
    INFO("columns " << columns);
    CHECK(largest_difference(to_host(softmax(ctx, x)), reference(view(x), false)) < tolerance);
    CHECK(largest_difference(to_host(log_softmax(ctx, x)), reference(view(x), true)) < tolerance);
  }
}

TEST_CASE("softmax: gradients agree with finite differences", "[ops][softmax]") {
  auto ctx = nan_filled_context();
  for (int64_t columns : {1, 2, 65}) {
    auto x = random_variable<3>(ctx, {2, 3, columns}, 1);
    const auto plain = gradcheck(
        ctx, [](auto& tape, auto a) { return softmax(tape, a); }, x);
    INFO(plain.message);
    CHECK(plain);
    const auto logarithm = gradcheck(
        ctx, [](auto& tape, auto a) { return log_softmax(tape, a); }, x);
    INFO(logarithm.message);
    CHECK(logarithm);
  }
}

TEMPLATE_TEST_CASE("softmax: values and gradients are PyTorch's", "[ops][softmax]", float, double) {
  Oracle<TestType> oracle("softmax");
  const auto run = [&]<int Rank>(const std::string& name, std::integral_constant<int, Rank>) {
    const auto x = oracle.template input<Rank>(name + ".softmax.x");
    const auto z = oracle.template input<Rank>(name + ".log_softmax.x");
    oracle.check(
        name + ".softmax", {"x"}, [](auto& tape, auto a) { return softmax(tape, a); }, x);
    oracle.check(
        name + ".log_softmax", {"x"}, [](auto& tape, auto a) { return log_softmax(tape, a); }, z);
  };
  run("plain", std::integral_constant<int, 3>{});
  run("large", std::integral_constant<int, 2>{});
  run("masked", std::integral_constant<int, 2>{});
}

TEMPLATE_TEST_CASE("softmax: a row of -infinity is 0, and so is its gradient", "[ops][softmax]", float, double,
                   bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  auto x = random_tensor<T, 2>(ctx, {3, 20}, 1), d_y = random_tensor<T, 2>(ctx, {3, 20}, 2);
  for (int64_t c = 0; c < 20; ++c) x(1, c) = narrow<T>(float(-infinity));
  auto y = softmax(ctx, x), z = log_softmax(ctx, x);
  Tensor<T, 2> d_x(ctx, {3, 20}), d_z(ctx, {3, 20});
  softmax_backward(ctx, view(d_x), d_y, y);
  log_softmax_backward(ctx, view(d_z), d_y, z);
  for (int64_t c = 0; c < 20; ++c) {
    CHECK(widen(y(1, c)) == 0);
    CHECK(widen(z(1, c)) == -infinity);
    CHECK(widen(d_x(1, c)) == 0);
    CHECK(widen(d_z(1, c)) == 0);
    CHECK(widen(y(0, c)) > 0);
    CHECK(std::isfinite(widen(d_z(2, c))));
  }
}

TEST_CASE("softmax: NaN stays in its row, wherever it stands", "[ops][softmax]") {
  auto ctx = nan_filled_context();
  for (int64_t at : {0, 5, 16, 36}) {
    auto x = random_tensor<float, 2>(ctx, {3, 37}, 1);
    x(1, at) = std::nanf("");
    const auto y = softmax(ctx, x), z = log_softmax(ctx, x);
    for (int64_t c = 0; c < 37; ++c) {
      CHECK((std::isnan(y(1, c)) && std::isnan(z(1, c))));
      CHECK((y(0, c) > 0 && y(2, c) > 0));
    }
  }
}

TEST_CASE("softmax: in place, float backward agrees with double", "[ops][softmax]") {
  auto ctx = nan_filled_context();
  const Shape<2> shape{50, 129};
  auto x = random_tensor<float>(ctx, shape, 1, 3.0), d_y = random_tensor<float>(ctx, shape, 2);
  auto xd = random_tensor<double>(ctx, shape, 1, 3.0), d_yd = random_tensor<double>(ctx, shape, 2);
  auto y = softmax(ctx, x);
  auto yd = softmax(ctx, xd);
  Tensor<float, 2> d_x(ctx, shape);
  Tensor<double, 2> d_xd(ctx, shape);
  softmax_backward(ctx, view(d_x), d_y, y);
  softmax_backward(ctx, view(d_xd), d_yd, yd);
  CHECK(largest_difference(view(d_x), view(d_xd)) < 2e-6);
  auto z = log_softmax(ctx, x);
  Tensor<float, 2> d_z(ctx, shape);
  log_softmax_backward(ctx, view(d_z), d_y, z);
  auto d_y_copy = random_tensor<float>(ctx, shape, 2);
  log_softmax_backward(ctx, view(d_y_copy), d_y_copy, z);
  CHECK(to_host(d_y_copy) == to_host(d_z));
  softmax_backward(ctx, view(d_y), d_y, y);
  CHECK(to_host(d_y) == to_host(d_x));
  softmax_forward(ctx, view(x), x);
  CHECK(to_host(x) == to_host(y));
}

TEST_CASE("softmax: the number of threads changes no bit", "[ops][softmax]") {
  auto ctx = nan_filled_context();
  auto x = random_tensor<float, 2>(ctx, {700, 197}, 1), d_y = random_tensor<float, 2>(ctx, {700, 197}, 2);
  const int before = omp_get_max_threads();
  std::vector<float> y, z, d_x;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    auto soft = softmax(ctx, x), logarithm = log_softmax(ctx, x);
    Tensor<float, 2> d(ctx, x.shape);
    softmax_backward(ctx, view(d), d_y, soft);
    if (threads == 1) y = to_host(soft), z = to_host(logarithm), d_x = to_host(d);
    CHECK(to_host(soft) == y);
    CHECK(to_host(logarithm) == z);
    CHECK(to_host(d) == d_x);
  }
  omp_set_num_threads(before);
}

TEST_CASE("softmax: errors name the argument, the axis and the numbers; empty inputs pass", "[ops][softmax]") {
  auto ctx = nan_filled_context();
  auto x = random_tensor<float, 2>(ctx, {3, 8}, 1);
  Tensor<float, 2> y(ctx, {3, 7});
  REQUIRE_ERROR(softmax_forward(ctx, view(y), x), ShapeError, "softmax_forward: axis 1 of y [3, 7] is 7 but must be 8");
  REQUIRE_ERROR(softmax_forward(ctx, view(y), x.slice(1, 0, 7)), ShapeError, "needs it contiguous");
  REQUIRE_ERROR(log_softmax_backward(ctx, view(x), y, x), ShapeError, "log_softmax_backward: axis 1 of d_y [3, 7]");
  CHECK(softmax(ctx, Tensor<float, 2>(ctx, {0, 4})).size() == 0);
  CHECK(log_softmax(ctx, Tensor<float, 2>(ctx, {4, 0})).size() == 0);
}
