// A small training run that must learn: PACL's objective on 64 rendered scenes.
#include <tessera/systems/pacl.hpp>
#include <tessera/train/batches.hpp>
#include <tessera/train/caption_training.hpp>
#include <tessera/train/text_batch.hpp>
#include <tessera/train/trainer.hpp>

#include <support/catch.hpp>
#include <support/skip.hpp>

using namespace tessera;
using namespace tessera::train;

TEST_CASE("training: sixty steps on 64 scenes learn their captions", "[train]") {
  try {
    data::find_emoji_font();
  } catch (const Error& error) {
    return tessera_test::skip(error.what());
  }
  tessera_test::ran();
  omp_set_num_threads(1);  // the same bits, and quick on a busy machine too, where threads wait for each other
  Context<Cpu> ctx({.seed = 1});
  const auto captioned = open_captioned_data("scenes:classic", "", 32, 64, 0);
  const data::NounFinder finder(captioned.nouns, true);
  std::vector<std::string> prompts;
  for (const auto& noun : captioned.nouns) prompts.push_back("a photo of " + data::with_article(noun));
  const auto tokenizer = learn_vocabulary(*captioned.source, prompts, 800, 32);

  const nn::TransformerConfig tower{.width = 64, .layers = 2, .heads = 2, .activation = Activation::gelu};
  systems::PaclConfig config{.vision = {.image_size = 32,
                                        .patch_size = 8,
                                        .transformer = tower,
                                        .embed_dim = 64,
                                        .class_token = false,
                                        .pre_norm = false},
                             .text = {.vocabulary_size = tokenizer.vocabulary_size(),
                                      .context_length = 32,
                                      .transformer = tower,
                                      .embed_dim = 64,
                                      .end_of_text = tokenizer.end_of_text()},
                             .attention_scale = 5,
                             .initial_logit_scale = std::log(20.0)};
  auto model = systems::make_pacl<float>(ctx, config);
  Batches batches(ctx, captioned.source, {.batch = 32, .image_size = 32, .seed = 1});
  const TextBatchOptions texts_options{.prompt = [&](int noun) { return prompts[size_t(noun)]; }};
  Trainer<systems::Pacl<float>> trainer(ctx, model,
                                        {.steps = 60, .batch = 32, .learning_rate = 3e-3, .seed = 1, .quiet = true});
  double first = 0, last = 0;
  const bool finished = trainer.run(
      [&](Tape<Cpu>& tape, int64_t step) {
        const Batch batch = batches(step);
        const auto texts = make_text_batch(ctx, batch.captions, finder, texts_options, ctx.random.draw());
        std::vector<std::string> all = texts.captions;
        all.insert(all.end(), texts.prompts.begin(), texts.prompts.end());
        const auto patches = model.patch_embeddings(tape, Variable<float, 4>(batch.images));
        const auto encoded = model.text_embeddings(tape, tokenize(ctx, tokenizer, all));
        const auto phi = model.compatibility(tape, patches, embedding(tape, encoded, texts.rows));
        return multi_text_contrastive(tape, phi, texts.owner, texts.excluded, model.logit_scale);
      },
      [&](int64_t step, double loss) -> io::Json {
        if (step <= 5) first += loss / 5;
        if (step > 55) last += loss / 5;
        return io::Json::object();
      });
  CHECK(finished);
  INFO("the first five steps' loss is " << first << ", the last five's " << last << ", in " << trainer.seconds()
                                        << " s");
  CHECK(last < 0.5 * first);
}
