// PACL as in the paper (train_pacl --encoder): a small embedder learns to bring the patches of a frozen image tower to
// the texts of a frozen text tower. Patches come from pictures, or from a cache of features that is computed once.
#pragma once
#include <limits>
#include <optional>
#include <utility>

#include <tessera/systems/pacl.hpp>
#include <tessera/train/batches.hpp>
#include <tessera/train/feature_cache.hpp>
#include <tessera/train/text_batch.hpp>
#include <tessera/train/text_vectors.hpp>

#include "checkpoint_options.hpp"
#include "training_options.hpp"

namespace examples {

struct PaclTrainingOptions : TrainingOptions {
  double attention_scale = 5;
  // of an embedder on trained towers:
  CheckpointOptions of_checkpoint;
  std::string encoder, text_encoder, features, feature_dtype = "f16", tokens = "ln_post";
  double fixed_scale = 0;  ///< 0: learned

  void add_embedder_to(CLI::App& app) {
    app.add_option("--encoder", encoder,
                   "a CLIP, or a ViT as Hugging Face stores it (DINO): train an embedder on its frozen patches, as in "
                   "the paper, instead of two new towers");
    app.add_option("--text", text_encoder, "a CLIP whose frozen text tower is asked; default: --encoder's own");
    app.add_option("--features", features,
                   "folder for the encoder's tokens of all pictures: computed once, there for later runs");
    app.add_option("--feature-dtype", feature_dtype, "how they are stored")
        ->check(CLI::IsMember({"f32", "bf16", "f16"}))
        ->capture_default_str();
    app.add_option("--patch-tokens", tokens, "which tokens the embedder is given")
        ->check(CLI::IsMember({"last_block", "ln_post", "projected"}))
        ->capture_default_str();
    app.add_option("--fixed-scale", fixed_scale, "factor on similarities, not learned (CLIP's: 100)")
        ->check(in_range(0.01, 100));
    of_checkpoint.add_checkpoint_to(app);
  }
  /// The paper's settings, and what is as usual, in place of what was not given.
  void follow_paper(const CLI::App& app) {
    const auto usual = [&](const char* option, auto& value, auto paper) {
      if (app.count(option) == 0) value = paper;
    };
    usual("--learning-rate", training.learning_rate, 5e-4);
    usual("--warmup", training.warmup, 0.0);
    usual("--weight-decay", training.weight_decay, 0.2);
    usual("--logit-scale", logit_scale, 1 / 0.07);
    usual("--attention-scale", attention_scale, 1.0);
    usual("--prompt", prompt, "pacl7_reported");
    training.largest_gradient_norm = std::numeric_limits<double>::infinity();
    for (const char* option : {"--image-size", "--patch-size", "--width", "--layers", "--text-layers", "--heads",
                               "--embed-dim", "--vocabulary", "--context-length"})
      tessera::require(app.count(option) == 0, option, " is that of the encoder; leave it out with --encoder");
    tessera::require(features.empty() || !random_crop,
                     "--features are of the pictures' central squares; leave --random-crop out");
    tessera::require(fixed_scale == 0 || app.count("--logit-scale") == 0,
                     "--fixed-scale and --logit-scale set the same factor; give one of them");
  }
};

/// Computes the tower's tokens of all pictures into the folder of --features, or goes on with them; false where Ctrl-C
/// came first.
template <class T, class Device>
bool compute_features(tessera::Context<tessera::Cpu>& host, tessera::Context<Device>& ctx,
                      const tessera::nn::VisionTransformer<T, Device>& tower, tessera::systems::PatchTokens tokens,
                      const tessera::data::CaptionSource& source, const tessera::train::FeatureRecipe& recipe,
                      const std::string& folder) {
  using namespace tessera;
  Staging<Device> stage;
  std::optional<train::Progress> progress;  // where there is something to compute
  const int64_t before = std::min(source.size(), train::finished_feature_shards(folder) * recipe.pictures_per_shard);
  const auto encode = [&](const Tensor<float, 4>& images) {
    if (!progress) progress.emplace("features", source.size(), "pictures", before);
    Tape<Device> tape(ctx, false);
    const Variable<T, 4, Device> input(convert<T>(ctx, stage(ctx, images)));
    const auto encoded = convert<float>(tape, systems::patch_tokens(tape, tower, input, tokens)).value();
    return Tensor<float, 3>::from_host(host, encoded.shape, to_host(view(encoded)));
  };
  train::Interruption interruption;
  const auto done = [&](int64_t pictures) {
    progress->advance(pictures);
    return !interruption.requested();
  };
  train::write_features(host, source, folder, recipe, encode, done);
  return !interruption.requested();
}

/// T: of weights and activations.
template <class T, class Device>
void train_embedder(PaclTrainingOptions options) {
  using namespace tessera;
  Context<Cpu> host;
  Context<Device> ctx({.seed = options.training.seed});
  Staging<Device> stage;

  // Two frozen towers, with the vocabulary of the texts', and a new embedder between them.
  const bool of_clip = systems::describe_checkpoint(options.encoder).model_type != "vit";
  const auto activation = options.of_checkpoint.given_activation();
  auto tower = systems::load_image_tower<T>(ctx, options.encoder, of_clip ? activation : std::nullopt);
  require(tower.model_type == "clip" || !options.text_encoder.empty(), "the encoder ", options.encoder,
          " is a ViT, which knows no words; name a CLIP with --text");
  const std::string texts_from = options.text_encoder.empty() ? options.encoder : options.text_encoder;
  const auto tokenizer = options.of_checkpoint.load_tokenizer(texts_from);
  const auto statistics = tower.statistics;
  const auto input = systems::patch_tokens_from_name(options.tokens);
  const bool fixed = options.fixed_scale > 0;
  auto model =
      systems::make_pacl_on<T>(ctx, std::move(tower), systems::load_clip<T>(ctx, texts_from, activation).model.text,
                               {.input = input,
                                .attention_scale = options.attention_scale,
                                .initial_logit_scale = std::log(fixed ? options.fixed_scale : options.logit_scale),
                                .fixed_logit_scale = fixed});

  // Captioned pictures, and the prompts of the nouns in captions.
  options.image_size = model.visual.config.image_size;
  const auto captioned = options.open();
  std::optional<data::NounFinder> finder;
  if (!captioned.nouns.empty()) finder.emplace(captioned.nouns, true);
  if (!finder) std::printf("note: no nouns are known (--nouns); the texts are captions alone\n");
  const auto prompts = prompt_templates(options.prompt);
  const auto prompt = [&](int noun, int number) {
    return segmentation::fill(prompts[size_t(number)], captioned.nouns[size_t(noun)]);
  };
  print_sizes(captioned, tokenizer, model);
  std::printf("%lld of them are trained: the embedder, of %s tokens\n",
              static_cast<long long>(nn::parameter_count(model.embedder)), options.tokens.c_str());

  // What the settings do not allow is refused before features are computed for days.
  train::SampleOrder(captioned.source->size(), options.training.batch, options.training.seed);
  train::TrainerOptions training = options.trainer();
  const bool own_texts = options.text_encoder.empty();
  training.start = {own_texts ? options.encoder : options.encoder + " with --text " + options.text_encoder,
                    systems::fingerprint_of_towers(model)};
  training.recipe["attention_scale"] = options.attention_scale;
  training.recipe["embedder"] = {{"tokens", options.tokens},
                                 {"fixed_scale", options.fixed_scale},
                                 {"features", options.features.empty() ? "" : options.feature_dtype}};
  train::Trainer trainer(ctx, model, training);
  std::error_code ignored;
  require(!std::filesystem::equivalent(options.features, options.output, ignored),
          "--features and --output name the same folder; give each its own");

  // Frozen patches of a step, from the cache or from pictures.
  train::BatchOptions batch_options = options.batches();
  batch_options.statistics = statistics;
  std::optional<train::Batches> pictures;
  std::optional<train::FeatureBatches> features;
  if (options.features.empty()) {
    pictures.emplace(host, captioned.source, batch_options);
  } else {
    const auto& vision = model.visual.config;
    const train::FeatureRecipe recipe{.encoder = model.encoder,
                                      .fingerprint = systems::fingerprint_of_tower(model.visual),
                                      .tokens = options.tokens,
                                      .image_size = vision.image_size,
                                      .patches = vision.grid() * vision.grid(),
                                      .width = systems::width_of(vision, input),
                                      .statistics = statistics,
                                      .dtype = options.feature_dtype == "f32"    ? Dtype::f32
                                               : options.feature_dtype == "bf16" ? Dtype::bf16
                                                                                 : Dtype::f16};
    if (!compute_features(host, ctx, model.visual, input, *captioned.source, recipe, options.features)) {
      std::printf("stopped before all features were computed; the same command goes on from there\n");
      return;
    }
    features.emplace(host, captioned.source, train::FeatureStore(options.features), options.training.batch,
                     options.training.seed);
  }
  const auto patches_of = [&](Tape<Device>& tape, int64_t step) {
    if (features) {
      const train::FeatureBatch batch = (*features)(step);
      return std::pair{Variable<T, 3, Device>(convert<T>(ctx, stage(ctx, batch.tokens))), batch.captions};
    }
    const train::Batch batch = (*pictures)(step);
    const Variable<T, 4, Device> images(convert<T>(ctx, stage(ctx, batch.images)));
    return std::pair{systems::patch_tokens(tape, model.visual, images, input), batch.captions};
  };

  // The loss of a step: each image with one text, its caption or one of its nouns in a template.
  const auto encode_texts = [&](const std::vector<std::string>& texts) {
    Tape<Device> tape(ctx, false);
    const auto input = nn::on_device(ctx, stage, train::group_input(host, tokenizer, texts));
    const auto encoded = convert<float>(tape, model.text_embeddings(tape, input)).value();
    return Tensor<float, 2>::from_host(host, encoded.shape, to_host(view(encoded)));
  };
  const size_t texts_at_once = std::is_same_v<Device, Cpu> ? 1 : 64;
  train::TextVectors vectors_of(encode_texts, size_t(1) << 17, texts_at_once);
  const auto loss_of_step = [&](Tape<Device>& tape, int64_t step) {
    const auto [patches, captions] = patches_of(tape, step);
    const auto drawn = train::draw_texts(host, captions, finder ? &*finder : nullptr, int(prompts.size()), prompt,
                                         !options.keep_implied, ctx.random.draw());
    const Variable<T, 2, Device> texts(convert<T>(ctx, stage(ctx, vectors_of(host, drawn.texts))));
    const auto phi = model.compatibility(tape, model.embedder(tape, patches), texts);
    return multi_text_contrastive(tape, phi, stage(ctx, drawn.owner), stage(ctx, drawn.excluded), model.logit_scale);
  };

  const auto save = [&](const std::filesystem::path& folder) {
    tokenizer.save(folder);
    systems::save_pacl(model, statistics, folder, options.prompt);
  };
  train_and_save(trainer, model, options, loss_of_step, save, [] { return io::Json::object(); });
}

}  // namespace examples
