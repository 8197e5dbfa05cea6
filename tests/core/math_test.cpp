#include <limits>

#include <tessera/core/math.hpp>

#include "support/catch.hpp"

using namespace tessera;

namespace {
/// Largest error of f, in units of the last place of a float, over evenly spread x in [low, high].
double worst_ulps(float (*f)(float), double (*exact)(double), double low, double high) {
  double worst = 0;
  constexpr int steps = 1'000'000;
  for (int i = 0; i <= steps; ++i) {
    const float x = float(low + (high - low) * i / steps);
    const double y = exact(double(x)), ulp = std::ldexp(1.0, std::max(std::ilogb(y), -126) - 23);
    const double error = std::abs(double(f(x)) - y) / ulp;
    if (!(error <= worst)) worst = error;
  }
  return worst;
}
constexpr float infinity = std::numeric_limits<float>::infinity();
}  // namespace

TEST_CASE("math: exp is within one unit of the last place over float's range", "[core]") {
  const auto exp = [](double low, double high) {
    return worst_ulps([](float x) { return math::exp(x); }, [](double x) { return std::exp(x); }, low, high);
  };
  CHECK(exp(-87.3365, 88.7228) < 1);
  CHECK(exp(-1, 1) < 1);
  CHECK(exp(-87.3365, -86) < 1);
  CHECK(exp(88, 88.7228) < 1);
  CHECK((math::exp(0.0f) == 1 && math::exp(-infinity) == 0 && math::exp(-88.0f) == 0));
  CHECK((math::exp(infinity) == infinity && math::exp(88.73f) == infinity));
  CHECK(std::isnan(math::exp(std::nanf(""))));
}

TEST_CASE("math: tanh is within 4 units, and 1 beyond", "[core]") {
  const auto tanh = [](double low, double high) {
    return worst_ulps([](float x) { return math::tanh(x); }, [](double x) { return std::tanh(x); }, low, high);
  };
  CHECK(tanh(-20, 20) < 4);
  CHECK(tanh(-0.6, 0.6) < 1.5);
  CHECK(tanh(0.55, 0.7) < 4);
  CHECK((math::tanh(infinity) == 1 && math::tanh(-infinity) == -1 && math::tanh(1e30f) == 1));
  CHECK((math::tanh(0.0f) == 0 && math::tanh(1e-30f) == 1e-30f));
  CHECK(std::isnan(math::tanh(std::nanf(""))));
}

TEST_CASE("math: erf is within 8 units and never beyond 1", "[core]") {
  const auto erf = [](double low, double high) {
    return worst_ulps([](float x) { return math::erf(x); }, [](double x) { return std::erf(x); }, low, high);
  };
  CHECK(erf(-6, 6) < 8);
  CHECK(erf(-0.1, 0.1) < 8);
  float largest = 0;
  for (float x = 3; x < 4.5f; x = std::nextafter(x, 5.0f)) largest = std::max(largest, math::erf(x));
  CHECK(largest == 1);
  CHECK((math::erf(infinity) == 1 && math::erf(-infinity) == -1 && math::erf(0.0f) == 0));
  CHECK(std::isnan(math::erf(std::nanf(""))));
}

TEST_CASE("math: sigmoid saturates without NaN", "[core]") {
  CHECK((math::sigmoid(0.0f) == 0.5f && math::sigmoid(200.0f) == 1 && math::sigmoid(-200.0f) == 0));
  CHECK((math::sigmoid(infinity) == 1 && math::sigmoid(-infinity) == 0));
  CHECK(math::sigmoid(-80.0f) == Approx(std::exp(-80.0)).epsilon(1e-6));
}

TEMPLATE_TEST_CASE("math: activations are their definitions", "[core]", float, double) {
  using A = TestType;
  const double tolerance = std::is_same_v<A, float> ? 4e-7 : 1e-15;
  for (double at = -6; at <= 6; at += 0.01) {
    const A x = A(at);
    const double v = double(x), root = std::sqrt(2 / 3.14159265358979323846);
    const auto near = [&](A ours, double exact) {
      CHECK(std::abs(double(ours) - exact) <= tolerance * std::max(1.0, std::abs(v)));
    };
    near(math::activate<Activation::none>(x), v);
    near(math::activate<Activation::relu>(x), std::max(v, 0.0));
    near(math::activate<Activation::gelu>(x), 0.5 * v * std::erfc(-v / std::sqrt(2.0)));
    near(math::activate<Activation::gelu_tanh>(x), 0.5 * v * (1 + std::tanh(root * (v + 0.044715 * v * v * v))));
    near(math::activate<Activation::quick_gelu>(x), v / (1 + std::exp(-1.702 * v)));
  }
}
