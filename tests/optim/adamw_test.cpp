#include <omp.h>
#include <tessera/io/tensor_source.hpp>
#include <tessera/optim/adamw.hpp>
#include <tessera/optim/gradient_clipping.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

template <class T, int Rank>
void set_gradient(Context<Cpu>& ctx, const Parameter<T, Rank>& p, uint64_t seed, double scale = 1) {
  p.state().grad = random_tensor<accumulate_t<T>>(ctx, p.shape(), seed, scale);
}
template <class T, int Rank>
Parameter<T, Rank> parameter(Context<Cpu>& ctx, const Shape<Rank>& shape, uint64_t seed) {
  return Parameter<T, Rank>(random_tensor<T>(ctx, shape, seed), true);
}
template <class V>
optim::ParameterList only(const std::string& name, const V& v) {
  optim::ParameterList list;
  list.add(name, v);
  return list;
}

}  // namespace

TEMPLATE_TEST_CASE("adamw: steps, groups, clipping and absent gradients are PyTorch's", "[optim]", float, double) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 3e-7 : 1e-14;
  const std::string suffix = std::is_same_v<T, float> ? ".f32" : ".f64";
  Context<Cpu> ctx;
  const auto file = io::TensorSource::open(TESSERA_TEST_DIR "/golden/adamw.safetensors");
  Parameter<T, 2> weight(file.read<T, 2>(ctx, "initial.weight"), true);
  Parameter<T, 1> bias(file.read<T, 1>(ctx, "initial.bias"), true);
  optim::ParameterList all;
  all.add("weight", weight);
  all.add("bias", bias);
  const auto [matrices, vectors] = all.partition([](const auto& p) { return p.rank() >= 2; });
  optim::AdamW optimizer;
  optimizer.add_group(matrices, {.learning_rate = 3e-2, .beta2 = 0.98, .epsilon = 1e-6, .weight_decay = 0.2});
  optimizer.add_group(vectors, {.learning_rate = 1e-2, .beta1 = 0.8, .weight_decay = 0});
  const auto factors = file.read_vector<double>("factor");
  const auto norms = file.read_vector<double>("norm" + suffix);
  const auto weights = file.read<T, 3>(ctx, "weight" + suffix);
  const auto biases = file.read<T, 2>(ctx, "bias" + suffix);
  const auto d_weights = file.read<T, 3>(ctx, "gradient.weight");
  const auto d_biases = file.read<T, 2>(ctx, "gradient.bias");
  for (int64_t step = 0; step < int64_t(factors.size()); ++step) {
    weight.state().grad = Tensor<T, 2>::from_host(ctx, weight.shape(), d_weights.select(0, step).data);
    if (step != 2) bias.state().grad = Tensor<T, 1>::from_host(ctx, bias.shape(), d_biases.select(0, step).data);
    const double norm = optim::gradient_norm(all);
    CHECK(norm == Approx(norms[size_t(step)]).epsilon(tolerance));
    optimizer.step({.learning_rate_factor = factors[size_t(step)], .gradient_scale = optim::clip_factor(norm, 1.5)});
    optimizer.clear_gradients();
    INFO("step " << step);
    CHECK(largest_difference(view(weight.value()), weights.select(0, step)) < tolerance);
    CHECK(largest_difference(view(bias.value()), biases.select(0, step)) < tolerance);
  }
}

TEST_CASE("adamw: its square root is the C library's to one unit in the last place", "[optim]") {
  CHECK(math::sqrt(0.0f) == 0);
  for (int exponent = -149; exponent < 128; ++exponent)
    for (float fraction = 1; fraction < 2; fraction += 0.0137f) {
      const float x = std::ldexp(fraction, exponent), expected = std::sqrt(x);
      if (!(std::abs(math::sqrt(x) - expected) <= std::nextafter(expected, 1e38f) - expected))
        FAIL("sqrt(" << x << ") is " << math::sqrt(x) << ", not " << expected);
    }
}

TEST_CASE("adamw: narrow parameters follow their float masters", "[optim]") {
  Context<Cpu> ctx;
  const auto start = random_tensor<bfloat16, 2>(ctx, {70, 300}, 1);
  Parameter<bfloat16, 2> narrow_parameter(start, true);
  Parameter<float, 2> wide_parameter(Tensor<float, 2>(ctx, {70, 300}), true);
  for (int64_t i = 0; i < start.size(); ++i) wide_parameter.value().data[i] = widen(start.data[i]);
  // A rate so small that most steps change no bfloat16 value: without a master nothing would ever move.
  const optim::AdamWOptions options{.learning_rate = 1e-4, .weight_decay = 0.1};
  optim::AdamW narrow_optimizer, wide_optimizer;
  narrow_optimizer.add_group(only("p", narrow_parameter), options);
  wide_optimizer.add_group(only("p", wide_parameter), options);
  for (uint64_t step = 0; step < 50; ++step) {
    set_gradient(ctx, narrow_parameter, step);
    set_gradient(ctx, wide_parameter, step);
    narrow_optimizer.step();
    wide_optimizer.step();
  }
  for (int64_t i = 0; i < start.size(); ++i)
    REQUIRE(narrow_parameter.value().data[i].bits == narrow<bfloat16>(wide_parameter.value().data[i]).bits);
}

