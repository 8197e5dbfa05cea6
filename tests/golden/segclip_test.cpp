// SegCLIP's parts against the official implementation: the semantic group module, the image tower, the losses; values,
// assignments and every gradient, with the noise given.
#include <tessera/systems/clip_checkpoint.hpp>
#include <tessera/systems/segclip.hpp>

#include "support/golden.hpp"
#include "support/ranks.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

std::vector<systems::StoredPart> golden_names(const std::string& name, const std::vector<int64_t>& shape) {
  return systems::own_names("param." + name, shape);
}

/// [B, G, N] of the reference as our [B, N, G], or back.
Tensor<float, 3> turned(Context<Cpu>& ctx, const Tensor<float, 3>& x) { return permute(ctx, view(x), {0, 2, 1}); }

/// sum(x * cotangent): a loss whose gradient is the cotangent.
template <int Rank>
Variable<float, 0> against(Tape<Cpu>& tape, const Variable<float, Rank>& x, const Tensor<float, Rank>& cotangent) {
  return sum(tape, multiply(tape, x, Variable<float, Rank>(cotangent)));
}

/// Every gradient that the reference has of the module's parameters; returns how many.
template <class Module>
int64_t compare_gradients(const Case& which, const std::string& variant, Module& module,
                          const std::string& prefix = "") {
  int64_t compared = 0;
  nn::for_each_parameter(module, prefix, [&](const std::string& name, auto& parameter) {
    const std::string gradient = "grad." + variant + ".param." + name;
    if (!which.has(gradient)) return;
    INFO(gradient);
    if (parameter.grad())
      compare(which, gradient, view(parameter.grad()));
    else  // not on the path: the reference holds zeros
      for (float value : which.values<float>(gradient)) CHECK(value == 0.f);
    ++compared;
  });
  return compared;
}

/// The reference's probabilities of each patch.
void compare_assignment(const Case& which, const std::string& variant, Context<Cpu>& ctx,
                        const Tensor<float, 3>& assignment, const Tensor<float, 3>& logits) {
  compare(which, "mid." + variant + ".logits", view(turned(ctx, logits)));
  compare(which, "out." + variant + ".hard_attn", view(turned(ctx, assignment)));
  compare(which, "out." + variant + ".soft_attn", view(turned(ctx, softmax(ctx, view(logits)))));
}

}  // namespace

TEST_CASE("golden segclip_group: groups, assignments and all gradients", "[golden][segclip]") {
  for (const Case& which : find_cases("segclip_group")) {
    const auto config = which.config();
    for (const std::string variant : {"eval", "train", "train_kvmixed"}) {
      REQUIRE(which.has_variant(variant));
      INFO(which.name() << " " << variant);
      Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
      auto group = nn::make_semantic_group<float>(ctx, {.width = config.get<int64_t>("D"),
                                                        .heads = config.get<int64_t>("heads"),
                                                        .centres = config.get<int64_t>("G_centres"),
                                                        .cross_layers = config.get<int64_t>("cross_layers"),
                                                        .temperature = config.get<double>("tau_train"),
                                                        .epsilon = config.get<double>("ln_eps"),
                                                        .keys_mixed_over_batch = variant == "train_kvmixed"});
      systems::load_module(group, which.tensors, golden_names, {.allow_unknown = true});
      nn::AssignmentNoise<float> noise;
      if (variant != "eval") noise.gumbel = turned(ctx, which.read<float, 3>(ctx, "input.gumbel"));
      const Variable<float, 3> x(which.read<float, 3>(ctx, "input.x"), true);
      Tape<Cpu> tape(ctx);
      const auto result = group(tape, x, noise);
      compare(which, "out." + variant + ".out", view(result.groups.value()));
      compare_assignment(which, variant, ctx, result.assignment.value(), result.logits.value());
      const auto loss = add(tape, against(tape, result.groups, which.read<float, 3>(ctx, "input.dout")),
                            against(tape, result.assignment, turned(ctx, which.read<float, 3>(ctx, "input.dhard"))));
      compare(which, "out." + variant + ".loss", view(loss.value()));
      tape.backward(loss);
      compare(which, "grad." + variant + ".input.x", view(x.grad()));
      CHECK(compare_gradients(which, variant, group) ==
            which.description()["variants"][variant].get<int64_t>("n_params"));
    }
  }
}

