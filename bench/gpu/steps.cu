// Whole steps: training CLIP ViT-B/16 with 256 pairs in bfloat16, launched kernel by kernel and as one graph;
// MaskCLIP's image tower at 448 pixels.
#include <tessera/kernels.cuh>

#include <tessera/cuda/graph.hpp>
#include <tessera/optim/adamw.hpp>
#include <tessera/systems/maskclip.hpp>

#include "row.cuh"

namespace gpu_bench {
namespace {

constexpr int64_t batch = 256, length = 77;

systems::ClipConfig vit_b16() {
  systems::ClipConfig config;
  config.vision = {.image_size = 224, .patch_size = 16, .transformer = {.width = 768, .layers = 12, .heads = 12}};
  config.text.vocabulary_size = 49408;
  config.text.context_length = length;
  config.text.transformer = {.width = 512, .layers = 12, .heads = 8};
  config.text.embed_dim = 512;
  return config;
}

struct Training {
  systems::Clip<bfloat16, Cuda> clip;
  optim::BasicAdamW<Cuda> optimizer;
  Variable<bfloat16, 4, Cuda> images;
  nn::TextInput<Cuda> texts;  // with their ends, so that the step asks the GPU for nothing
  Tensor<float, 0, Cuda> loss;

  explicit Training(Context<Cuda>& ctx)
      : clip(systems::make_clip<bfloat16>(ctx, vit_b16())),
        images(random_tensor<bfloat16>(ctx, Shape<4>{batch, 3, 224, 224})),
        texts{random_numbers(ctx, Shape<2>{batch, length}, 49406),
              Tensor<int32_t, 1, Cuda>::from_host(ctx, {batch}, std::vector<int32_t>(batch, int32_t(length - 1)))} {
    optim::BasicAdamW<Cuda>::ParameterList list;
    nn::for_each_parameter(clip, [&](const std::string& name, auto& parameter) { list.add(name, parameter); });
    optimizer.add_group(list, {.learning_rate = 1e-5, .weight_decay = 0.1});
    optimizer.prepare();
    optimizer.set_factors({});
  }
  void step(Context<Cuda>& ctx) {
    optimizer.clear_gradients();
    Tape<Cuda> tape(ctx);
    const auto found = clip.loss(tape, images, texts);
    tape.backward(found);
    optimizer.update_clipped(ctx, 1.0);
    loss = found.value();
  }
};

/// Multiplications and additions of products in one pass: 6 for each weight and token in training, and attention's.
double training_flops() {
  const auto tower = [](double tokens, double width, double layers) {
    return 3 * layers * (2 * 12 * width * width * tokens + 4 * tokens * tokens * width);
  };
  return batch * (tower(197, 768, 12) + tower(length, 512, 12) - 3 * 12 * 2 * double(length * length) * 512 +
                  3 * 2 * 196.0 * 768 * 768);
}

Row training_row(bool graph) {
  return {sentence("clip_vit_b16/", graph ? "training_graph" : "training", "/bf16/", batch), 0, training_flops(),
          [graph](Context<Cuda>& ctx) -> std::function<void()> {
            const auto training = std::make_shared<Training>(ctx);
            training->step(ctx);
            if (!graph) return [=, &ctx] { training->step(ctx); };
            const auto captured = std::make_shared<cuda::Graph>(cuda::capture(ctx, [&] { training->step(ctx); }));
            return [=, &ctx] {
              captured->launch(ctx);
              static_cast<void>(training);
            };
          }};
}

/// Dense embeddings of one image of 448 x 448 and their cosines with 171 classes, upsampled to labels.
Row maskclip_row() {
  constexpr double tokens = 785, flops = 11 * (2 * 12 * 768.0 * 768 * tokens + 4 * tokens * tokens * 768);
  return {"maskclip_vit_b16/inference/bf16/448", 0, flops, [](Context<Cuda>& ctx) -> std::function<void()> {
            const auto clip =
                std::make_shared<systems::Clip<bfloat16, Cuda>>(systems::make_clip<bfloat16>(ctx, vit_b16()));
            const auto image = random_tensor<bfloat16>(ctx, Shape<4>{1, 3, 448, 448});
            const auto classes = l2_normalise(ctx, view(random_tensor<bfloat16>(ctx, Shape<2>{171, 512})));
            Tensor<int32_t, 3, Cuda> labels(ctx, {1, 448, 448});
            return [=, &ctx] {
              Tape<Cuda> tape(ctx, false);
              const auto before = clip->visual.before_last_block(tape, Variable<bfloat16, 4, Cuda>(image), 0);
              const auto patches = l2_normalise(
                  tape,
                  clip->visual.project_patches(tape, clip->visual.last_block(tape, before, nn::DenseMode::value_path)));
              // [classes, E] [E, patches]: scores with the classes as channels, as upsampling takes them
              const auto scores = matmul(ctx, view(classes), view(patches.value()).rows(), {}, {.transpose_b = true});
              upsample_argmax_forward(ctx, view(labels), {}, view(scores.reshaped(Shape<4>{1, 171, 28, 28})));
            };
          }};
}

}  // namespace

void add_step_rows(Rows& rows) {
  rows.push_back(maskclip_row());
  rows.push_back(training_row(false));
  rows.push_back(training_row(true));
}

}  // namespace gpu_bench
