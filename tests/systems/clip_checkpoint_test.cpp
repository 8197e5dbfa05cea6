// Checkpoints of CLIP under OpenAI's and OpenCLIP's parameter names, against open_clip's own results; sharded, in half
// precision, with what published files carry besides, and damaged ones.
#include <tessera/systems/clip_checkpoint.hpp>

#include <io/folder.hpp>
#include <support/modules.hpp>

using namespace tessera;
using namespace tessera::systems;
using namespace tessera_test;
namespace fs = std::filesystem;

namespace {

const fs::path reference = fs::path(TESSERA_TEST_DIR) / "golden" / "open_clip";
const fs::path huggingface = fs::path(TESSERA_TEST_DIR) / "golden" / "clip" / "quick_gelu";

std::vector<io::NamedTensor> stored_tensors(const fs::path& file) {
  const auto source = io::TensorSource::open(file);
  std::vector<io::NamedTensor> tensors;
  for (const auto& name : source.names()) tensors.push_back({name, source.get(name)});
  return tensors;
}
std::vector<io::NamedTensor> stored_tensors() { return stored_tensors(reference / "open_clip_model.safetensors"); }

AnyTensor values(std::vector<int64_t> shape, std::vector<float> numbers) {
  const auto kept = std::make_shared<std::vector<float>>(std::move(numbers));
  return {Dtype::f32, std::move(shape), {kept, kept->data()}};
}
AnyTensor zeros(std::vector<int64_t> shape) {
  int64_t size = 1;
  for (int64_t extent : shape) size *= extent;
  return values(shape, std::vector<float>(size_t(size)));
}
template <class To>
AnyTensor as(const AnyTensor& tensor) {
  const auto kept = std::make_shared<std::vector<To>>(io::to_vector<To>(tensor, "test"));
  return {dtype_of<To>, tensor.shape, {kept, kept->data()}};
}

// Largest difference to open_clip's embeddings of its pictures and texts.
double error_of(Context<Cpu>& ctx, const Clip<float>& clip) {
  const auto expected = io::TensorSource::open(reference / "expected.safetensors");
  Tape<Cpu> tape(ctx, false);
  const Variable<float, 4> images(expected.read<float, 4>(ctx, "pixel_values"));
  const auto ids = expected.read<int32_t, 2>(ctx, "input_ids");
  const auto image = l2_normalise(tape, clip.encode_image(tape, images)).value();
  const auto text = l2_normalise(tape, clip.encode_text(tape, ids)).value();
  return std::max(largest_difference(to_host(view(image)), expected.read_vector<float>("image_embeds")),
                  largest_difference(to_host(view(text)), expected.read_vector<float>("text_embeds")));
}

// A CLIP with heads of 64 channels under OpenAI's names: what a single file alone can tell.
ClipConfig two_heads() {
  ClipConfig config;
  config.vision = {.image_size = 8,
                   .patch_size = 4,
                   .transformer = {.width = 128, .layers = 1, .heads = 2, .mlp_width = 20},
                   .embed_dim = 6};
  config.text = {.vocabulary_size = 13,
                 .context_length = 5,
                 .transformer = {.width = 64, .layers = 2, .heads = 1, .mlp_width = 10},
                 .embed_dim = 6};
  return config;
}

}  // namespace

TEST_CASE("clip checkpoint: an OpenCLIP folder, with what its config tells", "[systems]") {
  auto ctx = nan_filled_context();
  const auto loaded = load_clip<float>(ctx, reference);
  const auto config = loaded.model.config();
  CHECK(config.vision.transformer.heads == 2);  // head_width 8, not 64
  CHECK(config.vision.transformer.mlp_width == 48);
  CHECK(config.vision.transformer.activation == Activation::gelu);
  CHECK(config.vision.image_size == 12);
  CHECK(config.text.transformer.heads == 3);
  CHECK(config.text.context_length == 7);
  CHECK(config.text.vocabulary_size == 30);
  CHECK(loaded.statistics.mean == std::array<float, 3>{0.5f, 0.25f, 0.125f});
  CHECK(loaded.statistics.deviation == std::array<float, 3>{0.25f, 0.5f, 1.0f});
  CHECK(error_of(ctx, loaded.model) < 2e-6);
  // the file itself, named
  CHECK(error_of(ctx, load_clip<float>(ctx, reference / "open_clip_model.safetensors").model) < 2e-6);
  // an activation that is given wins
  CHECK(error_of(ctx, load_clip<float>(ctx, reference, Activation::quick_gelu).model) > 1e-4);
}

