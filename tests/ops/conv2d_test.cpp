#include <omp.h>

#include <tessera/autograd/conv2d.hpp>
#include <tessera/autograd/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

struct Case {
  Shape<4> x;
  int64_t outputs;
  Shape<2> kernel;
  Conv2dOptions options;
  Shape<4> weight() const { return {outputs, x[1] / options.groups, kernel[0], kernel[1]}; }
};

/// Calls visit(y's place, x's place, weight's place) for every product of the definition; places count elements.
template <class Visit>
void for_each_product(const Case& c, const Shape<4>& y, Visit&& visit) {
  const auto [outputs, inputs, kernel_height, kernel_width] = c.weight();
  const int64_t of_group = outputs / c.options.groups;
  for (int64_t b = 0; b < y[0]; ++b)
    for (int64_t o = 0; o < y[1]; ++o)
      for (int64_t i = 0; i < y[2]; ++i)
        for (int64_t j = 0; j < y[3]; ++j)
          for (int64_t channel = 0; channel < inputs; ++channel)
            for (int64_t k = 0; k < kernel_height; ++k)
              for (int64_t l = 0; l < kernel_width; ++l) {
                const auto& at = c.options;
                const int64_t row = i * at.stride.rows + k * at.dilation.rows - at.padding.rows;
                const int64_t column = j * at.stride.columns + l * at.dilation.columns - at.padding.columns;
                if (row < 0 || row >= c.x[2] || column < 0 || column >= c.x[3]) continue;
                const int64_t from = (b * c.x[1] + o / of_group * inputs + channel) * c.x[2] + row;
                visit(size_t(((b * y[1] + o) * y[2] + i) * y[3] + j), size_t(from * c.x[3] + column),
                      size_t(((o * inputs + channel) * kernel_height + k) * kernel_width + l));
              }
}

template <class T>
std::vector<double> as_double(const std::vector<T>& values) {
  std::vector<double> doubles;
  for (const T& value : values) doubles.push_back(double(widen(value)));
  return doubles;
}

// The decoder's kernels, and one of everything: strides that leave cells over, kernels that reach over the whole map,
// dilation, groups of one channel, padding beyond the kernel, more than one tile.
const std::vector<Case> cases = {
    {{2, 3, 1, 1}, 1, {1, 1}, {}},
    {{2, 5, 63, 5}, 7, {1, 1}, {}},
    {{2, 5, 8, 64}, 7, {3, 3}, {.padding = 1}},
    {{1, 6, 9, 65}, 4, {3, 2}, {.stride = {2, 3}, .padding = {1, 0}, .groups = 2}},
    {{1, 2, 7, 5}, 3, {7, 5}, {}},
    {{3, 4, 6, 7}, 4, {3, 3}, {.padding = {2, 4}, .dilation = {2, 3}, .groups = 4}},
    {{1, 3, 4, 4}, 2, {1, 1}, {.stride = 2, .padding = 3}},
    {{1, 65, 20, 67}, 3, {3, 3}, {.padding = 1}},
};

}  // namespace

