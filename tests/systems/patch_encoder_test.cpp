// Patch tokens of every kind of encoder: a ViT's against transformers, the others' against their own towers.
#include <tessera/systems/patch_encoder.hpp>

#include <io/folder.hpp>
#include <support/golden.hpp>
#include <support/modules.hpp>

using namespace tessera;
using namespace tessera::systems;
using namespace tessera_test;

namespace {

nn::VisionConfig tiny_tower() {
  return {.image_size = 12, .patch_size = 4, .transformer = {.width = 12, .layers = 3, .heads = 2}, .embed_dim = 10};
}
nn::TextConfig tiny_text() {
  return {.vocabulary_size = 20,
          .context_length = 5,
          .transformer = {.width = 6, .layers = 1, .heads = 3},
          .embed_dim = 10};
}
Tensor<float, 4> pictures(Context<Cpu>& ctx) { return random_tensor<float>(ctx, Shape<4>{2, 3, 12, 16}, 7); }

template <class Values>
std::vector<float> host(const Values& values) {
  return to_host(view(values));
}

}  // namespace

TEST_CASE("patch encoder: a ViT's tokens are transformers', at the stored grid and at another", "[systems]") {
  for (const auto& folder : find_models("vit")) {
    INFO(folder.string());
    auto ctx = nan_filled_context();
    const auto expected = io::TensorSource::open(folder / "expected.safetensors");
    for (const PatchTokens tokens : {PatchTokens::last_block, PatchTokens::ln_post}) {
      const auto encoder = load_patch_encoder(ctx, folder, {.tokens = tokens});
      CHECK(encoder->name() == "vit");
      CHECK(encoder->tokens() == tokens);
      CHECK(encoder->width() == 12);
      CHECK(encoder->patch_size() == 4);
      CHECK(encoder->statistics().mean == data::imagenet_statistics.mean);
      for (const std::string size : {"stored", "resized"}) {
        const std::string name = size + "." + patch_tokens_name(tokens);
        INFO(name);
        const auto images = expected.read<float, 4>(ctx, size + ".pixel_values");
        const auto ours = encoder->patches(ctx, images);
        const auto reference = expected.read<float, 3>(ctx, name);
        REQUIRE(ours.shape == reference.shape);
        CHECK(encoder->grid(images.shape[2], images.shape[3]).count() == ours.shape[1]);
        CHECK(largest_difference(host(ours), host(reference)) < 1e-5);  // float's own error: 3e-6
      }
    }
    CHECK(load_patch_encoder(ctx, folder)->tokens() == PatchTokens::ln_post);
    REQUIRE_ERROR(load_patch_encoder(ctx, folder, {.tokens = PatchTokens::projected}), ValueError,
                  "is a ViT without a projection");
    REQUIRE_ERROR(load_patch_encoder(ctx, folder, {.tokens = PatchTokens::aligned}), ValueError, "is no PACL");
    REQUIRE_ERROR(load_patch_encoder(ctx, folder, {.activation = Activation::gelu}), ValueError,
                  "--activation belongs to CLIPs");
  }
}

TEST_CASE("patch encoder: a ViT below a classifier's head, and what is no such ViT", "[systems]") {
  for (const auto& source : find_models("vit")) {
    auto ctx = nan_filled_context();
    const Folder folder;
    std::filesystem::copy(source / "config.json", folder / "config.json");
    const auto weights = io::TensorSource::open(source);
    std::vector<io::NamedTensor> tensors;
    for (const auto& name : weights.names()) tensors.push_back({"vit." + name, weights.get(name)});
    tensors.push_back({"classifier.bias", weights.get("layernorm.bias")});
    io::write_safetensors(folder / "model.safetensors", tensors, {});
    const auto images = pictures(ctx);
    const auto below = load_patch_encoder(ctx, folder.path());
    CHECK(host(below->patches(ctx, images)) == host(load_patch_encoder(ctx, source)->patches(ctx, images)));
    CHECK(below->statistics().mean == data::imagenet_statistics.mean);  // no preprocessor_config.json here

    auto json = io::read_json(folder / "config.json");
    json["qkv_bias"] = false;
    io::write_json(folder / "config.json", json);
    REQUIRE_ERROR(load_patch_encoder(ctx, folder.path()), IoError, "qkv_bias is false");
    json["qkv_bias"] = true;
    json["hidden_size"] = 12000;
    io::write_json(folder / "config.json", json);
    REQUIRE_ERROR(load_patch_encoder(ctx, folder.path()), IoError, "do not belong to these weights");
  }
}

