// CLIP's checkpoints: a Hugging Face directory (config.json, model.safetensors), and OpenAI's or OpenCLIP's parameter
// names in one safetensors file. Tessera's own names are OpenAI's; Hugging Face splits the packed query/key/value
// projection in three and stores the two output projections transposed.
#pragma once
#include <array>
#include <filesystem>
#include <optional>

#include <tessera/data/statistics.hpp>
#include <tessera/io/checkpoint.hpp>
#include <tessera/systems/clip.hpp>

namespace tessera::systems {

using data::ImageStatistics;

/// Where one parameter of ours, or a run of its rows, is stored.
struct StoredPart {
  std::string name;
  std::vector<int64_t> shape;
  int64_t offset = 0;       ///< of its first element in our parameter
  bool transposed = false;  ///< stored as the transpose of our matrix
};
/// Names the stored parts of the parameter with our name and shape.
using ParameterNaming = std::function<std::vector<StoredPart>(const std::string&, const std::vector<int64_t>&)>;

/// Tessera's own names, which are OpenAI's: every parameter as it is.
inline std::vector<StoredPart> own_names(const std::string& name, const std::vector<int64_t>& shape) {
  return {{name, shape}};
}

namespace detail {

inline bool replace(std::string& text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  if (at == std::string::npos) return false;
  text.replace(at, from.size(), to);
  return true;
}

/// The parts of a packed projection of queries, keys and values; their names stand in place of the name's "@".
inline std::vector<StoredPart> packed_thirds(const std::string& name, const std::vector<int64_t>& shape,
                                             const std::array<const char*, 3>& which) {
  std::vector<StoredPart> parts;
  std::vector<int64_t> third = shape;
  third.at(0) /= 3;
  int64_t size = 1;
  for (int64_t extent : third) size *= extent;
  for (const char* one : which) {
    std::string part = name;
    replace(part, "@", one);
    parts.push_back({part, third, int64_t(parts.size()) * size, false});
  }
  return parts;
}

/// Activations by the names of Hugging Face's configurations.
inline Activation activation_from_name(const io::JsonView& config, const std::string& otherwise) {
  const std::string name = config.get_or<std::string>("hidden_act", otherwise);
  if (name == "quick_gelu") return Activation::quick_gelu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::gelu_tanh;
  if (name == "relu") return Activation::relu;
  fail<IoError>(config.name(), ".hidden_act is \"", name, "\"; known are quick_gelu, gelu, gelu_pytorch_tanh and relu");
}
inline std::string activation_config_name(Activation activation) {
  return activation == Activation::gelu_tanh ? "gelu_pytorch_tanh" : std::string(activation_name(activation));
}

inline constexpr int64_t largest_extent = int64_t(1) << 20;

inline nn::TransformerConfig huggingface_tower(const io::JsonView& c, int64_t width, int64_t hidden, int64_t heads,
                                               const char* activation = "quick_gelu", double epsilon = 1e-5) {
  nn::TransformerConfig t;
  t.width = c.has("hidden_size") ? c.get<int64_t>("hidden_size", 1, largest_extent) : width;
  t.mlp_width = c.has("intermediate_size") ? c.get<int64_t>("intermediate_size", 1, largest_extent) : hidden;
  t.layers = c.has("num_hidden_layers") ? c.get<int64_t>("num_hidden_layers", 1, 1000) : 12;
  t.heads = c.has("num_attention_heads") ? c.get<int64_t>("num_attention_heads", 1, 4096) : heads;
  t.activation = activation_from_name(c, activation);
  t.epsilon = c.get_or<double>("layer_norm_eps", epsilon);
  require<IoError>(t.epsilon > 0 && t.epsilon < 1, c.name(), ".layer_norm_eps is ", t.epsilon,
                   "; it must lie between 0 and 1");
  require<IoError>(t.width % t.heads == 0, c.name(), ": hidden_size ", t.width, " is not a multiple of ", t.heads,
                   " attention heads");
  return t;
}

}  // namespace detail

/// Hugging Face's names of CLIP's parameters.
inline std::vector<StoredPart> huggingface_names(const std::string& name, const std::vector<int64_t>& shape) {
  using detail::replace;
  const auto transpose = [&](std::string stored) {
    return std::vector<StoredPart>{{std::move(stored), {shape.at(1), shape.at(0)}, 0, true}};
  };
  if (name == "logit_scale") return {{name, shape}};
  if (name == "text_projection") return transpose("text_projection.weight");
  if (name == "visual.proj") return transpose("visual_projection.weight");
  if (name == "token_embedding.weight") return {{"text_model.embeddings.token_embedding.weight", shape}};
  if (name == "positional_embedding") return {{"text_model.embeddings.position_embedding.weight", shape}};
  if (name == "visual.class_embedding") return {{"vision_model.embeddings.class_embedding", shape}};
  if (name == "visual.positional_embedding") return {{"vision_model.embeddings.position_embedding.weight", shape}};
  if (name == "visual.conv1.weight") return {{"vision_model.embeddings.patch_embedding.weight", shape}};
  std::string stored = name;
  const bool visual = stored.starts_with("visual.");
  if (visual) stored.erase(0, 7);
  stored = (visual ? "vision_model." : "text_model.") + stored;
  replace(stored, "ln_pre", "pre_layrnorm");  // so spelled in the checkpoints
  replace(stored, "ln_post", "post_layernorm");
  replace(stored, "ln_final", "final_layer_norm");
  replace(stored, "transformer.resblocks.", "encoder.layers.");
  replace(stored, ".ln_1.", ".layer_norm1.");
  replace(stored, ".ln_2.", ".layer_norm2.");
  replace(stored, ".mlp.c_fc.", ".mlp.fc1.");
  replace(stored, ".mlp.c_proj.", ".mlp.fc2.");
  if (replace(stored, ".attn.in_proj_", ".self_attn.@_proj."))
    return detail::packed_thirds(stored, shape, {"q", "k", "v"});
  replace(stored, ".attn.out_proj.", ".self_attn.out_proj.");
  return {{stored, shape}};
}

/// Fills a module's parameters from `source`, whose names are `naming`'s. Throws IoError that lists all that is
/// missing, mis-shaped or unknown.
template <class Module>
void load_module(Module& module, const io::TensorSource& source, const ParameterNaming& naming,
                 const io::LoadOptions& options = {}) {
  std::vector<io::WantedParameter> wanted;
  nn::for_each_parameter(module, [&]<class P>(const std::string& name, P& parameter) {
    using T = typename P::value_type;
    using Device = typename std::decay_t<decltype(parameter.value())>::device_type;
    const auto& shape = parameter.shape();
    for (StoredPart& part : naming(name, {shape.begin(), shape.end()})) {
      const auto set = [&value = parameter.state().value, part](const AnyTensor& tensor) {
        std::vector<T> values(size_t(tensor.size()));
        io::convert_elements(tensor, values.data(), part.name);
        if (part.transposed) {
          const size_t rows = size_t(part.shape[1]), columns = size_t(part.shape[0]);
          std::vector<T> turned(values.size());
          for (size_t r = 0; r < rows; ++r)
            for (size_t c = 0; c < columns; ++c) turned[r * columns + c] = values[c * rows + r];
          values = std::move(turned);
        }
        Memory<Device>::from_host(value.data + part.offset, values.data(), values.size() * sizeof(T));
      };
      wanted.push_back({part.name, part.shape, set});
    }
  });
  io::load_parameters(source, wanted, options);
}

/// A module's parameters as `naming` stores them: the inverse of load_module.
template <class Module>
std::vector<io::NamedTensor> stored_parameters(Module& module, const ParameterNaming& naming) {
  std::vector<io::NamedTensor> tensors;
  nn::for_each_parameter(module, [&]<class P>(const std::string& name, P& parameter) {
    using T = typename P::value_type;
    const auto values = std::make_shared<std::vector<T>>(to_host(view(parameter.value())));
    const auto& shape = parameter.shape();
    for (StoredPart& part : naming(name, {shape.begin(), shape.end()})) {
      std::shared_ptr<std::vector<T>> stored = values;
      if (part.transposed) {
        const size_t rows = size_t(part.shape[1]), columns = size_t(part.shape[0]);
        stored = std::make_shared<std::vector<T>>(values->size());
        for (size_t r = 0; r < rows; ++r)
          for (size_t c = 0; c < columns; ++c) (*stored)[c * rows + r] = (*values)[r * columns + c];
      }
      const std::shared_ptr<const void> storage(stored, stored->data() + part.offset);
      tensors.push_back({part.name, AnyTensor{dtype_of<T>, part.shape, storage}});
    }
  });
  return tensors;
}

// ---- configurations -------------------------------------------------------------------------------------------------

/// The configuration of a Hugging Face CLIP from its config.json; what the file leaves out has transformers' defaults.
inline ClipConfig clip_config_from_huggingface(const io::JsonView& json) {
  using detail::largest_extent;
  ClipConfig config;
  const io::JsonView vision = json["vision_config"], text = json["text_config"];
  const int64_t embed = json.has("projection_dim") ? json.get<int64_t>("projection_dim", 1, largest_extent) : 512;
  config.vision.transformer = detail::huggingface_tower(vision, 768, 3072, 12);
  config.vision.image_size = vision.has("image_size") ? vision.get<int64_t>("image_size", 1, 16384) : 224;
  config.vision.patch_size = vision.has("patch_size") ? vision.get<int64_t>("patch_size", 1, 1024) : 32;
  config.vision.channels = vision.has("num_channels") ? vision.get<int64_t>("num_channels", 1, 64) : 3;
  config.vision.embed_dim = config.text.embed_dim = embed;
  require<IoError>(config.vision.image_size % config.vision.patch_size == 0, vision.name(), ": image_size ",
                   config.vision.image_size, " is not a multiple of patch_size ", config.vision.patch_size);
  config.text.transformer = detail::huggingface_tower(text, 512, 2048, 8);
  config.text.vocabulary_size = text.has("vocab_size") ? text.get<int64_t>("vocab_size", 1, 1 << 24) : 49408;
  config.text.context_length =
      text.has("max_position_embeddings") ? text.get<int64_t>("max_position_embeddings", 1, 65536) : 77;
  // 2 is what the first conversions wrote by mistake; with it transformers pools at the largest id, as OpenAI does.
  const int64_t end = text.get_or<int64_t>("eos_token_id", 49407);
  require<IoError>(end >= 0 && end < (1 << 24), text.name(), ".eos_token_id is ", end,
                   "; it must be the number of a token");
  config.text.end_of_text = end == 2 ? -1 : end;
  const auto token = [&](const char* name, int64_t usual) {
    const bool stated_unknown = text.json().contains(name) && text.json()[name].is_null();
    const int64_t id = stated_unknown ? -1 : text.get_or<int64_t>(name, usual);
    return id >= 0 && id < config.text.vocabulary_size ? id : -1;
  };
  config.text.start_of_text = token("bos_token_id", 49406);
  config.text.padding = token("pad_token_id", 1);
  config.initial_logit_scale = json.get_or<double>("logit_scale_init_value", config.initial_logit_scale);
  return config;
}

/// The configuration that OpenAI's parameter names and shapes imply; `activation` they do not tell. Heads are taken to
/// be 64 channels wide, as CLIP's are; 0 heads where that cannot be.
inline ClipConfig clip_config_from_shapes(const io::TensorSource& source, Activation activation) {
  const auto shape = [&](const std::string& name, size_t rank) -> const std::vector<int64_t>& {
    require<IoError>(
        source.contains(name), source.description(), " has no parameter ", name,
        ": it is no CLIP with a ViT under OpenAI's names (a Hugging Face CLIP needs its config.json beside it)");
    const auto& s = source.shape(name);
    bool fits = s.size() == rank;
    for (int64_t extent : s) fits = fits && extent > 0;
    require<IoError>(fits, source.description(), ": ", name, " is ", to_string(s), "; it must have ", rank, " axes");
    return s;
  };
  const auto layers = [&](const std::string& prefix) {
    int64_t count = 0;
    while (source.contains(sentence(prefix, "transformer.resblocks.", count, ".attn.in_proj_weight"))) ++count;
    require<IoError>(count > 0, source.description(), " has no ", prefix,
                     "transformer.resblocks.0.attn.in_proj_weight");
    return count;
  };
  const auto tower = [&](const std::string& prefix, int64_t width) {
    nn::TransformerConfig t;
    t.width = width;
    t.layers = layers(prefix);
    t.mlp_width = shape(prefix + "transformer.resblocks.0.mlp.c_fc.weight", 2)[0];
    t.activation = activation;
    t.heads = width % 64 == 0 ? width / 64 : 0;
    return t;
  };
  ClipConfig config;
  const auto& kernel = shape("visual.conv1.weight", 4);
  const int64_t positions = shape("visual.positional_embedding", 2)[0];
  const int64_t grid = int64_t(std::lround(std::sqrt(double(positions - 1))));
  require<IoError>(grid * grid + 1 == positions, source.description(), ": visual.positional_embedding has ", positions,
                   " rows, not one more than a square");
  config.vision.transformer = tower("visual.", kernel[0]);
  config.vision.channels = kernel[1];
  config.vision.patch_size = kernel[3];
  config.vision.image_size = grid * kernel[3];
  config.vision.embed_dim = config.text.embed_dim = shape("text_projection", 2)[1];
  config.text.transformer = tower("", shape("ln_final.weight", 1)[0]);
  config.text.context_length = shape("positional_embedding", 2)[0];
  config.text.vocabulary_size = shape("token_embedding.weight", 2)[0];
  return config;
}

namespace detail {

/// Settings of one tower of an OpenCLIP model that its parameters do not tell: what is not CLIP's is refused, epsilon
/// is taken.
inline void apply_open_clip_tower(nn::TransformerConfig& tower, const io::JsonView& json, const std::string& pooling) {
  const std::string pool = json.get_or<std::string>("pool_type", pooling);
  require<IoError>(pool == pooling, json.name(), ".pool_type is \"", pool, "\"; only CLIP's own, \"", pooling,
                   "\", is known");
  require<IoError>(!json.get_or<bool>("no_causal_mask", false), json.name(),
                   ".no_causal_mask is set; CLIP's text tower is causal");
  if (json.has("norm_kwargs") && !json["norm_kwargs"].json().is_null())
    tower.epsilon = json["norm_kwargs"].get_or<double>("eps", tower.epsilon);
}

}  // namespace detail

/// OpenCLIP's open_clip_config.json corrects what shapes do not tell: activation, heads and epsilon.
inline void apply_open_clip_config(ClipConfig& config, const io::JsonView& json) {
  const io::JsonView model = json["model_cfg"];
  if (model.has("vision_cfg")) detail::apply_open_clip_tower(config.vision.transformer, model["vision_cfg"], "tok");
  if (model.has("text_cfg")) detail::apply_open_clip_tower(config.text.transformer, model["text_cfg"], "argmax");
  const Activation activation = model.get_or<bool>("quick_gelu", false) ? Activation::quick_gelu : Activation::gelu;
  config.vision.transformer.activation = config.text.transformer.activation = activation;
  if (model.has("vision_cfg")) {
    const int64_t head_width = model["vision_cfg"].get_or<int64_t>("head_width", 64);
    require<IoError>(head_width > 0 && config.vision.transformer.width % head_width == 0, model.name(),
                     ": vision_cfg.head_width ", head_width, " does not divide the width ",
                     config.vision.transformer.width);
    config.vision.transformer.heads = config.vision.transformer.width / head_width;
  }
  if (model.has("text_cfg")) {
    const io::JsonView text = model["text_cfg"];
    config.text.transformer.heads = text.has("heads") ? text.get<int64_t>("heads", 1, 4096) : 8;
    require<IoError>(config.text.transformer.width % config.text.transformer.heads == 0, model.name(),
                     ": text_cfg.heads ", config.text.transformer.heads, " does not divide the width ",
                     config.text.transformer.width);
  }
}

// ---- loading and saving ---------------------------------------------------------------------------------------------

/// What a checkpoint says about itself in config.json.
struct CheckpointDescription {
  std::string model_type;  ///< empty: no config.json, or it names none
  /// How the model was asked in training, "prompts" in config.json: a prompt set's name or a template with {}; empty
  /// where not stated.
  std::string prompts;
  std::filesystem::path folder;
};

/// Throws IoError for a path where nothing is, or a config.json that is none.
inline CheckpointDescription describe_checkpoint(const std::filesystem::path& checkpoint) {
  std::error_code ignored;
  require<IoError>(std::filesystem::exists(checkpoint, ignored), "there is no checkpoint ", checkpoint.string(),
                   "; name a folder with config.json and model.safetensors, or a .safetensors file");
  CheckpointDescription description;
  description.folder = std::filesystem::is_directory(checkpoint, ignored) ? checkpoint : checkpoint.parent_path();
  const std::filesystem::path config = description.folder / "config.json";
  if (!std::filesystem::exists(config, ignored)) return description;
  const io::Json document = io::read_json(config);
  const io::JsonView json(document, config.string());
  description.model_type = json.get_or("model_type", "");
  description.prompts =
      json.get_or("prompts", json.get_or("prompt_template", "").c_str());  // the latter in older models
  return description;
}

/// A model, and how its pictures are normalised.
template <class T, class Device = Cpu>
struct LoadedClip {
  Clip<T, Device> model;
  ImageStatistics statistics;
};

namespace detail {

inline ImageStatistics read_statistics(const io::JsonView& json, const char* mean, const char* deviation,
                                       ImageStatistics statistics = {}) {
  for (size_t c = 0; c < 3; ++c) {
    if (json.has(mean)) statistics.mean[c] = json[mean][c].as<float>();
    if (json.has(deviation)) statistics.deviation[c] = json[deviation][c].as<float>();
    require<IoError>(statistics.deviation[c] > 0, json.name(), ": ", deviation, " must be positive");
  }
  return statistics;
}

/// Refuses a configuration of a model much larger than the file, before memory is asked for. (Smaller differences are
/// left to load_module, which names each parameter that does not fit.)
inline void check_parameter_count(int64_t described, const std::string& what, const io::TensorSource& source) {
  int64_t stored = 0;
  for (const auto& name : source.names()) {
    int64_t elements = 1;
    for (int64_t extent : source.shape(name)) elements *= extent;
    stored += elements;
  }
  require<IoError>(described / 2 <= stored + (1 << 20), what, " describes a model of ", described, " parameters; ",
                   source.description(), " holds ", stored,
                   ": sizes in the configuration do not belong to these weights");
}
inline void check_parameter_count(const ClipConfig& config, const std::string& what, const io::TensorSource& source) {
  check_parameter_count(config.vision.parameter_count() + config.text.parameter_count(), what, source);
}

/// Buffers and dropped entries that published files carry beside the parameters.
inline std::vector<std::string> clip_ignored_names() {
  return {"*position_ids", "input_resolution", "context_length", "vocab_size", "*attn_mask"};
}

}  // namespace detail

/// Loads a CLIP from a Hugging Face directory, from a directory with OpenAI's or OpenCLIP's names
/// (open_clip_config.json beside the weights), or from one safetensors file with those names. `activation` is needed
/// where neither config.json nor open_clip_config.json tells it. Throws IoError with a sentence.
template <class T, class Device>
LoadedClip<T, Device> load_clip(Context<Device>& ctx, const std::filesystem::path& path,
                                std::optional<Activation> activation = {}) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path folder = fs::is_directory(path, ignored) ? path : path.parent_path();
  const fs::path config_path = folder / "config.json", open_clip_path = folder / "open_clip_config.json";
  const fs::path preprocessor_path = folder / "preprocessor_config.json";
  fs::path weights = path;
  if (fs::is_directory(path, ignored) && !fs::exists(path / "model.safetensors", ignored) &&
      fs::exists(path / "open_clip_model.safetensors", ignored))
    weights = path / "open_clip_model.safetensors";
  const io::TensorSource source = io::TensorSource::open(weights);
  const bool huggingface = source.contains("text_model.embeddings.token_embedding.weight");

