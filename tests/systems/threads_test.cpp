// The number of threads changes no bit: 20 steps of training end in the same parameters on 1, 2, 3 and 16 threads, by
// either matrix product. So they do with activations computed again, and from a checkpoint half way.
//
// The sizes are above every limit at which a sum or a loop is cut: a batch has more than 2,048 tokens, so the products
// for weight gradients sum over more than two of the provider's pieces; widths are odd.
#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns inside its own AVX-512 header (GCC bug 105593) where Eigen uses it.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <omp.h>

#include <csignal>
#include <tessera/cpu/eigen.hpp>
#include <tessera/systems/clip.hpp>
#include <tessera/systems/pacl.hpp>
#include <tessera/train/text_vectors.hpp>
#include <tessera/train/trainer.hpp>

#include <io/folder.hpp>
#include <support/catch.hpp>
#include <support/random.hpp>

using namespace tessera;
using tessera_test::random_tensor;

namespace {

constexpr int64_t images = 15, image_size = 48, patch = 4, texts = 35, context_length = 9, vocabulary = 61, steps = 20;

const nn::VisionConfig vision{.image_size = image_size,
                              .patch_size = patch,
                              .transformer = {.width = 51, .layers = 2, .heads = 3, .mlp_width = 131},
                              .embed_dim = 37};
const nn::TextConfig text{.vocabulary_size = vocabulary,
                          .context_length = context_length,
                          .transformer = {.width = 33, .layers = 1, .heads = 3, .mlp_width = 77},
                          .embed_dim = 37};

/// The threads of what runs while it lives.
struct Threads {
  int before = omp_get_max_threads();
  explicit Threads(int threads) { omp_set_num_threads(threads); }
  ~Threads() { omp_set_num_threads(before); }
};
/// The matrix product of what runs while it lives.
struct Provider {
  cpu::MatrixProductProvider before = cpu::matrix_product_provider;
  explicit Provider(cpu::MatrixProductFunction function) { cpu::matrix_product_provider.function = function; }
  ~Provider() { cpu::matrix_product_provider = before; }
};
/// The program's own provider (oneDNN in the default build), and Eigen.
std::vector<cpu::MatrixProductFunction> providers() {
  std::vector<cpu::MatrixProductFunction> all{cpu::matrix_product_provider.function};
  if (all[0] != &cpu::eigen_matrix_product) all.push_back(&cpu::eigen_matrix_product);
  return all;
}

/// FNV-1a of the bits of all parameters.
template <class Model>
uint64_t hash_of(Model& model) {
  uint64_t hash = 0xcbf29ce484222325u;
  nn::for_each_parameter(model, [&](const std::string&, auto& p) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(p.value().data);
    for (size_t i = 0; i < size_t(p.value().size()) * sizeof(*p.value().data); ++i)
      hash = (hash ^ bytes[i]) * 0x100000001b3u;
  });
  return hash;
}

Tensor<int32_t, 2> token_ids(Context<Cpu>& ctx, int64_t rows, const RandomStream& random) {
  Tensor<int32_t, 2> ids(ctx, {rows, context_length});
  for (int64_t i = 0; i < ids.size(); ++i) ids.data[i] = int32_t(random.below(uint64_t(i), vocabulary));
  return ids;
}
Variable<float, 4> pictures(Context<Cpu>& ctx, int64_t step) {
  return Variable<float, 4>(
      random_tensor<float>(ctx, Shape<4>{images, 3, image_size, image_size}, uint64_t(100 + step)));
}

/// CLIP, the loop written out.
uint64_t train_clip(bool recompute = false) {
  Context<Cpu> ctx({.seed = 3});
  auto model = systems::make_clip<float>(ctx, {vision, text});
  model.visual.transformer.recompute = model.text.transformer.recompute = recompute;
  const uint64_t initial = hash_of(model);
  optim::ParameterList parameters;
  nn::for_each_parameter(model, [&](const std::string& name, auto& p) { parameters.add(name, p); });
  optim::AdamW optimizer;
  optimizer.add_group(parameters, {.learning_rate = 1e-3, .weight_decay = 0.05});
  for (int64_t step = 0; step < steps; ++step) {
    ctx.random.begin_step(uint32_t(step));
    Tape<Cpu> tape(ctx);
    const auto ids = token_ids(ctx, images, ctx.random.draw());
    tape.backward(model.loss(tape, pictures(ctx, step), ids));
    optimizer.step({.gradient_scale = optim::clip_factor(optim::gradient_norm(parameters), 1.0)});
    optimizer.clear_gradients();
  }
  const uint64_t trained = hash_of(model);
  REQUIRE(trained != initial);
  return trained;
}

struct PaclRun {
  std::filesystem::path folder = {};
  int64_t interrupted_after = 0;  ///< as by Ctrl-C; 0: not
  bool recompute = false;
};

