// Attention on the tape: from a packed projection (self-attention), from queries and a packed projection of other
// tokens (cross-attention), or from separate queries, keys and values.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/attention.hpp>

namespace tessera {
namespace detail {
/// [B, N, H * D] as [B, N, H, D].
template <class T, class Device>
TensorView<T, 4, Device> split_heads(const TensorView<T, 3, Device>& x, int64_t heads) {
  if (!x) return {};
  return x.reshape(Shape<4>{x.shape[0], x.shape[1], heads, x.shape[2] / heads});
}
/// [B, N, parts * H * D] as [B, N, parts, H, D]: the parts of a token (query, key and value; key and value) lie side by
/// side.
template <class T, class Device>
TensorView<T, 5, Device> split_packed_heads(const TensorView<T, 3, Device>& x, int64_t parts, int64_t heads) {
  if (!x) return {};
  return x.reshape(Shape<5>{x.shape[0], x.shape[1], parts, heads, x.shape[2] / (parts * heads)});
}
/// Part `index` of such a view, which may be absent: [B, N, H, D].
template <class T, class Device>
TensorView<T, 4, Device> packed_part(const TensorView<T, 5, Device>& packed, int64_t index) {
  if (!packed) return {};
  return packed.select(2, index);
}
}  // namespace detail

/// Self-attention from one packed projection qkv [B, N, 3 * H * D] (the output of a linear layer whose weight stacks
/// those of query, key and value): [B, N, H * D]. key_lengths [B] may be absent.
template <class T, class Device>
Variable<T, 3, Device> self_attention(Tape<Device>& tape, const Variable<T, 3, Device>& qkv, int64_t heads,
                                      AttentionOptions options = {},
                                      const std::type_identity_t<Tensor<int32_t, 1, Device>>& key_lengths = {}) {
  using A = accumulate_t<T>;
  const auto [items, tokens, packed] = qkv.shape();
  require<ShapeError>(heads > 0 && packed % (3 * heads) == 0, "self_attention: axis C of qkv ", to_string(qkv.shape()),
                      " is not a multiple of 3 * ", heads, " heads");
  const bool records = tape.records(qkv);
  Variable<T, 3, Device> out(Tensor<T, 3, Device>(tape.ctx, {items, tokens, packed / 3}), records);
  Tensor<A, 3, Device> log_sum_exp;
  if (records) log_sum_exp = {tape.ctx, {items, heads, tokens}};
  const auto split = detail::split_packed_heads(view(qkv.value()), 3, heads);
  attention_forward(tape.ctx, detail::split_heads(view(out.value()), heads), log_sum_exp, split.select(2, 0),
                    split.select(2, 1), split.select(2, 2), key_lengths, options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_out = take_grad(out);
      if (!d_out) return;
      t.contribute(qkv, [&](auto d_qkv) {
        const auto packed_heads = detail::split_packed_heads(view(qkv.value()), 3, heads);
        const auto d_packed_heads = detail::split_packed_heads(view(d_qkv), 3, heads);
        attention_backward(t.ctx, d_packed_heads.select(2, 0), d_packed_heads.select(2, 1), d_packed_heads.select(2, 2),
                           detail::split_heads(view(d_out), heads), log_sum_exp,
                           detail::split_heads(view(out.value()), heads), packed_heads.select(2, 0),
                           packed_heads.select(2, 1), packed_heads.select(2, 2), key_lengths, options);
      });
    });
  return out;
}

