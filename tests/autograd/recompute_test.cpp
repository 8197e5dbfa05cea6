// Recomputation: the same values, gradients and random numbers as without it.
#include <tessera/autograd/elementwise.hpp>
#include <tessera/autograd/matmul.hpp>
#include <tessera/autograd/recompute.hpp>

#include <support/catch.hpp>
#include <support/random.hpp>

using namespace tessera;
using namespace tessera_test;

namespace {

// x times random numbers, drawn when the operation runs: what dropout does.
Variable<double, 2> noisy(Tape<Cpu>& tape, const Variable<double, 2>& x) {
  const RandomStream random = tape.ctx.random.draw();
  Tensor<double, 2> factors(tape.ctx, x.shape());
  for (int64_t i = 0; i < factors.size(); ++i) factors.data[i] = double(random.uniform(uint64_t(i)));
  return multiply(tape, x, Variable<double, 2>(factors));
}

struct Found {
  std::vector<double> y, d_x, d_weight;
  uint32_t operations_forward = 0, operations_backward = 0;
  bool operator==(const Found&) const = default;
};

template <class Wrap>
Found run(Wrap wrap) {
  auto ctx = nan_filled_context();
  ctx.random.begin_step(3);
  const auto x = random_variable(ctx, Shape<2>{3, 4}, 1), weight = random_variable(ctx, Shape<2>{4, 4}, 2);
  const auto part = [&](Tape<Cpu>& tape, const Variable<double, 2>& v) {
    return noisy(tape, linear(tape, noisy(tape, v), weight));
  };
  Tape<Cpu> tape(ctx);
  auto y = wrap(tape, part, noisy(tape, x));
  y = wrap(tape, part, y);
  Found found;
  found.operations_forward = ctx.random.next_operation;
  tape.backward(y, random_tensor<double>(ctx, y.shape(), 5));
  found.operations_backward = ctx.random.next_operation;
  found.y = to_host(view(y.value()));
  found.d_x = to_host(view(x.grad()));
  found.d_weight = to_host(view(weight.grad()));
  return found;
}

const auto plain = [](Tape<Cpu>& tape, const auto& part, const auto& x) { return part(tape, x); };
const auto recomputed = [](Tape<Cpu>& tape, const auto& part, const auto& x) { return recompute(tape, part, x); };

}  // namespace

TEST_CASE("recompute: random operations draw the numbers of the first time", "[autograd]") {
  const Found usual = run(plain), again = run(recomputed);
  CHECK(usual.operations_forward == 5);
  CHECK(again.operations_backward == 5);  // the backward pass leaves the random state as it was
  CHECK(usual == again);
}

TEST_CASE("recompute: parts within parts", "[autograd]") {
  const auto nested = [](Tape<Cpu>& tape, const auto& part, const auto& x) {
    return recompute(
        tape, [part](Tape<Cpu>& t, const Variable<double, 2>& v) { return recompute(t, part, v); }, x);
  };
  CHECK(run(plain) == run(nested));
}

TEST_CASE("recompute: an input that is used elsewhere too gets both gradients", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{3, 4}, 1);
  const auto square = [](Tape<Cpu>& tape, const Variable<double, 2>& v) { return multiply(tape, v, v); };
  for (const bool before : {false, true}) {
    x.state().grad = {};
    Tape<Cpu> tape(ctx);
    Variable<double, 2> other, part;
    if (before) other = scale(tape, x, 3);
    part = recompute(tape, square, x);
    if (!before) other = scale(tape, x, 3);
    const auto y = add(tape, part, other);
    Tensor<double, 2> ones(ctx, y.shape());
    for (int64_t i = 0; i < 12; ++i) ones.data[i] = 1;
    tape.backward(y, ones);
    for (int64_t i = 0; i < 12; ++i) CHECK(x.grad().data[i] == Approx(2 * x.value().data[i] + 3).epsilon(1e-14));
  }
}

TEST_CASE("recompute: a part of no use to the loss, and a tape that does not record", "[autograd]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<2>{3, 4}, 1), weight = random_variable(ctx, Shape<2>{4, 4}, 2);
  int calls = 0;
  const auto part = [&](Tape<Cpu>& tape, const Variable<double, 2>& v) {
    ++calls;
    return linear(tape, v, weight);
  };
  Tape<Cpu> tape(ctx);
  const auto unused = recompute(tape, part, x);
  const auto y = scale(tape, x, 2);
  tape.backward(y, random_tensor<double>(ctx, y.shape(), 5));
  CHECK(calls == 1);  // not computed again for nothing
  CHECK_FALSE(weight.grad());
  Tape<Cpu> quiet(ctx, false);
  CHECK_FALSE(recompute(quiet, part, x).requires_grad());
  CHECK(calls == 2);
}
