#include <omp.h>

#include <tessera/autograd/elementwise.hpp>
#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/rearrange.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEMPLATE_TEST_CASE("rearrange: copies, permutes and concatenates at ragged sizes", "[ops][rearrange]", float, bfloat16,
                   int32_t) {
  using T = TestType;
  const auto value = [](T v) {
    if constexpr (std::is_same_v<T, int32_t>)
      return v;
    else
      return widen(v);
  };
  auto ctx = nan_filled_context();
  for (int64_t n : {1, 63, 65, 129}) {
    Tensor<T, 3> x(ctx, {3, 4, n});
    for (int64_t i = 0; i < x.size(); ++i)
      if constexpr (std::is_same_v<T, int32_t>)
        x.data[i] = int32_t(i);
      else
        x.data[i] = narrow<T>(float(i));
    const auto swapped = permute(ctx, x, {2, 0, 1});
    REQUIRE(swapped.shape == Shape<3>{n, 3, 4});
    const auto columns = copy(ctx, x.slice(2, n / 3, n));
    const auto joined = concatenate(ctx, 1, x.slice(1, 0, 1), x.slice(1, 2, 4), x);
    REQUIRE(joined.shape == Shape<3>{3, 7, n});
    bool right = true;
    for (int64_t i = 0; i < 3; ++i)
      for (int64_t k = 0; k < n; ++k) {
        for (int64_t j = 0; j < 4; ++j) {
          right = right && value(swapped(k, i, j)) == value(x(i, j, k));
          if (k >= n / 3) right = right && value(columns(i, j, k - n / 3)) == value(x(i, j, k));
          right = right && value(joined(i, 3 + j, k)) == value(x(i, j, k));
        }
        right = right && value(joined(i, 0, k)) == value(x(i, 0, k)) && value(joined(i, 2, k)) == value(x(i, 3, k));
      }
    CHECK(right);
  }
}

TEST_CASE("rearrange: broadcasting repeats, its gradient sums; slice_backward fills with zeros", "[ops][rearrange]") {
  auto ctx = nan_filled_context();
  auto token = random_tensor<float, 1>(ctx, {65}, 1);
  auto all = broadcast_to(ctx, token, Shape<3>{4, 1, 65});
  for (int64_t b = 0; b < 4; ++b) CHECK(to_host(all.select(0, b)) == to_host(token));
  Tensor<float, 1> d_token(ctx, {65});
  copy_backward(ctx, view(d_token), view(all));
  CHECK(largest_difference(view(d_token), view(scale(ctx, token, 4))) < 1e-6);

  auto d_y = random_tensor<float, 3>(ctx, {2, 3, 5}, 2);
  Tensor<float, 3> d_x(ctx, {2, 6, 5});
  slice_backward(ctx, view(d_x), d_y, 1, 2);
  CHECK(to_host(copy(ctx, d_x.slice(1, 2, 5))) == to_host(d_y));
  CHECK(to_host(copy(ctx, d_x.slice(1, 0, 2))) == std::vector<float>(20, 0.0f));
  CHECK(to_host(copy(ctx, d_x.slice(1, 5, 6))) == std::vector<float>(10, 0.0f));

  Tensor<float, 3> first(ctx, {2, 2, 5}), last(ctx, {2, 1, 5});
  concatenate_backward(ctx, {2, 3, 1}, view(d_x), 1, view(first), TensorView<float, 3>{}, view(last));
  CHECK(to_host(first) == std::vector<float>(20, 0.0f));
  CHECK(to_host(last) == std::vector<float>(10, 0.0f));

  Tensor<double, 3> wide(ctx, d_y.shape);  // copies convert
  copy_forward(ctx, view(wide), view(d_y));
  CHECK(largest_difference(view(wide), view(d_y)) == 0);
}

TEST_CASE("rearrange: gradients agree with finite differences", "[ops][rearrange]") {
  auto ctx = nan_filled_context();
  auto x = random_variable<3>(ctx, {2, 6, 5}, 1), y = random_variable<3>(ctx, {2, 1, 5}, 2);
  auto token = random_variable<1>(ctx, {5}, 3);
  const auto check = [&](auto&& f, const auto&... inputs) {
    const auto result = gradcheck(ctx, f, inputs...);
    INFO(result.message);
    CHECK(result);
  };
  check([](auto& tape, auto a) { return permute(tape, reshape(tape, a, Shape<4>{2, 3, 2, 5}), {2, 3, 0, 1}); }, x);
  check([](auto& tape, auto a) { return slice(tape, a, 1, 2, 5); }, x);
  check([](auto& tape, auto a, auto b) { return concatenate(tape, 1, b, a, b); }, x, y);
  check(
      [](auto& tape, auto a, auto b) {
        return concatenate(tape, 1, broadcast_to(tape, b, Shape<3>{2, 1, 5}), a);
      },
      x, token);
  check(
      [](auto& tape, auto a) {
        const auto [p, q, r] = split<3>(tape, a, 1);
        return multiply(tape, p, add(tape, r, p));  // q is not used: its part of the gradient is zero
      },
      x);
  check([](auto& tape, auto a) { return add(tape, slice(tape, a, 1, 0, 4), slice(tape, a, 1, 2, 6)); }, x);
  check(
      [](auto& tape, auto a) {
        return add(tape, reshape(tape, a, Shape<2>{12, 5}), reshape(tape, a, Shape<2>{12, 5}));
      },
      x);
}

