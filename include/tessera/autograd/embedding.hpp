// Rows chosen by number, on the tape. Ids and indices are tensors, not variables: they have no gradient.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/embedding.hpp>

namespace tessera {

/// table [V, C] (a parameter or an activation) at ids [...]: [..., C].
template <class T, class Device, class G, int RankIds>
Variable<T, RankIds + 1, Device> embedding(Tape<Device>& tape, const Variable<T, 2, Device, G>& table,
                                           const Tensor<int32_t, RankIds, Device>& ids) {
  const bool records = tape.records(table);
  Variable<T, RankIds + 1, Device> out(embedding(tape.ctx, table.value(), ids), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_out = take_grad(out);
      if (!d_out) return;
      t.contribute(table, [&](auto d_table) { embedding_backward(t.ctx, view(d_table), view(d_out), ids); });
    });
  return out;
}

/// Token index[b] of each sequence b of x [B, N, C]: [B, C].
template <class T, class Device>
Variable<T, 2, Device> gather_tokens(Tape<Device>& tape, const Variable<T, 3, Device>& x,
                                     const Tensor<int32_t, 1, Device>& index) {
  const bool records = tape.records(x);
  Variable<T, 2, Device> y(gather_tokens(tape.ctx, x.value(), index), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { gather_tokens_backward(t.ctx, view(d_x), d_y, index); });
    });
  return y;
}

}  // namespace tessera