TEMPLATE_TEST_CASE("conv2d: values and gradients are the definition's", "[ops][conv2d]", float, double, bfloat16) {
  using T = TestType;
  using A = accumulate_t<T>;
  // bfloat16 results are rounded once; d_weight and d_bias are floats.
  const double tolerance = std::is_same_v<T, double> ? 1e-14 : 1e-6;
  const double rounded = std::is_same_v<T, bfloat16> ? 4e-3 : tolerance;
  auto ctx = nan_filled_context();
  for (const Case& c : cases) {
    auto x = random_tensor<T>(ctx, c.x, 1), weight = random_tensor<T>(ctx, c.weight(), 2);
    auto bias = random_tensor<A, 1>(ctx, {c.outputs}, 3);
    const auto y = conv2d(ctx, view(x), weight, bias, c.options);
    auto d_y = random_tensor<T>(ctx, y.shape, 4);
    const auto xs = as_double(to_host(x)), ws = as_double(to_host(weight)), ds = as_double(to_host(d_y));
    const int64_t places = y.shape[2] * y.shape[3];
    std::vector<double> ys(ds.size()), d_xs(xs.size()), d_ws(ws.size()), d_bs(size_t(c.outputs));
    for (size_t i = 0; i < ys.size(); ++i) {
      const size_t o = i / size_t(places) % size_t(c.outputs);
      ys[i] = double(bias.data[o]);
      d_bs[o] += ds[i];
    }
    for_each_product(c, y.shape, [&](size_t at, size_t from, size_t tap) {
      ys[at] += xs[from] * ws[tap];
      d_xs[from] += ds[at] * ws[tap];
      d_ws[tap] += ds[at] * xs[from];
    });
    Tensor<T, 4> d_x(ctx, c.x);
    Tensor<A, 4> d_weight(ctx, weight.shape);
    Tensor<A, 1> d_bias(ctx, bias.shape);
    conv2d_backward(ctx, view(d_x), view(d_weight), d_bias, d_y, x, weight, c.options);
    INFO("x " << to_string(c.x) << ", weight " << to_string(c.weight()));
    CHECK(largest_difference(to_host(y), ys) < rounded);
    CHECK(largest_difference(to_host(d_x), d_xs) < rounded);
    CHECK(largest_difference(to_host(d_weight), d_ws) < tolerance);
    CHECK(largest_difference(to_host(d_bias), d_bs) < tolerance);

    // Without a bias; absent outputs; d_weight in T.
    const auto plain = conv2d(ctx, view(x), weight, {}, c.options);
    for (size_t i = 0; i < ys.size(); ++i) ys[i] -= double(bias.data[i / size_t(places) % size_t(c.outputs)]);
    CHECK(largest_difference(to_host(plain), ys) < rounded);
    Tensor<T, 4> d_weight_alone(ctx, weight.shape);
    conv2d_backward(ctx, TensorView<T, 4>{}, view(d_weight_alone), {}, d_y, x, weight, c.options);
    CHECK(largest_difference(to_host(d_weight_alone), d_ws) < rounded);
  }
}

TEST_CASE("conv2d: gradients agree with finite differences", "[ops][conv2d]") {
  auto ctx = nan_filled_context();
  auto x = random_variable<4>(ctx, {2, 4, 5, 3}, 1);
  auto weight = random_variable<4>(ctx, {2, 2, 3, 2}, 2);
  auto bias = random_variable<1>(ctx, {2}, 3);
  const Conv2dOptions options{.stride = {2, 1}, .padding = 1, .groups = 2};
  const auto with_bias = gradcheck(
      ctx, [=](auto& tape, auto a, auto w, auto b) { return conv2d(tape, a, w, b, options); }, x, weight, bias);
  INFO(with_bias.message);
  CHECK(with_bias);
  const auto without = gradcheck(
      ctx, [=](auto& tape, auto a, auto w) { return conv2d(tape, a, w, {}, options); }, x, weight);
  INFO(without.message);
  CHECK(without);
}

TEST_CASE("conv2d: values and gradients are PyTorch's", "[ops][conv2d]") {
  Oracle<double> oracle("conv2d");
  const std::vector<std::pair<std::string, Conv2dOptions>> options = {
      {"same", {.padding = 1}},
      {"pointwise", {}},
      {"strided", {.stride = {2, 3}, .padding = {1, 0}, .dilation = {1, 2}}},
      {"groups", {.padding = {0, 1}, .groups = 2}}};
  for (const auto& [name, with] : options) {
    const auto x = oracle.input<4>(name + ".x"), weight = oracle.input<4>(name + ".weight");
    const auto bias = oracle.input<1>(name + ".bias");
    oracle.check(
        name, {"x", "weight", "bias"},
        [o = with](auto& tape, auto a, auto w, auto b) { return conv2d(tape, a, w, b, o); }, x, weight, bias);
  }
}

