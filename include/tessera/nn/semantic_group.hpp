// SegCLIP's semantic group module (Luo et al., "SegCLIP: patch aggregation with learnable centers for open-vocabulary
// semantic segmentation", ICML 2023): learnable centres look at an image's patches through cross-attention, every patch
// is assigned to one centre by a hard Gumbel-softmax with a straight-through gradient, and the patches of a centre are
// averaged into a group token. The official code's behaviour is the default; where the paper says otherwise an option
// follows the paper. Parameter names are the official ones.
#pragma once
#include <tessera/autograd/assignment_pool.hpp>
#include <tessera/autograd/gumbel_softmax.hpp>
#include <tessera/nn/transformer.hpp>

namespace tessera::nn {

/// Two linear layers under the names fc1 and fc2, which timm uses for what CLIP calls c_fc and c_proj.
template <class T, class Device>
struct Fc1Fc2Names {
  Mlp<T, Device>& mlp;

  void members(auto&& visit) {
    visit("fc1", mlp.c_fc);
    visit("fc2", mlp.c_proj);
  }
};

/// q += attn(ln_x q, ln_k context); q += mlp(ln_2 q).
template <class T, class Device = Cpu>
struct CrossAttentionBlock {
  Layernorm<T, Device> ln_x, ln_k;
  MultiheadAttention<T, Device> attn;
  Layernorm<T, Device> ln_2;
  Mlp<T, Device> mlp;

  void members(auto&& visit) {
    visit("ln_x", ln_x);
    visit("ln_k", ln_k);
    visit("attn", attn);
    visit("ln_2", ln_2);
    visit("mlp", mlp);
  }
  /// query [B, Nq, C], context [B, Nk, C].
  Variable<T, 3, Device> operator()(Tape<Device>& tape, const Variable<T, 3, Device>& query,
                                    const Variable<T, 3, Device>& context) const {
    const auto attended = add(tape, query, attn.cross(tape, ln_x(tape, query), ln_k(tape, context)));
    return add(tape, attended, mlp(tape, ln_2(tape, attended)));
  }
};

/// The sizes of the module, and what it does where code and paper differ.
struct SemanticGroupConfig {
  int64_t width = 768, heads = 12, centres = 8, cross_layers = 2;
  double temperature = 0.9;  ///< of the Gumbel-softmax in training; evaluation takes neither noise nor temperature
  double epsilon = 1e-5;
  /// The released training's cross-attention read the rows of keys and values [B, S, C] as [S, B, C], so that an
  /// image's centres saw rows of all images of the batch. Per image (false) is what is meant, and what inference does.
  bool keys_mixed_over_batch = false;
  bool hard = true;               ///< false: every patch belongs to all groups by its probabilities (for ablations)
  bool paper_keys = false;        ///< equation 1: centres attend to patches alone; code: to centres and patches
  bool paper_assignment = false;  ///< equation 2: logits patch · centre; code: both normalised, the patch projected
  bool paper_aggregation =
      false;  ///< equation 3: mean of patches; code: of their projections, norm, QuickGELU at the end
};

/// What random numbers a pass takes. Neither: evaluation.
template <class T, class Device = Cpu>
struct AssignmentNoise {
  std::optional<RandomStream> stream = {};         ///< Gumbel noise is drawn from here
  Tensor<accumulate_t<T>, 3, Device> gumbel = {};  ///< or given [B, N, G]

  explicit operator bool() const { return stream || gumbel; }
};

/// What the module makes of an image's patches.
template <class T, class Device = Cpu>
struct SemanticGroups {
  Variable<T, 3, Device> groups;      ///< [B, G, C]: group tokens
  Variable<T, 3, Device> assignment;  ///< [B, N, G]: each patch's centre, one-hot (straight-through)
  Variable<T, 3, Device> logits;      ///< [B, N, G]: their softmax is the soft assignment that masks are read from
};

/// The module: patches [B, N, C] to group tokens.
template <class T, class Device = Cpu>
struct SemanticGroup {
  struct GroupedConvolution {
    Parameter<T, 3, Device> weight;  // [C, C / heads, 1]

    void members(auto&& visit) { visit("weight", weight); }
    Variable<T, 3, Device> operator()(Tape<Device>& tape, const Variable<T, 3, Device>& x) const {
      const int64_t outputs = weight.shape()[0], inputs = weight.shape()[1];
      return grouped_linear(tape, x, reshape(tape, weight, Shape<2>{outputs, inputs}), outputs / inputs);
    }
  };
  struct OutputProjection {
    Layernorm<T, Device> ln;
    Mlp<T, Device> mlp;

    void members(auto&& visit) {
      visit("ln", ln);
      Fc1Fc2Names<T, Device> names{mlp};
      visit("mlp", names);
    }
  };
  SemanticGroupConfig config;
  Parameter<T, 2, Device> semantic_center;  // [G, C]
  Layernorm<T, Device> norm;
  std::vector<CrossAttentionBlock<T, Device>> cross_att;
  Layernorm<T, Device> cross_ln, k_ln;
  GroupedConvolution k_conv, v_conv;
  OutputProjection proj_o;