TEST_CASE("clip checkpoint: one file under OpenAI's names needs the activation, and the error says so", "[systems]") {
  auto ctx = nan_filled_context();
  const Folder folder;
  auto clip = make_clip<float>(ctx, two_heads());
  randomise(clip);
  io::write_safetensors(folder / "clip.safetensors", stored_parameters(clip, own_names));
  REQUIRE_ERROR(load_clip<float>(ctx, folder / "clip.safetensors"), IoError,
                "which do not tell the activation: give --activation quick_gelu (OpenAI's weights) or gelu");
  auto loaded = load_clip<float>(ctx, folder / "clip.safetensors", Activation::gelu).model;
  CHECK(parameter_values(loaded) == parameter_values(clip));
  const auto config = loaded.config();
  CHECK(config.vision.transformer.heads == 2);
  CHECK(config.text.transformer.heads == 1);
  CHECK(config.text.transformer.layers == 2);
  CHECK(config.vision.transformer.activation == Activation::gelu);
  CHECK(config.text.transformer.activation == Activation::gelu);
  CHECK(config.text.end_of_text == -1);
  CHECK(config.vision.image_size == 8);
}

TEST_CASE("clip checkpoint: widths without a config must be multiples of CLIP's head width", "[systems]") {
  auto ctx = nan_filled_context();
  const Folder folder;
  io::write_safetensors(folder / "clip.safetensors", stored_tensors());
  REQUIRE_ERROR(load_clip<float>(ctx, folder / "clip.safetensors", Activation::gelu), IoError,
                "width 16 of the image tower is not a multiple of 64");
}

TEST_CASE("clip checkpoint: half precision, and the entries that published files carry besides", "[systems]") {
  auto ctx = nan_filled_context();
  const Folder folder;
  fs::copy_file(reference / "open_clip_config.json", folder / "open_clip_config.json");
  auto tensors = stored_tensors();
  for (auto& [name, tensor] : tensors)  // as OpenAI stores them: matrices in half precision
    if (tensor.shape.size() >= 2 && name.find("embedding") == std::string::npos) tensor = as<float16>(tensor);
  tensors.push_back({"input_resolution", zeros({})});
  tensors.push_back({"context_length", zeros({})});
  tensors.push_back({"vocab_size", zeros({})});
  tensors.push_back({"attn_mask", zeros({7, 7})});
  io::write_safetensors(folder / "model.safetensors", tensors);
  const double error = error_of(ctx, load_clip<float>(ctx, folder.path()).model);
  CHECK(error > 1e-6);
  CHECK(error < 5e-3);
}

TEST_CASE("clip checkpoint: in several files with an index", "[systems]") {
  auto ctx = nan_filled_context();
  const Folder folder;
  fs::copy_file(reference / "open_clip_config.json", folder / "open_clip_config.json");
  const auto tensors = stored_tensors();
  io::Json index;
  for (size_t part = 0; part < 3; ++part) {
    std::vector<io::NamedTensor> some;
    const std::string file = "model-" + std::to_string(part) + ".safetensors";
    for (size_t i = part; i < tensors.size(); i += 3) {
      some.push_back(tensors[i]);
      index["weight_map"][tensors[i].name] = file;
    }
    io::write_safetensors(folder / file, some);
  }
  io::write_json(folder / "model.safetensors.index.json", index);
  CHECK(error_of(ctx, load_clip<float>(ctx, folder.path()).model) < 2e-6);
  CHECK(error_of(ctx, load_clip<float>(ctx, folder / "model.safetensors.index.json").model) < 2e-6);
  fs::remove(folder / "model-1.safetensors");
  REQUIRE_ERROR(load_clip<float>(ctx, folder.path()), IoError, "model-1.safetensors");
}

