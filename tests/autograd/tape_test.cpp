// The tape: where gradients arrive, where none do, and what is an error.
#include <tessera/autograd/elementwise.hpp>
#include <tessera/autograd/layernorm.hpp>
#include <tessera/autograd/matmul.hpp>
#include <tessera/autograd/rearrange.hpp>
#include <tessera/autograd/reduce.hpp>

#include <support/catch.hpp>
#include <support/random.hpp>

using namespace tessera;
using namespace tessera_test;

namespace {

// sum of all elements: a loss whose gradient is one everywhere.
template <class T, int Rank>
void backward_of_ones(Tape<Cpu>& tape, const Variable<T, Rank>& y) {
  Tensor<T, Rank> ones(tape.ctx, y.shape());
  for (int64_t i = 0; i < ones.size(); ++i) ones.data[i] = narrow<T>(1.0f);
  tape.backward(y, std::move(ones));
}

}  // namespace

TEST_CASE("tape: a variable used several times gets the sum of its gradients", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{3, 4}, 1);
  Tape<Cpu> tape(ctx);
  const auto square = multiply(tape, x, x);                         // both arguments are x
  const auto y = add(tape, add(tape, square, x), add(tape, x, x));  // x² + 3 x
  backward_of_ones(tape, y);
  for (int64_t i = 0; i < 12; ++i) CHECK(x.grad().data[i] == Approx(2 * x.value().data[i] + 3).epsilon(1e-14));
}

TEST_CASE("tape: a result used several times, also under another shape, passes on the sum", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{3, 4}, 1);
  Tape<Cpu> tape(ctx);
  const auto y = scale(tape, x, 2);
  const auto flat = reshape(tape, y, Shape<1>{12}), again = reshape(tape, y, Shape<1>{12});
  const auto loss = add(tape, multiply(tape, flat, again), reshape(tape, y, Shape<1>{12}));  // 4 x² + 2 x
  backward_of_ones(tape, loss);
  for (int64_t i = 0; i < 12; ++i) CHECK(x.grad().data[i] == Approx(8 * x.value().data[i] + 2).epsilon(1e-14));
}

TEST_CASE("tape: gradients of two variables never share memory", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto a = random_variable(ctx, Shape<2>{3, 4}, 1), b = random_variable(ctx, Shape<2>{3, 4}, 2);
  Tape<Cpu> tape(ctx);
  const auto y = add(tape, a, b);  // both gradients are d_y
  tape.backward(y, random_tensor<double>(ctx, Shape<2>{3, 4}, 3));
  CHECK(a.grad().data != b.grad().data);
  CHECK(to_host(view(a.grad())) == to_host(view(b.grad())));
  // a cotangent that the caller keeps is neither handed out nor written to
  const auto kept = random_tensor<double>(ctx, Shape<2>{3, 4}, 4);
  const auto before = to_host(view(kept));
  const auto c = random_variable(ctx, Shape<2>{3, 4}, 5);
  for (int pass = 0; pass < 2; ++pass) {
    Tape<Cpu> another(ctx);
    const auto z = add(another, c, b);
    another.backward(z, kept);
  }
  CHECK(c.grad().data != kept.data);
  CHECK(to_host(view(kept)) == before);
  for (int64_t i = 0; i < 12; ++i) CHECK(c.grad().data[i] == Approx(2 * before[size_t(i)]).epsilon(1e-14));
}

TEST_CASE("tape: no gradient where none is asked for, or where the loss does not reach", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{3, 4}, 1), unused = random_variable(ctx, Shape<2>{3, 4}, 2);
  const Variable<double, 2> constant(random_tensor<double>(ctx, Shape<2>{3, 4}, 3));
  const auto frozen = Variable<double, 2>(random_tensor<double>(ctx, Shape<2>{5, 4}, 4), false);
  const auto weight = random_variable(ctx, Shape<2>{5, 4}, 4);
  Tape<Cpu> tape(ctx);
  const auto dropped = linear(tape, unused, weight);  // recorded, and not part of the loss
  const auto y = linear(tape, multiply(tape, x, constant), frozen);
  backward_of_ones(tape, y);
  CHECK(x.grad());
  CHECK_FALSE(constant.grad());
  CHECK_FALSE(frozen.grad());
  CHECK_FALSE(unused.grad());
  CHECK_FALSE(weight.grad());
  CHECK_FALSE(dropped.grad());
}

