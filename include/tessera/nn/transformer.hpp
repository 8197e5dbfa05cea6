// Pre-norm transformer blocks (Vaswani et al., 2017; the order of CLIP): x += attn(ln_1 x); x += mlp(ln_2 x).
#pragma once
#include <tessera/autograd/elementwise.hpp>
#include <tessera/autograd/recompute.hpp>
#include <tessera/nn/attention.hpp>

namespace tessera::nn {

/// The sizes of a stack of blocks.
struct TransformerConfig {
  int64_t width = 768, layers = 12, heads = 12;
  int64_t mlp_width = 0;  ///< 0: four times the width
  Activation activation = Activation::quick_gelu;
  double epsilon = 1e-5;

  /// Channels inside the MLP.
  int64_t hidden() const { return mlp_width ? mlp_width : 4 * width; }
  /// Elements of all parameters together.
  int64_t parameter_count() const {
    const int64_t norms = 4 * width, attention = 4 * (width + 1) * width, mlp = 2 * width * hidden() + hidden() + width;
    return layers * (norms + attention + mlp);
  }
};

/// One block: x [B, N, C] to the same shape.
template <class T, class Device = Cpu>
struct ResidualAttentionBlock {
  Layernorm<T, Device> ln_1;
  MultiheadAttention<T, Device> attn;
  Layernorm<T, Device> ln_2;
  Mlp<T, Device> mlp;

  void members(auto&& visit) {
    visit("ln_1", ln_1);
    visit("attn", attn);
    visit("ln_2", ln_2);
    visit("mlp", mlp);
  }
  Variable<T, 3, Device> operator()(Tape<Device>& tape, const Variable<T, 3, Device>& x, bool causal = false) const {
    return with_mlp(tape, add(tape, x, attn(tape, ln_1(tape, x), causal)));
  }
  /// The block with its attention matrix replaced by the identity; residual and MLP kept.
  Variable<T, 3, Device> with_identity_attention(Tape<Device>& tape, const Variable<T, 3, Device>& x) const {
    return with_mlp(tape, add(tape, x, attn.value_path(tape, ln_1(tape, x))));
  }
  /// The causal block's output at one token of each item alone, [B, 1, C]: at token `at` [B], which sees the first
  /// `lengths` [B] = at + 1 tokens. Only keys and values are computed of all tokens.
  Variable<T, 3, Device> at_token(Tape<Device>& tape, const Variable<T, 3, Device>& x,
                                  const Tensor<int32_t, 1, Device>& at,
                                  const Tensor<int32_t, 1, Device>& lengths) const {
    const Shape<3> one_each{x.shape()[0], 1, x.shape()[2]};
    const auto normalised = ln_1(tape, x);
    const auto query = reshape(tape, gather_tokens(tape, normalised, at), one_each);
    const auto residual = reshape(tape, gather_tokens(tape, x, at), one_each);
    return with_mlp(tape, add(tape, residual, attn.cross(tape, query, normalised, lengths)));
  }
  /// x + mlp(ln_2 x): the second half of the block.
  Variable<T, 3, Device> with_mlp(Tape<Device>& tape, const Variable<T, 3, Device>& x) const {
    return add(tape, x, mlp(tape, ln_2(tape, x)));
  }
};

/// Blocks one after the other.
template <class T, class Device = Cpu>
struct Transformer {
  std::vector<ResidualAttentionBlock<T, Device>> resblocks;
  bool recompute = false;  ///< keep only each block's input and compute its activations again in the backward pass

  void members(auto&& visit) { visit("resblocks", resblocks); }

