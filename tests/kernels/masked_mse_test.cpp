// The masked mean squared error's kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/masked_mse.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEMPLATE_TEST_CASE("masked_mse: loss and gradients agree with Cpu", "[kernels]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 1e-6 : 4e-3;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const Shape<3>& shape : {Shape<3>{1, 1, 1}, {2, 5, 63}, {1, 8, 64}, {3, 7, 129}, {2, 65, 48}, {1, 3, 768}}) {
    INFO(to_string(shape));
    const auto prediction = random_tensor<T>(ctx, shape, 1), target = random_tensor<T>(ctx, shape, 2);
    Tensor<uint8_t, 2> mask(ctx, {shape[0], shape[1]});
    for (int64_t i = 0; i < mask.size(); ++i) mask.data[i] = i % 3 != 1 ? uint8_t(1 + i) : uint8_t(0);
    const auto prediction_s = on_device(device, prediction), target_s = on_device(device, target);
    const auto mask_s = on_device(device, mask);
    Tensor<float, 0> loss(ctx, {}), count(ctx, {});
    Tensor<float, 0, Device> loss_s(device, {}), count_s(device, {});
    masked_mse_forward(ctx, loss, count, view(prediction), target, mask);
    masked_mse_forward(device, loss_s, count_s, view(prediction_s), target_s, mask_s);
    CHECK(largest_difference(to_host(loss_s), to_host(loss)) < 3e-6);  // Cpu without vectors: 1.2e-6
    CHECK(to_host(count_s) == to_host(count));
    Tensor<T, 3> d_prediction(ctx, shape), d_target(ctx, shape);
    Tensor<T, 3, Device> d_prediction_s(device, shape), d_target_s(device, shape);
    masked_mse_backward(ctx, view(d_prediction), d_target, loss, count, prediction, target, mask);
    masked_mse_backward(device, view(d_prediction_s), d_target_s, on_device(device, loss), count_s, prediction_s,
                        target_s, mask_s);
    CHECK(largest_difference(to_host(d_prediction_s), to_host(d_prediction)) < tolerance);
    CHECK(largest_difference(to_host(d_target_s), to_host(d_target)) < tolerance);
    // one gradient alone, in place, in another order: the same bits
    const InOrder in_order(Order::random, uint64_t(shape[2]));
    CHECK(to_host(masked_mse(device, view(prediction_s), target_s, mask_s)) == to_host(loss_s));
    masked_mse_backward(device, view(prediction_s), {}, on_device(device, loss), count_s, prediction_s, target_s,
                        mask_s);
    CHECK(largest_difference(to_host(prediction_s), to_host(d_prediction_s)) == 0);
  }
}

TEST_CASE("masked_mse: no row that counts, no rows at all, misaligned rows, NaN where nothing counts", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const auto loss_of = [&](const auto& prediction, const auto& target, const auto& mask) {
    return to_host(masked_mse(device, prediction, target, mask))[0];
  };
  auto values = random_tensor<float>(ctx, Shape<1>{1 + 5 * 8}, 1);
  const auto target = random_tensor<float, 2>(ctx, {5, 8}, 2);
  auto mask = Tensor<uint8_t, 1>::zeros(ctx, {5});
  const auto target_s = on_device(device, target);
  const auto part = [](const auto& x) {
    return TensorView<float, 2, typename std::decay_t<decltype(x)>::device_type>(x.data + 1, {5, 8});
  };
  CHECK(loss_of(part(on_device(device, values)), target_s, on_device(device, mask)) == 0);
  mask(0) = mask(3) = 1;
  values(1 + 8) = std::nanf("");  // of row 1
  CHECK(loss_of(part(on_device(device, values)), target_s, on_device(device, mask)) ==
        Approx(*masked_mse(ctx, part(values), target, mask).data).epsilon(1e-6));
  // more rows than one sweep of the grid takes, and more parts than a block has threads
  const auto many = random_tensor<float, 2>(ctx, {8200, 3}, 3), others = random_tensor<float, 2>(ctx, {8200, 3}, 4);
  auto all = Tensor<uint8_t, 1>::zeros(ctx, {8200});
  std::fill_n(all.data, 8200, uint8_t(1));
  CHECK(loss_of(view(on_device(device, many)), on_device(device, others), on_device(device, all)) ==
        Approx(*masked_mse(ctx, view(many), others, all).data).epsilon(1e-6));
  const Tensor<float, 2, Device> none(device, {0, 8});
  CHECK(loss_of(view(none), none, Tensor<uint8_t, 1, Device>(device, {0})) == 0);
}
