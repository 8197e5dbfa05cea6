// Cross-entropy's kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/cross_entropy.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

/// Class numbers with every fifth row ignored.
Tensor<int32_t, 1> class_numbers(Context<Cpu>& ctx, int64_t rows, int64_t classes) {
  Tensor<int32_t, 1> targets(ctx, {rows});
  for (int64_t r = 0; r < rows; ++r) targets.data[r] = r % 5 == 3 ? -100 : int32_t((r * 7919) % classes);
  return targets;
}

}  // namespace

TEMPLATE_TEST_CASE("cross_entropy: kernels agree with Cpu for class numbers", "[kernels]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 2e-6 : 5e-3;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& [rows, classes] :
       {std::pair{1, 1}, {63, 2}, {64, 63}, {65, 64}, {9, 65}, {129, 128}, {5, 197}, {3, 2500}, {2, 2048}, {2, 2056}})
    for (const double smoothing : {0.0, 0.1}) {
      const CrossEntropyOptions options{.label_smoothing = smoothing,
                                        .reduction = rows % 2 ? Reduction::mean : Reduction::sum};
      const Shape<2> shape{rows, classes};
      const auto logits = random_tensor<T>(ctx, shape, 1, 5.0);
      const auto targets = class_numbers(ctx, rows, classes);
      const auto d_loss = random_tensor<float>(ctx, Shape<0>{}, 2);
      const auto d_row = random_tensor<float, 1>(ctx, {rows}, 3);
      Tensor<float, 0> loss(ctx, {});
      Tensor<float, 1> row_loss(ctx, {rows}), sums(ctx, {rows});
      Tensor<T, 2> d_logits(ctx, shape), d_from_rows(ctx, shape);
      cross_entropy_forward(ctx, loss, row_loss, sums, logits, targets, options);
      cross_entropy_backward(ctx, view(d_logits), d_loss, d_row, sums, logits, targets, options);
      cross_entropy_backward(ctx, view(d_from_rows), {}, d_row, sums, logits, targets, options);

      const auto logits_s = on_device(device, logits);
      const auto targets_s = on_device(device, targets);
      const auto d_loss_s = on_device(device, d_loss);
      const auto d_row_s = on_device(device, d_row);
      Tensor<float, 0, Device> loss_s(device, {});
      Tensor<float, 1, Device> row_loss_s(device, {rows}), sums_s(device, {rows});
      Tensor<T, 2, Device> d_logits_s(device, shape), d_from_rows_s(device, shape);
      cross_entropy_forward(device, loss_s, row_loss_s, sums_s, logits_s, targets_s, options);
      cross_entropy_backward(device, view(d_logits_s), d_loss_s, d_row_s, sums_s, logits_s, targets_s, options);
      cross_entropy_backward(device, view(d_from_rows_s), {}, d_row_s, sums_s, logits_s, targets_s, options);
      INFO("rows " << rows << ", classes " << classes << ", smoothing " << smoothing);
      CHECK(largest_difference(to_host(loss_s), to_host(loss)) < 1e-6);
      CHECK(largest_difference(to_host(row_loss_s), to_host(row_loss)) < 2e-6);
      CHECK(largest_difference(to_host(sums_s), to_host(sums)) < 1e-6);
      CHECK(largest_difference(to_host(d_logits_s), to_host(d_logits)) < tolerance);
      CHECK(largest_difference(to_host(d_from_rows_s), to_host(d_from_rows)) < tolerance);

      // Parts of the result alone are the same parts; d_logits may be logits.
      CHECK(to_host(cross_entropy(device, logits_s, targets_s, options)) == to_host(loss_s));
      CHECK(to_host(cross_entropy_rows(device, logits_s, targets_s, options)) == to_host(row_loss_s));
      cross_entropy_backward(device, view(logits_s), d_loss_s, d_row_s, sums_s, logits_s, targets_s, options);
      CHECK(largest_difference(to_host(logits_s), to_host(d_logits_s)) == 0);
    }
}

