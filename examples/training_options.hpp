// The command line that the trainers share: data, size of the model, schedule.
#pragma once
#include <CLI/CLI.hpp>
#include <cmath>
#include <string>

#include <tessera/nn/text_transformer.hpp>
#include <tessera/nn/vision_transformer.hpp>
#include <tessera/train/caption_training.hpp>
#include <tessera/train/trainer.hpp>

#include "common.hpp"
#include "devices.hpp"

namespace examples {

struct TrainingOptions {
  std::string data = "scenes:classic", nouns, output, prompt = "a photo of {article} {}", device = "cpu", dtype = "f32";
  int64_t image_size = 64, patch_size = 8, width = 128, layers = 3, text_layers = 2, heads = 4, embed_dim = 128;
  int64_t vocabulary = 1000, context_length = 32, scenes = 48000, snapshots = 0;
  double logit_scale = 20;
  bool keep_implied = false, random_crop = false, fresh = false;
  int threads = 0;
  tessera::train::TrainerOptions training;

  void add_to(CLI::App& app) {
    app.add_option(
           "--data", data,
           "scenes:classic, scenes:rich, a folder of tar shards, a shard, or a table of path<TAB>caption (.tsv)")
        ->capture_default_str();
    app.add_option(
        "--nouns", nouns,
        "file with one noun a line; or wordnet, the nouns of WordNet that stand in the captions (wordnet:FOLDER "
        "where it is not in /usr/share/wordnet); scenes bring their own");
    app.add_option("--output", output, "folder for model, checkpoint and metrics")->required();
    app.add_option("--prompt", prompt, "prompt of a noun: {} is the noun, {article} is a or an")->capture_default_str();
    app.add_flag("--keep-implied", keep_implied, "count texts as negatives of images whose caption implies them");
    app.add_option("--steps", training.steps, "training steps")
        ->check(CLI::Range(int64_t(1), int64_t(1000000000)))
        ->capture_default_str();
    app.add_option("--batch", training.batch, "images a step")
        ->check(CLI::Range(int64_t(2), int64_t(65536)))
        ->capture_default_str();
    app.add_option("--learning-rate", training.learning_rate, "after the warm-up")
        ->check(in_range(1e-9, 1))
        ->capture_default_str();
    app.add_option("--warmup", training.warmup, "share of the steps")->check(in_range(0, 1))->capture_default_str();
    app.add_option("--weight-decay", training.weight_decay, "of weights")
        ->check(in_range(0, 10))
        ->capture_default_str();
    app.add_option("--seed", training.seed, "of initial weights and of the order of pictures")
        ->check(whole_number())
        ->capture_default_str();
    app.add_option("--save-every", training.save_every, "steps between checkpoints")
        ->check(CLI::Range(int64_t(1), int64_t(1000000000)))
        ->capture_default_str();
    app.add_option("--snapshots", snapshots, "copies of the model kept along the way, in OUTPUT/snapshots")
        ->check(CLI::Range(int64_t(0), int64_t(1000000)))
        ->capture_default_str();
    app.add_flag("--fresh", fresh, "begin anew, whatever the output folder holds");
    app.add_option("--scenes", scenes, "number of rendered scenes")
        ->check(CLI::Range(int64_t(1), int64_t(4294967295)))
        ->capture_default_str();
    app.add_option("--image-size", image_size, "side of the pictures")
        ->check(CLI::Range(int64_t(1), int64_t(4096)))
        ->capture_default_str();
    app.add_option("--patch-size", patch_size, "side of a patch")
        ->check(CLI::Range(int64_t(1), int64_t(1024)))
        ->capture_default_str();
    app.add_flag("--random-crop", random_crop, "random crops and flips instead of the central square");
    app.add_option("--width", width, "channels of both towers")
        ->check(CLI::Range(int64_t(1), int64_t(65536)))
        ->capture_default_str();
    app.add_option("--layers", layers, "blocks of the image tower")
        ->check(CLI::Range(int64_t(1), int64_t(1000)))
        ->capture_default_str();
    app.add_option("--text-layers", text_layers, "blocks of the text tower")
        ->check(CLI::Range(int64_t(1), int64_t(1000)))
        ->capture_default_str();
    app.add_option("--heads", heads, "attention heads of both towers")
        ->check(CLI::Range(int64_t(1), int64_t(4096)))
        ->capture_default_str();
    app.add_option("--embed-dim", embed_dim, "channels of the common space")
        ->check(CLI::Range(int64_t(1), int64_t(65536)))
        ->capture_default_str();
    app.add_option("--vocabulary", vocabulary, "most tokens to learn from the captions")
        ->check(CLI::Range(int64_t(514), int64_t(1000000)))
        ->capture_default_str();
    app.add_option("--context-length", context_length, "most tokens of a text")
        ->check(CLI::Range(int64_t(3), int64_t(65536)))
        ->capture_default_str();
    app.add_option("--logit-scale", logit_scale, "initial factor on similarities")
        ->check(in_range(0.01, 1000))
        ->capture_default_str();
    app.add_option(
           "--dtype", dtype,
           "element type of weights and activations: f32, or bf16 with a master in f32 of every weight; losses, "
           "norms and the optimiser are f32 in both")
        ->check(CLI::IsMember({"f32", "bf16"}))
        ->capture_default_str();
    add_device(app, device);
  }

