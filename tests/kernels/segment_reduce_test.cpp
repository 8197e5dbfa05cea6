// Segments' sums, means and maxima: the kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/segment_reduce.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

/// Segments in [-1, count - 1), so that the last one is empty; every third token is in segment 0.
Tensor<int32_t, 2> random_segments(Context<Cpu>& ctx, const Shape<2>& shape, int64_t count) {
  Tensor<int32_t, 2> segments(ctx, shape);
  for (int64_t i = 0; i < segments.size(); ++i)
    segments.data[i] = i % 3 == 1 ? 0 : int32_t(RandomStream{9, 0, 0}.below(uint64_t(i), uint64_t(count))) - 1;
  return segments;
}

}  // namespace

TEMPLATE_TEST_CASE("segment_reduce: kernels agree with Cpu", "[kernels]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 1e-6 : 4e-3;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& [items, tokens, channels, count] :
       {std::tuple{1, 1, 1, 2}, {2, 63, 8, 60}, {1, 129, 65, 3}, {2, 33, 264, 5}, {1, 257, 12, 4}, {2, 300, 9, 2}}) {
    INFO(items << "x" << tokens << "x" << channels << ", " << count << " segments");
    const Shape<3> x_shape{items, tokens, channels}, y_shape{items, count, channels};
    const auto x = random_tensor<T>(ctx, x_shape, 1), d_y = random_tensor<T>(ctx, y_shape, 2);
    const auto segments = random_segments(ctx, {items, tokens}, count);
    const auto x_s = on_device(device, x), d_y_s = on_device(device, d_y);
    const auto segments_s = on_device(device, segments);
    for (const SegmentReduction kind : {SegmentReduction::sum, SegmentReduction::mean, SegmentReduction::max}) {
      INFO("kind " << int(kind));
      const bool max = kind == SegmentReduction::max;
      Tensor<T, 3> y(ctx, y_shape), d_x(ctx, x_shape);
      Tensor<int32_t, 2> counts(ctx, {items, count});
      Tensor<int32_t, 3> index;
      Tensor<T, 3, Device> y_s(device, y_shape), d_x_s(device, x_shape);
      Tensor<int32_t, 2, Device> counts_s(device, {items, count});
      Tensor<int32_t, 3, Device> index_s;
      if (max) {
        index = {ctx, y_shape};
        index_s = {device, y_shape};
      }
      segment_reduce_forward(ctx, view(y), counts, index, x, segments, kind);
      segment_reduce_forward(device, view(y_s), counts_s, index_s, x_s, segments_s, kind);
      CHECK(largest_difference(to_host(y_s), to_host(y)) < (max ? 1e-30 : tolerance));
      CHECK(to_host(counts_s) == to_host(counts));
      if (max) CHECK(to_host(index_s) == to_host(index));
      segment_reduce_backward(ctx, view(d_x), d_y, counts, index, segments, kind);
      segment_reduce_backward(device, view(d_x_s), d_y_s, counts_s, index_s, segments_s, kind);
      CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) < 1e-6);
      const InOrder in_order(Order::random, uint64_t(tokens));  // without what is saved, in another order: equal bits
      const auto again = segment_reduce(device, view(x_s), segments_s, count, kind);
      CHECK(largest_difference(to_host(again), to_host(y_s)) == 0);
    }
    CHECK(largest_difference(to_host(segment_gather(device, d_y_s, segments_s)),
                             to_host(segment_gather(ctx, d_y, segments))) == 0);
  }
}

TEST_CASE("segment_reduce: tokens that are a slice or not aligned, NaN and equal values, in all orders", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  auto x = random_tensor<float, 3>(ctx, {2, 270, 8}, 1);
  for (int64_t n = 0; n < 270; n += 7) x(1, n, 2) = 5;
  x(0, 261, 3) = std::numeric_limits<float>::quiet_NaN();
  const auto x_s = on_device(device, x);
  const auto segments = random_segments(ctx, {2, 265}, 3);
  const auto segments_s = on_device(device, segments);
  const Shape<3> shape{2, 3, 8};
  Tensor<float, 3> y(ctx, shape);
  Tensor<int32_t, 3> index(ctx, shape);
  Tensor<float, 1, Device> memory(device, {49});
  const TensorView<float, 3, Device> y_s(memory.data + 1, shape);
  Tensor<int32_t, 3, Device> index_s(device, shape);
  segment_reduce_forward(ctx, view(y), {}, index, x.slice(1, 4, 269), segments, SegmentReduction::max);
  for (const auto order : all_orders) {
    const InOrder in_order(order, 3);
    segment_reduce_forward(device, y_s, {}, index_s, x_s.slice(1, 4, 269), segments_s, SegmentReduction::max);
    CHECK(to_host(index_s) == to_host(index));
  }
  CHECK(std::isnan(to_host(y_s)[size_t(segments(0, 257) * 8 + 3)]));
}

TEST_CASE("segment_reduce: no tokens, and segments out of range stop the kernel", "[kernels]") {
  Context<Device> device;
  const Tensor<float, 3, Device> none(device, {2, 0, 8});
  const Tensor<int32_t, 2, Device> no_segments(device, {2, 0});
  CHECK(to_host(segment_reduce(device, none, no_segments, 3, SegmentReduction::mean)) == std::vector<float>(48, 0.0f));
  if constexpr (survives_faults) {
    const auto x = Tensor<float, 3, Device>::zeros(device, {1, 2, 4});
    const auto bad = Tensor<int32_t, 2, Device>::from_host(device, {1, 2}, {-5, 3});
    const auto first = segment_reduce(device, x, bad, 3, SegmentReduction::sum);
    CHECK_THROWS_AS(device.synchronize(), Fault);
    const auto second = segment_gather(device, x, bad);
    CHECK_THROWS_AS(device.synchronize(), Fault);
  }
}
