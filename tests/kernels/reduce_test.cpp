// Sums, means and maxima by kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/reduce.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEMPLATE_TEST_CASE("reduce: sums and means over every axis, forward and backward", "[kernels]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 2e-6 : 8e-3;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& shape : {Shape<3>{1, 1, 1},
                            {3, 63, 5},
                            {2, 64, 64},
                            {5, 3, 65},
                            {1, 127, 128},
                            {4, 129, 3},
                            {2, 7, 197},
                            {300, 2, 9},
                            {2, 1500, 1},
                            {1, 900, 40}}) {
    auto x = random_tensor<T>(ctx, shape, 1);
    const auto x_s = on_device(device, x);
    for (const int axis : {0, 1, 2})
      for (const Reduction kind : {Reduction::sum, Reduction::mean}) {
        INFO(to_string(shape) << " axis " << axis);
        const auto rest = detail::without_axis(shape, axis);
        Tensor<float, 2> y(ctx, rest);
        Tensor<float, 2, Device> y_s(device, rest);
        reduce_forward(ctx, view(y), view(x), axis, kind);
        reduce_forward(device, view(y_s), view(x_s), axis, kind);
        CHECK(largest_difference(to_host(y_s), to_host(y)) < 2e-6);
        auto d_y = random_tensor<T>(ctx, rest, 2);
        Tensor<T, 3> d_x(ctx, shape);
        Tensor<T, 3, Device> d_x_s(device, shape);
        reduce_backward(ctx, view(d_x), view(d_y), axis, kind);
        reduce_backward(device, view(d_x_s), view(on_device(device, d_y)), axis, kind);
        CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) == 0);
      }
    CHECK(largest_difference(to_host(sum(device, x_s)), to_host(sum(ctx, x))) < 4e-6);
    CHECK(largest_difference(to_host(mean(device, x_s, 1)), to_host(mean(ctx, x, 1))) < tolerance);
  }
}

TEST_CASE("reduce: long sums are sums of sums, with the same bits in all orders", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  auto x = random_tensor<float>(ctx, Shape<2>{2, 20001}, 1);
  auto columns = random_tensor<bfloat16>(ctx, Shape<2>{5000, 24}, 2);
  const auto x_s = on_device(device, x);
  const auto columns_s = on_device(device, columns);
  const auto rows = to_host(sum(device, x_s, 1));
  const auto down = to_host(sum(device, columns_s, 0));
  CHECK(largest_difference(rows, to_host(sum(ctx, x, 1))) < 3e-6);
  Tensor<float, 1> expected(ctx, {24});
  Tensor<float, 1, Device> wide(device, {24});
  reduce_forward(ctx, view(expected), view(columns), 0, Reduction::sum);
  reduce_forward(device, view(wide), view(columns_s), 0, Reduction::sum);
  CHECK(largest_difference(to_host(wide), to_host(expected)) < 3e-6);
  for (const auto order : {Order::descending, Order::random}) {
    const InOrder in_order(order);
    CHECK(to_host(sum(device, x_s, 1)) == rows);
    const auto again = to_host(sum(device, columns_s, 0));
    CHECK(std::memcmp(again.data(), down.data(), down.size() * sizeof(bfloat16)) == 0);
  }
  // an empty axis gives 0, a misaligned array is read one by one
  Tensor<float, 2, Device> none(device, {0, 5});
  CHECK(to_host(sum(device, none, 0)) == std::vector<float>(5, 0.0f));
  const TensorView<float, 2> odd(x.data + 1, {4, 64});
  const TensorView<float, 2, Device> odd_s(x_s.data + 1, {4, 64});
  CHECK(largest_difference(to_host(sum(device, odd_s, 1)), to_host(sum(ctx, odd, 1))) < 2e-6);
  CHECK(largest_difference(to_host(sum(device, odd_s, 0)), to_host(sum(ctx, odd, 0))) < 2e-6);
}

TEMPLATE_TEST_CASE("reduce: maxima and where they are, ties and NaN as on Cpu", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& shape : {Shape<3>{1, 1, 1}, {3, 63, 5}, {2, 64, 65}, {2, 129, 1}, {4, 197, 3}}) {
    auto x = random_tensor<T>(ctx, shape, 1);
    for (int64_t i = 0; i < x.size(); i += 3) x.data[i] = narrow<T>(std::round(widen(x.data[i])));  // ties
    for (int64_t i = 7; i < x.size(); i += 101) x.data[i] = narrow<T>(std::nanf(""));
    for (int64_t i = 0; i < shape[1] * shape[2]; ++i)
      if (shape[0] > 2) x.data[i] = narrow<T>(-std::numeric_limits<float>::infinity());
    const auto x_s = on_device(device, x);
    for (const int axis : {0, 1, 2}) {
      INFO(to_string(shape) << " axis " << axis);
      const auto expected = max(ctx, x, axis);
      const auto found = max(device, x_s, axis);
      CHECK(to_host(found.index) == to_host(expected.index));
      const auto values = to_host(found.values), right = to_host(expected.values);
      CHECK(std::memcmp(values.data(), right.data(), values.size() * sizeof(T)) == 0);
      auto d_y = random_tensor<T>(ctx, expected.values.shape, 2);
      Tensor<T, 3> d_x(ctx, shape);
      Tensor<T, 3, Device> d_x_s(device, shape);
      max_backward(ctx, view(d_x), d_y, expected.index, axis);
      max_backward(device, view(d_x_s), on_device(device, d_y), found.index, axis);
      CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) == 0);
    }
  }
}
