// Pair compatibility on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/pair_compatibility.hpp>

namespace tessera {

/// phi [B, K] of patches [B, T, D] and texts [K, D]; gradients flow into both.
template <class T, class Device, class Weighting = SoftmaxWeights, class Score = CosineScore>
Variable<accumulate_t<T>, 2, Device> pair_compatibility(Tape<Device>& tape, const Variable<T, 3, Device>& patches,
                                                        const std::type_identity_t<Variable<T, 2, Device>>& texts,
                                                        PairCompatibilityOptions options = {}, Weighting weighting = {},
                                                        Score score = {}) {
  using A = accumulate_t<T>;
  const Shape<2> pairs{patches.shape()[0], texts.shape()[0]};
  const bool records = tape.records(patches, texts);
  Variable<A, 2, Device> phi(Tensor<A, 2, Device>(tape.ctx, pairs), records);
  pair_compatibility_forward(tape.ctx, view(phi.value()), view(patches.value()), texts.value(), options, weighting,
                             score);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_phi = take_grad(phi);
      if (!d_phi) return;
      t.contribute(patches, [&](auto d_patches) {
        t.contribute(texts, [&](auto d_texts) {
          pair_compatibility_backward(t.ctx, view(d_patches), d_texts, d_phi, phi.value(), patches.value(),
                                      texts.value(), options, weighting, score);
        });
      });
    });
  return phi;
}

}  // namespace tessera
