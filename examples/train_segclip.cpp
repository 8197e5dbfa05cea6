// Trains SegCLIP: an image tower that gathers patches into a few groups, so that a picture falls into regions that
// carry words. Learned from captions by three losses: contrastive, reconstruction of masked patches from the groups,
// and agreement of the groups within superpixels. Starts from a CLIP (or PACL) that was trained before, or from
// scratch.
//
//   train_segclip --data pictures.tsv --init clip-vit-base-patch16 --group-layer 10 --output model
//   train_segclip --data scenes:classic --output model
//   segment --checkpoint model --image photo.png --classes "dog,grass" --groups groups.png
#include <tessera/systems/segclip_checkpoint.hpp>
#include <tessera/train/batches.hpp>

#include "checkpoint_options.hpp"
#include "common.hpp"
#include "training_options.hpp"

using namespace tessera;

namespace examples {

struct SegclipTrainingOptions : TrainingOptions {
  std::string init;
  CheckpointOptions of_checkpoint;
  std::vector<std::string> paper;
  systems::SegclipConfig model;
  std::optional<double> superpixel_scale, superpixel_sigma;
  std::optional<int> superpixel_min_size;
  std::string stored_superpixels;
  int64_t text_length = 32;
  double slow = 1e-3;
  bool captions_only = false, superpixels = true, majority = false;

  bool follows_paper(std::string_view where) const {
    return std::any_of(paper.begin(), paper.end(), [&](const auto& one) { return one == where || one == "all"; });
  }
  /// How superpixels are computed, where they are not stored.
  data::FelzenszwalbOptions felzenszwalb() const {
    const data::FelzenszwalbOptions usual;
    return {superpixel_scale.value_or(usual.scale), superpixel_sigma.value_or(usual.sigma),
            superpixel_min_size.value_or(usual.min_size)};
  }
  /// The store of superpixels, which may not be of other settings than were asked for.
  std::shared_ptr<const data::SuperpixelStore> open_superpixels() const {
    const auto store = std::make_shared<const data::SuperpixelStore>(stored_superpixels);
    const auto& stored = store->recipe().felzenszwalb;
    const auto check = [&](const char* option, const auto& wanted, auto value) {
      if (wanted)
        require(*wanted == value, option, " ", *wanted, ": the superpixels in ", stored_superpixels,
                " were computed with ", value, "; leave the option out, or compute them again");
    };
    check("--superpixel-scale", superpixel_scale, stored.scale);
    check("--superpixel-sigma", superpixel_sigma, stored.sigma);
    check("--superpixel-min-size", superpixel_min_size, stored.min_size);
    return store;
  }
};

}  // namespace examples

