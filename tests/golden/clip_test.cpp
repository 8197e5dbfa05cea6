// CLIP and MaskCLIP's value path against transformers: hidden states, embeddings, loss, every parameter's gradient.
#include <tessera/systems/maskclip.hpp>

#include <unistd.h>

#include <map>

#include "support/catch.hpp"
#include "support/golden.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

// The rule of the reference: 1e-4 of the tensor's largest magnitude, and a floor for tensors that are rounding noise.
void check_close(const std::string& name, const std::vector<float>& ours, const std::vector<float>& reference,
                 double floor = 0) {
  REQUIRE(ours.size() == reference.size());
  double magnitude = 0, worst = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    magnitude = std::max(magnitude, std::abs(double(reference[i])));
    const double difference = std::abs(double(ours[i]) - double(reference[i]));
    if (!(difference <= worst)) worst = difference;
  }
  INFO(name << ": largest difference " << worst << ", largest magnitude " << magnitude);
  CHECK(worst <= 1e-4 * magnitude + floor);
}

// A module of one parameter.
template <class P>
struct Alone {
  std::string name;
  P parameter;
  void members(auto&& visit) { visit(name, parameter); }
};

}  // namespace

TEST_CASE("golden clip: forward, loss, gradients and the value path agree with transformers", "[golden][clip]") {
  for (const auto& folder : find_models("clip")) {
    INFO(folder.string());
    const auto expected = io::TensorSource::open(folder / "expected.safetensors");
    const auto values = [&](const std::string& name) { return expected.read_vector<float>(name); };
    Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
    auto clip = systems::load_clip<float>(ctx, folder).model;
    Tape<Cpu> tape(ctx);
    const Variable<float, 4> images(expected.read<float, 4>(ctx, "pixel_values"));
    const auto ids = expected.read<int32_t, 2>(ctx, "input_ids");

    std::vector<Variable<float, 3>> hidden;
    const auto image_embeddings = l2_normalise(tape, clip.visual(tape, images, &hidden));
    for (size_t i = 0; i < hidden.size(); ++i)
      check_close(sentence("vision_hidden.", i), to_host(view(hidden[i].value())),
                  values(sentence("vision_hidden.", i)));
    hidden.clear();
    const auto text_embeddings = l2_normalise(tape, clip.text(tape, ids, &hidden));
    for (size_t i = 0; i < hidden.size(); ++i)
      check_close(sentence("text_hidden.", i), to_host(view(hidden[i].value())), values(sentence("text_hidden.", i)));
    check_close("image_embeds", to_host(view(image_embeddings.value())), values("image_embeds"));
    check_close("text_embeds", to_host(view(text_embeddings.value())), values("text_embeds"));
    const auto logits =
        scale(ctx, view(matmul(ctx, image_embeddings.value(), text_embeddings.value(), {}, {.transpose_b = true})),
              std::exp(double(clip.logit_scale.value().data[0])));
    check_close("logits_per_image", to_host(view(logits)), values("logits_per_image"));

    const auto loss = contrastive(tape, image_embeddings, text_embeddings, clip.logit_scale);
    check_close("loss", to_host(view(loss.value())), values("loss"));
    tape.backward(loss);
    double largest = 0;
    std::map<std::string, std::vector<float>> gradients;
    for (const auto& name : expected.names())
      if (name.starts_with("grad.")) {
        gradients[name] = values(name);
        for (float g : gradients[name]) largest = std::max(largest, double(std::abs(g)));
      }
    size_t compared = 0;
    nn::for_each_parameter(clip, [&]<class P>(const std::string& name, P& parameter) {
      REQUIRE(parameter.grad());
      // the gradient under the stored names: as if it were the parameter
      Alone<P> one{name, P(parameter.grad(), false)};
      for (const auto& [stored, tensor] : systems::stored_parameters(one, systems::huggingface_names)) {
        const auto found = gradients.find("grad." + stored);
        REQUIRE(found != gradients.end());
        check_close("grad." + stored, io::to_vector<float>(tensor, stored), found->second, 1e-6 * largest);
        ++compared;
      }
    });
    CHECK(compared == gradients.size());

    Tape<Cpu> quiet(ctx, false);
    const auto patches = systems::maskclip_patch_embeddings(quiet, clip, images, systems::MaskclipForm::value);
    check_close("maskclip_patch_embeds", to_host(view(patches.value())), values("maskclip_patch_embeds"));
    if (!expected.contains("resized.pixel_values")) continue;
    // another size than the position table was made for, not square
    const Variable<float, 4> other(expected.read<float, 4>(ctx, "resized.pixel_values"));
    REQUIRE(other.shape()[2] != clip.visual.config.image_size);
    const auto resized = l2_normalise(quiet, clip.visual(quiet, other));
    check_close("resized.image_embeds", to_host(view(resized.value())), values("resized.image_embeds"));
  }
}

TEST_CASE("golden clip: a saved copy loads to the same bits", "[golden][clip]") {
  for (const auto& folder : find_models("clip")) {
    Context<Cpu> ctx;
    auto loaded = systems::load_clip<float>(ctx, folder);
    const auto copy_folder = std::filesystem::temp_directory_path() / sentence("tessera_clip_test_", ::getpid());
    systems::save_clip(loaded.model, loaded.statistics, copy_folder);
    auto copy = systems::load_clip<float>(ctx, copy_folder);
    std::map<std::string, std::vector<float>> before;
    nn::for_each_parameter(loaded.model,
                           [&](const std::string& name, auto& p) { before[name] = to_host(view(p.value())); });
    nn::for_each_parameter(copy.model, [&](const std::string& name, auto& p) {
      INFO(name);
      CHECK(before.at(name) == to_host(view(p.value())));
    });
    CHECK(copy.model.text.config.end_of_text == loaded.model.text.config.end_of_text);
    std::filesystem::remove_all(copy_folder);
  }
}
