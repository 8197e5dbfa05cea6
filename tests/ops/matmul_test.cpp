#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/matmul.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
// One product by the definition, in double; matrices row-major with row strides.
template <class T>
std::vector<double> reference(const TensorView<T, 2>& a, const TensorView<T, 2>& b, bool ta, bool tb) {
  const int64_t m = a.shape[ta], k = a.shape[!ta], n = b.shape[!tb];
  std::vector<double> c(size_t(m * n));
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t l = 0; l < k; ++l)
        c[size_t(i * n + j)] += double(widen(ta ? a(l, i) : a(i, l))) * double(widen(tb ? b(j, l) : b(l, j)));
  return c;
}
}  // namespace

TEMPLATE_TEST_CASE("matmul: all transposes and ragged sizes are the definition", "[ops][matmul]", float, double,
                   bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, bfloat16> ? 8e-3 : std::is_same_v<T, float> ? 3e-6 : 1e-14;
  auto ctx = nan_filled_context();
  const int64_t sizes[][3] = {{1, 1, 1},       {1, 63, 65},  {64, 1, 127}, {63, 64, 65},
                              {127, 128, 129}, {197, 65, 1}, {300, 33, 70}};
  for (const auto& [m, n, k] : sizes)
    for (bool ta : {false, true})
      for (bool tb : {false, true}) {
        INFO("m " << m << " n " << n << " k " << k << " transposes " << ta << tb);
        auto a = random_tensor<T, 2>(ctx, ta ? Shape<2>{k, m} : Shape<2>{m, k}, 1);
        auto b = random_tensor<T, 2>(ctx, tb ? Shape<2>{n, k} : Shape<2>{k, n}, 2);
        auto c = matmul(ctx, a, b, {}, {.transpose_a = ta, .transpose_b = tb});
        CHECK(largest_difference(to_host(c), reference(view(a), view(b), ta, tb)) < tolerance);
      }
}

TEST_CASE("matmul: batches, strided rows, one b for the whole batch, wide output", "[ops][matmul]") {
  auto ctx = nan_filled_context();
  auto a = random_tensor<float, 4>(ctx, {2, 3, 5, 7}, 1), b = random_tensor<float, 4>(ctx, {2, 3, 11, 7}, 2);
  auto c = matmul(ctx, a, b, {}, {.transpose_b = true});
  REQUIRE(c.shape == Shape<4>{2, 3, 5, 11});
  for (int64_t i = 0; i < 2; ++i)
    for (int64_t j = 0; j < 3; ++j)
      CHECK(largest_difference(to_host(c.select(0, i).select(0, j)),
                               reference(a.select(0, i).select(0, j), b.select(0, i).select(0, j), false, true)) <
            2e-6);
  auto shared = random_tensor<float, 2>(ctx, {7, 9}, 3);
  auto d = matmul(ctx, a, shared);
  CHECK(largest_difference(to_host(d.select(0, 1).select(0, 2)),
                           reference(a.select(0, 1).select(0, 2), view(shared), false, false)) < 2e-6);
  auto wide = random_tensor<float, 2>(ctx, {6, 20}, 4);
  auto columns = wide.slice(1, 3, 10);  // rows 20 apart, 7 long
  CHECK(largest_difference(to_host(matmul(ctx, columns, shared)), reference(columns, view(shared), false, false)) <
        2e-6);
  auto halves = random_tensor<bfloat16, 2>(ctx, {40, 6}, 5), others = random_tensor<bfloat16, 2>(ctx, {40, 9}, 6);
  Tensor<float, 2> sum(ctx, {6, 9});
  matmul_forward(ctx, view(sum), {}, view(halves), view(others), {}, {.transpose_a = true});
  CHECK(largest_difference(to_host(sum), reference(view(halves), view(others), true, false)) < 1e-6);
}

TEMPLATE_TEST_CASE("matmul: bias and activation epilogues equal the separate steps", "[ops][matmul]", float, double) {
  using T = TestType;
  auto ctx = nan_filled_context();
  auto a = random_tensor<T, 2>(ctx, {37, 19}, 1), w = random_tensor<T, 2>(ctx, {23, 19}, 2);
  auto bias = random_tensor<T, 1>(ctx, {23}, 3);
  for (Activation activation :
       {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::quick_gelu}) {
    INFO(std::string(activation_name(activation)));
    const MatmulOptions options{.transpose_b = true, .activation = activation};
    auto fused = matmul(ctx, a, w, bias, options);
    Tensor<T, 2> pre(ctx, {37, 23}), y(ctx, {37, 23});
    matmul_forward(ctx, view(y), pre, view(a), view(w), bias, options);
    CHECK(largest_difference(view(fused), view(y)) < (std::is_same_v<T, float> ? 1e-6 : 1e-14));
    auto plain = reference(view(a), view(w), false, true);
    for (size_t i = 0; i < plain.size(); ++i) plain[i] += double(bias.data[i % 23]);
    CHECK(largest_difference(to_host(pre), plain) < (std::is_same_v<T, float> ? 2e-6 : 1e-14));
  }
}