namespace {

/// Sizes and choices for an image tower of this many blocks.
systems::SegclipConfig model_config(const examples::SegclipTrainingOptions& options, int64_t blocks) {
  systems::SegclipConfig config = options.model;
  if (config.group_layer < 0) config.group_layer = std::max<int64_t>(1, blocks - 2);  // of twelve, ten
  config.group.paper_keys = options.follows_paper("keys");
  config.group.paper_assignment = options.follows_paper("assignment");
  config.group.paper_aggregation = options.follows_paper("aggregation");
  config.paper_reconstruction = options.follows_paper("reconstruction");
  config.paper_superpixels = options.follows_paper("superpixels");
  return config;
}

/// A model around the towers of a CLIP or a PACL; how that normalises pictures, and its fingerprint.
template <class T, class Device>
systems::Segclip<T, Device> around_trained(Context<Device>& ctx, const examples::SegclipTrainingOptions& options,
                                           data::ImageStatistics& statistics, uint64_t& fingerprint) {
  const auto around = [&](auto loaded) {
    auto& [model, of_pictures] = loaded;
    statistics = of_pictures;
    fingerprint = systems::fingerprint_of_towers(model);
    const int64_t blocks = model.visual.config.transformer.layers;
    return systems::make_segclip<T>(ctx, model_config(options, blocks), std::move(model.visual), std::move(model.text),
                                    std::move(model.logit_scale));
  };
  const std::string type = systems::describe_checkpoint(options.init).model_type;
  require(type != "segclip", "--init ", options.init,
          " is a SegCLIP; name a CLIP or PACL, whose towers it starts from");
  const auto activation = options.of_checkpoint.given_activation();
  require(type != "pacl" || !activation, "--activation belongs to CLIPs; --init ", options.init, " is a PACL");
  if (type == "pacl") return around(systems::load_pacl<T>(ctx, options.init));
  return around(systems::load_clip<T>(ctx, options.init, activation));
}

/// T: of weights and activations.
template <class T, class Device>
void train_on(const examples::SegclipTrainingOptions& options) {
  Context<Cpu> host;  // of what is made on the host: pictures, token ids, superpixels
  Context<Device> ctx({.seed = options.training.seed});
  Staging<Device> stage;

  // The model, around trained towers with their vocabulary, or with random weights and a vocabulary that it learns.
  const auto captioned = options.open();
  const auto prompts = examples::noun_prompts(captioned.nouns, options.prompt);
  const bool trained_before = !options.init.empty();
  const auto tokenizer =
      trained_before ? options.of_checkpoint.load_tokenizer(options.init)
                     : train::learn_vocabulary(*captioned.source, prompts, options.vocabulary, options.context_length);
  data::ImageStatistics statistics;
  uint64_t fingerprint = 0;
  const auto random_model = [&] {
    systems::SegclipConfig config = model_config(options, options.layers);
    config.vision = options.vision();
    config.vision.class_token = false;  // it would be thrown away
    config.text = options.text(tokenizer);
    config.initial_logit_scale = std::log(options.logit_scale);
    return systems::make_segclip<T>(ctx, config, nn::Initialisation::xavier);
  };
  auto model = trained_before ? around_trained<T>(ctx, options, statistics, fingerprint) : random_model();
  const auto& vision = model.config.vision;
  if (model.config.reconstruction)
    nn::visible_patches(vision.grid() * vision.grid(), model.config.mask_ratio);  // throws
  if (trained_before)
    nn::for_each_parameter(model, [&](const std::string& name, auto& parameter) {
      const bool frozen = systems::segclip_pace(name) == systems::SegclipPace::frozen;
      parameter.state().requires_grad = !frozen || options.follows_paper("embeddings");
    });
  examples::print_sizes(captioned, tokenizer, model);
  std::printf("%lld groups after block %lld of %lld\n", static_cast<long long>(model.config.group.centres),
              static_cast<long long>(model.config.group_layer), static_cast<long long>(vision.transformer.layers));

  train::BatchOptions batch_options = options.batches();
  batch_options.image_size = int(vision.image_size);
  batch_options.statistics = statistics;
  batch_options.crop = {.min_area = 0.5, .flip_probability = 0};  // the published training's
  if (options.superpixels)
    batch_options.superpixels = {.felzenszwalb = options.felzenszwalb(),
                                 .patch = int(vision.patch_size),
                                 .rule = options.majority ? data::PatchRule::majority : data::PatchRule::floor_mean};
  if (!options.stored_superpixels.empty()) batch_options.stored_superpixels = options.open_superpixels();
  train::Batches batches(host, captioned.source, batch_options);

  // The contrastive loss: of each picture and its caption, or, where nouns are known, of its nouns' prompts too.
  const int64_t text_length = std::min(options.text_length, model.config.text.context_length);
  const auto encode = [&](Tape<Device>& tape, const nn::TextInput<Device>& texts) {
    return l2_normalise(tape, model.encode_text(tape, texts));
  };
  const auto plain_loss = [&](Tape<Device>& tape, const auto& images, const std::vector<std::string>& captions) {
    OneRank<Device> alone;
    const auto ids = tokenizer.tokenize(host, captions, {.context_length = text_length, .truncate = true});
    const auto input = nn::text_input(host, ids, tokenizer.end_of_text());
    return gathered_contrastive(tape, alone, images, encode(tape, nn::on_device(ctx, stage, input)), model.logit_scale);
  };
  std::optional<data::NounFinder> finder;
  if (!captioned.nouns.empty() && !options.captions_only) finder.emplace(captioned.nouns, true);
  const train::TextBatchOptions texts_options{.exclude_implied = !options.keep_implied,
                                              .prompt = [&](int noun) { return prompts[size_t(noun)]; }};
  const auto noun_loss = [&](Tape<Device>& tape, const auto& images, const std::vector<std::string>& captions) {
    const auto texts = train::make_text_batch(host, captions, *finder, texts_options, ctx.random.draw());
    const auto each = train::embed_texts(tape, host, stage, tokenizer, texts, encode);
    const auto cosines =
        matmul(tape, convert<float>(tape, images), convert<float>(tape, each), {}, {.transpose_b = true});
    return multi_text_contrastive(tape, cosines, stage(ctx, texts.owner), stage(ctx, texts.excluded),
                                  model.logit_scale);
  };

  // The sum of the three losses; each is kept for the metrics.
  std::map<std::string, Variable<float, 0, Device>> parts;
  const auto loss_of_step = [&](Tape<Device>& tape, int64_t step) {
    const train::Batch batch = batches(step);
    const Variable<T, 4, Device> images(convert<T>(ctx, stage(ctx, batch.images)));
    const auto tokens = model.visual.embed_patches(tape, images);
    const auto features = model.visual.features(tape, tokens, {.stream = ctx.random.draw()});
    const auto embeddings = l2_normalise(tape, features.image);
    parts.clear();
    parts["contrastive"] =
        finder ? noun_loss(tape, embeddings, batch.captions) : plain_loss(tape, embeddings, batch.captions);
    if (options.superpixels)
      parts["superpixels"] = model.superpixel_loss(tape, features.assignment, stage(ctx, batch.superpixels));
    if (model.config.reconstruction) {
      const auto masking =
          nn::draw_masking(ctx, tokens.shape()[0], tokens.shape()[1], model.config.mask_ratio, ctx.random.draw());
      parts["reconstruction"] = model.reconstruction_loss(tape, tokens, images, masking, {.stream = ctx.random.draw()});
    }
    auto total = parts.at("contrastive");
    for (const auto& [name, loss] : parts)
      if (name != "contrastive") total = add(tape, total, loss);
    return total;
  };

  const auto save = [&](const std::filesystem::path& folder) {
    tokenizer.save(folder);
    systems::save_segclip(model, statistics, folder, options.prompt);
  };
  train::TrainerOptions training = options.trainer();
  training.recipe["segclip"] = systems::segclip_config_to_json(model.config);
  training.recipe["init"] = options.init;
  training.recipe["text_length"] = text_length;
  training.recipe["captions_only"] = options.captions_only;
  training.recipe["slow"] = options.slow;
  training.recipe["paper"] = options.paper;
  const auto felzenszwalb = options.felzenszwalb();
  training.recipe["superpixels"] = {options.superpixels, options.majority, felzenszwalb.scale, felzenszwalb.sigma,
                                    felzenszwalb.min_size};
  if (batch_options.stored_superpixels)
    training.recipe["stored_superpixels"] = batch_options.stored_superpixels->recipe().json();
  if (trained_before) training.start = {options.init, fingerprint};
  if (trained_before)  // the published rule: everything but biases decays
    training.rule = [&](const std::string& name, int) -> train::ParameterRule {
      const bool fast = systems::segclip_pace(name) == systems::SegclipPace::fast;
      return {fast ? 1 : options.slow, name.find("bias") == std::string::npos};
    };
  examples::train_and_save(ctx, model, options, training, loss_of_step, save, [&] {
    io::Json losses;
    for (const auto& [name, loss] : parts) losses[name] = to_host(view(loss.value()))[0];
    return losses;
  });
}

void run(const examples::SegclipTrainingOptions& options) {
  examples::use_threads(options.threads);
  if (options.dtype == "bf16")
    train_on<bfloat16, examples::ThisDevice>(options);
  else
    train_on<float, examples::ThisDevice>(options);
}

const examples::Devices<examples::SegclipTrainingOptions> on_this_device(examples::ThisDevice{}, run);

}  // namespace

