// Assigning tokens to groups and reconstructing hidden ones, at the sizes of SegCLIP's training with 256 images.
#include <tessera/kernels.cuh>

#include "row.cuh"

namespace gpu_bench {
namespace {

constexpr int64_t images = 256, tokens = 196, width = 768, groups = 8;

/// Noise is drawn in place.
Row gumbel_softmax_row() {
  const Shape<3> shape{images, tokens, groups};
  const double size = double(element_count(shape));
  return {sentence("gumbel_softmax/forward/f32/", images, "x", tokens, "x", groups), 12 * size, 0,
          [shape](Context<Cuda>& ctx) -> std::function<void()> {
            const auto logits = random_tensor<float>(ctx, shape);
            Tensor<float, 3, Cuda> assignment(ctx, shape), soft(ctx, shape);
            return [=, &ctx] {
              gumbel_softmax_forward(ctx, view(assignment), soft, {}, logits, {},
                                     {.temperature = 0.9, .noise = RandomStream{3, 0, 0}});
            };
          }};
}

Row assignment_pool_row(bool backward) {
  const Shape<3> value_shape{images, tokens, width}, assignment_shape{images, tokens, groups},
      pooled_shape{images, groups, width};
  const double values = double(element_count(value_shape));
  const double small = double(element_count(assignment_shape) + element_count(pooled_shape));
  return {
      sentence("assignment_pool/", backward ? "backward" : "forward", "/bf16/", images, "x", tokens, "x", width, "g",
               groups),
      2 * (backward ? 2 * values + 2 * small : values + small), 0, [=](Context<Cuda>& ctx) -> std::function<void()> {
        const auto value = random_tensor<bfloat16>(ctx, value_shape);
        const auto assignment = random_tensor<bfloat16>(ctx, assignment_shape);
        const Tensor<bfloat16, 3, Cuda> pooled(ctx, pooled_shape), d_value(ctx, value_shape),
            d_assignment(ctx, assignment_shape);
        const Tensor<float, 2, Cuda> mass(ctx, {images, groups});
        assignment_pool_forward(ctx, view(pooled), mass, value, assignment);
        if (!backward) return [=, &ctx] { assignment_pool_forward(ctx, view(pooled), mass, value, assignment); };
        return
            [=, &ctx] { assignment_pool_backward(ctx, view(d_value), d_assignment, pooled, mass, value, assignment); };
      }};
}

/// Three rows in four count.
Row masked_mse_row() {
  const Shape<3> shape{images, tokens, width};
  return {sentence("masked_mse/forward/f32/", images, "x", tokens, "x", width),
          0.75 * 8.0 * double(element_count(shape)), 0, [shape](Context<Cuda>& ctx) -> std::function<void()> {
            const auto prediction = random_tensor<float>(ctx, shape), target = random_tensor<float>(ctx, shape);
            std::vector<uint8_t> hidden(size_t(images * tokens));
            for (size_t i = 0; i < hidden.size(); ++i) hidden[i] = i % 4 != 0;
            const auto mask = Tensor<uint8_t, 2, Cuda>::from_host(ctx, {images, tokens}, hidden);
            const Tensor<float, 0, Cuda> loss(ctx, {}), count(ctx, {});
            return [=, &ctx] { masked_mse_forward(ctx, loss, count, view(prediction), target, mask); };
          }};
}

}  // namespace

void add_assignment_rows(Rows& rows) {
  rows.push_back(gumbel_softmax_row());
  rows.push_back(assignment_pool_row(false));
  rows.push_back(assignment_pool_row(true));
  rows.push_back(masked_mse_row());
}

}  // namespace gpu_bench
