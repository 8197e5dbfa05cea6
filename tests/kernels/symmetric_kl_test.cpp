// The symmetric Kullback-Leibler divergence: the kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/symmetric_kl.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEMPLATE_TEST_CASE("symmetric_kl: kernels agree with Cpu", "[kernels]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 3e-6 : 5e-3;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& [rows, classes] : {std::pair{1, 2}, {63, 8}, {9, 65}, {5, 128}, {3, 197}, {3, 2056}, {2, 2051}}) {
    INFO(rows << "x" << classes);
    const Shape<2> shape{rows, classes};
    const SymmetricKlOptions options{.per_row = rows % 2 == 0};
    auto p = random_tensor<T>(ctx, shape, 1, 2.0), q = random_tensor<T>(ctx, shape, 2, 2.0);
    if (classes > 2) p.data[1] = q.data[1] = narrow<T>(-std::numeric_limits<float>::infinity());  // masked
    const auto d_loss = random_tensor<float>(ctx, Shape<0>{}, 3);
    const auto p_s = on_device(device, p), q_s = on_device(device, q);
    const auto d_loss_s = on_device(device, d_loss);
    Tensor<float, 0> loss(ctx, {});
    Tensor<float, 2> statistics(ctx, {rows, 4});
    Tensor<T, 2> d_p(ctx, shape), d_q(ctx, shape);
    Tensor<float, 0, Device> loss_s(device, {});
    Tensor<float, 2, Device> statistics_s(device, {rows, 4});
    Tensor<T, 2, Device> d_p_s(device, shape), d_q_s(device, shape), alone(device, shape);
    symmetric_kl_forward(ctx, loss, statistics, view(p), q, options);
    symmetric_kl_backward(ctx, view(d_p), d_q, d_loss, statistics, p, q, options);
    symmetric_kl_forward(device, loss_s, statistics_s, view(p_s), q_s, options);
    symmetric_kl_backward(device, view(d_p_s), d_q_s, d_loss_s, statistics_s, p_s, q_s, options);
    CHECK(largest_difference(to_host(loss_s), to_host(loss)) < 1e-6);
    CHECK(largest_difference(to_host(statistics_s), to_host(statistics)) < 4e-6);
    CHECK(largest_difference(to_host(d_p_s), to_host(d_p)) < tolerance);
    CHECK(largest_difference(to_host(d_q_s), to_host(d_q)) < tolerance);

    // Parts of the result alone are the same; gradients may replace the logits.
    CHECK(to_host(symmetric_kl(device, view(p_s), q_s, options)) == to_host(loss_s));
    symmetric_kl_backward(device, TensorView<T, 2, Device>{}, alone, d_loss_s, statistics_s, p_s, q_s, options);
    CHECK(largest_difference(to_host(alone), to_host(d_q_s)) == 0);
    symmetric_kl_backward(device, view(p_s), q_s, d_loss_s, statistics_s, p_s, q_s, options);
    CHECK(largest_difference(to_host(p_s), to_host(d_p_s)) == 0);
    CHECK(largest_difference(to_host(q_s), to_host(d_q_s)) == 0);
  }
}

TEST_CASE("symmetric_kl: no rows, views that are not aligned, equal bits in all orders", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  // more rows than one sweep of the grid takes; statistics without a loss
  const auto many = random_tensor<float, 2>(ctx, {8200, 2}, 2), others = random_tensor<float, 2>(ctx, {8200, 2}, 3);
  const auto many_s = on_device(device, many), others_s = on_device(device, others);
  CHECK(largest_difference(to_host(symmetric_kl(device, many_s, others_s)),
                           to_host(symmetric_kl(ctx, view(many), others))) < 1e-6);
  Tensor<float, 2> statistics(ctx, {8200, 4});
  Tensor<float, 2, Device> statistics_s(device, {8200, 4});
  symmetric_kl_forward(ctx, {}, statistics, view(many), others);
  symmetric_kl_forward(device, {}, statistics_s, view(many_s), others_s);
  CHECK(largest_difference(to_host(statistics_s), to_host(statistics)) < 4e-6);
  const Tensor<float, 2, Device> none(device, {0, 8});
  CHECK(to_host(symmetric_kl(device, none, none)) == std::vector<float>{0});

  const auto values = random_tensor<float, 1>(ctx, {337}, 1);
  const auto values_s = on_device(device, values);
  const TensorView<float, 2> p(values.data + 1, {21, 8}), q(values.data + 169, {21, 8});
  const TensorView<float, 2, Device> p_s(values_s.data + 1, {21, 8}), q_s(values_s.data + 169, {21, 8});
  const auto expected = to_host(symmetric_kl(ctx, p, q));
  std::vector<float> first;
  for (const auto order : all_orders) {
    const InOrder in_order(order, 3);
    const auto loss = to_host(symmetric_kl(device, p_s, q_s));
    CHECK(largest_difference(loss, expected) < 1e-6);
    if (first.empty()) first = loss;
    CHECK(loss == first);
  }
}
