// Gumbel-softmax's kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/gumbel_softmax.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
const RandomStream stream{.seed = 11, .step = 5, .operation = 1};
}

TEMPLATE_TEST_CASE("gumbel_softmax: assignment, index, gradient and noise agree with Cpu", "[kernels]", float,
                   bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 3e-6 : 8e-3;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& [rows, columns] :
       {std::pair{1, 1}, {300, 8}, {9, 16}, {9, 63}, {5, 64}, {3, 129}, {2, 512}, {2, 1301}, {1, 4300}}) {
    INFO(rows << " x " << columns);
    const Shape<2> shape{rows, columns};
    const auto logits = random_tensor<T>(ctx, shape, 1, 3.0), d = random_tensor<T>(ctx, shape, 2);
    const auto logits_s = on_device(device, logits), d_s = on_device(device, d);
    GumbelSoftmaxOptions options{.temperature = 0.9, .hard = true, .noise = stream};
    Tensor<T, 2> assignment(ctx, shape), soft(ctx, shape), d_logits(ctx, shape);
    Tensor<int32_t, 1> index(ctx, {rows});
    Tensor<T, 2, Device> assignment_s(device, shape), soft_s(device, shape), d_logits_s(device, shape);
    Tensor<int32_t, 1, Device> index_s(device, {rows});
    gumbel_softmax_forward(ctx, view(assignment), soft, index, logits, {}, options);
    gumbel_softmax_forward(device, view(assignment_s), soft_s, index_s, logits_s, {}, options);
    // in double: the Cpu's sums of long rows in float are less exact than the kernels'
    Tensor<double, 2> wide(ctx, shape);
    for (int64_t i = 0; i < wide.size(); ++i) wide.data[i] = double(widen(logits.data[i]));
    const auto exact = gumbel_softmax(ctx, view(wide), {.temperature = 0.9, .hard = false, .noise = stream});
    CHECK(largest_difference(to_host(soft_s), to_host(exact.assignment)) < tolerance);
    CHECK(to_host(index_s) == to_host(index));
    CHECK(largest_difference(to_host(assignment_s), to_host(assignment)) < 1e-6);
    gumbel_softmax_backward(ctx, view(d_logits), d, soft, options);
    gumbel_softmax_backward(device, view(d_logits_s), d_s, on_device(device, soft), options);
    if (columns > 1) CHECK(largest_difference(to_host(d_logits_s), to_host(d_logits)) < tolerance);
    if (rows * columns > 2000) continue;
    // the straight-through sum to the bit, with what the device holds y to be
    const auto y = to_host(soft_s), ones = to_host(assignment_s);
    const auto chosen = to_host(index_s);
    for (size_t i = 0; i < y.size() && std::is_same_v<T, float>; ++i) {
      const float value = float(widen(y[i]));
      const bool is_chosen = chosen[i / size_t(columns)] == int32_t(i % size_t(columns));
      REQUIRE(float(widen(ones[i])) == (is_chosen ? (1 - value) + value : 0));
    }
    // noise given: the same bits as noise drawn; soft; in place; in another order
    const auto noise = gumbel_noise(device, shape, stream);
    CHECK(largest_difference(to_host(noise), to_host(gumbel_noise(ctx, shape, stream))) < 1e-6);
    const InOrder in_order(Order::random, uint64_t(columns));
    options.hard = false;
    options.noise.reset();
    gumbel_softmax_forward(device, view(logits_s), {}, {}, logits_s, noise, options);
    CHECK(largest_difference(to_host(logits_s), to_host(soft_s)) == 0);
    gumbel_softmax_backward(device, view(d_s), d_s, on_device(device, soft), options);
    CHECK(largest_difference(to_host(d_s), to_host(d_logits_s)) == 0);
  }
}

TEST_CASE("gumbel_softmax: masked logits, rows of nothing but them, NaN, ties; misaligned rows; no rows", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const float masked = -std::numeric_limits<float>::infinity(), nan = std::nanf("");
  for (const int64_t columns : {4, 40, 1300}) {  // a thread's, a warp's, a block's
    Tensor<float, 2> logits(ctx, {4, columns});
    std::fill_n(logits.data, logits.size(), masked);
    logits(0, 0) = 0, logits(0, columns - 1) = 1;
    logits(2, 1) = nan, logits(2, 2) = 0;
    logits(3, columns - 1) = logits(3, 1) = 2;
    const auto found = gumbel_softmax(device, on_device(device, logits));
    CHECK(to_host(found.index) == std::vector<int32_t>{int32_t(columns) - 1, 0, 0, 1});
    const auto values = to_host(found.assignment), expected = to_host(gumbel_softmax(ctx, view(logits)).assignment);
    for (size_t i = 0; i < values.size(); ++i)
      CHECK(((std::isnan(values[i]) && std::isnan(expected[i])) || std::abs(values[i] - expected[i]) < 1e-6f));
  }
  // neighbours so far apart that only a shift by the largest keeps the exponentials finite
  const auto apart = Tensor<float, 2>::from_host(ctx, {1, 8}, std::vector<float>{-300, 300, 299, -300, 0, 0, 0, 0});
  CHECK(largest_difference(to_host(gumbel_softmax(device, on_device(device, apart), {.hard = false}).assignment),
                           to_host(gumbel_softmax(ctx, view(apart), {.hard = false}).assignment)) < 1e-6);
  const auto values = random_tensor<float>(ctx, Shape<1>{65}, 1);
  const auto values_s = on_device(device, values);
  const auto part = [](const auto& x) {
    return TensorView<float, 2, typename std::decay_t<decltype(x)>::device_type>(x.data + 1, {4, 16});
  };
  const GumbelSoftmaxOptions options{.hard = false, .noise = stream};
  CHECK(largest_difference(to_host(gumbel_softmax(device, part(values_s), options).assignment),
                           to_host(gumbel_softmax(ctx, part(values), options).assignment)) < 3e-6);
  CHECK(to_host(gumbel_softmax(device, Tensor<float, 2, Device>(device, {0, 4}), options).index).empty());
}
