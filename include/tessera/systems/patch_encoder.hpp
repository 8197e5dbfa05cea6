// Trained image encoders as sources of patch tokens, whichever system, element type and device a checkpoint holds: what
// analyses of patches and caches of features use.
//   const auto encoder = systems::load_patch_encoder(ctx, "checkpoint/", {.tokens = systems::PatchTokens::ln_post});
//   const auto tokens = encoder->patches(host, images);  // [B, P, width]
#pragma once
#include <memory>
#include <optional>
#include <string>

#include <tessera/systems/image_encoder.hpp>
#include <tessera/systems/on_device.hpp>
#include <tessera/systems/pacl.hpp>
#include <tessera/systems/segclip_checkpoint.hpp>

namespace tessera::systems {

/// A frozen encoder of patches. Threads may use one.
class PatchEncoder {
 public:
  virtual ~PatchEncoder() = default;

  /// What it is: "clip", "vit", "pacl" or "segclip".
  virtual std::string name() const = 0;
  /// Which tokens patches() gives.
  virtual PatchTokens tokens() const = 0;
  /// Side of a patch in pixels.
  virtual int64_t patch_size() const = 0;
  /// Channels of a token.
  virtual int64_t width() const = 0;
  /// Side of the pictures that it was trained on.
  virtual int64_t image_size() const = 0;
  /// How pictures are to be normalised.
  virtual data::ImageStatistics statistics() const = 0;
  /// The grid of patches at distance `stride` (0: the patch size) of images of this size. ShapeError where pixels would
  /// be lost at the bottom or the right.
  PatchGrid grid(int64_t height, int64_t width, int64_t stride = 0) const {
    return patch_grid(height, width, {patch_size(), stride ? stride : patch_size()});
  }
  /// Tokens [B, P, width()], row by row of the grid, of normalised images [B, 3, H, W].
  virtual Tensor<float, 3> patches(Context<Cpu>& ctx, const Tensor<float, 4>& images, int64_t stride = 0) const = 0;
};

struct PatchEncoderOptions {
  /// Absent: what the encoder is best known by: ln_post of a CLIP or ViT, aligned of a PACL, last_block of a SegCLIP.
  std::optional<PatchTokens> tokens = {};
  Dtype dtype = Dtype::f32;                   ///< of weights and activations: f32 or bf16
  std::optional<Activation> activation = {};  ///< where a CLIP's checkpoint does not tell it
};

namespace detail {

/// `model` has a member `visual`; encode(tape, model, images, stride) gives its tokens.
template <class T, class Device, class Model, class Encode>
class EncoderOf : public PatchEncoder, protected OnDevice<T, Device> {
 public:
  EncoderOf(const Context<Device>& device, std::string name, Model model, const data::ImageStatistics& statistics,
            PatchTokens tokens, int64_t width, Encode encode)
      : OnDevice<T, Device>(device),
        name_(std::move(name)),
        model_(std::move(model)),
        statistics_(statistics),
        tokens_(tokens),
        width_(width),
        encode_(std::move(encode)) {}

  std::string name() const override { return name_; }
  PatchTokens tokens() const override { return tokens_; }
  int64_t patch_size() const override { return model_.visual.config.patch_size; }
  int64_t width() const override { return width_; }
  int64_t image_size() const override { return model_.visual.config.image_size; }
  data::ImageStatistics statistics() const override { return statistics_; }
  Tensor<float, 3> patches(Context<Cpu>& ctx, const Tensor<float, 4>& images, int64_t stride) const override {
    Tape<Device> tape(this->device(ctx), false);
    const Variable<T, 4, Device> input(this->input(ctx, images));
    return this->to_floats(ctx, encode_(tape, model_, input, stride).value());
  }

