// The optimiser's arithmetic as an operation: one step of many parameters against a plain reference in double, the norm
// of all gradients, clipping, steps that are skipped. What users hold, and PyTorch's values:
// tests/optim/adamw_test.cpp.
#include <omp.h>

#include <cmath>
#include <vector>

#include <tessera/ops/adamw.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

constexpr int64_t sizes[] = {1, 63, 64, 65, 127, 128, 129, 197, 40000};

/// Parameters of all sizes with what belongs to them.
struct Parameters {
  Context<Cpu> ctx{{.memory = {.fill_with_nan = true}}};
  std::vector<Tensor<float, 1>> values, gradients, first, second, averages;
  std::vector<AdamWTensor> tensors;
  Tensor<int64_t, 1> steps;
  Tensor<AdamWRule, 1> rules;
  Tensor<AdamWFactors, 1> factors;

  Parameters() {
    const int64_t count = std::size(sizes);
    steps = Tensor<int64_t, 1>::zeros(ctx, {count});
    rules = Tensor<AdamWRule, 1>(ctx, {count});
    factors = Tensor<AdamWFactors, 1>(ctx, {1});
    factors(0) = {0.5, 0.75};
    for (int64_t i = 0; i < count; ++i) {
      values.push_back(random_tensor<float, 1>(ctx, {sizes[i]}, uint64_t(i)));
      gradients.push_back(random_tensor<float, 1>(ctx, {sizes[i]}, uint64_t(100 + i)));
      averages.push_back(random_tensor<float, 1>(ctx, {sizes[i]}, uint64_t(200 + i)));
      first.push_back(Tensor<float, 1>::zeros(ctx, {sizes[i]}));
      second.push_back(Tensor<float, 1>::zeros(ctx, {sizes[i]}));
      rules(i) = {.learning_rate = 0.01 * double(i + 1), .weight_decay = 0.1, .low = -1.5, .average_decay = 0.9};
      AdamWTensor t;
      t.value = values.back().data;
      t.gradient = i == 2 ? nullptr : gradients.back().data;  // one is left alone
      t.first_moment = first.back().data;
      t.second_moment = second.back().data;
      t.average = i % 2 ? averages.back().data : nullptr;
      t.size = sizes[i];
      tensors.push_back(t);
    }
  }
  void step() { adamw_step(ctx, view(steps), rules, factors, tensors); }
};

}  // namespace

TEST_CASE("adamw: three steps of many parameters are the plain reference's", "[ops]") {
  Parameters p;
  std::vector<std::vector<double>> value, average, m, v;
  for (size_t i = 0; i < p.tensors.size(); ++i) {
    const auto x = to_host(view(p.values[i])), a = to_host(view(p.averages[i]));
    value.emplace_back(x.begin(), x.end());
    average.emplace_back(a.begin(), a.end());
    m.emplace_back(x.size(), 0.0);
    v.emplace_back(x.size(), 0.0);
  }
  for (int step = 1; step <= 3; ++step) {
    p.step();
    for (size_t i = 0; i < p.tensors.size(); ++i) {
      if (!p.tensors[i].gradient) continue;
      const AdamWRule& rule = p.rules(int64_t(i));
      const double rate = rule.learning_rate * 0.5;
      for (size_t k = 0; k < value[i].size(); ++k) {
        const double g = 0.75 * double(p.gradients[i].data[k]);
        m[i][k] = 0.9 * m[i][k] + 0.1 * g;
        v[i][k] = 0.999 * v[i][k] + 0.001 * g * g;
        const double denominator = std::sqrt(v[i][k]) / std::sqrt(1 - std::pow(0.999, step)) + 1e-8;
        value[i][k] = value[i][k] * (1 - rate * 0.1) - rate / (1 - std::pow(0.9, step)) * m[i][k] / denominator;
        value[i][k] = std::max(value[i][k], -1.5);
        average[i][k] = 0.9 * average[i][k] + 0.1 * value[i][k];
      }
    }
  }
  for (size_t i = 0; i < p.tensors.size(); ++i) {
    INFO("size " << sizes[i]);
    CHECK(p.steps(int64_t(i)) == (p.tensors[i].gradient ? 3 : 0));
    double worst = 0, worst_average = 0;
    for (size_t k = 0; k < value[i].size(); ++k) {
      worst = std::max(worst, std::abs(double(p.values[i].data[k]) - value[i][k]));
      if (p.tensors[i].average)
        worst_average = std::max(worst_average, std::abs(double(p.averages[i].data[k]) - average[i][k]));
    }
    CHECK(worst < 2e-6);
    CHECK(worst_average < 2e-6);
  }
}

