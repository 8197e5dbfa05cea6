// A segmentation pipeline of one's own, from tessera's primitives: it learns three words from pictures that each show
// one thing, and then finds all three in one picture. Writes the model to its argument, a file.
#include <cstdio>
#include <tessera/io/safetensors.hpp>
#include <tessera/tessera.hpp>

using namespace tessera;
constexpr int64_t side = 48, patch = 4, channels = 16, cells = side / patch;

/// Paints word_at(y, x) everywhere: grass (0), sky (1) or fire (2), in its colour and with noise.
void paint(TensorView<float, 3> picture, RandomStream noise, auto&& word_at) {
  const float colours[][3] = {{0.2f, 0.6f, 0.1f}, {0.3f, 0.5f, 0.9f}, {0.9f, 0.4f, 0.1f}};
  for (int64_t i = 0; i < picture.size(); ++i) {
    const int64_t c = i / (side * side), y = i / side % side, x = i % side;
    picture(c, y, x) = colours[word_at(y, x)][c] + 0.3f * noise.normal(uint64_t(i));
  }
}

int main(int argc, char** argv) try {
  Context<Cpu> ctx({.seed = 1});
  nn::Linear<float> encoder{nn::xavier_uniform<float>(ctx, {channels, 3 * patch * patch}), {}};
  nn::Embedding<float> words{nn::normal<float, 2>(ctx, {3, channels}, 1)};
  const auto compare = [&](Tape<Cpu>& tape, const Tensor<float, 4>& pictures) {  // cosines [B, patches, words]
    const auto patches = patchify(tape, Variable<float, 4>(pictures), {.kernel = patch, .stride = patch});
    return cosine_similarity(tape, encoder(tape, patches), words.weight);
  };

  optim::ParameterList parameters;
  parameters.add("encoder.weight", encoder.weight);
  parameters.add("words.weight", words.weight);
  optim::AdamW optimizer;
  optimizer.add_group(parameters, {.learning_rate = 0.01});
  const auto labels = Tensor<int32_t, 1>::from_host(ctx, {3}, {0, 1, 2});
  for (uint32_t step = 0; step < 40; ++step) {
    ctx.random.begin_step(step);
    Tensor<float, 4> pictures(ctx, {3, 3, side, side});
    for (int64_t i = 0; i < 3; ++i) paint(pictures.select(0, i), ctx.random.draw(), [&](auto...) { return i; });
    Tape<Cpu> tape(ctx);
    const auto loss = cross_entropy(tape, scale(tape, mean(tape, compare(tape, pictures), 1), 10), labels);
    tape.backward(loss);
    optimizer.step();
    optimizer.clear_gradients();
    if (step % 13 == 0) std::printf("step %2u  loss %.4f\n", step, double(loss.value()()));
  }

  // Sky over fire over grass, in one picture: cosines on the grid of patches become the best word of every pixel.
  const auto truth = [](int64_t y, int64_t) { return y < side / 3 ? 1 : y < 2 * side / 3 ? 2 : 0; };
  Tensor<float, 4> picture(ctx, {1, 3, side, side});
  paint(picture.select(0, 0), ctx.random.draw(), truth);
  Tape<Cpu> tape(ctx, false);
  const auto planes = permute(ctx, view(compare(tape, picture).value()), {0, 2, 1});
  const auto found = upsample_argmax(ctx, view(planes.reshaped(Shape<4>{1, 3, cells, cells})), {side, side});
  int64_t right = 0;
  for (int64_t i = 0; i < side * side; ++i) right += found.data[i] == truth(i / side, i % side);
  std::printf("%.1f %% of the pixels have the right word\n", 100 * double(right) / double(side * side));
  if (argc > 1)
    io::write_safetensors(argv[1], {{"encoder.weight", io::to_any(encoder.weight.value())},
                                    {"words.weight", io::to_any(words.weight.value())}});
  return right * 10 > side * side * 9 ? 0 : 1;
} catch (const Error& error) {
  std::fprintf(stderr, "consumer: %s\n", error.what());
  return 1;
}
