// Trains CLIP on captioned pictures, from random weights: embeddings of a picture and its caption are pulled together.
// With a list of nouns each caption comes with a prompt for every noun in it, as in train_pacl; without, the loss is
// the paper's. The model is saved in Hugging Face's form.
//
//   train_clip --data pictures.tsv --image-size 224 --patch-size 16 --width 512 --layers 12 --heads 8 --output model
//   classify --checkpoint model --image photo.png --classes "dog,cat"
#include <tessera/systems/clip_checkpoint.hpp>
#include <tessera/train/batches.hpp>
#include <tessera/train/text_batch.hpp>

#include "common.hpp"
#include "training_options.hpp"

using namespace tessera;

namespace {

/// T: of weights and activations.
template <class T, class Device>
void train_on(const examples::TrainingOptions& options) {
  Context<Cpu> host;  // of what is made on the host: pictures, token ids
  Context<Device> ctx({.seed = options.training.seed});
  Staging<Device> stage;

  // The captions and a vocabulary learned from them.
  const auto captioned = options.open();
  const auto prompts = examples::noun_prompts(captioned.nouns, options.prompt);
  const auto tokenizer =
      train::learn_vocabulary(*captioned.source, prompts, options.vocabulary, options.context_length);

  auto model = systems::make_clip<T>(ctx, {options.vision(), options.text(tokenizer), std::log(options.logit_scale)},
                                     nn::Initialisation::xavier);
  examples::print_sizes(captioned, tokenizer, model);

  train::Batches batches(host, captioned.source, options.batches());
  const auto encode_images = [&](Tape<Device>& tape, const train::Batch& batch) {
    const Variable<T, 4, Device> images(convert<T>(ctx, stage(ctx, batch.images)));
    return l2_normalise(tape, model.encode_image(tape, images));
  };
  const auto encode_texts = [&](Tape<Device>& tape, const nn::TextInput<Device>& texts) {
    return l2_normalise(tape, model.encode_text(tape, texts));
  };
  // The paper's loss: one caption an image.
  const auto plain_loss = [&](Tape<Device>& tape, int64_t step) {
    const train::Batch batch = batches(step);
    const auto images = encode_images(tape, batch);
    const auto ids = train::tokenize(host, tokenizer, batch.captions);
    const auto texts = nn::on_device(ctx, stage, nn::text_input(host, ids, tokenizer.end_of_text()));
    return contrastive(tape, images, encode_texts(tape, texts), model.logit_scale);
  };
  // Several texts an image.
  std::optional<data::NounFinder> finder;
  if (!captioned.nouns.empty()) finder.emplace(captioned.nouns, true);
  const train::TextBatchOptions texts_options{.exclude_implied = !options.keep_implied,
                                              .prompt = [&](int noun) { return prompts[size_t(noun)]; }};
  const auto noun_loss = [&](Tape<Device>& tape, int64_t step) {
    const train::Batch batch = batches(step);
    const auto texts = train::make_text_batch(host, batch.captions, *finder, texts_options, ctx.random.draw());
    const auto images = convert<float>(tape, encode_images(tape, batch));
    const auto each = convert<float>(tape, train::embed_texts(tape, host, stage, tokenizer, texts, encode_texts));
    const auto cosines = matmul(tape, images, each, {}, {.transpose_b = true});
    return multi_text_contrastive(tape, cosines, stage(ctx, texts.owner), stage(ctx, texts.excluded),
                                  model.logit_scale);
  };

  const auto save = [&](const std::filesystem::path& folder) {
    tokenizer.save(folder);
    systems::save_clip(model, {}, folder, options.prompt);
  };
  const auto loss_of_step = [&](Tape<Device>& tape, int64_t step) {
    return finder ? noun_loss(tape, step) : plain_loss(tape, step);
  };
  examples::train_and_save(ctx, model, options, options.trainer(), loss_of_step, save);
}

void run(const examples::TrainingOptions& options) {
  examples::use_threads(options.threads);
  if (options.dtype == "bf16")
    train_on<bfloat16, examples::ThisDevice>(options);
  else
    train_on<float, examples::ThisDevice>(options);
}

const examples::Devices<examples::TrainingOptions> on_this_device(examples::ThisDevice{}, run);

}  // namespace

#if !defined(EXAMPLES_SECOND_DEVICE)
int main(int argc, char** argv) {
  examples::TrainingOptions options;
  options.training.steps = 2000;
  options.training.learning_rate = 1.2e-3;
  CLI::App app{
      "Trains CLIP on captioned pictures, from random weights.\n"
      "Ctrl-C saves; the same command resumes. OUTPUT/metrics.jsonl holds a line a step.\n\n"
      "  train_clip --data scenes:classic --output model\n"
      "  train_clip --data pictures.tsv --image-size 224 --patch-size 16 --width 512 --output model\n"};
  options.add_to(app);
  examples::add_threads(app, options.threads);
  return examples::run_program(app, argc, argv, "train_clip",
                               [&] { examples::Devices<examples::TrainingOptions>::run(options.device, options); });
}
#endif