TEST_CASE("adamw: the norm of all gradients, the clipping factor, and a step that does not count", "[ops]") {
  Parameters p;
  double sum = 0;
  for (size_t i = 0; i < p.tensors.size(); ++i)
    if (p.tensors[i].gradient)
      for (float g : to_host(view(p.gradients[i]))) sum += double(g) * double(g);
  Tensor<double, 0> norm(p.ctx, {});
  gradient_norm_forward(p.ctx, view(norm), p.tensors);
  CHECK(norm.data[0] == Approx(std::sqrt(sum)).epsilon(1e-12));
  clip_gradients(p.ctx, view(p.factors), norm, 2.0);
  CHECK(p.factors(0).gradient_scale == Approx(2 / (std::sqrt(sum) + 1e-6)).epsilon(1e-12));
  CHECK(clipping_factor(1, 2) == 1);

  const auto before = to_host(view(p.values[3]));
  p.gradients[0].data[0] = std::numeric_limits<float>::infinity();
  gradient_norm_forward(p.ctx, view(norm), p.tensors);
  clip_gradients(p.ctx, view(p.factors), norm, 2.0);
  p.step();
  CHECK(to_host(view(p.values[3])) == before);
  CHECK(p.steps(3) == 0);
}

TEST_CASE("adamw: equal bits on any number of threads", "[ops]") {
  const int usual = omp_get_max_threads();
  const auto run = [](int threads) {
    omp_set_num_threads(threads);
    Parameters p;
    Tensor<double, 0> norm(p.ctx, {});
    gradient_norm_forward(p.ctx, view(norm), p.tensors);
    clip_gradients(p.ctx, view(p.factors), norm, 1.0);
    p.step();
    auto all = to_host(view(p.values.back()));
    all.push_back(float(norm.data[0]));
    return all;
  };
  const auto one = run(1);
  for (int threads : {2, 3, 16}) CHECK(run(threads) == one);
  omp_set_num_threads(usual);
}

TEST_CASE("adamw: what does not fit is refused by name", "[ops]") {
  Parameters p;
  const auto few = Tensor<int64_t, 1>::zeros(p.ctx, {2});
  REQUIRE_ERROR(adamw_step(p.ctx, view(few), p.rules, p.factors, p.tensors), ShapeError, "adamw_step");
  Tensor<double, 0> norm(p.ctx, {});
  norm.data[0] = 1;
  REQUIRE_ERROR(clip_gradients(p.ctx, view(p.factors), norm, 0.0), ValueError, "largest_norm is 0");
  auto broken = p.tensors;
  broken[0].first_moment = nullptr;
  REQUIRE_ERROR(adamw_step(p.ctx, view(p.steps), p.rules, p.factors, broken), ValueError, "no moments");
  broken = p.tensors;
  broken[0].dtype = Dtype::bf16;
  REQUIRE_ERROR(adamw_step(p.ctx, view(p.steps), p.rules, p.factors, broken), ValueError, "need a master in float");
  broken = p.tensors;
  broken[0].gradient_dtype = Dtype::bf16;
  REQUIRE_ERROR(adamw_step(p.ctx, view(p.steps), p.rules, p.factors, broken), ValueError, "gradients are");
}
