// SegCLIP: gradients of its three losses, what training freezes, the read-out by hand, a saved model, the start from a
// CLIP. Values and straight-through gradients are compared with the official implementation in golden/segclip_test.cpp.
#include <tessera/systems/segclip_checkpoint.hpp>
#include <tessera/systems/segclip_readout.hpp>

#include <io/folder.hpp>
#include <support/modules.hpp>

using namespace tessera;
using namespace tessera::systems;
using namespace tessera_test;

namespace {

SegclipConfig tiny_segclip() {
  SegclipConfig config;
  config.vision = {
      .image_size = 16, .patch_size = 4, .transformer = {.width = 8, .layers = 3, .heads = 2}, .embed_dim = 5};
  config.text = {.vocabulary_size = 13,
                 .context_length = 5,
                 .transformer = {.width = 6, .layers = 1, .heads = 3},
                 .embed_dim = 5,
                 .end_of_text = 12};
  config.initial_logit_scale = 1;
  config.group_layer = 2;
  config.group.centres = 3;
  config.group.cross_layers = 1;
  config.mask_ratio = 0.5;
  config.reconstruction_layers = 1;
  config.decoder_width = 8;
  config.decoder_layers = 1;
  config.decoder_heads = 2;
  return config;
}
Tensor<int32_t, 2> texts(Context<Cpu>& ctx) {
  return Tensor<int32_t, 2>::from_host(ctx, {2, 5}, {11, 2, 12, 0, 0, 11, 5, 6, 7, 12});
}
/// Superpixels of two pictures of 4 x 4 patches.
Tensor<int32_t, 2> superpixels(Context<Cpu>& ctx) {
  return Tensor<int32_t, 2>::from_host(
      ctx, {2, 16}, {0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 3, 2, 2, 2, 3, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 4, 4, 5, 5});
}

/// The sum of the three losses on two pictures.
template <class Tape, class Model, class Images>
auto total_loss(Tape& tape, const Model& model, const Images& images) {
  auto& ctx = tape.ctx;
  OneRank<Cpu> alone;
  const auto tokens = model.visual.embed_patches(tape, images);
  const auto features = model.visual.features(tape, tokens, {.stream = RandomStream{1, 2, 3}});
  auto loss = gathered_contrastive(tape, alone, l2_normalise(tape, features.image),
                                   l2_normalise(tape, model.encode_text(tape, texts(ctx))), model.logit_scale);
  loss = add(tape, loss, model.superpixel_loss(tape, features.assignment, superpixels(ctx)));
  if (!model.config.reconstruction) return loss;
  const auto masking = nn::draw_masking(ctx, 2, 16, model.config.mask_ratio, RandomStream{1, 2, 4});
  return add(tape, loss, model.reconstruction_loss(tape, tokens, images, masking, {.stream = RandomStream{1, 2, 5}}));
}

}  // namespace

TEST_CASE("segclip: gradients of the three losses in every parameter, as released and as in the paper", "[systems]") {
  // The soft assignment: a hard one is constant almost everywhere, its straight-through gradient no derivative.
  for (const bool paper : {false, true}) {
    INFO(paper);
    auto ctx = nan_filled_context();
    auto config = tiny_segclip();
    config.group.hard = false;
    config.group.paper_keys = config.group.paper_assignment = config.group.paper_aggregation = paper;
    config.paper_reconstruction = config.paper_superpixels = paper;
    auto model = make_segclip<double>(ctx, config);
    randomise(model);
    const auto images = random_variable(ctx, Shape<4>{2, 3, 16, 16}, 1);
    // The class token is thrown away before the first block, so neither it nor its position is ever used; keys' biases
    // shift all logits of a query alike; without projections their parameters are idle.
    std::set<std::string> unused = {"clip.visual.class_embedding"};
    const std::string group = "clip.visual.transformer.semantic_layer2.";
    if (paper)
      for (const char* name : {"norm.weight", "norm.bias", "k_conv.weight", "k_ln.weight", "k_ln.bias", "v_conv.weight",
                               "proj_o.ln.weight", "proj_o.ln.bias"})
        unused.insert(group + name);
    check_gradients(
        ctx, model, images, [&](auto& tape, const auto& x) { return total_loss(tape, model, x); }, unused, 3);
  }
}

