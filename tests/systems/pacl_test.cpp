// PACL: compatibility by its definition, overlapping patches, gradients, the embedder on frozen towers, and saved
// models that load to the bit.
#include <tessera/systems/pacl.hpp>

#include <io/folder.hpp>
#include <support/modules.hpp>

using namespace tessera;
using namespace tessera::systems;
using namespace tessera_test;

namespace {

PaclConfig tiny_pacl() {
  PaclConfig config;
  config.vision = {.image_size = 12,
                   .patch_size = 4,
                   .transformer = {.width = 6, .layers = 2, .heads = 2, .activation = Activation::gelu},
                   .embed_dim = 5,
                   .class_token = false,
                   .pre_norm = false};
  config.text = {.vocabulary_size = 13,
                 .context_length = 5,
                 .transformer = {.width = 6, .layers = 1, .heads = 3, .activation = Activation::gelu},
                 .embed_dim = 5,
                 .end_of_text = 12};
  config.attention_scale = 3;
  return config;
}
Tensor<int32_t, 2> texts(Context<Cpu>& ctx) {
  return Tensor<int32_t, 2>::from_host(ctx, {3, 5}, {11, 2, 12, 0, 0, 11, 3, 4, 12, 0, 11, 5, 6, 7, 12});
}

}  // namespace

TEST_CASE("pacl: compatibility is the text's cosine with the patches pooled for it", "[systems]") {
  auto ctx = nan_filled_context();
  auto pacl = make_pacl<double>(ctx, tiny_pacl());
  randomise(pacl);
  const auto images = random_variable(ctx, Shape<4>{2, 3, 12, 12}, 1);
  Tape<Cpu> tape(ctx, false);
  const auto patches = pacl.patch_embeddings(tape, images);
  const auto text = pacl.text_embeddings(tape, texts(ctx));
  const auto phi = pacl.compatibility(tape, patches, text).value();
  REQUIRE(patches.shape() == Shape<3>{2, 9, 5});
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t k = 0; k < 3; ++k) {
      double length = 0;
      for (int64_t e = 0; e < 5; ++e) length += text.value()(k, e) * text.value()(k, e);
      CHECK(length == Approx(1).epsilon(1e-12));
      std::vector<double> weights(9);
      double total = 0;
      for (int64_t p = 0; p < 9; ++p) {
        double dot = 0, square = 0;
        for (int64_t e = 0; e < 5; ++e) {
          dot += patches.value()(b, p, e) * text.value()(k, e);
          square += patches.value()(b, p, e) * patches.value()(b, p, e);
        }
        total += weights[size_t(p)] = std::exp(3 * dot / std::sqrt(square));
      }
      // the patches pooled by that attention, then the pooled vector's cosine
      double dot = 0, square = 0;
      for (int64_t e = 0; e < 5; ++e) {
        double pooled = 0;
        for (int64_t p = 0; p < 9; ++p) pooled += weights[size_t(p)] / total * patches.value()(b, p, e);
        dot += pooled * text.value()(k, e);
        square += pooled * pooled;
      }
      const double expected = dot / std::sqrt(square);
      CHECK(phi(b, k) == Approx(expected).epsilon(1e-10));
    }
}

TEST_CASE("pacl: gradients of the loss in every parameter", "[systems]") {
  auto ctx = nan_filled_context();
  auto pacl = make_pacl<double>(ctx, tiny_pacl());
  randomise(pacl);
  const auto images = random_variable(ctx, Shape<4>{2, 3, 12, 12}, 1);
  const auto owner = Tensor<int32_t, 1>::from_host(ctx, {3}, {0, 1, 1});
  const auto excluded = Tensor<uint8_t, 2>::from_host(ctx, {2, 3}, {0, 0, 1, 0, 0, 0});
  check_gradients(ctx, pacl, images, [&](auto& tape, const auto& x) {
    const auto phi = pacl.compatibility(tape, pacl.patch_embeddings(tape, x), pacl.text_embeddings(tape, texts(ctx)));
    return multi_text_contrastive(tape, phi, owner, excluded, pacl.logit_scale);
  });
}