 private:
  std::string name_;
  Model model_;
  data::ImageStatistics statistics_;
  PatchTokens tokens_;
  int64_t width_;
  Encode encode_;
};
template <class T, class Device, class Model, class Encode>
std::unique_ptr<PatchEncoder> encoder_of(const Context<Device>& device, std::string name, Model model,
                                         const data::ImageStatistics& statistics, PatchTokens tokens, int64_t width,
                                         Encode encode) {
  return std::make_unique<EncoderOf<T, Device, Model, Encode>>(device, std::move(name), std::move(model), statistics,
                                                               tokens, width, std::move(encode));
}

template <class T, class Device>
std::unique_ptr<PatchEncoder> load_encoder(Context<Device>& ctx, const std::filesystem::path& path,
                                           const std::string& type, const PatchEncoderOptions& options) {
  using Images = Variable<T, 4, Device>;
  if (type == "segclip") {
    const PatchTokens tokens = options.tokens.value_or(PatchTokens::last_block);
    require(tokens == PatchTokens::last_block, "a SegCLIP's patches end where groups begin: it has last_block tokens (",
            "of the blocks that see patches), no ", patch_tokens_name(tokens));
    auto loaded = load_segclip<T>(ctx, path);
    const int64_t width = loaded.model.visual.config.transformer.width;
    return encoder_of<T>(ctx, type, std::move(loaded.model), loaded.statistics, tokens, width,
                         [](Tape<Device>& tape, const auto& model, const Images& images, int64_t stride) {
                           const auto& tower = model.visual;
                           const auto before = tower.patches_of(tape, tower.embed(tape, images, stride));
                           return tower.transformer(tape, before, false, tower.group_layer);
                         });
  }
  if (type == "pacl") {
    const PatchTokens tokens = options.tokens.value_or(PatchTokens::aligned);
    auto loaded = load_pacl<T>(ctx, path);
    const int64_t width = tokens == PatchTokens::aligned ? loaded.model.text.config.embed_dim
                                                         : width_of(loaded.model.visual.config, tokens);
    return encoder_of<T>(ctx, type, std::move(loaded.model), loaded.statistics, tokens, width,
                         [tokens](Tape<Device>& tape, const auto& model, const Images& images, int64_t stride) {
                           return tokens == PatchTokens::aligned
                                      ? model.patch_embeddings(tape, images, stride)
                                      : patch_tokens(tape, model.visual, images, tokens, stride);
                         });
  }
  const PatchTokens tokens = options.tokens.value_or(PatchTokens::ln_post);
  require(tokens != PatchTokens::aligned, "the encoder ", path.string(),
          " is no PACL: it has no aligned patches; take projected, ln_post or last_block");
  auto loaded = load_image_tower<T>(ctx, path, options.activation);
  require(tokens != PatchTokens::projected || loaded.visual.proj, "the encoder ", path.string(),
          " is a ViT without a projection to a space of texts; take ln_post or last_block");
  const int64_t width = width_of(loaded.visual.config, tokens);
  const std::string name = loaded.model_type;
  const data::ImageStatistics statistics = loaded.statistics;
  return encoder_of<T>(ctx, name, std::move(loaded), statistics, tokens, width,
                       [tokens](Tape<Device>& tape, const auto& model, const Images& images, int64_t stride) {
                         return patch_tokens(tape, model.visual, images, tokens, stride);
                       });
}

#if defined(TESSERA_COMPILED_MODELS)  // by files of their own, once for all programs of a build (cmake/models_*.cpp)
extern template std::unique_ptr<PatchEncoder> load_encoder<float, Cpu>(Context<Cpu>&, const std::filesystem::path&,
                                                                       const std::string&, const PatchEncoderOptions&);
extern template std::unique_ptr<PatchEncoder> load_encoder<bfloat16, Cpu>(Context<Cpu>&, const std::filesystem::path&,
                                                                          const std::string&,
                                                                          const PatchEncoderOptions&);
#endif

}  // namespace detail

/// Loads the encoder of a checkpoint (a folder, or one safetensors file) onto the context's device: a CLIP in any form
/// that load_clip reads, a ViT (load_image_tower), a PACL or a SegCLIP. Throws IoError or ValueError with a sentence.
template <class Device>
std::unique_ptr<PatchEncoder> load_patch_encoder(Context<Device>& ctx, const std::filesystem::path& checkpoint,
                                                 const PatchEncoderOptions& options = {}) {
  const std::string type = describe_checkpoint(checkpoint).model_type;
  const bool own = type == "pacl" || type == "segclip";
  require(!options.activation || !own, "--activation belongs to CLIPs; ", checkpoint.string(), " is a \"", type, "\"");
  require(options.dtype == Dtype::f32 || options.dtype == Dtype::bf16, "models run in f32 or bf16, not ",
          dtype_name(options.dtype));
  return options.dtype == Dtype::bf16 ? detail::load_encoder<bfloat16>(ctx, checkpoint, type, options)
                                      : detail::load_encoder<float>(ctx, checkpoint, type, options);
}

}  // namespace tessera::systems
