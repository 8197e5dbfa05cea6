// Whole training steps, from images and token ids to updated parameters: PACL as the demo trains it (pictures of 64x64,
// batch 32, examples/train_pacl.cpp), and SegCLIP at the demo's size and at ViT-B/16 (examples/train_segclip.cpp).
#include <tessera/autograd/embedding.hpp>
#include <tessera/optim/adamw.hpp>
#include <tessera/optim/gradient_clipping.hpp>
#include <tessera/systems/pacl.hpp>
#include <tessera/systems/segclip.hpp>

#include "parameters.hpp"

namespace bench {
namespace {

constexpr int64_t batch = 32, vocabulary = 300, texts = 130;

systems::PaclConfig demo_config() {
  const nn::TransformerConfig tower{.width = 128, .layers = 3, .heads = 4, .activation = Activation::gelu};
  systems::PaclConfig config;
  config.vision = {.image_size = 64,
                   .patch_size = 8,
                   .transformer = tower,
                   .embed_dim = 128,
                   .class_token = false,
                   .pre_norm = false};
  config.text = {.vocabulary_size = vocabulary,
                 .context_length = 32,
                 .transformer = tower,
                 .embed_dim = 128,
                 .end_of_text = vocabulary - 1};
  config.text.transformer.layers = 2;
  config.attention_scale = 5;
  config.initial_logit_scale = std::log(20.0);
  return config;
}

/// Texts of `length` tokens that end with the end-of-text token, the vocabulary's last.
Tensor<int32_t, 2> text_ids(Row& row, const std::string& name, int64_t count, int64_t length,
                            int64_t tokens = vocabulary) {
  const auto ids = row.numbers(name, Shape<2>{count, length}, uint32_t(tokens - 1));
  for (int64_t i = 0; i < count; ++i) ids(i, length - 1) = int32_t(tokens - 1);
  return ids;
}

/// Texts for batches of `batch` pictures: 32 captions and 48 prompts, of which each picture has about four.
struct NounTexts {
  Tensor<int32_t, 2> captions, prompts;
  Tensor<int32_t, 1> rows, owner;
  Tensor<uint8_t, 2> excluded;
};
NounTexts noun_texts(Row& row) {
  NounTexts result;
  result.captions = text_ids(row, "captions", 32, 20);
  result.prompts = text_ids(row, "prompts", 48, 8);
  result.rows = row.numbers("rows", Shape<1>{texts}, 80);
  std::vector<int32_t> images_of_texts(static_cast<size_t>(texts));
  for (size_t k = 0; k < images_of_texts.size(); ++k) images_of_texts[k] = int32_t(k % size_t(batch));
  result.owner = Tensor<int32_t, 1>::from_host(row.ctx, {texts}, images_of_texts);
  row.add_input("owner", result.owner);
  result.excluded = Tensor<uint8_t, 2>::zeros(row.ctx, {batch, texts});
  row.add_input("excluded", result.excluded);
  return result;
}

/// Which norms of the first step's gradients a peer must agree with.
enum class Norms { total, total_and_each };

/// A model with its optimiser; the model's weights are inputs of the row, the norms outputs.
template <class Model>
struct Step {
  Model model;
  optim::ParameterList parameters;
  optim::AdamW optimizer;
  std::vector<std::pair<optim::ParameterList, Tensor<double, 0>>> norms;
  int64_t updates = 0;

