// Copies by kernels, run by the emulator, are Cpu's to the bit.
#include <tessera/kernels/rearrange.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
template <class A, class B>
bool same(const A& a, const B& b) {
  return a.shape == b.shape && largest_difference(to_host(view(a)), to_host(view(b))) == 0;
}
}  // namespace

TEMPLATE_TEST_CASE("rearrange: all orders of axes, forward and backward", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  const std::array<int, 3> orders[] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  for (const auto& shape : {Shape<3>{1, 1, 1}, {3, 63, 65}, {2, 64, 64}, {33, 1, 127}, {5, 129, 4}}) {
    auto x = random_tensor<T>(ctx, shape, 1);
    const auto x_s = on_device(device, x);
    for (const auto& axes : orders) {
      INFO(to_string(shape) << " " << axes[0] << axes[1] << axes[2]);
      const auto y = permute(ctx, x, axes);
      const auto y_s = permute(device, x_s, axes);
      CHECK(same(y_s, y));
      Tensor<T, 3, Device> d_x(device, shape);
      permute_backward(device, view(d_x), y_s, axes);
      CHECK(same(d_x, x));
    }
  }
  for (const auto order : all_orders) {
    const InOrder in_order(order);
    auto x = random_tensor<T>(ctx, Shape<4>{2, 37, 3, 41}, 1);
    CHECK(same(permute(device, on_device(device, x), {0, 3, 2, 1}), permute(ctx, x, {0, 3, 2, 1})));
    CHECK(same(permute(device, on_device(device, x), {0, 2, 1, 3}), permute(ctx, x, {0, 2, 1, 3})));
  }
}

TEST_CASE("rearrange: slices, concatenation and broadcasting, forward and backward", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  auto x = random_tensor<float>(ctx, Shape<3>{4, 9, 66}, 1);
  const auto x_s = on_device(device, x);
  for (const int axis : {0, 1, 2}) {
    auto shape = x.shape;
    shape[size_t(axis)] = 3;
    Tensor<float, 3> y(ctx, shape), d_x(ctx, x.shape);
    Tensor<float, 3, Device> y_s(device, shape), d_x_s(device, x.shape);
    slice_forward(ctx, view(y), x, axis, 1);
    slice_forward(device, view(y_s), x_s, axis, 1);
    CHECK(same(y_s, y));
    slice_backward(ctx, view(d_x), y, axis, 1);
    slice_backward(device, view(d_x_s), y_s, axis, 1);
    CHECK(same(d_x_s, d_x));
    const auto joined = concatenate(ctx, axis, y, x);
    const auto joined_s = concatenate(device, axis, y_s, x_s);
    CHECK(same(joined_s, joined));
    Tensor<float, 3, Device> d_second(device, x.shape);
    concatenate_backward(device, {3, x.shape[size_t(axis)]}, view(joined_s), axis, TensorView<float, 3, Device>{},
                         view(d_second));
    CHECK(same(d_second, x));
  }
  auto row = random_tensor<bfloat16>(ctx, Shape<2>{1, 66}, 2);
  const auto row_s = on_device(device, row);
  CHECK(same(broadcast_to(device, row_s, Shape<3>{4, 9, 66}), broadcast_to(ctx, row, Shape<3>{4, 9, 66})));
  Tensor<float, 2> d_row(ctx, row.shape);
  Tensor<float, 2, Device> d_row_s(device, row.shape);
  copy_backward(ctx, view(d_row), view(x));
  copy_backward(device, view(d_row_s), view(x_s));
  CHECK(largest_difference(to_host(d_row_s), to_host(d_row)) < 2e-6);
  // sums over axes that are not neighbours, and between element types
  Tensor<bfloat16, 3> d_middle(ctx, {1, 9, 1});
  Tensor<bfloat16, 3, Device> d_middle_s(device, {1, 9, 1});
  copy_backward(ctx, view(d_middle), view(x));
  copy_backward(device, view(d_middle_s), view(x_s));
  CHECK(largest_difference(to_host(d_middle_s), to_host(d_middle)) < 8e-3);
  Tensor<bfloat16, 3> narrowed(ctx, x.shape);
  Tensor<bfloat16, 3, Device> narrowed_s(device, x.shape);
  copy_forward(ctx, view(narrowed), view(x));
  copy_forward(device, view(narrowed_s), view(x_s));
  CHECK(same(narrowed_s, narrowed));
  // integers keep their bits
  const auto ids = Tensor<int32_t, 2, Device>::from_host(device, {2, 2}, {1, 16777217, -3, 4});
  CHECK(to_host(permute(device, ids, {1, 0})) == std::vector<int32_t>{1, -3, 16777217, 4});
}