  LoadedClip<T, Device> loaded;
  ClipConfig config;
  if (huggingface) {
    require<IoError>(fs::exists(config_path, ignored), source.description(),
                     " has Hugging Face's parameter names, but there is no config.json beside it");
    const io::Json document = io::read_json(config_path);
    const io::JsonView json(document, config_path.string());
    const std::string type = json.get_or<std::string>("model_type", "clip");
    require<IoError>(type == "clip", config_path.string(), ": model_type is \"", type, "\", not \"clip\"");
    config = clip_config_from_huggingface(json);
    if (fs::exists(preprocessor_path, ignored)) {
      const io::Json preprocessor = io::read_json(preprocessor_path);
      loaded.statistics =
          detail::read_statistics(io::JsonView(preprocessor, preprocessor_path.string()), "image_mean", "image_std");
    }
  } else {
    config = clip_config_from_shapes(source, activation.value_or(Activation::quick_gelu));
    if (fs::exists(open_clip_path, ignored)) {
      const io::Json document = io::read_json(open_clip_path);
      const io::JsonView json(document, open_clip_path.string());
      apply_open_clip_config(config, json);
      if (json.has("preprocess_cfg"))
        loaded.statistics = detail::read_statistics(json["preprocess_cfg"], "mean", "std");
    } else {
      require<IoError>(activation.has_value(), source.description(),
                       " has OpenAI's parameter names, which do not tell the activation: give --activation quick_gelu "
                       "(OpenAI's weights) or gelu (most of OpenCLIP's), or put open_clip_config.json beside the file");
    }
    for (const auto& [name, tower] : {std::pair{"image", config.vision.transformer}, {"text", config.text.transformer}})
      require<IoError>(tower.heads > 0, source.description(), ": width ", tower.width, " of the ", name,
                       " tower is not a multiple of 64, the width of CLIP's heads; put open_clip_config.json, which "
                       "tells the heads, beside the file");
  }
  if (activation) config.vision.transformer.activation = config.text.transformer.activation = *activation;
  detail::check_parameter_count(config, huggingface ? config_path.string() : source.description(), source);
  loaded.model = make_clip<T>(ctx, config, nn::Initialisation::none);
  load_module(loaded.model, source, huggingface ? ParameterNaming(huggingface_names) : ParameterNaming(own_names),
              {.ignore = detail::clip_ignored_names()});
  return loaded;
}

