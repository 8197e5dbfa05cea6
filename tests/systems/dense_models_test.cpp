// Checkpoints as dense models: what load_dense_model gives is what the system's own functions compute.
#include <tessera/systems/dense_models.hpp>

#include <algorithm>
#include <filesystem>
#include <set>

#include <support/catch.hpp>
#include <support/random.hpp>

using namespace tessera;
using namespace tessera::systems;
namespace fs = std::filesystem;

namespace {

struct Folder {
  fs::path path;
  Folder() : path(fs::temp_directory_path() / sentence("tessera-dense-", int64_t(::getpid()))) {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
};

ClipConfig tiny() {
  ClipConfig config;
  config.vision = {
      .image_size = 16, .patch_size = 4, .transformer = {.width = 32, .layers = 2, .heads = 2}, .embed_dim = 12};
  config.text = {.vocabulary_size = 50,
                 .context_length = 8,
                 .transformer = {.width = 32, .layers = 1, .heads = 2},
                 .embed_dim = 12};
  return config;
}
PaclConfig tiny_pacl() {
  PaclConfig config{tiny().vision, tiny().text, 5};
  config.vision.class_token = config.vision.pre_norm = false;
  return config;
}

Tensor<float, 2> classes(Context<Cpu>& ctx) {
  return l2_normalise(ctx, view(tessera_test::random_tensor<float>(ctx, Shape<2>{3, 12}, 5)));
}
Tensor<float, 4> picture(Context<Cpu>& ctx) {
  return tessera_test::random_tensor<float>(ctx, Shape<4>{1, 3, 20, 24}, 6);
}

}  // namespace

TEST_CASE("dense models: a CLIP checkpoint as maskclip, by either form, in float and bfloat16", "[systems]") {
  auto ctx = tessera_test::nan_filled_context();
  const Folder folder;
  auto clip = make_clip<float>(ctx, tiny());
  save_clip(clip, {}, folder.path);
  for (const auto& [name, form] :
       {std::pair{"maskclip", MaskclipForm::residual}, {"maskclip-value", MaskclipForm::value}}) {
    const auto model = load_dense_model(ctx, folder.path, {.system = name});
    CHECK(model->system() == name);
    CHECK(model->image_size() == 16);
    CHECK(model->patch_size() == 4);
    CHECK(model->stride() == 4);
    CHECK(model->context_length() == 8);
    CHECK(model->vocabulary_size() == 50);
    CHECK(model->scale() == Approx(1 / 0.07).epsilon(1e-5));
    const auto ours = model->score(ctx, picture(ctx), classes(ctx));
    const auto direct = maskclip(ctx, clip, picture(ctx), classes(ctx), {.form = form});
    CHECK(ours.grid == PatchGrid{5, 6});
    CHECK(to_host(view(ours.scores)) == to_host(view(direct.scores)));
    CHECK(to_host(view(ours.patch_embeddings)) == to_host(view(direct.patch_embeddings)));
    CHECK_FALSE(ours.gate);
    const auto narrow = load_dense_model(ctx, folder.path, {.system = name, .dtype = Dtype::bf16});
    const auto rounded = narrow->score(ctx, picture(ctx), classes(ctx));
    const double difference =
        tessera_test::largest_difference(to_host(view(rounded.scores)), to_host(view(direct.scores)));
    CHECK(difference > 0);
    CHECK(difference < 0.05);
  }
  const auto automatic = load_dense_model(ctx, folder.path);
  CHECK(automatic->system() == "maskclip");
  // the whole image: the class token's cosines
  const auto whole = automatic->score_image(ctx, picture(ctx), classes(ctx));
  Tape<Cpu> tape(ctx, false);
  const auto feature = l2_normalise(ctx, view(clip.encode_image(tape, Variable<float, 4>(picture(ctx))).value()));
  for (int64_t n = 0; n < 3; ++n) {
    double cosine = 0;
    for (int64_t e = 0; e < 12; ++e) cosine += double(feature(0, e)) * classes(ctx)(n, e);
    CHECK(whole(n) == Approx(cosine).margin(1e-6));
  }
  const auto ids = Tensor<int32_t, 2>::from_host(ctx, {1, 8}, {48, 3, 7, 49, 0, 0, 0, 0});
  CHECK(to_host(view(automatic->encode_text(ctx, ids))) == to_host(view(clip.encode_text(tape, ids).value())));
}

TEST_CASE("dense models: official numerics change the model and its statistics", "[systems]") {
  Context<Cpu> ctx;
  const Folder folder;
  auto clip = make_clip<float>(ctx, tiny());
  save_clip(clip, {}, folder.path);
  const auto usual = load_dense_model(ctx, folder.path);
  const auto official = load_dense_model(ctx, folder.path, {.numerics = MaskclipNumerics::official});
  CHECK(usual->statistics().mean == data::clip_statistics.mean);
  CHECK(official->statistics().mean == data::imagenet_statistics.mean);
  CHECK(to_host(view(usual->score(ctx, picture(ctx), classes(ctx)).scores)) !=
        to_host(view(official->score(ctx, picture(ctx), classes(ctx)).scores)));
}

TEST_CASE("dense models: MaskCLIP's denser grid and its gate by the whole image", "[systems]") {
  auto ctx = tessera_test::nan_filled_context();
  const Folder folder;
  auto clip = make_clip<float>(ctx, tiny());
  save_clip(clip, {}, folder.path);
  const auto score = [&](const DenseModelOptions& options) {
    return load_dense_model(ctx, folder.path, options)->score(ctx, picture(ctx), classes(ctx));
  };
  const auto plain = load_dense_model(ctx, folder.path);
  const auto expected = plain->score(ctx, picture(ctx), classes(ctx));

  const auto same = score({.maskclip = {.patch_stride = 4}});
  CHECK(same.grid == expected.grid);
  CHECK(to_host(view(same.scores)) == to_host(view(expected.scores)));
  const auto dense = score({.maskclip = {.patch_stride = 2}});
  CHECK(dense.grid == PatchGrid{9, 11});
  CHECK(dense.scores.shape == Shape<2>{99, 3});
  CHECK(to_host(view(dense.scores)) ==
        to_host(view(maskclip(ctx, clip, picture(ctx), classes(ctx), {.patch_stride = 2}).scores)));
  CHECK(load_dense_model(ctx, folder.path, {.maskclip = {.patch_stride = 2}})->stride() == 2);
  REQUIRE_ERROR(score({.maskclip = {.patch_stride = 5}}), ValueError, "patch stride 5 must lie in 0 to the patch size");
  REQUIRE_ERROR(score({.maskclip = {.patch_stride = -1}}), ValueError, "patch stride -1");

  // The gate stands beside the scores, which stay as they are.
  const auto gated = score({.maskclip_gate = 2});
  CHECK(to_host(view(gated.scores)) == to_host(view(expected.scores)));
  const auto whole = plain->score_image(ctx, picture(ctx), classes(ctx));
  REQUIRE(gated.gate);
  for (int64_t n = 0; n < 3; ++n) CHECK(gated.gate(n) == Approx(2 * double(whole(n))).margin(1e-6));

  // What it does to a picture: without it patches speak for themselves; a strong one leaves the image's own class.
  data::Image photo(24, 20);
  for (size_t i = 0; i < photo.pixels.size(); ++i) photo.pixels[i] = uint8_t(i * i % 251);
  const auto labels_with = [&](double gate) {
    const auto model = load_dense_model(ctx, folder.path, {.maskclip_gate = gate});
    const auto map = segmentation::score_picture(ctx, *model, classes(ctx), photo, {.size = 20});  // as it is
    return segmentation::label_picture(ctx, map).labels;
  };
  const auto input = segmentation::padded_tensor(ctx, photo, plain->statistics(), 4, 4);
  const auto image = plain->score_image(ctx, input, classes(ctx));
  const auto best = std::max_element(image.data, image.data + 3) - image.data;
  const auto ungated = labels_with(0), strong = labels_with(1000);
  CHECK(std::set<uint16_t>(ungated.begin(), ungated.end()).size() > 1);
  CHECK(std::all_of(strong.begin(), strong.end(), [&](auto label) { return label == best; }));
}

TEST_CASE("dense models: PACL scores overlapping patches and gates by compatibility", "[systems]") {
  auto ctx = tessera_test::nan_filled_context();
  const Folder folder;
  auto pacl = make_pacl<float>(ctx, tiny_pacl());
  save_pacl(pacl, {}, folder.path);
  const auto model = load_dense_model(ctx, folder.path);
  CHECK(model->system() == "pacl");
  CHECK(model->stride() == 2);
  const auto ours = model->score(ctx, picture(ctx), classes(ctx));
  CHECK(ours.grid == PatchGrid{9, 11});
  Tape<Cpu> tape(ctx, false);
  const auto patches = pacl.patch_embeddings(tape, Variable<float, 4>(picture(ctx)), 2).value();
  const auto phi = pair_compatibility(ctx, view(patches), classes(ctx), {.attention_scale = 5});
  REQUIRE(ours.gate);
  for (int64_t n = 0; n < 3; ++n) CHECK(ours.gate(n) == Approx(phi(0, n)).margin(1e-6));
  for (int64_t p = 0; p < 99; ++p) {
    double dot = 0, square = 0;
    for (int64_t e = 0; e < 12; ++e) {
      dot += double(patches(0, p, e)) * classes(ctx)(1, e);
      square += double(patches(0, p, e)) * patches(0, p, e);
    }
    REQUIRE(ours.scores(p, 1) == Approx(dot / std::sqrt(square)).margin(1e-6));
  }
  const auto half = load_dense_model(ctx, folder.path, {.pacl = {.stride = 4, .gate = 0.5}});
  const auto coarse = half->score(ctx, picture(ctx), classes(ctx));
  CHECK(coarse.grid == PatchGrid{5, 6});
  CHECK(coarse.gate(0) == Approx(0.5 * half->score_image(ctx, picture(ctx), classes(ctx))(0)).margin(1e-6));
  CHECK_FALSE(load_dense_model(ctx, folder.path, {.pacl = {.gate = 0}})->score(ctx, picture(ctx), classes(ctx)).gate);
  REQUIRE_ERROR(load_dense_model(ctx, folder.path, {.pacl = {.stride = 5}}), ValueError, "patch stride 5");
  REQUIRE_ERROR(load_dense_model(ctx, folder.path, {.system = "maskclip"}), ValueError, "leave --system at auto");
  REQUIRE_ERROR(load_dense_model(ctx, folder.path, {.maskclip = {.key_smoothing = 1}}), ValueError, "belong to CLIPs");
}

TEST_CASE("dense models: an embedder on a CLIP reads out as in the paper, stride 4 and no gate", "[systems]") {
  auto ctx = tessera_test::nan_filled_context();
  const Folder folder;
  auto config = tiny();
  config.vision.image_size = 24;
  config.vision.patch_size = 8;
  auto clip = make_clip<float>(ctx, config);
  auto pacl = make_pacl_on<float>(ctx, LoadedTower<float>{clip.visual, {}, "clip"}, clip.text);
  save_pacl(pacl, {}, folder.path);
  const auto model = load_dense_model(ctx, folder.path);
  CHECK(model->system() == "pacl");
  CHECK(model->stride() == 4);
  const auto scores = model->score(ctx, picture(ctx), classes(ctx));
  CHECK(scores.grid == PatchGrid{4, 5});
  CHECK_FALSE(scores.gate);
  Tape<Cpu> tape(ctx, false);
  const Variable<float, 4> images(picture(ctx));
  const auto tokens = patch_tokens(tape, pacl.visual, images, PatchTokens::ln_post, 4);
  const auto expected = l2_normalise(ctx, pacl.embedder(tape, tokens).value().rows());
  CHECK(to_host(view(scores.patch_embeddings)) == to_host(view(expected)));
  CHECK(load_dense_model(ctx, folder.path, {.pacl = {.stride = 8, .gate = 1}})
            ->score(ctx, tessera_test::random_tensor<float>(ctx, Shape<4>{1, 3, 24, 32}, 6), classes(ctx))
            .gate);

  // Pictures that no whole number of strides covers are padded: no pixel is lost at the border.
  data::Image photo(37, 26);
  for (size_t i = 0; i < photo.pixels.size(); ++i) photo.pixels[i] = uint8_t(i * i % 251);
  const auto map = segmentation::score_picture(ctx, *model, classes(ctx), photo, {.size = 26});
  CHECK(map.scores.shape == Shape<3>{3, 6, 9});
  const auto windows = segmentation::score_picture(ctx, *model, classes(ctx), photo, {.size = 26, .window = 24});
  CHECK(windows.scores.shape == Shape<3>{3, 26, 37});
}

TEST_CASE("dense models: wrong checkpoints are refused with a sentence", "[systems]") {
  Context<Cpu> ctx;
  const Folder folder;
  REQUIRE_ERROR(load_dense_model(ctx, folder.path / "nowhere"), IoError, "there is no checkpoint");
  REQUIRE_ERROR(load_dense_model(ctx, folder.path), IoError, folder.path.filename().string());
  io::write_json(folder.path / "config.json", {{"model_type", "resnet"}, {"prompts", "a {}"}});
  REQUIRE_ERROR(load_dense_model(ctx, folder.path), IoError, "model_type is \"resnet\"");
  CHECK(describe_checkpoint(folder.path).prompts == "a {}");
  io::write_json(folder.path / "config.json", {{"model_type", "resnet"}, {"prompt_template", "the {}"}});
  CHECK(describe_checkpoint(folder.path).prompts == "the {}");  // its name in models of the first versions
  CHECK(describe_checkpoint(folder.path / "config.json").folder == folder.path);
  REQUIRE_ERROR(load_dense_model(ctx, folder.path, {.system = "pacl"}), ValueError, "is a \"resnet\"");
  REQUIRE_ERROR(load_dense_model(ctx, folder.path, {.system = "unknown"}), ValueError, "no system 'unknown'");
}
