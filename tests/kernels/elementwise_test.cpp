// Elementwise operations' kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/elementwise.cuh>

#include <tessera/ops/rearrange.hpp>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

template <class T>
constexpr double tolerance = std::is_same_v<T, float> ? 2e-6 : 8e-3;

constexpr Arithmetic kinds[] = {Arithmetic::add, Arithmetic::subtract, Arithmetic::multiply, Arithmetic::divide};

/// Forward and backward of all four kinds on Cpu and on the device, for a [rank A] and b [rank B].
template <class T, class TB, size_t Rank, size_t RankB>
void check_arithmetic(Context<Cpu>& ctx, Context<Device>& device, const std::array<int64_t, Rank>& shape_a,
                      const std::array<int64_t, RankB>& shape_b) {
  auto a = random_tensor<T>(ctx, shape_a, 1);
  auto b = random_tensor<TB>(ctx, shape_b, 2);
  for (int64_t i = 0; i < b.size(); ++i) b.data[i] = narrow<TB>(1.5f + 0.2f * widen(b.data[i]));  // a divisor
  const auto a_s = on_device(device, a);
  const auto b_s = on_device(device, b);
  const auto shape = detail::broadcast_shape("test", shape_a, shape_b);
  auto d_y = random_tensor<T>(ctx, shape, 3);
  const auto d_y_s = on_device(device, d_y);
  for (const Arithmetic kind : kinds) {
    INFO(arithmetic_name(kind) << " " << to_string(shape_a) << " " << to_string(shape_b));
    Tensor<T, int(Rank)> y(ctx, shape), d_a(ctx, shape_a);
    Tensor<T, int(Rank), Device> y_s(device, shape), d_a_s(device, shape_a);
    Tensor<float, int(RankB)> d_b(ctx, shape_b);
    Tensor<float, int(RankB), Device> d_b_s(device, shape_b), d_b_alone(device, shape_b);
    arithmetic_forward(ctx, view(y), a, view(b), kind);
    arithmetic_forward(device, view(y_s), a_s, view(b_s), kind);
    CHECK(largest_difference(to_host(y_s), to_host(y)) < tolerance<T>);
    arithmetic_backward(ctx, view(d_a), view(d_b), view(d_y), a, view(b), kind);
    arithmetic_backward(device, view(d_a_s), view(d_b_s), view(d_y_s), a_s, view(b_s), kind);
    CHECK(largest_difference(to_host(d_a_s), to_host(d_a)) < tolerance<T>);
    CHECK(largest_difference(to_host(d_b_s), to_host(d_b)) < 2e-6);
    // an absent gradient is skipped, and the other has the same bits
    arithmetic_backward(device, TensorView<T, int(Rank), Device>{}, view(d_b_alone), view(d_y_s), a_s, view(b_s), kind);
    CHECK(to_host(d_b_alone) == to_host(d_b_s));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("elementwise: arithmetic with broadcasting agrees with Cpu", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const int64_t n : {1, 63, 64, 65, 127, 128, 129, 197})
    check_arithmetic<T, T>(ctx, device, Shape<2>{3, n}, Shape<2>{3, n});
  check_arithmetic<T, float>(ctx, device, Shape<3>{5, 7, 64}, Shape<1>{64});   // a bias
  check_arithmetic<T, T>(ctx, device, Shape<3>{6, 5, 65}, Shape<2>{5, 65});    // positions
  check_arithmetic<T, float>(ctx, device, Shape<2>{9, 129}, Shape<0>{});       // a scalar
  check_arithmetic<T, T>(ctx, device, Shape<3>{4, 1, 64}, Shape<3>{1, 5, 1});  // both repeated
  check_arithmetic<T, T>(ctx, device, Shape<4>{2, 3, 4, 8}, Shape<4>{2, 1, 4, 1});
  check_arithmetic<T, T>(ctx, device, Shape<2>{0, 64}, Shape<1>{64});       // nothing: d_b is zero
  check_arithmetic<T, float>(ctx, device, Shape<2>{3000, 8}, Shape<1>{8});  // sums of sums
}

TEST_CASE("elementwise: strided and misaligned views, in all orders", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  auto a = random_tensor<float>(ctx, Shape<3>{6, 9, 67}, 1);
  auto b = random_tensor<float>(ctx, Shape<2>{9, 67}, 2);
  const auto a_s = on_device(device, a);
  const auto b_s = on_device(device, b);
  const auto expected = add(ctx, a.slice(2, 1, 66).slice(0, 2, 5), b.slice(1, 2, 67));
  for (const auto order : all_orders) {
    const InOrder in_order(order);
    const auto y = add(device, a_s.slice(2, 1, 66).slice(0, 2, 5), b_s.slice(1, 2, 67));
    CHECK(to_host(y) == to_host(expected));
    CHECK(to_host(scale(device, a_s.select(1, 4), 0.5)) == to_host(scale(ctx, a.select(1, 4), 0.5)));
  }
  // rows of 64 that begin at multiples of 16 bytes are read in packs, though they do not touch
  auto wide = random_tensor<float>(ctx, Shape<2>{5, 80}, 3);
  const auto wide_s = on_device(device, wide);
  CHECK(to_host(scale(device, wide_s.slice(1, 8, 72), 3)) == to_host(scale(ctx, wide.slice(1, 8, 72), 3)));
  // y += x into a part of a larger tensor leaves the rest alone
  auto y_s = on_device(device, wide);
  auto y = copy(ctx, view(wide));
  add_into(ctx, y.slice(1, 3, 70), wide.slice(1, 0, 67));
  add_into(device, y_s.slice(1, 3, 70), wide_s.slice(1, 0, 67));
  CHECK(to_host(y_s) == to_host(y));
}

TEST_CASE("elementwise: what is too large for one launch goes into several", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const auto doubled_in_parts = [&](const TensorView<const float, 2>& x, auto axes_of) {
    const auto x_s = Tensor<float, 2, Device>::from_host(device, x.shape, x.data);
    Tensor<float, 2, Device> y(device, x.shape);
    auto axes = axes_of(y, x_s);
    axes.most_elements = 100;
    kernels::elementwise("test", device, kernels::Scale<float>{2.0f}, axes, y.data,
                         static_cast<const float*>(x_s.data));
    return to_host(y);
  };
  auto x = random_tensor<float>(ctx, Shape<2>{33, 67}, 1);
  const auto expected = to_host(scale(ctx, view(x), 2));
  CHECK(doubled_in_parts(x, [](const auto& y, const auto& from) {
          return kernels::StridedAxes<2>(y.shape, {y.strides, from.strides});
        }) == expected);
  // few long rows that do not touch: an outer axis of one is left, and the inner one is cut next
  auto rows = random_tensor<float>(ctx, Shape<2>{3, 200}, 2);
  std::vector<float> transposed(600);
  for (size_t i = 0; i < 600; ++i) transposed[i % 200 * 3 + i / 200] = 2 * rows.data[i];
  CHECK(doubled_in_parts(rows, [](const auto&, const auto& from) {
          return kernels::StridedAxes<2>(from.shape, {Shape<2>{1, 3}, from.strides});
        }) == transposed);
}

TEMPLATE_TEST_CASE("elementwise: functions and activations agree with Cpu", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const int64_t n : {1, 63, 64, 129, 1000}) {
    auto x = random_tensor<T>(ctx, Shape<1>{n}, 1, 3.0), d_y = random_tensor<T>(ctx, Shape<1>{n}, 2);
    auto positive = random_tensor<T>(ctx, Shape<1>{n}, 1);
    for (int64_t i = 0; i < n; ++i) positive.data[i] = narrow<T>(std::abs(widen(positive.data[i])) + 0.1f);
    const auto d_y_s = on_device(device, d_y);
    for (const Unary f : {Unary::exp, Unary::log, Unary::sigmoid, Unary::tanh, Unary::square_root}) {
      INFO("function " << int(f) << ", " << n << " elements");
      const auto& at = f == Unary::log || f == Unary::square_root ? positive : x;
      const auto at_s = on_device(device, at);
      Tensor<T, 1> y(ctx, {n}), d_x(ctx, {n});
      Tensor<T, 1, Device> y_s(device, {n}), d_x_s(device, {n});
      unary_forward(ctx, view(y), at, f);
      unary_backward(ctx, view(d_x), d_y, at, y, f);
      unary_forward(device, view(y_s), at_s, f);
      unary_backward(device, view(d_x_s), d_y_s, at_s, y_s, f);
      CHECK(largest_difference(to_host(y_s), to_host(y)) < tolerance<T>);
      CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) < 2 * tolerance<T>);
    }
    const auto x_s = on_device(device, x);
    for (const Activation kind :
         {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::quick_gelu}) {
      INFO(activation_name(kind) << ", " << n << " elements");
      Tensor<T, 1> y(ctx, {n}), d_x(ctx, {n});
      Tensor<T, 1, Device> y_s(device, {n}), d_x_s(device, {n});
      activation_forward(ctx, view(y), x, kind);
      activation_backward(ctx, view(d_x), d_y, x, kind);
      activation_forward(device, view(y_s), x_s, kind);
      activation_backward(device, view(d_x_s), d_y_s, x_s, kind);
      CHECK(largest_difference(to_host(y_s), to_host(y)) < tolerance<T>);
      CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) < tolerance<T>);
      activation_backward(device, view(d_y_s), d_y_s, x_s, Activation::none);  // d_x may be d_y
      CHECK(largest_difference(to_host(d_y_s), to_host(d_y)) == 0);
    }
  }
}

