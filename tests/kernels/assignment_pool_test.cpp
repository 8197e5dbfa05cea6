// The kernels of pooling by assignment, run by the emulator, agree with Cpu.
#include <tessera/kernels/assignment_pool.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
/// Positive weights whose groups have masses below and above 1.
template <class T>
Tensor<T, 3> random_assignment(Context<Cpu>& ctx, const Shape<3>& shape) {
  Tensor<T, 3> assignment(ctx, shape);
  for (int64_t i = 0; i < assignment.size(); ++i)
    assignment.data[i] = narrow<T>(RandomStream{3}.uniform(uint64_t(i)) * float(i % shape[2] + 1) / float(shape[1]));
  return assignment;
}
}  // namespace

TEMPLATE_TEST_CASE("assignment_pool: values and gradients agree with Cpu, whatever the cut", "[kernels]", float,
                   bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 3e-6 : 8e-3;
  auto ctx = nan_filled_context();
  Context<Device> device;
  // groups within an octet, an octet, several tiles, more than a block has; tokens in one part and in several
  const int64_t sizes[][4] = {{1, 1, 1, 1}, {2, 197, 40, 8}, {1, 63, 129, 5}, {2, 21, 64, 24}, {1, 9, 16, 72}};
  for (const auto& [batch, tokens, channels, groups] : sizes)
    for (const AssignmentPoolOptions& options : {AssignmentPoolOptions{}, {PoolDivisor::plus_epsilon, 0.5}}) {
      INFO("B " << batch << " N " << tokens << " D " << channels << " G " << groups);
      const Shape<3> pooled_shape{batch, groups, channels};
      const auto value = random_tensor<T, 3>(ctx, {batch, tokens, channels}, 1);
      const auto assignment = random_assignment<T>(ctx, {batch, tokens, groups});
      const auto d_pooled = random_tensor<T>(ctx, pooled_shape, 2);
      const auto value_s = on_device(device, value), assignment_s = on_device(device, assignment),
                 d_pooled_s = on_device(device, d_pooled);
      Tensor<T, 3> pooled(ctx, pooled_shape), d_value(ctx, value.shape), d_assignment(ctx, assignment.shape);
      Tensor<float, 2> mass(ctx, {batch, groups});
      Tensor<T, 3, Device> pooled_s(device, pooled_shape), d_value_s(device, value.shape),
          d_assignment_s(device, assignment.shape);
      Tensor<float, 2, Device> mass_s(device, mass.shape);
      assignment_pool_forward(ctx, view(pooled), mass, value, assignment, options);
      assignment_pool_forward(device, view(pooled_s), mass_s, value_s, assignment_s, options);
      CHECK(largest_difference(to_host(pooled_s), to_host(pooled)) < tolerance);
      CHECK(largest_difference(to_host(mass_s), to_host(mass)) < 1e-6);
      assignment_pool_backward(ctx, view(d_value), d_assignment, d_pooled, mass, value, assignment, options);
      assignment_pool_backward(device, view(d_value_s), d_assignment_s, d_pooled_s, on_device(device, mass), value_s,
                               assignment_s, options);
      CHECK(largest_difference(to_host(d_value_s), to_host(d_value)) < tolerance);
      CHECK(largest_difference(to_host(d_assignment_s), to_host(d_assignment)) < tolerance);
      if (tokens > 100 || options.divisor == PoolDivisor::plus_epsilon) continue;
      // one output alone, in another order: the same bits
      const InOrder in_order(Order::random, uint64_t(groups));
      Tensor<T, 3, Device> again(device, pooled_shape), d_v(device, value.shape), d_a(device, assignment.shape);
      assignment_pool_forward(device, view(again), {}, value_s, assignment_s, options);
      assignment_pool_backward(device, view(d_v), {}, d_pooled_s, on_device(device, mass), value_s, assignment_s,
                               options);
      assignment_pool_backward(device, TensorView<T, 3, Device>{}, d_a, d_pooled_s, on_device(device, mass), value_s,
                               assignment_s, options);
      CHECK(largest_difference(to_host(again), to_host(pooled_s)) == 0);
      CHECK(largest_difference(to_host(d_v), to_host(d_value_s)) == 0);
      CHECK(largest_difference(to_host(d_a), to_host(d_assignment_s)) == 0);
    }
}

TEST_CASE("assignment_pool: misaligned values and assignments; empty groups; no items", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const auto values = random_tensor<float>(ctx, Shape<1>{2 * 5 * 8 + 1}, 1);
  auto weights = random_assignment<float>(ctx, {1, 1, 2 * 5 * 8 + 1});
  for (int64_t n = 0; n < 10; ++n) weights.data[1 + 8 * n + 3] = 0;  // group 3 has no token
  const auto values_s = on_device(device, values);
  const auto weights_s = on_device(device, weights);
  const auto shifted = [](const auto& x) {
    return TensorView<float, 3, typename std::decay_t<decltype(x)>::device_type>(x.data + 1, {2, 5, 8});
  };
  const auto pooled = assignment_pool(device, shifted(values_s), shifted(weights_s));
  const auto expected = assignment_pool(ctx, shifted(values), shifted(weights));
  CHECK(largest_difference(to_host(pooled), to_host(expected)) < 1e-6);
  for (int64_t c = 0; c < 8; ++c) CHECK(to_host(pooled)[size_t(3 * 8 + c)] == 0);
  const Tensor<float, 3, Device> none(device, {0, 5, 8});
  CHECK(to_host(assignment_pool(device, view(none), none)).empty());
  assignment_pool_backward(device, view(none), none, Tensor<float, 3, Device>(device, {0, 8, 8}),
                           Tensor<float, 2, Device>(device, {0, 8}), none, none);
  device.synchronize();
}
