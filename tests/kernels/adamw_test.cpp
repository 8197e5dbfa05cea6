// The optimiser's kernels, run by the emulator, agree with Cpu.
#include <deque>

#include <tessera/kernels/adamw.cuh>
#include <tessera/kernels/rearrange.cuh>
#include <tessera/optim/adamw.hpp>
#include <tessera/optim/ema.hpp>
#include <tessera/optim/gradient_clipping.hpp>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

/// Parameters with all that belongs to them, on any device. Nothing is drawn on the device: values come from Cpu.
template <class Device>
struct Parameters {
  Context<Device>& ctx;
  std::vector<AdamWTensor> tensors;
  std::deque<Tensor<float, 1, Device>> floats;
  std::deque<Tensor<bfloat16, 1, Device>> narrow_values;
  Tensor<int64_t, 1, Device> steps;
  Tensor<AdamWRule, 1, Device> rules;
  Tensor<AdamWFactors, 1, Device> factors;
  Tensor<double, 0, Device> norm;

  template <class T>
  T* hold(std::deque<Tensor<T, 1, Device>>& list, const Tensor<T, 1>& values) {
    list.push_back(Tensor<T, 1, Device>::from_host(ctx, values.shape, values.data));
    return list.back().data;
  }

  Parameters(Context<Device>& context, Context<Cpu>& host, const std::vector<int64_t>& sizes) : ctx(context) {
    std::vector<AdamWRule> all_rules;
    uint64_t seed = 1;
    for (const int64_t size : sizes) {
      const auto values = random_tensor<float, 1>(host, {size}, ++seed);
      const auto gradient = random_tensor<float, 1>(host, {size}, ++seed);
      const auto zeros = Tensor<float, 1>::zeros(host, {size});
      AdamWTensor t{.size = size};
      const bool has_narrow_values = seed % 4 == 1;
      if (has_narrow_values) {
        t.dtype = Dtype::bf16;
        t.value = hold(narrow_values, random_tensor<bfloat16, 1>(host, {size}, seed));
        t.master = hold(floats, values);
        if (seed % 8 == 1) {
          t.gradient_dtype = Dtype::bf16;
          t.gradient = hold(narrow_values, random_tensor<bfloat16, 1>(host, {size}, seed + 100));
        }
      } else {
        t.value = hold(floats, values);
      }
      if (!t.gradient) t.gradient = hold(floats, gradient);
      if (size == 5) t.gradient = nullptr;  // left alone
      t.first_moment = hold(floats, zeros);
      t.second_moment = hold(floats, zeros);
      if (seed % 3 == 0) t.average = hold(floats, values);
      tensors.push_back(t);
      AdamWRule rule{.learning_rate = 0.01 * double(seed % 5), .average_decay = 0.9};
      if (size == 1) rule.low = -0.25, rule.high = 0.25;
      all_rules.push_back(rule);
    }
    const int64_t count = int64_t(sizes.size());
    rules = Tensor<AdamWRule, 1, Device>::from_host(ctx, {count}, all_rules);
    steps = Tensor<int64_t, 1, Device>::zeros(ctx, {count});
    norm = Tensor<double, 0, Device>(ctx, {});
    set_factors(0.5);
  }
  void set_factors(double learning_rate_factor) {
    factors = Tensor<AdamWFactors, 1, Device>::from_host(ctx, {1}, {AdamWFactors{learning_rate_factor, 1}});
  }
  void step(double largest_norm) {
    gradient_norm_forward(ctx, view(norm), tensors);
    clip_gradients(ctx, view(factors), norm, largest_norm);
    adamw_step(ctx, view(steps), rules, factors, tensors);
  }
  std::vector<float> everything() const {
    std::vector<float> all;
    for (const auto& t : floats)
      for (const float v : to_host(t)) all.push_back(v);
    for (const auto& t : narrow_values)
      for (const bfloat16 v : to_host(t)) all.push_back(widen(v));
    return all;
  }
};

std::vector<int64_t> many_sizes() {
  std::vector<int64_t> sizes = {1, 63, 64, 65, 5, 127, 128, 0, 129, 197, 4096, 4097, 9001, 3, 768 * 4};
  for (int64_t i = 0; i < 60; ++i) sizes.push_back(7 + i);  // more than one launch takes
  return sizes;
}

}  // namespace

