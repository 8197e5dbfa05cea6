// SegCLIP's losses against their reference.
#include <tessera/autograd/segment_reduce.hpp>
#include <tessera/autograd/symmetric_kl.hpp>

#include "support/catch.hpp"
#include "support/golden.hpp"

using namespace tessera;
using namespace tessera_test;

TEST_CASE("golden segclip_losses: the superpixel divergence of assignments and of their means", "[golden][segclip]") {
  for (const Case& which : find_cases("segclip_losses")) {
    for (const std::string variant : {"kl", "kl_onehot"}) {
      if (!which.has_variant(variant)) continue;
      INFO(which.name() << " " << variant);
      Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
      const std::string input = variant == "kl" ? "input.kl_H" : "input.kl_H_onehot";
      const auto assignments = which.read<float, 3>(ctx, input);  // [B, G, L]
      const auto labels = which.read<int32_t, 3>(ctx, "input.kl_labels");
      const int64_t items = labels.shape[0], patches = labels.shape[1] * labels.shape[2], groups = assignments.shape[1];
      const auto segments = labels.reshaped(Shape<2>{items, patches});
      const int64_t count = *std::max_element(segments.data, segments.data + segments.size()) + 1;

      Tensor<float, 3> transposed(ctx, {items, patches, groups});
      for (int64_t b = 0; b < items; ++b)
        for (int64_t n = 0; n < patches; ++n)
          for (int64_t g = 0; g < groups; ++g) transposed(b, n, g) = assignments(b, g, n);
      const Variable<float, 3> h(transposed, true);
      Tape<Cpu> tape(ctx);
      const auto means =
          segment_gather(tape, segment_reduce(tape, h, segments, count, SegmentReduction::mean), segments);
      compare(which, "mid." + variant + ".cluster_mean", view(means.value()));
      const auto loss = symmetric_kl(tape, h, means);
      compare(which, "out." + variant + ".loss", view(loss.value()));
      tape.backward(loss);
      Tensor<float, 3> gradient(ctx, assignments.shape);
      for (int64_t b = 0; b < items; ++b)
        for (int64_t n = 0; n < patches; ++n)
          for (int64_t g = 0; g < groups; ++g) gradient(b, g, n) = h.grad()(b, n, g);
      compare(which, "grad." + variant + "." + input, view(gradient));

      const Variable<float, 3> leaf(means.value(), true);  // the means' own gradient
      tape.backward(symmetric_kl(tape, h, leaf));
      compare(which, "grad." + variant + ".mid.cluster_mean", view(leaf.grad()));
    }
  }
}
