// Modules in general, and the small ones: Linear, Layernorm, Embedding, Mlp, MultiheadAttention.
#include <tessera/nn/attention.hpp>

#include <support/modules.hpp>

using namespace tessera;
using namespace tessera::nn;
using namespace tessera_test;

namespace {

template <class T>
Linear<T> make_linear(Context<Cpu>& ctx, int64_t out, int64_t in) {
  return {normal<T, 2>(ctx, {out, in}, 0.5), normal<accumulate_t<T>, 1>(ctx, {out}, 0.5)};
}

MultiheadAttention<double> make_attention(Context<Cpu>& ctx, int64_t channels, int64_t heads) {
  MultiheadAttention<double> attention;
  attention.in_proj_weight = normal<double, 2>(ctx, {3 * channels, channels}, 0.5);
  attention.in_proj_bias = normal<double, 1>(ctx, {3 * channels}, 0.5);
  attention.out_proj = make_linear<double>(ctx, channels, channels);
  attention.heads = heads;
  return attention;
}

// x [B, N, C] -> rows [first, first + C) of the packed projection.
std::vector<double> projected(const MultiheadAttention<double>& attention, const Tensor<double, 3>& x, int64_t part) {
  const int64_t channels = x.shape[2], rows = x.size() / channels;
  std::vector<double> y(size_t(rows * channels));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < channels; ++c) {
      double sum = attention.in_proj_bias.value()(part * channels + c);
      for (int64_t k = 0; k < channels; ++k)
        sum += x.data[r * channels + k] * attention.in_proj_weight.value()(part * channels + c, k);
      y[size_t(r * channels + c)] = sum;
    }
  return y;
}
std::vector<double> output_projected(const MultiheadAttention<double>& attention, const std::vector<double>& x) {
  const auto& weight = attention.out_proj.weight.value();
  const int64_t channels = weight.shape[0], rows = int64_t(x.size()) / channels;
  std::vector<double> y(x.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < channels; ++c) {
      double sum = attention.out_proj.bias.value()(c);
      for (int64_t k = 0; k < channels; ++k) sum += x[size_t(r * channels + k)] * weight(c, k);
      y[size_t(r * channels + c)] = sum;
    }
  return y;
}
std::vector<double> attended(const MultiheadAttention<double>& attention, const Tensor<double, 3>& x, bool causal) {
  const int64_t batch = x.shape[0], tokens = x.shape[1], channels = x.shape[2], heads = attention.heads;
  const int64_t depth = channels / heads;
  const auto query = projected(attention, x, 0), key = projected(attention, x, 1), value = projected(attention, x, 2);
  std::vector<double> y(size_t(x.size()), 0);
  const auto at = [&](int64_t b, int64_t n, int64_t h, int64_t d) {
    return size_t((b * tokens + n) * channels + h * depth + d);
  };
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t n = 0; n < tokens; ++n) {
        const int64_t seen = causal ? n + 1 : tokens;
        std::vector<double> weights(static_cast<size_t>(seen));
        double total = 0;
        for (int64_t m = 0; m < seen; ++m) {
          double dot = 0;
          for (int64_t d = 0; d < depth; ++d) dot += query[at(b, n, h, d)] * key[at(b, m, h, d)];
          total += weights[size_t(m)] = std::exp(dot / std::sqrt(double(depth)));
        }
        for (int64_t m = 0; m < seen; ++m)
          for (int64_t d = 0; d < depth; ++d) y[at(b, n, h, d)] += weights[size_t(m)] / total * value[at(b, m, h, d)];
      }
  return output_projected(attention, y);
}

struct Pair {
  Linear<float> first;
  std::vector<Layernorm<float>> norms;
  Parameter<float, 0> scale;
  void members(auto&& visit) {
    visit("first", first);
    visit("norms", norms);
    visit("scale", scale);
  }
};
Pair make_pair_module(Context<Cpu>& ctx) {
  return {make_linear<float>(ctx, 3, 4),
          {make_layernorm<float>(ctx, 3, 1e-5), make_layernorm<float>(ctx, 2, 1e-5)},
          constant<float, 0>(ctx, {}, 2)};
}

}  // namespace

TEST_CASE("module: names join members and numbers with dots, in the order of members()", "[nn]") {
  auto ctx = nan_filled_context();
  Pair pair = make_pair_module(ctx);
  const std::vector<std::string> names{"first.weight",   "first.bias",   "norms.0.weight", "norms.0.bias",
                                       "norms.1.weight", "norms.1.bias", "scale"};
  CHECK(parameter_names(pair) == names);
  CHECK(parameter_count(pair) == 12 + 3 + 6 + 4 + 1);
  pair.first.bias = {};  // an absent parameter is none
  CHECK(parameter_names(pair).size() == 6);
  CHECK(parameter_count(pair) == 23);
}

