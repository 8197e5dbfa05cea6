// The masked mean squared error on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/masked_mse.hpp>

namespace tessera {

/// The loss [] of prediction and target [..., C], over the rows whose mask [...] is not 0; gradients flow into both.
/// `mask` holds its memory until the backward pass.
template <class T, int Rank, class Device>
Variable<accumulate_t<T>, 0, Device> masked_mse(Tape<Device>& tape, const Variable<T, Rank, Device>& prediction,
                                                const std::type_identity_t<Variable<T, Rank, Device>>& target,
                                                const std::type_identity_t<Tensor<uint8_t, Rank - 1, Device>>& mask) {
  using A = accumulate_t<T>;
  const bool records = tape.records(prediction, target);
  Variable<A, 0, Device> loss(Tensor<A, 0, Device>(tape.ctx, {}), records);
  Tensor<A, 0, Device> count;
  if (records) count = {tape.ctx, {}};
  masked_mse_forward(tape.ctx, loss.value(), count, view(prediction.value()), target.value(), mask);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_loss = take_grad(loss);
      if (!d_loss) return;
      t.contribute(prediction, [&](auto d_prediction) {
        t.contribute(target, [&](auto d_target) {
          masked_mse_backward(t.ctx, view(d_prediction), d_target, d_loss, count, prediction.value(), target.value(),
                              mask);
        });
      });
    });
  return loss;
}

}  // namespace tessera