/// Attention of query [B, Nq, H * D] over key and value [B, Nk, H * D]: [B, Nq, H * D]. key_lengths [B] may be absent.
template <class T, class Device>
Variable<T, 3, Device> attention(Tape<Device>& tape, const Variable<T, 3, Device>& query,
                                 const Variable<T, 3, Device>& key, const Variable<T, 3, Device>& value, int64_t heads,
                                 AttentionOptions options = {},
                                 const std::type_identity_t<Tensor<int32_t, 1, Device>>& key_lengths = {}) {
  using A = accumulate_t<T>;
  for (const auto& [input, name] : {std::pair{&query, "query"}, {&key, "key"}, {&value, "value"}})
    require<ShapeError>(heads > 0 && input->shape()[2] % heads == 0, "attention: axis C of ", name, " ",
                        to_string(input->shape()), " is not a multiple of ", heads, " heads");
  const bool records = tape.records(query, key, value);
  Variable<T, 3, Device> out(Tensor<T, 3, Device>(tape.ctx, query.shape()), records);
  Tensor<A, 3, Device> log_sum_exp;
  if (records) log_sum_exp = {tape.ctx, {query.shape()[0], heads, query.shape()[1]}};
  const auto split = [heads](const Variable<T, 3, Device>& x) { return detail::split_heads(view(x.value()), heads); };
  attention_forward(tape.ctx, split(out), log_sum_exp, split(query), split(key), split(value), key_lengths, options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_out = take_grad(out);
      if (!d_out) return;
      t.contribute(query, [&](auto d_query) {
        t.contribute(key, [&](auto d_key) {
          t.contribute(value, [&](auto d_value) {
            attention_backward(t.ctx, detail::split_heads(view(d_query), heads),
                               detail::split_heads(view(d_key), heads), detail::split_heads(view(d_value), heads),
                               detail::split_heads(view(d_out), heads), log_sum_exp, split(out), split(query),
                               split(key), split(value), key_lengths, options);
          });
        });
      });
    });
  return out;
}

/// Attention of query [B, Nq, H * D] over one packed projection key_value [B, Nk, 2 * H * D] (the output of a linear
/// layer whose weight stacks those of key and value): [B, Nq, H * D]. key_lengths [B] may be absent.
template <class T, class Device>
Variable<T, 3, Device> cross_attention(Tape<Device>& tape, const Variable<T, 3, Device>& query,
                                       const Variable<T, 3, Device>& key_value, int64_t heads,
                                       AttentionOptions options = {},
                                       const std::type_identity_t<Tensor<int32_t, 1, Device>>& key_lengths = {}) {
  using A = accumulate_t<T>;
  const auto [items, queries, channels] = query.shape();
  require<ShapeError>(heads > 0 && channels % heads == 0, "cross_attention: axis C of query ", to_string(query.shape()),
                      " is not a multiple of ", heads, " heads");
  require<ShapeError>(key_value.shape()[2] == 2 * channels, "cross_attention: axis C of key_value ",
                      to_string(key_value.shape()), " is not twice that of query ", to_string(query.shape()));
  const bool records = tape.records(query, key_value);
  Variable<T, 3, Device> out(Tensor<T, 3, Device>(tape.ctx, query.shape()), records);
  Tensor<A, 3, Device> log_sum_exp;
  if (records) log_sum_exp = {tape.ctx, {items, heads, queries}};
  const auto packed = detail::split_packed_heads(view(key_value.value()), 2, heads);
  attention_forward(tape.ctx, detail::split_heads(view(out.value()), heads), log_sum_exp,
                    detail::split_heads(view(query.value()), heads), packed.select(2, 0), packed.select(2, 1),
                    key_lengths, options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_out = take_grad(out);
      if (!d_out) return;
      t.contribute(query, [&](auto d_query) {
        t.contribute(key_value, [&](auto d_key_value) {
          const auto parts = detail::split_packed_heads(view(key_value.value()), 2, heads);
          const auto d_parts = detail::split_packed_heads(view(d_key_value), 2, heads);
          attention_backward(t.ctx, detail::split_heads(view(d_query), heads), detail::packed_part(d_parts, 0),
                             detail::packed_part(d_parts, 1), detail::split_heads(view(d_out), heads), log_sum_exp,
                             detail::split_heads(view(out.value()), heads),
                             detail::split_heads(view(query.value()), heads), parts.select(2, 0), parts.select(2, 1),
                             key_lengths, options);
        });
      });
    });
  return out;
}

}  // namespace tessera
