// The demo's training step: PACL from captions on pictures of 64x64, batch 32 (examples/train_pacl.cpp), from images
// and token ids to updated parameters.
#include <tessera/autograd/embedding.hpp>
#include <tessera/optim/adamw.hpp>
#include <tessera/optim/gradient_clipping.hpp>
#include <tessera/systems/pacl.hpp>

#include "row.hpp"

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

/// Texts of `length` tokens that end with the end-of-text token.
Tensor<int32_t, 2> text_ids(Row& row, const std::string& name, int64_t count, int64_t length) {
  const auto ids = row.numbers(name, Shape<2>{count, length}, uint32_t(vocabulary - 1));
  for (int64_t i = 0; i < count; ++i) ids(i, length - 1) = int32_t(vocabulary - 1);
  return ids;
}

struct Step {
  systems::Pacl<float> model;
  optim::ParameterList parameters;
  optim::AdamW optimizer;
  double norm = 0;
};

void prepare_step(Row& row) {
  const auto step = std::make_shared<Step>();
  step->model = systems::make_pacl<float>(row.ctx, demo_config());
  for (io::NamedTensor& named : systems::stored_parameters(step->model, systems::own_names))
    row.inputs.push_back({"model." + named.name, named.tensor});
  nn::for_each_parameter(step->model, [&](const std::string& name, auto& p) { step->parameters.add(name, p); });
  step->optimizer.add_group(step->parameters, {1e-3, 0.9, 0.98, 1e-6, 0.05});

  const Variable<float, 4> images(row.input<float>("images", Shape<4>{batch, 3, 64, 64}));
  const auto captions = text_ids(row, "captions", 32, 20), prompts = text_ids(row, "prompts", 48, 8);
  const auto rows = row.numbers("rows", Shape<1>{texts}, 80);
  std::vector<int32_t> images_of_texts(static_cast<size_t>(texts));
  for (size_t k = 0; k < images_of_texts.size(); ++k) images_of_texts[k] = int32_t(k % size_t(batch));
  const auto owner = Tensor<int32_t, 1>::from_host(row.ctx, {texts}, images_of_texts);
  row.add_input("owner", owner);
  const auto excluded = Tensor<uint8_t, 2>::zeros(row.ctx, {batch, texts});
  row.add_input("excluded", excluded);

  const auto loss_value = row.output<float>("loss", Shape<0>{});
  const auto norm = row.output<double>("gradient_norm", Shape<0>{});
  row.work = [=, &row] {
    const auto& model = step->model;
    Tape<Cpu> tape(row.ctx);
    const auto patches = model.patch_embeddings(tape, images);
    const auto distinct =
        concatenate(tape, 0, model.text_embeddings(tape, captions), model.text_embeddings(tape, prompts));
    const auto phi = model.compatibility(tape, patches, embedding(tape, distinct, rows));
    const auto loss = multi_text_contrastive(tape, phi, owner, excluded, model.logit_scale);
    *loss_value.data = *loss.value().data;
    tape.backward(loss);
    *norm.data = optim::gradient_norm(step->parameters);
    step->optimizer.step({.gradient_scale = optim::clip_factor(*norm.data, 1.0)});
    step->optimizer.clear_gradients();
  };
}

}  // namespace

void add_training_rows() { add_row(row_name<float>("pacl_demo", "training_step", "b32"), prepare_step); }

}  // namespace bench
