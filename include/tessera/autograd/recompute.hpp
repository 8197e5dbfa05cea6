// Activation recomputation (Chen et al., "Training deep nets with sublinear memory cost", 2016): keep a part's input,
// compute the part again in the backward pass.
#pragma once
#include <tessera/autograd/tape.hpp>

namespace tessera {

/// y = f(tape, x) without keeping f's activations. f is called again in the backward pass, with the random state that
/// it saw the first time, and computes the same bits; parameters inside f are shared handles and receive their
/// gradients as usual.
template <class F, class T, int Rank, class Device>
auto recompute(Tape<Device>& tape, F f, const Variable<T, Rank, Device>& x) {
  const RandomState random = tape.ctx.random;
  // A record that is dropped at once: without one, matrix products fuse activations, which differ in the last bit.
  const auto first_time = [&] {
    Tape<Device> dropped(tape.ctx, tape.recording());
    return f(dropped, x);
  };
  auto y = first_time();
  if (!y.requires_grad()) return y;
  tape.record([=](Tape<Device>& t) {
    auto d_y = take_grad(y);
    if (!d_y) return;
    const RandomState now = t.ctx.random;
    t.ctx.random = random;
    Tape<Device> inner(t.ctx);
    Variable<T, Rank, Device> input(x.value(), x.requires_grad());
    const auto again = f(inner, input);
    t.ctx.random = now;
    if (again.requires_grad()) inner.backward(again, std::move(d_y));
    // No gradient may arrive at the input: then x receives no contribution.
    if (x.requires_grad() && input.grad()) {
      if (!x.state().grad)
        x.state().grad = input.state().grad;
      else
        add_into(t.ctx, view(x.state().grad), input.grad());
    }
  });
  return y;
}

}  // namespace tessera
