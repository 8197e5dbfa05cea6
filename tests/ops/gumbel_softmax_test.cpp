#include <omp.h>

#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/gumbel_softmax.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
constexpr double infinity = std::numeric_limits<double>::infinity();
const RandomStream stream{.seed = 7, .step = 3, .operation = 2};

/// y by the definition, in double, row after row; the noise may be absent.
template <class T>
std::vector<double> reference(const TensorView<T, 2>& logits, const std::vector<double>& noise, double temperature) {
  std::vector<double> y;
  const int64_t columns = logits.shape[1];
  for (int64_t r = 0; r < logits.shape[0]; ++r) {
    std::vector<double> z;
    for (int64_t c = 0; c < columns; ++c)
      z.push_back((double(widen(logits(r, c))) + (noise.empty() ? 0 : noise[size_t(r * columns + c)])) / temperature);
    const double largest = *std::max_element(z.begin(), z.end());
    double sum = 0;
    for (double& v : z) sum += v = std::exp(v - largest);
    for (double v : z) y.push_back(v / sum);
  }
  return y;
}

/// Gumbel noise from the stream's uniform numbers, by the formula.
std::vector<double> noise_of(int64_t count) {
  std::vector<double> noise;
  for (int64_t i = 0; i < count; ++i) noise.push_back(-std::log(-std::log(double(stream.uniform(uint64_t(i))))));
  return noise;
}
}  // namespace

TEMPLATE_TEST_CASE("gumbel_softmax: forward is the definition at every size, with noise and without", "[ops]", float,
                   double, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, bfloat16> ? 4e-3 : std::is_same_v<T, float> ? 3e-6 : 1e-14;
  auto ctx = nan_filled_context();
  for (int64_t columns : {1, 2, 8, 63, 64, 65, 129, 197}) {
    const Shape<2> shape{7, columns};
    const auto logits = random_tensor<T>(ctx, shape, 1, 3.0);
    for (const bool noisy : {false, true}) {
      INFO("columns " << columns << ", noise " << noisy);
      GumbelSoftmaxOptions options{.temperature = 0.7, .hard = false};
      if (noisy) options.noise = stream;
      const auto expected = reference(view(logits), noisy ? noise_of(logits.size()) : std::vector<double>{}, 0.7);
      Tensor<T, 2> assignment(ctx, shape), soft(ctx, shape), hard(ctx, shape);
      Tensor<int32_t, 1> index(ctx, {7});
      gumbel_softmax_forward(ctx, view(assignment), soft, index, logits, {}, options);
      CHECK(largest_difference(to_host(assignment), expected) < tolerance);
      CHECK(
          to_host(TensorView<uint8_t, 1>(reinterpret_cast<uint8_t*>(soft.data), {soft.size() * int64_t(sizeof(T))})) ==
          to_host(
              TensorView<uint8_t, 1>(reinterpret_cast<uint8_t*>(assignment.data), {soft.size() * int64_t(sizeof(T))})));
      options.hard = true;
      gumbel_softmax_forward(ctx, view(hard), {}, {}, logits, {}, options);
      for (int64_t r = 0; r < 7; ++r) {
        const auto row = expected.begin() + r * columns;
        CHECK(expected[size_t(r * columns + index(r))] >= *std::max_element(row, row + columns) * (1 - 1e-6));
        for (int64_t c = 0; c < columns; ++c) {
          // the straight-through sum, with its rounding
          using A = accumulate_t<T>;
          const A value = widen(hard(r, c)), y = widen(soft(r, c));
          if (c != index(r)) CHECK(value == 0);
          if (c == index(r) && std::is_same_v<T, A>) CHECK(value == (A(1) - y) + y);
          if (c == index(r)) CHECK(std::abs(double(value) - 1) < 1e-6);
        }
      }
    }
  }
}

TEST_CASE("gumbel_softmax: a tensor of noise and a stream give the same bits", "[ops]") {
  auto ctx = nan_filled_context();
  const auto same = [&]<class T>(T) {
    for (const Shape<3>& shape : {Shape<3>{3, 21, 8}, {2, 5, 7}, {1, 3, 1301}}) {
      const auto logits = random_tensor<T>(ctx, shape, 1, 2.0);
      const auto noise = gumbel_noise<accumulate_t<T>>(ctx, shape, stream);
      Tensor<T, 3> drawn(ctx, shape), given(ctx, shape);
      gumbel_softmax_forward(ctx, view(drawn), {}, {}, logits, {}, {.hard = false, .noise = stream});
      gumbel_softmax_forward(ctx, view(given), {}, {}, logits, noise, {.hard = false});
      CHECK(largest_difference(to_host(drawn), to_host(given)) == 0);
    }
  };
  same(0.0f);
  same(0.0);
  same(bfloat16{});
}

