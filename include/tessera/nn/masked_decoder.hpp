// Masked reconstruction (He et al., "Masked autoencoders are scalable vision learners", CVPR 2022) in the form that
// SegCLIP takes: most patches are removed, an encoder sees the others, and a small transformer predicts the removed
// patches' pixels. Parameter names are timm's, as in the official checkpoints.
#pragma once
#include <algorithm>
#include <numeric>

#include <tessera/autograd/masked_mse.hpp>
#include <tessera/autograd/patches.hpp>
#include <tessera/nn/semantic_group.hpp>

namespace tessera::nn {

/// Which patches an encoder sees, for B images of L patches. Numbers are rows of the batch's patches [B L] and of the
/// decoder's tokens [B (L + 1)], which begin with a class token.
template <class Device = Cpu>
struct PatchMasking {
  Tensor<int32_t, 2, Device> visible;  ///< [B, K]: rows of [B L], in the order of the noise
  Tensor<int32_t, 2, Device> restore;  ///< [B, L + 1]: where each token of the full sequence lies among [B (L + 1)]
  Tensor<uint8_t, 2, Device> removed;  ///< [B, L]: 1 where the patch is to be reconstructed
};

/// Visible patches of `patches`: the class token counts as one that is always seen (the official rule), so that
/// (patches + 1) * (1 - ratio), rounded down, less one are left.
inline int64_t visible_patches(int64_t patches, double ratio) {
  require(ratio > 0 && ratio < 1, "mask ratio ", ratio, " must lie between 0 and 1");
  const int64_t visible = int64_t(double(patches + 1) * (1 - ratio)) - 1;
  require(visible > 0, "mask ratio ", ratio, " leaves none of ", patches, " patches");
  return visible;
}

/// The patches with the smallest noise stay visible; noise [B, L] in host memory.
template <class Device>
PatchMasking<Device> mask_patches(Context<Device>& ctx, const TensorView<const float, 2>& noise, double ratio) {
  const auto [batch, patches] = noise.shape;
  const int64_t kept = visible_patches(patches, ratio), tokens = patches + 1;
  std::vector<int32_t> visible, restore(size_t(batch * tokens)), order(static_cast<size_t>(patches));
  std::vector<uint8_t> removed(size_t(batch * patches), 1);
  for (int64_t b = 0; b < batch; ++b) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t i, int32_t j) { return noise(b, i) < noise(b, j); });
    restore[size_t(b * tokens)] = int32_t(b * tokens);  // the class token stays the first
    for (int64_t rank = 0; rank < patches; ++rank) {
      const int64_t patch = order[size_t(rank)];
      restore[size_t(b * tokens + 1 + patch)] = int32_t(b * tokens + 1 + rank);
      if (rank >= kept) continue;
      visible.push_back(int32_t(b * patches + patch));
      removed[size_t(b * patches + patch)] = 0;
    }
  }
  return {Tensor<int32_t, 2, Device>::from_host(ctx, {batch, kept}, visible),
          Tensor<int32_t, 2, Device>::from_host(ctx, {batch, tokens}, restore),
          Tensor<uint8_t, 2, Device>::from_host(ctx, {batch, patches}, removed)};
}
/// A masking drawn at random.
template <class Device>
PatchMasking<Device> draw_masking(Context<Device>& ctx, int64_t batch, int64_t patches, double ratio,
                                  const RandomStream& random) {
  Context<Cpu> host;
  Tensor<float, 2> noise(host, {batch, patches});
  for (int64_t i = 0; i < noise.size(); ++i) noise.data[i] = random.uniform(uint64_t(i));
  return mask_patches(ctx, TensorView<const float, 2>(view(noise)), ratio);
}

/// The visible tokens [B, K, C] of tokens [B, L, C].
template <class T, class Device>
Variable<T, 3, Device> visible_tokens(Tape<Device>& tape, const Variable<T, 3, Device>& tokens,
                                      const PatchMasking<Device>& masking) {
  const auto [batch, patches, channels] = tokens.shape();
  return embedding(tape, reshape(tape, tokens, Shape<2>{batch * patches, channels}), masking.visible);
}

/// The sizes of a decoder.
struct MaskedDecoderConfig {
  int64_t grid = 14, patch_size = 16, channels = 3;
  int64_t input_width = 768, width = 384, layers = 3, heads = 8;
  double epsilon = 1e-6;
};

/// Fixed positions [1 + grid * grid, width] of sines and cosines: half the channels for the column, half for the row;
/// in each half, sines then cosines of the position times 10000^(-i / n), n = width / 4. The class token's are 0.
template <class T, class Device>
Tensor<T, 2, Device> sine_positions(Context<Device>& ctx, int64_t grid, int64_t width) {
  require(width > 0 && width % 4 == 0, "sine positions: the width ", width, " must be a multiple of 4");
  const int64_t quarter = width / 4;
  std::vector<T> table(size_t((1 + grid * grid) * width), narrow<T>(accumulate_t<T>(0)));
  for (int64_t y = 0; y < grid; ++y)
    for (int64_t x = 0; x < grid; ++x) {
      T* row = table.data() + (1 + y * grid + x) * width;
      for (int64_t i = 0; i < quarter; ++i) {
        const double frequency = std::pow(10000.0, -double(i) / double(quarter));
        for (const auto& [position, at] : {std::pair{x, i}, {y, i + 2 * quarter}}) {
          row[at] = narrow<T>(accumulate_t<T>(std::sin(double(position) * frequency)));
          row[at + quarter] = narrow<T>(accumulate_t<T>(std::cos(double(position) * frequency)));
        }
      }
    }
  return Tensor<T, 2, Device>::from_host(ctx, {1 + grid * grid, width}, table);
}

