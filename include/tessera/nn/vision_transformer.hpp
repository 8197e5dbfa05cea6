// The image tower: Vision Transformer (Dosovitskiy et al., 2021) in CLIP's form: patch embedding, class token, learned
// positions, ln_pre, blocks, ln_post, projection. Parameter names are those of OpenAI's CLIP below "visual.".
#pragma once
#include <tessera/autograd/interpolate.hpp>
#include <tessera/autograd/patches.hpp>
#include <tessera/autograd/rearrange.hpp>
#include <tessera/autograd/tokens.hpp>
#include <tessera/nn/transformer.hpp>

namespace tessera::nn {

/// The sizes of an image tower.
struct VisionConfig {
  int64_t image_size = 224, patch_size = 16, channels = 3;
  TransformerConfig transformer = {.width = 768, .layers = 12, .heads = 12};
  int64_t embed_dim = 512;  ///< 0: no projection
  bool class_token = true;  ///< a class token before the patches
  bool pre_norm = true;     ///< ln_pre before the blocks

  /// Patches along one side of an image of image_size.
  int64_t grid() const { return image_size / patch_size; }
  /// Elements of all parameters together, without a bias of the patch embedding.
  int64_t parameter_count() const {
    const int64_t width = transformer.width, tokens = grid() * grid() + (class_token ? 1 : 0);
    const int64_t rows = channels * patch_size * patch_size + tokens + (class_token ? 1 : 0) + embed_dim;
    return (rows + (pre_norm ? 4 : 2)) * width + transformer.parameter_count();
  }
};

/// What the last block does for dense features (per patch, not per image).
enum class DenseMode : uint8_t {
  unchanged,           ///< the block as trained
  identity_attention,  ///< every token attends to itself; residual and MLP kept (MaskCLIP's official code)
  value_path,          ///< out_proj(v_proj(ln_1 x)) alone: no residual, no MLP
};

/// Images [B, channels, H, W] to embeddings: of the image [B, E], or of its patches [B, P, E] (dense).
template <class T, class Device = Cpu>
struct VisionTransformer {
  struct PatchConvolution {
    Parameter<T, 4, Device> weight;  // [C, channels, patch, patch]
    Parameter<accumulate_t<T>, 1, Device> bias;
    void members(auto&& visit) {
      visit("weight", weight);
      visit("bias", bias);
    }
  };
  VisionConfig config;
  Parameter<T, 1, Device> class_embedding;       // [C] or absent
  Parameter<T, 2, Device> positional_embedding;  // [1 + grid * grid, C], without the 1 where there is no class token
  Parameter<T, 2, Device> proj;                  // [C, E] or absent
  PatchConvolution conv1;
  Layernorm<T, Device> ln_pre, ln_post;
  Transformer<T, Device> transformer;

  void members(auto&& visit) {
    visit("class_embedding", class_embedding);
    visit("positional_embedding", positional_embedding);
    visit("proj", proj);
    visit("conv1", conv1);
    visit("ln_pre", ln_pre);
    visit("transformer", transformer);
    visit("ln_post", ln_post);
  }

  /// The grid for images of this size at this patch stride (0: the patch size).
  PatchGrid grid(int64_t height, int64_t width, int64_t stride = 0) const {
    return patch_grid(height, width, {config.patch_size, stride ? stride : config.patch_size});
  }

  /// Tokens [B, 1 + P, C] that enter the first block, from normalised images [B, channels, H, W] of any size that the
  /// patch fits; positions are resampled where the grid is not the stored one. A stride below the patch size gives
  /// overlapping patches (PACL's dense read-out).
  Variable<T, 3, Device> embed(Tape<Device>& tape, const Variable<T, 4, Device>& images, int64_t stride = 0) const {
    const PatchOptions options{config.patch_size, stride ? stride : config.patch_size};
    const PatchGrid cells = patch_grid(images.shape()[2], images.shape()[3], options);
    const auto& kernel = conv1.weight.shape();
    const auto patches = patchify(tape, images, options);
    const auto weight = reshape(tape, conv1.weight, Shape<2>{kernel[0], kernel[1] * kernel[2] * kernel[3]});
    const auto embedded = linear(tape, patches, weight, conv1.bias);
    const auto positions = resize_positional_embedding(tape, positional_embedding,
                                                       {.stored_height = config.grid(),
                                                        .stored_width = config.grid(),
                                                        .height = cells.height,
                                                        .width = cells.width,
                                                        .class_token = config.class_token,
                                                        .patch_size = options.kernel,
                                                        .stride = options.stride});
    const auto tokens = assemble_tokens(tape, class_embedding, embedded, positions);
    return config.pre_norm ? ln_pre(tape, tokens) : tokens;
  }

