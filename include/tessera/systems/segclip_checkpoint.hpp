// SegCLIP's checkpoints: a folder with config.json (model_type "segclip"), model.safetensors under the official names,
// preprocessor_config.json; and the start from a CLIP or PACL that was trained before.
#pragma once
#include <filesystem>

#include <tessera/systems/pacl.hpp>
#include <tessera/systems/segclip.hpp>

namespace tessera::systems {

/// config.json, and what makes a training run this one.
inline io::Json segclip_config_to_json(const SegclipConfig& config) {
  io::Json json = detail::own_config_to_json({config.vision, config.text, config.initial_logit_scale}, "segclip");
  const auto& group = config.group;
  json["segclip_config"] = {{"group_layer", config.group_layer},
                            {"centres", group.centres},
                            {"cross_layers", group.cross_layers},
                            {"temperature", group.temperature},
                            {"keys_mixed_over_batch", group.keys_mixed_over_batch},
                            {"hard", group.hard},
                            {"paper_keys", group.paper_keys},
                            {"paper_assignment", group.paper_assignment},
                            {"paper_aggregation", group.paper_aggregation},
                            {"reconstruction", config.reconstruction},
                            {"mask_ratio", config.mask_ratio},
                            {"reconstruction_layers", config.reconstruction_layers},
                            {"decoder_width", config.decoder_width},
                            {"decoder_layers", config.decoder_layers},
                            {"decoder_heads", config.decoder_heads},
                            {"paper_reconstruction", config.paper_reconstruction},
                            {"paper_superpixels", config.paper_superpixels}};
  return json;
}

namespace detail {

inline SegclipConfig segclip_config_from_json(const io::JsonView& json, const ClipConfig& towers) {
  SegclipConfig config;
  config.vision = towers.vision;
  config.text = towers.text;
  config.initial_logit_scale = towers.initial_logit_scale;
  if (!json.has("segclip_config")) return config;  // the official sizes
  const io::JsonView own = json["segclip_config"];
  const auto whole = [&](const char* name, int64_t usual, int64_t low, int64_t high) {
    return own.has(name) ? own.get<int64_t>(name, low, high) : usual;
  };
  auto& group = config.group;
  config.group_layer = whole("group_layer", config.group_layer, 0, 1000);
  group.centres = whole("centres", group.centres, 1, 65536);
  group.cross_layers = whole("cross_layers", group.cross_layers, 0, 1000);
  group.temperature = own.get_or<double>("temperature", group.temperature);
  group.keys_mixed_over_batch = own.get_or<bool>("keys_mixed_over_batch", false);
  group.hard = own.get_or<bool>("hard", true);
  group.paper_keys = own.get_or<bool>("paper_keys", false);
  group.paper_assignment = own.get_or<bool>("paper_assignment", false);
  group.paper_aggregation = own.get_or<bool>("paper_aggregation", false);
  config.reconstruction = own.get_or<bool>("reconstruction", true);
  config.mask_ratio = own.get_or<double>("mask_ratio", config.mask_ratio);
  config.reconstruction_layers = whole("reconstruction_layers", config.reconstruction_layers, 1, 1000);
  config.decoder_width = whole("decoder_width", config.decoder_width, 4, largest_extent);
  config.decoder_layers = whole("decoder_layers", config.decoder_layers, 1, 1000);
  config.decoder_heads = whole("decoder_heads", config.decoder_heads, 1, 4096);
  config.paper_reconstruction = own.get_or<bool>("paper_reconstruction", false);
  config.paper_superpixels = own.get_or<bool>("paper_superpixels", false);
  return config;
}

}  // namespace detail

/// Saves the model as a folder. `prompts` as for save_clip.
template <class T, class Device>
void save_segclip(Segclip<T, Device>& model, const ImageStatistics& statistics, const std::filesystem::path& folder,
                  const std::string& prompts = "") {
  detail::save_folder(model, own_names, segclip_config_to_json(model.config), prompts, statistics, folder);
}

/// A model, and how its pictures are normalised.
template <class T, class Device = Cpu>
struct LoadedSegclip {
  Segclip<T, Device> model;
  ImageStatistics statistics;
};

/// Loads what save_segclip wrote, or the official weights in a safetensors file with a config.json beside it: a folder,
/// or the file. The fixed positions of the official decoder are computed, not read. Throws IoError with a sentence.
template <class T, class Device>
LoadedSegclip<T, Device> load_segclip(Context<Device>& ctx, const std::filesystem::path& path) {
  const ModelFolder folder = open_model_folder(path, "segclip");
  const SegclipConfig config = detail::segclip_config_from_json(folder.config(), folder.towers(true, true));
  LoadedSegclip<T, Device> loaded{make_segclip<T>(ctx, config, nn::Initialisation::none), folder.statistics};
  if (folder.weights.contains("clip.visual.conv1.bias"))  // CLIP's patches have none, PACL's do
    loaded.model.visual.conv1.bias = nn::unset<accumulate_t<T>, 1>(ctx, {config.vision.transformer.width});
  load_module(loaded.model, folder.weights, own_names, {.ignore = {"vis_mae_decoder.decoder_pos_embed"}});
  return loaded;
}

}  // namespace tessera::systems