#if !defined(EXAMPLES_SECOND_DEVICE)
int main(int argc, char** argv) {
  examples::SegclipTrainingOptions options;
  options.training.steps = 2000;
  options.training.learning_rate = 1.2e-3;
  options.training.warmup = 0.15;
  options.model.group_layer = -1;
  CLI::App app{
      "Trains SegCLIP: patches are gathered into groups that carry words; learned from captions.\n"
      "Ctrl-C saves; the same command resumes. OUTPUT/metrics.jsonl holds a line a step.\n\n"
      "  train_segclip --data scenes:classic --output model\n"
      "  train_segclip --data pictures.tsv --init clip-vit-base-patch16 --learning-rate 4e-3 --output model\n\n"
      "With --init the towers, their vocabulary and sizes are those of the checkpoint, and the published recipe is\n"
      "followed: embeddings are frozen, trained blocks learn --slow times as fast as new ones, all but biases "
      "decay.\n"};
  options.add_to(app);
  app.add_option("--init", options.init, "a CLIP's or PACL's checkpoint to start from; default: random weights");
  options.of_checkpoint.add_checkpoint_to(app);
  app.add_option("--slow", options.slow,
                 "factor on the learning rate of what --init brought (blocks on patches, texts)")
      ->check(examples::in_range(0, 1))
      ->capture_default_str();
  app.add_option("--group-layer", options.model.group_layer,
                 "blocks of the image tower before the groups are formed (default: all but two)")
      ->check(CLI::Range(int64_t(0), int64_t(1000)));
  app.add_option("--centres", options.model.group.centres, "groups of a picture")
      ->check(CLI::Range(int64_t(1), int64_t(65536)))
      ->capture_default_str();
  app.add_option("--cross-layers", options.model.group.cross_layers, "cross-attention layers of the centres")
      ->check(CLI::Range(int64_t(0), int64_t(100)))
      ->capture_default_str();
  app.add_option("--temperature", options.model.group.temperature, "of the Gumbel-softmax in training")
      ->check(examples::in_range(1e-3, 1e3))
      ->capture_default_str();
  app.add_flag("!--soft", options.model.group.hard, "patches belong to all groups, by their probabilities");
  app.add_flag("--mixed-keys", options.model.group.keys_mixed_over_batch,
               "keys and values mixed over the images of a batch, as the released training did by mistake");
  app.add_flag("!--no-reconstruction", options.model.reconstruction, "train without masked reconstruction");
  app.add_option("--mask-ratio", options.model.mask_ratio, "share of the patches that reconstruction removes")
      ->check(examples::in_range(0.01, 0.99))
      ->capture_default_str();
  app.add_option("--reconstruction-layers", options.model.reconstruction_layers, "blocks before the decoder")
      ->check(CLI::Range(int64_t(1), int64_t(100)))
      ->capture_default_str();
  app.add_option("--decoder-width", options.model.decoder_width, "channels of the decoder")
      ->check(CLI::Range(int64_t(4), int64_t(65536)))
      ->capture_default_str();
  app.add_option("--decoder-layers", options.model.decoder_layers, "blocks of the decoder")
      ->check(CLI::Range(int64_t(1), int64_t(100)))
      ->capture_default_str();
  app.add_option("--decoder-heads", options.model.decoder_heads, "attention heads of the decoder")
      ->check(CLI::Range(int64_t(1), int64_t(4096)))
      ->capture_default_str();
  auto* const without = app.add_flag("!--no-superpixels", options.superpixels, "train without the superpixel loss");
  app.add_option("--superpixel-scale", options.superpixel_scale,
                 "of the superpixels: larger gives larger ones (default: 224)")
      ->check(examples::in_range(0.01, 1e6));
  app.add_option("--superpixel-sigma", options.superpixel_sigma,
                 "of the Gaussian before the superpixels, in pixels (default: 0.9)")
      ->check(examples::in_range(0, 100));
  app.add_option("--superpixel-min-size", options.superpixel_min_size,
                 "pixels of the smallest superpixel (default: 224)")
      ->check(CLI::Range(1, 1 << 30));
  app.add_option("--stored-superpixels", options.stored_superpixels,
                 "folder that the program superpixels made for --data; scale, sigma and least size are those of it")
      ->excludes(without);
  app.add_flag("--superpixel-majority", options.majority,
               "a patch belongs to the superpixel of most of its pixels, not to the one with the mean number");
  app.add_option("--text-length", options.text_length, "tokens of a caption in training, at most")
      ->check(CLI::Range(int64_t(3), int64_t(65536)))
      ->capture_default_str();
  app.add_flag("--captions-only", options.captions_only, "no prompts for the nouns of a caption, as published");
  app.add_option("--paper", options.paper,
                 "follow the paper where the released code does otherwise: keys, assignment, aggregation, "
                 "reconstruction, superpixels, embeddings, or all (docs/systems/segclip.md)")
      ->delimiter(',')
      ->check(
          CLI::IsMember({"keys", "assignment", "aggregation", "reconstruction", "superpixels", "embeddings", "all"}));
  examples::add_threads(app, options.threads);
  return examples::run_program(app, argc, argv, "train_segclip", [&] {
    for (const char* option : {"--tokenizer", "--activation"})
      require(!options.init.empty() || app.count(option) == 0, option, " belongs to training with --init");
    examples::Devices<examples::SegclipTrainingOptions>::run(options.device, options);
  });
}
#endif
