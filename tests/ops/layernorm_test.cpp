#include <omp.h>

#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/layernorm.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
// Straight from the definition, in double.
std::vector<double> reference(const std::vector<double>& x, const std::vector<double>& weight,
                              const std::vector<double>& bias, double epsilon) {
  const size_t channels = weight.size();
  std::vector<double> y(x.size());
  for (size_t r = 0; r < x.size() / channels; ++r) {
    double mean = 0, variance = 0;
    for (size_t c = 0; c < channels; ++c) mean += x[r * channels + c] / double(channels);
    for (size_t c = 0; c < channels; ++c) variance += std::pow(x[r * channels + c] - mean, 2) / double(channels);
    for (size_t c = 0; c < channels; ++c)
      y[r * channels + c] = (x[r * channels + c] - mean) / std::sqrt(variance + epsilon) * weight[c] + bias[c];
  }
  return y;
}
template <class T>
std::vector<double> as_double(const std::vector<T>& v) {
  std::vector<double> d;
  for (const T& x : v) d.push_back(double(widen(x)));
  return d;
}
}  // namespace

TEMPLATE_TEST_CASE("layernorm: forward is the definition at every size", "[ops][layernorm]", float, double, bfloat16) {
  using T = TestType;
  using A = accumulate_t<T>;
  const double tolerance = std::is_same_v<T, bfloat16> ? 4e-3 : std::is_same_v<T, float> ? 2e-6 : 1e-14;
  auto ctx = nan_filled_context();
  for (int64_t channels : {1, 63, 64, 65, 127, 128, 129, 197}) {
    for (int64_t rows : {1, 3, 197}) {
      auto x = random_tensor<T, 2>(ctx, {rows, channels}, 1, 3.0);
      auto weight = random_tensor<A, 1>(ctx, {channels}, 2), bias = random_tensor<A, 1>(ctx, {channels}, 3);
      auto y = layernorm(ctx, x, weight, bias, {.epsilon = 1e-5});
      INFO("rows " << rows << ", channels " << channels);
      const auto expected =
          reference(as_double(to_host(x)), as_double(to_host(weight)), as_double(to_host(bias)), 1e-5);
      CHECK(largest_difference(to_host(y), expected) < tolerance);
    }
  }
}

TEST_CASE("layernorm: gradients agree with finite differences", "[ops][layernorm]") {
  auto ctx = nan_filled_context();
  for (int64_t channels : {1, 5, 64, 65}) {
    auto x = random_variable<3>(ctx, {2, 3, channels}, 1);
    auto weight = random_variable<1>(ctx, {channels}, 2), bias = random_variable<1>(ctx, {channels}, 3);
    const auto result = gradcheck(
        ctx, [](auto& tape, auto a, auto w, auto b) { return layernorm(tape, a, w, b, {.epsilon = 1e-3}); }, x, weight,
        bias);
    INFO(result.message);
    CHECK(result);
  }
}

TEST_CASE("layernorm: absent outputs are skipped, d_x may be d_y, float agrees with double", "[ops][layernorm]") {
  auto ctx = nan_filled_context();
  const Shape<2> shape{300, 129};
  auto x = random_tensor<float>(ctx, shape, 1), d_y = random_tensor<float>(ctx, shape, 2);
  auto weight = random_tensor<float, 1>(ctx, {129}, 3), bias = random_tensor<float, 1>(ctx, {129}, 4);
  Tensor<float, 2> y(ctx, shape), d_x(ctx, shape);
  Tensor<float, 1> mean(ctx, {300}), rstd(ctx, {300}), d_weight(ctx, {129}), d_bias(ctx, {129});
  layernorm_forward(ctx, view(y), mean, rstd, x, weight, bias);
  layernorm_backward(ctx, view(d_x), d_weight, d_bias, d_y, mean, rstd, x, weight);

  Tensor<double, 2> xd(ctx, shape), dyd(ctx, shape), yd(ctx, shape), dxd(ctx, shape);
  Tensor<double, 1> wd(ctx, {129}), bd(ctx, {129}), md(ctx, {300}), rd(ctx, {300}), dwd(ctx, {129}), dbd(ctx, {129});
  std::copy_n(x.data, x.size(), xd.data);
  std::copy_n(d_y.data, x.size(), dyd.data);
  std::copy_n(weight.data, 129, wd.data);
  std::copy_n(bias.data, 129, bd.data);
  layernorm_forward(ctx, view(yd), md, rd, xd, wd, bd);
  layernorm_backward(ctx, view(dxd), dwd, dbd, dyd, md, rd, xd, wd);
  CHECK(largest_difference(view(d_x), view(dxd)) < 2e-6);
  CHECK(largest_difference(view(d_weight), view(dwd)) < 2e-6);
  CHECK(largest_difference(view(d_bias), view(dbd)) < 2e-6);

  Tensor<float, 1> d_bias_alone(ctx, {129});
  layernorm_backward(ctx, TensorView<float, 2>{}, {}, d_bias_alone, d_y, mean, rstd, x, weight);
  CHECK(to_host(d_bias_alone) == to_host(d_bias));
  layernorm_backward(ctx, view(d_y), {}, {}, d_y, mean, rstd, x, weight);
  CHECK(to_host(d_y) == to_host(d_x));
}

