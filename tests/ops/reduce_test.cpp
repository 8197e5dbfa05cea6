#include <omp.h>

#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/reduce.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
// Sums over `axis` in double.
template <class T>
std::vector<double> reference(const TensorView<T, 3>& x, int axis) {
  const auto shape = detail::without_axis(x.shape, axis);
  std::vector<double> sums(size_t(element_count(shape)));
  for (int64_t i = 0; i < x.shape[0]; ++i)
    for (int64_t j = 0; j < x.shape[1]; ++j)
      for (int64_t k = 0; k < x.shape[2]; ++k) {
        const int64_t at = axis == 0 ? j * shape[1] + k : axis == 1 ? i * shape[1] + k : i * shape[1] + j;
        sums[size_t(at)] += double(widen(x(i, j, k)));
      }
  return sums;
}
}  // namespace

TEMPLATE_TEST_CASE("reduce: sums and means are the definition at every size", "[ops][reduce]", float, double,
                   bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, bfloat16> ? 4e-3 : std::is_same_v<T, float> ? 4e-6 : 1e-13;
  auto ctx = nan_filled_context();
  const Shape<3> shapes[] = {{1, 1, 1},   {2, 63, 65},   {65, 3, 64},   {3, 127, 1},     {129, 1, 128},
                             {2, 197, 7}, {1, 1, 40000}, {40000, 1, 3}, {2, 3000, 1100}, {3, 20000, 1}};
  for (const auto& shape : shapes) {
    auto x = random_tensor<T, 3>(ctx, shape, 1);
    for (int axis = 0; axis < 3; ++axis) {
      INFO(to_string(shape) << " axis " << axis);
      auto expected = reference(view(x), axis);
      CHECK(largest_difference(to_host(sum(ctx, x, axis)), expected) < tolerance);
      for (double& v : expected) v /= double(shape[size_t(axis)]);
      CHECK(largest_difference(to_host(mean(ctx, x, axis)), expected) < tolerance);
    }
    double total = 0;
    for (double v : reference(view(x), 0)) total += v;
    CHECK(std::abs(double(sum(ctx, x)()) - total) < 2e-6 * std::sqrt(double(x.size())));
    CHECK(std::abs(double(mean(ctx, x)()) * double(x.size()) - total) < 2e-6 * std::sqrt(double(x.size())));
  }
}

TEMPLATE_TEST_CASE("reduce: max finds the first of the largest, and NaN", "[ops][reduce]", float, double, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  auto x = random_tensor<T, 3>(ctx, {3, 65, 5}, 1);
  x(0, 7, 2) = x(0, 40, 2) = narrow<T>(9.0f);
  x(1, 20, 3) = narrow<T>(std::nanf(""));
  x(1, 30, 3) = narrow<T>(50.0f);
  const auto found = max(ctx, x, 1);
  CHECK((found.index(0, 2) == 7 && widen(found.values(0, 2)) == 9));
  CHECK((found.index(1, 3) == 20 && std::isnan(widen(found.values(1, 3)))));
  bool right = true;
  for (int64_t i = 0; i < 3; ++i)
    for (int64_t k = 0; k < 5; ++k)
      for (int64_t j = 0; j < 65; ++j)
        if (!(i == 1 && k == 3))
          right = right && widen(found.values(i, k)) >= widen(x(i, j, k)) &&
                  widen(found.values(i, k)) == widen(x(i, found.index(i, k), k));
  CHECK(right);
}

TEST_CASE("reduce: gradients agree with finite differences", "[ops][reduce]") {
  auto ctx = nan_filled_context();
  auto x = random_variable<3>(ctx, {3, 4, 5}, 1);
  const auto check = [&](auto&& f) {
    const auto result = gradcheck(ctx, f, x);
    INFO(result.message);
    CHECK(result);
  };
  for (int axis = 0; axis < 3; ++axis) {
    check([=](auto& tape, auto a) { return sum(tape, a, axis); });
    check([=](auto& tape, auto a) { return mean(tape, a, axis); });
    check([=](auto& tape, auto a) { return max(tape, a, axis); });
  }
  check([](auto& tape, auto a) { return sum(tape, a); });
  check([](auto& tape, auto a) { return mean(tape, a); });
}

