// The matrix product on Device: the Cpu's on copies, and its bias' and activation's gradients as kernels.
#include <tessera/kernels/matmul.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
constexpr Activation activations[] = {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh,
                                      Activation::quick_gelu};
}

TEST_CASE("matmul: transposes, batches and strided rows on the device are those of Cpu", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      auto a = random_tensor<float>(ctx, ta ? Shape<3>{3, 7, 5} : Shape<3>{3, 5, 7}, 1);
      auto b = random_tensor<float>(ctx, tb ? Shape<3>{3, 11, 7} : Shape<3>{3, 7, 11}, 2);
      const auto a_s = on_device(device, a), b_s = on_device(device, b);
      const MatmulOptions options{.transpose_a = ta, .transpose_b = tb};
      const auto agree = [&](const auto& first_s, const auto& second_s, const auto& first, const auto& second) {
        CHECK(largest_difference(to_host(matmul(device, first_s, second_s, {}, options)),
                                 to_host(matmul(ctx, first, second, {}, options))) < 1e-6);
      };
      agree(a_s, b_s, a, b);
      if (ta) continue;
      const auto one = b.select(0, 1);  // for all of the batch
      const auto one_s = b_s.select(0, 1);
      agree(a_s, one_s, a, one);
      const auto part = a.slice(1, 1, 4);
      const auto part_s = a_s.slice(1, 1, 4);
      agree(part_s, b_s, part, b);
    }
  // into rows of a larger matrix, which keeps the rest
  auto c = random_tensor<float>(ctx, Shape<2>{5, 20}, 3), a = random_tensor<float>(ctx, Shape<2>{5, 7}, 1),
       b = random_tensor<float>(ctx, Shape<2>{7, 9}, 2);
  const auto c_s = on_device(device, c);
  matmul_forward(ctx, c.slice(1, 3, 12), {}, view(a), view(b), {});
  matmul_forward(device, c_s.slice(1, 3, 12), {}, view(on_device(device, a)), view(on_device(device, b)), {});
  CHECK(largest_difference(to_host(c_s), to_host(c)) < 1e-6);
}

TEMPLATE_TEST_CASE("matmul: bias, activation and all gradients agree with Cpu", "[kernels]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 3e-6 : 1e-2;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& [rows, columns] : {std::pair{1, 1}, {3, 63}, {65, 64}, {127, 65}, {300, 128}, {9, 197}}) {
    auto x = random_tensor<T>(ctx, Shape<2>{rows, 12}, 1);
    auto weight = random_tensor<T>(ctx, Shape<2>{columns, 12}, 2, 0.3);
    auto bias = random_tensor<float>(ctx, Shape<1>{columns}, 3), no_bias = Tensor<float, 1>{};
    auto d_y = random_tensor<T>(ctx, Shape<2>{rows, columns}, 4);
    const auto x_s = on_device(device, x), weight_s = on_device(device, weight), d_y_s = on_device(device, d_y);
    const auto bias_s = on_device(device, bias);
    for (const Activation kind : activations) {
      INFO(activation_name(kind) << ", " << rows << " rows, " << columns << " columns");
      const MatmulOptions options{.transpose_b = true, .activation = kind};
      Tensor<T, 2> y(ctx, d_y.shape), pre(ctx, d_y.shape), d_x(ctx, x.shape);
      Tensor<float, 2> d_weight(ctx, weight.shape);
      Tensor<float, 1> d_bias(ctx, bias.shape);
      matmul_forward(ctx, view(y), pre, view(x), view(weight), bias, options);
      matmul_backward(ctx, view(d_x), view(d_weight), d_bias, d_y, x, view(weight), pre, options);
      Tensor<T, 2, Device> y_s(device, d_y.shape), pre_s(device, d_y.shape), d_x_s(device, x.shape);
      Tensor<float, 2, Device> d_weight_s(device, weight.shape);
      Tensor<float, 1, Device> d_bias_s(device, bias.shape), again(device, bias.shape);
      matmul_forward(device, view(y_s), pre_s, view(x_s), view(weight_s), bias_s, options);
      matmul_backward(device, view(d_x_s), view(d_weight_s), d_bias_s, d_y_s, x_s, view(weight_s), pre_s, options);
      CHECK(largest_difference(to_host(y_s), to_host(y)) < tolerance);
      CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) < tolerance);
      CHECK(largest_difference(to_host(d_weight_s), to_host(d_weight)) < tolerance);
      CHECK(largest_difference(to_host(d_bias_s), to_host(d_bias)) < tolerance);
      // alone, in another order, the bias' gradient has the same bits
      const InOrder in_order(Order::random, uint64_t(rows));
      matmul_backward(device, TensorView<T, 2, Device>{}, TensorView<float, 2, Device>{}, again, d_y_s, x_s,
                      view(weight_s), pre_s, options);
      CHECK(to_host(again) == to_host(d_bias_s));
      CHECK(largest_difference(to_host(matmul(device, x_s, weight_s, bias_s, options)), to_host(y_s)) < tolerance);
    }
  }
}

