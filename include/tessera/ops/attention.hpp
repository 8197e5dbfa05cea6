// Scaled dot-product attention (Vaswani et al., 2017), all heads at once:
//
//     out[b,i,h] = sum_j softmax_j(scale * query[b,i,h] . key[b,j,h]) value[b,j,h]
//
// Axes: query and out [B, Nq, H, D], key and value [B, Nk, H, D], log_sum_exp [B, H, Nq] (of the scaled scores; saved
// for the backward pass, which recomputes the weights from it). No Nq x Nk matrix is held beyond a tile of 512 keys.
//
// Every view may have any strides on all axes but the last. The three views of one packed projection are therefore
// passed without copies: with qkv [B, N, 3, H, D], query is qkv.select(2, 0), key qkv.select(2, 1), value
// qkv.select(2, 2), and likewise d_query, d_key and d_value of one packed d_qkv.
//
// Masks: `causal` lets query i see the keys j <= i. key_lengths [B] (may be absent) lets the queries of item b see its
// first key_lengths[b] keys only. A query that sees no key at all gets out = 0 and log_sum_exp = -infinity, and its
// gradients are 0.
#pragma once
#include <cmath>
#include <optional>

#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct attention;
}

/// The scores' factor, and which keys a query sees.
struct AttentionOptions {
  std::optional<double> scale = {};  ///< factor of the scores; default 1 / sqrt(D)
  bool causal = false;               ///< query i sees keys j <= i only

  /// The factor for heads of that many channels.
  double scale_for(int64_t head_width) const { return scale ? *scale : 1.0 / std::sqrt(double(head_width)); }
};

namespace detail {
template <class QueryView, class KeyView, class ValueView, class LengthsView>
void expect_attention_inputs(std::string_view op, const QueryView& query, const KeyView& key, const ValueView& value,
                             const LengthsView& key_lengths) {
  expect_present(op, "query", query);
  require<ShapeError>(query.shape[3] > 0, op, ": query ", to_string(query.shape), " has heads of width 0");
  auto expected = query.shape;
  expected[1] = key.shape[1];
  expect_shape(op, "key", key.shape, expected, "B Nk H D", "query");
  expect_shape(op, "value", value.shape, key.shape, "B Nk H D", "key");
  if (key_lengths) expect_shape(op, "key_lengths", key_lengths.shape, {query.shape[0]}, "B", "query");
}
}  // namespace detail

/// out [B, Nq, H, D] and, where present, log_sum_exp [B, H, Nq] from query, key and value. out must not overlap the
/// inputs. Throws ShapeError where shapes disagree and, on Cpu, ValueError for a length outside [0, Nk].
template <class T, class Device>
void attention_forward(Context<Device>& ctx, TensorView<T, 4, Device> out, Out<accumulate_t<T>, 3, Device> log_sum_exp,
                       In<T, 4, Device> query, In<T, 4, Device> key, In<T, 4, Device> value,
                       In<int32_t, 1, Device> key_lengths = {}, AttentionOptions options = {}) {
  constexpr auto name = "attention_forward";
  detail::expect_attention_inputs(name, query, key, value, key_lengths);
  expect_shape(name, "out", out.shape, query.shape, "B Nq H D", "query");
  if (log_sum_exp) {
    expect_shape(name, "log_sum_exp", log_sum_exp.shape, {query.shape[0], query.shape[2], query.shape[1]}, "B H Nq",
                 "query");
    expect_contiguous(name, "log_sum_exp", log_sum_exp);
  }
  if (query.size() == 0) return;
  Backend<op::attention, Device>::template forward<T>(ctx, out, log_sum_exp, query, key, value, key_lengths, options);
}

/// d_query, d_key and d_value, each where present, from d_out and what the forward pass computed: out and log_sum_exp.
/// key_lengths and options as in the forward pass. Outputs must not overlap inputs or one another.
template <class T, class Device>
void attention_backward(Context<Device>& ctx, TensorView<T, 4, Device> d_query, Out<T, 4, Device> d_key,
                        Out<T, 4, Device> d_value, In<T, 4, Device> d_out, In<accumulate_t<T>, 3, Device> log_sum_exp,
                        In<T, 4, Device> out, In<T, 4, Device> query, In<T, 4, Device> key, In<T, 4, Device> value,
                        In<int32_t, 1, Device> key_lengths = {}, AttentionOptions options = {}) {
  constexpr auto name = "attention_backward";
  detail::expect_attention_inputs(name, query, key, value, key_lengths);
  expect_shape(name, "d_out", d_out.shape, query.shape, "B Nq H D", "query");
  expect_shape(name, "out", out.shape, query.shape, "B Nq H D", "query");
  expect_shape(name, "log_sum_exp", log_sum_exp.shape, {query.shape[0], query.shape[2], query.shape[1]}, "B H Nq",
               "query");
  expect_contiguous(name, "log_sum_exp", log_sum_exp);
  if (d_query) expect_shape(name, "d_query", d_query.shape, query.shape, "B Nq H D", "query");
  if (d_key) expect_shape(name, "d_key", d_key.shape, key.shape, "B Nk H D", "key");
  if (d_value) expect_shape(name, "d_value", d_value.shape, key.shape, "B Nk H D", "key");
  if (!d_query && !d_key && !d_value) return;
  Backend<op::attention, Device>::template backward<T>(ctx, d_query, d_key, d_value, d_out, log_sum_exp, out, query,
                                                       key, value, key_lengths, options);
}

/// The attended values as a new tensor [B, Nq, H, D].
template <class T, class Device>
auto attention(Context<Device>& ctx, const TensorView<T, 4, Device>& query, In<T, 4, Device> key,
               In<T, 4, Device> value, In<int32_t, 1, Device> key_lengths = {}, AttentionOptions options = {}) {
  Tensor<std::remove_const_t<T>, 4, Device> out(ctx, query.shape);
  attention_forward(ctx, view(out), {}, query, key, value, key_lengths, options);
  return out;
}

}  // namespace tessera

#include <tessera/cpu/attention.hpp>
