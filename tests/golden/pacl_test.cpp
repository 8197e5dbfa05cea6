// PACL against its reference: the vision embedder, compatibility and its loss, the two together, and the read-out with
// the entropy's background.
#include <tessera/segmentation/predictor.hpp>
#include <tessera/systems/pacl.hpp>

#include <numeric>

#include "support/golden.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

/// The switches as a variant's description names them: "… attn_temp=10 pool_normalized=True …".
PairCompatibilityOptions options_of(const std::string& description) {
  const std::string scale = "attn_temp=";
  return {.attention_scale = std::stod(description.substr(description.find(scale) + scale.size())),
          .pool_normalized = description.find("pool_normalized=True") != std::string::npos};
}

/// The embedder, and the frozen norm before it.
struct EmbeddedTokens {
  nn::Layernorm<float> ln_post;
  systems::VisionEmbedder<float> embedder;

  void members(auto&& visit) {
    visit("ln_post", ln_post);
    visit("embedder", embedder);
  }
  EmbeddedTokens(Context<Cpu>& ctx, const Case& which)
      : ln_post(
            nn::make_layernorm<float>(ctx, which.config().get<int64_t>("Dv"), which.config().get<double>("ln_eps"))),
        embedder(systems::make_vision_embedder<float>(ctx, which.config().get<int64_t>("Dv"),
                                                      which.config().get<int64_t>("d"))) {
    nn::for_each_parameter(*this, [&](const std::string& name, auto& parameter) {
      const auto values = which.values<float>("param." + name);
      REQUIRE(int64_t(values.size()) == parameter.value().size());
      std::copy(values.begin(), values.end(), parameter.state().value.data);
    });
  }
  Variable<float, 3> operator()(Tape<Cpu>& tape, const Variable<float, 3>& tokens, bool norm) const {
    return embedder(tape, norm ? ln_post(tape, tokens) : tokens);
  }
  void compare_gradients(const Case& which, const std::string& variant) {
    nn::for_each_parameter(*this, [&](const std::string& name, auto& parameter) {
      if (parameter.grad()) compare(which, "grad." + variant + ".param." + name, view(parameter.grad()));
    });
    CHECK(embedder.linear1.weight.grad());
  }
};

}  // namespace

TEST_CASE("golden pacl: the vision embedder, with the norm before it and without, and all gradients", "[golden]") {
  for (const Case& which : find_cases("pacl"))
    for (const std::string variant : {"embed_ln_post", "embed_none"}) {
      INFO(which.name() << " " << variant);
      Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
      EmbeddedTokens model(ctx, which);
      const Variable<float, 3> tokens(which.read<float, 3>(ctx, "input.H"), true);
      Tape<Cpu> tape(ctx);
      const auto patches = model(tape, tokens, variant == "embed_ln_post");
      compare(which, "out." + variant + ".V", view(patches.value()));
      tape.backward(patches, which.read<float, 3>(ctx, "input.dV"));
      compare(which, "grad." + variant + ".input.H", view(tokens.grad()));
      model.compare_gradients(which, variant);
    }
}

TEST_CASE("golden pacl: embedder, compatibility and loss together", "[golden]") {
  for (const Case& which : find_cases("pacl")) {
    Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
    EmbeddedTokens model(ctx, which);
    const Variable<float, 3> tokens(which.read<float, 3>(ctx, "input.H"));
    const Variable<float, 2> texts(which.read<float, 2>(ctx, "input.t"));
    const Parameter<float, 0> logit_scale(which.read<float, 0>(ctx, "input.logit_scale"), true);
    Tensor<int32_t, 1> owner(ctx, {texts.shape()[0]});
    std::iota(owner.data, owner.data + owner.size(), 0);
    Tape<Cpu> tape(ctx);
    const auto phi = pair_compatibility(tape, model(tape, tokens, true), texts);
    const auto loss = multi_text_contrastive(tape, phi, owner, {}, logit_scale);
    compare(which, "out.full.loss", view(loss.value()));
    tape.backward(loss);
    model.compare_gradients(which, "full");
  }
}

TEST_CASE("golden pacl: labels of a picture, background where the entropy is high", "[golden]") {
  for (const Case& which : find_cases("pacl")) {
    Context<Cpu> ctx;
    const auto config = which.config()["seg"];
    const auto patches = l2_normalise(ctx, view(which.read<float, 2>(ctx, "input.seg_V")));
    const auto classes = l2_normalise(ctx, view(which.read<float, 2>(ctx, "input.seg_t")));
    const auto scores = matmul(ctx, classes, patches, {}, {.transpose_b = true});
    const int rows = config["grid"][0].as<int>(), columns = config["grid"][1].as<int>();
    segmentation::ScoreMap map;
    map.scores = scores.reshaped(Shape<3>{classes.shape[0], rows, columns});
    compare(which, "mid.seg.score", view(map.scores));
    map.first = 0.5;
    map.resized = {columns, rows};
    map.original = {config["image"][1].as<int>(), config["image"][0].as<int>()};
    segmentation::LabelRule rule{.background_entropy = config.get<double>("entropy_thr"),
                                 .entropy_scale = config.get<double>("logit_scale")};
    for (int64_t c = 0; c < classes.shape[0]; ++c) rule.label_of_row.push_back(uint16_t(c + 1));
    const auto labels = segmentation::label_picture(ctx, map, rule);
    const auto best = which.values<int32_t>("out.seg.label"), background = which.values<int32_t>("out.seg.is_bg");
    REQUIRE(labels.labels.size() == best.size());
    int wrong = 0;
    for (size_t i = 0; i < best.size(); ++i) wrong += labels.labels[i] != (background[i] ? 0 : best[i] + 1);
    CHECK(wrong == 0);
  }
}

TEST_CASE("golden pacl: compatibility and symmetric loss, forward and all gradients", "[golden][pair_compatibility]") {
  for (const Case& which : find_cases("pacl")) {
    int compared = 0;
    for (const auto& [variant, json] : which.description()["variants"].json().items()) {
      const auto view_of = which.description()["variants"][variant];
      const auto description = view_of.get<std::string>("desc");
      if (description.find("attn_temp=") == std::string::npos) continue;
      INFO(which.name() << " " << variant);
      const auto scale_name = view_of["inputs"][2].as<std::string>();  // above or below the clamp
      Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
      const Variable<float, 3> patches(which.read<float, 3>(ctx, "input.V"), true);
      const Variable<float, 2> texts(which.read<float, 2>(ctx, "input.t"), true);
      const Parameter<float, 0> logit_scale(which.read<float, 0>(ctx, scale_name), true);
      Tensor<int32_t, 1> owner(ctx, {texts.shape()[0]});
      std::iota(owner.data, owner.data + owner.size(), 0);

      Tape<Cpu> tape(ctx);
      const auto phi = pair_compatibility(tape, patches, texts, options_of(description));
      const auto loss = multi_text_contrastive(tape, phi, owner, {}, logit_scale);
      compare(which, "out." + variant + ".phi", view(phi.value()));
      compare(which, "out." + variant + ".loss", view(loss.value()));
      tape.backward(loss);
      compare(which, "grad." + variant + ".input.V", view(patches.grad()));
      compare(which, "grad." + variant + ".input.t", view(texts.grad()));
      compare(which, "grad." + variant + "." + scale_name, view(logit_scale.grad()));
      ++compared;
    }
    CHECK(compared > 0);
  }
}
