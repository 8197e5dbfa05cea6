// Layer normalisation's kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/layernorm.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEMPLATE_TEST_CASE("layernorm: kernels agree with Cpu, forward and backward", "[kernels]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 3e-6 : 8e-3;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& [rows, channels] :
       {std::pair{1, 1}, {3, 63}, {4, 64}, {5, 65}, {33, 127}, {2, 128}, {70, 129}, {7, 197}, {300, 768}}) {
    const Shape<2> shape{rows, channels};
    auto x = random_tensor<T>(ctx, shape, 1, 3.0), d_y = random_tensor<T>(ctx, shape, 2);
    auto weight = random_tensor<float, 1>(ctx, {channels}, 3), bias = random_tensor<float, 1>(ctx, {channels}, 4);
    Tensor<T, 2> y(ctx, shape), d_x(ctx, shape);
    Tensor<float, 1> mean(ctx, {rows}), rstd(ctx, {rows}), d_weight(ctx, {channels}), d_bias(ctx, {channels});
    layernorm_forward(ctx, view(y), mean, rstd, x, weight, bias);
    layernorm_backward(ctx, view(d_x), d_weight, d_bias, d_y, mean, rstd, x, weight);

    const auto x_s = on_device(device, x), d_y_s = on_device(device, d_y);
    const auto weight_s = on_device(device, weight), bias_s = on_device(device, bias);
    Tensor<T, 2, Device> y_s(device, shape), d_x_s(device, shape);
    Tensor<float, 1, Device> mean_s(device, {rows}), rstd_s(device, {rows}), d_weight_s(device, {channels}),
        d_bias_s(device, {channels});
    layernorm_forward(device, view(y_s), mean_s, rstd_s, x_s, weight_s, bias_s);
    layernorm_backward(device, view(d_x_s), d_weight_s, d_bias_s, d_y_s, mean_s, rstd_s, x_s, weight_s);
    INFO("rows " << rows << ", channels " << channels);
    CHECK(largest_difference(to_host(y_s), to_host(y)) < tolerance);
    CHECK(largest_difference(to_host(mean_s), to_host(mean)) < 2e-6);
    CHECK(largest_difference(to_host(rstd_s), to_host(rstd)) < 2e-6);
    CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) < tolerance);
    CHECK(largest_difference(to_host(d_weight_s), to_host(d_weight)) < 3e-6);
    CHECK(largest_difference(to_host(d_bias_s), to_host(d_bias)) < 3e-6);

    // Absent outputs are skipped, and d_x may be d_y.
    Tensor<float, 1, Device> d_bias_alone(device, {channels});
    layernorm_backward(device, TensorView<T, 2, Device>{}, {}, d_bias_alone, d_y_s, mean_s, rstd_s, x_s, weight_s);
    CHECK(to_host(d_bias_alone) == to_host(d_bias_s));
    layernorm_backward(device, view(d_y_s), {}, {}, d_y_s, mean_s, rstd_s, x_s, weight_s);
    CHECK(largest_difference(to_host(d_y_s), to_host(d_x_s)) == 0);
  }
}

TEST_CASE("layernorm: no rows, and views that are not aligned", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  auto weight = random_tensor<float, 1>(ctx, {8}, 3), bias = random_tensor<float, 1>(ctx, {8}, 4);
  const auto weight_s = on_device(device, weight), bias_s = on_device(device, bias);
  Tensor<float, 2, Device> none(device, {0, 8});
  CHECK(to_host(layernorm(device, none, weight_s, bias_s)).empty());
  Tensor<float, 1, Device> d_weight(device, {8}), no_rows(device, {0});
  layernorm_backward(device, TensorView<float, 2, Device>{}, d_weight, {}, none, no_rows, no_rows, none, weight_s);
  CHECK(to_host(d_weight) == std::vector<float>(8, 0.0f));

  auto values = random_tensor<float, 1>(ctx, {33}, 1);
  const auto values_s = on_device(device, values);
  const auto expected = layernorm(ctx, TensorView<float, 2>(values.data + 1, {4, 8}), weight, bias);
  const auto y = layernorm(device, TensorView<float, 2, Device>(values_s.data + 1, {4, 8}), weight_s, bias_s);
  CHECK(largest_difference(to_host(y), to_host(expected)) < 3e-6);
}

TEST_CASE("layernorm: the variance is taken about the mean, however far that is from zero", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  auto x = random_tensor<float, 2>(ctx, {3, 64}, 1);
  for (int64_t i = 0; i < x.size(); ++i) x.data[i] += 3000;  // its square has no digits left for a variance of 1
  auto weight = random_tensor<float, 1>(ctx, {64}, 3), bias = random_tensor<float, 1>(ctx, {64}, 4);
  const auto y = layernorm(device, on_device(device, x), on_device(device, weight), on_device(device, bias));
  CHECK(largest_difference(to_host(y), to_host(layernorm(ctx, x, weight, bias))) < 1e-3);
}
