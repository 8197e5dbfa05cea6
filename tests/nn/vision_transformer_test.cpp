// The image tower: names, token layout, every dense form, overlapping patches; gradients in double.
#include <tessera/nn/vision_transformer.hpp>

#include <support/modules.hpp>

using namespace tessera;
using namespace tessera::nn;
using namespace tessera_test;

namespace {

VisionConfig small(bool class_token = true, bool pre_norm = true) {
  return {.image_size = 6,
          .patch_size = 2,
          .channels = 3,
          .transformer = {.width = 4, .layers = 2, .heads = 2, .mlp_width = 6, .epsilon = 1e-3},
          .embed_dim = 5,
          .class_token = class_token,
          .pre_norm = pre_norm};
}
VisionTransformer<double> tower(Context<Cpu>& ctx, const VisionConfig& config,
                                Initialisation initialisation = Initialisation::clip) {
  auto v = make_vision_transformer<double>(ctx, config, initialisation);
  randomise(v);
  return v;
}
const std::set<std::string> mlp_of_last{
    "transformer.resblocks.1.ln_2.weight",       "transformer.resblocks.1.ln_2.bias",
    "transformer.resblocks.1.mlp.c_fc.weight",   "transformer.resblocks.1.mlp.c_fc.bias",
    "transformer.resblocks.1.mlp.c_proj.weight", "transformer.resblocks.1.mlp.c_proj.bias"};

}  // namespace

TEST_CASE("VisionTransformer: the parameters are those of OpenAI's image tower", "[nn]") {
  auto ctx = nan_filled_context();
  auto v = tower(ctx, small());
  std::vector<std::string> names{"class_embedding", "positional_embedding", "proj",
                                 "conv1.weight",    "ln_pre.weight",        "ln_pre.bias"};
  for (const std::string block : {"transformer.resblocks.0.", "transformer.resblocks.1."})
    for (const std::string name : {"ln_1.weight", "ln_1.bias", "attn.in_proj_weight", "attn.in_proj_bias",
                                   "attn.out_proj.weight", "attn.out_proj.bias", "ln_2.weight", "ln_2.bias",
                                   "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"})
      names.push_back(block + name);
  names.insert(names.end(), {"ln_post.weight", "ln_post.bias"});
  CHECK(parameter_names(v) == names);
  CHECK(v.positional_embedding.shape() == Shape<2>{10, 4});
  CHECK(v.conv1.weight.shape() == Shape<4>{4, 3, 2, 2});
  CHECK(v.proj.shape() == Shape<2>{4, 5});
  // the form that learns from scratch: no class token, no ln_pre, a bias for the patches
  auto bare = tower(ctx, small(false, false), Initialisation::xavier);
  const auto bare_names = parameter_names(bare);
  CHECK(bare_names[0] == "positional_embedding");
  CHECK(bare_names[3] == "conv1.bias");
  CHECK(bare_names.size() == names.size() - 2);  // class_embedding and ln_pre's two gone, conv1.bias come
  CHECK(bare.positional_embedding.shape() == Shape<2>{9, 4});
}

TEST_CASE("VisionTransformer: tokens are class token, then patches row by row, each with its position", "[nn]") {
  auto ctx = nan_filled_context();
  const auto v = tower(ctx, small(true, false));
  const auto images = random_variable(ctx, Shape<4>{2, 3, 6, 6}, 1);
  Tape<Cpu> tape(ctx, false);
  const auto tokens = v.embed(tape, images).value();
  REQUIRE(tokens.shape == Shape<3>{2, 10, 4});
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t c = 0; c < 4; ++c) {
      CHECK(tokens(b, 0, c) == Approx(v.class_embedding.value()(c) + v.positional_embedding.value()(0, c)));
      for (int64_t row = 0; row < 3; ++row)
        for (int64_t column = 0; column < 3; ++column) {
          double sum = v.positional_embedding.value()(1 + row * 3 + column, c);
          for (int64_t channel = 0; channel < 3; ++channel)
            for (int64_t i = 0; i < 2; ++i)
              for (int64_t j = 0; j < 2; ++j)
                sum +=
                    images.value()(b, channel, 2 * row + i, 2 * column + j) * v.conv1.weight.value()(c, channel, i, j);
          CHECK(tokens(b, 1 + row * 3 + column, c) == Approx(sum).epsilon(1e-10));
        }
    }
  const auto normed = tower(ctx, small());
  Tape<Cpu> again(ctx, false);
  auto plain = normed;
  plain.config.pre_norm = false;
  CHECK(largest_difference(view(normed.embed(again, images).value()),
                           view(normed.ln_pre(again, plain.embed(again, images)).value())) < 1e-13);
}

TEST_CASE("VisionTransformer: gradients of the image embedding", "[nn]") {
  auto ctx = nan_filled_context();
  auto v = tower(ctx, small());
  const auto images = random_variable(ctx, Shape<4>{2, 3, 6, 6}, 1);
  check_gradients(ctx, v, images, [&](auto& tape, const auto& x) { return v(tape, x); });
  const auto wide = random_variable(ctx, Shape<4>{1, 3, 4, 10}, 1);  // resized positions
  check_gradients(ctx, v, wide, [&](auto& tape, const auto& x) { return v(tape, x); });
}