TEST_CASE("golden segclip_visual: the image tower, forward and all gradients", "[golden][segclip]") {
  for (const Case& which : find_cases("segclip_visual")) {
    const auto config = which.config();
    const int64_t patch = config.get<int64_t>("patch"), first = config.get<int64_t>("layers0");
    for (const std::string variant : {"train", "eval"}) {
      REQUIRE(which.has_variant(variant));
      INFO(which.name() << " " << variant);
      Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
      systems::SegclipConfig sizes;
      sizes.vision = {.image_size = config.get<int64_t>("stored_grid") * patch,
                      .patch_size = patch,
                      .transformer = {.width = config.get<int64_t>("D"),
                                      .layers = first + config.get<int64_t>("layers2"),
                                      .heads = config.get<int64_t>("heads")},
                      .embed_dim = config.get<int64_t>("E")};
      sizes.text = {.vocabulary_size = 5,
                    .context_length = 4,
                    .transformer = {.width = 8, .layers = 1, .heads = 1},
                    .embed_dim = sizes.vision.embed_dim};
      sizes.group_layer = first;
      sizes.group.centres = config.get<int64_t>("G");
      sizes.reconstruction = false;
      auto visual = systems::make_segclip<float>(ctx, sizes, nn::Initialisation::clip).visual;
      const auto names = [](const std::string& name, const std::vector<int64_t>& shape) {
        return golden_names("visual." + name, shape);
      };
      systems::load_module(visual, which.tensors, names, {.allow_unknown = true});
      const bool train = variant == "train";
      nn::AssignmentNoise<float> noise;
      if (train) noise.gumbel = turned(ctx, which.read<float, 3>(ctx, "input.gumbel"));
      const Variable<float, 4> image(which.read<float, 4>(ctx, train ? "input.image" : "input.image_eval"), true);
      Tape<Cpu> tape(ctx);
      const auto features = visual.features(tape, visual.embed_patches(tape, image), noise);
      const auto [batch, groups, channels] = features.regions.shape();
      const auto hidden =
          concatenate(tape, 1, reshape(tape, features.image, Shape<3>{batch, 1, channels}), features.regions);
      compare(which, "out." + variant + ".hidden", view(hidden.value()));
      compare_assignment(which, variant, ctx, features.assignment.value(), features.logits.value());
      tape.backward(hidden, which.read<float, 3>(ctx, train ? "input.dhidden" : "input.dhidden_eval"));
      if (which.has("grad." + variant + ".input." + (train ? "image" : "image_eval")))
        compare(which, "grad." + variant + ".input." + (train ? "image" : "image_eval"), view(image.grad()));
      CHECK(compare_gradients(which, variant, visual, "visual.") ==
            which.description()["variants"][variant].get<int64_t>("n_params"));
    }
  }
}