TEST_CASE("elementwise: activations at zero, far out, at infinity and at NaN", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const float infinity = std::numeric_limits<float>::infinity();
  const auto x = Tensor<float, 1>::from_host(ctx, {7}, {-1e30f, -200.0f, -70.0f, 70.0f, 1e30f, infinity, 0.0f});
  const auto ones = Tensor<float, 1>::from_host(ctx, {7}, std::vector<float>(7, 1.0f));
  const auto x_s = on_device(device, x), ones_s = on_device(device, ones);
  for (const Activation kind : {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::quick_gelu}) {
    INFO(activation_name(kind));
    Tensor<float, 1, Device> d_x(device, {7});
    activation_backward(device, view(d_x), ones_s, x_s, kind);
    CHECK(to_host(d_x) == std::vector<float>{0, 0, 0, 1, 1, 1, kind == Activation::relu ? 0.0f : 0.5f});
    const auto y = to_host(activation(device, x_s, kind));
    CHECK(std::abs(y[0]) == 0);
    CHECK(std::abs(y[1]) < 1e-30f);
    CHECK(y[3] == 70.0f);
    CHECK(y[5] == infinity);
    const auto nan = Tensor<float, 1, Device>::from_host(device, {1}, {std::nanf("")});
    CHECK(std::isnan(to_host(activation(device, nan, kind))[0]));
  }
}

TEST_CASE("elementwise: fills and moving averages agree with Cpu, of any length and alignment", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const int64_t n : {0, 1, 63, 129, 1001}) {
    const auto average = random_tensor<float>(ctx, Shape<1>{n}, 1);
    const auto x = random_tensor<bfloat16>(ctx, Shape<1>{n}, 2);
    const auto average_s = on_device(device, average);
    move_average(ctx, view(average), view(x), 0.75);
    move_average(device, view(average_s), view(on_device(device, x)), 0.75);
    CHECK(largest_difference(to_host(average_s), to_host(average)) < 1e-6);
    if (n > 1) fill(device, average_s.slice(0, 1, n), -2.5);
    auto expected = to_host(average_s);
    for (size_t i = 1; i < expected.size(); ++i) CHECK(expected[i] == -2.5f);
    if (n > 0) CHECK(std::abs(expected[0] - average(0)) < 1e-6);
  }
  Tensor<bfloat16, 2, Device> y(device, {3, 5});
  fill(device, view(y), 1.0);
  for (const bfloat16 value : to_host(y)) CHECK(widen(value) == 1.0f);
  REQUIRE_ERROR(fill(device, y.slice(1, 0, 3), 1.0), ShapeError, "contiguous");
}
