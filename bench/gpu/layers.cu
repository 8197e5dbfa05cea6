// The parts of a transformer around attention, at the sizes of ViT-B/16's training with 256 images (50432 tokens of 768
// channels), and what surrounds them.
#include <tessera/kernels.cuh>

#include "row.cuh"

namespace gpu_bench {
namespace {

constexpr int64_t tokens = 50432, width = 768, hidden = 3072;

template <class T>
Row layernorm_row(const char* type, bool backward) {
  const double size = double(tokens * width) * sizeof(T);
  return {sentence("layernorm/", backward ? "backward" : "forward", "/", type, "/", tokens, "x", width),
          (backward ? 3 : 2) * size, 0, [backward](Context<Cuda>& ctx) -> std::function<void()> {
            const Shape<2> shape{tokens, width};
            const auto x = random_tensor<T>(ctx, shape), d_y = random_tensor<T>(ctx, shape);
            const auto weight = random_tensor<float>(ctx, Shape<1>{width});
            Tensor<T, 2, Cuda> y(ctx, shape);
            Tensor<float, 1, Cuda> mean(ctx, {tokens}), rstd(ctx, {tokens}), d_weight(ctx, {width}),
                d_bias(ctx, {width});
            layernorm_forward(ctx, view(y), mean, rstd, x, weight, weight);
            if (!backward) return [=, &ctx] { layernorm_forward(ctx, view(y), mean, rstd, x, weight, weight); };
            return [=, &ctx] { layernorm_backward(ctx, view(y), d_weight, d_bias, d_y, mean, rstd, x, weight); };
          }};
}

/// Of a decoder's maps, with 32 groups.
Row groupnorm_row(bool backward) {
  const Shape<4> maps{16, 256, 112, 112};
  return {sentence("groupnorm/", backward ? "backward" : "forward", "/bf16/16x256x112x112"),
          (backward ? 3 : 2) * 2.0 * double(element_count(maps)), 0, [=](Context<Cuda>& ctx) -> std::function<void()> {
            const auto x = random_tensor<bfloat16>(ctx, maps), d_y = random_tensor<bfloat16>(ctx, maps);
            const auto weight = random_tensor<float>(ctx, Shape<1>{maps[1]});
            Tensor<bfloat16, 4, Cuda> y(ctx, maps);
            Tensor<float, 2, Cuda> mean(ctx, {maps[0], 32}), rstd(ctx, {maps[0], 32});
            Tensor<float, 1, Cuda> d_weight(ctx, {maps[1]}), d_bias(ctx, {maps[1]});
            groupnorm_forward(ctx, view(y), mean, rstd, x, weight, weight, {.groups = 32});
            if (!backward)
              return [=, &ctx] { groupnorm_forward(ctx, view(y), mean, rstd, x, weight, weight, {.groups = 32}); };
            return [=, &ctx] { groupnorm_backward(ctx, view(y), d_weight, d_bias, d_y, mean, rstd, x, weight); };
          }};
}

/// A linear layer with bias and quick GELU: the MLP's first, forward; and the gradients of activation and bias alone.
Row mlp_row() {
  const double flops = 2.0 * tokens * width * hidden;
  return {sentence("linear_quick_gelu/forward/bf16/", tokens, "x", width, "x", hidden),
          2.0 * (tokens * (width + hidden) + width * hidden), flops, [](Context<Cuda>& ctx) -> std::function<void()> {
            const auto x = random_tensor<bfloat16>(ctx, Shape<2>{tokens, width});
            const auto weight = random_tensor<bfloat16>(ctx, Shape<2>{hidden, width}, 0.03);
            const auto bias = random_tensor<float>(ctx, Shape<1>{hidden});
            Tensor<bfloat16, 2, Cuda> y(ctx, {tokens, hidden});
            return [=, &ctx] {
              matmul_forward(ctx, view(y), {}, view(x), view(weight), bias,
                             {.transpose_b = true, .activation = Activation::quick_gelu});
            };
          }};
}
Row bias_activation_gradient_row() {
  return {sentence("bias_quick_gelu/backward/bf16/", tokens, "x", hidden), 6.0 * tokens * hidden, 0,
          [](Context<Cuda>& ctx) -> std::function<void()> {
            const Shape<2> shape{tokens, hidden};
            const auto x = random_tensor<bfloat16>(ctx, shape), d_y = random_tensor<bfloat16>(ctx, shape);
            Tensor<bfloat16, 2, Cuda> d_x(ctx, shape);
            Tensor<float, 1, Cuda> d_bias(ctx, {hidden});
            return [=, &ctx] {
              Backend<op::matmul, Cuda>::activation_gradient<bfloat16>(ctx, d_x, d_bias, d_y, x,
                                                                       Activation::quick_gelu);
            };
          }};
}
Row softmax_row() {
  const Shape<2> shape{256 * 12 * 64, 197};
  return {sentence("softmax/forward/bf16/", shape[0], "x", shape[1]), 4.0 * double(element_count(shape)), 0,
          [shape](Context<Cuda>& ctx) -> std::function<void()> {
            const auto x = random_tensor<bfloat16>(ctx, shape);
            Tensor<bfloat16, 2, Cuda> y(ctx, shape);
            return [=, &ctx] { softmax_forward(ctx, view(y), x); };
          }};
}
Row l2_normalise_row() {
  const Shape<2> shape{tokens, 512};
  return {sentence("l2_normalise/forward/bf16/", shape[0], "x", shape[1]), 4.0 * double(element_count(shape)), 0,
          [shape](Context<Cuda>& ctx) -> std::function<void()> {
            const auto x = random_tensor<bfloat16>(ctx, shape);
            Tensor<bfloat16, 2, Cuda> y(ctx, shape);
            Tensor<float, 1, Cuda> norm(ctx, {shape[0]});
            return [=, &ctx] { l2_normalise_forward(ctx, view(y), norm, x); };
          }};
}
Row embedding_row() {
  constexpr int64_t ids = 256 * 77, vocabulary = 49408, channels = 512;
  return {sentence("embedding/backward/bf16/", ids, "of", vocabulary, "x", channels),
          double(ids * channels) * 2 + double(vocabulary * channels) * 4, 0,
          [](Context<Cuda>& ctx) -> std::function<void()> {
            const auto d_out = random_tensor<bfloat16>(ctx, Shape<2>{ids, channels});
            const auto numbers = random_numbers(ctx, Shape<1>{ids}, uint32_t(vocabulary));
            Tensor<float, 2, Cuda> d_table(ctx, {vocabulary, channels});
            return [=, &ctx] { embedding_backward(ctx, view(d_table), view(d_out), numbers); };
          }};
}
/// A decoder's 3x3 convolution.
Row conv2d_row(bool backward) {
  const Shape<4> maps{16, 256, 112, 112}, kernel{256, 256, 3, 3};
  const double products = 2.0 * double(element_count(maps)) * 256 * 9;
  return {sentence("conv2d/", backward ? "backward" : "forward", "/bf16/16x256x112x112"),
          (backward ? 3 : 2) * 2.0 * double(element_count(maps) + element_count(kernel)), (backward ? 2 : 1) * products,
          [=](Context<Cuda>& ctx) -> std::function<void()> {
            const auto x = random_tensor<bfloat16>(ctx, maps), d_y = random_tensor<bfloat16>(ctx, maps);
            const auto weight = random_tensor<bfloat16>(ctx, kernel, 0.02);
            const auto bias = random_tensor<float>(ctx, Shape<1>{maps[1]});
            Tensor<bfloat16, 4, Cuda> y(ctx, maps);
            Tensor<float, 4, Cuda> d_weight(ctx, kernel);
            Tensor<float, 1, Cuda> d_bias(ctx, {maps[1]});
            const Conv2dOptions options{.padding = 1};
            if (!backward) return [=, &ctx] { conv2d_forward(ctx, view(y), x, weight, bias, options); };
            return [=, &ctx] { conv2d_backward(ctx, view(y), view(d_weight), d_bias, d_y, x, weight, options); };
          }};
}
Row interpolate_row(bool backward) {
  const Shape<4> small{16, 256, 28, 28}, large{16, 256, 112, 112};
  return {sentence("interpolate/", backward ? "backward" : "forward", "/f32/16x256x28to112"),
          4.0 * double(element_count(small) + element_count(large)), 0,
          [=](Context<Cuda>& ctx) -> std::function<void()> {
            const auto x = random_tensor<float>(ctx, small);
            const auto y = random_tensor<float>(ctx, large);
            if (backward) return [=, &ctx] { interpolate_backward(ctx, view(x), y); };
            return [=, &ctx] { interpolate_forward(ctx, view(y), x); };
          }};
}

/// The reference points: what copying and multiplying reach on this GPU.
Row copy_row() {
  constexpr int64_t count = int64_t(1) << 28;
  return {"copy/reference/f32/268435456", 8.0 * count, 0, [](Context<Cuda>& ctx) -> std::function<void()> {
            const auto x = random_tensor<float>(ctx, Shape<1>{count});
            Tensor<float, 1, Cuda> y(ctx, {count});
            return [=, &ctx] {
              cuda::check(cudaMemcpyAsync(y.data, x.data, size_t(count) * sizeof(float), cudaMemcpyDeviceToDevice,
                                          ctx.stream->handle()),
                          "copy");
            };
          }};
}
Row matmul_row() {
  constexpr int64_t n = 8192;
  return {
      "matmul/reference/bf16/8192", 6.0 * n * n, 2.0 * n * n * n, [](Context<Cuda>& ctx) -> std::function<void()> {
        const auto a = random_tensor<bfloat16>(ctx, Shape<2>{n, n}), b = random_tensor<bfloat16>(ctx, Shape<2>{n, n});
        Tensor<bfloat16, 2, Cuda> c(ctx, {n, n});
        return [=, &ctx] { matmul_forward(ctx, view(c), {}, view(a), view(b), {}); };
      }};
}

}  // namespace

void add_layer_rows(Rows& rows) {
  rows.push_back(copy_row());
  rows.push_back(matmul_row());
  for (const bool backward : {false, true}) {
    rows.push_back(layernorm_row<bfloat16>("bf16", backward));
    rows.push_back(layernorm_row<float>("f32", backward));
    rows.push_back(groupnorm_row(backward));
    rows.push_back(conv2d_row(backward));
    rows.push_back(interpolate_row(backward));
  }
  rows.push_back(mlp_row());
  rows.push_back(bias_activation_gradient_row());
  rows.push_back(softmax_row());
  rows.push_back(l2_normalise_row());
  rows.push_back(embedding_row());
}

}  // namespace gpu_bench
