// CLIP: names and sizes of the published models, the loss as a composition, probabilities, bfloat16.
#include <tessera/systems/clip.hpp>

#include <support/modules.hpp>
#include <tessera/optim/adamw.hpp>

using namespace tessera;
using namespace tessera::systems;
using namespace tessera_test;

namespace {

ClipConfig tiny() {
  ClipConfig config;
  config.vision = {
      .image_size = 8, .patch_size = 4, .transformer = {.width = 8, .layers = 2, .heads = 2}, .embed_dim = 6};
  config.text = {.vocabulary_size = 13,
                 .context_length = 5,
                 .transformer = {.width = 6, .layers = 1, .heads = 3, .mlp_width = 10},
                 .embed_dim = 6};
  return config;
}
Tensor<int32_t, 2> texts(Context<Cpu>& ctx) {
  return Tensor<int32_t, 2>::from_host(ctx, {3, 5}, {11, 2, 12, 0, 0, 11, 3, 4, 12, 0, 11, 5, 6, 7, 12});
}

int64_t count(const ClipConfig& c) { return c.vision.parameter_count() + c.text.parameter_count() + 1; }
ClipConfig published(int64_t patch, int64_t vision_width, int64_t layers, int64_t text_width, int64_t embed) {
  ClipConfig config;
  config.vision.patch_size = patch;
  config.vision.transformer = {.width = vision_width, .layers = layers, .heads = vision_width / 64};
  config.text.transformer = {.width = text_width, .layers = 12, .heads = text_width / 64};
  config.vision.embed_dim = config.text.embed_dim = embed;
  return config;
}

}  // namespace

TEST_CASE("clip: parameters have OpenAI's names, in the order of its checkpoints' towers", "[systems]") {
  auto ctx = nan_filled_context();
  auto clip = make_clip<float>(ctx, tiny());
  std::vector<std::string> names{"positional_embedding", "text_projection", "token_embedding.weight"};
  const auto block = [&](const std::string& prefix) {
    for (const std::string name : {"ln_1.weight", "ln_1.bias", "attn.in_proj_weight", "attn.in_proj_bias",
                                   "attn.out_proj.weight", "attn.out_proj.bias", "ln_2.weight", "ln_2.bias",
                                   "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"})
      names.push_back(prefix + name);
  };
  block("transformer.resblocks.0.");
  names.insert(names.end(),
               {"ln_final.weight", "ln_final.bias", "visual.class_embedding", "visual.positional_embedding",
                "visual.proj", "visual.conv1.weight", "visual.ln_pre.weight", "visual.ln_pre.bias"});
  block("visual.transformer.resblocks.0.");
  block("visual.transformer.resblocks.1.");
  names.insert(names.end(), {"visual.ln_post.weight", "visual.ln_post.bias", "logit_scale"});
  CHECK(parameter_names(clip) == names);
}

TEST_CASE("clip: the published models' numbers of parameters", "[systems]") {
  // the defaults are ViT-B/16
  CHECK(count(ClipConfig{}) == 149'620'737);
  CHECK(count(published(16, 768, 12, 512, 512)) == 149'620'737);
  CHECK(count(published(32, 768, 12, 512, 512)) == 151'277'313);
  CHECK(count(published(14, 1024, 24, 768, 768)) == 427'616'513);
  // and what is counted here from shapes is what a model has
  auto ctx = nan_filled_context();
  for (ClipConfig config : {tiny(), published(16, 64, 2, 64, 32)}) {
    config.text.vocabulary_size = 100;
    auto clip = make_clip<bfloat16>(ctx, config);
    CHECK(nn::parameter_count(clip) == count(config));
  }
}

TEST_CASE("clip: the loss is half the cross-entropies of rows and of columns", "[systems]") {
  auto ctx = nan_filled_context();
  auto clip = make_clip<double>(ctx, tiny());
  randomise(clip);
  clip.logit_scale.state().value.data[0] = 1.5;
  const auto images = random_variable(ctx, Shape<4>{3, 3, 8, 8}, 1);
  Tape<Cpu> tape(ctx, false);
  const double loss = clip.loss(tape, images, texts(ctx)).value().data[0];
  const auto image = clip.encode_image(tape, images).value(), text = clip.encode_text(tape, texts(ctx)).value();
  double logits[3][3];
  for (int64_t i = 0; i < 3; ++i)
    for (int64_t j = 0; j < 3; ++j) {
      double dot = 0, ii = 0, jj = 0;
      for (int64_t e = 0; e < 6; ++e) {
        dot += image(i, e) * text(j, e);
        ii += image(i, e) * image(i, e);
        jj += text(j, e) * text(j, e);
      }
      logits[i][j] = std::exp(1.5) * dot / std::sqrt(ii * jj);
    }
  double expected = 0;
  for (int64_t i = 0; i < 3; ++i) {
    double row = 0, column = 0;
    for (int64_t j = 0; j < 3; ++j) {
      row += std::exp(logits[i][j]);
      column += std::exp(logits[j][i]);
    }
    expected += (std::log(row) + std::log(column) - 2 * logits[i][i]) / 6;
  }
  CHECK(loss == Approx(expected).epsilon(1e-12));
}