TEST_CASE("conv2d: no items", "[ops][conv2d]") {
  auto ctx = nan_filled_context();
  Tensor<float, 4> none(ctx, {0, 2, 5, 5}), d_y(ctx, {0, 3, 3, 3}), d_weight(ctx, {3, 2, 3, 3});
  auto weight = random_tensor<float, 4>(ctx, {3, 2, 3, 3}, 1);
  Tensor<float, 1> d_bias(ctx, {3});
  CHECK(conv2d(ctx, view(none), weight, {}).shape == Shape<4>{0, 3, 3, 3});
  conv2d_backward(ctx, view(none), view(d_weight), d_bias, d_y, none, weight);
  CHECK(to_host(d_weight) == std::vector<float>(54, 0.0f));
  CHECK(to_host(d_bias) == std::vector<float>(3, 0.0f));
}

TEST_CASE("conv2d: errors name the argument, the axis and the numbers", "[ops][conv2d]") {
  auto ctx = nan_filled_context();
  auto x = random_tensor<float, 4>(ctx, {2, 4, 5, 6}, 1), weight = random_tensor<float, 4>(ctx, {6, 4, 3, 3}, 1);
  auto bias = random_tensor<float, 1>(ctx, {5}, 1);
  REQUIRE_ERROR(conv2d(ctx, view(x), weight, bias), ShapeError,
                "conv2d_forward: axis O of bias [5] is 5 but must be 6 (from weight)");
  REQUIRE_ERROR(conv2d(ctx, view(x), weight, {}, {.groups = 2}), ShapeError,
                "axis C/G of weight [6, 4, 3, 3] is 4 but must be 2 (from x and options.groups)");
  REQUIRE_ERROR(conv2d(ctx, view(x), weight, {}, {.groups = 3}), ValueError, "groups is 3 but must divide");
  REQUIRE_ERROR(
      conv2d(ctx, view(x), weight, {}, {.dilation = 3}), ShapeError,
      "conv2d: axis H of the map has 5 cells, with padding 5, but the kernel reaches over 7 (3 taps, dilation 3)");
  REQUIRE_ERROR(conv2d(ctx, view(x), weight, {}, {.stride = 0}), ValueError, "on axis H stride is 0");
  REQUIRE_ERROR(conv2d(ctx, view(x), weight, {}, {.padding = {0, -1}}), ValueError,
                "on axis W stride is 1, padding -1");
  Tensor<float, 4> y(ctx, {2, 6, 3, 3});
  REQUIRE_ERROR(conv2d_forward(ctx, view(y), x, weight, {}), ShapeError,
                "axis W of y [2, 6, 3, 3] is 3 but must be 4 (from x, weight and options)");
  REQUIRE_ERROR(conv2d_forward(ctx, view(y), x.slice(3, 0, 5), weight, {}), ShapeError, "needs it contiguous");
}

TEMPLATE_TEST_CASE("conv2d: the number of threads changes no bit", "[ops][conv2d]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  auto x = random_tensor<T, 4>(ctx, {2, 130, 12, 90}, 1), weight = random_tensor<T, 4>(ctx, {40, 65, 3, 3}, 2);
  auto d_y = random_tensor<T, 4>(ctx, {2, 40, 12, 90}, 3);
  const Conv2dOptions options{.padding = 1, .groups = 2};
  const int before = omp_get_max_threads();
  std::vector<T> y_first, d_x_first;
  std::vector<float> d_weight_first, d_bias_first;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    Tensor<T, 4> d_x(ctx, x.shape);
    Tensor<float, 4> d_weight(ctx, weight.shape);
    Tensor<float, 1> d_bias(ctx, {40});
    const auto y = conv2d(ctx, view(x), weight, {}, options);
    conv2d_backward(ctx, view(d_x), view(d_weight), d_bias, d_y, x, weight, options);
    if (threads == 1) {
      y_first = to_host(y);
      d_x_first = to_host(d_x);
      d_weight_first = to_host(d_weight);
      d_bias_first = to_host(d_bias);
    }
    CHECK(largest_difference(to_host(y), y_first) == 0);
    CHECK(largest_difference(to_host(d_x), d_x_first) == 0);
    CHECK(to_host(d_weight) == d_weight_first);
    CHECK(to_host(d_bias) == d_bias_first);
  }
  omp_set_num_threads(before);
}