TEST_CASE("matmul: bias and activation after a library's product, in place and in strided rows", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  auto x = random_tensor<float>(ctx, Shape<3>{2, 5, 80}, 1);
  auto bias = random_tensor<float>(ctx, Shape<1>{64}, 2);
  const auto bias_s = on_device(device, bias);
  for (const int64_t first : {8, 9})  // read in packs, and one by one
    for (const Activation kind : activations) {
      const auto part = x.slice(2, first, first + 64);
      const auto expected = activation(ctx, view(add(ctx, part, bias)), kind);
      auto x_s = on_device(device, x);
      const auto part_s = x_s.slice(2, first, first + 64);
      kernels::bias_activation<float, float>(device, part_s, part_s, bias_s.data, kind);
      auto changed = Tensor<float, 3>::from_host(ctx, x.shape, to_host(x_s));
      double worst = 0;
      for (int64_t i = 0; i < 2; ++i)
        for (int64_t j = 0; j < 5; ++j)
          for (int64_t c = 0; c < 80; ++c) {
            const bool inside = c >= first && c < first + 64;
            const double d =
                std::abs(double(changed(i, j, c)) - double(inside ? expected(i, j, c - first) : x(i, j, c)));
            if (!(d <= worst)) worst = d;
          }
      CHECK(worst < 2e-6);
    }
}

TEMPLATE_TEST_CASE("matmul: a linear layer in groups and its gradients agree with Cpu", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& [rows, groups, in, out] : {std::tuple{65, 4, 8, 16}, {7, 3, 5, 1}, {1, 1, 9, 3}}) {
    INFO(rows << " rows, " << groups << " groups of " << in << " to " << out);
    const auto x = random_tensor<T>(ctx, Shape<2>{rows, groups * in}, 1);
    const auto weight = random_tensor<T>(ctx, Shape<2>{groups * out, in}, 2);
    const auto bias = random_tensor<float>(ctx, Shape<1>{groups * out}, 3);
    const auto d_y = random_tensor<T>(ctx, Shape<2>{rows, groups * out}, 4);
    const auto x_s = on_device(device, x), weight_s = on_device(device, weight), d_y_s = on_device(device, d_y);
    const auto bias_s = on_device(device, bias);
    const double tolerance = std::is_same_v<T, float> ? 1e-6 : 1e-2;
    CHECK(largest_difference(to_host(grouped_linear(device, x_s, weight_s, groups, bias_s)),
                             to_host(grouped_linear(ctx, x, weight, groups, bias))) < tolerance);
    Tensor<T, 2> d_x(ctx, x.shape);
    Tensor<float, 2> d_weight(ctx, weight.shape);
    Tensor<float, 1> d_bias(ctx, bias.shape);
    Tensor<T, 2, Device> d_x_s(device, x.shape);
    Tensor<float, 2, Device> d_weight_s(device, weight.shape);
    Tensor<float, 1, Device> d_bias_s(device, bias.shape);
    grouped_linear_backward(ctx, view(d_x), view(d_weight), d_bias, d_y, x, weight, groups);
    grouped_linear_backward(device, view(d_x_s), view(d_weight_s), d_bias_s, d_y_s, x_s, weight_s, groups);
    CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) < tolerance);
    CHECK(largest_difference(to_host(d_weight_s), to_host(d_weight)) < tolerance);
    CHECK(largest_difference(to_host(d_bias_s), to_host(d_bias)) < 1e-6);
  }
}