TEST_CASE("golden segclip_losses: contrastive, below and above the clamp, on one rank and two", "[golden][segclip]") {
  for (const Case& which : find_cases("segclip_losses")) {
    for (const auto& [variant, scale_name] :
         {std::pair{std::string("con"), std::string("input.logit_scale")}, {"con_clamped", "input.logit_scale_hi"}}) {
      INFO(which.name() << " " << variant);
      Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
      OneRank<Cpu> alone;
      const Variable<float, 2> text(which.read<float, 2>(ctx, "input.text"), true);
      const Variable<float, 2> image(which.read<float, 2>(ctx, "input.visual"), true);
      const Parameter<float, 0> logit_scale(which.read<float, 0>(ctx, scale_name), true);
      Tape<Cpu> tape(ctx);
      const auto loss =
          gathered_contrastive(tape, alone, l2_normalise(tape, image), l2_normalise(tape, text), logit_scale);
      compare(which, "out." + variant + ".loss", view(loss.value()));
      tape.backward(loss);
      compare(which, "grad." + variant + ".input.text", view(text.grad()));
      compare(which, "grad." + variant + ".input.visual", view(image.grad()));
      compare(which, "grad." + variant + "." + scale_name, view(logit_scale.grad()));
    }
    // Two ranks: the mean of the ranks' losses and its gradients.
    const int64_t ranks = which.config()["contrastive"]["world2"].get<int64_t>("W");
    std::vector<float> losses(static_cast<size_t>(ranks)), d_text, d_image, d_scale;
    std::vector<std::array<std::vector<float>, 3>> gradients(static_cast<size_t>(ranks));
    run_ranks(ranks, [&](Communicator<Cpu>& communicator) {
      Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
      const int64_t rank = communicator.rank();
      const auto part = [&](const std::string& name) {
        return Variable<float, 2>(copy(ctx, which.read<float, 3>(ctx, name).select(0, rank)), true);
      };
      const auto text = part("input.text_w2"), image = part("input.visual_w2");
      const Parameter<float, 0> logit_scale(which.read<float, 0>(ctx, "input.logit_scale"), true);
      Tape<Cpu> tape(ctx);
      const auto loss =
          gathered_contrastive(tape, communicator, l2_normalise(tape, image), l2_normalise(tape, text), logit_scale);
      losses[size_t(rank)] = loss.value().data[0];
      tape.backward(loss);
      gradients[size_t(rank)] = {to_host(view(text.grad())), to_host(view(image.grad())),
                                 to_host(view(logit_scale.grad()))};
    });
    compare(which, "mid.con_w2.rank_losses", std::span<const float>(losses));
    for (auto& [text, image, scale] : gradients)
      for (auto [from, to] : {std::pair{&text, &d_text}, {&image, &d_image}, {&scale, &d_scale}})
        for (float value : *from) to->push_back(value / float(ranks));  // of the mean over ranks
    compare(which, "grad.con_w2.input.text_w2", std::span<const float>(d_text));
    compare(which, "grad.con_w2.input.visual_w2", std::span<const float>(d_image));
    const float both = std::accumulate(d_scale.begin(), d_scale.end(), 0.f);
    compare(which, "grad.con_w2.input.logit_scale", std::span<const float>(&both, 1));
  }
}

