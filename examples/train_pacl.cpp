// Learns to segment from captions alone, by PACL's objective: an image is compared with a text through the patches that
// look like the text. Each caption comes with a prompt for every noun in it; label maps are never read.
// Here two towers learn from random weights; the paper's training, on frozen towers, is in pacl_embedder.hpp.
//
//   train_pacl --data scenes:classic --output model
//   train_pacl --data shards/ --nouns nouns.txt --image-size 224 --patch-size 16 --width 384 --output model
//   train_pacl --encoder clip-vit-base-patch16 --data shards/ --features cache --batch 4096 --output model
//   segment --checkpoint model --image photo.png --classes "dog,grass"
#include <tessera/systems/pacl.hpp>
#include <tessera/train/batches.hpp>
#include <tessera/train/text_batch.hpp>

#include "common.hpp"
#include "pacl_embedder.hpp"
#include "training_options.hpp"

using namespace tessera;

namespace {

/// T: of weights and activations.
template <class T, class Device>
void train_on(const examples::PaclTrainingOptions& options) {
  Context<Cpu> host;  // of what is made on the host: pictures, token ids
  Context<Device> ctx({.seed = options.training.seed});
  Staging<Device> stage;

  // The captions, their nouns, and a vocabulary learned from them.
  const auto captioned = options.open();
  require(!captioned.nouns.empty(),
          "there is no list of nouns: give --nouns FILE (one noun a line); words are learned "
          "from prompts for the nouns of a caption");
  const data::NounFinder finder(captioned.nouns, true);
  const auto prompts = examples::noun_prompts(captioned.nouns, options.prompt);
  const auto tokenizer =
      train::learn_vocabulary(*captioned.source, prompts, options.vocabulary, options.context_length);

  // Two towers. The image tower has no class token: patches carry what the picture shows.
  systems::PaclConfig config{.vision = options.vision(),
                             .text = options.text(tokenizer),
                             .attention_scale = options.attention_scale,
                             .initial_logit_scale = std::log(options.logit_scale)};
  config.vision.class_token = config.vision.pre_norm = false;
  auto model = systems::make_pacl<T>(ctx, config);
  examples::print_sizes(captioned, tokenizer, model);

  // The loss of a step.
  train::Batches batches(host, captioned.source, options.batches());
  const train::TextBatchOptions texts_options{.exclude_implied = !options.keep_implied,
                                              .prompt = [&](int noun) { return prompts[size_t(noun)]; }};
  const auto encode = [&](Tape<Device>& tape, const nn::TextInput<Device>& texts) {
    return model.text_embeddings(tape, texts);
  };
  const auto loss_of_step = [&](Tape<Device>& tape, int64_t step) {
    const train::Batch batch = batches(step);
    const auto texts = train::make_text_batch(host, batch.captions, finder, texts_options, ctx.random.draw());
    const Variable<T, 4, Device> images(convert<T>(ctx, stage(ctx, batch.images)));
    const auto patches = model.patch_embeddings(tape, images);
    const auto phi =
        model.compatibility(tape, patches, train::embed_texts(tape, host, stage, tokenizer, texts, encode));
    return multi_text_contrastive(tape, phi, stage(ctx, texts.owner), stage(ctx, texts.excluded), model.logit_scale);
  };

  const auto save = [&](const std::filesystem::path& folder) {
    tokenizer.save(folder);
    systems::save_pacl(model, {}, folder, options.prompt);
  };
  train::TrainerOptions training = options.trainer();
  training.recipe["attention_scale"] = options.attention_scale;
  examples::train_and_save(ctx, model, options, training, loss_of_step, save);
}

void run(const examples::PaclTrainingOptions& options) {
  using examples::ThisDevice;
  examples::use_threads(options.threads);
  const bool narrow = options.dtype == "bf16";
  if (options.encoder.empty())
    narrow ? train_on<bfloat16, ThisDevice>(options) : train_on<float, ThisDevice>(options);
  else
    narrow ? examples::train_embedder<bfloat16, ThisDevice>(options)
           : examples::train_embedder<float, ThisDevice>(options);
}

const examples::Devices<examples::PaclTrainingOptions> on_this_device(examples::ThisDevice{}, run);

}  // namespace

#if !defined(EXAMPLES_SECOND_DEVICE)
int main(int argc, char** argv) {
  examples::PaclTrainingOptions options;
  options.training.steps = 2000;
  options.training.learning_rate = 1.2e-3;
  CLI::App app{
      "Learns to segment from captions alone (PACL's objective), from random weights, or on a trained encoder.\n"
      "Ctrl-C saves; the same command resumes. OUTPUT/metrics.jsonl holds a line a step.\n\n"
      "  train_pacl --data scenes:classic --output model\n"
      "  train_pacl --data shards/ --nouns nouns.txt --image-size 224 --patch-size 16 --output model\n"
      "  train_pacl --encoder clip/ --data shards/ --nouns nouns.txt --features cache/ --output model\n"};
  options.add_to(app);
  options.add_embedder_to(app);
  app.add_option("--attention-scale", options.attention_scale, "on cosines in the softmax over patches (the paper: 1)")
      ->check(examples::in_range(0, 1000))
      ->capture_default_str();
  examples::add_threads(app, options.threads);
  return examples::run_program(app, argc, argv, "train_pacl", [&] {
    if (!options.encoder.empty()) options.follow_paper(app);
    for (const char* option :
         {"--text", "--features", "--feature-dtype", "--patch-tokens", "--fixed-scale", "--tokenizer", "--activation"})
      require(!options.encoder.empty() || app.count(option) == 0, option, " belongs to training with --encoder");
    examples::Devices<examples::PaclTrainingOptions>::run(options.device, options);
  });
}
#endif