TEMPLATE_TEST_CASE("adamw: a saved state goes on to the bit", "[optim]", float, bfloat16, double) {
  using T = TestType;
  Context<Cpu> ctx;
  auto one = parameter<T, 2>(ctx, {65, 300}, 1);
  auto never = parameter<T, 1>(ctx, {7}, 2);  // gets no gradient
  optim::AdamW optimizer;
  optimizer.add_group(only("one", one), {});
  optimizer.add_group(only("never", never), {});
  const auto before = to_host(never.value());
  for (uint64_t step = 0; step < 3; ++step) {
    set_gradient(ctx, one, step);
    optimizer.step();
  }
  const auto state = optimizer.state();
  auto two = Parameter<T, 2>(Tensor<T, 2>::from_host(ctx, one.shape(), one.value().data), true);
  auto still = parameter<T, 1>(ctx, {7}, 2);
  optim::AdamW resumed;
  resumed.add_group(only("one", two), {});
  resumed.add_group(only("never", still), {});
  resumed.load_state(state);
  for (uint64_t step = 3; step < 6; ++step) {
    set_gradient(ctx, one, step);
    set_gradient(ctx, two, step);
    optimizer.step();
    resumed.step();
  }
  const auto same_bits = [](const auto& a, const auto& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
  };
  CHECK(same_bits(to_host(one.value()), to_host(two.value())));
  CHECK(same_bits(to_host(never.value()), before));
  CHECK(state.size() == (std::is_same_v<T, bfloat16> ? 5u : 3u));
}

TEST_CASE("adamw: bounds keep a scale in range", "[optim]") {
  Context<Cpu> ctx;
  const float start = 4.6f;
  Parameter<float, 0> scale(Tensor<float, 0>::from_host(ctx, {}, &start), true);
  optim::AdamW optimizer;
  optimizer.add_group(only("logit_scale", scale), {.learning_rate = 0.1, .weight_decay = 0});
  optimizer.bound("logit_scale", 0, std::log(100.0));
  const float down = -1, up = 1;
  scale.state().grad = Tensor<float, 0>::from_host(ctx, {}, &down);
  optimizer.step();
  CHECK(scale.value()() == float(std::log(100.0)));
  scale.state().grad = Tensor<float, 0>::from_host(ctx, {}, &up);
  for (int step = 0; step < 100; ++step) optimizer.step();
  CHECK(scale.value()() == 0);
}

TEST_CASE("adamw: 1, 2, 3 and 16 threads give equal bits", "[optim]") {
  Context<Cpu> ctx;
  const int before = omp_get_max_threads();
  std::vector<std::vector<float>> results;
  std::vector<double> norms;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    auto large = parameter<float, 2>(ctx, {300, 517}, 1);
    auto small = parameter<float, 1>(ctx, {3}, 2);
    optim::ParameterList all;
    all.add("large", large);
    all.add("small", small);
    optim::AdamW optimizer;
    optimizer.add_group(all, {});
    for (uint64_t step = 0; step < 3; ++step) {
      set_gradient(ctx, large, step);
      set_gradient(ctx, small, step);
      norms.push_back(optim::gradient_norm(all));
      optimizer.step({.gradient_scale = optim::clip_factor(norms.back(), 1)});
    }
    results.push_back(to_host(large.value()));
  }
  omp_set_num_threads(before);
  for (size_t i = 1; i < results.size(); ++i) CHECK(results[i] == results[0]);
  for (size_t i = 3; i < norms.size(); ++i) CHECK(norms[i] == norms[i % 3]);
}

TEST_CASE("adamw: errors name the parameter and the remedy, and change nothing", "[optim]") {
  Context<Cpu> ctx;
  auto p = parameter<float, 1>(ctx, {4}, 1);
  auto q = parameter<float, 1>(ctx, {5}, 2);
  optim::ParameterList list = only("p", p);
  REQUIRE_ERROR(list.add("p", q), ValueError, "two parameters named p");
  optim::ParameterList shared = only("p", p);
  REQUIRE_ERROR(shared.add("other", p), ValueError, "other is the same tensor as p");
  REQUIRE_ERROR(only("empty", Parameter<float, 1>()), ValueError, "empty is an empty handle");
  optim::AdamW optimizer;
  optimizer.add_group(only("p", p), {});
  REQUIRE_ERROR(optimizer.add_group(only("p", q), {}), ValueError, "p is in a group already");
  REQUIRE_ERROR(optimizer.add_group(only("q", q), {.beta1 = 1}), ValueError, "beta1 1");
  REQUIRE_ERROR(optimizer.bound("q", 0, 1), ValueError, "no parameter named q");
  set_gradient(ctx, p, 3);
  const auto before = to_host(p.value());
  REQUIRE_ERROR(optimizer.step({.gradient_scale = std::nan("")}), ValueError, "skip a step");
  CHECK(to_host(p.value()) == before);
  CHECK(optimizer.state().empty());

  optimizer.step();
  auto state = optimizer.state();
  auto incomplete = state;
  incomplete.pop_back();
  REQUIRE_ERROR(optimizer.load_state(incomplete), ValueError, "has 2 of first_moment, second_moment and step");
  state[0].second.shape = {2, 2};
  REQUIRE_ERROR(optimizer.load_state(state), ShapeError, "p.first_moment is saved with shape [2, 2] but must have [4]");
}
