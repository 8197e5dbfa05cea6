// Tokens assembled by kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/tokens.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEMPLATE_TEST_CASE("tokens: with and without a class token, forward and backward", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& [items, patches_of_item, channels] :
       {std::tuple{1, 1, 1}, {3, 4, 63}, {2, 9, 64}, {5, 1, 65}, {2, 16, 127}, {3, 49, 8}, {0, 4, 8}})
    for (const bool has_class : {false, true}) {
      INFO(items << " x " << patches_of_item << " x " << channels << (has_class ? " with a class token" : ""));
      const int64_t count = patches_of_item + (has_class ? 1 : 0);
      auto patches = random_tensor<T>(ctx, Shape<3>{items, patches_of_item, channels}, 1);
      auto positions = random_tensor<T>(ctx, Shape<2>{count, channels}, 2);
      auto class_token = random_tensor<T>(ctx, Shape<1>{channels}, 3);
      const auto patches_s = on_device(device, patches);
      const auto positions_s = on_device(device, positions);
      const auto class_token_s = on_device(device, class_token);
      const auto tokens = assemble_tokens(ctx, has_class ? class_token : Tensor<T, 1>{}, patches, positions);
      const auto tokens_s =
          assemble_tokens(device, has_class ? class_token_s : Tensor<T, 1, Device>{}, patches_s, positions_s);
      CHECK(largest_difference(to_host(tokens_s), to_host(tokens)) == 0);

      auto d_tokens = random_tensor<T>(ctx, tokens.shape, 4);
      const auto d_tokens_s = on_device(device, d_tokens);
      Tensor<T, 3> d_patches(ctx, patches.shape);
      Tensor<float, 1> d_class(ctx, {channels});
      Tensor<float, 2> d_positions(ctx, positions.shape);
      Tensor<T, 3, Device> d_patches_s(device, patches.shape);
      Tensor<float, 1, Device> d_class_s(device, {channels});
      Tensor<float, 2, Device> d_positions_s(device, positions.shape);
      Tensor<T, 2, Device> narrow_s(device, positions.shape);
      assemble_tokens_backward(ctx, view(d_patches), has_class ? d_class : Tensor<float, 1>{}, view(d_positions),
                               d_tokens, has_class);
      assemble_tokens_backward(device, view(d_patches_s), has_class ? d_class_s : Tensor<float, 1, Device>{},
                               view(d_positions_s), d_tokens_s, has_class);
      CHECK(largest_difference(to_host(d_patches_s), to_host(d_patches)) == 0);
      CHECK(largest_difference(to_host(d_positions_s), to_host(d_positions)) < 1e-6);
      if (has_class) CHECK(largest_difference(to_host(d_class_s), to_host(d_class)) < 1e-6);
      assemble_tokens_backward(device, TensorView<T, 3, Device>{}, {}, view(narrow_s), d_tokens_s, has_class);
      CHECK(largest_difference(to_host(narrow_s), to_host(d_positions)) < (std::is_same_v<T, float> ? 1e-6 : 4e-3));
    }
}
