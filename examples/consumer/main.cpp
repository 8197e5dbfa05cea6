// A segmentation pipeline of one's own, from tessera's primitives: it learns three words from pictures that each show
// one thing and are labelled by one word, and then finds all three in a picture. Writes the model to its argument, a
// file.
#include <cstdio>
#include <string>

#include <tessera/io/safetensors.hpp>
#include <tessera/tessera.hpp>

using namespace tessera;

constexpr int64_t side = 48, patch = 4, channels = 16, cells = side / patch;
const std::string words[] = {"grass", "sky", "fire"};
const float colours[][3] = {{0.2f, 0.6f, 0.1f}, {0.3f, 0.5f, 0.9f}, {0.9f, 0.4f, 0.1f}};

/// Draws word_at(y, x) everywhere: its colour, and noise.
void paint(TensorView<float, 3> picture, RandomStream noise, auto&& word_at) {
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x)
      for (int64_t c = 0; c < 3; ++c)
        picture(c, y, x) = colours[word_at(y, x)][c] + 0.3f * noise.normal(uint64_t((c * side + y) * side + x));
}

int main(int argc, char** argv) try {
  Context<Cpu> ctx({.seed = 1});
  nn::Linear<float> encoder{nn::xavier_uniform<float>(ctx, {channels, 3 * patch * patch}), {}};
  nn::Embedding<float> vocabulary{nn::normal<float, 2>(ctx, {3, channels}, 1)};
  // How much every patch looks like every word: cosines [B, P, 3].
  const auto compare = [&](Tape<Cpu>& tape, const Tensor<float, 4>& pictures) {
    const auto patches = patchify(tape, Variable<float, 4>(pictures), {.kernel = patch, .stride = patch});
    return cosine_similarity(tape, encoder(tape, patches), vocabulary.weight);
  };

  optim::ParameterList parameters;
  parameters.add("encoder.weight", encoder.weight);
  parameters.add("vocabulary.weight", vocabulary.weight);
  optim::AdamW optimizer;
  optimizer.add_group(parameters, {.learning_rate = 0.01});
  const auto labels = Tensor<int32_t, 1>::from_host(ctx, {6}, {0, 1, 2, 0, 1, 2});
  for (uint32_t step = 0; step < 40; ++step) {
    ctx.random.begin_step(step);
    Tensor<float, 4> pictures(ctx, {6, 3, side, side});
    for (int64_t i = 0; i < 6; ++i)
      paint(pictures.select(0, i), ctx.random.draw(), [&](int64_t, int64_t) { return labels(i); });
    Tape<Cpu> tape(ctx);
    const auto loss = cross_entropy(tape, scale(tape, mean(tape, compare(tape, pictures), 1), 10), labels);
    tape.backward(loss);
    optimizer.step();
    optimizer.clear_gradients();
    if (step % 13 == 0) std::printf("step %2u  loss %.4f\n", step, double(loss.value()()));
  }

  // Fire in the middle of a picture, sky above, grass below; the map of scores becomes a word for every pixel.
  const auto truth = [](int64_t y, int64_t x) {
    return std::abs(y - side / 2) < 11 && std::abs(x - side / 2) < 15 ? 2 : y < side / 2 ? 1 : 0;
  };
  Tensor<float, 4> picture(ctx, {1, 3, side, side});
  paint(picture.select(0, 0), ctx.random.draw(), truth);
  Tape<Cpu> tape(ctx, false);
  const auto scores =
      permute(ctx, view(compare(tape, picture).value()), {0, 2, 1}).reshaped(Shape<4>{1, 3, cells, cells});
  const auto found = upsample_argmax(ctx, view(scores), {side, side});
  int right = 0;
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x) {
      right += found(0, y, x) == truth(y, x);
      if (y % 4 == 2 && x % 2 == 0) std::printf(x + 2 < side ? "%c" : "%c\n", words[found(0, y, x)][0]);
    }
  const double share = double(right) / double(side * side);
  std::printf("%.1f %% of the pixels have the right word\n", 100 * share);
  if (argc > 1)
    io::write_safetensors(argv[1], {{"encoder.weight", io::to_any(encoder.weight.value())},
                                    {"vocabulary.weight", io::to_any(vocabulary.weight.value())}});
  return share > 0.9 ? 0 : 1;
} catch (const Error& error) {
  std::fprintf(stderr, "consumer: %s\n", error.what());
  return 1;
}