TEMPLATE_TEST_CASE("cross_entropy: kernels agree with Cpu for soft targets", "[kernels]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 2e-6 : 5e-3;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& [rows, classes] :
       {std::pair{1, 1}, {63, 2}, {3, 63}, {65, 64}, {7, 129}, {2, 197}, {3, 2500}, {2, 2056}}) {
    const CrossEntropyOptions options{.label_smoothing = rows % 2 ? 0 : 0.2,
                                      .reduction = rows % 2 ? Reduction::mean : Reduction::sum};
    const Shape<2> shape{rows, classes};
    auto logits = random_tensor<T>(ctx, shape, 1, 3.0), targets = random_tensor<T>(ctx, shape, 4);
    if (classes > 2 && options.label_smoothing == 0) {  // a masked class costs nothing
      logits.data[1] = narrow<T>(-std::numeric_limits<float>::infinity());
      targets.data[1] = T{};
    }
    const auto d_loss = random_tensor<float>(ctx, Shape<0>{}, 2);
    Tensor<float, 0> loss(ctx, {});
    Tensor<float, 1> row_loss(ctx, {rows}), sums(ctx, {rows});
    Tensor<T, 2> d_logits(ctx, shape), d_targets(ctx, shape);
    soft_cross_entropy_forward(ctx, loss, row_loss, sums, logits, targets, options);
    soft_cross_entropy_backward(ctx, view(d_logits), d_targets, d_loss, {}, sums, logits, targets, options);

    const auto logits_s = on_device(device, logits), targets_s = on_device(device, targets);
    const auto d_loss_s = on_device(device, d_loss);
    Tensor<float, 0, Device> loss_s(device, {});
    Tensor<float, 1, Device> row_loss_s(device, {rows}), sums_s(device, {rows});
    Tensor<T, 2, Device> d_logits_s(device, shape), d_targets_s(device, shape), d_alone(device, shape);
    soft_cross_entropy_forward(device, loss_s, row_loss_s, sums_s, logits_s, targets_s, options);
    soft_cross_entropy_backward(device, view(d_logits_s), d_targets_s, d_loss_s, {}, sums_s, logits_s, targets_s,
                                options);
    soft_cross_entropy_backward(device, view(d_alone), {}, d_loss_s, {}, sums_s, logits_s, targets_s, options);
    INFO("rows " << rows << ", classes " << classes);
    CHECK(largest_difference(to_host(loss_s), to_host(loss)) < 1e-5);  // rows' losses of either sign cancel
    CHECK(largest_difference(to_host(row_loss_s), to_host(row_loss)) < 2e-6);
    CHECK(largest_difference(to_host(d_logits_s), to_host(d_logits)) < tolerance);
    auto d_t = to_host(d_targets), d_t_s = to_host(d_targets_s);
    if (classes > 2 && options.label_smoothing == 0) {  // infinite on both
      CHECK(std::isinf(widen(d_t_s[1])));
      d_t[1] = d_t_s[1] = T{};
    }
    CHECK(largest_difference(d_t_s, d_t) < tolerance);
    CHECK(largest_difference(to_host(d_alone), to_host(d_logits_s)) == 0);
    Tensor<T, 2, Device> d_targets_alone(device, shape);
    soft_cross_entropy_backward(device, TensorView<T, 2, Device>{}, d_targets_alone, d_loss_s, {}, sums_s, logits_s,
                                targets_s, options);
    CHECK(std::memcmp(to_host(d_targets_alone).data(), to_host(d_targets_s).data(), d_t.size() * sizeof(T)) == 0);
  }
}

TEST_CASE("cross_entropy: no rows, only ignored rows, bad classes, views that are not aligned", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const Tensor<float, 2, Device> none(device, {0, 8});
  const Tensor<int32_t, 1, Device> no_targets(device, {0});
  CHECK(to_host(cross_entropy(device, none, no_targets)) == std::vector<float>{0});

  const auto values = random_tensor<float, 1>(ctx, {33}, 1);
  const auto values_s = on_device(device, values);
  const TensorView<float, 2> logits(values.data + 1, {4, 8});
  const TensorView<float, 2, Device> logits_s(values_s.data + 1, {4, 8});
  const auto ignored = Tensor<int32_t, 1, Device>::from_host(device, {4}, std::vector<int32_t>(4, -100));
  CHECK(to_host(cross_entropy(device, logits_s, ignored)) == std::vector<float>{0});

  const std::vector<int32_t> numbers = {7, 0, -100, 3};
  const auto targets = Tensor<int32_t, 1>::from_host(ctx, {4}, numbers);
  const auto targets_s = on_device(device, targets);
  const auto expected = to_host(cross_entropy(ctx, logits, targets));
  std::vector<float> first;
  for (const auto order : all_orders) {
    const InOrder in_order(order, 3);
    const auto loss = to_host(cross_entropy(device, logits_s, targets_s));
    CHECK(largest_difference(loss, expected) < 1e-6);
    if (first.empty()) first = loss;
    CHECK(loss == first);
  }

  const auto bad = Tensor<int32_t, 1, Device>::from_host(device, {4}, std::vector<int32_t>{7, 8, -1, 3});
  const auto rows = to_host(cross_entropy_rows(device, logits_s, bad));
  CHECK_FALSE(std::isnan(rows[0]));
  CHECK(std::isnan(rows[1]));
  CHECK(std::isnan(rows[2]));
  CHECK(std::isnan(to_host(cross_entropy(device, logits_s, bad))[0]));
  const auto d_rows = Tensor<float, 1, Device>::from_host(device, {4}, std::vector<float>(4, 1));
  Tensor<float, 1, Device> sums(device, {4});
  Tensor<float, 2, Device> d_logits(device, {4, 8});
  cross_entropy_forward(device, {}, {}, sums, logits_s, bad);
  cross_entropy_backward(device, view(d_logits), {}, d_rows, sums, logits_s, bad);
  const auto d = to_host(d_logits);
  for (size_t i = 0; i < d.size(); ++i) CHECK(std::isnan(d[i]) == (i / 8 == 1 || i / 8 == 2));
}