TEST_CASE("adamw: kernels agree with Cpu over steps, clipped and averaged", "[kernels]") {
  Context<Cpu> ctx;
  Context<Device> device;
  Parameters<Cpu> expected(ctx, ctx, many_sizes());
  Parameters<Device> result(device, ctx, many_sizes());
  for (int step = 0; step < 4; ++step) {
    expected.set_factors(1.0 / (step + 1));
    result.set_factors(1.0 / (step + 1));
    const double largest_norm = step % 2 ? 1.5 : 1e6;
    expected.step(largest_norm);
    result.step(largest_norm);
    INFO("step " << step);
    CHECK(to_host(result.norm)[0] == Approx(to_host(expected.norm)[0]).epsilon(1e-14));
    CHECK(to_host(result.factors)[0].gradient_scale ==
          Approx(to_host(expected.factors)[0].gradient_scale).epsilon(1e-14));
    CHECK(to_host(result.steps) == to_host(expected.steps));
    // Of numbers up to 4, one may round to the other neighbour in bfloat16.
    const auto a = result.everything(), b = expected.everything();
    size_t floats = 0;
    for (const auto& t : expected.floats) floats += size_t(t.size());
    CHECK(largest_difference(std::vector<float>(a.begin(), a.begin() + long(floats)),
                             std::vector<float>(b.begin(), b.begin() + long(floats))) < 1e-6);
    CHECK(largest_difference(a, b) < 8e-3);
  }
  CHECK(to_host(result.steps)[4] == 0);  // without a gradient
  CHECK(to_host(result.steps)[0] == 4);
}

TEST_CASE("adamw: the norm of more gradients than a block has threads", "[kernels]") {
  Context<Cpu> ctx;
  Context<Device> device;
  const std::vector<int64_t> sizes(300, 2);
  Parameters<Cpu> expected(ctx, ctx, sizes);
  Parameters<Device> result(device, ctx, sizes);
  gradient_norm_forward(ctx, view(expected.norm), expected.tensors);
  gradient_norm_forward(device, view(result.norm), result.tensors);
  CHECK(to_host(result.norm)[0] == Approx(to_host(expected.norm)[0]).epsilon(1e-14));
}

TEST_CASE("adamw: a step whose norm is not finite changes nothing and does not count", "[kernels]") {
  Context<Cpu> ctx;
  Context<Device> device;
  Parameters<Device> p(device, ctx, {33, 70});
  const float infinity = std::numeric_limits<float>::infinity();
  Memory<Device>::from_host(const_cast<void*>(p.tensors[0].gradient), &infinity, sizeof infinity);
  const auto before = p.everything();
  p.step(1.0);
  CHECK(p.everything() == before);
  CHECK(to_host(p.steps) == std::vector<int64_t>{0, 0});
  CHECK(std::isinf(to_host(p.norm)[0]));
}

TEST_CASE("adamw: every order gives equal bits, views need not be aligned, double is refused", "[kernels]") {
  Context<Cpu> ctx;
  Context<Device> device;
  std::vector<float> first;
  for (const auto order : all_orders) {
    const InOrder in_order(order, 17);
    Parameters<Device> p(device, ctx, {8200, 3, 400, 40, 41, 6, 42, 43});
    // One array of a parameter begins one element later: no packs there.
    auto& t = p.tensors;
    for (const size_t i : {0, 2, 3, 4, 6, 7}) t[i].size -= 1;
    t[0].value = static_cast<float*>(t[0].value) + 1;
    t[2].gradient = static_cast<const float*>(t[2].gradient) + 1;
    t[3].average = static_cast<float*>(t[3].average) + 1;
    t[4].first_moment = static_cast<float*>(t[4].first_moment) + 1;
    t[6].second_moment = static_cast<float*>(t[6].second_moment) + 1;
    REQUIRE(t[7].master);
    t[7].master = static_cast<float*>(t[7].master) + 1;
    p.step(1.5);
    if (first.empty()) first = p.everything();
    CHECK(p.everything() == first);
  }
  Parameters<Device> p(device, ctx, {4});
  p.tensors[0].dtype = p.tensors[0].gradient_dtype = Dtype::f64;
  REQUIRE_ERROR(p.step(1), ValueError, "parameter 0 is in double");
  p.tensors[0].dtype = p.tensors[0].gradient_dtype = Dtype::bf16;
  REQUIRE_ERROR(p.step(1), ValueError, "need a master in float");
}