TEST_CASE("gumbel_softmax: noise is Gumbel's distribution, in mean, variance and at u's ends", "[ops]") {
  auto ctx = nan_filled_context();
  const int64_t count = 1000003;
  const auto noise = to_host(gumbel_noise(ctx, Shape<1>{count}, stream));
  double sum = 0, squares = 0, worst = 0;
  int64_t below_zero = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double g = noise[size_t(i)];
    if (i < 20000) {  // log(-log u) loses nothing where u is near 1: the logarithms are those of float numbers
      const double exact = -std::log(-std::log(double(stream.uniform(uint64_t(i)))));
      worst = std::max(worst, std::abs(g - exact) / std::max(1.0, std::abs(exact)));
    }
    sum += g;
    squares += g * g;
    below_zero += g < 0;
  }
  CHECK(worst < 3e-7);
  const double mean = sum / count, variance = squares / count - mean * mean, pi = 3.14159265358979;
  const double deviation = pi / std::sqrt(6.0);
  CHECK(std::abs(mean - 0.57721566490153) < 4 * deviation / std::sqrt(double(count)));
  // the variance's own deviation: sqrt((kurtosis - 1) / n) variances, kurtosis 5.4
  CHECK(std::abs(variance - pi * pi / 6) < 4 * pi * pi / 6 * std::sqrt(4.4 / count));
  const double chance = std::exp(-1.0);  // of g < 0
  CHECK(std::abs(double(below_zero) / count - chance) < 4 * std::sqrt(chance * (1 - chance) / count));
  // the least and the largest number that a stream can give
  const float least = 0.5f * 1.1920928955078125e-7f, most = (8388607.0f + 0.5f) * 1.1920928955078125e-7f;
  CHECK(detail::gumbel_of(least) == Approx(-2.81154).margin(1e-5));
  CHECK(detail::gumbel_of(most) == Approx(16.63553).margin(1e-5));
}

TEST_CASE("gumbel_softmax: the logarithm is right to two units in the last place", "[ops]") {
  double worst = 0;
  for (int exponent = -24; exponent <= 5; ++exponent)
    for (int i = 0; i < 3000; ++i) {
      const float x = std::ldexp(1.0f + float(i) / 3000.0f, exponent);
      const double exact = std::log(double(x));
      const double unit = std::ldexp(1.0, std::ilogb(float(exact == 0 ? 1e-30 : exact)) - 23);
      worst = std::max(worst, std::abs(double(detail::log_of_normal(x)) - exact) / unit);
    }
  CHECK(worst < 2);
  CHECK(detail::log_of_normal(1.0f) == 0);
}

TEST_CASE("gumbel_softmax: samples follow softmax(logits), whatever the temperature", "[ops]") {
  auto ctx = nan_filled_context();
  const std::vector<double> logits{0.3, -1.2, 2.0, 0.0, 1.1, -0.4};
  const int64_t rows = 200000, columns = int64_t(logits.size());
  Tensor<float, 2> many(ctx, {rows, columns});
  for (int64_t i = 0; i < many.size(); ++i) many.data[i] = float(logits[size_t(i % columns)]);
  double total = 0;
  for (double z : logits) total += std::exp(z);
  for (const double temperature : {0.1, 0.9, 5.0}) {
    const auto drawn = gumbel_softmax(ctx, view(many), {.temperature = temperature, .noise = stream});
    std::vector<int64_t> counts(logits.size());
    for (const int32_t chosen : to_host(drawn.index)) ++counts[size_t(chosen)];
    double chi_square = 0;
    for (size_t c = 0; c < counts.size(); ++c) {
      const double expected = double(rows) * std::exp(logits[c]) / total;
      chi_square += (double(counts[c]) - expected) * (double(counts[c]) - expected) / expected;
    }
    CHECK(chi_square < 20.5);  // five degrees of freedom: beyond it once in a thousand
  }
  // Without noise the same entry is chosen every time; another step's stream chooses others.
  const auto still = gumbel_softmax(ctx, view(many));
  CHECK(to_host(still.index) == std::vector<int32_t>(size_t(rows), 2));
  const auto one = gumbel_softmax(ctx, view(many), {.noise = stream});
  const auto next = gumbel_softmax(ctx, view(many), {.noise = RandomStream{7, 4, 2}});
  CHECK(to_host(one.index) != to_host(next.index));
}

