// Blocks and the transformer: composition, gradients, recomputation.
#include <tessera/nn/transformer.hpp>

#include <support/modules.hpp>

using namespace tessera;
using namespace tessera::nn;
using namespace tessera_test;

namespace {

template <class T>
Transformer<T> small_transformer(Context<Cpu>& ctx, int64_t layers, Activation activation = Activation::quick_gelu) {
  auto transformer = make_transformer<T>(
      ctx, {.width = 6, .layers = layers, .heads = 2, .mlp_width = 10, .activation = activation, .epsilon = 1e-3},
      Initialisation::clip);
  randomise(transformer);
  return transformer;
}

}  // namespace

TEST_CASE("ResidualAttentionBlock: x += attn(ln_1 x), then x += mlp(ln_2 x), with gradients", "[nn]") {
  auto ctx = nan_filled_context();
  auto block = small_transformer<double>(ctx, 1).resblocks[0];
  CHECK(parameter_names(block) ==
        std::vector<std::string>{"ln_1.weight", "ln_1.bias", "attn.in_proj_weight", "attn.in_proj_bias",
                                 "attn.out_proj.weight", "attn.out_proj.bias", "ln_2.weight", "ln_2.bias",
                                 "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"});
  const auto x = random_variable(ctx, Shape<3>{2, 4, 6}, 1);
  for (const bool causal : {false, true}) {
    const auto f = [&](auto& tape, const auto& input) { return block(tape, input, causal); };
    check_gradients(ctx, block, x, f);
    Tape<Cpu> tape(ctx, false);
    const auto attended = block.attn(tape, block.ln_1(tape, x), causal).value();
    Variable<double, 3> half(random_tensor<double>(ctx, x.shape(), 1));
    for (int64_t i = 0; i < half.value().size(); ++i) half.state().value.data[i] = x.value().data[i] + attended.data[i];
    const auto inner = block.mlp(tape, block.ln_2(tape, half)).value();
    const auto ours = f(tape, x).value();
    for (int64_t i = 0; i < ours.size(); ++i) CHECK(ours.data[i] == Approx(half.value().data[i] + inner.data[i]));
  }
}

TEST_CASE("ResidualAttentionBlock: identity attention keeps residual and MLP; tokens do not mix", "[nn]") {
  auto ctx = nan_filled_context();
  auto block = small_transformer<double>(ctx, 1).resblocks[0];
  const auto x = random_variable(ctx, Shape<3>{2, 4, 6}, 1);
  const auto f = [&](auto& tape, const auto& input) { return block.with_identity_attention(tape, input); };
  check_gradients(ctx, block, x, f);
  Tape<Cpu> tape(ctx, false);
  const auto all = f(tape, x).value();
  // a token alone attends to itself: the usual block on it is the identity form
  for (int64_t n = 0; n < 4; ++n) {
    const auto alone = slice(tape, x, 1, n, n + 1);
    const auto expected = block(tape, alone).value();
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t c = 0; c < 6; ++c) CHECK(all(b, n, c) == Approx(expected(b, 0, c)).epsilon(1e-12));
  }
}

TEST_CASE("Transformer: blocks in turn; `count` stops early; hidden states are every block's output", "[nn]") {
  auto ctx = nan_filled_context();
  const auto transformer = small_transformer<double>(ctx, 3, Activation::gelu);
  const auto x = random_variable(ctx, Shape<3>{2, 4, 6}, 1);
  Tape<Cpu> tape(ctx, false);
  auto step = x;
  std::vector<Variable<double, 3>> hidden;
  const auto all = transformer(tape, x, true, -1, &hidden);
  REQUIRE(hidden.size() == 3);
  for (int64_t i = 0; i < 3; ++i) {
    step = transformer.resblocks[size_t(i)](tape, step, true);
    CHECK(to_host(view(hidden[size_t(i)].value())) == to_host(view(step.value())));
    CHECK(to_host(view(transformer(tape, x, true, i + 1).value())) == to_host(view(step.value())));
  }
  CHECK(to_host(view(all.value())) == to_host(view(step.value())));
  CHECK(to_host(view(transformer(tape, x, true, 0).value())) == to_host(view(x.value())));
}

