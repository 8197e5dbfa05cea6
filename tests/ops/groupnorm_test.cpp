#include <omp.h>

#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/groupnorm.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
// Straight from the definition, in double.
template <class T>
std::vector<double> reference(const Tensor<T, 3>& x, const Tensor<accumulate_t<T>, 1>& weight,
                              const Tensor<accumulate_t<T>, 1>& bias, int64_t groups, double epsilon) {
  const auto [items, channels, positions] = x.shape;
  const int64_t of_group = channels / groups;
  std::vector<double> y(size_t(x.size()));
  for (int64_t b = 0; b < items; ++b)
    for (int64_t g = 0; g < groups; ++g) {
      const auto for_each = [&, positions = positions](auto&& visit) {
        for (int64_t c = g * of_group; c < (g + 1) * of_group; ++c)
          for (int64_t i = 0; i < positions; ++i) visit(c, i, double(widen(x(b, c, i))));
      };
      const double length = double(of_group * positions);
      double mean = 0, variance = 0;
      for_each([&](int64_t, int64_t, double value) { mean += value / length; });
      for_each([&](int64_t, int64_t, double value) { variance += std::pow(value - mean, 2) / length; });
      for_each([&](int64_t c, int64_t i, double value) {
        y[size_t((b * x.shape[1] + c) * x.shape[2] + i)] =
            (value - mean) / std::sqrt(variance + epsilon) * weight(c) + bias(c);
      });
    }
  return y;
}
}  // namespace

TEMPLATE_TEST_CASE("groupnorm: forward is the definition at every size", "[ops][groupnorm]", float, double, bfloat16) {
  using T = TestType;
  using A = accumulate_t<T>;
  const double tolerance = std::is_same_v<T, bfloat16> ? 4e-3 : std::is_same_v<T, float> ? 2e-6 : 1e-14;
  auto ctx = nan_filled_context();
  for (const auto& [channels, groups] : {std::pair{1, 1}, {6, 3}, {8, 1}, {5, 5}, {64, 32}}) {
    for (int64_t positions : {1, 63, 64, 65, 127, 128, 129, 197}) {
      auto x = random_tensor<T, 3>(ctx, {2, channels, positions}, 1, 3.0);
      auto weight = random_tensor<A, 1>(ctx, {channels}, 2), bias = random_tensor<A, 1>(ctx, {channels}, 3);
      const auto y = groupnorm(ctx, x, weight, bias, {.groups = groups, .epsilon = 1e-3});
      INFO("channels " << channels << ", groups " << groups << ", positions " << positions);
      CHECK(largest_difference(to_host(y), reference<T>(x, weight, bias, groups, 1e-3)) < tolerance);
    }
  }
}

TEST_CASE("groupnorm: a mean far from zero costs no more digits than it must", "[ops][groupnorm]") {
  auto ctx = nan_filled_context();
  auto x = random_tensor<float, 3>(ctx, {1, 4, 5000}, 1);
  for (int64_t i = 0; i < x.size(); ++i) x.data[i] += 1000;
  auto weight = random_tensor<float, 1>(ctx, {4}, 2), bias = random_tensor<float, 1>(ctx, {4}, 3);
  const auto y = groupnorm(ctx, x, weight, bias, {.groups = 2});
  // The mean in float is off by up to 3e-5, half a unit of its last place.
  CHECK(largest_difference(to_host(y), reference<float>(x, weight, bias, 2, 1e-5)) < 3e-5);
}

TEST_CASE("groupnorm: gradients agree with finite differences", "[ops][groupnorm]") {
  auto ctx = nan_filled_context();
  for (const auto& [channels, groups] : {std::pair<int64_t, int64_t>{4, 2}, {3, 1}, {2, 2}}) {
    auto x = random_variable<4>(ctx, {2, channels, 3, 2}, 1);
    auto weight = random_variable<1>(ctx, {channels}, 2), bias = random_variable<1>(ctx, {channels}, 3);
    const GroupnormOptions options{groups, 1e-3};
    const auto result = gradcheck(
        ctx, [=](auto& tape, auto a, auto w, auto b) { return groupnorm(tape, a, w, b, options); }, x, weight, bias);
    INFO(result.message);
    CHECK(result);
  }
}

