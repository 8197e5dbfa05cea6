// Group normalisation's kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/groupnorm.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEMPLATE_TEST_CASE("groupnorm: kernels agree with Cpu, forward and backward", "[kernels]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 2e-6 : 8e-3;
  auto ctx = nan_filled_context();
  Context<Device> device;
  struct Case {
    int64_t items, channels, groups, positions;
  };
  // The last two: a group of several parts, and planes that blocks sum.
  for (const auto& [items, channels, groups, positions] : {Case{1, 1, 1, 1},
                                                           {2, 6, 3, 63},
                                                           {1, 8, 2, 64},
                                                           {3, 2, 2, 65},
                                                           {1, 4, 1, 127},
                                                           {2, 4, 2, 128},
                                                           {1, 3, 3, 129},
                                                           {1, 130, 2, 197},
                                                           {2, 3, 1, 5000}}) {
    const Shape<3> shape{items, channels, positions};
    auto x = random_tensor<T>(ctx, shape, 1, 3.0), d_y = random_tensor<T>(ctx, shape, 2);
    auto weight = random_tensor<float, 1>(ctx, {channels}, 3), bias = random_tensor<float, 1>(ctx, {channels}, 4);
    Tensor<T, 3> y(ctx, shape), d_x(ctx, shape);
    Tensor<float, 2> mean(ctx, {items, groups}), rstd(ctx, {items, groups});
    Tensor<float, 1> d_weight(ctx, {channels}), d_bias(ctx, {channels});
    const GroupnormOptions options{groups, 1e-3};
    groupnorm_forward(ctx, view(y), mean, rstd, x, weight, bias, options);
    groupnorm_backward(ctx, view(d_x), d_weight, d_bias, d_y, mean, rstd, x, weight);

    const auto x_s = on_device(device, x), d_y_s = on_device(device, d_y);
    const auto weight_s = on_device(device, weight), bias_s = on_device(device, bias);
    Tensor<T, 3, Device> y_s(device, shape), d_x_s(device, shape);
    Tensor<float, 2, Device> mean_s(device, mean.shape), rstd_s(device, mean.shape);
    Tensor<float, 1, Device> d_weight_s(device, {channels}), d_bias_s(device, {channels});
    groupnorm_forward(device, view(y_s), mean_s, rstd_s, x_s, weight_s, bias_s, options);
    groupnorm_backward(device, view(d_x_s), d_weight_s, d_bias_s, d_y_s, mean_s, rstd_s, x_s, weight_s);
    INFO("items " << items << ", channels " << channels << ", groups " << groups << ", positions " << positions);
    CHECK(largest_difference(to_host(y_s), to_host(y)) < tolerance);
    CHECK(largest_difference(to_host(mean_s), to_host(mean)) < 1e-6);
    CHECK(largest_difference(to_host(rstd_s), to_host(rstd)) < 1e-6);
    CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) < tolerance);
    CHECK(largest_difference(to_host(d_weight_s), to_host(d_weight)) < 2e-6);
    CHECK(largest_difference(to_host(d_bias_s), to_host(d_bias)) < 2e-6);
  }
}

TEST_CASE("groupnorm: absent outputs, d_x in d_y's place, no items, views that are not aligned", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const Shape<3> shape{2, 4, 40};
  auto values = random_tensor<float, 1>(ctx, {321}, 1);
  auto weight = random_tensor<float, 1>(ctx, {4}, 3), bias = random_tensor<float, 1>(ctx, {4}, 4);
  const auto values_s = on_device(device, values);
  const auto weight_s = on_device(device, weight), bias_s = on_device(device, bias);
  const TensorView<float, 3, Device> x(values_s.data + 1, shape);
  Tensor<float, 3, Device> y(device, shape), d_x(device, shape),
      d_y = on_device(device, random_tensor<float>(ctx, shape, 2));
  Tensor<float, 2, Device> mean(device, {2, 2}), rstd(device, {2, 2});
  Tensor<float, 1, Device> d_weight(device, {4});
  groupnorm_forward(device, view(y), mean, rstd, x, weight_s, bias_s, {.groups = 2});
  const auto expected = groupnorm(ctx, TensorView<float, 3>(values.data + 1, shape), weight, bias, {.groups = 2});
  CHECK(largest_difference(to_host(y), to_host(expected)) < 2e-6);
  CHECK(to_host(groupnorm(device, x, weight_s, bias_s, {.groups = 2})) == to_host(y));

  groupnorm_backward(device, view(d_x), d_weight, {}, d_y, mean, rstd, x, weight_s);
  Tensor<float, 1, Device> d_weight_alone(device, {4});
  groupnorm_backward(device, TensorView<float, 3, Device>{}, d_weight_alone, {}, d_y, mean, rstd, x, weight_s);
  CHECK(to_host(d_weight_alone) == to_host(d_weight));
  groupnorm_backward(device, view(d_y), {}, {}, d_y, mean, rstd, x, weight_s);
  CHECK(to_host(d_y) == to_host(d_x));

  Tensor<float, 3, Device> none(device, {0, 4, 40});
  Tensor<float, 2, Device> no_groups(device, {0, 2});
  CHECK(to_host(groupnorm(device, none, weight_s, bias_s, {.groups = 2})).empty());
  groupnorm_backward(device, TensorView<float, 3, Device>{}, d_weight, {}, none, no_groups, no_groups, none, weight_s);
  CHECK(to_host(d_weight) == std::vector<float>(4, 0.0f));
}
