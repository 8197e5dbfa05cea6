// Softmax's kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/softmax.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
/// The same values in double: the Cpu's sums of long rows in float are less exact than the kernels'.
template <class T>
Tensor<double, 2> in_double(Context<Cpu>& ctx, const Tensor<T, 2>& x) {
  Tensor<double, 2> y(ctx, x.shape);
  for (int64_t i = 0; i < x.size(); ++i) y.data[i] = double(widen(x.data[i]));
  return y;
}
template <class T>
Tensor<T, 2> rounded(Context<Cpu>& ctx, const Tensor<double, 2>& x) {
  Tensor<T, 2> y(ctx, x.shape);
  for (int64_t i = 0; i < x.size(); ++i) y.data[i] = narrow<T>(float(x.data[i]));
  return y;
}
}  // namespace

TEMPLATE_TEST_CASE("softmax: both forms agree with Cpu in double, forward and backward", "[kernels]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 2e-6 : 8e-3;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& [rows, columns] : {std::pair{1, 1},
                                      {9, 63},
                                      {8, 64},
                                      {3, 65},
                                      {5, 127},
                                      {4, 128},
                                      {3, 129},
                                      {17, 197},
                                      {2, 1024},
                                      {2, 1025},
                                      {1, 1200},
                                      {1, 9000}}) {
    const Shape<2> shape{rows, columns};
    auto x = random_tensor<T>(ctx, shape, 1, 4.0), d_y = random_tensor<T>(ctx, shape, 2);
    const auto x_s = on_device(device, x), d_y_s = on_device(device, d_y);
    INFO(to_string(shape));
    const auto y_s = softmax(device, x_s), z_s = log_softmax(device, x_s);
    const auto x_double = in_double(ctx, x), d_y_double = in_double(ctx, d_y);
    const auto exact_y = softmax(ctx, x_double), exact_z = log_softmax(ctx, x_double);
    CHECK(largest_difference(to_host(y_s), to_host(exact_y)) < tolerance);
    CHECK(largest_difference(to_host(z_s), to_host(exact_z)) < tolerance);
    // gradients, where the values saved are T's
    const auto y = rounded<T>(ctx, exact_y), z = rounded<T>(ctx, exact_z);
    Tensor<double, 2> d_x(ctx, shape);
    Tensor<T, 2, Device> d_x_s(device, shape);
    softmax_backward(ctx, view(d_x), d_y_double, in_double(ctx, y));
    softmax_backward(device, view(d_x_s), d_y_s, on_device(device, y));
    if (columns > 1) CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) < tolerance);
    log_softmax_backward(ctx, view(d_x), d_y_double, in_double(ctx, z));
    log_softmax_backward(device, view(d_x_s), d_y_s, on_device(device, z));
    if (columns > 1) CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) < tolerance);
    // in place, and in another order, the bits are the same
    const InOrder in_order(Order::random, uint64_t(columns));
    softmax_forward(device, view(x_s), x_s);
    CHECK(largest_difference(to_host(x_s), to_host(y_s)) == 0);
    log_softmax_backward(device, view(d_y_s), d_y_s, on_device(device, z));
    CHECK(largest_difference(to_host(d_y_s), to_host(d_x_s)) == 0);
  }
}

TEST_CASE("softmax: masked logits, rows of nothing but them, NaN, large logits", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const auto x = Tensor<float, 2>::from_host(ctx, {5, 4}, {0,         -infinity, 1,         -infinity,  //
                                                           -infinity, -infinity, -infinity, -infinity,  //
                                                           0,         nan,       1,         2,          //
                                                           1,         infinity,  0,         0,          //
                                                           1e6f,      1e6f + 1,  -1e6f,     0});
  const auto x_s = on_device(device, x);
  const auto bits_agree = [](const std::vector<float>& a, const std::vector<float>& b) {
    for (size_t i = 0; i < a.size(); ++i)
      if (std::isnan(a[i]) != std::isnan(b[i]) ||
          (!std::isnan(a[i]) && a[i] != b[i] && !(std::abs(a[i] - b[i]) < 1e-6f)))
        return false;
    return true;
  };
  CHECK(bits_agree(to_host(softmax(device, x_s)), to_host(softmax(ctx, x))));
  const auto z = log_softmax(ctx, x);
  CHECK(bits_agree(to_host(log_softmax(device, x_s)), to_host(z)));
  const auto ones = Tensor<float, 2>::from_host(ctx, {5, 4}, std::vector<float>(20, 1.0f));
  Tensor<float, 2> d_x(ctx, x.shape);
  Tensor<float, 2, Device> d_x_s(device, x.shape);
  log_softmax_backward(ctx, view(d_x), ones, z);
  log_softmax_backward(device, view(d_x_s), on_device(device, ones), on_device(device, z));
  CHECK(bits_agree(to_host(d_x_s), to_host(d_x)));
  // a long row, whose largest logit one warp of the block has seen alone
  auto long_row = random_tensor<float>(ctx, Shape<2>{1, 1500}, 2);
  long_row.data[700] = 1e4f;
  CHECK(bits_agree(to_host(softmax(device, on_device(device, long_row))), to_host(softmax(ctx, long_row))));
  Tensor<float, 2, Device> none(device, {0, 4});
  CHECK(to_host(softmax(device, none)).empty());
  // misaligned
  auto values = random_tensor<float>(ctx, Shape<1>{65}, 1);
  const auto values_s = on_device(device, values);
  CHECK(largest_difference(to_host(softmax(device, TensorView<float, 2, Device>(values_s.data + 1, {4, 16}))),
                           to_host(softmax(ctx, TensorView<float, 2>(values.data + 1, {4, 16})))) < 1e-6);
}