  /// All blocks, or the first `count`. Each block's output is appended to `hidden` where that is given.
  Variable<T, 3, Device> operator()(Tape<Device>& tape, Variable<T, 3, Device> x, bool causal = false,
                                    int64_t count = -1, std::vector<Variable<T, 3, Device>>* hidden = nullptr) const {
    const size_t blocks = count < 0 ? resblocks.size() : size_t(count);
    for (size_t i = 0; i < blocks; ++i) {
      const auto& block = resblocks[i];
      if (recompute)
        x = tessera::recompute(
            tape, [block, causal](Tape<Device>& t, const auto& v) { return block(t, v, causal); }, x);
      else
        x = block(tape, x, causal);
      if (hidden) hidden->push_back(x);
    }
    return x;
  }
  /// All blocks, causal, of which only one token of each item is wanted, [B, 1, C]: token `at` [B], with `lengths` [B]
  /// = at + 1. The last block computes no other.
  Variable<T, 3, Device> at_token(Tape<Device>& tape, const Variable<T, 3, Device>& x,
                                  const Tensor<int32_t, 1, Device>& at,
                                  const Tensor<int32_t, 1, Device>& lengths) const {
    const auto before = (*this)(tape, x, true, int64_t(resblocks.size()) - 1);
    const auto& last = resblocks.back();
    if (!recompute) return last.at_token(tape, before, at, lengths);
    return tessera::recompute(
        tape, [last, at, lengths](Tape<Device>& t, const auto& v) { return last.at_token(t, v, at, lengths); }, before);
  }
};

/// How weights start.
enum class Initialisation : uint8_t {
  clip,    ///< CLIP's published rule for its text tower
  xavier,  ///< Glorot's, with zero biases
  normal,  ///< N(0, 0.02), the packed attention projections by Glorot's rule (SegCLIP's official code)
  none,    ///< CLIP's, but large matrices are left unset, for a checkpoint that fills all of them
};

/// A transformer with random weights.
template <class T, class Device>
Transformer<T, Device> make_transformer(Context<Device>& ctx, const TransformerConfig& config,
                                        Initialisation initialisation) {
  using A = accumulate_t<T>;
  const int64_t width = config.width, hidden = config.hidden();
  require(width > 0 && hidden > 0 && config.layers > 0, "transformer: width ", width, ", MLP width ", hidden, " and ",
          config.layers, " layers must all be positive");
  require(config.heads > 0 && width % config.heads == 0, "transformer: width ", width, " is not a multiple of ",
          config.heads, " heads");
  const double attention_deviation = std::pow(double(width), -0.5);
  const double residual_deviation = attention_deviation * std::pow(2.0 * double(config.layers), -0.5);
  const double mlp_deviation = std::pow(2.0 * double(width), -0.5);
  const auto weight = [&](int64_t out, int64_t in, double deviation) {
    switch (initialisation) {
      case Initialisation::none:
        return unset<T, 2>(ctx, {out, in});
      case Initialisation::clip:
        return normal<T, 2>(ctx, {out, in}, deviation);
      case Initialisation::normal:
        if (out != 3 * in) return normal<T, 2>(ctx, {out, in}, 0.02);
        [[fallthrough]];
      default:
        return xavier_uniform<T>(ctx, {out, in});
    }
  };
  const auto zeros = [&](int64_t n) { return constant<A, 1>(ctx, {n}, 0); };
  Transformer<T, Device> transformer;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    ResidualAttentionBlock<T, Device> block;
    block.ln_1 = make_layernorm<T>(ctx, width, config.epsilon);
    block.attn.in_proj_weight = weight(3 * width, width, attention_deviation);
    block.attn.in_proj_bias = zeros(3 * width);
    block.attn.out_proj = {weight(width, width, residual_deviation), zeros(width)};
    block.attn.heads = config.heads;
    block.ln_2 = make_layernorm<T>(ctx, width, config.epsilon);
    block.mlp.c_fc = {weight(hidden, width, mlp_deviation), zeros(hidden)};
    block.mlp.c_proj = {weight(width, hidden, residual_deviation), zeros(width)};
    block.mlp.activation = config.activation;
    transformer.resblocks.push_back(std::move(block));
  }
  return transformer;
}

}  // namespace tessera::nn
