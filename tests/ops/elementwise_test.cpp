#include <omp.h>

#include <tessera/ops/elementwise.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
// f(a, b) by NumPy's rule, in double, one element at a time; both of rank 3 with extents 1 where they repeat.
template <class T>
std::vector<double> reference(const TensorView<T, 3>& a, const TensorView<T, 3>& b, double (*f)(double, double)) {
  const auto shape = detail::broadcast_shape("reference", a.shape, b.shape);
  std::vector<double> y;
  const auto at = [](const TensorView<T, 3>& x, int64_t i, int64_t j, int64_t k) {
    return double(widen(x(x.shape[0] == 1 ? 0 : i, x.shape[1] == 1 ? 0 : j, x.shape[2] == 1 ? 0 : k)));
  };
  for (int64_t i = 0; i < shape[0]; ++i)
    for (int64_t j = 0; j < shape[1]; ++j)
      for (int64_t k = 0; k < shape[2]; ++k) y.push_back(f(at(a, i, j, k), at(b, i, j, k)));
  return y;
}
}  // namespace

TEMPLATE_TEST_CASE("elementwise: arithmetic broadcasts at every size", "[ops][elementwise]", float, double, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, bfloat16> ? 4e-3 : std::is_same_v<T, float> ? 2e-7 : 1e-15;
  auto ctx = nan_filled_context();
  for (int64_t n : {1, 63, 64, 65, 129, 197})
    for (const Shape<3>& a_shape : {Shape<3>{3, 5, n}, {3, 1, n}, {1, 5, 1}})
      for (const Shape<3>& b_shape : {Shape<3>{3, 5, n}, {1, 5, n}, {3, 1, n}, {3, 5, 1}, {1, 1, 1}}) {
        INFO(to_string(a_shape) << " and " << to_string(b_shape));
        auto a = random_tensor<T>(ctx, a_shape, 1), b = random_tensor<T>(ctx, b_shape, 2);
        for (int64_t i = 0; i < b.size(); ++i) b.data[i] = narrow<T>(std::abs(widen(b.data[i])) + 1);
        const auto check = [&](const auto& ours, double (*f)(double, double)) {
          CHECK(largest_difference(to_host(ours), reference(view(a), view(b), f)) < tolerance);
        };
        check(add(ctx, a, b), [](double p, double q) { return p + q; });
        check(subtract(ctx, a, b), [](double p, double q) { return p - q; });
        check(multiply(ctx, a, b), [](double p, double q) { return p * q; });
        check(divide(ctx, a, b), [](double p, double q) { return p / q; });
      }
}

TEST_CASE("elementwise: strided operands, lower ranks, a float operand of bfloat16, in place", "[ops][elementwise]") {
  auto ctx = nan_filled_context();
  auto wide = random_tensor<float, 3>(ctx, {4, 6, 30}, 1);
  const auto part = wide.slice(1, 1, 4).slice(2, 3, 20);
  auto bias = random_tensor<float, 1>(ctx, {17}, 2);
  const auto y = add(ctx, part, bias);
  bool right = true;
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t j = 0; j < 3; ++j)
      for (int64_t k = 0; k < 17; ++k) right = right && y(i, j, k) == wide(i, 1 + j, 3 + k) + bias(k);
  CHECK(right);
  arithmetic_forward(ctx, part, part, bias, Arithmetic::add);
  CHECK(wide(3, 3, 19) == y(3, 2, 16));

  auto halves = random_tensor<bfloat16, 2>(ctx, {5, 17}, 3);
  const auto sums = add(ctx, halves, bias);
  CHECK(sums(4, 16).bits == narrow<bfloat16>(widen(halves(4, 16)) + bias(16)).bits);
  add_into(ctx, view(halves), view(sums));
  CHECK(std::isfinite(widen(halves(4, 16))));
}

TEMPLATE_TEST_CASE("elementwise: activations' gradients are finite at any finite x, and NaN passes",
                   "[ops][elementwise]", float, double) {
  using T = TestType;
  auto ctx = nan_filled_context();
  const std::vector<T> values{T(-3e38), T(-1e20), T(-1e6), T(-100), T(-20), T(-5.5), T(20), T(100), T(1e20), T(3e38)};
  auto x = Tensor<T, 1>::from_host(ctx, {10}, values);
  auto ones = Tensor<T, 1>::from_host(ctx, {10}, std::vector<T>(10, T(1)));
  auto nan = Tensor<T, 1>::from_host(ctx, {1}, {std::numeric_limits<T>::quiet_NaN()});
  for (Activation kind : {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::quick_gelu}) {
    INFO(activation_name(kind));
    const auto y = activation(ctx, x, kind);
    Tensor<T, 1> d_x(ctx, {10}), d_nan(ctx, {1});
    activation_backward(ctx, view(d_x), ones, x, kind);
    for (int64_t i = 0; i < 10; ++i) {
      const bool negative = x(i) < 0;
      if (x(i) < -50) CHECK((std::abs(y(i)) < T(1e-30) && std::abs(d_x(i)) < T(1e-30)));
      if (!negative) CHECK((std::abs(y(i) - x(i)) <= T(1e-12) * x(i) && std::abs(d_x(i) - 1) < T(1e-12)));
      CHECK((!negative || y(i) <= 0));  // no activation here is positive for negative x
    }
    CHECK(std::isnan(activation(ctx, nan, kind)(0)));
    if (kind != Activation::relu) {
      activation_backward(ctx, view(d_nan), Tensor<T, 1>::from_host(ctx, {1}, {T(1)}), nan, kind);
      CHECK(std::isnan(d_nan(0)));
    }
  }
}

