// Tokens of one segment become one row (pooling over superpixels or masks), and rows go back to their tokens.
//
// x [B, N, C] are tokens, segments [B, N] says which of the item's S segments a token belongs to, y [B, S, C] has a row
// for each segment: the sum, mean or maximum of its tokens, 0 where a segment has none. A token whose segment is
// negative belongs to none: it is not counted, and gets 0. segment_gather is the way back: every token takes its
// segment's row. Either one's gradient is the other. Tokens are added in ascending order.
#pragma once
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct segment_reduce;
}

/// How the tokens of a segment become one row.
enum class SegmentReduction : uint8_t { sum, mean, max };

/// y [B, S, C] from x [B, N, C], which may have strides, and segments [B, N], numbers below S. counts [B, S], the
/// tokens of each segment, and index [B, S, C], which token is the largest (the first of equals, -1 where there is
/// none; a NaN counts as largest; for max only), are written where present: the backward pass of mean needs counts,
/// that of max index. Throws ValueError, naming position and number, for a segment that is not below S (where segments
/// are in a device's memory, the kernel stops instead: Error at the next synchronisation), and ShapeError where extents
/// do not fit or a view that must be contiguous is not.
template <class T, class Device>
void segment_reduce_forward(Context<Device>& ctx, TensorView<T, 3, Device> y, Out<int32_t, 2, Device> counts,
                            Out<int32_t, 3, Device> index, In<T, 3, Device> x, In<int32_t, 2, Device> segments,
                            SegmentReduction kind) {
  constexpr auto name = "segment_reduce_forward";
  const int64_t items = x.shape[0], count = y.shape[1], channels = x.shape[2];
  expect_shape(name, "segments", segments.shape, {items, x.shape[1]}, "B N", "x");
  expect_shape(name, "y", y.shape, {items, count, channels}, "B S C", "x");
  if (counts) expect_shape(name, "counts", counts.shape, {items, count}, "B S", "y");
  require(!index || kind == SegmentReduction::max, name, ": index is for the maximum only; leave it absent");
  if (index) expect_shape(name, "index", index.shape, y.shape, "B S C", "y");
  expect_contiguous(name, "segments", segments);
  expect_contiguous(name, "y", y);
  expect_contiguous(name, "counts", counts);
  expect_contiguous(name, "index", index);
  Backend<op::segment_reduce, Device>::template forward<T>(ctx, y, counts, index, x, segments, kind);
}

/// d_x [B, N, C] = d_y [B, S, C] at each token's segment; for mean divided by the segment's count, for max only at the
/// token that was the largest, elsewhere 0.
template <class T, class Device>
void segment_reduce_backward(Context<Device>& ctx, TensorView<T, 3, Device> d_x, In<T, 3, Device> d_y,
                             In<int32_t, 2, Device> counts, In<int32_t, 3, Device> index,
                             In<int32_t, 2, Device> segments, SegmentReduction kind) {
  constexpr auto name = "segment_reduce_backward";
  const int64_t items = d_x.shape[0], count = d_y.shape[1], channels = d_x.shape[2];
  expect_shape(name, "segments", segments.shape, {items, d_x.shape[1]}, "B N", "d_x");
  expect_shape(name, "d_y", d_y.shape, {items, count, channels}, "B S C", "d_x");
  if (kind == SegmentReduction::mean) {
    expect_present(name, "counts", counts);
    expect_shape(name, "counts", counts.shape, {items, count}, "B S", "d_y");
  }
  if (kind == SegmentReduction::max) {
    expect_present(name, "index", index);
    expect_shape(name, "index", index.shape, d_y.shape, "B S C", "d_y");
  }
  expect_contiguous(name, "segments", segments);
  expect_contiguous(name, "d_x", d_x);
  expect_contiguous(name, "d_y", d_y);
  expect_contiguous(name, "counts", counts);
  expect_contiguous(name, "index", index);
  Backend<op::segment_reduce, Device>::template gather<T>(ctx, d_x, d_y, counts, index, segments, kind);
}

/// x [B, N, C] = y [B, S, C] at each token's segment, 0 where it is negative. Errors as above.
template <class T, class Device>
void segment_gather_forward(Context<Device>& ctx, TensorView<T, 3, Device> x, In<T, 3, Device> y,
                            In<int32_t, 2, Device> segments) {
  constexpr auto name = "segment_gather_forward";
  expect_shape(name, "segments", segments.shape, {x.shape[0], x.shape[1]}, "B N", "x");
  expect_shape(name, "y", y.shape, {x.shape[0], y.shape[1], x.shape[2]}, "B S C", "x");
  expect_contiguous(name, "segments", segments);
  expect_contiguous(name, "x", x);
  expect_contiguous(name, "y", y);
  Backend<op::segment_reduce, Device>::template gather<T>(ctx, x, y, {}, {}, segments, SegmentReduction::sum);
}
/// d_y [B, S, C]: the sum of d_x [B, N, C], which may have strides, over each segment's tokens.
template <class T, class Device>
void segment_gather_backward(Context<Device>& ctx, TensorView<T, 3, Device> d_y, In<T, 3, Device> d_x,
                             In<int32_t, 2, Device> segments) {
  constexpr auto name = "segment_gather_backward";
  expect_shape(name, "segments", segments.shape, {d_x.shape[0], d_x.shape[1]}, "B N", "d_x");
  expect_shape(name, "d_y", d_y.shape, {d_x.shape[0], d_y.shape[1], d_x.shape[2]}, "B S C", "d_x");
  expect_contiguous(name, "segments", segments);
  expect_contiguous(name, "d_y", d_y);
  Backend<op::segment_reduce, Device>::template forward<T>(ctx, d_y, {}, {}, d_x, segments, SegmentReduction::sum);
}

/// A row for each of `count` segments of every item, as a new tensor [B, count, C].
template <class T, class Device>
auto segment_reduce(Context<Device>& ctx, const TensorView<T, 3, Device>& x, In<int32_t, 2, Device> segments,
                    int64_t count, SegmentReduction kind) {
  Tensor<std::remove_const_t<T>, 3, Device> y(ctx, {x.shape[0], count, x.shape[2]});
  segment_reduce_forward(ctx, view(y), {}, {}, x, segments, kind);
  return y;
}
/// Every token's segment's row, as a new tensor [B, N, C].
template <class T, class Device>
auto segment_gather(Context<Device>& ctx, const TensorView<T, 3, Device>& y, In<int32_t, 2, Device> segments) {
  Tensor<std::remove_const_t<T>, 3, Device> x(ctx, {segments.shape[0], segments.shape[1], y.shape[2]});
  segment_gather_forward(ctx, view(x), y, segments);
  return x;
}

}  // namespace tessera

#include <tessera/cpu/segment_reduce.hpp>
