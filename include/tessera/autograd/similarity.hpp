// L2 normalisation and cosine similarity on the tape.
#pragma once
#include <memory>

#include <tessera/autograd/tape.hpp>
#include <tessera/ops/similarity.hpp>

namespace tessera {

/// x / max(|x|, epsilon) over the last axis.
template <class T, int Rank, class Device>
Variable<T, Rank, Device> l2_normalise(Tape<Device>& tape, const Variable<T, Rank, Device>& x,
                                       L2NormaliseOptions options = {}) {
  const bool records = tape.records(x);
  Variable<T, Rank, Device> y(Tensor<T, Rank, Device>(tape.ctx, x.shape()), records);
  Tensor<accumulate_t<T>, 1, Device> norm;
  if (records) norm = {tape.ctx, {x.value().rows().shape[0]}};
  l2_normalise_forward(tape.ctx, view(y.value()), norm, x.value(), options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { l2_normalise_backward(t.ctx, view(d_x), d_y, norm, y.value(), options); });
    });
  return y;
}

/// Cosines of all pairs of rows: a [..., M, C], b [N, C], result [..., M, N].
template <class T, int Rank, class Device>
Variable<T, Rank, Device> cosine_similarity(Tape<Device>& tape, const Variable<T, Rank, Device>& a,
                                            const Variable<T, 2, Device>& b, L2NormaliseOptions options = {}) {
  const bool records = tape.records(a, b);
  auto shape = a.shape();
  shape[Rank - 1] = b.shape()[0];
  Variable<T, Rank, Device> y(Tensor<T, Rank, Device>(tape.ctx, shape), records);
  CosineSimilaritySaved<T, Rank, Device> saved(tape.ctx, a.shape(), b.shape());
  cosine_similarity_forward(tape.ctx, view(y.value()), saved, a.value(), b.value(), options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(a, [&](auto d_a) {
        t.contribute(b, [&](auto d_b) { cosine_similarity_backward(t.ctx, view(d_a), d_b, d_y, saved, options); });
      });
    });
  return y;
}

}  // namespace tessera
