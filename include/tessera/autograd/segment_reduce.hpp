// Pooling over segments, and rows gathered back, on the tape. Segments are a tensor, not a variable: they have no
// gradient.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/segment_reduce.hpp>

namespace tessera {

/// The sum, mean or maximum of the tokens x [B, N, C] of each of `count` segments: [B, count, C], 0 for segments
/// without tokens. Of equal largest values the first gets the gradient.
template <class T, class Device>
Variable<T, 3, Device> segment_reduce(Tape<Device>& tape, const Variable<T, 3, Device>& x,
                                      const Tensor<int32_t, 2, Device>& segments, int64_t count,
                                      SegmentReduction kind) {
  const bool records = tape.records(x);
  const Shape<3> shape{x.shape()[0], count, x.shape()[2]};
  Variable<T, 3, Device> y(Tensor<T, 3, Device>(tape.ctx, shape), records);
  Tensor<int32_t, 2, Device> counts;
  Tensor<int32_t, 3, Device> index;
  if (records && kind == SegmentReduction::mean) counts = {tape.ctx, {shape[0], count}};
  if (records && kind == SegmentReduction::max) index = {tape.ctx, shape};
  segment_reduce_forward(tape.ctx, view(y.value()), counts, index, x.value(), segments, kind);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { segment_reduce_backward(t.ctx, view(d_x), d_y, counts, index, segments, kind); });
    });
  return y;
}

/// Every token's segment's row of y [B, S, C]: [B, N, C], 0 where segments [B, N] is negative.
template <class T, class Device>
Variable<T, 3, Device> segment_gather(Tape<Device>& tape, const Variable<T, 3, Device>& y,
                                      const Tensor<int32_t, 2, Device>& segments) {
  const bool records = tape.records(y);
  Variable<T, 3, Device> x(segment_gather(tape.ctx, y.value(), segments), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_x = take_grad(x);
      if (!d_x) return;
      t.contribute(y, [&](auto d_y) { segment_gather_backward(t.ctx, view(d_y), d_x, segments); });
    });
  return x;
}

}  // namespace tessera