  /// Images' embeddings [B, E] (not normalised): the class token after all blocks. `hidden` receives the tokens before
  /// the first block and after every block.
  Variable<T, 2, Device> operator()(Tape<Device>& tape, const Variable<T, 4, Device>& images,
                                    std::vector<Variable<T, 3, Device>>* hidden = nullptr) const {
    require(config.class_token, "VisionTransformer: this tower has no class token; use dense()");
    auto x = embed(tape, images);
    if (hidden) hidden->push_back(x);
    x = transformer(tape, x, false, -1, hidden);
    return pool_class_token(tape, x);
  }
  /// ln_post and projection of the class token.
  Variable<T, 2, Device> pool_class_token(Tape<Device>& tape, const Variable<T, 3, Device>& tokens) const {
    const int64_t batch = tokens.shape()[0], channels = tokens.shape()[2];
    const auto first = reshape(tape, slice(tape, tokens, 1, 0, 1), Shape<2>{batch, channels});
    return matmul(tape, ln_post(tape, first), proj);
  }

  /// Patch embeddings [B, P, E] (not normalised), class token dropped.
  Variable<T, 3, Device> dense(Tape<Device>& tape, const Variable<T, 4, Device>& images,
                               DenseMode mode = DenseMode::unchanged, int64_t stride = 0) const {
    return project_patches(tape, last_block(tape, before_last_block(tape, images, stride), mode));
  }
  /// Tokens before the last block.
  Variable<T, 3, Device> before_last_block(Tape<Device>& tape, const Variable<T, 4, Device>& images,
                                           int64_t stride = 0) const {
    return transformer(tape, embed(tape, images, stride), false, int64_t(transformer.resblocks.size()) - 1);
  }
  Variable<T, 3, Device> last_block(Tape<Device>& tape, const Variable<T, 3, Device>& x, DenseMode mode) const {
    const auto& block = transformer.resblocks.back();
    switch (mode) {
      case DenseMode::identity_attention:
        return block.with_identity_attention(tape, x);
      case DenseMode::value_path:
        return block.attn.value_path(tape, block.ln_1(tape, x));
      default:
        return block(tape, x);
    }
  }
  /// ln_post and projection of all tokens but the class token.
  Variable<T, 3, Device> project_patches(Tape<Device>& tape, const Variable<T, 3, Device>& tokens) const {
    return matmul(tape, ln_post(tape, patches_of(tape, tokens)), proj);
  }
  /// All tokens but the class token.
  Variable<T, 3, Device> patches_of(Tape<Device>& tape, const Variable<T, 3, Device>& tokens) const {
    return config.class_token ? slice(tape, tokens, 1, 1, tokens.shape()[1]) : tokens;
  }
};

/// A tower with random weights: CLIP's rule, or Glorot's with the position table's deviation 0.02.
template <class T, class Device>
VisionTransformer<T, Device> make_vision_transformer(Context<Device>& ctx, const VisionConfig& config,
                                                     Initialisation initialisation) {
  using A = accumulate_t<T>;
  const int64_t width = config.transformer.width, patch = config.patch_size, inputs = config.channels * patch * patch;
  require(config.image_size > 0 && patch > 0 && config.image_size % patch == 0, "vision tower: image size ",
          config.image_size, " is not a multiple of the patch size ", patch);
  const bool clip = initialisation != Initialisation::xavier;
  const double deviation = clip ? std::pow(double(width), -0.5) : 0.02;
  VisionTransformer<T, Device> v;
  v.config = config;
  if (config.class_token) v.class_embedding = normal<T, 1>(ctx, {width}, deviation);
  v.positional_embedding =
      normal<T, 2>(ctx, {config.grid() * config.grid() + (config.class_token ? 1 : 0), width}, deviation);
  if (config.embed_dim > 0)
    v.proj = clip ? normal<T, 2>(ctx, {width, config.embed_dim}, deviation)
                  : xavier_uniform<T>(ctx, {width, config.embed_dim});
  // PyTorch's convolution default: uniform with bound 1 / sqrt(inputs of one output).
  v.conv1.weight = uniform<T, 4>(ctx, {width, config.channels, patch, patch}, std::pow(double(inputs), -0.5));
  if (!clip) v.conv1.bias = uniform<A, 1>(ctx, {width}, std::pow(double(inputs), -0.5));
  if (config.pre_norm) v.ln_pre = make_layernorm<T>(ctx, width, config.transformer.epsilon);
  v.transformer = make_transformer<T>(ctx, config.transformer, initialisation);
  v.ln_post = make_layernorm<T>(ctx, width, config.transformer.epsilon);
  return v;
}

}  // namespace tessera::nn