TEST_CASE("groupnorm: absent outputs are skipped, d_x may be d_y, float agrees with double", "[ops][groupnorm]") {
  auto ctx = nan_filled_context();
  const Shape<3> shape{3, 8, 197};
  auto x = random_tensor<float>(ctx, shape, 1), d_y = random_tensor<float>(ctx, shape, 2);
  auto weight = random_tensor<float, 1>(ctx, {8}, 3), bias = random_tensor<float, 1>(ctx, {8}, 4);
  Tensor<float, 3> y(ctx, shape), d_x(ctx, shape);
  Tensor<float, 2> mean(ctx, {3, 4}), rstd(ctx, {3, 4});
  Tensor<float, 1> d_weight(ctx, {8}), d_bias(ctx, {8});
  groupnorm_forward(ctx, view(y), mean, rstd, x, weight, bias, {.groups = 4});
  groupnorm_backward(ctx, view(d_x), d_weight, d_bias, d_y, mean, rstd, x, weight);

  const auto in_double = [&](const auto& tensor) {
    using Float = std::decay_t<decltype(tensor)>;
    Tensor<double, Float::rank> copy(ctx, tensor.shape);
    std::copy_n(tensor.data, tensor.size(), copy.data);
    return copy;
  };
  const auto xd = in_double(x), dyd = in_double(d_y);
  const auto wd = in_double(weight), bd = in_double(bias);
  Tensor<double, 3> yd(ctx, shape), dxd(ctx, shape);
  Tensor<double, 2> md(ctx, {3, 4}), rd(ctx, {3, 4});
  Tensor<double, 1> dwd(ctx, {8}), dbd(ctx, {8});
  groupnorm_forward(ctx, view(yd), md, rd, xd, wd, bd, {.groups = 4});
  groupnorm_backward(ctx, view(dxd), dwd, dbd, dyd, md, rd, xd, wd);
  CHECK(largest_difference(view(d_x), view(dxd)) < 1e-6);
  CHECK(largest_difference(view(d_weight), view(dwd)) < 1e-6);
  CHECK(largest_difference(view(d_bias), view(dbd)) < 1e-6);

  Tensor<float, 1> d_bias_alone(ctx, {8});
  groupnorm_backward(ctx, TensorView<float, 3>{}, {}, d_bias_alone, d_y, mean, rstd, x, weight);
  CHECK(to_host(d_bias_alone) == to_host(d_bias));
  groupnorm_backward(ctx, view(d_y), {}, {}, d_y, mean, rstd, x, weight);
  CHECK(to_host(d_y) == to_host(d_x));
  groupnorm_forward(ctx, view(x), {}, {}, x, weight, bias, {.groups = 4});
  CHECK(to_host(x) == to_host(y));

  // No items: nothing to write but gradients of zero.
  Tensor<float, 3> none(ctx, {0, 8, 5});
  Tensor<float, 2> no_groups(ctx, {0, 4});
  CHECK(groupnorm(ctx, none, weight, bias, {.groups = 4}).size() == 0);
  groupnorm_backward(ctx, TensorView<float, 3>{}, d_weight, {}, none, no_groups, no_groups, none, weight);
  CHECK(to_host(d_weight) == std::vector<float>(8, 0.0f));
}