TEMPLATE_TEST_CASE("rearrange: values and gradients are PyTorch's", "[ops][rearrange]", float, double) {
  Oracle<TestType> oracle("rearrange");
  const auto permuted = oracle.template input<4>("permute.x");
  const auto sliced = oracle.template input<3>("slice.x");
  const auto a = oracle.template input<3>("concatenate.a"), b = oracle.template input<3>("concatenate.b");
  const auto c = oracle.template input<3>("concatenate.c");
  const auto repeated = oracle.template input<2>("broadcast.x");
  oracle.check(
      "permute", {"x"},
      [](auto& tape, auto x) {
        return permute(tape, x, {2, 0, 3, 1});
      },
      permuted);
  oracle.check(
      "slice", {"x"}, [](auto& tape, auto x) { return slice(tape, x, 1, 1, 3); }, sliced);
  oracle.check(
      "concatenate", {"a", "b", "c"}, [](auto& tape, auto p, auto q, auto r) { return concatenate(tape, 1, p, q, r); },
      a, b, c);
  oracle.check(
      "broadcast", {"x"},
      [](auto& tape, auto x) {
        return broadcast_to(tape, x, Shape<3>{2, 4, 3});
      },
      repeated);
}

TEST_CASE("rearrange: a gradient handed on is never the caller's own tensor", "[ops][rearrange]") {
  auto ctx = nan_filled_context();
  auto x = random_variable<2>(ctx, {3, 4}, 1);
  auto cotangent = random_tensor<double, 2>(ctx, {3, 4}, 2);
  const auto before = to_host(cotangent);
  for (int pass = 0; pass < 2; ++pass) {  // the second adds to the first's gradient
    Tape<Cpu> tape(ctx);
    const auto y = reshape(tape, x, Shape<2>{3, 4});
    tape.backward(y, cotangent);
  }
  CHECK(to_host(cotangent) == before);
  CHECK(largest_difference(view(x.grad()), view(scale(ctx, cotangent, 2))) == 0);
}

TEST_CASE("rearrange: convert rounds values forward and gradients backward, and is nothing where types are equal",
          "[ops][rearrange]") {
  auto ctx = nan_filled_context();
  const Variable<bfloat16, 2> x(random_tensor<bfloat16>(ctx, Shape<2>{3, 5}, 1), true);
  const auto d_y = random_tensor<float>(ctx, Shape<2>{3, 5}, 2);
  Tape<Cpu> tape(ctx);
  const auto y = convert<float>(tape, x);
  for (int64_t i = 0; i < 15; ++i) CHECK(y.value().data[i] == widen(x.value().data[i]));
  tape.backward(y, d_y);
  for (int64_t i = 0; i < 15; ++i) CHECK(widen(x.grad().data[i]) == widen(narrow<bfloat16>(d_y.data[i])));
  CHECK(convert<float>(ctx, d_y).data == d_y.data);
  CHECK(convert<float>(tape, y).value().data == y.value().data);
}

TEST_CASE("rearrange: errors name the axis and the numbers; empty slices", "[ops][rearrange]") {
  auto ctx = nan_filled_context();
  auto x = random_tensor<float, 3>(ctx, {2, 6, 5}, 1);
  REQUIRE_ERROR(permute(ctx, x, {0, 1, 1}), ShapeError, "the axes name 1 twice");
  REQUIRE_ERROR(permute(ctx, x, {0, 1, 3}), ShapeError, "none of the 3 axes of x [2, 6, 5]");
  REQUIRE_ERROR(concatenate(ctx, 1, x, x.slice(0, 0, 1)), ShapeError, "axis 0 of a part [1, 6, 5] is 1 but must be 2");
  REQUIRE_ERROR(concatenate(ctx, 3, x), ShapeError, "there is no axis 3 in [2, 6, 5]");
  REQUIRE_ERROR(broadcast_to(ctx, x, Shape<3>{2, 6, 6}), ShapeError, "axis 2 of x [2, 6, 5] is 5 but must be 1 or 6");
  Tensor<float, 3> y(ctx, {2, 3, 4});
  REQUIRE_ERROR(slice_forward(ctx, view(y), x, 1, 0), ShapeError, "axis 2 of y [2, 3, 4] is 4 but must be 5");
  REQUIRE_ERROR(slice_forward(ctx, view(y), x, 1, 4), ShapeError, "slice: [4, 7) on axis 1 of [2, 6, 5]");
  Tape<Cpu> tape(ctx);
  REQUIRE_ERROR(split<4>(tape, Variable<float, 3>(x), 1), ShapeError, "is 6, which has no 4 equal parts");
  CHECK(copy(ctx, x.slice(1, 2, 2)).size() == 0);
  CHECK(to_host(concatenate(ctx, 1, x.slice(1, 2, 2), x)) == to_host(x));
}