TEST_CASE("pacl: a smaller stride gives a denser grid of the same patches", "[systems]") {
  auto ctx = nan_filled_context();
  auto pacl = make_pacl<double>(ctx, tiny_pacl());
  randomise(pacl);
  Tape<Cpu> tape(ctx, false);
  const auto images = random_variable(ctx, Shape<4>{1, 3, 12, 16}, 1);
  CHECK(pacl.visual.grid(12, 16, 2) == PatchGrid{5, 7});
  CHECK(pacl.visual.grid(12, 16, 1) == PatchGrid{9, 13});
  CHECK(pacl.patch_embeddings(tape, images, 2).shape() == Shape<3>{1, 35, 5});
  CHECK(pacl.patch_embeddings(tape, images).shape() == Shape<3>{1, 12, 5});
  // Positions follow the picture: on the stored grid's own size the plain patches' centres are sampled where they lie.
  const auto square = random_variable(ctx, Shape<4>{1, 3, 12, 12}, 1);
  const auto fine = pacl.visual.embed(tape, square, 2).value(), coarse = pacl.visual.embed(tape, square).value();
  double worst = 0;
  for (int64_t row = 0; row < 3; ++row)
    for (int64_t column = 0; column < 3; ++column)
      for (int64_t c = 0; c < 6; ++c)
        worst = std::max(worst, std::abs(fine(0, 2 * row * 5 + 2 * column, c) - coarse(0, row * 3 + column, c)));
  CHECK(worst < 1e-12);
}

TEST_CASE("pacl: a saved model loads to the bit", "[systems]") {
  auto ctx = nan_filled_context();
  const Folder folder;
  const ImageStatistics statistics{{0.1f, 0.2f, 0.3f}, {0.4f, 0.5f, 0.6f}};
  for (const bool clip_form : {false, true}) {
    auto config = tiny_pacl();
    config.vision.class_token = config.vision.pre_norm = clip_form;
    auto pacl = make_pacl<float>(ctx, config);
    randomise(pacl);
    save_pacl(pacl, statistics, folder.path());
    auto loaded = load_pacl<float>(ctx, folder.path());
    CHECK(parameter_names(loaded.model) == parameter_names(pacl));
    CHECK(parameter_values(loaded.model) == parameter_values(pacl));
    CHECK(loaded.model.attention_scale == 3);
    CHECK(loaded.model.text.config.end_of_text == 12);
    CHECK(loaded.statistics.mean == statistics.mean);
    Tape<Cpu> tape(ctx, false);
    const Variable<float, 4> images(random_tensor<float>(ctx, Shape<4>{1, 3, 12, 12}, 1));
    CHECK(to_host(view(loaded.model.patch_embeddings(tape, images, 2).value())) ==
          to_host(view(pacl.patch_embeddings(tape, images, 2).value())));
    CHECK(to_host(view(loaded.model.text_embeddings(tape, texts(ctx)).value())) ==
          to_host(view(pacl.text_embeddings(tape, texts(ctx)).value())));
  }
  auto json = io::read_json(folder / "config.json");
  json["model_type"] = "clip";
  io::write_json(folder / "config.json", json);
  REQUIRE_ERROR(load_pacl<float>(ctx, folder.path()), IoError, "model_type is \"clip\", not \"pacl\"");
}

TEST_CASE("pacl: towers of different embeddings are refused", "[systems]") {
  Context<Cpu> ctx;
  auto config = tiny_pacl();
  config.text.embed_dim = 6;
  REQUIRE_ERROR(make_pacl<float>(ctx, config), ValueError, "the image tower's embeddings have 5 channels");
}