/// Visible tokens to the pixels of all patches.
template <class T, class Device = Cpu>
struct MaskedDecoder {
  /// A transformer block under timm's names.
  struct Block {
    ResidualAttentionBlock<T, Device> block;

    void members(auto&& visit) {
      visit("norm1", block.ln_1);
      AttentionNames attention{block.attn};
      visit("attn", attention);
      visit("norm2", block.ln_2);
      Fc1Fc2Names<T, Device> names{block.mlp};
      visit("mlp", names);
    }
  };
  MaskedDecoderConfig config;
  Parameter<T, 3, Device> mask_token;  // [1, 1, width]
  Tensor<T, 2, Device> positions;      // fixed
  Linear<T, Device> decoder_embed, decoder_pred;
  std::vector<Block> decoder_blocks;
  Layernorm<T, Device> decoder_norm;

  void members(auto&& visit) {
    visit("mask_token", mask_token);
    visit("decoder_embed", decoder_embed);
    visit("decoder_blocks", decoder_blocks);
    visit("decoder_norm", decoder_norm);
    visit("decoder_pred", decoder_pred);
  }

  /// Predicted pixels [B, L, patch * patch * channels], in the order row, column, channel, from the encoder's visible
  /// tokens [B, K, input_width]; their mean stands for the class token.
  Variable<T, 3, Device> operator()(Tape<Device>& tape, const Variable<T, 3, Device>& visible,
                                    const PatchMasking<Device>& masking) const {
    const auto [batch, kept, channels] = visible.shape();
    const int64_t tokens = masking.restore.shape[1], width = config.width;
    const auto summary = reshape(tape, mean(tape, visible, 1), Shape<3>{batch, 1, channels});
    const auto seen = decoder_embed(tape, concatenate(tape, 1, summary, visible));
    const auto unseen = broadcast_to(tape, mask_token, Shape<3>{batch, tokens - kept - 1, width});
    const auto shuffled = reshape(tape, concatenate(tape, 1, seen, unseen), Shape<2>{batch * tokens, width});
    auto x = embedding(tape, shuffled, masking.restore);
    x = add(tape, x, Variable<T, 2, Device>(positions));
    for (const auto& block : decoder_blocks) x = block.block(tape, x);
    return slice(tape, decoder_pred(tape, decoder_norm(tape, x)), 1, 1, tokens);
  }
  /// Mean squared error of the removed patches' pixels of normalised images [B, channels, H, W].
  Variable<accumulate_t<T>, 0, Device> loss(Tape<Device>& tape, const Variable<T, 3, Device>& visible,
                                            const Variable<T, 4, Device>& images,
                                            const PatchMasking<Device>& masking) const {
    return masked_mse(tape, (*this)(tape, visible, masking), target(tape, images), masking.removed);
  }
  /// The images' patches [B, L, patch * patch * channels], in the order row, column, channel.
  Variable<T, 3, Device> target(Tape<Device>& tape, const Variable<T, 4, Device>& images) const {
    const int64_t side = config.patch_size, pixels = side * side;
    const auto patches = patchify(tape, images, {.kernel = side, .stride = side});
    const auto [batch, count, values] = patches.shape();
    const auto planes = reshape(tape, patches, Shape<4>{batch, count, values / pixels, pixels});
    return reshape(tape, permute(tape, planes, {0, 1, 3, 2}), Shape<3>{batch, count, values});
  }

 private:
  struct AttentionNames {
    MultiheadAttention<T, Device>& attention;
    struct Packed {
      MultiheadAttention<T, Device>& attention;
      void members(auto&& visit) {
        visit("weight", attention.in_proj_weight);
        visit("bias", attention.in_proj_bias);
      }
    };
    void members(auto&& visit) {
      Packed packed{attention};
      visit("qkv", packed);
      visit("proj", attention.out_proj);
    }
  };
};

/// A decoder with the official initial values: linear layers and the mask token N(0, 0.02).
template <class T, class Device>
MaskedDecoder<T, Device> make_masked_decoder(Context<Device>& ctx, const MaskedDecoderConfig& config) {
  using A = accumulate_t<T>;
  const auto dense = [&](int64_t out, int64_t in) {
    return Linear<T, Device>{normal<T, 2>(ctx, {out, in}, 0.02), constant<A, 1>(ctx, {out}, 0)};
  };
  MaskedDecoder<T, Device> decoder;
  decoder.config = config;
  decoder.mask_token = normal<T, 3>(ctx, {1, 1, config.width}, 0.02);
  decoder.positions = sine_positions<T>(ctx, config.grid, config.width);
  decoder.decoder_embed = dense(config.width, config.input_width);
  const TransformerConfig blocks{.width = config.width,
                                 .layers = config.layers,
                                 .heads = config.heads,
                                 .activation = Activation::gelu,
                                 .epsilon = config.epsilon};
  for (auto& block : make_transformer<T>(ctx, blocks, Initialisation::normal).resblocks) {
    block.attn.in_proj_weight = normal<T, 2>(ctx, {3 * config.width, config.width}, 0.02);  // here a linear layer too
    decoder.decoder_blocks.push_back({std::move(block)});
  }
  decoder.decoder_norm = make_layernorm<T>(ctx, config.width, config.epsilon);
  decoder.decoder_pred = dense(config.channels * config.patch_size * config.patch_size, config.width);
  return decoder;
}

}  // namespace tessera::nn
