// Attention at the lengths of vision and text transformers.
#include <tessera/kernels/attention.cuh>

#include "row.cuh"

namespace gpu_bench {
namespace {

struct Problem {
  int64_t items, heads, queries, keys;
  bool causal = false;
};

Row attention_row(Problem p, bool backward) {
  constexpr int64_t channels = 64;
  const Shape<4> of_queries{p.items, p.queries, p.heads, channels}, of_keys{p.items, p.keys, p.heads, channels};
  const double sizes = 2.0 * double(element_count(of_queries) + element_count(of_keys));
  const double sums = 4.0 * double(p.items * p.heads * p.queries);
  const double products = 2.0 * double(p.items * p.heads * channels) * double(p.queries * p.keys) / (p.causal ? 2 : 1);
  return {sentence("attention/", backward ? "backward" : "forward", "/bf16/b", p.items, "h", p.heads, "n", p.queries,
                   "m", p.keys, "d", channels, p.causal ? "causal" : ""),
          backward ? 4 * sizes + sums : 2 * sizes + sums,  // backward: q k v out d_out, and three gradients
          (backward ? 5 : 2) * products, [=](Context<Cuda>& ctx) -> std::function<void()> {
            const auto query = random_tensor<bfloat16>(ctx, of_queries),
                       d_out = random_tensor<bfloat16>(ctx, of_queries);
            const auto key = random_tensor<bfloat16>(ctx, of_keys), value = random_tensor<bfloat16>(ctx, of_keys);
            Tensor<bfloat16, 4, Cuda> out(ctx, of_queries), d_query(ctx, of_queries), d_key(ctx, of_keys),
                d_value(ctx, of_keys);
            Tensor<float, 3, Cuda> log_sum_exp(ctx, {p.items, p.heads, p.queries});
            const AttentionOptions options{.causal = p.causal};
            attention_forward(ctx, view(out), log_sum_exp, query, key, value, {}, options);
            if (!backward)
              return [=, &ctx] { attention_forward(ctx, view(out), log_sum_exp, query, key, value, {}, options); };
            return [=, &ctx] {
              attention_backward(ctx, view(d_query), d_key, d_value, d_out, log_sum_exp, out, query, key, value, {},
                                 options);
            };
          }};
}

}  // namespace

void add_attention_rows(Rows& rows) {
  for (const bool backward : {false, true})
    for (const Problem& p : {Problem{256, 12, 197, 197}, {64, 12, 785, 785}, {256, 8, 77, 77, true}, {256, 12, 8, 197}})
      rows.push_back(attention_row(p, backward));
}

}  // namespace gpu_bench