TEST_CASE("pacl: the embedder has the paper's number of parameters and PyTorch's initial range", "[systems]") {
  Context<Cpu> ctx;
  auto b16 = make_vision_embedder<float>(ctx, 768, 512), l14 = make_vision_embedder<float>(ctx, 1024, 768);
  CHECK(nn::parameter_count(b16) == 1050112);
  CHECK(nn::parameter_count(l14) == 2164992);
  nn::for_each_parameter(b16, [&](const std::string& name, auto& parameter) {
    INFO(name);
    const double bound = std::pow(name.starts_with("linear2") ? 512.0 : 768.0, -0.5);
    double largest = 0, sum = 0;
    for (const float value : to_host(view(parameter.value()))) {
      largest = std::max(largest, std::abs(double(value)));
      sum += double(value);
    }
    CHECK(largest <= bound);
    CHECK(largest > 0.97 * bound);
    CHECK(std::abs(sum / double(parameter.value().size())) < 0.15 * bound);
  });
}

namespace {

/// A CLIP's towers, or a ViT's and the texts of a CLIP of another width.
Pacl<float> on_frozen(Context<Cpu>& ctx, const std::string& encoder, const EmbedderOptions& options = {}) {
  auto config = tiny_pacl();
  config.vision.class_token = true;
  config.vision.pre_norm = encoder == "clip";
  config.vision.embed_dim = encoder == "clip" ? 5 : 0;
  config.text.embed_dim = encoder == "clip" ? 5 : 7;
  LoadedTower<float> tower{
      nn::make_vision_transformer<float>(ctx, config.vision, nn::Initialisation::xavier), {}, encoder};
  if (encoder == "clip") tower.visual.conv1.bias = {};
  auto text = nn::make_text_transformer<float>(ctx, config.text, nn::Initialisation::xavier);
  auto pacl = make_pacl_on<float>(ctx, std::move(tower), std::move(text), options);
  randomise(pacl);
  return pacl;
}

}  // namespace

TEST_CASE("pacl: an embedder learns on frozen towers, from pictures as from their tokens", "[systems]") {
  auto ctx = nan_filled_context();
  for (const std::string encoder : {"clip", "vit"}) {
    INFO(encoder);
    auto pacl = on_frozen(ctx, encoder);
    const Variable<float, 4> images(random_tensor<float>(ctx, Shape<4>{2, 3, 12, 12}, 1));
    const auto owner = Tensor<int32_t, 1>::from_host(ctx, {3}, {0, 1, 1});
    Tape<Cpu> tape(ctx);
    const auto patches = pacl.patch_embeddings(tape, images);
    REQUIRE(patches.shape() == Shape<3>{2, 9, pacl.text.config.embed_dim});
    const auto phi = pacl.compatibility(tape, patches, pacl.text_embeddings(tape, texts(ctx)));
    tape.backward(multi_text_contrastive(tape, phi, owner, {}, pacl.logit_scale));
    nn::for_each_parameter(pacl, [&](const std::string& name, auto& parameter) {
      INFO(name);
      CHECK(bool(parameter.grad()) == (name.starts_with("embedder.") || name == "logit_scale"));
    });
    const auto tokens = patch_tokens(tape, pacl.visual, images, PatchTokens::ln_post);
    CHECK(to_host(view(pacl.embedder(tape, tokens).value())) == to_host(view(patches.value())));
  }
  CHECK(on_frozen(ctx, "clip", {.input = PatchTokens::projected}).embedder.linear1.weight.shape() == Shape<2>{5, 5});
  CHECK_FALSE(on_frozen(ctx, "clip", {.fixed_logit_scale = true}).logit_scale.requires_grad());
  REQUIRE_ERROR(on_frozen(ctx, "vit", {.input = PatchTokens::projected}), ValueError, "without a projection");
  REQUIRE_ERROR(on_frozen(ctx, "vit", {.input = PatchTokens::aligned}), ValueError, "makes aligned patches");
}

