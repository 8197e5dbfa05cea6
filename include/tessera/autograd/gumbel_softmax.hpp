// Gumbel-softmax on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/gumbel_softmax.hpp>

namespace tessera {

/// The assignment of logits [..., G]. `gumbel` [..., G] is the noise where present, else options.noise draws it
/// (options.noise = tape.ctx.random.draw() in training). The chosen entries' numbers are written to `index` [...] where
/// present. The gradient is that of the soft assignment; none reaches the noise.
template <class T, int Rank, class Device>
Variable<T, Rank, Device> gumbel_softmax(Tape<Device>& tape, const Variable<T, Rank, Device>& logits,
                                         GumbelSoftmaxOptions options = {},
                                         In<accumulate_t<T>, Rank, Device> gumbel = {},
                                         Out<int32_t, Rank - 1, Device> index = {}) {
  const bool records = tape.records(logits);
  Variable<T, Rank, Device> assignment(Tensor<T, Rank, Device>(tape.ctx, logits.shape()), records);
  Tensor<T, Rank, Device> soft;  // without `hard` it is the assignment itself
  if (records) soft = options.hard ? Tensor<T, Rank, Device>(tape.ctx, logits.shape()) : assignment.value();
  gumbel_softmax_forward(tape.ctx, view(assignment.value()), soft, index, logits.value(), gumbel, options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_assignment = take_grad(assignment);
      if (!d_assignment) return;
      t.contribute(logits,
                   [&](auto d_logits) { gumbel_softmax_backward(t.ctx, view(d_logits), d_assignment, soft, options); });
    });
  return assignment;
}

}  // namespace tessera