  Step(Row& row, Model initial, double learning_rate, Norms compared) : model(std::move(initial)) {
    for (io::NamedTensor& named : systems::stored_parameters(model, systems::own_names))
      row.inputs.push_back({"model." + named.name, named.tensor});
    nn::for_each_parameter(model, [&](const std::string& name, auto& p) {
      if (!p.requires_grad()) return;
      parameters.add(name, p);
      if (compared == Norms::total) return;
      norms.emplace_back(optim::ParameterList(), row.output<double>("gradient_norm." + name, Shape<0>{}));
      norms.back().first.add(name, p);
    });
    norms.emplace_back(parameters, row.output<double>("gradient_norm", Shape<0>{}));
    optimizer.add_group(parameters, {learning_rate, 0.9, 0.98, 1e-6, 0.05});
  }
  /// Gradients of `loss`, and the step that they lead to.
  void update(Tape<Cpu>& tape, const Variable<float, 0>& loss) {
    tape.backward(loss);
    if (updates++ == 0)
      for (const auto& [of, value] : norms) *value.data = optim::gradient_norm(of);
    const double norm = optim::gradient_norm(parameters);
    optimizer.step({.gradient_scale = optim::clip_factor(norm, 1.0)});
    optimizer.clear_gradients();
  }
};

void prepare_pacl(Row& row) {
  const auto step = std::make_shared<Step<systems::Pacl<float>>>(row, systems::make_pacl<float>(row.ctx, demo_config()),
                                                                 1e-3, Norms::total);

  const Variable<float, 4> images(row.input<float>("images", Shape<4>{batch, 3, 64, 64}));
  const NounTexts given = noun_texts(row);

  const auto loss_value = row.output<float>("loss", Shape<0>{});
  row.work = [=, &row] {
    const auto& model = step->model;
    Tape<Cpu> tape(row.ctx);
    const auto patches = model.patch_embeddings(tape, images);
    const auto distinct =
        concatenate(tape, 0, model.text_embeddings(tape, given.captions), model.text_embeddings(tape, given.prompts));
    const auto phi = model.compatibility(tape, patches, embedding(tape, distinct, given.rows));
    const auto loss = multi_text_contrastive(tape, phi, given.owner, given.excluded, model.logit_scale);
    *loss_value.data = *loss.value().data;
    step->update(tape, loss);
  };
}

// ---- SegCLIP --------------------------------------------------------------------------------------------------------

/// As the demo trains it from scratch: every parameter learns, each picture has its caption and its nouns' prompts.
systems::SegclipConfig segclip_demo_config() {
  const systems::PaclConfig towers = demo_config();
  systems::SegclipConfig config;
  config.vision = towers.vision;
  config.vision.pre_norm = true;
  config.text = towers.text;
  config.group_layer = 3;
  config.decoder_width = 64;
  config.decoder_heads = 4;
  return config;
}

/// The contrastive loss of a step's image embeddings.
using TextLoss =
    std::function<Variable<float, 0>(Tape<Cpu>&, const systems::Segclip<float>&, const Variable<float, 2>&)>;

/// All three losses, with superpixels, noise and masking given. The published recipe leaves embeddings and the patch
/// convolution as they are (`frozen`).
void prepare_segclip(Row& row, const systems::SegclipConfig& config, nn::Initialisation initialisation, int64_t items,
                     bool frozen, double learning_rate, const TextLoss& text_loss) {
  auto model = systems::make_segclip<float>(row.ctx, config, initialisation);
  fill_parameters(model);
  *model.logit_scale.state().value.data = std::log(20.0f);
  nn::for_each_parameter(model, [&](const std::string& name, auto& p) {
    p.state().requires_grad = !frozen || systems::segclip_pace(name) != systems::SegclipPace::frozen;
  });
  using ModelStep = Step<systems::Segclip<float>>;
  const auto step = std::make_shared<ModelStep>(row, std::move(model), learning_rate, Norms::total_and_each);

  const int64_t side = config.vision.image_size, patches = config.vision.grid() * config.vision.grid();
  const int64_t groups = config.group.centres, visible = nn::visible_patches(patches, config.mask_ratio);
  const Variable<float, 4> images(row.input<float>("images", Shape<4>{items, 3, side, side}));
  const auto gumbel = row.input<float>("gumbel", Shape<3>{items, patches, groups});
  const auto gumbel_of_visible = row.input<float>("gumbel_of_visible", Shape<3>{items, visible, groups});
  const auto superpixels = row.numbers("superpixels", Shape<2>{items, patches}, 12);
  const auto masking = nn::draw_masking(row.ctx, items, patches, config.mask_ratio, row.ctx.random.draw());
  row.add_input("visible", masking.visible);
  row.add_input("restore", masking.restore);
  row.add_input("removed", masking.removed);

  const auto contrastive_value = row.output<float>("contrastive", Shape<0>{});
  const auto superpixel_value = row.output<float>("superpixel", Shape<0>{});
  const auto reconstruction_value = row.output<float>("reconstruction", Shape<0>{});
  row.work = [=, &row] {
    const auto& segclip = step->model;
    Tape<Cpu> tape(row.ctx);
    const auto tokens = segclip.visual.embed_patches(tape, images);
    const auto features = segclip.visual.features(tape, tokens, {.gumbel = gumbel});
    const auto contrastive = text_loss(tape, segclip, l2_normalise(tape, features.image));
    const auto superpixel = segclip.superpixel_loss(tape, features.assignment, superpixels);
    const auto reconstruction =
        segclip.reconstruction_loss(tape, tokens, images, masking, {.gumbel = gumbel_of_visible});
    *contrastive_value.data = *contrastive.value().data;
    *superpixel_value.data = *superpixel.value().data;
    *reconstruction_value.data = *reconstruction.value().data;
    step->update(tape, add(tape, add(tape, contrastive, superpixel), reconstruction));
  };
}

void prepare_segclip_demo(Row& row) {
  const NounTexts given = noun_texts(row);
  const auto encode = [](Tape<Cpu>& tape, const systems::Segclip<float>& model, const Tensor<int32_t, 2>& ids) {
    return l2_normalise(tape, model.encode_text(tape, ids));
  };
  prepare_segclip(row, segclip_demo_config(), nn::Initialisation::xavier, batch, false, 1e-3,
                  [=](Tape<Cpu>& tape, const auto& model, const Variable<float, 2>& embeddings) {
                    const auto distinct =
                        concatenate(tape, 0, encode(tape, model, given.captions), encode(tape, model, given.prompts));
                    const auto each = embedding(tape, distinct, given.rows);
                    const auto cosines = matmul(tape, embeddings, each, {}, {.transpose_b = true});
                    return multi_text_contrastive(tape, cosines, given.owner, given.excluded, model.logit_scale);
                  });
}

/// The published sizes, a caption of 32 tokens for each picture.
void prepare_segclip_b16(Row& row) {
  constexpr int64_t items = 4;
  const systems::SegclipConfig config;
  const auto ids = text_ids(row, "captions", items, 32, config.text.vocabulary_size);
  prepare_segclip(row, config, nn::Initialisation::none, items, true, 1e-5,
                  [=](Tape<Cpu>& tape, const auto& model, const Variable<float, 2>& embeddings) {
                    OneRank<Cpu> alone;
                    const auto texts_of_images = l2_normalise(tape, model.encode_text(tape, ids));
                    return gathered_contrastive(tape, alone, embeddings, texts_of_images, model.logit_scale);
                  });
}

}  // namespace

void add_training_rows() {
  add_row(row_name<float>("pacl_demo", "training_step", "b32"), prepare_pacl);
  add_row(row_name<float>("segclip_demo", "training_step", "b32"), prepare_segclip_demo);
  add_row(row_name<float>("segclip_vit_b16", "training_step", "b4"), prepare_segclip_b16);
}

}  // namespace bench