TEST_CASE("clip: gradients of the loss in every parameter", "[systems]") {
  auto ctx = nan_filled_context();
  auto clip = make_clip<double>(ctx, tiny());
  randomise(clip);
  const auto images = random_variable(ctx, Shape<4>{3, 3, 8, 8}, 1);
  check_gradients(ctx, clip, images, [&](auto& tape, const auto& x) { return clip.loss(tape, x, texts(ctx)); });
}

TEST_CASE("clip: the logit scale is clamped at one hundred and gets no gradient beyond", "[systems]") {
  auto ctx = nan_filled_context();
  auto clip = make_clip<float>(ctx, tiny());
  CHECK(clip.logit_scale.value().data[0] == Approx(std::log(1 / 0.07)));
  const Variable<float, 4> images(random_tensor<float>(ctx, Shape<4>{3, 3, 8, 8}, 1));
  const auto loss_at = [&](float scale) {
    clip.logit_scale.state().value.data[0] = scale;
    nn::clear_gradients(clip);
    Tape<Cpu> tape(ctx);
    const auto loss = clip.loss(tape, images, texts(ctx));
    tape.backward(loss);
    return loss.value().data[0];
  };
  const float clamped = loss_at(5), most = loss_at(float(std::log(100.0)));
  CHECK(clamped == Approx(most).epsilon(1e-6));
  loss_at(5);
  CHECK(clip.logit_scale.grad().data[0] == 0);
  loss_at(4);
  CHECK(clip.logit_scale.grad().data[0] != 0);
}

TEST_CASE("clip: class probabilities are the softmax of scaled cosines", "[systems]") {
  auto ctx = nan_filled_context();
  const auto images = l2_normalise(ctx, view(random_tensor<float>(ctx, Shape<2>{4, 6}, 1)));
  const auto classes = l2_normalise(ctx, view(random_tensor<float>(ctx, Shape<2>{5, 6}, 2)));
  const double scale = std::log(20.0);
  const auto probabilities = class_probabilities(ctx, view(images), classes, scale);
  REQUIRE(probabilities.shape == Shape<2>{4, 5});
  for (int64_t i = 0; i < 4; ++i) {
    double total = 0, sum = 0, first = 0;
    for (int64_t n = 0; n < 5; ++n) {
      double cosine = 0;
      for (int64_t e = 0; e < 6; ++e) cosine += double(images(i, e)) * double(classes(n, e));
      total += std::exp(20 * cosine);
      if (n == 0) first = std::exp(20 * cosine);
      sum += probabilities(i, n);
    }
    CHECK(sum == Approx(1).epsilon(1e-6));
    CHECK(probabilities(i, 0) == Approx(first / total).epsilon(1e-4));
  }
  // a scale beyond 100 counts as 100, as in the loss and in the programs
  const auto largest = to_host(view(class_probabilities(ctx, view(images), classes, std::log(100.0))));
  CHECK(to_host(view(class_probabilities(ctx, view(images), classes, 6))) == largest);
  CHECK(to_host(view(class_probabilities(ctx, view(images), classes, 4))) != largest);
}

TEST_CASE("clip: towers of different embeddings are refused", "[systems]") {
  Context<Cpu> ctx;
  auto config = tiny();
  config.text.embed_dim = 7;
  REQUIRE_ERROR(make_clip<float>(ctx, config), ValueError,
                "the image tower's embeddings have 6 channels, the text tower's 7");
}