  tessera::train::CaptionedData open() const {
    return tessera::train::open_captioned_data(data, nouns, int(image_size), scenes, 0);
  }
  tessera::train::TrainerOptions trainer() const {
    tessera::train::TrainerOptions options = training;
    options.folder = output;
    options.resume = !fresh;
    std::error_code ignored;
    if (fresh && std::filesystem::is_directory(options.folder, ignored)) {
      // The model of an earlier run must not stand beside the checkpoint of this one.
      const tessera::io::FolderLock lock(options.folder);
      for (const char* old : {"tokenizer_config.json", "config.json", "model.safetensors", "snapshots"})
        std::filesystem::remove_all(options.folder / old, ignored);
    }
    options.recipe = {{"data", data},
                      {"nouns", nouns},
                      {"prompt", prompt},
                      {"image_size", image_size},
                      {"patch_size", patch_size},
                      {"heads", heads},
                      {"vocabulary", vocabulary},
                      {"context_length", context_length},
                      {"scenes", scenes},
                      {"logit_scale", logit_scale},
                      {"keep_implied", keep_implied},
                      {"random_crop", random_crop}};
    if (dtype != "f32") options.recipe["dtype"] = dtype;  // no device: a run may go on on another one
    return options;
  }
  tessera::train::BatchOptions batches() const {
    return {.batch = training.batch, .image_size = int(image_size), .random_crop = random_crop, .seed = training.seed};
  }
  tessera::nn::VisionConfig vision() const {
    return {.image_size = image_size,
            .patch_size = patch_size,
            .transformer = {.width = width, .layers = layers, .heads = heads, .activation = tessera::Activation::gelu},
            .embed_dim = embed_dim};
  }
  tessera::nn::TextConfig text(const tessera::data::Tokenizer& tokenizer) const {
    return {
        .vocabulary_size = tokenizer.vocabulary_size(),
        .context_length = context_length,
        .transformer = {.width = width, .layers = text_layers, .heads = heads, .activation = tessera::Activation::gelu},
        .embed_dim = embed_dim,
        .end_of_text = tokenizer.end_of_text(),
        .start_of_text = tokenizer.start_of_text(),
        .padding = tokenizer.padding()};
  }
};

/// The prompts of all nouns.
inline std::vector<std::string> noun_prompts(const std::vector<std::string>& nouns, const std::string& prompt) {
  std::vector<std::string> prompts;
  for (const auto& noun : nouns) prompts.push_back(tessera::segmentation::fill(prompt, noun));
  return prompts;
}

/// The templates of --prompt: one with {} in it, or those of a prompt set by its name or file.
inline std::vector<std::string> prompt_templates(const std::string& prompt) {
  if (prompt.find("{}") != prompt.npos) return {prompt};
  return tessera::segmentation::load_prompt_set(prompt).templates;
}

/// The factor on similarities, for the line of a step.
template <class Model>
tessera::io::Json logit_scale_of(const Model& model) {
  return {{"logit_scale", std::exp(to_host(view(model.logit_scale.value()))[0])}};
}

/// Where the snapshot of a step lies, or an empty path where the step has none.
inline std::filesystem::path snapshot_folder(const TrainingOptions& options, int64_t step) {
  if (options.snapshots <= 0) return {};
  const int64_t every = std::max<int64_t>(1, options.training.steps / options.snapshots);
  if (step % every != 0 && step != options.training.steps) return {};
  char name[32];
  std::snprintf(name, sizeof name, "step-%06lld", static_cast<long long>(step));
  return std::filesystem::path(options.output) / "snapshots" / name;
}

/// Trains model, that of the trainer, on loss_of_step; save(folder) writes the model, for snapshots and at the end.
/// What more() gives is added to a step's metrics.
template <class Model, class Device, class Loss, class Save, class More>
void train_and_save(tessera::train::Trainer<Model, Device>& trainer, const Model& model, const TrainingOptions& options,
                    Loss&& loss_of_step, Save&& save, More&& more) {
  const bool finished = trainer.run(loss_of_step, [&](int64_t step, double) -> tessera::io::Json {
    if (const auto folder = snapshot_folder(options, step); !folder.empty()) save(folder);
    tessera::io::Json line = logit_scale_of(model);
    line.update(more());
    return line;
  });
  if (!finished) {
    std::printf("stopped after step %lld of %lld; the same command goes on from there\n",
                static_cast<long long>(trainer.step()), static_cast<long long>(options.training.steps));
    return;
  }
  save(std::filesystem::path(options.output));
  std::printf("trained in %s; the model is in %s\n", tessera::train::clock_text(trainer.seconds()).c_str(),
              options.output.c_str());
}
template <class Model, class Device, class Loss, class Save, class More>
void train_and_save(tessera::Context<Device>& ctx, Model& model, const TrainingOptions& options,
                    const tessera::train::TrainerOptions& training, Loss&& loss_of_step, Save&& save, More&& more) {
  tessera::train::Trainer trainer(ctx, model, training);
  train_and_save(trainer, model, options, loss_of_step, save, more);
}
template <class Model, class Device, class Loss, class Save>
void train_and_save(tessera::Context<Device>& ctx, Model& model, const TrainingOptions& options,
                    const tessera::train::TrainerOptions& training, Loss&& loss_of_step, Save&& save) {
  train_and_save(ctx, model, options, training, loss_of_step, save, [] { return tessera::io::Json::object(); });
}

/// What is known before a training begins.
template <class Model>
void print_sizes(const tessera::train::CaptionedData& data, const tessera::data::Tokenizer& tokenizer, Model& model) {
  std::printf("%lld pictures, %zu nouns, %lld tokens, %lld parameters\n", static_cast<long long>(data.source->size()),
              data.nouns.size(), static_cast<long long>(tokenizer.vocabulary_size()),
              static_cast<long long>(tessera::nn::parameter_count(model)));
}

}  // namespace examples