TEST_CASE("gumbel_softmax: the gradient is that of the soft assignment", "[ops]") {
  auto ctx = nan_filled_context();
  for (int64_t columns : {1, 2, 8, 65}) {
    auto logits = random_variable<3>(ctx, {2, 3, columns}, 1);
    const auto given = random_tensor<double, 3>(ctx, {2, 3, columns}, 2);
    for (const bool drawn : {false, true}) {
      GumbelSoftmaxOptions options{.temperature = 0.9, .hard = false};
      if (drawn) options.noise = stream;
      const auto noise = drawn ? In<double, 3, Cpu>{} : In<double, 3, Cpu>(given);
      const auto result = gradcheck(
          ctx, [&](auto& tape, auto a) { return gumbel_softmax(tape, a, options, noise); }, logits);
      INFO(result.message);
      CHECK(result);
    }
    // straight through: the same gradient to the bit
    std::vector<double> gradients[2];
    for (const bool hard : {false, true}) {
      Variable<double, 3> x(logits.value(), true);
      Tape<Cpu> tape(ctx);
      Tensor<int32_t, 2> index(ctx, {2, 3});
      const auto y = gumbel_softmax(tape, x, {.temperature = 0.9, .hard = hard}, given, index);
      for (int64_t r = 0; r < 6; ++r)
        CHECK(y.value().data[r * columns + index.data[r]] >= y.value().data[r * columns] - 1e-15);
      tape.backward(y, random_tensor<double, 3>(ctx, {2, 3, columns}, 5));
      gradients[hard] = to_host(x.grad());
    }
    CHECK(gradients[0] == gradients[1]);
  }
}

TEMPLATE_TEST_CASE("gumbel_softmax: values and gradients are PyTorch's", "[ops]", float, double) {
  Oracle<TestType> oracle("gumbel_softmax");
  const auto run = [&]<int Rank>(const std::string& name, double temperature, std::integral_constant<int, Rank>) {
    const auto noise = oracle.template integers<TestType, Rank>(name + ".gumbel");
    const auto index = oracle.template integers<int32_t, Rank - 1>(name + ".index");
    for (const std::string kind : {"soft", "hard"}) {
      const auto logits = oracle.template input<Rank>(name + "." + kind + ".logits");
      Tensor<int32_t, Rank - 1> chosen(oracle.ctx, index.shape);
      oracle.check(
          name + "." + kind, {"logits"},
          [&](auto& tape, auto x) {
            return gumbel_softmax(tape, x, {.temperature = temperature, .hard = kind == "hard"}, noise, chosen);
          },
          logits);
      CHECK(to_host(chosen) == to_host(index));
    }
  };
  run("groups", 0.9, std::integral_constant<int, 3>{});
  run("wide", 0.5, std::integral_constant<int, 2>{});
  run("masked", 1.0, std::integral_constant<int, 2>{});
}

TEST_CASE("gumbel_softmax: masked logits, rows of nothing but them, NaN, ties, large logits, one row", "[ops]") {
  auto ctx = nan_filled_context();
  const float masked = -float(infinity), nan = std::nanf("");
  const auto logits = Tensor<float, 2>::from_host(ctx, {5, 4}, {0,      masked, 1,      masked,  //
                                                                masked, masked, masked, masked,  //
                                                                0,      nan,    1,      2,       //
                                                                2,      3,      3,      1,       //
                                                                1e6f,   -1e6f,  1e6f,   0});
  for (const bool noisy : {false, true}) {
    GumbelSoftmaxOptions options;
    if (noisy) options.noise = stream;
    Tensor<float, 2> assignment(ctx, logits.shape), soft(ctx, logits.shape), d(ctx, logits.shape);
    Tensor<int32_t, 1> index(ctx, {5});
    gumbel_softmax_forward(ctx, view(assignment), soft, index, logits, {}, options);
    CHECK((index(0) == 0 || index(0) == 2));
    CHECK((soft(0, 1) == 0 && soft(0, 3) == 0));
    CHECK((index(1) == 0 && assignment(1, 0) == 1 && assignment(1, 1) == 0 && soft(1, 0) == 0));
    CHECK(index(2) == 0);
    for (int64_t c = 0; c < 4; ++c) CHECK(std::isnan(assignment(2, c)));
    if (!noisy) CHECK((index(3) == 1 && index(4) == 0));
    CHECK((index(4) == 0 || index(4) == 2));
    gumbel_softmax_backward(ctx, view(d), random_tensor<float>(ctx, logits.shape, 2), soft, options);
    for (int64_t c = 0; c < 4; ++c) {
      CHECK(d(1, c) == 0);
      CHECK(std::isfinite(d(0, c) + d(3, c) + d(4, c)));
    }
  }
  const auto one = gumbel_softmax(ctx, TensorView<float, 1>(logits.data, {4}));
  CHECK(to_host(one.index) == std::vector<int32_t>{2});
}

