// Rows chosen by number: an embedding table looked up by token ids, and one token of each sequence (CLIP's text feature
// is the one at the end-of-text token).
#pragma once
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct embedding;
struct gather_tokens;
}  // namespace op

/// out [..., C] = table [V, C] at ids [...]. Throws ValueError, naming position and value, for an id outside [0, V)
/// (where ids are in a device's memory, the kernel stops instead: Error at the next synchronisation), and ShapeError
/// where extents do not fit or a view is not contiguous.
template <class T, int Rank, class Device>
void embedding_forward(Context<Device>& ctx, TensorView<T, Rank, Device> out, In<T, 2, Device> table,
                       In<int32_t, Rank - 1, Device> ids) {
  constexpr auto name = "embedding";
  Shape<Rank> expected;
  std::copy(ids.shape.begin(), ids.shape.end(), expected.begin());
  expected[Rank - 1] = table.shape[1];
  expect_shape(name, "out", out.shape, expected, "", "ids and table");
  expect_contiguous(name, "out", out);
  expect_contiguous(name, "table", table);
  expect_contiguous(name, "ids", ids);
  Backend<op::embedding, Device>::template forward<T>(ctx, out.data, table, ids.flat());
}
/// d_table [V, C], all of it written: the sum of d_out's rows with each id, in the order of their positions, zero for
/// ids that do not occur.
template <class G, class Device, class TO, int Rank>
void embedding_backward(Context<Device>& ctx, TensorView<G, 2, Device> d_table,
                        const TensorView<TO, Rank, Device>& d_out, In<int32_t, Rank - 1, Device> ids) {
  constexpr auto name = "embedding";
  Shape<Rank> expected;
  std::copy(ids.shape.begin(), ids.shape.end(), expected.begin());
  expected[Rank - 1] = d_table.shape[1];
  expect_shape(name, "d_out", d_out.shape, expected, "", "ids and d_table");
  expect_contiguous(name, "d_table", d_table);
  expect_contiguous(name, "d_out", d_out);
  expect_contiguous(name, "ids", ids);
  Backend<op::embedding, Device>::backward(ctx, d_table, static_cast<const TO*>(d_out.data), ids.flat());
}

/// y [B, C] = x [B, N, C] at token index[b] of each sequence b. Throws ValueError for an index outside [0, N).
template <class T, class Device>
void gather_tokens_forward(Context<Device>& ctx, TensorView<T, 2, Device> y, In<T, 3, Device> x,
                           In<int32_t, 1, Device> index) {
  constexpr auto name = "gather_tokens";
  expect_shape(name, "index", index.shape, {x.shape[0]}, "B", "x");
  expect_shape(name, "y", y.shape, {x.shape[0], x.shape[2]}, "B C", "x");
  expect_contiguous(name, "y", y);
  Backend<op::gather_tokens, Device>::template forward<T>(ctx, y, x, index);
}
/// d_x [B, N, C] = d_y at the chosen tokens, zero at all others.
template <class T, class Device>
void gather_tokens_backward(Context<Device>& ctx, TensorView<T, 3, Device> d_x, In<T, 2, Device> d_y,
                            In<int32_t, 1, Device> index) {
  constexpr auto name = "gather_tokens";
  expect_shape(name, "index", index.shape, {d_x.shape[0]}, "B", "d_x");
  expect_shape(name, "d_y", d_y.shape, {d_x.shape[0], d_x.shape[2]}, "B C", "d_x");
  expect_contiguous(name, "d_x", d_x);
  Backend<op::gather_tokens, Device>::template backward<T>(ctx, d_x, d_y, index);
}

/// table's rows at ids, as a new tensor [..., C].
template <class T, class Device, int RankIds, class TI>
auto embedding(Context<Device>& ctx, const TensorView<T, 2, Device>& table,
               const TensorView<TI, RankIds, Device>& ids) {
  Shape<RankIds + 1> shape;
  std::copy(ids.shape.begin(), ids.shape.end(), shape.begin());
  shape[RankIds] = table.shape[1];
  Tensor<std::remove_const_t<T>, RankIds + 1, Device> out(ctx, shape);
  embedding_forward(ctx, view(out), table, ids);
  return out;
}
/// One token of each sequence, as a new tensor [B, C].
template <class T, class Device>
auto gather_tokens(Context<Device>& ctx, const TensorView<T, 3, Device>& x, In<int32_t, 1, Device> index) {
  Tensor<std::remove_const_t<T>, 2, Device> y(ctx, {x.shape[0], x.shape[2]});
  gather_tokens_forward(ctx, view(y), x, index);
  return y;
}

}  // namespace tessera

#include <tessera/cpu/embedding.hpp>