TEST_CASE("clip checkpoint: all that does not fit is listed at once, and nothing is loaded", "[systems]") {
  auto ctx = nan_filled_context();
  const Folder folder;
  fs::copy_file(huggingface / "config.json", folder / "config.json");
  auto tensors = stored_tensors(huggingface / "model.safetensors");
  for (auto& [name, tensor] : tensors) {
    if (name == "visual_projection.weight") tensor = zeros({24, 14});  // transposed
    if (name == "text_projection.weight") name = "text_projektion.weight";
    if (name == "vision_model.post_layernorm.bias") name = "vision_model.post_layernorm.offset";
  }
  io::write_safetensors(folder / "model.safetensors", tensors);
  for (const std::string part :
       {"2 missing: ", "text_projection.weight", "vision_model.post_layernorm.bias",
        "1 of another shape: ", "visual_projection.weight is [24, 14] but must be [14, 24]",
        "2 unknown to the model: ", "text_projektion.weight", "vision_model.post_layernorm.offset"})
    REQUIRE_ERROR(load_clip<float>(ctx, folder.path()), IoError, part);
}

TEST_CASE("clip checkpoint: folders that hold no CLIP are refused with a sentence", "[systems]") {
  auto ctx = nan_filled_context();
  const Folder folder;
  REQUIRE_ERROR(load_clip<float>(ctx, folder.path()), IoError, "neither model.safetensors nor");
  io::write_safetensors(folder / "model.safetensors", {{"weight", zeros({2})}});
  REQUIRE_ERROR(load_clip<float>(ctx, folder.path(), Activation::gelu), IoError, "it is no CLIP with a ViT");
  fs::copy_file(huggingface / "model.safetensors", folder / "model.safetensors", fs::copy_options::overwrite_existing);
  REQUIRE_ERROR(load_clip<float>(ctx, folder.path()), IoError, "no config.json beside it");
  auto config = io::read_json(huggingface / "config.json");
  const auto with = [&](const char* tower, const char* key, const io::Json& value) {
    auto changed = config;
    (*tower ? changed[tower][key] : changed[key]) = value;
    io::write_json(folder / "config.json", changed);
    return folder.path();
  };
  REQUIRE_ERROR(load_clip<float>(ctx, with("", "model_type", "siglip")), IoError, "model_type is \"siglip\"");
  REQUIRE_ERROR(load_clip<float>(ctx, with("vision_config", "hidden_act", "silu")), IoError, "hidden_act is \"silu\"");
  REQUIRE_ERROR(load_clip<float>(ctx, with("vision_config", "num_attention_heads", 5)), IoError, "not a multiple of 5");
  REQUIRE_ERROR(load_clip<float>(ctx, with("vision_config", "image_size", 21)), IoError, "image_size 21");
  REQUIRE_ERROR(load_clip<float>(ctx, with("text_config", "hidden_size", -4)), IoError, "hidden_size");
  REQUIRE_ERROR(load_clip<float>(ctx, with("text_config", "hidden_size", "wide")), IoError, "hidden_size");
  CHECK(load_clip<float>(ctx, with("", "model_type", "clip")).model.text.config.end_of_text == 70);
}

TEST_CASE("clip checkpoint: the tokens of texts are stated in config.json and kept", "[systems]") {
  Context<Cpu> ctx;
  const Folder folder;
  const auto saved = [&](int64_t start, int64_t end, int64_t padding) {
    auto config = two_heads();
    config.text.start_of_text = start;
    config.text.end_of_text = end;
    config.text.padding = padding;
    auto clip = make_clip<float>(ctx, config);
    save_clip(clip, {}, folder.path());
    return io::read_json(folder / "config.json")["text_config"];
  };
  const auto loaded = [&] { return load_clip<float>(ctx, folder.path()).model.text.config; };
  const auto known = saved(11, 12, 0);
  CHECK(known["bos_token_id"] == 11);
  CHECK(known["eos_token_id"] == 12);
  CHECK(known["pad_token_id"] == 0);
  CHECK(loaded().start_of_text == 11);
  CHECK(loaded().padding == 0);
  // null, not absent: an absent one would mean CLIP's 49406, which 13 words do not have
  const auto unknown = saved(-1, -1, -1);
  CHECK((unknown.contains("bos_token_id") && unknown["bos_token_id"].is_null()));
  CHECK((unknown.contains("pad_token_id") && unknown["pad_token_id"].is_null()));
  CHECK(loaded().start_of_text == -1);
  CHECK(loaded().padding == -1);
  const auto published = load_clip<float>(ctx, huggingface).model.text.config;
  CHECK(published.start_of_text == 0);
  CHECK(published.padding == 1);
}