TEST_CASE("module: copies and moves share their parameters", "[nn]") {
  auto ctx = nan_filled_context();
  Pair pair = make_pair_module(ctx);
  Pair copy = pair;
  pair.first.weight.state().value.data[5] = 42;
  CHECK(copy.first.weight.value().data[5] == 42);
  Tape<Cpu> tape(ctx);
  const Variable<float, 2> x(random_tensor<float>(ctx, Shape<2>{2, 4}, 1));
  const auto y = copy.first(tape, x);
  tape.backward(y, random_tensor<float>(ctx, Shape<2>{2, 3}, 2));
  REQUIRE(pair.first.weight.grad());  // what a copy computed arrives at the original
  const float* values = pair.first.weight.value().data;
  const Pair moved = std::move(pair);
  CHECK(moved.first.weight.value().data == values);
  std::vector<Pair> grown;
  for (int i = 0; i < 5; ++i) grown.push_back(moved);  // moved as the vector grows
  CHECK(grown[0].first.weight.value().data == values);
  clear_gradients(copy);
  CHECK_FALSE(moved.first.weight.grad());
}

TEST_CASE("module: frozen parameters get no gradient, and train again when thawed", "[nn]") {
  auto ctx = nan_filled_context();
  auto layer = make_linear<float>(ctx, 3, 4);
  const Variable<float, 2> x(random_tensor<float>(ctx, Shape<2>{2, 4}, 1), true);
  const auto run = [&] {
    Tape<Cpu> tape(ctx);
    const auto y = layer(tape, x);
    tape.backward(y, random_tensor<float>(ctx, Shape<2>{2, 3}, 2));
  };
  set_requires_grad(layer, false);
  run();
  CHECK_FALSE(layer.weight.grad());
  CHECK_FALSE(layer.bias.grad());
  CHECK(x.grad());
  set_requires_grad(layer, true);
  run();
  CHECK(layer.weight.grad());
  CHECK(layer.bias.grad());
}

TEST_CASE("module: initial values have the deviation, the bound, and depend on the context's seed alone", "[nn]") {
  Context<Cpu> ctx({.seed = 5}), same({.seed = 5}), other({.seed = 6});
  const auto statistics = [](const auto& p) {
    double sum = 0, squares = 0, largest = 0;
    for (int64_t i = 0; i < p.value().size(); ++i) {
      const double v = p.value().data[i];
      sum += v;
      squares += v * v;
      largest = std::max(largest, std::abs(v));
    }
    const double n = double(p.value().size());
    return std::array<double, 3>{sum / n, std::sqrt(squares / n), largest};
  };
  const auto a = normal<float, 2>(ctx, {100, 200}, 0.02);
  // the deviation of 20,000 draws' mean is 0.02 / 141, of their deviation 0.02 / 200
  CHECK(std::abs(statistics(a)[0]) < 5 * 0.02 / 141);
  CHECK(statistics(a)[1] == Approx(0.02).margin(5 * 0.02 / 200));
  const auto glorot = xavier_uniform<float>(ctx, {50, 150});
  const double bound = std::sqrt(6.0 / 200);
  CHECK(statistics(glorot)[2] <= bound);
  CHECK(statistics(glorot)[2] > 0.99 * bound);
  CHECK(statistics(glorot)[1] == Approx(bound / std::sqrt(3.0)).epsilon(0.03));
  CHECK(to_host(view(normal<float, 2>(same, {100, 200}, 0.02).value())) == to_host(view(a.value())));
  CHECK(to_host(view(normal<float, 2>(same, {100, 200}, 0.02).value())) != to_host(view(a.value())));  // the next draw
  CHECK(to_host(view(normal<float, 2>(other, {100, 200}, 0.02).value())) != to_host(view(a.value())));
}

TEST_CASE("Linear: gradients, with and without bias and with every activation", "[nn]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<3>{2, 3, 5}, 1);
  for (const Activation activation : {Activation::none, Activation::relu, Activation::gelu, Activation::quick_gelu}) {
    auto layer = make_linear<double>(ctx, 4, 5);
    const auto f = [&](auto& tape, const auto& input) { return layer(tape, input, activation); };
    check_gradients(ctx, layer, x, f);
    layer.bias = {};
    check_gradients(ctx, layer, x, f);
  }
}

TEST_CASE("Layernorm: gradients, and its epsilon is the one used", "[nn]") {
  auto ctx = nan_filled_context();
  auto layer = make_layernorm<double>(ctx, 6, 0.5);
  randomise(layer);
  const auto x = random_variable(ctx, Shape<3>{2, 3, 6}, 1);
  check_gradients(ctx, layer, x, [&](auto& tape, const auto& input) { return layer(tape, input); });
  Tape<Cpu> tape(ctx, false);
  const auto y = layer(tape, x).value();
  double mean = 0, variance = 0;
  for (int64_t c = 0; c < 6; ++c) mean += x.value()(1, 2, c) / 6;
  for (int64_t c = 0; c < 6; ++c) variance += std::pow(x.value()(1, 2, c) - mean, 2) / 6;
  for (int64_t c = 0; c < 6; ++c) {
    const double normalised = (x.value()(1, 2, c) - mean) / std::sqrt(variance + 0.5);
    CHECK(y(1, 2, c) == Approx(normalised * layer.weight.value()(c) + layer.bias.value()(c)).epsilon(1e-12));
  }
}