TEST_CASE("patch encoder: a CLIP's tokens before and after its norm and projection, at any stride", "[systems]") {
  auto ctx = nan_filled_context();
  const Folder folder;
  auto clip = make_clip<float>(ctx, {tiny_tower(), tiny_text()});
  randomise(clip);
  save_clip(clip, {}, folder.path());
  const auto images = pictures(ctx);
  const auto with = [&](PatchTokens tokens) { return load_patch_encoder(ctx, folder.path(), {.tokens = tokens}); };
  Tape<Cpu> tape(ctx, false);
  for (const int64_t stride : {0, 2}) {
    const Variable<float, 4> input(images);
    const auto before = clip.visual.before_last_block(tape, input, stride);
    const auto last = slice(tape, clip.visual.transformer.resblocks.back()(tape, before), 1, 1, before.shape()[1]);
    CHECK(host(with(PatchTokens::last_block)->patches(ctx, images, stride)) == host(last.value()));
    CHECK(host(with(PatchTokens::ln_post)->patches(ctx, images, stride)) ==
          host(clip.visual.ln_post(tape, last).value()));
    const auto projected = with(PatchTokens::projected);
    CHECK(projected->width() == 10);
    CHECK(host(projected->patches(ctx, images, stride)) == host(clip.visual.dense(tape, input, {}, stride).value()));
    CHECK(projected->grid(12, 16, stride) == (stride ? PatchGrid{5, 7} : PatchGrid{3, 4}));
  }
  const auto usual = load_patch_encoder(ctx, folder.path());
  CHECK(usual->name() == "clip");
  CHECK(usual->tokens() == PatchTokens::ln_post);
  CHECK(usual->width() == 12);
  CHECK(usual->image_size() == 12);
  const auto narrow = load_patch_encoder(ctx, folder.path(), {.dtype = Dtype::bf16});
  const double difference = largest_difference(host(narrow->patches(ctx, images)), host(usual->patches(ctx, images)));
  CHECK(difference > 0);
  CHECK(difference < 0.2);
  REQUIRE_ERROR(load_patch_encoder(ctx, folder.path(), {.dtype = Dtype::f16}), ValueError, "f32 or bf16, not F16");
}

TEST_CASE("patch encoder: PACL's aligned patches, SegCLIP's patches before they are grouped", "[systems]") {
  auto ctx = nan_filled_context();
  const auto images = pictures(ctx);
  Tape<Cpu> tape(ctx, false);
  {
    const Folder folder;
    PaclConfig config{tiny_tower(), tiny_text()};
    config.vision.class_token = config.vision.pre_norm = false;
    auto pacl = make_pacl<float>(ctx, config);
    randomise(pacl);
    save_pacl(pacl, {}, folder.path());
    const auto encoder = load_patch_encoder(ctx, folder.path());
    CHECK(encoder->tokens() == PatchTokens::aligned);
    CHECK(encoder->width() == 10);
    CHECK(host(encoder->patches(ctx, images, 2)) ==
          host(pacl.patch_embeddings(tape, Variable<float, 4>(images), 2).value()));
    CHECK(load_patch_encoder(ctx, folder.path(), {.tokens = PatchTokens::last_block})->width() == 12);
  }
  const Folder folder;
  SegclipConfig config;
  config.vision = tiny_tower();
  config.text = tiny_text();
  config.group_layer = 2;
  config.group.centres = 2;
  config.reconstruction = false;
  auto segclip = make_segclip<float>(ctx, config, nn::Initialisation::xavier);
  randomise(segclip);
  save_segclip(segclip, {}, folder.path());
  const auto encoder = load_patch_encoder(ctx, folder.path());
  CHECK(encoder->name() == "segclip");
  CHECK(encoder->width() == 12);
  auto tokens = segclip.visual.embed_patches(tape, Variable<float, 4>(images));
  for (size_t block : {0, 1}) tokens = segclip.visual.transformer.resblocks[block](tape, tokens);
  CHECK(host(encoder->patches(ctx, images)) == host(tokens.value()));
  REQUIRE_ERROR(load_patch_encoder(ctx, folder.path(), {.tokens = PatchTokens::ln_post}), ValueError,
                "it has last_block tokens");
  REQUIRE_ERROR(patch_tokens_from_name("proj"), ValueError, "there are no patch tokens 'proj'");
  CHECK(patch_tokens_from_name("ln_post") == PatchTokens::ln_post);
}
