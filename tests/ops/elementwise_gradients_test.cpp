#include <tessera/autograd/elementwise.hpp>
#include <tessera/autograd/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEST_CASE("elementwise: arithmetic's gradients agree with finite differences", "[ops][elementwise]") {
  auto ctx = nan_filled_context();
  auto x = random_variable<3>(ctx, {2, 3, 5}, 1);
  const auto check = [&](const auto& a, const auto& b) {
    const auto one = [&](auto&& f) {
      const auto result = gradcheck(ctx, f, a, b);
      INFO(result.message);
      CHECK(result);
    };
    one([](auto& tape, auto p, auto q) { return add(tape, p, q); });
    one([](auto& tape, auto p, auto q) { return subtract(tape, p, q); });
    one([](auto& tape, auto p, auto q) { return multiply(tape, p, q); });
    one([](auto& tape, auto p, auto q) { return divide(tape, p, exp(tape, q)); });
  };
  for (const Shape<3>& shape : {Shape<3>{2, 3, 5}, {2, 1, 5}, {1, 3, 1}, {1, 1, 1}}) {
    auto y = random_variable<3>(ctx, shape, 2);
    check(x, y);
    check(y, x);
  }
  auto column = random_variable<3>(ctx, {2, 3, 1}, 3), row = random_variable<3>(ctx, {2, 1, 5}, 4);
  check(column, row);
  check(x, random_variable<2>(ctx, {3, 5}, 5));
  check(x, random_variable<0>(ctx, {}, 6));
}

TEST_CASE("elementwise: one variable may be both operands", "[ops][elementwise]") {
  auto ctx = nan_filled_context();
  auto x = random_variable<2>(ctx, {3, 5}, 1);
  const auto check = [&](auto&& f) {
    const auto result = gradcheck(ctx, f, x);
    INFO(result.message);
    CHECK(result);
  };
  check([](auto& tape, auto a) { return multiply(tape, a, a); });
  check([](auto& tape, auto a) { return add(tape, a, a); });
  check([](auto& tape, auto a) { return subtract(tape, scale(tape, a, 3), a); });
  check([](auto& tape, auto a) { return add(tape, a, multiply(tape, a, add(tape, a, a))); });
}

TEST_CASE("elementwise: functions' and activations' gradients agree with finite differences", "[ops][elementwise]") {
  auto ctx = nan_filled_context();
  auto x = random_variable<2>(ctx, {5, 13}, 1);
  const auto check = [&](auto&& f) {
    const auto result = gradcheck(ctx, f, x);
    INFO(result.message);
    CHECK(result);
  };
  check([](auto& tape, auto a) { return tanh(tape, a); });
  check([](auto& tape, auto a) { return sigmoid(tape, a); });
  check([](auto& tape, auto a) { return square_root(tape, exp(tape, a)); });
  check([](auto& tape, auto a) { return log(tape, add(tape, exp(tape, a), exp(tape, scale(tape, a, -0.5)))); });
  for (Activation kind :
       {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::quick_gelu})
    check([=](auto& tape, auto a) { return activation(tape, a, kind); });
}

TEMPLATE_TEST_CASE("elementwise: values and gradients are PyTorch's", "[ops][elementwise]", float, double) {
  Oracle<TestType> oracle("elementwise");
  const auto arithmetic = [&]<int Rank, int RankB>(const std::string& name, std::integral_constant<int, Rank>,
                                                   std::integral_constant<int, RankB>) {
    const auto one = [&](const std::string& kind, auto&& f) {
      const auto a = oracle.template input<Rank>(name + kind + ".a");
      const auto b = oracle.template input<RankB>(name + kind + ".b");
      oracle.check(name + kind, {"a", "b"}, f, a, b);
    };
    one(".add", [](auto& tape, auto a, auto b) { return add(tape, a, b); });
    one(".sub", [](auto& tape, auto a, auto b) { return subtract(tape, a, b); });
    one(".mul", [](auto& tape, auto a, auto b) { return multiply(tape, a, b); });
    one(".div", [](auto& tape, auto a, auto b) { return divide(tape, a, b); });
  };
  constexpr std::integral_constant<int, 3> three;
  constexpr std::integral_constant<int, 2> two;
  arithmetic("equal", three, three);
  arithmetic("vector", three, std::integral_constant<int, 1>{});
  arithmetic("matrix", three, two);
  arithmetic("middle", three, three);
  arithmetic("both", three, two);
  arithmetic("scalar", three, std::integral_constant<int, 0>{});
  const auto function = [&]<int Rank>(const std::string& name, std::integral_constant<int, Rank>, auto&& f) {
    oracle.check(name, {"input"}, f, oracle.template input<Rank>(name + ".input"));
  };
  function("exp", two, [](auto& tape, auto x) { return exp(tape, x); });
  function("log", two, [](auto& tape, auto x) { return log(tape, x); });
  function("sigmoid", two, [](auto& tape, auto x) { return sigmoid(tape, x); });
  function("tanh", two, [](auto& tape, auto x) { return tanh(tape, x); });
  function("sqrt", two, [](auto& tape, auto x) { return square_root(tape, x); });
  for (Activation kind : {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::quick_gelu})
    function(std::string(activation_name(kind)), std::integral_constant<int, 1>{},
             [=](auto& tape, auto x) { return activation(tape, x, kind); });
}
