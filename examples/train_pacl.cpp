// Learns to segment from captions alone, by PACL's objective: an image is compared with a text through the patches that
// look like the text. Each caption comes with a prompt for every noun in it; label maps are never read.
//
//   train_pacl --data scenes:classic --output model
//   train_pacl --data shards/ --nouns nouns.txt --image-size 224 --patch-size 16 --width 384 --output model
//   segment --checkpoint model --image photo.png --classes "dog,grass"
#include <CLI/CLI.hpp>

#include <tessera/systems/pacl.hpp>
#include <tessera/train/batches.hpp>
#include <tessera/train/caption_training.hpp>
#include <tessera/train/text_batch.hpp>
#include <tessera/train/trainer.hpp>

#include "common.hpp"

using namespace tessera;

namespace {

struct Options {
  std::string data = "scenes:classic", nouns, output, prompt = "a photo of {article} {}";
  int64_t image_size = 64, patch_size = 8, width = 128, layers = 3, text_layers = 2, heads = 4, embed_dim = 128;
  int64_t vocabulary = 1000, context_length = 32, scenes = 48000;
  double attention_scale = 5, logit_scale = 20;
  bool keep_implied = false, random_crop = false, fresh = false;
  train::TrainerOptions training{.steps = 2000, .batch = 32, .learning_rate = 1.2e-3};
};

// The model: two towers without a class token, so that patches carry what the picture shows.
systems::Pacl<float> make_model(Context<Cpu>& ctx, const Options& options, const data::Tokenizer& tokenizer) {
  nn::TransformerConfig tower{.width = options.width,
                              .layers = options.layers,
                              .heads = options.heads,
                              .activation = Activation::gelu};
  systems::PaclConfig config;
  config.vision = {.image_size = options.image_size,
                   .patch_size = options.patch_size,
                   .transformer = tower,
                   .embed_dim = options.embed_dim,
                   .class_token = false,
                   .pre_norm = false};
  tower.layers = options.text_layers;
  config.text = {.vocabulary_size = tokenizer.vocabulary_size(),
                 .context_length = options.context_length,
                 .transformer = tower,
                 .embed_dim = options.embed_dim,
                 .end_of_text = tokenizer.eot()};
  config.attention_scale = options.attention_scale;
  config.initial_logit_scale = std::log(options.logit_scale);
  return systems::make_pacl<float>(ctx, config);
}

int run(Options& options) {
  options.training.folder = options.output;
  options.training.resume = !options.fresh;
  Context<Cpu> ctx({.seed = options.training.seed});

  const auto found = train::open_captioned_data(options.data, options.nouns, int(options.image_size), options.scenes, 0);
  require(!found.nouns.empty(), "train_pacl: no list of nouns: give --nouns FILE (one noun a line); prompts for the "
                                "nouns of a caption are what single words are learned from");
  const data::NounFinder finder(found.nouns, true);
  const auto prompt = [&](int noun) { return segmentation::fill(options.prompt, found.nouns[size_t(noun)]); };
  std::vector<std::string> prompts;
  for (size_t noun = 0; noun < found.nouns.size(); ++noun) prompts.push_back(prompt(int(noun)));
  const auto tokenizer = train::learn_vocabulary(*found.source, prompts, options.vocabulary, options.context_length);

  auto model = make_model(ctx, options, tokenizer);
  std::printf("%lld pictures, %zu nouns, %lld tokens, %lld parameters\n", (long long)found.source->size(),
              found.nouns.size(), (long long)tokenizer.vocabulary_size(), (long long)nn::parameter_count(model));
  train::Batches batches(ctx, found.source,
                         {.batch = options.training.batch,
                          .image_size = int(options.image_size),
                          .random_crop = options.random_crop,
                          .seed = options.training.seed});
  train::Trainer trainer(ctx, model, options.training);

  const auto encode = [&](Tape<Cpu>& tape, const std::vector<std::string>& texts) {
    return model.text_embeddings(tape, train::tokenize(ctx, tokenizer, texts));
  };
  const bool finished = trainer.run(
      [&](Tape<Cpu>& tape, int64_t step) {
        const train::Batch batch = batches(step);
        const train::TextBatch texts = train::make_text_batch(
            ctx, batch.captions, finder, {.exclude_implied = !options.keep_implied, .prompt = prompt}, ctx.random.draw());
        const auto patches = model.patch_embeddings(tape, Variable<float, 4>(batch.images));
        // captions and prompts apart: prompts are short
        auto distinct = encode(tape, texts.captions);
        if (!texts.prompts.empty()) distinct = concatenate(tape, 0, distinct, encode(tape, texts.prompts));
        const auto phi = model.compatibility(tape, patches, embedding(tape, distinct, texts.rows));
        return multi_text_contrastive(tape, phi, texts.owners, texts.excluded, model.logit_scale);
      },
      [&](int64_t, double) -> io::Json { return {{"logit_scale", std::exp(model.logit_scale.value().data[0])}}; });

  if (!finished) {
    std::printf("stopped after step %lld of %lld; the same command goes on from there\n", (long long)trainer.step(),
                (long long)options.training.steps);
    return 0;
  }
  systems::save_pacl(model, {}, options.output);
  tokenizer.save(options.output);
  train::write_prompt_template(options.output, options.prompt);
  std::printf("trained in %s; the model is in %s\n", train::clock_text(trainer.seconds()).c_str(),
              options.output.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  auto& training = options.training;
  Program program("train_pacl",
                  "Learns to segment from captions alone (PACL's objective), from random weights.\n"
                  "Ctrl-C saves; the same command resumes. metrics.jsonl holds a line a step.\n\n"
                  "  train_pacl --data scenes:classic --output model\n"
                  "  train_pacl --data shards/ --nouns nouns.txt --image-size 224 --patch-size 16 --output model");
  auto& app = program.app;
  app.add_option("--data", options.data,
                 "scenes:classic, scenes:rich, a folder of tar shards, a shard, or a table of path<TAB>caption (.tsv)")
      ->capture_default_str();
  app.add_option("--nouns", options.nouns, "file with one noun a line; scenes bring their own");
  app.add_option("--output", options.output, "folder for model, checkpoint and metrics")->required();
  app.add_option("--prompt", options.prompt, "prompt of a noun: {} is the noun, {article} is a or an")->capture_default_str();
  app.add_option("--steps", training.steps, "training steps")->capture_default_str();
  app.add_option("--batch", training.batch, "images a step")->capture_default_str();
  app.add_option("--learning-rate", training.learning_rate, "after the warm-up")->capture_default_str();
  app.add_option("--weight-decay", training.weight_decay, "of weights")->capture_default_str();
  app.add_option("--seed", training.seed, "of initial weights and of the order of pictures")->capture_default_str();
  app.add_option("--save-every", training.save_every, "steps between checkpoints")->capture_default_str();
  app.add_flag("--fresh", options.fresh, "begin anew, whatever the output folder holds");
  app.add_option("--scenes", options.scenes, "number of rendered scenes")->capture_default_str();
  app.add_option("--image-size", options.image_size, "side of the pictures")->capture_default_str();
  app.add_option("--patch-size", options.patch_size, "side of a patch")->capture_default_str();
  app.add_flag("--random-crop", options.random_crop, "random crops and flips instead of the central square");
  app.add_option("--width", options.width, "channels of both towers")->capture_default_str();
  app.add_option("--layers", options.layers, "blocks of the image tower")->capture_default_str();
  app.add_option("--text-layers", options.text_layers, "blocks of the text tower")->capture_default_str();
  app.add_option("--heads", options.heads, "attention heads of both towers")->capture_default_str();
  app.add_option("--embed-dim", options.embed_dim, "channels of the common space")->capture_default_str();
  app.add_option("--vocabulary", options.vocabulary, "most tokens to learn from the captions")->capture_default_str();
  app.add_option("--context-length", options.context_length, "most tokens of a text")->capture_default_str();
  app.add_option("--attention-scale", options.attention_scale, "on cosines in the softmax over patches (paper: 1)")
      ->capture_default_str();
  app.add_option("--logit-scale", options.logit_scale, "initial factor on compatibilities")->capture_default_str();
  app.add_flag("--keep-implied", options.keep_implied,
               "count texts as negatives of images whose caption implies them");
  return program.run(argc, argv, [&] { return run(options); });
}