TEST_CASE("matmul: a sum longer than any chunk", "[ops][matmul]") {
  auto ctx = nan_filled_context();
  auto a = random_tensor<float, 2>(ctx, {5000, 33}, 1), b = random_tensor<float, 2>(ctx, {5000, 17}, 2);
  CHECK(largest_difference(to_host(matmul(ctx, a, b, {}, {.transpose_a = true})),
                           reference(view(a), view(b), true, false)) < 5e-6);
  auto c = random_tensor<bfloat16, 2>(ctx, {20, 5000}, 3), d = random_tensor<bfloat16, 2>(ctx, {30, 5000}, 4);
  CHECK(largest_difference(to_host(matmul(ctx, c, d, {}, {.transpose_b = true})),
                           reference(view(c), view(d), false, true)) < 8e-3);
}

TEST_CASE("matmul: gradients agree with finite differences", "[ops][matmul]") {
  auto ctx = nan_filled_context();
  auto bias = random_variable<1>(ctx, {4}, 9);
  for (bool tb : {false, true})
    for (Activation activation : {Activation::none, Activation::gelu, Activation::gelu_tanh, Activation::quick_gelu}) {
      auto x = random_variable<3>(ctx, {2, 3, 5}, 1);
      auto w = random_variable<2>(ctx, tb ? Shape<2>{4, 5} : Shape<2>{5, 4}, 2);
      const auto result = gradcheck(
          ctx,
          [&](auto& tape, auto a, auto b, auto c) {
            return matmul(tape, a, b, c, {.transpose_b = tb, .activation = activation});
          },
          x, w, bias);
      INFO(activation_name(activation) << ": " << result.message);
      CHECK(result);
    }
  for (bool ta : {false, true})
    for (bool tb : {false, true}) {
      auto x = random_variable<3>(ctx, ta ? Shape<3>{2, 5, 3} : Shape<3>{2, 3, 5}, 1);
      auto y = random_variable<3>(ctx, tb ? Shape<3>{2, 4, 5} : Shape<3>{2, 5, 4}, 2);
      const auto result = gradcheck(
          ctx,
          [&](auto& tape, auto a, auto b) { return matmul(tape, a, b, {}, {.transpose_a = ta, .transpose_b = tb}); }, x,
          y);
      INFO(ta << tb << result.message);
      CHECK(result);
    }
}

TEST_CASE("matmul: errors name the argument, the axis and the numbers", "[ops][matmul]") {
  auto ctx = nan_filled_context();
  Tensor<float, 2> a(ctx, {3, 5}), b(ctx, {4, 6});
  REQUIRE_ERROR(matmul(ctx, a, b), ShapeError, "axis K is 5 in a [3, 5] but 4 in b [4, 6]");
  REQUIRE_ERROR(matmul(ctx, a, Tensor<float, 2>(ctx, {5, 6}), Tensor<float, 1>(ctx, {5})), ShapeError,
                "axis N of bias [5] is 5 but must be 6");
  Tensor<float, 3> c(ctx, {2, 3, 5}), d(ctx, {3, 5, 4});
  REQUIRE_ERROR(matmul(ctx, c, d), ShapeError, "batch axis 0 is 2 in a [2, 3, 5] but 3 in b");
}

TEMPLATE_TEST_CASE("matmul: values and gradients are PyTorch's", "[ops][matmul]", float, double) {
  Oracle<TestType> oracle("matmul");
  for (Activation activation :
       {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::quick_gelu}) {
    const std::string name(activation_name(activation));
    const auto x = oracle.template input<3>(name + ".x");
    const auto weight = oracle.template input<2>(name + ".weight");
    const auto bias = oracle.template input<1>(name + ".bias");
    oracle.check(
        name, {"x", "weight", "bias"},
        [=](auto& tape, auto a, auto w, auto b) { return linear(tape, a, w, b, activation); }, x, weight, bias);
    const auto y = matmul(oracle.ctx, x.value(), weight.value(), bias.value(),
                          {.transpose_b = true, .activation = activation});  // the fused epilogue
    CHECK(largest_difference(view(y), view(oracle.template input<3>(name + ".y").value())) < oracle.tolerance);
  }
  const auto a = oracle.template input<3>("batched.a"), b = oracle.template input<3>("batched.b");
  oracle.check(
      "batched", {"a", "b"}, [](auto& tape, auto p, auto q) { return matmul(tape, p, q); }, a, b);
  const auto at = oracle.template input<3>("transposed.a"), bt = oracle.template input<3>("transposed.b");
  oracle.check(
      "transposed", {"a", "b"},
      [](auto& tape, auto p, auto q) { return matmul(tape, p, q, {}, {.transpose_a = true, .transpose_b = true}); }, at,
      bt);
}