TEST_CASE("segclip: the superpixel loss by hand, as released and as in equations 5 and 6", "[systems]") {
  auto ctx = nan_filled_context();
  constexpr int64_t batch = 2, patches = 16, groups = 3;
  const auto shares = random_tensor<double>(ctx, Shape<3>{batch, patches, groups}, 3);
  const auto maps = superpixels(ctx);
  using Row = std::vector<double>;
  const auto softmax_of = [](const Row& x) {
    Row y;
    double sum = 0;
    for (const double v : x) sum += std::exp(v);
    for (const double v : x) y.push_back(std::exp(v) / sum);
    return y;
  };
  for (const bool paper : {false, true}) {
    INFO(paper);
    double divergence = 0;  // KL(Q || P) + KL(P || Q), of all patches
    for (int64_t b = 0; b < batch; ++b) {
      std::vector<Row> rows;  // released: what the means are of; paper: their softmax
      for (int64_t n = 0; n < patches; ++n) {
        const Row row(&shares(b, n, 0), &shares(b, n, 0) + groups);
        rows.push_back(paper ? softmax_of(row) : row);
      }
      for (int64_t n = 0; n < patches; ++n) {
        Row mean(size_t(groups), 0.0);
        double members = 0;
        for (int64_t m = 0; m < patches; ++m) {
          if (maps(b, m) != maps(b, n)) continue;
          ++members;
          for (size_t g = 0; g < size_t(groups); ++g) mean[g] += rows[size_t(m)][g];
        }
        for (double& v : mean) v /= members;
        const Row p = paper ? rows[size_t(n)] : softmax_of(rows[size_t(n)]), q = paper ? mean : softmax_of(mean);
        for (size_t g = 0; g < size_t(groups); ++g) divergence += (p[g] - q[g]) * std::log(p[g] / q[g]);
      }
    }
    const double expected = paper ? divergence / batch : divergence / double(2 * batch * patches * groups);
    auto config = tiny_segclip();
    config.paper_superpixels = paper;
    const auto model = make_segclip<double>(ctx, config);
    Tape<Cpu> tape(ctx, false);
    CHECK(model.superpixel_loss(tape, Variable<double, 3>(shares), maps).value().data[0] ==
          Approx(expected).epsilon(1e-10));
  }
}

TEST_CASE("segclip: a patch is made from its groups by QuickGELU, in the paper by GELU", "[systems]") {
  auto ctx = nan_filled_context();
  for (const bool paper : {false, true}) {
    INFO(paper);
    auto config = tiny_segclip();
    config.paper_reconstruction = paper;
    auto model = make_segclip<double>(ctx, config);
    randomise(model);
    const auto shares = random_tensor<double>(ctx, Shape<3>{1, 2, 3}, 3),
               groups = random_tensor<double>(ctx, Shape<3>{1, 3, 8}, 4);
    Tape<Cpu> tape(ctx, false);
    const auto made = model.visual.spread(tape, Variable<double, 3>(shares), Variable<double, 3>(groups));
    const auto& layer = model.visual.reconstruct_layer2.a_fc;
    for (int64_t n = 0; n < 2; ++n)
      for (int64_t c = 0; c < 8; ++c) {
        double sum = 0;
        for (int64_t g = 0; g < 3; ++g) {
          double share = layer.bias.value()(g);
          for (int64_t k = 0; k < 3; ++k) share += layer.weight.value()(g, k) * shares(0, n, k);
          sum += share * groups(0, g, c);
        }
        const double expected =
            paper ? sum * 0.5 * (1 + std::erf(sum / std::sqrt(2.0))) : sum / (1 + std::exp(-1.702 * sum));
        CHECK(made.value()(0, n, c) == Approx(expected).margin(1e-12));
      }
  }
}

