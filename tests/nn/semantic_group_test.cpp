// SegCLIP's semantic groups against its equations, written down once more in plain loops: as released, and each place
// where the paper says otherwise, alone and together. (The released form is compared with the official implementation
// in golden/segclip_test.cpp.)
#include <tessera/nn/semantic_group.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <support/modules.hpp>

using namespace tessera;
using namespace tessera_test;

namespace {

using Row = std::vector<double>;
using Rows = std::vector<Row>;
using Group = nn::SemanticGroup<double>;

double plain_gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
double plain_quick_gelu(double x) { return x / (1 + std::exp(-1.702 * x)); }

Row norm_of(const Row& x, const nn::Layernorm<double>& norm) {
  double mean = 0, variance = 0;
  for (const double v : x) mean += v / double(x.size());
  for (const double v : x) variance += (v - mean) * (v - mean) / double(x.size());
  Row y;
  for (size_t c = 0; c < x.size(); ++c)
    y.push_back((x[c] - mean) / std::sqrt(variance + norm.epsilon) * norm.weight.value().data[c] +
                norm.bias.value().data[c]);
  return y;
}
/// `rows` rows of a weight matrix, from row `first`.
Row product(const Row& x, const double* weight, const double* bias, size_t first, size_t rows) {
  Row y;
  for (size_t o = first; o < first + rows; ++o) {
    double sum = bias ? bias[o] : 0;
    for (size_t i = 0; i < x.size(); ++i) sum += weight[o * x.size() + i] * x[i];
    y.push_back(sum);
  }
  return y;
}
Row linear_of(const Row& x, const nn::Linear<double>& layer) {
  return product(x, layer.weight.value().data, layer.bias.value().data, 0, size_t(layer.bias.value().size()));
}
template <class F>
Row mlp_of(const Row& x, const nn::Mlp<double>& mlp, F&& activation) {
  Row hidden = linear_of(x, mlp.c_fc);
  for (double& v : hidden) v = activation(v);
  return linear_of(hidden, mlp.c_proj);
}
Row sum_of(Row x, const Row& y) {
  for (size_t c = 0; c < x.size(); ++c) x[c] += y[c];
  return x;
}
double dot(const Row& x, const Row& y) {
  double sum = 0;
  for (size_t c = 0; c < x.size(); ++c) sum += x[c] * y[c];
  return sum;
}
Row softmax_of(const Row& x) {
  const double top = *std::max_element(x.begin(), x.end());
  Row y;
  double sum = 0;
  for (const double v : x) sum += std::exp(v - top);
  for (const double v : x) y.push_back(std::exp(v - top) / sum);
  return y;
}
Row attend(const Row& query, const Rows& context, const nn::MultiheadAttention<double>& attention) {
  const size_t width = query.size(), heads = size_t(attention.heads), per_head = width / heads;
  const double* const weight = attention.in_proj_weight.value().data;
  const double* const bias = attention.in_proj_bias.value().data;
  const Row q = product(query, weight, bias, 0, width);
  Row joined(width, 0.0);
  for (size_t h = 0; h < heads; ++h) {
    const auto part = [&](const Row& x) {
      return Row(x.begin() + ptrdiff_t(h * per_head), x.begin() + ptrdiff_t((h + 1) * per_head));
    };
    Row logits;
    for (const Row& row : context)
      logits.push_back(dot(part(q), part(product(row, weight, bias, width, width))) / std::sqrt(double(per_head)));
    const Row shares = softmax_of(logits);
    for (size_t k = 0; k < context.size(); ++k) {
      const Row value = part(product(context[k], weight, bias, 2 * width, width));
      for (size_t c = 0; c < per_head; ++c) joined[h * per_head + c] += shares[k] * value[c];
    }
  }
  return linear_of(joined, attention.out_proj);
}
Row grouped(const Row& x, const Group::GroupedConvolution& convolution) {
  const size_t inputs = size_t(convolution.weight.shape()[1]);
  Row y;
  for (size_t o = 0; o < x.size(); ++o) {
    const size_t first = o / inputs * inputs;
    double sum = 0;
    for (size_t i = 0; i < inputs; ++i) sum += convolution.weight.value().data[o * inputs + i] * x[first + i];
    y.push_back(sum);
  }
  return y;
}

struct Expected {
  Rows groups, logits;
};
/// One picture's groups, every patch belonging to all of them by its probabilities.
Expected by_the_equations(const Group& module, const Rows& patches) {
  const auto& config = module.config;
  const auto centre_row = [&](size_t g) {
    const double* const row = module.semantic_center.value().data + g * size_t(config.width);
    return Row(row, row + config.width);
  };
  Rows centres;
  for (size_t g = 0; g < size_t(config.centres); ++g) centres.push_back(centre_row(g));
  for (const auto& block : module.cross_att) {
    Rows keys;
    if (!config.paper_keys)
      for (const Row& centre : centres) keys.push_back(norm_of(centre, block.ln_k));
    for (const Row& patch : patches) keys.push_back(norm_of(patch, block.ln_k));
    for (Row& centre : centres) {
      centre = sum_of(centre, attend(norm_of(centre, block.ln_x), keys, block.attn));
      centre = sum_of(centre, mlp_of(norm_of(centre, block.ln_2), block.mlp, plain_quick_gelu));
    }
  }
  for (Row& centre : centres) centre = norm_of(centre, module.cross_ln);

  Expected expected;
  Rows shares, values;
  for (const Row& patch : patches) {
    const Row normalised = norm_of(patch, module.norm);
    const Row key = config.paper_assignment ? patch : norm_of(grouped(normalised, module.k_conv), module.k_ln);
    Row logits;
    for (const Row& centre : centres) logits.push_back(dot(key, centre));
    shares.push_back(softmax_of(logits));
    expected.logits.push_back(logits);
    values.push_back(config.paper_aggregation ? patch : grouped(normalised, module.v_conv));
  }
  for (size_t g = 0; g < centres.size(); ++g) {
    double total = 0;
    Row mean(centres[g].size(), 0.0);
    for (size_t n = 0; n < patches.size(); ++n) {
      total += shares[n][g];
      for (size_t c = 0; c < mean.size(); ++c) mean[c] += shares[n][g] * values[n][c];
    }
    for (double& v : mean) v /= std::max(total, 1.0);
    const Row gathered = sum_of(centres[g], mean);
    const Row normalised = config.paper_aggregation ? gathered : norm_of(gathered, module.proj_o.ln);
    Row group = mlp_of(normalised, module.proj_o.mlp, plain_gelu);
    if (!config.paper_aggregation)
      for (double& v : group) v = plain_quick_gelu(v);
    expected.groups.push_back(group);
  }
  return expected;
}

}  // namespace