TEST_CASE("groupnorm: errors name the argument, the axis and the numbers", "[ops][groupnorm]") {
  auto ctx = nan_filled_context();
  auto x = random_tensor<float, 4>(ctx, {2, 8, 3, 4}, 1);
  auto seven = random_tensor<float, 1>(ctx, {7}, 1), eight = random_tensor<float, 1>(ctx, {8}, 1);
  Tensor<float, 4> y(ctx, x.shape);
  Tensor<float, 2> mean(ctx, {2, 4});
  REQUIRE_ERROR(groupnorm(ctx, x, seven, eight, {.groups = 2}), ShapeError,
                "groupnorm_forward: axis C of weight [7] is 7 but must be 8 (from x)");
  REQUIRE_ERROR(groupnorm(ctx, x, eight, eight, {.groups = 3}), ValueError,
                "groupnorm_forward: groups is 3 but must divide the 8 channels of x [2, 8, 3, 4]");
  REQUIRE_ERROR(groupnorm(ctx, x, eight, eight, {.groups = 0}), ValueError, "groups is 0");
  REQUIRE_ERROR(groupnorm(ctx, x, eight, eight, {.groups = 2, .epsilon = -1}), ValueError, "epsilon is -1");
  REQUIRE_ERROR(groupnorm(ctx, Tensor<float, 3>(ctx, {2, 8, 0}), eight, eight, {.groups = 2}), ShapeError,
                "groups without elements");
  REQUIRE_ERROR(groupnorm_forward(ctx, view(y), mean, {}, x, eight, eight, {.groups = 2}), ShapeError,
                "axis G of mean [2, 4] is 4 but must be 2 (from x and options)");
  Tensor<float, 4> half(ctx, {2, 8, 3, 2});
  REQUIRE_ERROR(groupnorm_forward(ctx, view(half), {}, {}, x.slice(3, 0, 2), eight, eight, {.groups = 2}), ShapeError,
                "needs it contiguous");
  REQUIRE_ERROR(groupnorm_backward(ctx, view(half), {}, {}, x, mean, mean, x, eight), ShapeError, "axis 3 of d_x");
}

TEST_CASE("groupnorm: values and gradients are PyTorch's", "[ops][groupnorm]") {
  Oracle<double> oracle("groupnorm");
  for (const auto& [name, groups, epsilon] : {std::tuple{"maps", 2, 1e-5}, {"instances", 4, 0.1}}) {
    const std::string prefix = std::string(name) + ".";
    const auto x = oracle.input<4>(prefix + "x");
    const auto weight = oracle.input<1>(prefix + "weight"), bias = oracle.input<1>(prefix + "bias");
    const GroupnormOptions options{groups, epsilon};
    oracle.check(
        name, {"x", "weight", "bias"},
        [=](auto& tape, auto a, auto w, auto b) { return groupnorm(tape, a, w, b, options); }, x, weight, bias);
  }
}

TEST_CASE("groupnorm: the number of threads changes no bit", "[ops][groupnorm]") {
  auto ctx = nan_filled_context();
  const Shape<3> shape{5, 64, 400};
  auto x = random_tensor<float>(ctx, shape, 1), d_y = random_tensor<float>(ctx, shape, 2);
  auto weight = random_tensor<float, 1>(ctx, {64}, 3), bias = random_tensor<float, 1>(ctx, {64}, 4);
  const int before = omp_get_max_threads();
  std::vector<std::vector<float>> first;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    Tensor<float, 3> y(ctx, shape), d_x(ctx, shape);
    Tensor<float, 2> mean(ctx, {5, 8}), rstd(ctx, {5, 8});
    Tensor<float, 1> d_weight(ctx, {64}), d_bias(ctx, {64});
    groupnorm_forward(ctx, view(y), mean, rstd, x, weight, bias, {.groups = 8});
    groupnorm_backward(ctx, view(d_x), d_weight, d_bias, d_y, mean, rstd, x, weight);
    const std::vector<std::vector<float>> all{to_host(y), to_host(d_x), to_host(d_weight), to_host(d_bias)};
    if (threads == 1) first = all;
    CHECK(all == first);
  }
  omp_set_num_threads(before);
}
