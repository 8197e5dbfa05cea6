// Trained image towers as sources of patch tokens: a CLIP's, or a plain Vision Transformer's under Hugging Face's names
// (transformers' ViTModel: DINO, Caron et al., 2021). Both are nn::VisionTransformer; a ViT has a bias in its patch
// embedding, no ln_pre and no projection, and its last norm is ln_post.
#pragma once
#include <array>
#include <filesystem>
#include <optional>
#include <string>

#include <tessera/nn/fingerprint.hpp>
#include <tessera/systems/clip_checkpoint.hpp>

namespace tessera::systems {

/// Which tokens stand for a picture's patches.
enum class PatchTokens : uint8_t {
  last_block,  ///< after the last block, before any norm
  ln_post,     ///< ... and the tower's last norm: what PACL's embedder is given
  projected,   ///< ... and the projection to the space of texts (CLIP's own alignment of patches)
  aligned,     ///< as a PACL compares them with texts
};

/// By name, in the enum's order.
inline constexpr std::array<const char*, 4> patch_tokens_names = {"last_block", "ln_post", "projected", "aligned"};

inline const char* patch_tokens_name(PatchTokens tokens) { return patch_tokens_names[size_t(tokens)]; }
/// Throws ValueError for a name that is none.
inline PatchTokens patch_tokens_from_name(const std::string& name) {
  for (size_t i = 0; i < patch_tokens_names.size(); ++i)
    if (name == patch_tokens_names[i]) return PatchTokens(i);
  fail<ValueError>("there are no patch tokens '", name, "'; there are last_block, ln_post, projected and aligned");
}

/// Patch tokens [B, P, C] ([B, P, E] where projected) of normalised images [B, 3, H, W], class token dropped. `aligned`
/// is no matter of a tower.
template <class T, class Device>
Variable<T, 3, Device> patch_tokens(Tape<Device>& tape, const nn::VisionTransformer<T, Device>& tower,
                                    const Variable<T, 4, Device>& images, PatchTokens which, int64_t stride = 0) {
  require(which != PatchTokens::aligned, "patch_tokens: aligned patches are a PACL's, not a tower's");
  require(which != PatchTokens::projected || tower.proj,
          "patch_tokens: this tower has no projection to a space of texts; take ln_post or last_block");
  const auto tokens = tower.patches_of(tape, tower.transformer(tape, tower.embed(tape, images, stride)));
  if (which == PatchTokens::last_block) return tokens;
  const auto normed = tower.ln_post(tape, tokens);
  return which == PatchTokens::ln_post ? normed : matmul(tape, normed, tower.proj);
}

/// Of a tower's weights, and of what else decides its tokens.
template <class T, class Device>
uint64_t fingerprint_of_tower(nn::VisionTransformer<T, Device>& tower) {
  const ClipConfig config{.vision = tower.config, .text = {}};
  return nn::fingerprint(tower, io::json_text(detail::own_config_to_json(config, "")["vision_config"], -1));
}
/// The same of two towers and what stands between them.
template <class Model>
uint64_t fingerprint_of_towers(Model& model) {
  const ClipConfig config{.vision = model.visual.config, .text = model.text.config};
  return nn::fingerprint(model, io::json_text(detail::own_config_to_json(config, ""), -1));
}

/// Channels of a tower's tokens.
inline int64_t width_of(const nn::VisionConfig& tower, PatchTokens tokens) {
  return tokens == PatchTokens::projected ? tower.embed_dim : tower.transformer.width;
}

/// An image tower, and how its pictures are normalised.
template <class T, class Device = Cpu>
struct LoadedTower {
  nn::VisionTransformer<T, Device> visual;
  ImageStatistics statistics;
  std::string model_type;  ///< "clip" or "vit"
};

namespace detail {

/// Names of transformers' ViTModel for ours; a model with a head on top has `prefix` "vit.".
inline ParameterNaming vit_names(const std::string& prefix) {
  return [prefix](const std::string& name, const std::vector<int64_t>& shape) -> std::vector<StoredPart> {
    const std::string embeddings = prefix + "embeddings.";
    if (name == "class_embedding") return {{embeddings + "cls_token", {1, 1, shape.at(0)}}};
    if (name == "positional_embedding") return {{embeddings + "position_embeddings", {1, shape.at(0), shape.at(1)}}};
    std::string stored = name;
    if (replace(stored, "conv1.", "patch_embeddings.projection.")) return {{embeddings + stored, shape}};
    if (replace(stored, "ln_post.", "layernorm.")) return {{prefix + stored, shape}};
    replace(stored, "transformer.resblocks.", prefix + "encoder.layer.");
    replace(stored, ".ln_1.", ".layernorm_before.");
    replace(stored, ".ln_2.", ".layernorm_after.");
    replace(stored, ".mlp.c_fc.", ".intermediate.dense.");
    replace(stored, ".mlp.c_proj.", ".output.dense.");
    replace(stored, ".attn.out_proj.", ".attention.output.dense.");
    if (!replace(stored, ".attn.in_proj_", ".attention.attention.@.")) return {{stored, shape}};
    return packed_thirds(stored, shape, {"query", "key", "value"});
  };
}

inline nn::VisionConfig vit_config(const io::JsonView& json) {
  nn::VisionConfig config;
  config.transformer = huggingface_tower(json, 768, 3072, 12, "gelu", 1e-12);
  config.image_size = json.has("image_size") ? json.get<int64_t>("image_size", 1, 16384) : 224;
  config.patch_size = json.has("patch_size") ? json.get<int64_t>("patch_size", 1, 1024) : 16;
  config.channels = json.has("num_channels") ? json.get<int64_t>("num_channels", 1, 64) : 3;
  config.embed_dim = 0;
  config.pre_norm = false;
  require<IoError>(config.image_size % config.patch_size == 0, json.name(), ": image_size ", config.image_size,
                   " is not a multiple of patch_size ", config.patch_size);
  require<IoError>(json.get_or<bool>("qkv_bias", true), json.name(),
                   ": qkv_bias is false; only towers whose queries, keys and values have biases are known");
  return config;
}

template <class T, class Device>
LoadedTower<T, Device> load_vit(Context<Device>& ctx, const std::filesystem::path& path) {
  const ModelFolder folder = open_model_folder(path, "vit", data::imagenet_statistics);
  LoadedTower<T, Device> loaded{{}, folder.statistics, "vit"};
  const nn::VisionConfig config = vit_config(folder.config());
  check_parameter_count(config.parameter_count(), folder.config().name(), folder.weights);
  loaded.visual = nn::make_vision_transformer<T>(ctx, config, nn::Initialisation::none);
  loaded.visual.conv1.bias = nn::unset<accumulate_t<T>, 1>(ctx, {config.transformer.width});
  const bool below_head = folder.weights.contains("vit.embeddings.cls_token");
  load_module(loaded.visual, folder.weights, vit_names(below_head ? "vit." : ""),
              {.ignore = {"pooler.*", "*mask_token", "vit.pooler.*", "classifier.*"}});
  return loaded;
}

}  // namespace detail

/// The image tower of a checkpoint: a CLIP in any form that load_clip reads, or a ViT as Hugging Face stores it
/// (config.json with model_type "vit", model.safetensors; ImageNet's statistics where preprocessor_config.json does not
/// tell others). Positions of other grids are resampled as transformers does: bicubic, to the grid's size. Throws
/// IoError with a sentence.
template <class T, class Device>
LoadedTower<T, Device> load_image_tower(Context<Device>& ctx, const std::filesystem::path& path,
                                        std::optional<Activation> activation = {}) {
  const std::string type = describe_checkpoint(path).model_type;
  require<IoError>(type != "pacl" && type != "segclip", "the encoder ", path.string(), " is a \"", type,
                   "\"; name a CLIP or a ViT");
  if (type == "vit") {
    require(!activation, "--activation belongs to CLIPs; ", path.string(), " is a \"vit\"");
    return detail::load_vit<T>(ctx, path);
  }
  auto clip = load_clip<T>(ctx, path, activation);
  return {std::move(clip.model.visual), clip.statistics, "clip"};
}

}  // namespace tessera::systems