TEST_CASE("golden segclip_losses: patches made from groups, masking, decoder and its loss", "[golden][segclip]") {
  for (const Case& which : find_cases("segclip_losses")) {
    const auto config = which.config()["mae"];
    const int64_t grid = config.get<int64_t>("grid"), patch = config.get<int64_t>("patch");
    const int64_t width = config.get<int64_t>("D"), batch = config.get<int64_t>("B");
    {
      INFO(which.name() << " reconstruct");
      Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
      systems::SegclipVision<float> visual;
      visual.reconstruct_layer2.a_fc.weight = nn::unset<float, 2>(ctx, {8, 8});
      visual.reconstruct_layer2.a_fc.bias = nn::unset<float, 1>(ctx, {8});
      const auto names = [](const std::string& name, const std::vector<int64_t>& shape) {
        return golden_names("reconstruct_layer2." + name, shape);
      };
      systems::load_module(visual.reconstruct_layer2, which.tensors, names, {.allow_unknown = true});
      const Variable<float, 3> groups(which.read<float, 3>(ctx, "input.mae_z"), true);
      const Variable<float, 3> assignment(turned(ctx, which.read<float, 3>(ctx, "input.mae_hard")), true);
      Tape<Cpu> tape(ctx);
      const auto x = visual.spread(tape, assignment, groups);
      compare(which, "out.reconstruct.x", view(x.value()));
      tape.backward(x, which.read<float, 3>(ctx, "input.mae_dx"));
      compare(which, "grad.reconstruct.input.mae_z", view(groups.grad()));
      compare(which, "grad.reconstruct.input.mae_hard", view(turned(ctx, assignment.grad())));
      CHECK(compare_gradients(which, "reconstruct", visual.reconstruct_layer2, "reconstruct_layer2.") == 2);
    }
    INFO(which.name() << " mae");
    Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
    auto decoder = nn::make_masked_decoder<float>(ctx, {.grid = grid,
                                                        .patch_size = patch,
                                                        .input_width = width,
                                                        .width = config.get<int64_t>("De"),
                                                        .layers = config.get<int64_t>("depth"),
                                                        .heads = config.get<int64_t>("heads"),
                                                        .epsilon = config.get<double>("ln_eps")});
    const auto names = [](const std::string& name, const std::vector<int64_t>& shape) {
      return golden_names("vis_mae_decoder." + name, shape);
    };
    systems::load_module(decoder, which.tensors, names, {.allow_unknown = true});
    compare(which, "input.mae_decoder_pos_embed",
            view(decoder.positions.reshaped(Shape<3>{1, 1 + grid * grid, decoder.config.width})));

    // The reference's noise and tokens begin with the class token, which is always kept.
    const auto noise = which.read<float, 2>(ctx, "input.mae_noise");
    const auto masking =
        nn::mask_patches(ctx, TensorView<const float, 2>(copy(ctx, noise.slice(1, 1, 1 + grid * grid))),
                         config.get<double>("mask_ratio"));
    std::vector<int32_t> kept, restore;
    for (int64_t b = 0; b < batch; ++b) {
      kept.push_back(0);
      for (int64_t k = 0; k < masking.visible.shape[1]; ++k)
        kept.push_back(masking.visible(b, k) - int32_t(b * grid * grid) + 1);
      for (int64_t i = 0; i <= grid * grid; ++i)
        restore.push_back(masking.restore(b, i) - int32_t(b * (1 + grid * grid)));
    }
    compare_exactly(which, "out.mae.ids_keep", std::span<const int32_t>(kept));
    compare_exactly(which, "out.mae.ids_restore", std::span<const int32_t>(restore));
    std::vector<float> removed;
    for (int64_t b = 0; b < batch; ++b) {
      removed.push_back(0);
      for (int64_t i = 0; i < grid * grid; ++i) removed.push_back(masking.removed(b, i));
    }
    CHECK(removed == which.values<float>("out.mae.mask"));

    Tape<Cpu> tape(ctx);
    const Variable<float, 3> tokens(
        copy(ctx, which.read<float, 3>(ctx, "input.mae_tokens").slice(1, 1, 1 + grid * grid)));
    const auto seen = nn::visible_tokens(tape, tokens, masking);
    const auto expected =
        copy(ctx, which.read<float, 3>(ctx, "out.mae.masked_tokens").slice(1, 1, 1 + seen.shape()[1]));
    CHECK(to_host(view(seen.value())) == to_host(view(expected)));

    const Variable<float, 3> hidden(which.read<float, 3>(ctx, "input.mae_hidden"), true);
    const Variable<float, 4> image(which.read<float, 4>(ctx, "input.mae_image"), true);
    const auto target = decoder.target(tape, image);
    compare(which, "mid.mae.target", view(target.value()));
    const auto loss = decoder.loss(tape, hidden, image, masking);
    compare(which, "out.mae.loss", view(loss.value()));
    tape.backward(loss);
    compare(which, "grad.mae.input.mae_hidden", view(hidden.grad()));
    compare(which, "grad.mae.input.mae_image", view(image.grad()));
    CHECK(compare_gradients(which, "mae", decoder, "vis_mae_decoder.") ==
          which.description()["variants"]["mae"].get<int64_t>("n_params"));
  }
}
