// Interpolation's kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/interpolate.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

constexpr Interpolation all_modes[] = {Interpolation::nearest, Interpolation::bilinear, Interpolation::bicubic};

struct Case {
  Shape<2> from, to;
};
constexpr Case cases[] = {{{1, 1}, {3, 2}},    {{3, 5}, {1, 1}},    {{7, 7}, {14, 16}}, {{14, 3}, {5, 64}},
                          {{9, 13}, {63, 65}}, {{65, 20}, {9, 13}}, {{4, 4}, {4, 129}}, {{5, 6}, {5, 6}}};

/// Both passes of one layout, on Cpu and on the device.
template <class T, bool channels_last>
void compare(Context<Cpu>& ctx, Context<Device>& device, const Case& c, int64_t channels, InterpolateOptions options) {
  const auto maps = [&](Shape<2> extents) {
    return channels_last ? Shape<4>{2, extents[0], extents[1], channels}
                         : Shape<4>{2, channels, extents[0], extents[1]};
  };
  const auto both = [&](auto& context, auto& y, auto& d_x, const auto& x, const auto& d_y) {
    if constexpr (channels_last) {
      interpolate_tokens_forward(context, view(y), x, options);
      interpolate_tokens_backward(context, view(d_x), d_y, options);
    } else {
      interpolate_forward(context, view(y), x, options);
      interpolate_backward(context, view(d_x), d_y, options);
    }
  };
  const auto x = random_tensor<T>(ctx, maps(c.from), 1), d_y = random_tensor<T>(ctx, maps(c.to), 2);
  Tensor<T, 4> y(ctx, d_y.shape), d_x(ctx, x.shape);
  both(ctx, y, d_x, x, d_y);
  Tensor<T, 4, Device> y_s(device, d_y.shape), d_x_s(device, x.shape);
  both(device, y_s, d_x_s, on_device(device, x), on_device(device, d_y));
  // Positions are computed in float, up to one unit of them apart: a unit of a position near 65 is 8e-6 of a cell.
  const double tolerance = std::is_same_v<T, float> ? 2e-5 : 8e-3;  // bfloat16: one unit in the last place
  INFO(to_string(x.shape) << " to " << to_string(y.shape) << ", mode " << int(options.mode) << ", align_corners "
                          << options.align_corners << ", rule " << int(options.rows.rule));
  CHECK(largest_difference(to_host(y_s), to_host(y)) < tolerance);
  CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) < tolerance);
}

}  // namespace

TEMPLATE_TEST_CASE("interpolate: kernels agree with Cpu in every mode and layout", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const Case& c : cases)
    for (const Interpolation mode : all_modes) {
      compare<T, false>(ctx, device, c, 3, {.mode = mode});
      compare<T, true>(ctx, device, c, 8, {.mode = mode});
      compare<T, true>(ctx, device, c, 5, {.mode = mode});
      if (mode != Interpolation::nearest) compare<T, true>(ctx, device, c, 8, {.mode = mode, .align_corners = true});
      const auto rows = AxisSampling::scale_factor(double(c.to[0]) / double(c.from[0]) * 1.01);
      const auto columns = AxisSampling::cells(double(c.from[1]) / double(c.to[1]), 0.3);
      compare<T, false>(ctx, device, c, 2, {.mode = mode, .rows = rows, .columns = columns});
    }
}

TEST_CASE("interpolate: equal extents copy all bits, absent gradients, views that are not aligned", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  auto x = random_tensor<float, 4>(ctx, {1, 2, 3, 4}, 1);
  x.data[0] = -0.0f;
  x.data[1] = std::numeric_limits<float>::infinity();
  x.data[5] = std::nanf("");
  const auto x_s = on_device(device, x);
  for (const Interpolation mode : all_modes) {
    const auto y = to_host(interpolate(device, x_s, {3, 4}, {.mode = mode}));
    CHECK(std::memcmp(y.data(), x.data, y.size() * sizeof(float)) == 0);
  }
  interpolate_backward(device, TensorView<float, 4, Device>{}, x_s);
  Tensor<float, 4, Device> none(device, {0, 2, 3, 4});
  CHECK(to_host(interpolate(device, none, {6, 8})).empty());

  const auto values = random_tensor<float, 1>(ctx, {1 + 4 * 4 * 8}, 3);
  const auto values_s = on_device(device, values);
  const auto expected = interpolate_tokens(ctx, TensorView<float, 4>(values.data + 1, {1, 4, 4, 8}), {7, 9});
  std::vector<float> first;
  for (const auto order : all_orders) {
    const InOrder in_order(order, 5);
    const TensorView<float, 4, Device> maps(values_s.data + 1, {1, 4, 4, 8});
    const auto y = to_host(interpolate_tokens(device, maps, {7, 9}));
    CHECK(largest_difference(y, to_host(expected)) < 2e-6);
    Tensor<float, 4, Device> d_x(device, {1, 3, 3, 8});
    interpolate_tokens_backward(device, view(d_x), maps);
    if (first.empty()) first = to_host(d_x);
    CHECK(to_host(d_x) == first);
  }
}

TEST_CASE("interpolate: positional embeddings are resized as on Cpu", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const bool class_token : {false, true}) {
    const PositionalGrid grid{.stored_height = 7,
                              .stored_width = 7,
                              .height = 13,
                              .width = 10,
                              .class_token = class_token,
                              .patch_size = 16,
                              .stride = 8};
    const auto table = random_tensor<bfloat16, 2>(ctx, {grid.stored_rows(), 24}, 1);
    const auto d_positions = random_tensor<bfloat16, 2>(ctx, {grid.rows(), 24}, 2);
    Tensor<float, 2> d_table(ctx, table.shape);
    resize_positional_embedding_backward(ctx, view(d_table), view(d_positions), grid);
    const auto positions = resize_positional_embedding(ctx, table, grid);

    Tensor<float, 2, Device> d_table_s(device, table.shape);
    const auto d_positions_s = on_device(device, d_positions);
    resize_positional_embedding_backward(device, view(d_table_s), view(d_positions_s), grid);
    const auto positions_s = resize_positional_embedding(device, on_device(device, table), grid);
    CHECK(largest_difference(to_host(positions_s), to_host(positions)) < 4e-3);
    CHECK(largest_difference(to_host(d_table_s), to_host(d_table)) < 5e-6);
  }
}