TEST_CASE("adamw: the optimiser on a device takes Cpu's steps, and its state moves between them", "[kernels]") {
  Context<Cpu> ctx;
  Context<Device> device;
  const auto start = random_tensor<bfloat16, 2>(ctx, {7, 65}, 1);
  const auto bias_start = random_tensor<float, 1>(ctx, {9}, 2);
  const Parameter<bfloat16, 2> weight(Tensor<bfloat16, 2>::from_host(ctx, start.shape, start.data), true);
  const Parameter<float, 1> bias(Tensor<float, 1>::from_host(ctx, bias_start.shape, bias_start.data), true);
  const Parameter<bfloat16, 2, Device> weight_s(on_device(device, start), true);
  const Parameter<float, 1, Device> bias_s(on_device(device, bias_start), true);
  const auto set_up = [](auto& optimizer, const auto& matrix, const auto& vector) {
    typename std::decay_t<decltype(optimizer)>::ParameterList matrices, vectors;
    matrices.add("weight", matrix);
    vectors.add("bias", vector);
    optimizer.add_group(matrices, {.learning_rate = 0.02, .weight_decay = 0.1});
    optimizer.add_group(vectors, {.learning_rate = 0.05, .weight_decay = 0});
    optimizer.bound("bias", -1, 1);
  };
  optim::AdamW optimizer;
  optim::BasicAdamW<Device> optimizer_s, resumed;
  set_up(optimizer, weight, bias);
  set_up(optimizer_s, weight_s, bias_s);
  const auto one_step = [&](uint64_t step, optim::BasicAdamW<Device>& of_kernels) {
    const auto d_weight = random_tensor<float, 2>(ctx, start.shape, 10 + step);
    const auto d_bias = random_tensor<float, 1>(ctx, bias_start.shape, 20 + step);
    weight.state().grad = d_weight;
    weight_s.state().grad = on_device(device, d_weight);
    if (step != 1) {
      bias.state().grad = d_bias;
      bias_s.state().grad = on_device(device, d_bias);
    }
    const double norm = optim::gradient_norm(optimizer.parameters());
    optimizer.step({.learning_rate_factor = 0.7, .gradient_scale = optim::clip_factor(norm, 2)});
    of_kernels.step_clipped(device, 0.7, 2);
    CHECK(of_kernels.last_norm() == Approx(norm).epsilon(1e-12));
    CHECK(largest_difference(to_host(weight_s.value()), to_host(weight.value())) < 8e-3);
    CHECK(largest_difference(to_host(bias_s.value()), to_host(bias.value())) < 1e-6);
    optimizer.clear_gradients();
    of_kernels.clear_gradients();
  };
  for (uint64_t step = 0; step < 3; ++step) one_step(step, optimizer_s);

  const auto state = optimizer_s.state(), cpu_state = optimizer.state();
  REQUIRE(state.size() == cpu_state.size());
  for (size_t i = 0; i < state.size(); ++i) CHECK(state[i].first == cpu_state[i].first);
  set_up(resumed, weight_s, bias_s);
  resumed.load_state(state);
  one_step(3, resumed);
}

TEST_CASE("ema: averages on the device are those of Cpu, and stand in for the parameters there", "[kernels]") {
  Context<Cpu> ctx;
  Context<Device> device;
  const auto weight = random_tensor<bfloat16, 2>(ctx, {7, 65}, 1), next = random_tensor<bfloat16, 2>(ctx, {7, 65}, 2);
  const auto bias = random_tensor<float, 1>(ctx, {9}, 3);
  const Parameter<bfloat16, 2> w(weight, true);
  const Parameter<float, 1> b(bias, true);
  const Parameter<bfloat16, 2, Device> w_s(on_device(device, weight), true);
  const Parameter<float, 1, Device> b_s(on_device(device, bias), true);
  optim::ParameterList list;
  list.add("weight", w);
  list.add("bias", b);
  optim::BasicParameterList<Device> list_s;
  list_s.add("weight", w_s);
  list_s.add("bias", b_s);
  optim::Ema ema(list, 0.75);
  optim::BasicEma<Device> ema_s(device, list_s, 0.75);
  std::copy_n(next.data, next.size(), w.value().data);
  Memory<Device>::from_host(w_s.value().data, next.data, size_t(next.size()) * sizeof(bfloat16));
  ema.update();
  ema_s.update(device);
  const auto expected = ema.state(), state = ema_s.state();
  REQUIRE(state.size() == expected.size());
  for (size_t i = 0; i < state.size(); ++i) {
    CHECK(state[i].first == expected[i].first);
    for (int64_t k = 0; k < state[i].second.size(); ++k)
      CHECK(state[i].second.as<float>()[k] == Approx(expected[i].second.as<float>()[k]).margin(1e-6));
  }
  ema.apply();
  ema_s.apply(device);
  CHECK(largest_difference(to_host(w_s.value()), to_host(w.value())) < 8e-3);
  CHECK(largest_difference(to_host(w_s.value()), to_host(next)) > 0.1);
  REQUIRE_ERROR(ema_s.update(device), Error, "between apply() and restore()");
  ema_s.restore(device);
  CHECK(largest_difference(to_host(w_s.value()), to_host(next)) == 0);

  optim::BasicEma<Device> resumed(device, list_s, 0.5);
  resumed.load_state(expected);  // Cpu's state
  CHECK(resumed.state()[0].second.as<float>()[3] == expected[0].second.as<float>()[3]);

  const Parameter<float, 1, Device> teacher(on_device(device, random_tensor<float, 1>(ctx, {9}, 4)));
  optim::BasicParameterList<Device> teachers, students;
  teachers.add("bias", teacher);
  students.add("bias", b_s);
  const auto before = to_host(teacher.value());
  optim::average_into(device, teachers, students, 0.9);
  for (size_t i = 0; i < 9; ++i)
    CHECK(to_host(teacher.value())[i] == Approx(0.9 * double(before[i]) + 0.1 * double(bias.data[i])).margin(1e-6));
}
