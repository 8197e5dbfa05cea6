// Resampling of maps and of positional embeddings on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/interpolate.hpp>

namespace tessera {

/// x [B, C, H, W] resampled to [B, C, h, w], `size` = {h, w}.
template <class T, class Device>
Variable<T, 4, Device> interpolate(Tape<Device>& tape, const Variable<T, 4, Device>& x, Shape<2> size,
                                   InterpolateOptions options = {}) {
  const bool records = tape.records(x);
  Variable<T, 4, Device> y(interpolate(tape.ctx, x.value(), size, options), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { interpolate_backward(t.ctx, view(d_x), d_y, options); });
    });
  return y;
}

/// Channels last: x [B, H, W, C] resampled to [B, h, w, C].
template <class T, class Device>
Variable<T, 4, Device> interpolate_tokens(Tape<Device>& tape, const Variable<T, 4, Device>& x, Shape<2> size,
                                          InterpolateOptions options = {}) {
  const bool records = tape.records(x);
  Variable<T, 4, Device> y(interpolate_tokens(tape.ctx, x.value(), size, options), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { interpolate_tokens_backward(t.ctx, view(d_x), d_y, options); });
    });
  return y;
}

/// A table of positions [1 + H W, C] resampled to the grid's patches: [1 + h w, C].
template <class T, class Device, class G>
Variable<T, 2, Device> resize_positional_embedding(Tape<Device>& tape, const Variable<T, 2, Device, G>& table,
                                                   PositionalGrid grid) {
  const bool records = tape.records(table);
  Variable<T, 2, Device> positions(resize_positional_embedding(tape.ctx, table.value(), grid), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_positions = take_grad(positions);
      if (!d_positions) return;
      t.contribute(table, [&](auto d_table) {
        resize_positional_embedding_backward(t.ctx, view(d_table), view(d_positions), grid);
      });
    });
  return positions;
}

}  // namespace tessera
