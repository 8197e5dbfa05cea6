// Convolution on kernels' devices agrees with Cpu: cuDNN on a GPU; on the emulated device Cpu's own products, with the
// bias and its gradient in kernels.
#include <tessera/kernels/conv2d.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

#if defined(__CUDACC__) && !defined(TESSERA_CUDNN)
TEST_CASE("conv2d: without cuDNN a sentence says what is missing", "[kernels]") {
  Context<Device> device;
  Tensor<float, 4, Device> x(device, {1, 1, 3, 3}), weight(device, {1, 1, 1, 1});
  REQUIRE_ERROR(conv2d(device, view(x), weight, {}), Error, "this program was built without cuDNN");
}
#else
TEMPLATE_TEST_CASE("conv2d: the device agrees with Cpu, forward and backward", "[kernels]", float, bfloat16) {
  using T = TestType;
  // bfloat16 is rounded before the bias is added and again after; a library's d_weight is rounded to T as well.
  const double tolerance = std::is_same_v<T, float> ? 3e-6 : 1.2e-2;
  auto ctx = nan_filled_context();
  Context<Device> device;
  struct Case {
    Shape<4> x, weight;
    Conv2dOptions options;
  };
  const std::vector<Case> cases = {
      {{1, 3, 2, 1}, {2, 3, 1, 1}, {}},
      {{2, 5, 9, 8}, {3, 5, 1, 1}, {}},
      {{2, 4, 7, 13}, {6, 4, 3, 3}, {.padding = 1}},
      {{1, 6, 8, 5}, {4, 3, 3, 2}, {.stride = {2, 1}, .padding = {1, 0}, .dilation = {1, 2}, .groups = 2}},
      {{1, 8, 5, 65}, {8, 8, 3, 3}, {.padding = 1}},
  };
  for (const auto& [x_shape, weight_shape, options] : cases) {
    const int64_t outputs = weight_shape[0];
    auto x = random_tensor<T>(ctx, x_shape, 1), weight = random_tensor<T>(ctx, weight_shape, 2);
    auto bias = random_tensor<float, 1>(ctx, {outputs}, 3);
    const auto y = conv2d(ctx, view(x), weight, bias, options);
    auto d_y = random_tensor<T>(ctx, y.shape, 4);
    Tensor<T, 4> d_x(ctx, x_shape);
    Tensor<float, 4> d_weight(ctx, weight_shape);
    Tensor<float, 1> d_bias(ctx, {outputs});
    conv2d_backward(ctx, view(d_x), view(d_weight), d_bias, d_y, x, weight, options);

    const auto x_s = on_device(device, x), weight_s = on_device(device, weight), d_y_s = on_device(device, d_y);
    const auto bias_s = on_device(device, bias);
    Tensor<T, 4, Device> d_x_s(device, x_shape), d_weight_narrow(device, weight_shape);
    Tensor<float, 4, Device> d_weight_s(device, weight_shape);
    Tensor<float, 1, Device> d_bias_s(device, {outputs});
    const auto y_s = conv2d(device, view(x_s), weight_s, bias_s, options);
    conv2d_backward(device, view(d_x_s), view(d_weight_s), d_bias_s, d_y_s, x_s, weight_s, options);
    conv2d_backward(device, TensorView<T, 4, Device>{}, view(d_weight_narrow), {}, d_y_s, x_s, weight_s, options);
    INFO("x " << to_string(x_shape) << ", weight " << to_string(weight_shape));
    CHECK(largest_difference(to_host(y_s), to_host(y)) < tolerance);
    CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) < tolerance);
    CHECK(largest_difference(to_host(d_weight_s), to_host(d_weight)) < tolerance);
    CHECK(largest_difference(to_host(d_weight_narrow), to_host(d_weight)) < tolerance);
    CHECK(largest_difference(to_host(d_bias_s), to_host(d_bias)) < 1e-6);
    CHECK(largest_difference(to_host(conv2d(device, view(x_s), weight_s, bias_s, options)), to_host(y_s)) == 0);
  }
}

TEST_CASE("conv2d: work on the device before and after is in order; no items", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  auto x = random_tensor<float, 4>(ctx, {1, 3, 6, 6}, 1), weight = random_tensor<float, 4>(ctx, {3, 3, 1, 1}, 2);
  auto bias = random_tensor<float, 1>(ctx, {3}, 3);
  const auto x_s = on_device(device, x), weight_s = on_device(device, weight);
  const auto bias_s = on_device(device, bias);
  const auto twice = conv2d(ctx, view(conv2d(ctx, view(x), weight, bias)), weight, bias);
  const auto once_s = conv2d(device, view(x_s), weight_s, bias_s);
  CHECK(largest_difference(to_host(conv2d(device, view(once_s), weight_s, bias_s)), to_host(twice)) < 1e-6);

  Tensor<float, 4, Device> none(device, {0, 3, 6, 6}), d_weight(device, weight.shape);
  Tensor<float, 1, Device> d_bias(device, {3});
  CHECK(conv2d(device, view(none), weight_s, bias_s).size() == 0);
  conv2d_backward(device, view(none), view(d_weight), d_bias, none, none, weight_s);
  CHECK(to_host(d_weight) == std::vector<float>(9, 0.0f));
  CHECK(to_host(d_bias) == std::vector<float>(3, 0.0f));
}
#endif