namespace detail {

inline io::Json tower_to_json(const nn::TransformerConfig& t) {
  return {{"hidden_size", t.width},
          {"intermediate_size", t.hidden()},
          {"num_hidden_layers", t.layers},
          {"num_attention_heads", t.heads},
          {"hidden_act", activation_config_name(t.activation)},
          {"layer_norm_eps", t.epsilon}};
}

/// The number of a token, or null where it is not known.
inline io::Json token_to_json(int64_t id) { return id < 0 ? io::Json() : io::Json(id); }

/// config.json in Hugging Face's form. Without bos and pad, transformers takes those of CLIP's vocabulary and warns
/// where a smaller one has no such ids.
inline io::Json clip_config_to_json(const ClipConfig& config, const std::string& model_type) {
  io::Json vision = tower_to_json(config.vision.transformer), text = tower_to_json(config.text.transformer);
  vision["image_size"] = config.vision.image_size;
  vision["patch_size"] = config.vision.patch_size;
  vision["num_channels"] = config.vision.channels;
  vision["projection_dim"] = config.vision.embed_dim;
  vision["model_type"] = model_type + "_vision_model";
  text["vocab_size"] = config.text.vocabulary_size;
  text["max_position_embeddings"] = config.text.context_length;
  text["projection_dim"] = config.text.embed_dim;
  text["bos_token_id"] = token_to_json(config.text.start_of_text);
  text["pad_token_id"] = token_to_json(config.text.padding);
  text["eos_token_id"] = config.text.end_of_text < 0 ? 2 : config.text.end_of_text;
  text["model_type"] = model_type + "_text_model";
  return {{"model_type", model_type},
          {"projection_dim", config.vision.embed_dim},
          {"logit_scale_init_value", config.initial_logit_scale},
          {"vision_config", vision},
          {"text_config", text}};
}

inline io::Json preprocessor_to_json(const ImageStatistics& statistics, int64_t image_size) {
  return {{"image_processor_type", "CLIPImageProcessor"},
          {"do_resize", true},
          {"size", {{"shortest_edge", image_size}}},
          {"resample", 3},
          {"do_center_crop", true},
          {"crop_size", {{"height", image_size}, {"width", image_size}}},
          {"do_normalize", true},
          {"image_mean", statistics.mean},
          {"image_std", statistics.deviation}};
}

/// Writes a model's folder. config.json goes first and comes back last: a folder that was left half-written is no
/// model.
template <class Model>
void save_folder(Model& model, const ParameterNaming& naming, io::Json config, const std::string& prompts,
                 const ImageStatistics& statistics, const std::filesystem::path& folder) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  require<IoError>(!failed, folder.string(), ": cannot make the folder: ", failed.message());
  std::filesystem::remove(folder / "config.json", failed);
  if (!prompts.empty()) config["prompts"] = prompts;
  io::write_safetensors(folder / "model.safetensors", stored_parameters(model, naming), {{"format", "pt"}});
  io::write_json(folder / "preprocessor_config.json", preprocessor_to_json(statistics, model.visual.config.image_size));
  io::write_json(folder / "config.json", config);
}

}  // namespace detail

