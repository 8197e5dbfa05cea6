// Upsampling and argmax, run by the emulator: equal to interpolate and argmax on the same device, bit for bit.
#include <tessera/kernels/upsample_argmax.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

/// Labels and best scores of upsampled maps [B, C, H, W]: ties to the lowest class, NaN above everything.
std::pair<std::vector<int32_t>, std::vector<float>> argmax(const std::vector<float>& maps, Shape<4> shape) {
  const int64_t pixels = shape[2] * shape[3];
  std::vector<int32_t> labels;
  std::vector<float> best;
  for (int64_t b = 0; b < shape[0]; ++b)
    for (int64_t p = 0; p < pixels; ++p) {
      const auto value = [&](int64_t c) { return maps[size_t((b * shape[1] + c) * pixels + p)]; };
      int32_t label = 0;
      for (int64_t c = 1; c < shape[1]; ++c)
        if (!(value(c) <= value(label)) && value(label) == value(label)) label = int32_t(c);
      labels.push_back(label);
      best.push_back(value(label));
    }
  return {labels, best};
}

}  // namespace

TEMPLATE_TEST_CASE("upsample_argmax: equals interpolate and argmax bit for bit", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  struct Case {
    Shape<4> scores;
    Shape<2> size;
    InterpolateOptions options;
  };
  const InterpolateOptions corners{.align_corners = true};
  const InterpolateOptions cells{.rows = AxisSampling::cells(0.1, 0.2), .columns = AxisSampling::cells(0.21, -1)};
  for (const Case& c : {Case{{2, 1, 1, 1}, {3, 5}, {}}, Case{{1, 7, 4, 5}, {63, 65}, {}},
                        Case{{1, 300, 3, 3}, {33, 31}, {}}, Case{{2, 21, 7, 7}, {64, 40}, corners},
                        Case{{1, 9, 8, 9}, {70, 33}, cells}, Case{{1, 5, 40, 50}, {11, 9}, {}}}) {
    auto scores = random_tensor<float>(ctx, c.scores, 1);
    // Smooth winners, so that some classes can be left out, and ties.
    for (int64_t i = 0; i < scores.size(); ++i)
      scores.data[i] = std::round(scores.data[i] * 4 + float(i / (c.scores[2] * c.scores[3]) % 7)) / 8;
    if (c.scores[1] == 21) scores.data[50] = std::nanf("");
    Tensor<T, 4> narrowed(ctx, scores.shape);
    Tensor<float, 4> widened(ctx, scores.shape);
    for (int64_t i = 0; i < scores.size(); ++i) {
      narrowed.data[i] = narrow<T>(scores.data[i]);
      widened.data[i] = widen(narrowed.data[i]);
    }
    const auto maps = interpolate(device, on_device(device, widened), c.size, c.options);
    const auto [labels, best] = argmax(to_host(maps), maps.shape);
    const auto scores_s = on_device(device, narrowed);
    Tensor<int32_t, 3, Device> labels_s(device, {c.scores[0], c.size[0], c.size[1]});
    Tensor<float, 3, Device> best_s(device, labels_s.shape);
    upsample_argmax_forward(device, view(labels_s), best_s, scores_s, c.options);
    INFO(to_string(c.scores) << " to " << to_string(c.size));
    CHECK(to_host(labels_s) == labels);
    const auto got = to_host(best_s);
    for (size_t i = 0; i < best.size(); ++i)
      if (!(got[i] == best[i] || (std::isnan(got[i]) && std::isnan(best[i])))) FAIL("best score " << i);
    const auto short_labels = to_host(upsample_argmax(device, scores_s, c.size, c.options));
    CHECK(std::vector<int32_t>(short_labels.begin(), short_labels.end()) == labels);
    for (const auto order : {Order::descending, Order::random}) {
      const InOrder in_order(order, 9);
      CHECK(to_host(upsample_argmax<int32_t>(device, scores_s, c.size, c.options)) == labels);
    }
  }
}

TEST_CASE("upsample_argmax: smooth scores have Cpu's labels", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const auto scores = random_tensor<float, 4>(ctx, {1, 40, 6, 6}, 3);
  const auto expected = to_host(upsample_argmax(ctx, scores, {96, 96}));
  const auto labels = to_host(upsample_argmax(device, on_device(device, scores), {96, 96}));
  int64_t different = 0;
  for (size_t i = 0; i < labels.size(); ++i) different += labels[i] != expected[i];
  CHECK(different <= 2);  // at ties but for rounding
}