TEST_CASE("segclip: one group for each patch, the largest values make the image's embedding", "[systems]") {
  auto ctx = nan_filled_context();
  auto model = make_segclip<float>(ctx, tiny_segclip());
  randomise(model);
  Tape<Cpu> tape(ctx, false);
  const Variable<float, 4> images(random_tensor<float>(ctx, Shape<4>{2, 3, 16, 16}, 1));
  const auto features = model.encode_image(tape, images);
  REQUIRE(features.image.shape() == Shape<2>{2, 5});
  REQUIRE(features.regions.shape() == Shape<3>{2, 3, 5});
  REQUIRE(features.assignment.shape() == Shape<3>{2, 16, 3});
  const auto soft = softmax(ctx, view(features.logits.value()));
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t n = 0; n < 16; ++n) {
      const float* row = &soft(b, n, 0);
      const int64_t best = std::max_element(row, row + 3) - row;
      for (int64_t g = 0; g < 3; ++g)
        CHECK(features.assignment.value()(b, n, g) == Approx(g == best ? 1.0 : 0.0).margin(1e-6));
    }
  // Evaluation has no randomness; training has, from the stream alone.
  const auto again = model.encode_image(tape, images);
  CHECK(to_host(view(again.image.value())) == to_host(view(features.image.value())));
  const auto tokens = model.visual.embed_patches(tape, images);
  const auto train = [&](uint64_t seed) {
    return to_host(view(model.visual.features(tape, tokens, {.stream = RandomStream{seed, 0, 0}}).assignment.value()));
  };
  CHECK(train(1) == train(1));
  CHECK(train(1) != train(2));
}

TEST_CASE("segclip: keys mixed over the batch change nothing for one picture, and something for two", "[systems]") {
  auto ctx = nan_filled_context();
  auto config = tiny_segclip();
  const auto region_of = [&](bool mixed, int64_t batch) {
    auto own = config;
    own.group.keys_mixed_over_batch = mixed;
    auto model = make_segclip<float>(ctx, own);
    randomise(model);
    Tape<Cpu> tape(ctx, false);
    const Variable<float, 4> images(random_tensor<float>(ctx, Shape<4>{batch, 3, 16, 16}, 1));
    return to_host(view(model.encode_image(tape, images).regions.value()));
  };
  CHECK(region_of(true, 1) == region_of(false, 1));
  CHECK(region_of(true, 2) != region_of(false, 2));
}

TEST_CASE("segclip: what the released training freezes, and what learns slowly", "[systems]") {
  Context<Cpu> ctx;
  auto model = make_segclip<float>(ctx, tiny_segclip());
  std::map<SegclipPace, int> count;
  nn::for_each_parameter(model, [&](const std::string& name, auto&) { ++count[segclip_pace(name)]; });
  CHECK(count[SegclipPace::frozen] == 7);  // class, two positions, patches, ln_pre twice, tokens
  // 2 + 1 blocks of 12 parameters, ln_final twice, text projection, scale
  CHECK(count[SegclipPace::slow] == 3 * 12 + 4);
  CHECK(segclip_pace("clip.visual.transformer.layers2.0.ln_1.weight") == SegclipPace::fast);
  CHECK(segclip_pace("clip.visual.proj") == SegclipPace::fast);
  CHECK(segclip_pace("vis_mae_decoder.mask_token") == SegclipPace::fast);
  CHECK(segclip_pace("clip.positional_embedding") == SegclipPace::frozen);
}

TEST_CASE("segclip: masking keeps the patches with the smallest noise, the class token counted as seen", "[systems]") {
  Context<Cpu> ctx;
  CHECK(nn::visible_patches(196, 0.75) == 48);
  CHECK(nn::visible_patches(16, 0.5) == 7);
  REQUIRE_ERROR(nn::visible_patches(2, 0.75), ValueError, "leaves none of 2 patches");
  REQUIRE_ERROR(nn::visible_patches(16, 1.0), ValueError, "must lie between 0 and 1");
  const auto noise = Tensor<float, 2>::from_host(ctx, {1, 4}, {0.3f, 0.1f, 0.9f, 0.2f});
  const auto masking = nn::mask_patches(ctx, TensorView<const float, 2>(view(noise)), 0.4);  // 5 * 0.6 - 1 = 2
  CHECK(to_host(view(masking.visible)) == std::vector<int32_t>{1, 3});
  CHECK(to_host(view(masking.removed)) == std::vector<uint8_t>{1, 0, 1, 0});
  CHECK(to_host(view(masking.restore)) == std::vector<int32_t>{0, 3, 1, 4, 2});
}