TEST_CASE("Embedding: rows by number; a row used twice gets both gradients, an unused one zero", "[nn]") {
  auto ctx = nan_filled_context();
  Embedding<double> table{normal<double, 2>(ctx, {7, 4}, 1)};
  const auto ids = Tensor<int32_t, 2>::from_host(ctx, {2, 3}, {6, 0, 3, 3, 3, 5});
  const auto result = gradcheck(
      ctx, [&](auto& tape, const auto&) { return table(tape, ids); }, table.weight);
  INFO(result.message);
  CHECK(result);
  for (int64_t c = 0; c < 4; ++c) CHECK(table.weight.grad()(1, c) == 0);
  Tape<Cpu> tape(ctx, false);
  const auto rows = table(tape, ids).value();
  for (int64_t c = 0; c < 4; ++c) CHECK(rows(1, 2, c) == table.weight.value()(5, c));
}

TEST_CASE("Mlp: two layers with the activation between them, and gradients", "[nn]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable(ctx, Shape<3>{2, 3, 5}, 1);
  for (const Activation kind : {Activation::quick_gelu, Activation::gelu}) {
    Mlp<double> mlp{make_linear<double>(ctx, 9, 5), make_linear<double>(ctx, 5, 9), kind};
    CHECK(parameter_names(mlp) == std::vector<std::string>{"c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias"});
    const auto f = [&](auto& tape, const auto& input) { return mlp(tape, input); };
    check_gradients(ctx, mlp, x, f);
    Tape<Cpu> tape(ctx, false);
    const auto ours = f(tape, x).value();
    for (int64_t c = 0; c < 5; ++c) {
      double out = mlp.c_proj.bias.value()(c);
      for (int64_t h = 0; h < 9; ++h) {
        double v = mlp.c_fc.bias.value()(h);
        for (int64_t k = 0; k < 5; ++k) v += x.value()(1, 2, k) * mlp.c_fc.weight.value()(h, k);
        const double active =
            kind == Activation::gelu ? v * 0.5 * (1 + std::erf(v / std::sqrt(2.0))) : v / (1 + std::exp(-1.702 * v));
        out += active * mlp.c_proj.weight.value()(c, h);
      }
      CHECK(ours(1, 2, c) == Approx(out).epsilon(1e-10));
    }
  }
}

TEST_CASE("MultiheadAttention: equals its definition, plain and causal, with gradients", "[nn]") {
  auto ctx = nan_filled_context();
  auto attention = make_attention(ctx, 6, 3);
  const auto x = random_variable(ctx, Shape<3>{2, 5, 6}, 1);
  for (const bool causal : {false, true}) {
    INFO("causal " << causal);
    const auto f = [&](auto& tape, const auto& input) { return attention(tape, input, causal); };
    Tape<Cpu> tape(ctx, false);
    CHECK(largest_difference(to_host(view(f(tape, x).value())), attended(attention, x.value(), causal)) < 1e-12);
    check_gradients(ctx, attention, x, f);
  }
}

TEST_CASE("MultiheadAttention: the value and key paths are one projection and the output projection", "[nn]") {
  auto ctx = nan_filled_context();
  auto attention = make_attention(ctx, 6, 2);
  const auto x = random_variable(ctx, Shape<3>{2, 3, 6}, 1);
  const auto value = [&](auto& tape, const auto& input) { return attention.value_path(tape, input); };
  const auto key = [&](auto& tape, const auto& input) { return attention.key_path(tape, input); };
  Tape<Cpu> tape(ctx, false);
  CHECK(largest_difference(to_host(view(value(tape, x).value())),
                           output_projected(attention, projected(attention, x.value(), 2))) < 1e-12);
  CHECK(largest_difference(to_host(view(key(tape, x).value())),
                           output_projected(attention, projected(attention, x.value(), 1))) < 1e-12);
  check_gradients(ctx, attention, x, value);
  check_gradients(ctx, attention, x, key);
  // of the value path, the rows of query and key receive zeros
  clear_gradients(attention);
  Tape<Cpu> recorded(ctx);
  const auto y = value(recorded, x);
  recorded.backward(y, random_tensor<double>(ctx, y.shape(), 4));
  for (int64_t row = 0; row < 12; ++row) CHECK(attention.in_proj_weight.grad()(row, 3) == 0);
  CHECK(attention.in_proj_weight.grad()(12, 3) != 0);
  // one token attends to itself alone: attention is the value path
  const auto alone = random_variable(ctx, Shape<3>{2, 1, 6}, 9);
  CHECK(largest_difference(view(attention(tape, alone).value()), view(value(tape, alone).value())) < 1e-12);
}
