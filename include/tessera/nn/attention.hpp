// Multi-head attention with one packed projection, as in PyTorch's MultiheadAttention: the rows of in_proj_weight are
// those of query, key and value, one after the other.
#pragma once
#include <tessera/autograd/attention.hpp>
#include <tessera/autograd/rearrange.hpp>
#include <tessera/nn/layers.hpp>

namespace tessera::nn {

/// Attention of tokens [B, N, C] with `heads` heads of C / heads channels.
template <class T, class Device = Cpu>
struct MultiheadAttention {
  Parameter<T, 2, Device> in_proj_weight;              // [3 C, C]
  Parameter<accumulate_t<T>, 1, Device> in_proj_bias;  // [3 C]
  Linear<T, Device> out_proj;
  int64_t heads = 1;

  void members(auto&& visit) {
    visit("in_proj_weight", in_proj_weight);
    visit("in_proj_bias", in_proj_bias);
    visit("out_proj", out_proj);
  }
  /// x [B, N, C]; a causal token sees itself and the tokens before it.
  Variable<T, 3, Device> operator()(Tape<Device>& tape, const Variable<T, 3, Device>& x, bool causal = false) const {
    const auto qkv = linear(tape, x, in_proj_weight, in_proj_bias);
    return out_proj(tape, self_attention(tape, qkv, heads, {.causal = causal}));
  }
  /// Attention of query [B, Nq, C] to context [B, Nk, C], whose projections are the keys and values: of each item's
  /// first key_lengths [B] tokens where that is given.
  Variable<T, 3, Device> cross(Tape<Device>& tape, const Variable<T, 3, Device>& query,
                               const Variable<T, 3, Device>& context,
                               const Tensor<int32_t, 1, Device>& key_lengths = {}) const {
    const auto key_value = project(tape, context, 1, 3);
    return out_proj(tape, cross_attention(tape, project(tape, query, 0, 1), key_value, heads, {}, key_lengths));
  }
  /// out_proj(value projection of x): attention in which every token attends to itself alone (MaskCLIP).
  Variable<T, 3, Device> value_path(Tape<Device>& tape, const Variable<T, 3, Device>& x) const {
    return out_proj(tape, project(tape, x, 2, 3));
  }
  /// out_proj(key projection of x): the keys as MaskCLIP's key smoothing uses them.
  Variable<T, 3, Device> key_path(Tape<Device>& tape, const Variable<T, 3, Device>& x) const {
    return out_proj(tape, project(tape, x, 1, 2));
  }

 private:
  // Projections [first, last) of 0 query, 1 key and 2 value, side by side.
  Variable<T, 3, Device> project(Tape<Device>& tape, const Variable<T, 3, Device>& x, int64_t first,
                                 int64_t last) const {
    const int64_t channels = in_proj_weight.shape()[1];
    const auto weight = slice(tape, in_proj_weight, 0, first * channels, last * channels);
    const auto bias = slice(tape, in_proj_bias, 0, first * channels, last * channels);
    return linear(tape, x, weight, bias);
  }
};

}  // namespace tessera::nn
