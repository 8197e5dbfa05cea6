// The symmetric Kullback-Leibler divergence on the tape. The loss is accumulate_t<T>; both arguments have gradients.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/symmetric_kl.hpp>

namespace tessera {

/// The loss of the logits p and q [..., C].
template <class T, int Rank, class Device>
Variable<accumulate_t<T>, 0, Device> symmetric_kl(Tape<Device>& tape, const Variable<T, Rank, Device>& p,
                                                  const Variable<T, Rank, Device>& q, SymmetricKlOptions options = {}) {
  using A = accumulate_t<T>;
  const bool records = tape.records(p, q);
  const int64_t classes = p.shape()[Rank - 1];
  Variable<A, 0, Device> loss(Tensor<A, 0, Device>(tape.ctx, {}), records);
  Tensor<A, 2, Device> statistics;
  if (records && classes > 0) statistics = {tape.ctx, {p.value().size() / classes, detail::symmetric_kl_statistics}};
  symmetric_kl_forward(tape.ctx, loss.value(), statistics, p.value(), q.value(), options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_loss = take_grad(loss);
      if (!d_loss) return;
      t.contribute(p, [&](auto d_p) {
        t.contribute(q, [&](auto d_q) {
          symmetric_kl_backward(t.ctx, view(d_p), d_q, d_loss, statistics, p.value(), q.value(), options);
        });
      });
    });
  return loss;
}

}  // namespace tessera
