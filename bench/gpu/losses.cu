// Losses, dense prediction and the optimiser.
#include <tessera/kernels.cuh>
#include <tessera/optim/adamw.hpp>

#include "row.cuh"

namespace gpu_bench {
namespace {

/// CLIP's loss with all gradients: four products of B x B x D, and no matrix of logits.
Row contrastive_row(int64_t batch) {
  constexpr int64_t channels = 512;
  return {sentence("contrastive/both/bf16/", batch, "x", channels), 2.0 * 4 * double(batch * channels),
          8.0 * double(batch) * double(batch) * channels, [=](Context<Cuda>& ctx) -> std::function<void()> {
            const Shape<2> shape{batch, channels};
            const auto image = l2_normalise(ctx, view(random_tensor<bfloat16>(ctx, shape)));
            const auto text = l2_normalise(ctx, view(random_tensor<bfloat16>(ctx, shape)));
            const auto scale = Tensor<float, 0, Cuda>::from_host(ctx, {}, {2.659f});
            const auto d_loss = Tensor<float, 0, Cuda>::from_host(ctx, {}, {1.0f});
            Tensor<float, 0, Cuda> loss(ctx, {}), d_scale(ctx, {});
            Tensor<float, 1, Cuda> rows(ctx, {batch}), columns(ctx, {batch});
            Tensor<bfloat16, 2, Cuda> d_image(ctx, shape), d_text(ctx, shape);
            return [=, &ctx] {
              contrastive_forward(ctx, view(loss), rows, columns, view(image), text, scale);
              contrastive_backward(ctx, view(d_image), d_text, d_scale, d_loss, rows, columns, image, text, scale);
            };
          }};
}
Row cross_entropy_row() {
  const Shape<2> shape{16384, 1000};
  return {sentence("cross_entropy/both/bf16/", shape[0], "x", shape[1]), 6.0 * double(element_count(shape)), 0,
          [shape](Context<Cuda>& ctx) -> std::function<void()> {
            const auto logits = random_tensor<bfloat16>(ctx, shape);
            const auto targets = random_numbers(ctx, Shape<1>{shape[0]}, uint32_t(shape[1]));
            const auto d_loss = Tensor<float, 0, Cuda>::from_host(ctx, {}, {1.0f});
            Tensor<float, 0, Cuda> loss(ctx, {});
            Tensor<float, 1, Cuda> sums(ctx, {shape[0]});
            Tensor<bfloat16, 2, Cuda> d_logits(ctx, shape);
            return [=, &ctx] {
              cross_entropy_forward(ctx, loss, {}, sums, view(logits), targets);
              cross_entropy_backward(ctx, view(d_logits), d_loss, {}, sums, logits, targets);
            };
          }};
}
Row upsample_argmax_row() {
  return {"upsample_argmax/forward/f32/8x171x28to448", 4.0 * 8 * (171 * 28 * 28 + 448 * 448), 0,
          [](Context<Cuda>& ctx) -> std::function<void()> {
            const auto scores = random_tensor<float>(ctx, Shape<4>{8, 171, 28, 28});
            Tensor<int32_t, 3, Cuda> labels(ctx, {8, 448, 448});
            return [=, &ctx] { upsample_argmax_forward(ctx, view(labels), {}, view(scores)); };
          }};
}
/// Norm, clipping and update of as many parameters as CLIP ViT-B/16 has, bfloat16 with float masters: 2 + 4 bytes of
/// the gradient (norm and update), parameter written, master and two moments read and written.
Row adamw_row() {
  constexpr int64_t tensors = 36, rows = 2048, columns = 2048;
  constexpr double parameters = double(tensors * rows * columns);
  return {"adamw/step/bf16/151M", parameters * (4 + 4 + 2 + 6 * 4), 0, [](Context<Cuda>& ctx) -> std::function<void()> {
            struct State {
              std::vector<Parameter<bfloat16, 2, Cuda>> parameters;
              optim::BasicAdamW<Cuda> optimizer;
            };
            const auto state = std::make_shared<State>();
            optim::BasicAdamW<Cuda>::ParameterList list;
            for (int64_t i = 0; i < tensors; ++i) {
              state->parameters.emplace_back(random_tensor<bfloat16>(ctx, Shape<2>{rows, columns}, 0.02), true);
              state->parameters.back().state().grad = random_tensor<float>(ctx, Shape<2>{rows, columns}, 1e-3);
              list.add(sentence("weight", i), state->parameters.back());
            }
            state->optimizer.add_group(list, {.learning_rate = 1e-4, .weight_decay = 0.1});
            state->optimizer.prepare();
            state->optimizer.set_factors({});
            return [=, &ctx] { state->optimizer.update_clipped(ctx, 1.0); };
          }};
}

}  // namespace

void add_loss_rows(Rows& rows) {
  for (const int64_t batch : {4096, 16384}) rows.push_back(contrastive_row(batch));
  rows.push_back(cross_entropy_row());
  rows.push_back(upsample_argmax_row());
  rows.push_back(adamw_row());
}

}  // namespace gpu_bench