TEST_CASE("pacl: fingerprints tell settings apart that the same weights are read with", "[systems]") {
  Context<Cpu> ctx;
  auto pacl = on_frozen(ctx, "clip");
  const uint64_t of_tower = fingerprint_of_tower(pacl.visual), of_all = fingerprint_of_towers(pacl);
  const auto differs = [&](auto& setting, auto other) {
    const auto before = std::exchange(setting, other);
    CHECK(fingerprint_of_tower(pacl.visual) != of_tower);
    CHECK(fingerprint_of_towers(pacl) != of_all);
    setting = before;
  };
  auto& visual = pacl.visual.config;
  differs(visual.transformer.activation, Activation::quick_gelu);
  differs(visual.transformer.heads, 3);
  differs(visual.transformer.epsilon, 1e-6);
  differs(visual.pre_norm, false);
  CHECK(fingerprint_of_tower(pacl.visual) == of_tower);
  pacl.text.config.transformer.activation = Activation::relu;
  CHECK(fingerprint_of_tower(pacl.visual) == of_tower);
  CHECK(fingerprint_of_towers(pacl) != of_all);
}

TEST_CASE("pacl: gradients through the embedder and the weights of its patches", "[systems]") {
  auto ctx = nan_filled_context();
  auto embedder = make_vision_embedder<double>(ctx, 6, 5);
  randomise(embedder);
  const auto tokens = random_variable(ctx, Shape<3>{2, 4, 6}, 1);
  const auto words = random_variable(ctx, Shape<2>{3, 5}, 2);
  const Parameter<double, 0> logit_scale = nn::constant<double, 0>(ctx, {}, 1);
  const auto owner = Tensor<int32_t, 1>::from_host(ctx, {3}, {0, 1, 1});
  check_gradients(ctx, embedder, tokens, [&](auto& tape, const auto& x) {
    const auto phi = pair_compatibility(tape, embedder(tape, x), words, {.attention_scale = 3});
    return multi_text_contrastive(tape, phi, owner, {}, logit_scale);
  });
}

TEST_CASE("pacl: an embedder's folder holds its towers and loads to the bit", "[systems]") {
  auto ctx = nan_filled_context();
  for (const std::string encoder : {"clip", "vit"}) {
    const Folder folder;
    auto pacl = on_frozen(ctx, encoder, {.input = PatchTokens::last_block});
    save_pacl(pacl, data::imagenet_statistics, folder.path());
    CHECK(io::read_json(folder / "config.json")["embedder"]["encoder"] == encoder);
    auto loaded = load_pacl<float>(ctx, folder.path());
    CHECK(parameter_names(loaded.model) == parameter_names(pacl));
    CHECK(parameter_values(loaded.model) == parameter_values(pacl));
    CHECK(loaded.model.embedder_input == PatchTokens::last_block);
    CHECK(loaded.statistics.mean == data::imagenet_statistics.mean);
    Tape<Cpu> tape(ctx, false);
    const Variable<float, 4> images(random_tensor<float>(ctx, Shape<4>{1, 3, 12, 16}, 1));
    CHECK(to_host(view(loaded.model.patch_embeddings(tape, images, 2).value())) ==
          to_host(view(pacl.patch_embeddings(tape, images, 2).value())));

    auto json = io::read_json(folder / "config.json");
    json["embedder"]["input"] = "aligned";
    io::write_json(folder / "config.json", json);
    REQUIRE_ERROR(load_pacl<float>(ctx, folder.path()), IoError,
                  "config.json: embedder.input is \"aligned\"; it may be");
    if (encoder == "vit") {
      json["embedder"]["input"] = "projected";
      io::write_json(folder / "config.json", json);
      REQUIRE_ERROR(load_pacl<float>(ctx, folder.path()), IoError, "this image tower has no projection");
    }
    // Sizes that are not the weights' are refused before memory is asked for.
    auto large = json;
    large["embedder"]["input"] = "ln_post";
    large["vision_config"]["projection_dim"] = 1 << 20;
    io::write_json(folder / "config.json", large);
    REQUIRE_ERROR(load_pacl<float>(ctx, folder.path()), IoError, "sizes in the configuration do not belong");
    json.erase("embedder");
    io::write_json(folder / "config.json", json);
    REQUIRE_ERROR(load_pacl<float>(ctx, folder.path()), IoError, "does not fit the model");
  }
}