TEST_CASE("matmul: one variable may be both operands", "[ops][matmul]") {
  auto ctx = nan_filled_context();
  auto x = random_variable<2>(ctx, {4, 5}, 1);
  const auto result = gradcheck(
      ctx, [](auto& tape, auto a) { return matmul(tape, a, a, {}, {.transpose_b = true}); }, x);
  INFO(result.message);
  CHECK(result);
}

TEMPLATE_TEST_CASE("matmul: grouped_linear is the definition, group by group", "[ops][matmul]", float, double,
                   bfloat16) {
  using T = TestType;
  using A = accumulate_t<T>;
  const double tolerance = std::is_same_v<T, bfloat16> ? 8e-3 : std::is_same_v<T, float> ? 3e-6 : 1e-14;
  auto ctx = nan_filled_context();
  for (const auto& [rows, groups, in, out] :
       {std::tuple{1, 1, 5, 3}, {65, 3, 21, 64}, {197, 12, 64, 64}, {1, 4, 1, 1}, {7, 5, 2, 1}}) {
    INFO(rows << " rows, " << groups << " groups of " << in << " to " << out);
    const auto x = random_tensor<T>(ctx, Shape<2>{rows, groups * in}, 1);
    const auto weight = random_tensor<T>(ctx, Shape<2>{groups * out, in}, 2);
    const auto bias = random_tensor<A>(ctx, Shape<1>{groups * out}, 3);
    const auto d_y = random_tensor<T>(ctx, Shape<2>{rows, groups * out}, 4);
    std::vector<double> y(size_t(rows * groups * out)), d_x(size_t(x.size())), d_weight(size_t(weight.size()));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t o = 0; o < groups * out; ++o) {
        y[size_t(r * groups * out + o)] = bias(o);
        for (int64_t i = 0; i < in; ++i) {
          const int64_t from = o / out * in + i;
          y[size_t(r * groups * out + o)] += double(widen(weight(o, i))) * double(widen(x(r, from)));
          d_x[size_t(r * groups * in + from)] += double(widen(weight(o, i))) * double(widen(d_y(r, o)));
          d_weight[size_t(o * in + i)] += double(widen(x(r, from))) * double(widen(d_y(r, o)));
        }
      }
    CHECK(largest_difference(to_host(grouped_linear(ctx, view(x), weight, groups, bias)), y) < tolerance);
    Tensor<T, 2> d_x_ours(ctx, x.shape);
    Tensor<A, 2> d_weight_ours(ctx, weight.shape);
    Tensor<A, 1> d_bias(ctx, bias.shape);
    grouped_linear_backward(ctx, view(d_x_ours), view(d_weight_ours), d_bias, d_y, x, weight, groups);
    CHECK(largest_difference(to_host(d_x_ours), d_x) < tolerance);
    CHECK(largest_difference(to_host(d_weight_ours), d_weight) < (std::is_same_v<T, double> ? 1e-14 : 3e-6));
    grouped_linear_backward(ctx, TensorView<T, 2>{}, TensorView<A, 2>{}, {}, d_y, x, weight, groups);
  }
}

TEST_CASE("matmul: grouped_linear's gradients, PyTorch's values, errors", "[ops][matmul]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable<3>(ctx, {2, 3, 6}, 1);
  const auto weight = random_variable<2>(ctx, {4, 3}, 2);
  const auto bias = random_variable<1>(ctx, {4}, 3);
  const auto result = gradcheck(
      ctx, [](auto& tape, auto a, auto w, auto b) { return grouped_linear(tape, a, w, 2, b); }, x, weight, bias);
  INFO(result.message);
  CHECK(result);
  const auto without_bias = gradcheck(
      ctx, [](auto& tape, auto a, auto w) { return grouped_linear(tape, a, w, 2); }, x, weight);
  INFO(without_bias.message);
  CHECK(without_bias);

  Oracle<double> oracle("matmul");
  const auto p = oracle.input<3>("grouped.x");
  const auto w = oracle.input<2>("grouped.weight");
  const auto b = oracle.input<1>("grouped.bias");
  oracle.check(
      "grouped", {"x", "weight", "bias"},
      [](auto& tape, auto a, auto c, auto d) { return grouped_linear(tape, a, c, 3, d); }, p, w, b);

  REQUIRE_ERROR(grouped_linear(ctx, view(x.value()), weight.value(), 4), ShapeError,
                "grouped_linear_forward: the 6 channels of x [2, 3, 6] are not divisible into 4 groups");
  REQUIRE_ERROR(grouped_linear(ctx, view(x.value()), weight.value(), 1), ShapeError,
                "axis in of weight [4, 3] is 3 but must be 6 (from x and groups)");
  REQUIRE_ERROR(grouped_linear(ctx, view(x.value()), weight.value(), 0), ValueError, "groups is 0");
}
