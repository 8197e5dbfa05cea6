// gradcheck finds wrong gradients: operations that are wrong on purpose must fail it.
#include <tessera/autograd/elementwise.hpp>
#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/matmul.hpp>

#include <functional>

#include <support/catch.hpp>
#include <support/random.hpp>

using namespace tessera;
using namespace tessera_test;

namespace {

// y = x², whose recorded gradient is what `gradient(i, x)` says.
auto square_with(std::function<double(int64_t, double)> gradient) {
  return [gradient](Tape<Cpu>& tape, const Variable<double, 2>& x) {
    Variable<double, 2> y(Tensor<double, 2>(tape.ctx, x.shape()), tape.records(x));
    for (int64_t i = 0; i < x.value().size(); ++i) y.state().value.data[i] = x.value().data[i] * x.value().data[i];
    if (tape.records(x))
      tape.record([=](Tape<Cpu>& t) {
        const auto d_y = take_grad(y);
        t.contribute(x, [&](auto d_x) {
          for (int64_t i = 0; i < x.value().size(); ++i) d_x.data[i] = d_y.data[i] * gradient(i, x.value().data[i]);
        });
      });
    return y;
  };
}

}  // namespace

TEST_CASE("gradcheck: a right gradient passes and the inputs are as before", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{5, 7}, 1);
  const auto before = to_host(view(x.value()));
  const auto result = gradcheck(ctx, square_with([](int64_t, double v) { return 2 * v; }), x);
  CHECK(result);
  CHECK(result.worst <= 1);
  CHECK(result.message.empty());
  CHECK(to_host(view(x.value())) == before);
}

TEST_CASE("gradcheck: wrong gradients fail", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{5, 7}, 1);
  const auto fails = [&](std::function<double(int64_t, double)> gradient) {
    const auto result = gradcheck(ctx, square_with(std::move(gradient)), x);
    CHECK(result.passed == result.message.empty());
    return !result;
  };
  CHECK(fails([](int64_t, double v) { return 3 * v; }));
  CHECK(fails([](int64_t, double v) { return -2 * v; }));
  CHECK(fails([](int64_t, double v) { return 2 * v * 1.00001; }));  // by a hundredth of a thousandth
  CHECK(fails([](int64_t, double) { return 0.0; }));
  CHECK(fails([](int64_t i, double v) { return i == 33 ? 0 : 2 * v; }));  // one element of 35
  CHECK(fails([](int64_t, double) { return std::nan(""); }));
  CHECK(fails([](int64_t i, double v) { return i == 0 ? INFINITY : 2 * v; }));
}

TEST_CASE("gradcheck: a gradient that never arrives fails, and the message names the element", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{5, 7}, 1), y = random_variable(ctx, Shape<2>{5, 7}, 2);
  const auto forgets = [](Tape<Cpu>& tape, const auto& a, const auto& b) {
    return add(tape, a, Variable<double, 2>(scale(tape, b, 2).value()));  // b's record is cut
  };
  const auto result = gradcheck(ctx, forgets, x, y);
  CHECK_FALSE(result);
  CHECK_THAT(result.message, contains("input 2, element 0 of [5, 7]: analytic 0"));
}

TEST_CASE("gradcheck: inputs that require no gradient are not checked", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{5, 7}, 1);
  const Variable<double, 2> constant(random_tensor<double>(ctx, Shape<2>{5, 7}, 2));
  const auto f = [](Tape<Cpu>& tape, const auto& a, const auto& b) { return multiply(tape, a, b); };
  CHECK(gradcheck(ctx, f, x, constant));
  CHECK_FALSE(constant.grad());
}

TEST_CASE("gradcheck: large inputs are sampled in rows and columns alike", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{40, 50}, 1);
  // wrong in one column of fifty: 200 draws meet it with probability 98 %, and this seed does
  const auto wrong = square_with([](int64_t i, double v) { return i % 50 == 13 ? 0 : 2 * v; });
  CHECK_FALSE(gradcheck(ctx, wrong, x));
  CHECK(gradcheck(ctx, {.most_elements = 3}, square_with([](int64_t, double v) { return 2 * v; }), x));
}

TEST_CASE("gradcheck: random operations draw the same numbers every time", "[autograd]") {
  auto ctx = nan_filled_context();
  ctx.random.begin_step(7);
  const auto x = random_variable(ctx, Shape<2>{5, 7}, 1);
  const auto noisy = [](Tape<Cpu>& tape, const Variable<double, 2>& v) {
    const RandomStream random = tape.ctx.random.draw();
    Tensor<double, 2> factors(tape.ctx, v.shape());
    for (int64_t i = 0; i < factors.size(); ++i) factors.data[i] = double(random.uniform(uint64_t(i)));
    return multiply(tape, v, Variable<double, 2>(factors));
  };
  CHECK(gradcheck(ctx, noisy, x));
  CHECK(ctx.random.next_operation == 0);
}