TEST_CASE("clip: copies share parameters, and a copy keeps working when the original is gone", "[systems]") {
  auto ctx = nan_filled_context();
  auto original = std::make_unique<Clip<float>>(make_clip<float>(ctx, tiny()));
  const Clip<float> copy = *original;
  const Variable<float, 4> images(random_tensor<float>(ctx, Shape<4>{2, 3, 8, 8}, 1));
  Tape<Cpu> tape(ctx, false);
  const auto before = to_host(view(original->encode_image(tape, images).value()));
  original.reset();
  CHECK(to_host(view(copy.encode_image(tape, images).value())) == before);
  const Clip<float> moved = std::move(const_cast<Clip<float>&>(copy));
  CHECK(to_host(view(moved.encode_image(tape, images).value())) == before);
}

TEST_CASE("clip: bfloat16 is close to float, forward and backward", "[systems]") {
  auto ctx = nan_filled_context();
  auto exact = make_clip<float>(ctx, tiny());
  randomise(exact);
  auto rounded = make_clip<bfloat16>(ctx, tiny());
  // the same weights; those of `exact` rounded too, so that only the arithmetic differs
  std::map<std::string, float*> from;
  nn::for_each_parameter(exact, [&](const std::string& name, auto& p) { from[name] = p.state().value.data; });
  nn::for_each_parameter(rounded, [&]<class P>(const std::string& name, P& p) {
    for (int64_t i = 0; i < p.value().size(); ++i) {
      p.state().value.data[i] = narrow<typename P::value_type>(from.at(name)[i]);
      from.at(name)[i] = widen(p.value().data[i]);
    }
  });
  const auto picture = random_tensor<bfloat16>(ctx, Shape<4>{3, 3, 8, 8}, 1);
  Tensor<float, 4> wide(ctx, picture.shape);
  for (int64_t i = 0; i < wide.size(); ++i) wide.data[i] = widen(picture.data[i]);
  const auto run = [&](auto& clip, const auto& images) {
    Tape<Cpu> tape(ctx);
    const auto loss = clip.loss(tape, images, texts(ctx));
    tape.backward(loss);
    return double(loss.value().data[0]);
  };
  const double loss = run(exact, Variable<float, 4>(wide)), close = run(rounded, Variable<bfloat16, 4>(picture));
  CHECK(close == Approx(loss).epsilon(0.02));
  CHECK(close != loss);
  const auto reference = parameter_gradients(exact), ours = parameter_gradients(rounded);
  REQUIRE(ours.size() == reference.size());
  for (const auto& [name, values] : reference) {
    double dot = 0, a = 0, b = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      dot += double(values[i]) * ours.at(name)[i];
      a += double(values[i]) * values[i];
      b += double(ours.at(name)[i]) * ours.at(name)[i];
    }
    INFO(name << ": lengths " << std::sqrt(a) << " and " << std::sqrt(b));
    if (name == "logit_scale") {
      CHECK(std::abs(ours.at(name)[0] - values[0]) < 0.05);
      continue;
    }
    CHECK(dot / std::sqrt(a * b) > 0.99);  // the direction
    CHECK(std::sqrt(b / a) == Approx(1).epsilon(0.1));
  }
}

TEST_CASE("clip: training in bfloat16 with masters in float follows training in float", "[systems]") {
  const auto losses = []<class T>(T) {
    Context<Cpu> ctx({.seed = 5});
    auto clip = make_clip<T>(ctx, tiny());
    const Variable<T, 4> images(random_tensor<T>(ctx, Shape<4>{3, 3, 8, 8}, 1));
    optim::ParameterList list;
    nn::for_each_parameter(clip, [&](const std::string& name, auto& p) { list.add(name, p); });
    optim::AdamW optimizer;
    // small steps: most are below the last bit of a bfloat16 near 1, as norms' gains are, and of larger weights
    optimizer.add_group(list, {.learning_rate = 1e-3});
    std::vector<double> found;
    for (int step = 0; step < 150; ++step) {
      Tape<Cpu> tape(ctx);
      const auto loss = clip.loss(tape, images, texts(ctx));
      tape.backward(loss);
      optimizer.step_clipped(ctx, 1, 1);
      optimizer.clear_gradients();
      found.push_back(double(loss.value().data[0]));
    }
    return found;
  };
  const auto exact = losses(float{}), rounded = losses(bfloat16{});
  CHECK(exact.front() > 1);
  CHECK(exact.back() < 0.2);
  double largest = 0;
  for (size_t step = 0; step < exact.size(); ++step) largest = std::max(largest, std::abs(rounded[step] - exact[step]));
  CHECK(largest < 0.1);  // where the loss falls fastest
}
