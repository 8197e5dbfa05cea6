// The text tower: names, causality, pooling at the end of text, trimmed columns; gradients in double.
#include <tessera/nn/text_transformer.hpp>

#include <support/modules.hpp>

using namespace tessera;
using namespace tessera::nn;
using namespace tessera_test;

namespace {

template <class T>
TextTransformer<T> tower(Context<Cpu>& ctx, int64_t end_of_text = -1) {
  auto text =
      make_text_transformer<T>(ctx,
                               {.vocabulary_size = 11,
                                .context_length = 8,
                                .transformer = {.width = 6, .layers = 2, .heads = 2, .mlp_width = 8, .epsilon = 1e-3},
                                .embed_dim = 5,
                                .end_of_text = end_of_text},
                               Initialisation::clip);
  randomise(text);
  return text;
}
// Rows that end at tokens 2, 4 and 1; id 10 is the end of text.
Tensor<int32_t, 2> short_texts(Context<Cpu>& ctx) {
  return Tensor<int32_t, 2>::from_host(ctx, {3, 8},
                                       {9, 3, 10, 0, 0, 0, 0, 0, 9, 1, 2, 3, 10, 0, 0, 0, 9, 10, 4, 4, 4, 4, 4, 4});
}

}  // namespace

TEST_CASE("TextTransformer: the parameters are those of OpenAI's text tower", "[nn]") {
  auto ctx = nan_filled_context();
  auto text = tower<double>(ctx);
  const auto names = parameter_names(text);
  REQUIRE(names.size() == 3 + 2 * 12 + 2);
  CHECK(std::vector<std::string>(names.begin(), names.begin() + 4) ==
        std::vector<std::string>{"positional_embedding", "text_projection", "token_embedding.weight",
                                 "transformer.resblocks.0.ln_1.weight"});
  CHECK(std::vector<std::string>(names.end() - 2, names.end()) ==
        std::vector<std::string>{"ln_final.weight", "ln_final.bias"});
  CHECK(text.positional_embedding.shape() == Shape<2>{8, 6});
  CHECK(text.text_projection.shape() == Shape<2>{6, 5});
}

TEST_CASE("TextTransformer: gradients", "[nn]") {
  auto ctx = nan_filled_context();
  auto text = tower<double>(ctx);
  const auto ids = short_texts(ctx);
  for_each_parameter(text, [&](const std::string& name, auto& p) {
    clear_gradients(text);
    const auto result = gradcheck(
        ctx, {.tolerance = 1e-7, .most_elements = 24}, [&](auto& tape, const auto&) { return text(tape, ids); }, p);
    INFO(name << ": " << result.message);
    CHECK(result);
    CHECK(p.grad());
  });
}

TEST_CASE("TextTransformer: columns behind the last end of text are left out without changing anything", "[nn]") {
  auto ctx = nan_filled_context();
  auto text = tower<double>(ctx);
  const auto ids = short_texts(ctx);
  const auto cotangent = random_tensor<double>(ctx, Shape<2>{3, 5}, 8);
  const auto run = [&](bool trimmed) {
    clear_gradients(text);
    Tape<Cpu> tape(ctx);
    std::vector<Variable<double, 3>> hidden;  // asking for hidden states computes all columns
    const auto y = text(tape, ids, trimmed ? nullptr : &hidden);
    if (!trimmed) CHECK(hidden.back().shape() == Shape<3>{3, 8, 6});
    tape.backward(y, Tensor<double, 2>::from_host(ctx, {3, 5}, to_host(view(cotangent))));
    std::map<std::string, std::vector<double>> found{{"y", to_host(view(y.value()))}};
    for_each_parameter(text, [&](const std::string& name, auto& p) { found[name] = to_host(view(p.grad())); });
    return found;
  };
  const auto all = run(false), trimmed = run(true);
  REQUIRE(all.size() == trimmed.size());
  for (const auto& [name, values] : all) {
    INFO(name);
    double worst = 0;
    for (size_t i = 0; i < values.size(); ++i) worst = std::max(worst, std::abs(values[i] - trimmed.at(name)[i]));
    CHECK(worst < 1e-13);
  }
  // positions that no text reaches get zero gradients
  for (int64_t c = 0; c < 6; ++c) CHECK(text.positional_embedding.grad()(5, c) == 0);
}