TEST_CASE("semantic group: its equations, as released and wherever the paper says otherwise", "[nn]") {
  constexpr int64_t batch = 2, count = 7, width = 8;
  auto ctx = Context<Cpu>({.memory = {.fill_with_nan = true}});
  const Variable<double, 3> patches(random_tensor<double>(ctx, Shape<3>{batch, count, width}, 5));
  std::vector<std::vector<double>> seen;
  for (const int choice : {0, 1, 2, 4, 7}) {  // none, each of three, all
    INFO("choice " << choice);
    nn::SemanticGroupConfig config{.width = width, .heads = 2, .centres = 3, .cross_layers = 2, .hard = false};
    config.paper_keys = (choice & 1) != 0;
    config.paper_assignment = (choice & 2) != 0;
    config.paper_aggregation = (choice & 4) != 0;
    auto module = nn::make_semantic_group<double>(ctx, config);
    randomise(module);
    Tape<Cpu> tape(ctx, false);
    const auto result = module(tape, patches);
    for (int64_t b = 0; b < batch; ++b) {
      Rows rows;
      for (int64_t n = 0; n < count; ++n) {
        const double* const row = &patches.value()(b, n, 0);
        rows.emplace_back(row, row + width);
      }
      const Expected expected = by_the_equations(module, rows);
      for (int64_t n = 0; n < count; ++n)
        for (int64_t g = 0; g < 3; ++g)
          CHECK(result.logits.value()(b, n, g) == Approx(expected.logits[size_t(n)][size_t(g)]).margin(1e-11));
      for (int64_t g = 0; g < 3; ++g)
        for (int64_t c = 0; c < width; ++c)
          CHECK(result.groups.value()(b, g, c) == Approx(expected.groups[size_t(g)][size_t(c)]).margin(1e-11));
    }
    seen.push_back(to_host(view(result.groups.value())));
  }
  // No two choices give the same groups: far more lies between them than rounding.
  for (size_t i = 0; i < seen.size(); ++i)
    for (size_t k = 0; k < i; ++k) {
      double largest = 0;
      for (size_t e = 0; e < seen[i].size(); ++e) largest = std::max(largest, std::abs(seen[i][e] - seen[k][e]));
      CHECK(largest > 1e-3);
    }
}