TEST_CASE("elementwise: absent gradients are skipped, float agrees with double", "[ops][elementwise]") {
  auto ctx = nan_filled_context();
  const Shape<3> shape{7, 65, 33};
  auto a = random_tensor<float>(ctx, shape, 1), d_y = random_tensor<float>(ctx, shape, 3);
  auto b = random_tensor<float, 2>(ctx, {65, 33}, 2);
  auto ad = random_tensor<double>(ctx, shape, 1), d_yd = random_tensor<double>(ctx, shape, 3);
  auto bd = random_tensor<double, 2>(ctx, {65, 33}, 2);
  for (Arithmetic kind : {Arithmetic::add, Arithmetic::subtract, Arithmetic::multiply}) {
    Tensor<float, 3> d_a(ctx, shape), d_a_alone(ctx, shape);
    Tensor<float, 2> d_b(ctx, b.shape), d_b_alone(ctx, b.shape);
    arithmetic_backward(ctx, view(d_a), view(d_b), view(d_y), a, view(b), kind);
    arithmetic_backward(ctx, view(d_a_alone), TensorView<float, 2>{}, view(d_y), a, view(b), kind);
    arithmetic_backward(ctx, TensorView<float, 3>{}, view(d_b_alone), view(d_y), a, view(b), kind);
    CHECK(to_host(d_a) == to_host(d_a_alone));
    CHECK(to_host(d_b) == to_host(d_b_alone));
    Tensor<double, 3> d_ad(ctx, shape);
    Tensor<double, 2> d_bd(ctx, b.shape);
    arithmetic_backward(ctx, view(d_ad), view(d_bd), view(d_yd), ad, view(bd), kind);
    CHECK(largest_difference(view(d_a), view(d_ad)) < 2e-7);
    CHECK(largest_difference(view(d_b), view(d_bd)) < 5e-7);
  }
}

TEST_CASE("elementwise: the number of threads changes no bit", "[ops][elementwise]") {
  auto ctx = nan_filled_context();
  const Shape<3> shape{300, 50, 33};
  auto a = random_tensor<float>(ctx, shape, 1), d_y = random_tensor<float>(ctx, shape, 3);
  auto b = random_tensor<float, 1>(ctx, {33}, 2);
  auto c = random_tensor<float, 3>(ctx, {300, 1, 1}, 2);
  const int before = omp_get_max_threads();
  std::vector<std::vector<float>> first;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    Tensor<float, 3> d_a(ctx, shape), d_c(ctx, c.shape);
    Tensor<float, 1> d_b(ctx, b.shape);
    arithmetic_backward(ctx, view(d_a), view(d_b), view(d_y), a, view(b), Arithmetic::multiply);
    arithmetic_backward(ctx, TensorView<float, 3>{}, view(d_c), view(d_y), a, view(c), Arithmetic::add);
    const std::vector<std::vector<float>> all{to_host(multiply(ctx, a, b)), to_host(d_a), to_host(d_b), to_host(d_c)};
    if (threads == 1) first = all;
    CHECK(all == first);
  }
  omp_set_num_threads(before);
}

TEST_CASE("elementwise: errors name the operation, the axis and the numbers", "[ops][elementwise]") {
  auto ctx = nan_filled_context();
  auto a = random_tensor<float, 3>(ctx, {2, 3, 8}, 1);
  auto b = random_tensor<float, 2>(ctx, {4, 8}, 1);
  REQUIRE_ERROR(add(ctx, a, b), ShapeError, "add: axis 1 is 3 in a [2, 3, 8] but 4 in b [4, 8]");
  Tensor<float, 3> y(ctx, {2, 3, 7});
  REQUIRE_ERROR(arithmetic_forward(ctx, view(y), a, view(a), Arithmetic::divide), ShapeError,
                "divide: axis 2 of y [2, 3, 7] is 7 but must be 8");
  REQUIRE_ERROR(add_into(ctx, view(a), a.slice(1, 0, 2)), ShapeError,
                "add_into: axis 1 of x [2, 2, 8] is 2 but must be 3");
  REQUIRE_ERROR(activation(ctx, a.slice(2, 0, 4), Activation::gelu), ShapeError, "needs it contiguous");
  CHECK(add(ctx, Tensor<float, 2>(ctx, {0, 8}), random_tensor<float, 1>(ctx, {8}, 1)).size() == 0);
}