TEST_CASE("VisionTransformer: gradients of every dense form", "[nn]") {
  auto ctx = nan_filled_context();
  const auto images = random_variable(ctx, Shape<4>{1, 3, 6, 8}, 1);
  for (const bool class_token : {true, false}) {
    auto v = tower(ctx, small(class_token, class_token));
    for (const DenseMode mode : {DenseMode::unchanged, DenseMode::identity_attention, DenseMode::value_path}) {
      INFO("class token " << class_token << ", mode " << int(mode));
      check_gradients(
          ctx, v, images, [&](auto& tape, const auto& x) { return v.dense(tape, x, mode); },
          mode == DenseMode::value_path ? mlp_of_last : std::set<std::string>{});
    }
  }
}

TEST_CASE("VisionTransformer: the dense forms are what they say, composed by hand", "[nn]") {
  auto ctx = nan_filled_context();
  const auto v = tower(ctx, small());
  const auto images = random_variable(ctx, Shape<4>{2, 3, 6, 4}, 1);
  Tape<Cpu> tape(ctx, false);
  const auto before = v.transformer.resblocks[0](tape, v.embed(tape, images));
  const auto& last = v.transformer.resblocks[1];
  const auto read_out = [&](const Variable<double, 3>& tokens) {
    const auto projected = matmul(tape, v.ln_post(tape, tokens), v.proj);
    return to_host(view(slice(tape, projected, 1, 1, tokens.shape()[1]).value()));
  };
  const auto dense = [&](DenseMode mode) { return to_host(view(v.dense(tape, images, mode).value())); };
  CHECK(largest_difference(dense(DenseMode::unchanged), read_out(last(tape, before))) < 1e-13);
  const auto value = last.attn.value_path(tape, last.ln_1(tape, before));
  CHECK(largest_difference(dense(DenseMode::value_path), read_out(value)) < 1e-13);
  const auto half = add(tape, before, value);
  const auto identity = add(tape, half, last.mlp(tape, last.ln_2(tape, half)));
  CHECK(largest_difference(dense(DenseMode::identity_attention), read_out(identity)) < 1e-13);
  CHECK(v.dense(tape, images).shape() == Shape<3>{2, 6, 5});
}

TEST_CASE("VisionTransformer: a stride below the patch size gives overlapping patches, with gradients", "[nn]") {
  auto ctx = nan_filled_context();
  auto config = small(false, false);
  config.patch_size = 4;
  config.image_size = 12;
  auto v = tower(ctx, config, Initialisation::xavier);
  CHECK(v.grid(12, 8, 2) == PatchGrid{5, 3});
  CHECK(v.grid(12, 8) == PatchGrid{3, 2});
  const auto images = random_variable(ctx, Shape<4>{1, 3, 12, 8}, 1);
  Tape<Cpu> tape(ctx, false);
  const auto tokens = v.embed(tape, images, 2).value();
  REQUIRE(tokens.shape == Shape<3>{1, 15, 4});
  check_gradients(ctx, v, images, [&](auto& t, const auto& x) { return v.dense(t, x, DenseMode::unchanged, 2); });
  // With constant positions every second token is the plain grid's.
  for (int64_t i = 0; i < v.positional_embedding.value().size(); ++i)
    v.positional_embedding.state().value.data[i] = 0.5;
  const auto fine = v.embed(tape, images, 2).value(), coarse = v.embed(tape, images).value();
  for (int64_t row = 0; row < 3; ++row)
    for (int64_t column = 0; column < 2; ++column)
      for (int64_t c = 0; c < 4; ++c)
        CHECK(fine(0, 2 * row * 3 + 2 * column, c) == Approx(coarse(0, row * 2 + column, c)).epsilon(1e-12));
}

TEST_CASE("VisionTransformer: hidden states begin before the first block", "[nn]") {
  auto ctx = nan_filled_context();
  const auto v = tower(ctx, small());
  const auto images = random_variable(ctx, Shape<4>{2, 3, 6, 6}, 1);
  Tape<Cpu> tape(ctx, false);
  std::vector<Variable<double, 3>> hidden;
  const auto pooled = v(tape, images, &hidden);
  REQUIRE(hidden.size() == 3);
  CHECK(to_host(view(hidden[0].value())) == to_host(view(v.embed(tape, images).value())));
  CHECK(to_host(view(v.pool_class_token(tape, hidden[2]).value())) == to_host(view(pooled.value())));
}

TEST_CASE("VisionTransformer: what does not fit is refused with a sentence", "[nn]") {
  auto ctx = nan_filled_context();
  auto config = small();
  config.image_size = 7;
  REQUIRE_ERROR(make_vision_transformer<float>(ctx, config, Initialisation::clip), ValueError,
                "image size 7 is not a multiple of the patch size 2");
  const auto bare = tower(ctx, small(false, false));
  Tape<Cpu> tape(ctx, false);
  const auto images = random_variable(ctx, Shape<4>{1, 3, 6, 6}, 1);
  REQUIRE_ERROR(bare(tape, images), ValueError, "no class token");
  const auto grey = random_variable(ctx, Shape<4>{1, 1, 6, 6}, 1);
  REQUIRE_THROWS_AS(bare.dense(tape, grey), ShapeError);
  const auto tiny = random_variable(ctx, Shape<4>{1, 3, 1, 6}, 1);
  REQUIRE_THROWS_AS(bare.dense(tape, tiny), Error);
}
