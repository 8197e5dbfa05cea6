// The dense forms of one tiny CLIP image tower against their reference: tokens, and gradients of image and parameters.
#include <tessera/systems/maskclip.hpp>

#include "support/catch.hpp"
#include "support/golden.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

nn::VisionTransformer<float> read_tower(Context<Cpu>& ctx, const Case& which) {
  const auto config = which.config();
  nn::VisionConfig vision;
  vision.patch_size = config.get<int64_t>("patch");
  vision.image_size = config.get<int64_t>("stored_grid") * vision.patch_size;
  vision.embed_dim = config.get<int64_t>("E");
  vision.transformer = {.width = config.get<int64_t>("D"),
                        .layers = config.get<int64_t>("layers"),
                        .heads = config.get<int64_t>("heads"),
                        .activation = Activation::quick_gelu,
                        .epsilon = config.get<double>("ln_eps")};
  auto tower = nn::make_vision_transformer<float>(ctx, vision, nn::Initialisation::clip);
  const systems::ParameterNaming naming = [](const std::string& name, const std::vector<int64_t>& shape) {
    return systems::own_names("param." + name, shape);
  };
  systems::load_module(tower, which.tensors, naming, {.allow_unknown = true});
  return tower;
}

}  // namespace

TEST_CASE("golden maskclip_dense: identity attention and the plain block, forward and gradients",
          "[golden][maskclip]") {
  for (const Case& which : find_cases("maskclip_dense")) {
    Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
    for (const auto& [variant, mode] :
         {std::pair{std::string("tcl"), nn::DenseMode::identity_attention}, {"plain", nn::DenseMode::unchanged}}) {
      if (!which.has_variant(variant)) continue;
      INFO(which.name() << " " << variant);
      auto tower = read_tower(ctx, which);
      Tape<Cpu> tape(ctx);
      const Variable<float, 4> image(which.read<float, 4>(ctx, "input.image"), true);
      const auto last = tower.last_block(tape, tower.before_last_block(tape, image), mode);
      compare(which, "mid." + variant + ".block" + std::to_string(tower.config.transformer.layers - 1),
              view(last.value()));
      // all tokens through ln_post and proj, the class token too
      const auto tokens = matmul(tape, tower.ln_post(tape, last), tower.proj);
      compare(which, "out." + variant + ".tokens", view(tokens.value()));
      tape.backward(tokens, which.read<float, 3>(ctx, "input.dout"));
      compare(which, "grad." + variant + ".input.image", view(image.grad()));
      int64_t compared = 0;
      nn::for_each_parameter(tower, [&](const std::string& name, auto& parameter) {
        const std::string gradient = "grad." + variant + ".param." + name;
        if (!which.has(gradient)) return;
        INFO(gradient);
        // Identity attention leaves the query's and key's rows of the last projection without gradient: the reference
        // holds rounding noise there, ours exact zeros or none.
        if (parameter.grad()) {
          compare(which, gradient, view(parameter.grad()));
        } else {
          for (float value : which.values<float>(gradient)) CHECK(std::abs(value) < 1e-4f);
        }
        ++compared;
      });
      CHECK(compared == which.description()["variants"][variant].get<int64_t>("n_params"));
    }
  }
}

TEST_CASE("golden maskclip_dense: the position table resized to the picture's grid, and its gradient",
          "[golden][maskclip]") {
  for (const Case& which : find_cases("maskclip_dense")) {
    if (!which.has_variant("pos_embed")) continue;
    Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
    const auto config = which.config();
    const int64_t stored = config.get<int64_t>("stored_grid"), patch = config.get<int64_t>("patch");
    const auto image = which.shape("input.image");
    const Variable<float, 2> table(which.read<float, 2>(ctx, "param.positional_embedding"), true);
    Tape<Cpu> tape(ctx);
    const auto resized = resize_positional_embedding(
        tape, table,
        {.stored_height = stored, .stored_width = stored, .height = image[2] / patch, .width = image[3] / patch});
    compare(which, "out.pos_embed.resized", view(resized.value()));
    tape.backward(resized, which.read<float, 2>(ctx, "input.dpos"));
    compare(which, "grad.pos_embed.param.positional_embedding", view(table.grad()));
  }
}