/// The folder of a model that only tessera has: what save_folder wrote.
struct ModelFolder {
  std::filesystem::path config_path;
  io::Json document;
  io::TensorSource weights;
  ImageStatistics statistics;

  io::JsonView config() const { return {document, config_path.string()}; }
  /// Both towers, with the choices that Hugging Face's configurations do not have; `class_token` and `pre_norm` where
  /// the file does not tell.
  ClipConfig towers(bool class_token, bool pre_norm) const {
    ClipConfig towers = clip_config_from_huggingface(config());
    towers.vision.class_token = config()["vision_config"].get_or<bool>("class_token", class_token);
    towers.vision.pre_norm = config()["vision_config"].get_or<bool>("pre_norm", pre_norm);
    detail::check_parameter_count(towers, config().name(), weights);
    return towers;
  }
};

/// Opens a folder, or a .safetensors file with config.json beside it, whose model_type is `type`; `statistics` where
/// preprocessor_config.json does not tell. Throws IoError with a sentence.
inline ModelFolder open_model_folder(const std::filesystem::path& path, const std::string& type,
                                     const ImageStatistics& statistics = {}) {
  std::error_code ignored;
  const std::filesystem::path folder = std::filesystem::is_directory(path, ignored) ? path : path.parent_path();
  ModelFolder opened{folder / "config.json", io::read_json(folder / "config.json"), io::TensorSource::open(path),
                     statistics};
  const std::string stored = opened.config().get<std::string>("model_type");
  require<IoError>(stored == type, opened.config_path.string(), ": model_type is \"", stored, "\", not \"", type, "\"");
  const std::filesystem::path preprocessor_path = folder / "preprocessor_config.json";
  if (std::filesystem::exists(preprocessor_path, ignored)) {
    const io::Json preprocessor = io::read_json(preprocessor_path);
    opened.statistics = detail::read_statistics(io::JsonView(preprocessor, preprocessor_path.string()), "image_mean",
                                                "image_std", statistics);
  }
  return opened;
}

namespace detail {

/// config.json of a model that only tessera has.
inline io::Json own_config_to_json(const ClipConfig& config, const std::string& model_type) {
  io::Json json = clip_config_to_json(config, model_type);
  json["vision_config"]["class_token"] = config.vision.class_token;
  json["vision_config"]["pre_norm"] = config.vision.pre_norm;
  return json;
}

}  // namespace detail

/// Saves a CLIP as a Hugging Face directory that load_clip and transformers read: config.json, model.safetensors,
/// preprocessor_config.json. The tower must have CLIP's form (class token, ln_pre, no bias in the patch embedding).
/// `prompts`, a template or the name of a set, says how its nouns were asked in training (describe_checkpoint).
template <class T, class Device>
void save_clip(Clip<T, Device>& clip, const ImageStatistics& statistics, const std::filesystem::path& folder,
               const std::string& prompts = "") {
  require(clip.visual.config.class_token && clip.visual.config.pre_norm && !clip.visual.conv1.bias,
          "save_clip: this image tower has not CLIP's form (class token, ln_pre, no patch bias)");
  detail::save_folder(clip, huggingface_names, detail::clip_config_to_json(clip.config(), "clip"), prompts, statistics,
                      folder);
}

}  // namespace tessera::systems
