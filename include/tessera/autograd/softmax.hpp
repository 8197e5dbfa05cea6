// Softmax and log-softmax on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/softmax.hpp>

namespace tessera {

/// softmax(x) over the last axis.
template <class T, int Rank, class Device>
Variable<T, Rank, Device> softmax(Tape<Device>& tape, const Variable<T, Rank, Device>& x) {
  const bool records = tape.records(x);
  Variable<T, Rank, Device> y(softmax(tape.ctx, x.value()), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { softmax_backward(t.ctx, view(d_x), d_y, y.value()); });
    });
  return y;
}

/// log(softmax(x)) over the last axis.
template <class T, int Rank, class Device>
Variable<T, Rank, Device> log_softmax(Tape<Device>& tape, const Variable<T, Rank, Device>& x) {
  const bool records = tape.records(x);
  Variable<T, Rank, Device> y(log_softmax(tape.ctx, x.value()), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { log_softmax_backward(t.ctx, view(d_x), d_y, y.value()); });
    });
  return y;
}

}  // namespace tessera