TEST_CASE("segclip: affinities, the likeliest classes and the background by hand", "[systems]") {
  Context<Cpu> ctx;
  // Two groups (upper and lower half of 2 x 2 patches), three classes along the axes.
  SegclipEmbeddings seen;
  seen.grid = {2, 2};
  seen.image = Tensor<float, 2>::from_host(ctx, {1, 3}, {0.8f, 0.6f, 0.0f});
  seen.regions = Tensor<float, 2>::from_host(ctx, {2, 3}, {1.0f, 0.0f, 0.0f, 0.0f, 0.6f, 0.8f});
  seen.logits = Tensor<float, 2>::from_host(ctx, {4, 2}, {3, 0, 3, 0, 0, 3, 0, 3});
  const auto classes = Tensor<float, 2>::from_host(ctx, {3, 3}, {1, 0, 0, 0, 1, 0, 0, 0, 1});
  const TensorView<const float, 2> texts = view(classes);
  const double scale = 2;
  const auto e = [](double x) { return std::exp(x); };
  // group 1: cosines 0, 0.6, 0.8; of the image's two likeliest classes only 0 and 1 are left
  const double all = e(0) + e(1.2) + e(1.6), likely = e(0) + e(1.2);
  const double affinity0 = e(0) / all * e(0) / likely, affinity1 = e(1.2) / all * e(1.2) / likely;
  const auto scores = segclip_scores(ctx, seen, 4, 4, texts, scale, {.likely_classes = 2, .background = 0.5});
  REQUIRE(scores.of_pixels);
  REQUIRE(scores.scores.shape == Shape<2>{16, 4});
  CHECK(scores.groups(0, 0) == 0);
  CHECK(scores.groups(3, 3) == 1);
  CHECK(scores.scores(15, 0) == Approx(affinity0));
  CHECK(scores.scores(15, 1) == Approx(affinity1));
  CHECK(scores.scores(15, 2) == 0);  // not among the likeliest, though the group's nearest
  CHECK(affinity1 < 0.5);
  CHECK(scores.scores(15, 3) == 1);  // below the threshold: background
  CHECK(scores.scores(0, 3) == 0);   // the best group never is, whatever the threshold
  const double best = e(2) / (e(2) + 2) * e(2) / (e(2) + 1);
  CHECK(scores.scores(0, 0) == Approx(best));
  const auto strict = segclip_scores(ctx, seen, 4, 4, texts, scale, {.likely_classes = 2, .background = 0.99});
  CHECK(strict.scores(0, 3) == 0);
  const auto without = segclip_scores(ctx, seen, 4, 4, texts, scale, {.likely_classes = 2});
  CHECK(without.scores.shape == Shape<2>{16, 3});

  const auto cosine = segclip_scores(ctx, seen, 4, 4, texts, scale, {.form = SegclipForm::cosine});
  REQUIRE_FALSE(cosine.of_pixels);
  CHECK(cosine.scores(0, 0) == Approx(1));
  CHECK(cosine.scores(3, 2) == Approx(0.8));
  CHECK(cosine.patch_embeddings(3, 1) == Approx(0.6));
  REQUIRE_ERROR(segclip_scores(ctx, seen, 4, 4, texts, scale, {.background = 1.5}), ValueError, "must lie in [0, 1]");
  REQUIRE_ERROR(segclip_scores(ctx, seen, 4, 4, texts, scale, {.likely_classes = 0}), ValueError, "likeliest classes");
}