/// PACL with several texts an image, by the trainer.
uint64_t train_pacl(const PaclRun& run = {}) {
  Context<Cpu> ctx({.seed = 4});
  systems::PaclConfig config{.vision = vision, .text = text, .attention_scale = 3};
  config.vision.class_token = config.vision.pre_norm = false;
  auto model = systems::make_pacl<float>(ctx, config);
  model.visual.transformer.recompute = model.text.transformer.recompute = run.recompute;
  Tensor<int32_t, 1> owner(ctx, {texts});
  auto excluded = Tensor<uint8_t, 2>::zeros(ctx, {images, texts});
  for (int64_t k = 0; k < texts; ++k) {
    owner(k) = int32_t(k % images);
    if (k % 3 == 0) excluded((k + 1) % images, k) = 1;
  }
  train::Trainer trainer(ctx, model, {.steps = steps, .batch = images, .folder = run.folder, .quiet = true});
  const bool finished = trainer.run(
      [&](Tape<Cpu>& tape, int64_t step) {
        const auto ids = token_ids(ctx, texts, ctx.random.draw());
        const auto patches = model.patch_embeddings(tape, pictures(ctx, step));
        const auto phi = model.compatibility(tape, patches, model.text_embeddings(tape, ids));
        return multi_text_contrastive(tape, phi, owner, excluded, model.logit_scale);
      },
      [&](int64_t step, double) {
        if (step == run.interrupted_after) std::raise(SIGINT);
        return io::Json::object();
      });
  REQUIRE(finished == (run.interrupted_after == 0));
  return hash_of(model);
}

}  // namespace

TEST_CASE("threads: CLIP trains to the same bits on any number of threads", "[systems]") {
  for (const auto function : providers()) {
    const Provider provider(function);
    std::vector<uint64_t> hashes;
    for (int threads : {1, 2, 3, 16}) {
      const Threads limit(threads);
      hashes.push_back(train_clip());
    }
    INFO("provider " << (function == &cpu::eigen_matrix_product ? "Eigen" : "oneDNN"));
    CHECK(hashes == std::vector<uint64_t>(hashes.size(), hashes[0]));
  }
}

TEST_CASE("threads: PACL trains to the same bits on any number of threads", "[systems]") {
  for (const auto function : providers()) {
    const Provider provider(function);
    std::vector<uint64_t> hashes;
    for (int threads : {1, 2, 3, 16}) {
      const Threads limit(threads);
      hashes.push_back(train_pacl());
    }
    INFO("provider " << (function == &cpu::eigen_matrix_product ? "Eigen" : "oneDNN"));
    CHECK(hashes == std::vector<uint64_t>(hashes.size(), hashes[0]));
  }
}

TEST_CASE("threads: recomputed activations change no bit", "[systems]") {
  CHECK(train_clip(true) == train_clip(false));
  CHECK(train_pacl({.recompute = true}) == train_pacl());
}

TEST_CASE("threads: a run resumed from its checkpoint ends in the bits of the whole run", "[systems]") {
  const tessera_test::Folder folder;
  const uint64_t half = [&] {
    const Threads limit(1);
    return train_pacl({.folder = folder.path(), .interrupted_after = steps / 2});
  }();
  const Threads limit(3);  // of one's own choosing after the interruption
  const uint64_t resumed = train_pacl({.folder = folder.path()});
  CHECK(resumed != half);
  CHECK(resumed == train_pacl());
}

TEST_CASE("threads: the bits of a text's vector do not depend on the texts before it or beside it", "[systems]") {
  Context<Cpu> ctx;
  const std::vector<std::string> words{"a dog", "a red wall beside a green house and a dog", "the sky",
                                       "a photo of a tall tree", "grass"};
  const auto tokenizer = data::Tokenizer::learn(words, 560, {.context_length = 24});
  const auto tower = nn::make_text_transformer<float>(ctx,
                                                      {.vocabulary_size = tokenizer.vocabulary_size(),
                                                       .context_length = 24,
                                                       .transformer = {.width = 96, .layers = 2, .heads = 3},
                                                       .embed_dim = 64},
                                                      nn::Initialisation::clip);
  const auto encode = [&](const std::vector<std::string>& some) {
    Tape<Cpu> tape(ctx, false);
    const auto input = train::group_input(ctx, tokenizer, some);
    return tower(tape, input).value();
  };
  for (const auto function : providers()) {
    INFO("provider " << (function == &cpu::eigen_matrix_product ? "Eigen" : "oneDNN"));
    const Provider provider(function);
    train::TextVectors together(encode, 100, 1), backwards(encode, 100, 1);
    const auto all = to_host(view(together(ctx, words)));
    for (size_t i = words.size(); i-- > 0;) {
      const auto one = to_host(view(backwards(ctx, {words[i]})));
      CHECK(std::equal(one.begin(), one.end(), all.begin() + ptrdiff_t(i) * 64));
    }
  }
}