TEMPLATE_TEST_CASE("reduce: values and gradients are PyTorch's", "[ops][reduce]", float, double) {
  Oracle<TestType> oracle("reduce");
  for (int axis = 0; axis < 3; ++axis) {
    const std::string number = std::to_string(axis);
    const auto s = oracle.template input<3>("sum" + number + ".x"),
               m = oracle.template input<3>("mean" + number + ".x");
    const auto l = oracle.template input<3>("max" + number + ".x");
    oracle.check(
        "sum" + number, {"x"}, [=](auto& tape, auto a) { return sum(tape, a, axis); }, s);
    oracle.check(
        "mean" + number, {"x"}, [=](auto& tape, auto a) { return mean(tape, a, axis); }, m);
    oracle.check(
        "max" + number, {"x"}, [=](auto& tape, auto a) { return max(tape, a, axis); }, l);
  }
  const auto s = oracle.template input<3>("sum.x"), m = oracle.template input<3>("mean.x");
  oracle.check(
      "sum", {"x"}, [](auto& tape, auto a) { return sum(tape, a); }, s);
  oracle.check(
      "mean", {"x"}, [](auto& tape, auto a) { return mean(tape, a); }, m);
}

TEST_CASE("reduce: bfloat16 sums are kept in float", "[ops][reduce]") {
  auto ctx = nan_filled_context();
  Tensor<bfloat16, 1> ones(ctx, {100000});
  std::fill_n(ones.data, 100000, narrow<bfloat16>(1.0f));
  CHECK(sum(ctx, ones)() == 100000.0f);
  CHECK(mean(ctx, ones)() == Approx(1.0f));
  Tensor<float, 0> wide(ctx, {});
  reduce_forward(ctx, view(wide), view(ones), 0, Reduction::sum);
  CHECK(wide() == 100000.0f);
}

TEST_CASE("reduce: the number of threads changes no bit", "[ops][reduce]") {
  auto ctx = nan_filled_context();
  auto x = random_tensor<float, 3>(ctx, {5, 4000, 37}, 1);
  const int before = omp_get_max_threads();
  std::vector<std::vector<float>> first;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    const std::vector<std::vector<float>> all{to_host(sum(ctx, x, 0)), to_host(sum(ctx, x, 1)), to_host(sum(ctx, x, 2)),
                                              to_host(mean(ctx, x)), to_host(max(ctx, x, 1).values)};
    if (threads == 1) first = all;
    CHECK(all == first);
  }
  omp_set_num_threads(before);
}

TEST_CASE("reduce: errors name the axis; empty axes", "[ops][reduce]") {
  auto ctx = nan_filled_context();
  auto x = random_tensor<float, 2>(ctx, {3, 8}, 1);
  REQUIRE_ERROR(sum(ctx, x, 2), ShapeError, "there is no axis 2 in x [3, 8]");
  REQUIRE_ERROR(max(ctx, x, -1), ShapeError, "there is no axis -1 in x [3, 8]");
  Tensor<float, 1> y(ctx, {3});
  REQUIRE_ERROR(reduce_forward(ctx, view(y), view(x), 0, Reduction::sum), ShapeError,
                "axis 0 of y [3] is 3 but must be 8");
  Tensor<float, 2> empty(ctx, {3, 0});
  CHECK(to_host(sum(ctx, empty, 1)) == std::vector<float>(3, 0.0f));
  CHECK(sum(ctx, empty, 0).size() == 0);
  CHECK(sum(ctx, empty)() == 0);
  REQUIRE_ERROR(mean(ctx, empty, 1), ShapeError, "the mean over axis 1 of x [3, 0], which is empty");
  REQUIRE_ERROR(max(ctx, empty, 1), ShapeError, "axis 1 of x [3, 0] is empty");
}