TEST_CASE("clip checkpoint: OpenCLIP models that compute otherwise are refused", "[systems]") {
  auto ctx = nan_filled_context();
  const Folder folder;
  fs::copy_file(reference / "open_clip_model.safetensors", folder / "open_clip_model.safetensors");
  const auto config = io::read_json(reference / "open_clip_config.json");
  const auto with = [&](const char* tower, const char* key, const io::Json& value) {
    auto changed = config;
    changed["model_cfg"][tower][key] = value;
    io::write_json(folder / "open_clip_config.json", changed);
    return folder.path();
  };
  REQUIRE_ERROR(load_clip<float>(ctx, with("vision_cfg", "pool_type", "avg")), IoError, "pool_type is \"avg\"");
  REQUIRE_ERROR(load_clip<float>(ctx, with("text_cfg", "pool_type", "last")), IoError, "pool_type is \"last\"");
  REQUIRE_ERROR(load_clip<float>(ctx, with("text_cfg", "no_causal_mask", true)), IoError, "no_causal_mask");
  REQUIRE_ERROR(load_clip<float>(ctx, with("vision_cfg", "head_width", 5)), IoError, "head_width 5 does not divide");
  REQUIRE_ERROR(load_clip<float>(ctx, with("text_cfg", "heads", 5)), IoError, "heads 5 does not divide");
  const auto loaded = load_clip<float>(ctx, with("vision_cfg", "norm_kwargs", {{"eps", 1e-6}}));
  CHECK(loaded.model.visual.ln_post.epsilon == 1e-6);
  CHECK(loaded.model.text.ln_final.epsilon == 1e-5);
}

TEST_CASE("clip checkpoint: Hugging Face's names, all of them, each once", "[systems]") {
  auto ctx = nan_filled_context();
  auto loaded = load_clip<float>(ctx, huggingface);
  std::set<std::string> ours, theirs;
  for (const auto& [name, tensor] : stored_parameters(loaded.model, huggingface_names)) CHECK(ours.insert(name).second);
  for (const auto& [name, tensor] : stored_tensors(huggingface / "model.safetensors")) theirs.insert(name);
  CHECK(ours == theirs);
}

TEST_CASE("clip checkpoint: what save_clip writes loads to the same model, in bfloat16 too", "[systems]") {
  auto ctx = nan_filled_context();
  const Folder folder;
  const ImageStatistics statistics{{0.1f, 0.2f, 0.3f}, {0.4f, 0.5f, 0.6f}};
  auto config = two_heads();
  config.text.end_of_text = 12;
  config.vision.transformer.activation = config.text.transformer.activation = Activation::gelu_tanh;
  config.vision.transformer.epsilon = 3e-4;
  auto clip = make_clip<bfloat16>(ctx, config);
  randomise(clip);
  save_clip(clip, statistics, folder.path());
  auto loaded = load_clip<bfloat16>(ctx, folder.path());
  CHECK(parameter_values(loaded.model) == parameter_values(clip));
  CHECK(loaded.statistics.mean == statistics.mean);
  CHECK(loaded.statistics.deviation == statistics.deviation);
  CHECK(loaded.model.text.config.end_of_text == 12);
  CHECK(loaded.model.text.config.start_of_text == -1);
  CHECK(loaded.model.text.config.padding == -1);
  CHECK(loaded.model.visual.config.transformer.activation == Activation::gelu_tanh);
  CHECK(loaded.model.visual.ln_pre.epsilon == 3e-4);
  CHECK(loaded.model.text.ln_final.epsilon == 1e-5);
  clip.visual.config.class_token = false;
  REQUIRE_ERROR(save_clip(clip, statistics, folder.path()), ValueError, "has not CLIP's form");
}