TEST_CASE("segclip: a saved model loads to the bit, with its choices", "[systems]") {
  auto ctx = nan_filled_context();
  const Folder folder;
  const ImageStatistics statistics{{0.1f, 0.2f, 0.3f}, {0.4f, 0.5f, 0.6f}};
  for (const bool whole : {true, false}) {
    auto config = tiny_segclip();
    config.reconstruction = whole;
    config.vision.class_token = whole;
    config.group.paper_keys = !whole;
    // CLIP's initial values have no bias of the patches, Glorot's have.
    auto model = make_segclip<float>(ctx, config, whole ? nn::Initialisation::clip : nn::Initialisation::xavier);
    randomise(model);
    save_segclip(model, statistics, folder.path(), "a photo of a {}");
    auto loaded = load_segclip<float>(ctx, folder.path());
    CHECK(parameter_names(loaded.model) == parameter_names(model));
    CHECK(parameter_values(loaded.model) == parameter_values(model));
    CHECK(loaded.statistics.deviation == statistics.deviation);
    CHECK(segclip_config_to_json(loaded.model.config) == segclip_config_to_json(model.config));
    Tape<Cpu> tape(ctx, false);
    const Variable<float, 4> images(random_tensor<float>(ctx, Shape<4>{2, 3, 16, 16}, 1));
    CHECK(to_host(view(total_loss(tape, loaded.model, images).value())) ==
          to_host(view(total_loss(tape, model, images).value())));
  }
  auto json = io::read_json(folder / "config.json");
  json["model_type"] = "pacl";
  io::write_json(folder / "config.json", json);
  REQUIRE_ERROR(load_segclip<float>(ctx, folder.path()), IoError, "model_type is \"pacl\", not \"segclip\"");
}

TEST_CASE("segclip: around a CLIP, its towers and scale are the CLIP's own", "[systems]") {
  Context<Cpu> ctx;
  const auto config = tiny_segclip();
  auto clip = make_clip<float>(ctx, {config.vision, config.text, 2.5});
  const auto before = parameter_values(clip);
  auto model = make_segclip<float>(ctx, config, clip.visual, clip.text, clip.logit_scale);
  const auto after = parameter_values(model);
  for (auto [name, values] : before) {
    INFO(name);
    std::string in_segclip = "clip." + name;
    for (const auto& [block, as] : {std::pair{"visual.transformer.resblocks.0", "visual.transformer.layers0.0"},
                                    {"visual.transformer.resblocks.1", "visual.transformer.layers0.1"},
                                    {"visual.transformer.resblocks.2", "visual.transformer.layers2.0"}})
      if (const auto at = in_segclip.find(block); at != std::string::npos)
        in_segclip.replace(at, std::string(block).size(), as);
    REQUIRE(after.contains(in_segclip));
    CHECK(after.at(in_segclip) == values);
  }
  CHECK(after.at("clip.logit_scale").front() == 2.5f);
}

TEST_CASE("segclip: impossible sizes are refused", "[systems]") {
  Context<Cpu> ctx;
  const auto refused = [&](auto&& change, const char* sentence) {
    auto config = tiny_segclip();
    change(config);
    REQUIRE_ERROR(make_segclip<float>(ctx, config), ValueError, sentence);
  };
  refused([](auto& c) { c.group_layer = 4; }, "the groups are formed after block 4 of 3");
  refused([](auto& c) { c.group.centres = 0; }, "0 centres");
  refused([](auto& c) { c.group.temperature = 0; }, "temperature 0 must be positive");
  refused([](auto& c) { c.text.embed_dim = 6; }, "the image tower's embeddings have 5 channels");
  refused([](auto& c) { c.decoder_width = 6; }, "must be a multiple of 4");
  auto config = tiny_segclip();
  config.reconstruction = false;
  const auto model = make_segclip<float>(ctx, config);
  Tape<Cpu> tape(ctx, false);
  const Variable<float, 4> images(random_tensor<float>(ctx, Shape<4>{1, 3, 16, 16}, 1));
  const auto tokens = model.visual.embed_patches(tape, images);
  const auto masking = nn::draw_masking(ctx, 1, 16, 0.5, RandomStream{});
  REQUIRE_ERROR(model.reconstruction_loss(tape, tokens, images, masking, {}), ValueError, "has no decoder");
}