TEST_CASE("tape: without recording, and without anything to train, nothing is kept", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{3, 4}, 1);
  Tape<Cpu> quiet(ctx, false);
  CHECK_FALSE(scale(quiet, x, 2).requires_grad());
  CHECK_FALSE(quiet.recording());
  Tape<Cpu> tape(ctx);
  const auto y = scale(tape, Variable<double, 2>(x.value()), 2);
  CHECK_FALSE(y.requires_grad());
  REQUIRE_ERROR(backward_of_ones(tape, y), ValueError, "depends on no variable that requires a gradient");
}

TEST_CASE("tape: gradients of several passes add up until they are cleared", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{3, 4}, 1);
  for (int pass = 1; pass <= 3; ++pass) {
    Tape<Cpu> tape(ctx);
    backward_of_ones(tape, scale(tape, x, 2));
    CHECK(x.grad().data[7] == 2 * pass);
  }
  x.state().grad = {};
  Tape<Cpu> tape(ctx);
  backward_of_ones(tape, scale(tape, x, 5));
  CHECK(x.grad().data[7] == 5);
}

TEST_CASE("tape: the record serves one backward pass; then it can record again", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{3, 4}, 1);
  Tape<Cpu> tape(ctx);
  const auto shared = scale(tape, x, 2);
  const auto first = scale(tape, shared, 3), second = scale(tape, shared, 5);
  backward_of_ones(tape, first);
  CHECK(x.grad().data[0] == 6);
  REQUIRE_ERROR(backward_of_ones(tape, second), ValueError, "used up by the backward pass before");
  REQUIRE_ERROR(backward_of_ones(tape, first), ValueError, "used up");
  CHECK(x.grad().data[0] == 6);
  backward_of_ones(tape, scale(tape, x, 10));
  CHECK(x.grad().data[0] == 16);
}

TEST_CASE("tape: a cotangent of another shape is refused", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{3, 4}, 1);
  Tape<Cpu> tape(ctx);
  const auto y = scale(tape, x, 2);
  REQUIRE_ERROR(tape.backward(y, random_tensor<double>(ctx, Shape<2>{4, 3}, 1)), ShapeError, "d_out");
}

TEST_CASE("tape: activations and their gradients are freed as the backward pass goes", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{64, 64}, 1);
  const size_t before = ctx.pool->bytes_in_use(), one = 64 * 64 * sizeof(double);
  {
    Tape<Cpu> tape(ctx);
    auto y = x;
    for (int layer = 0; layer < 10; ++layer) y = multiply(tape, y, x);
    CHECK(ctx.pool->bytes_in_use() >= before + 10 * one);
    const auto last = std::exchange(y, {});
    ctx.pool->reset_peak();
    backward_of_ones(tape, last);
    CHECK(ctx.pool->bytes_in_use() <= before + 2 * one);  // x's gradient, and `last`
  }
  CHECK(ctx.pool->bytes_in_use() == before + one);
}

TEST_CASE("tape: a bfloat16 parameter's gradient is summed in float", "[autograd]") {
  auto ctx = nan_filled_context();
  const Parameter<bfloat16, 2> weight(random_tensor<bfloat16>(ctx, Shape<2>{1, 1}, 1), true);
  static_assert(std::is_same_v<decltype(weight.grad().data), float*>);
  const auto one = narrow<bfloat16>(1.0f), small = narrow<bfloat16>(1.0f / 1024);
  Tape<Cpu> tape(ctx);
  const Variable<bfloat16, 2> large_input(Tensor<bfloat16, 2>::from_host(ctx, {1, 1}, &one));
  const Variable<bfloat16, 2> small_input(Tensor<bfloat16, 2>::from_host(ctx, {1, 1}, &small));
  auto y = linear(tape, large_input, weight);
  for (int i = 0; i < 3; ++i) y = add(tape, y, linear(tape, small_input, weight));
  backward_of_ones(tape, y);
  CHECK(weight.grad().data[0] == 1 + 3.0f / 1024);  // bfloat16 has no such number
}

TEST_CASE("tape: slices add into parts of one gradient", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{4, 3}, 1);
  Tape<Cpu> tape(ctx);
  const auto top = slice(tape, x, 0, 0, 2), middle = slice(tape, x, 0, 1, 3);
  backward_of_ones(tape, add(tape, top, scale(tape, middle, 10)));
  const double expected[] = {1, 11, 10, 0};  // the last row is never reached
  for (int64_t r = 0; r < 4; ++r)
    for (int64_t c = 0; c < 3; ++c) CHECK(x.grad()(r, c) == expected[r]);
}