TEST_CASE("layernorm: errors name the argument, the axis and the numbers", "[ops][layernorm]") {
  auto ctx = nan_filled_context();
  auto x = random_tensor<float, 3>(ctx, {2, 3, 8}, 1);
  auto weight = random_tensor<float, 1>(ctx, {7}, 1), bias = random_tensor<float, 1>(ctx, {8}, 1);
  Tensor<float, 3> y(ctx, {2, 3, 8});
  REQUIRE_ERROR(layernorm(ctx, x, weight, bias), ShapeError,
                "layernorm_forward: axis C of weight [7] is 7 but must be 8 (from x)");
  REQUIRE_ERROR(layernorm_forward(ctx, view(y), {}, {}, x.slice(2, 0, 4), weight, bias), ShapeError, "axis 2 of y");
  Tensor<float, 3> narrow_y(ctx, {2, 3, 7});
  REQUIRE_ERROR(layernorm_forward(ctx, view(narrow_y), {}, {}, x.slice(2, 0, 7), weight, weight), ShapeError,
                "needs it contiguous");
  REQUIRE_ERROR(layernorm(ctx, Tensor<float, 2>(ctx, {4, 0}), weight, bias), ShapeError, "no channels");
  REQUIRE_ERROR(layernorm(ctx, x, bias, bias, {.epsilon = -1}), ValueError, "epsilon is -1 but must not be negative");
}

TEMPLATE_TEST_CASE("layernorm: values and gradients are PyTorch's", "[ops][layernorm]", float, double) {
  Oracle<TestType> oracle("layernorm");
  for (const auto& [name, epsilon] : {std::pair{"usual", 1e-5}, {"large_epsilon", 0.1}}) {
    const std::string prefix = std::string(name) + ".";
    const auto x = oracle.template input<3>(prefix + "x");
    const auto weight = oracle.template input<1>(prefix + "weight"), bias = oracle.template input<1>(prefix + "bias");
    const LayernormOptions options{epsilon};
    oracle.check(
        name, {"x", "weight", "bias"},
        [=](auto& tape, auto a, auto w, auto b) { return layernorm(tape, a, w, b, options); }, x, weight, bias);
  }
}

TEST_CASE("layernorm: the number of threads changes no bit", "[ops][layernorm]") {
  auto ctx = nan_filled_context();
  const Shape<2> shape{3000, 65};
  auto x = random_tensor<float>(ctx, shape, 1), d_y = random_tensor<float>(ctx, shape, 2);
  auto weight = random_tensor<float, 1>(ctx, {65}, 3), bias = random_tensor<float, 1>(ctx, {65}, 4);
  const int before = omp_get_max_threads();
  std::vector<std::vector<float>> first;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    Tensor<float, 2> y(ctx, shape), d_x(ctx, shape);
    Tensor<float, 1> mean(ctx, {3000}), rstd(ctx, {3000}), d_weight(ctx, {65}), d_bias(ctx, {65});
    layernorm_forward(ctx, view(y), mean, rstd, x, weight, bias);
    layernorm_backward(ctx, view(d_x), d_weight, d_bias, d_y, mean, rstd, x, weight);
    const std::vector<std::vector<float>> all{to_host(y), to_host(d_x), to_host(d_weight), to_host(d_bias)};
    if (threads == 1) first = all;
    CHECK(all == first);
  }
  omp_set_num_threads(before);
}
