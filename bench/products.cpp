// Rows of matrix products, attention, cosine similarity and the compatibility of all images with all texts.
#include <tessera/ops/attention.hpp>
#include <tessera/ops/pair_compatibility.hpp>
#include <tessera/ops/similarity.hpp>

#include "row.hpp"

namespace bench {
namespace {

/// A linear layer: x [M, K], weight [N, K], bias [N].
template <class T>
void add_linear(int64_t m, int64_t k, int64_t n, Activation activation = Activation::none) {
  const bool linear = activation == Activation::none;
  const std::string shape = extents({m, k, n}) + (linear ? "" : sentence("_", activation_name(activation)));
  const double deviation = 1 / std::sqrt(double(k));
  const MatmulOptions options{.transpose_b = true, .activation = activation};
  add_row(row_name<T>("linear", "forward", shape), [=](Row& row) {
    const auto x = row.input<T>("x", Shape<2>{m, k}), weight = row.input<T>("weight", Shape<2>{n, k}, deviation);
    const auto bias = row.input<float>("bias", Shape<1>{n});
    const auto y = row.output<T>("y", Shape<2>{m, n});
    row.flops = 2.0 * double(m * k * n);
    row.work = [=, &row] { matmul_forward(row.ctx, view(y), {}, view(x), view(weight), bias, options); };
  });
  if (!linear || m != 1576) return;
  add_row(row_name<T>("linear", "backward", shape), [=](Row& row) {
    const auto x = row.input<T>("x", Shape<2>{m, k}), weight = row.input<T>("weight", Shape<2>{n, k}, deviation);
    const auto d_y = row.input<T>("d_y", Shape<2>{m, n});
    const auto d_x = row.output<T>("d_x", x.shape);
    const auto d_weight = row.output<float>("d_weight", weight.shape);
    const auto d_bias = row.output<float>("d_bias", Shape<1>{n});
    row.flops = 4.0 * double(m * k * n);
    row.work = [=, &row] {
      matmul_backward(row.ctx, view(d_x), view(d_weight), d_bias, d_y, x, view(weight), {}, options);
    };
  });
}

/// A linear layer in groups: x [M, C], weight [C, C / groups].
template <class T>
void add_grouped_linear(int64_t m, int64_t channels, int64_t groups) {
  const std::string shape = sentence(extents({m, channels}), "g", groups);
  const int64_t width = channels / groups;
  const double deviation = 1 / std::sqrt(double(width)), product = 2.0 * double(m * channels * width);
  add_row(row_name<T>("grouped_linear", "forward", shape), [=](Row& row) {
    const auto x = row.input<T>("x", Shape<2>{m, channels});
    const auto weight = row.input<T>("weight", Shape<2>{channels, width}, deviation);
    const auto y = row.output<T>("y", Shape<2>{m, channels});
    row.flops = product;
    row.work = [=, &row] { grouped_linear_forward(row.ctx, view(y), x, weight, {}, groups); };
  });
  add_row(row_name<T>("grouped_linear", "backward", shape), [=](Row& row) {
    const auto x = row.input<T>("x", Shape<2>{m, channels});
    const auto weight = row.input<T>("weight", Shape<2>{channels, width}, deviation);
    const auto d_y = row.input<T>("d_y", Shape<2>{m, channels});
    const auto d_x = row.output<T>("d_x", x.shape);
    const auto d_weight = row.output<float>("d_weight", weight.shape);
    row.flops = 2 * product;
    row.work = [=, &row] { grouped_linear_backward(row.ctx, view(d_x), view(d_weight), {}, d_y, x, weight, groups); };
  });
}

/// Batched: a [B, M, K] b [B, K, N].
void add_matmul(int64_t items, int64_t m, int64_t k, int64_t n) {
  const std::string shape = extents({items, m, k, n});
  add_row(row_name<float>("matmul", "forward", shape), [=](Row& row) {
    const auto a = row.input<float>("a", Shape<3>{items, m, k}), b = row.input<float>("b", Shape<3>{items, k, n});
    const auto y = row.output<float>("y", Shape<3>{items, m, n});
    row.flops = 2.0 * double(items * m * k * n);
    row.work = [=, &row] { matmul_forward(row.ctx, view(y), {}, view(a), view(b), {}); };
  });
  add_row(row_name<float>("matmul", "backward", shape), [=](Row& row) {
    const auto a = row.input<float>("a", Shape<3>{items, m, k}), b = row.input<float>("b", Shape<3>{items, k, n});
    const auto d_y = row.input<float>("d_y", Shape<3>{items, m, n});
    const auto d_a = row.output<float>("d_a", a.shape), d_b = row.output<float>("d_b", b.shape);
    row.flops = 4.0 * double(items * m * k * n);
    row.work = [=, &row] { matmul_backward(row.ctx, view(d_a), view(d_b), {}, d_y, a, view(b), {}); };
  });
}

/// Self-attention from a packed projection [B, N, 3, H, D].
template <class T>
void add_attention(int64_t items, int64_t heads, int64_t tokens, int64_t width, bool causal) {
  const std::string shape = sentence("b", items, "h", heads, "n", tokens, "d", width, causal ? "_causal" : "");
  const Shape<5> packed{items, tokens, 3, heads, width};
  const Shape<4> out_shape{items, tokens, heads, width};
  const AttentionOptions options{.causal = causal};
  const double product = 2.0 * double(items * heads * tokens * tokens * width) * (causal ? 0.5 : 1);
  add_row(row_name<T>("attention", "forward", shape), [=](Row& row) {
    const auto qkv = row.input<T>("qkv", packed);
    const auto out = row.output<T>("out", out_shape);
    row.flops = 2 * product;
    row.work = [=, &row] {
      attention_forward(row.ctx, view(out), {}, qkv.select(2, 0), qkv.select(2, 1), qkv.select(2, 2), {}, options);
    };
  });
  add_row(row_name<T>("attention", "backward", shape), [=](Row& row) {
    const auto qkv = row.input<T>("qkv", packed);
    const auto d_out = row.input<T>("d_out", out_shape);
    const auto d_qkv = row.output<T>("d_qkv", packed);
    const Tensor<T, 4> out(row.ctx, out_shape);
    const Tensor<float, 3> log_sum_exp(row.ctx, {items, heads, tokens});
    attention_forward(row.ctx, view(out), log_sum_exp, qkv.select(2, 0), qkv.select(2, 1), qkv.select(2, 2), {},
                      options);
    row.flops = 5 * product;
    row.work = [=, &row] {
      attention_backward(row.ctx, d_qkv.select(2, 0), d_qkv.select(2, 1), d_qkv.select(2, 2), d_out, log_sum_exp, out,
                         qkv.select(2, 0), qkv.select(2, 1), qkv.select(2, 2), {}, options);
    };
  });
}

void add_cosine_similarity(int64_t patches, int64_t texts, int64_t channels) {
  const std::string shape = extents({patches, texts, channels});
  add_row(row_name<float>("cosine_similarity", "forward", shape), [=](Row& row) {
    const auto a = row.input<float>("a", Shape<2>{patches, channels});
    const auto b = row.input<float>("b", Shape<2>{texts, channels});
    const auto y = row.output<float>("y", Shape<2>{patches, texts});
    const auto saved = std::make_shared<CosineSimilaritySaved<float, 2>>(row.ctx, a.shape, b.shape);
    row.flops = 2.0 * double(patches * texts * channels);
    row.work = [=, &row] { cosine_similarity_forward(row.ctx, view(y), *saved, a, b); };
  });
  add_row(row_name<float>("cosine_similarity", "backward", shape), [=](Row& row) {
    const auto a = row.input<float>("a", Shape<2>{patches, channels});
    const auto b = row.input<float>("b", Shape<2>{texts, channels});
    const auto d_y = row.input<float>("d_y", Shape<2>{patches, texts});
    const auto d_a = row.output<float>("d_a", a.shape), d_b = row.output<float>("d_b", b.shape);
    const auto saved = std::make_shared<CosineSimilaritySaved<float, 2>>(row.ctx, a.shape, b.shape);
    const Tensor<float, 2> y(row.ctx, d_y.shape);
    cosine_similarity_forward(row.ctx, view(y), *saved, a, b);
    row.flops = 4.0 * double(patches * texts * channels);
    row.work = [=, &row] { cosine_similarity_backward(row.ctx, view(d_a), d_b, d_y, *saved); };
  });
}

void add_pair_compatibility(int64_t images, int64_t patch_count, int64_t channels, int64_t text_count) {
  const std::string shape = sentence("b", images, "t", patch_count, "d", channels, "k", text_count);
  const double product = 2.0 * double(images * patch_count * channels * text_count);
  for (const std::string pass : {"forward", "backward", "both"})
    add_row(row_name<float>("pair_compatibility", pass, shape), [=](Row& row) {
      const auto patches = row.input<float>("patches", Shape<3>{images, patch_count, channels});
      const auto texts = row.input<float>("texts", Shape<2>{text_count, channels});
      const Shape<2> pairs{images, text_count};
      const bool forward = pass != "backward", backward = pass != "forward";
      const auto phi = forward ? row.output<float>("phi", pairs) : Tensor<float, 2>(row.ctx, pairs);
      const auto run_forward = [=, &row] {
        pair_compatibility_forward(row.ctx, view(phi), view(patches), texts, {5.0});
      };
      row.flops = (forward ? 2 : 0) * product + (backward ? 4 : 0) * product;
      if (!backward) {
        row.work = run_forward;
        return;
      }
      const auto d_phi = row.input<float>("d_phi", pairs);
      const auto d_patches = row.output<float>("d_patches", patches.shape);
      const auto d_texts = row.output<float>("d_texts", texts.shape);
      if (!forward) run_forward();
      row.work = [=, &row] {
        if (forward) run_forward();
        pair_compatibility_backward(row.ctx, view(d_patches), d_texts, d_phi, phi, patches, texts, {5.0});
      };
    });
}

}  // namespace

void add_product_rows() {
  for (int64_t rows : {197, 1576}) {
    for (auto [in, out] : {std::pair{768, 768}, {768, 3072}, {3072, 768}}) {
      add_linear<float>(rows, in, out);
      add_linear<bfloat16>(rows, in, out);
    }
  }
  add_linear<float>(1576, 768, 2304);
  add_linear<float>(1576, 768, 3072, Activation::quick_gelu);
  add_linear<float>(2048, 128, 512);
  add_grouped_linear<float>(784, 768, 12);
  add_matmul(96, 197, 64, 197);
  add_attention<float>(8, 12, 197, 64, false);
  add_attention<bfloat16>(8, 12, 197, 64, false);
  add_attention<float>(1, 12, 785, 64, false);
  add_attention<bfloat16>(1, 12, 785, 64, false);
  add_attention<float>(8, 8, 77, 64, true);
  add_attention<float>(32, 4, 64, 32, false);  // the demo's image tower
  add_attention<float>(80, 4, 12, 32, true);   // its texts
  add_cosine_similarity(1576, 150, 512);
  add_pair_compatibility(32, 64, 128, 130);
  add_pair_compatibility(16, 196, 512, 512);
  add_pair_compatibility(256, 196, 512, 256);  // a batch of PACL on ViT-B/16
}

}  // namespace bench
