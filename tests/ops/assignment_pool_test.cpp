#include <omp.h>

#include <tessera/autograd/assignment_pool.hpp>
#include <tessera/autograd/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
const AssignmentPoolOptions at_least_one{}, plus_epsilon{PoolDivisor::plus_epsilon, 0.5};

/// By the definition, in double.
template <class T>
std::vector<double> reference(const TensorView<T, 3>& value, const TensorView<T, 3>& assignment,
                              const AssignmentPoolOptions& options) {
  const auto [batch, tokens, channels] = value.shape;
  std::vector<double> pooled;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t g = 0; g < assignment.shape[2]; ++g) {
      double mass = 0;
      std::vector<double> sum(static_cast<size_t>(channels));
      for (int64_t n = 0; n < tokens; ++n) {
        const double weight = double(widen(assignment(b, n, g)));
        mass += weight;
        for (int64_t c = 0; c < channels; ++c) sum[size_t(c)] += weight * double(widen(value(b, n, c)));
      }
      const double divisor =
          options.divisor == PoolDivisor::plus_epsilon ? mass + options.epsilon : std::max(mass, 1.0);
      for (double s : sum) pooled.push_back(s / divisor);
    }
  return pooled;
}

/// Positive weights whose groups have masses below and above 1: those of group g sum to about g / 2.
template <class T>
Tensor<T, 3> random_assignment(Context<Cpu>& ctx, const Shape<3>& shape, uint64_t seed) {
  Tensor<T, 3> assignment(ctx, shape);
  const RandomStream random{seed, 1, 1};
  for (int64_t i = 0; i < assignment.size(); ++i)
    assignment.data[i] =
        narrow<T>(accumulate_t<T>(double(random.uniform(uint64_t(i))) * double(i % shape[2]) / double(shape[1])));
  return assignment;
}

template <class T>
struct PoolRun {
  Tensor<T, 3> pooled, d_value, d_assignment;
  Tensor<accumulate_t<T>, 2> mass;

  PoolRun(Context<Cpu>& ctx, const Tensor<T, 3>& value, const Tensor<T, 3>& assignment, const Tensor<T, 3>& d_pooled,
          AssignmentPoolOptions options)
      : pooled(ctx, d_pooled.shape),
        d_value(ctx, value.shape),
        d_assignment(ctx, assignment.shape),
        mass(ctx, {d_pooled.shape[0], d_pooled.shape[1]}) {
    assignment_pool_forward(ctx, view(pooled), mass, value, assignment, options);
    assignment_pool_backward(ctx, view(d_value), d_assignment, d_pooled, mass, value, assignment, options);
  }
};
template <class T>
Tensor<double, 3> in_double(Context<Cpu>& ctx, const Tensor<T, 3>& x) {
  Tensor<double, 3> y(ctx, x.shape);
  for (int64_t i = 0; i < x.size(); ++i) y.data[i] = double(widen(x.data[i]));
  return y;
}
}  // namespace

TEMPLATE_TEST_CASE("assignment_pool: forward is the definition, backward agrees with double, at every size", "[ops]",
                   float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 4e-6 : 8e-3;  // bfloat16: the stores' rounding
  auto ctx = nan_filled_context();
  const int64_t sizes[][4] = {{1, 1, 1, 1},    {2, 63, 8, 5},    {3, 64, 64, 8},
                              {2, 65, 33, 64}, {1, 197, 129, 7}, {5, 2, 3, 65}};
  for (const auto& [batch, tokens, channels, groups] : sizes)
    for (const auto& options : {at_least_one, plus_epsilon}) {
      INFO("B " << batch << " N " << tokens << " D " << channels << " G " << groups);
      const auto value = random_tensor<T, 3>(ctx, {batch, tokens, channels}, 1);
      const auto assignment = random_assignment<T>(ctx, {batch, tokens, groups}, 2);
      const auto d_pooled = random_tensor<T, 3>(ctx, {batch, groups, channels}, 3);
      const PoolRun<T> run(ctx, value, assignment, d_pooled, options);
      const PoolRun<double> wide(ctx, in_double(ctx, value), in_double(ctx, assignment), in_double(ctx, d_pooled),
                                 options);
      const auto expected = reference(view(value), view(assignment), options);
      CHECK(largest_difference(to_host(run.pooled), expected) < tolerance);
      CHECK(largest_difference(to_host(wide.pooled), expected) < 1e-14);
      CHECK(to_host(assignment_pool(ctx, view(wide.pooled), Tensor<double, 3>::zeros(ctx, {batch, groups, 1}))) ==
            std::vector<double>(size_t(batch * channels)));  // a group without mass
      CHECK(largest_difference(to_host(run.mass), to_host(wide.mass)) < 1e-6);
      CHECK(largest_difference(view(run.d_value), view(wide.d_value)) < tolerance);
      CHECK(largest_difference(view(run.d_assignment), view(wide.d_assignment)) < tolerance);

      Tensor<T, 3> d_value(ctx, value.shape), d_assignment(ctx, assignment.shape);
      assignment_pool_backward(ctx, view(d_value), {}, d_pooled, run.mass, value, assignment, options);
      assignment_pool_backward(ctx, TensorView<T, 3>{}, d_assignment, d_pooled, run.mass, value, assignment, options);
      CHECK(largest_difference(view(d_value), view(run.d_value)) == 0);
      CHECK(largest_difference(view(d_assignment), view(run.d_assignment)) == 0);
    }
}

