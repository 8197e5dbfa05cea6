// Compatibility and its loss against PACL's reference: the variants that start from embedder outputs and texts.
#include <tessera/autograd/contrastive.hpp>
#include <tessera/autograd/pair_compatibility.hpp>

#include <numeric>

#include "support/golden.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

/// The switches as a variant's description names them: "… attn_temp=10 pool_normalized=True …".
PairCompatibilityOptions options_of(const std::string& description) {
  const std::string scale = "attn_temp=";
  return {.attention_scale = std::stod(description.substr(description.find(scale) + scale.size())),
          .pool_normalized = description.find("pool_normalized=True") != std::string::npos};
}

}  // namespace

TEST_CASE("golden pacl: compatibility and symmetric loss, forward and all gradients", "[golden][pair_compatibility]") {
  for (const Case& which : find_cases("pacl")) {
    int compared = 0;
    for (const auto& [variant, json] : which.description()["variants"].json().items()) {
      const auto view_of = which.description()["variants"][variant];
      const auto description = view_of.get<std::string>("desc");
      if (description.find("attn_temp=") == std::string::npos) continue;
      INFO(which.name() << " " << variant);
      const auto scale_name = view_of["inputs"][2].as<std::string>();  // above or below the clamp
      Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
      const Variable<float, 3> patches(which.read<float, 3>(ctx, "input.V"), true);
      const Variable<float, 2> texts(which.read<float, 2>(ctx, "input.t"), true);
      const Parameter<float, 0> logit_scale(which.read<float, 0>(ctx, scale_name), true);
      Tensor<int32_t, 1> owner(ctx, {texts.shape()[0]});
      std::iota(owner.data, owner.data + owner.size(), 0);

      Tape<Cpu> tape(ctx);
      const auto phi = pair_compatibility(tape, patches, texts, options_of(description));
      const auto loss = multi_text_contrastive(tape, phi, owner, {}, logit_scale);
      compare(which, "out." + variant + ".phi", view(phi.value()));
      compare(which, "out." + variant + ".loss", view(loss.value()));
      tape.backward(loss);
      compare(which, "grad." + variant + ".input.V", view(patches.grad()));
      compare(which, "grad." + variant + ".input.t", view(texts.grad()));
      compare(which, "grad." + variant + "." + scale_name, view(logit_scale.grad()));
      ++compared;
    }
    CHECK(compared > 0);
  }
}