TEST_CASE("gumbel_softmax: in place, float backward agrees with double", "[ops]") {
  auto ctx = nan_filled_context();
  const Shape<2> shape{50, 129};
  auto logits = random_tensor<float>(ctx, shape, 1, 3.0), d = random_tensor<float>(ctx, shape, 2);
  const auto wide_logits = random_tensor<double>(ctx, shape, 1, 3.0), wide_d = random_tensor<double>(ctx, shape, 2);
  const GumbelSoftmaxOptions options{.temperature = 0.9, .hard = false};
  const auto y = gumbel_softmax(ctx, view(logits), options).assignment;
  const auto wide_y = gumbel_softmax(ctx, view(wide_logits), options).assignment;
  Tensor<float, 2> d_logits(ctx, shape);
  Tensor<double, 2> wide_d_logits(ctx, shape);
  gumbel_softmax_backward(ctx, view(d_logits), d, y, options);
  gumbel_softmax_backward(ctx, view(wide_d_logits), wide_d, wide_y, options);
  CHECK(largest_difference(view(d_logits), view(wide_d_logits)) < 2e-6);
  gumbel_softmax_backward(ctx, view(d), d, y, options);
  CHECK(to_host(d) == to_host(d_logits));
  gumbel_softmax_forward(ctx, view(logits), logits, {}, logits, {}, options);
  CHECK(to_host(logits) == to_host(y));
}

TEST_CASE("gumbel_softmax: the number of threads changes no bit", "[ops]") {
  auto ctx = nan_filled_context();
  const auto logits = random_tensor<float, 2>(ctx, {9001, 8}, 1), d = random_tensor<float, 2>(ctx, {9001, 8}, 2);
  const int before = omp_get_max_threads();
  std::vector<float> assignments, softs, gradients;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    Tensor<float, 2> assignment(ctx, logits.shape), soft(ctx, logits.shape), d_logits(ctx, logits.shape);
    gumbel_softmax_forward(ctx, view(assignment), soft, {}, logits, {}, {.temperature = 0.9, .noise = stream});
    gumbel_softmax_backward(ctx, view(d_logits), d, soft, {.temperature = 0.9});
    if (threads == 1) assignments = to_host(assignment), softs = to_host(soft), gradients = to_host(d_logits);
    CHECK(to_host(assignment) == assignments);
    CHECK(to_host(soft) == softs);
    CHECK(to_host(d_logits) == gradients);
  }
  omp_set_num_threads(before);
}

TEST_CASE("gumbel_softmax: errors name the argument, the axis and the numbers; no rows pass", "[ops]") {
  auto ctx = nan_filled_context();
  const auto logits = random_tensor<float, 2>(ctx, {3, 8}, 1);
  Tensor<float, 2> y(ctx, {3, 8}), narrow_y(ctx, {3, 7});
  Tensor<int32_t, 1> index(ctx, {2});
  REQUIRE_ERROR(gumbel_softmax_forward(ctx, view(narrow_y), {}, {}, logits, {}), ShapeError,
                "gumbel_softmax_forward: axis 1 of assignment [3, 7] is 7 but must be 8 (from logits)");
  REQUIRE_ERROR(gumbel_softmax_forward(ctx, view(y), {}, index, logits, {}), ShapeError,
                "axis 0 of index [2] is 2 but must be 3");
  REQUIRE_ERROR(gumbel_softmax_forward(ctx, view(y), {}, {}, logits, narrow_y), ShapeError, "axis 1 of gumbel [3, 7]");
  REQUIRE_ERROR(gumbel_softmax_forward(ctx, view(y), narrow_y, {}, logits, {}), ShapeError, "axis 1 of soft [3, 7]");
  REQUIRE_ERROR(gumbel_softmax_forward(ctx, view(narrow_y), {}, {}, logits.slice(1, 0, 7), {}), ShapeError,
                "needs it contiguous");
  REQUIRE_ERROR(gumbel_softmax(ctx, view(logits), {.temperature = 0}), ValueError,
                "temperature is 0 but must be greater than 0");
  REQUIRE_ERROR(gumbel_softmax(ctx, view(logits), {.temperature = std::nan("")}), ValueError, "temperature is");
  REQUIRE_ERROR(gumbel_softmax(ctx, view(Tensor<float, 2>(ctx, {3, 0}))), ShapeError, "nothing to choose from");
  REQUIRE_ERROR(gumbel_softmax_backward(ctx, view(y), logits, {}), ValueError, "soft is absent");
  REQUIRE_ERROR(gumbel_softmax_backward(ctx, view(y), narrow_y, logits), ShapeError, "axis 1 of d_assignment [3, 7]");
  CHECK(gumbel_softmax(ctx, view(Tensor<float, 2>(ctx, {0, 4})), {.noise = stream}).index.size() == 0);
}