TEST_CASE("assignment_pool: gradients agree with finite differences", "[ops]") {
  auto ctx = nan_filled_context();
  const int64_t sizes[][4] = {{2, 7, 5, 3}, {1, 1, 4, 2}, {3, 9, 1, 1}, {1, 3, 6, 70}};
  for (const auto& [batch, tokens, channels, groups] : sizes)
    for (const auto& options : {at_least_one, plus_epsilon}) {
      const auto value = random_variable<3>(ctx, {batch, tokens, channels}, 1);
      const Variable<double, 3> assignment(random_assignment<double>(ctx, {batch, tokens, groups}, 2), true);
      const auto result = gradcheck(
          ctx, [&](auto& tape, auto v, auto a) { return assignment_pool(tape, v, a, options); }, value, assignment);
      INFO("N " << tokens << " G " << groups << ": " << result.message);
      CHECK(result);
    }
}

TEST_CASE("assignment_pool: the divisor passes a gradient from a mass of exactly 1 on", "[ops]") {
  auto ctx = nan_filled_context();
  // group 0: mass 1; group 1: just below; group 2: none
  const auto assignment = Tensor<double, 3>::from_host(ctx, {1, 2, 3}, {0.75, 0.75, 0, 0.25, 0.25 - 0x1p-50, 0});
  const auto value = Tensor<double, 3>::from_host(ctx, {1, 2, 1}, {2, 4});
  const auto d_pooled = Tensor<double, 3>::from_host(ctx, {1, 3, 1}, {1, 1, 1});
  const PoolRun<double> run(ctx, value, assignment, d_pooled, {});
  CHECK(run.pooled(0, 0, 0) == 2.5);
  CHECK(run.pooled(0, 2, 0) == 0);
  CHECK(to_host(run.d_assignment) == std::vector<double>{-0.5, 2, 2, 1.5, 4, 4});
}

TEMPLATE_TEST_CASE("assignment_pool: values and gradients are PyTorch's", "[ops]", float, double) {
  Oracle<TestType> oracle("assignment_pool");
  for (const std::string kind : {"soft", "hard"})
    for (const std::string divisor : {"at_least_one", "plus_epsilon"}) {
      const std::string name = kind + "." + divisor;
      const auto value = oracle.template input<3>(name + ".value");
      const auto assignment = oracle.template input<3>(name + ".assignment");
      oracle.check(
          name, {"value", "assignment"},
          [&](auto& tape, auto v, auto a) {
            return assignment_pool(tape, v, a, divisor == "plus_epsilon" ? plus_epsilon : at_least_one);
          },
          value, assignment);
    }
}

TEST_CASE("assignment_pool: 1, 2, 3 and 16 threads give equal bits", "[ops]") {
  auto ctx = nan_filled_context();
  const auto value = random_tensor<float, 3>(ctx, {6, 197, 96}, 1);
  const auto assignment = random_assignment<float>(ctx, {6, 197, 8}, 2);
  const auto d_pooled = random_tensor<float, 3>(ctx, {6, 8, 96}, 3);
  const int before = omp_get_max_threads();
  std::vector<PoolRun<float>> runs;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    runs.emplace_back(ctx, value, assignment, d_pooled, at_least_one);
  }
  omp_set_num_threads(before);
  for (size_t i = 1; i < runs.size(); ++i) {
    CHECK(to_host(runs[i].pooled) == to_host(runs[0].pooled));
    CHECK(to_host(runs[i].mass) == to_host(runs[0].mass));
    CHECK(to_host(runs[i].d_value) == to_host(runs[0].d_value));
    CHECK(to_host(runs[i].d_assignment) == to_host(runs[0].d_assignment));
  }
}

TEST_CASE("assignment_pool: errors name the argument, the axis and the numbers; no items pass", "[ops]") {
  auto ctx = nan_filled_context();
  const Tensor<float, 3> value(ctx, {2, 5, 4}), assignment(ctx, {2, 5, 3}), pooled(ctx, {2, 3, 4});
  const Tensor<float, 2> mass(ctx, {2, 3});
  REQUIRE_ERROR(assignment_pool_forward(ctx, view(pooled), {}, value, Tensor<float, 3>(ctx, {2, 6, 3})), ShapeError,
                "assignment_pool_forward: axis N of assignment [2, 6, 3] is 6 but must be 5 (from value)");
  REQUIRE_ERROR(assignment_pool_forward(ctx, view(value), {}, value, assignment), ShapeError,
                "axis G of pooled [2, 5, 4] is 5 but must be 3");
  REQUIRE_ERROR(assignment_pool(ctx, view(value), Tensor<float, 3>(ctx, {2, 5, 0})), ShapeError, "has no groups");
  REQUIRE_ERROR(assignment_pool(ctx, view(Tensor<float, 3>(ctx, {2, 0, 4})), Tensor<float, 3>(ctx, {2, 0, 3})),
                ShapeError, "at least one token");
  REQUIRE_ERROR(assignment_pool(ctx, value.slice(2, 0, 3), assignment), ShapeError, "needs it contiguous");
  REQUIRE_ERROR(assignment_pool(ctx, view(value), assignment, {PoolDivisor::plus_epsilon, 0}), ValueError,
                "epsilon is 0 but must be greater than 0");
  REQUIRE_ERROR(assignment_pool_backward(ctx, view(value), {}, pooled, {}, value, assignment), ValueError,
                "mass is absent");
  REQUIRE_ERROR(assignment_pool_backward(ctx, view(pooled), {}, pooled, mass, value, assignment), ShapeError,
                "axis N of d_value [2, 3, 4]");
  CHECK(assignment_pool(ctx, view(Tensor<float, 3>(ctx, {0, 5, 4})), Tensor<float, 3>(ctx, {0, 5, 3})).size() == 0);
}