TEST_CASE("Transformer: gradients through two blocks, with recomputation too", "[nn]") {
  auto ctx = nan_filled_context();
  auto transformer = small_transformer<double>(ctx, 2);
  const auto x = random_variable(ctx, Shape<3>{1, 3, 6}, 1);
  for (const bool recompute : {false, true}) {
    transformer.recompute = recompute;
    check_gradients(ctx, transformer, x, [&](auto& tape, const auto& input) { return transformer(tape, input, true); });
  }
}

TEST_CASE("Transformer: one token of each item alone is that token of the whole, with gradients", "[nn]") {
  auto ctx = nan_filled_context();
  auto transformer = small_transformer<double>(ctx, 2);
  const auto x = random_variable(ctx, Shape<3>{2, 4, 6}, 1);
  const auto at = Tensor<int32_t, 1>::from_host(ctx, {2}, {2, 0}),
             lengths = Tensor<int32_t, 1>::from_host(ctx, {2}, {3, 1});
  Tape<Cpu> tape(ctx, false);
  const auto whole = gather_tokens(tape, transformer(tape, x, true), at).value();
  for (const bool recompute : {false, true}) {
    transformer.recompute = recompute;
    const auto alone = transformer.at_token(tape, x, at, lengths).value();
    CHECK(largest_difference(view(alone.reshaped(Shape<2>{2, 6})), view(whole)) < 1e-13);
    check_gradients(ctx, transformer, x,
                    [&](auto& t, const auto& input) { return transformer.at_token(t, input, at, lengths); });
  }
}

TEMPLATE_TEST_CASE("Transformer: recomputing activations changes no bit, and keeps fewer of them", "[nn]", float,
                   bfloat16) {
  const auto run = [](bool recompute, size_t* held) {
    auto ctx = nan_filled_context();
    auto transformer = small_transformer<TestType>(ctx, 3);
    transformer.recompute = recompute;
    const Variable<TestType, 3> x(random_tensor<TestType>(ctx, Shape<3>{3, 7, 6}, 1), true);
    Tape<Cpu> tape(ctx);
    const size_t before = ctx.pool->bytes_in_use();
    const auto y = transformer(tape, x, true);
    *held = ctx.pool->bytes_in_use() - before;
    tape.backward(y, random_tensor<TestType>(ctx, y.shape(), 2));
    auto found = parameter_gradients(transformer);
    for (const auto v : to_host(view(y.value()))) found["y"].push_back(float(widen(v)));
    for (const auto v : to_host(view(x.grad()))) found["d_x"].push_back(float(widen(v)));
    return found;
  };
  size_t kept = 0, recomputed = 0;
  const auto usual = run(false, &kept);
  CHECK(usual.size() == 38);
  CHECK(run(true, &recomputed) == usual);
  CHECK(recomputed * 3 < kept);
}

TEST_CASE("Transformer: recomputation of an input without gradient trains the blocks", "[nn]") {
  auto ctx = nan_filled_context();
  auto transformer = small_transformer<float>(ctx, 2);
  const Variable<float, 3> x(random_tensor<float>(ctx, Shape<3>{3, 7, 6}, 1));
  std::map<std::string, std::vector<float>> found[2];
  for (const bool recompute : {false, true}) {
    transformer.recompute = recompute;
    clear_gradients(transformer);
    Tape<Cpu> tape(ctx);
    const auto y = transformer(tape, x);
    tape.backward(y, random_tensor<float>(ctx, y.shape(), 2));
    found[recompute] = parameter_gradients(transformer);
  }
  CHECK(found[0].size() == 24);
  CHECK(found[0] == found[1]);
}

TEST_CASE("Transformer: a width that the heads do not divide is refused", "[nn]") {
  Context<Cpu> ctx;
  REQUIRE_ERROR(make_transformer<float>(ctx, {.width = 10, .layers = 1, .heads = 4}, Initialisation::xavier),
                ValueError, "width 10 is not a multiple of 4 heads");
  REQUIRE_ERROR(make_transformer<float>(ctx, {.width = 10, .layers = 1, .heads = 0}, Initialisation::xavier),
                ValueError, "0 heads");
}