TEST_CASE("TextTransformer: a text does not depend on what follows its end", "[nn]") {
  auto ctx = nan_filled_context();
  const auto text = tower<double>(ctx);
  Tape<Cpu> tape(ctx, false);
  const auto alone = text(tape, Tensor<int32_t, 2>::from_host(ctx, {1, 3}, {9, 3, 10})).value();
  const auto padded = text(tape, Tensor<int32_t, 2>::from_host(ctx, {1, 8}, {9, 3, 10, 7, 7, 1, 2, 3})).value();
  const auto other = text(tape, Tensor<int32_t, 2>::from_host(ctx, {1, 3}, {9, 4, 10})).value();
  CHECK(largest_difference(view(alone), view(padded)) < 1e-13);
  CHECK(largest_difference(view(alone), view(other)) > 1e-2);
}

TEST_CASE("TextTransformer: pools at the first end-of-text token, or at the first largest id", "[nn]") {
  auto ctx = nan_filled_context();
  const auto ids = Tensor<int32_t, 2>::from_host(ctx, {3, 5}, {9, 3, 10, 3, 10, 3, 3, 3, 3, 3, 1, 2, 9, 3, 10});
  CHECK(to_host(view(end_positions(ctx, ids, -1))) == std::vector<int32_t>{2, 0, 4});
  CHECK(to_host(view(end_positions(ctx, ids, 3))) == std::vector<int32_t>{1, 0, 3});
  REQUIRE_ERROR(end_positions(ctx, ids, 9), ValueError, "row 1 holds no end-of-text token (id 9)");
  Tape<Cpu> tape(ctx, false);
  const auto pooled = [&](int64_t end) { return to_host(view(tower<double>(ctx, end)(tape, ids).value())); };
  CHECK(pooled(3) != pooled(-1));
  std::vector<Variable<double, 3>> hidden;
  const auto text = tower<double>(ctx, 3);
  const auto y = text(tape, ids, &hidden).value();
  REQUIRE(hidden.size() == 3);
  const auto token = reshape(tape, slice(tape, slice(tape, hidden[2], 0, 2, 3), 1, 3, 4), Shape<2>{1, 6});
  const auto expected = matmul(tape, text.ln_final(tape, token), text.text_projection).value();
  for (int64_t e = 0; e < 5; ++e) CHECK(y(2, e) == Approx(expected(0, e)).epsilon(1e-12));
}

TEST_CASE("TextTransformer: with known ends the same bits; columns behind every end are cut off", "[nn]") {
  auto ctx = nan_filled_context();
  const auto text = tower<float>(ctx);
  Tape<Cpu> tape(ctx, false);
  const auto ids = Tensor<int32_t, 2>::from_host(ctx, {2, 6}, {9, 3, 10, 0, 0, 0, 9, 3, 4, 10, 0, 0});
  const auto input = text_input(ctx, ids, -1);
  CHECK(input.ids.shape == Shape<2>{2, 4});
  CHECK(to_host(view(input.ids)) == std::vector<int32_t>{9, 3, 10, 0, 9, 3, 4, 10});
  CHECK(to_host(view(input.ends)) == std::vector<int32_t>{2, 3});
  Staging<Cpu> stage;
  const auto found = text(tape, nn::on_device(ctx, stage, input)).value();
  CHECK(to_host(view(found)) == to_host(view(text(tape, ids).value())));
  CHECK(largest_difference(view(text(tape, TextInput<Cpu>{ids, input.ends}).value()), view(found)) < 1e-5);
  REQUIRE_ERROR(text_input(ctx, ids, 7), ValueError, "row 0 holds no end-of-text token (id 7)");
}

TEST_CASE("TextTransformer: rows longer than the context, and ids beyond the vocabulary, are refused", "[nn]") {
  auto ctx = nan_filled_context();
  const auto text = tower<float>(ctx);
  Tape<Cpu> tape(ctx, false);
  REQUIRE_ERROR(text(tape, Tensor<int32_t, 2>::zeros(ctx, {1, 9})), ShapeError, "the context length is 8");
  REQUIRE_ERROR(text(tape, Tensor<int32_t, 2>::zeros(ctx, {1, 0})), ShapeError, "0 tokens in a row");
  REQUIRE_ERROR(text(tape, Tensor<int32_t, 2>::from_host(ctx, {1, 2}, {0, 11})), ValueError, "11");
}
