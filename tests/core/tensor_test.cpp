#include <tessera/core/tensor.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
Tensor<float, 3> counting(Context<Cpu>& ctx, const Shape<3>& shape) {
  Tensor<float, 3> t(ctx, shape);
  for (int64_t i = 0; i < t.size(); ++i) t.data[i] = float(i);
  return t;
}
}  // namespace

TEST_CASE("tensor: views select, slice and reshape without copying", "[core]") {
  Context<Cpu> ctx;
  const auto t = counting(ctx, {2, 3, 4});
  CHECK(t(1, 2, 3) == 23);
  CHECK(reinterpret_cast<uintptr_t>(t.data) % 64 == 0);
  const auto row = t.select(0, 1).select(0, 2);
  CHECK(to_host(row) == std::vector<float>{20, 21, 22, 23});
  CHECK(row.data == t.data + 20);
  const auto middle = t.select(1, 1);
  CHECK(middle.shape == Shape<2>{2, 4});
  CHECK(middle.strides == Shape<2>{12, 1});
  CHECK_FALSE(middle.is_contiguous());
  CHECK(middle(1, 2) == 18);
  const auto part = t.slice(1, 1, 3);
  CHECK((part.shape == Shape<3>{2, 2, 4} && part(1, 1, 0) == 20));
  CHECK(t.slice(0, 1, 2).is_contiguous());
  CHECK(t.reshape(Shape<2>{6, 4})(5, 0) == 20);
  CHECK(t.rows().shape == Shape<2>{6, 4});
  CHECK(t.flat().size() == 24);
  TensorView<const float, 3> reading = t;
  CHECK(reading.data == t.data);
}

TEST_CASE("tensor: axes of extent 1 and empty views are contiguous", "[core]") {
  Context<Cpu> ctx;
  const auto t = counting(ctx, {4, 1, 3});
  CHECK(t.slice(0, 1, 2).is_contiguous());
  const auto u = counting(ctx, {4, 8, 3});
  CHECK(u.slice(1, 2, 2).is_contiguous());
  CHECK(u.slice(1, 2, 2).flat().size() == 0);
  CHECK_FALSE(u.slice(1, 2, 3).is_contiguous());
  CHECK(Tensor<float, 2>(ctx, {0, 4}).rows().shape == Shape<2>{0, 4});
  CHECK(Tensor<float, 2>(ctx, {4, 0}).rows().shape == Shape<2>{0, 0});
}

TEST_CASE("tensor: errors of views name the axis and the numbers", "[core]") {
  Context<Cpu> ctx;
  const auto t = counting(ctx, {2, 3, 4});
  REQUIRE_ERROR(t.select(0, 2), ShapeError, "select: index 2 on axis 0 of [2, 3, 4]");
  REQUIRE_ERROR(t.select(0, -1), ShapeError, "select: index -1");
  REQUIRE_ERROR(t.select(2, 0), ShapeError, "on axis 2");
  REQUIRE_ERROR(t.slice(1, 2, 4), ShapeError, "slice: [2, 4) on axis 1 of [2, 3, 4]");
  REQUIRE_ERROR(t.slice(1, 2, 1), ShapeError, "slice: [2, 1)");
  REQUIRE_ERROR(t.slice(3, 0, 1), ShapeError, "axis 3");
  REQUIRE_ERROR(t.reshape(Shape<1>{23}), ShapeError, "reshape: [2, 3, 4] to [23]");
  REQUIRE_ERROR(t.reshape(Shape<2>{-4, -6}), ShapeError, "to [-4, -6]");
  REQUIRE_ERROR(t.select(1, 1).flat(), ShapeError, "(not contiguous)");
  REQUIRE_ERROR(to_host(t.select(1, 1)), ShapeError, "not contiguous");
  REQUIRE_ERROR(expect_contiguous("op", "x", t.select(1, 1)), ShapeError,
                "op: x [2, 4] is a view with strides [12, 1]; this operation needs it contiguous (copy it first)");
  REQUIRE_ERROR(expect_present("op", "x", (TensorView<float, 2>{})), ValueError, "op: x is absent");
}

TEST_CASE("tensor: sizes that are no sizes are refused", "[core]") {
  Context<Cpu> ctx;
  REQUIRE_ERROR((Tensor<float, 2>(ctx, {3, -1})), ShapeError, "negative extent in [3, -1]");
  REQUIRE_ERROR((Tensor<float, 2>(ctx, {int64_t(1) << 40, int64_t(1) << 40})), ShapeError, "more than memory can hold");
  REQUIRE_ERROR((Tensor<double, 3>(ctx, {int64_t(1) << 31, int64_t(1) << 31, 4})), ShapeError,
                "more than memory can hold");
  REQUIRE_ERROR((Tensor<float, 1>::from_host(ctx, {3}, {1, 2})), ShapeError, "2 values for shape [3]");
}

TEST_CASE("tensor: copies share memory, zeros and from_host fill it", "[core]") {
  auto ctx = nan_filled_context();
  auto t = Tensor<float, 2>::from_host(ctx, {2, 2}, {1, 2, 3, 4});
  auto same = t;
  same(0, 0) = 9;
  CHECK(t(0, 0) == 9);
  const auto flat = t.reshaped(Shape<1>{4});
  t = {};
  CHECK(flat(3) == 4);
  CHECK_FALSE(bool(t));
  CHECK(to_host(Tensor<float, 1>::zeros(ctx, {3})) == std::vector<float>{0, 0, 0});
  CHECK(std::isnan(Tensor<float, 1>(ctx, {3})(2)));
  Tensor<float, 0> scalar(ctx, {});
  scalar() = 5;
  CHECK(to_host(scalar) == std::vector<float>{5});
  CHECK(to_host(Tensor<float, 1>::from_host(ctx, {0}, std::vector<float>{})).empty());
}

TEST_CASE("tensor: AnyTensor gives its values under their own type only", "[core]") {
  const auto values = std::make_shared<std::vector<float>>(6, 2.0f);
  const AnyTensor any{Dtype::f32, {2, 3}, {values, values->data()}};
  CHECK((any.size() == 6 && any.bytes() == 24 && any.as<float>()[5] == 2.0f));
  REQUIRE_ERROR(any.as<double>(), ValueError, "holds F32, asked for as F64");
}