  void members(auto&& visit) {
    visit("semantic_center", semantic_center);
    visit("norm", norm);
    visit("cross_att", cross_att);
    visit("cross_ln", cross_ln);
    visit("k_conv", k_conv);
    visit("k_ln", k_ln);
    visit("v_conv", v_conv);
    visit("proj_o", proj_o);
  }

  /// patches [B, N, C], not normalised.
  SemanticGroups<T, Device> operator()(Tape<Device>& tape, const Variable<T, 3, Device>& patches,
                                       const AssignmentNoise<T, Device>& noise = {}) const {
    const int64_t batch = patches.shape()[0], channels = patches.shape()[2];
    auto centres = broadcast_to(tape, semantic_center, Shape<3>{batch, config.centres, channels});
    for (const auto& block : cross_att) {
      auto context = config.paper_keys ? patches : concatenate(tape, 1, centres, patches);
      if (config.keys_mixed_over_batch) context = mix_over_batch(tape, context);
      centres = block(tape, centres, context);
    }
    centres = cross_ln(tape, centres);

    SemanticGroups<T, Device> result;
    const bool projected = !config.paper_assignment || !config.paper_aggregation;
    const auto normalised = projected ? norm(tape, patches) : patches;
    const auto key = config.paper_assignment ? patches : k_ln(tape, k_conv(tape, normalised));
    result.logits = matmul(tape, key, centres, {}, {.transpose_b = true});
    result.assignment = gumbel_softmax(
        tape, result.logits,
        {.temperature = noise ? config.temperature : 1.0, .hard = config.hard, .noise = noise.stream}, noise.gumbel);
    const auto value = config.paper_aggregation ? patches : v_conv(tape, normalised);
    const auto gathered = add(tape, centres, assignment_pool(tape, value, result.assignment));
    result.groups = config.paper_aggregation
                        ? proj_o.mlp(tape, gathered)
                        : activation(tape, proj_o.mlp(tape, proj_o.ln(tape, gathered)), Activation::quick_gelu);
    return result;
  }

 private:
  // Row b S + s of the batch becomes key s' of image b', where b S + s = s' B + b'.
  static Variable<T, 3, Device> mix_over_batch(Tape<Device>& tape, const Variable<T, 3, Device>& context) {
    const auto [batch, rows, channels] = context.shape();
    return permute(tape, reshape(tape, context, Shape<3>{rows, batch, channels}), {1, 0, 2});
  }
};

/// A module with the official initial values: linear layers and centres N(0, 0.02), packed attention projections by
/// Glorot's rule, grouped convolutions uniform as PyTorch's.
template <class T, class Device>
SemanticGroup<T, Device> make_semantic_group(Context<Device>& ctx, const SemanticGroupConfig& config) {
  using A = accumulate_t<T>;
  const int64_t width = config.width;
  require(config.centres > 0 && config.cross_layers >= 0, "semantic group: ", config.centres, " centres and ",
          config.cross_layers, " cross-attention layers; there must be a centre, and layers cannot be negative");
  require(config.heads > 0 && width % config.heads == 0, "semantic group: width ", width, " is not a multiple of ",
          config.heads, " heads");
  require(config.temperature > 0, "semantic group: temperature ", config.temperature, " must be positive");
  const auto norm = [&] { return make_layernorm<T>(ctx, width, config.epsilon); };
  const auto dense = [&](int64_t out, int64_t in) {
    return Linear<T, Device>{normal<T, 2>(ctx, {out, in}, 0.02), constant<A, 1>(ctx, {out}, 0)};
  };
  SemanticGroup<T, Device> group;
  group.config = config;
  group.semantic_center = normal<T, 2>(ctx, {config.centres, width}, 0.02);
  group.norm = norm();
  for (int64_t layer = 0; layer < config.cross_layers; ++layer) {
    CrossAttentionBlock<T, Device> block;
    block.ln_x = norm();
    block.ln_k = norm();
    block.attn.in_proj_weight = xavier_uniform<T>(ctx, {3 * width, width});
    block.attn.in_proj_bias = constant<A, 1>(ctx, {3 * width}, 0);
    block.attn.out_proj = dense(width, width);
    block.attn.heads = config.heads;
    block.ln_2 = norm();
    block.mlp = {dense(4 * width, width), dense(width, 4 * width), Activation::quick_gelu};
    group.cross_att.push_back(std::move(block));
  }
  group.cross_ln = norm();
  const int64_t per_group = width / config.heads;
  const double bound = std::pow(double(per_group), -0.5);
  group.k_conv.weight = uniform<T, 3>(ctx, {width, per_group, 1}, bound);
  group.v_conv.weight = uniform<T, 3>(ctx, {width, per_group, 1}, bound);
  group.k_ln = norm();
  group.proj_o.ln = norm();
  group.proj_o.mlp = {dense(4 * width, width), dense(width, 4 * width), Activation::gelu};
  return group;
}

}  // namespace tessera::nn
