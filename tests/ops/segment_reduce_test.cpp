#include <omp.h>

#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/segment_reduce.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

constexpr SegmentReduction all_kinds[] = {SegmentReduction::sum, SegmentReduction::mean, SegmentReduction::max};

/// Segments in [-1, count - 1), so that the last one is empty; every fourth token is in segment 0.
Tensor<int32_t, 2> random_segments(Context<Cpu>& ctx, const Shape<2>& shape, int64_t count) {
  Tensor<int32_t, 2> segments(ctx, shape);
  for (int64_t i = 0; i < segments.size(); ++i)
    segments.data[i] = i % 4 == 1 ? 0 : int32_t(RandomStream{9, 0, 0}.below(uint64_t(i), uint64_t(count))) - 1;
  return segments;
}

/// One row by the definition, in double.
template <class T>
double expected(const TensorView<T, 3>& x, const Tensor<int32_t, 2>& segments, SegmentReduction kind, int64_t b,
                int64_t s, int64_t c) {
  double sum = 0, largest = 0, members = 0;
  for (int64_t n = 0; n < x.shape[1]; ++n) {
    if (segments(b, n) != s) continue;
    const double value = widen(x(b, n, c));
    largest = members == 0 || value > largest ? value : largest;
    sum += value;
    ++members;
  }
  if (kind == SegmentReduction::max) return largest;
  return kind == SegmentReduction::mean && members > 0 ? sum / members : sum;
}

}  // namespace

TEMPLATE_TEST_CASE("segment_reduce: sums, means and maxima are the definition", "[ops][segment_reduce]", float, double,
                   bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, bfloat16> ? 4e-3 : std::is_same_v<T, float> ? 1e-6 : 1e-15;
  auto ctx = nan_filled_context();
  for (const auto& [items, tokens, channels, count] :
       {std::tuple{1, 1, 1, 2}, {2, 63, 65, 4}, {3, 196, 8, 60}, {2, 129, 197, 7}, {2, 5, 128, 9}}) {
    const auto x = random_tensor<T>(ctx, Shape<3>{items, tokens, channels}, 1);
    const auto segments = random_segments(ctx, {items, tokens}, count);
    for (const SegmentReduction kind : all_kinds) {
      INFO(items << "x" << tokens << "x" << channels << ", " << count << " segments, kind " << int(kind));
      const auto y = segment_reduce(ctx, x, segments, count, kind);
      REQUIRE(y.shape == Shape<3>{items, count, channels});
      std::vector<double> reference;
      for (int64_t b = 0; b < items; ++b)
        for (int64_t s = 0; s < count; ++s)
          for (int64_t c = 0; c < channels; ++c) reference.push_back(expected(view(x), segments, kind, b, s, c));
      CHECK(largest_difference(to_host(y), reference) < tolerance);
      CHECK(widen(y(0, count - 1, 0)) == 0);  // empty

      Tensor<int32_t, 2> counts(ctx, {items, count});
      Tensor<int32_t, 3> index(ctx, y.shape);
      Tensor<T, 3> again(ctx, y.shape), d_x(ctx, x.shape);
      const bool max = kind == SegmentReduction::max;
      segment_reduce_forward(ctx, view(again), counts, max ? index : Tensor<int32_t, 3>{}, x, segments, kind);
      CHECK(largest_difference(view(again), view(y)) == 0);
      segment_reduce_backward(ctx, view(d_x), y, counts, max ? index : Tensor<int32_t, 3>{}, segments, kind);
      bool right = true;
      for (int64_t b = 0; b < items; ++b)
        for (int64_t n = 0; n < tokens; ++n)
          for (int64_t c = 0; c < channels; ++c) {
            const int32_t s = segments(b, n);
            double wanted = s < 0 ? 0.0 : double(widen(y(b, s, c)));
            if (s >= 0 && kind == SegmentReduction::mean) wanted /= counts(b, s);
            if (s >= 0 && max && index(b, s, c) != n) wanted = 0;
            right = right && std::abs(double(widen(d_x(b, n, c))) - wanted) <= tolerance * std::abs(wanted);
          }
      CHECK(right);
    }
    const auto rows = random_tensor<T>(ctx, Shape<3>{items, count, channels}, 2);
    const auto gathered = segment_gather(ctx, rows, segments);
    Tensor<T, 3> d_rows(ctx, rows.shape);
    segment_gather_backward(ctx, view(d_rows), x, segments);
    CHECK(largest_difference(view(d_rows), view(segment_reduce(ctx, x, segments, count, SegmentReduction::sum))) == 0);
    bool same = true;
    for (int64_t b = 0; b < items; ++b)
      for (int64_t n = 0; n < tokens; ++n)
        for (int64_t c = 0; c < channels; ++c)
          same = same && widen(gathered(b, n, c)) ==
                             (segments(b, n) < 0 ? decltype(widen(T{})){0} : widen(rows(b, segments(b, n), c)));
    CHECK(same);
  }
}

TEST_CASE("segment_reduce: the first of equal values is the largest, a NaN above all; tokens may be a slice",
          "[ops][segment_reduce]") {
  auto ctx = nan_filled_context();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto x = Tensor<float, 3>::from_host(ctx, {1, 5, 2}, {-3, 1, -1, nan, -1, 7, 9, nan, -2, 3});
  const auto segments = Tensor<int32_t, 2>::from_host(ctx, {1, 5}, {0, 0, 0, -1, 1});
  Tensor<float, 3> y(ctx, {1, 3, 2});
  Tensor<int32_t, 3> index(ctx, y.shape);
  segment_reduce_forward(ctx, view(y), {}, index, x, segments, SegmentReduction::max);
  CHECK(to_host(index) == std::vector<int32_t>{1, 1, 4, 4, -1, -1});
  CHECK(y(0, 0, 0) == -1);
  CHECK(std::isnan(y(0, 0, 1)));
  CHECK(to_host(y.slice(1, 1, 3)) == std::vector<float>{-2, 3, 0, 0});

  const auto tokens = random_tensor<float, 3>(ctx, {2, 6, 5}, 1);
  const auto part = tokens.slice(1, 1, 6);
  const auto of_part = Tensor<int32_t, 2>::from_host(ctx, {2, 5}, {0, 1, 0, 1, 1, 1, 0, 0, 0, -1});
  auto of_all = Tensor<int32_t, 2>::from_host(ctx, {2, 6}, {-1, 0, 1, 0, 1, 1, -1, 1, 0, 0, 0, -1});
  for (const SegmentReduction kind : all_kinds)
    CHECK(largest_difference(view(segment_reduce(ctx, part, of_part, 2, kind)),
                             view(segment_reduce(ctx, tokens, of_all, 2, kind))) == 0);
}

TEST_CASE("segment_reduce: gradients agree with finite differences", "[ops][segment_reduce]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable<3>(ctx, {2, 7, 3}, 1), y = random_variable<3>(ctx, {2, 4, 3}, 2);
  const auto segments = random_segments(ctx, {2, 7}, 4);
  for (const SegmentReduction kind : all_kinds) {
    const auto result = gradcheck(
        ctx, [&](auto& tape, auto a) { return segment_reduce(tape, a, segments, 4, kind); }, x);
    INFO(int(kind) << ": " << result.message);
    CHECK(result);
  }
  const auto gather = gradcheck(
      ctx, [&](auto& tape, auto a) { return segment_gather(tape, a, segments); }, y);
  INFO(gather.message);
  CHECK(gather);
}

TEMPLATE_TEST_CASE("segment_reduce: values and gradients are PyTorch's", "[ops][segment_reduce]", float, double) {
  Oracle<TestType> oracle("segment_reduce");
  const auto segments = oracle.template integers<int32_t, 2>("segments");
  for (const auto& [name, kind] : {std::pair<std::string, SegmentReduction>{"sum", SegmentReduction::sum},
                                   {"mean", SegmentReduction::mean},
                                   {"max", SegmentReduction::max}}) {
    const auto x = oracle.template input<3>(name + ".x");
    oracle.check(
        name, {"x"}, [&, of = kind](auto& tape, auto a) { return segment_reduce(tape, a, segments, 4, of); }, x);
  }
  const auto rows = oracle.template input<3>("gather.rows");
  oracle.check(
      "gather", {"rows"}, [&](auto& tape, auto a) { return segment_gather(tape, a, segments); }, rows);
}

TEST_CASE("segment_reduce: the number of threads changes no bit", "[ops][segment_reduce]") {
  auto ctx = nan_filled_context();
  const auto x = random_tensor<float, 3>(ctx, {6, 257, 200}, 1);
  const auto segments = random_segments(ctx, {6, 257}, 11);
  const int before = omp_get_max_threads();
  for (const SegmentReduction kind : all_kinds) {
    std::vector<float> first;
    for (int threads : {1, 2, 3, 16}) {
      omp_set_num_threads(threads);
      const auto y = segment_gather(ctx, segment_reduce(ctx, x, segments, 11, kind), segments);
      if (threads == 1) first = to_host(y);
      CHECK(to_host(y) == first);
    }
  }
  omp_set_num_threads(before);
}

TEST_CASE("segment_reduce: a segment out of range is named, and nothing is written", "[ops][segment_reduce]") {
  auto ctx = nan_filled_context();
  const auto x = random_tensor<float, 3>(ctx, {2, 3, 4}, 1);
  auto segments = Tensor<int32_t, 2>::from_host(ctx, {2, 3}, {0, 1, 1, 0, 2, -7});
  Tensor<float, 3> y = Tensor<float, 3>::zeros(ctx, {2, 2, 4});
  REQUIRE_ERROR(segment_reduce_forward(ctx, view(y), {}, {}, x, segments, SegmentReduction::sum), ValueError,
                "segment_reduce: segment 2 of item 1, token 1, is not below 2, the number of segments");
  CHECK(to_host(y) == std::vector<float>(16, 0.0f));
  REQUIRE_ERROR(segment_gather(ctx, y, segments), ValueError, "segment_gather: segment 2 of item 1, token 1");
  segments(1, 1) = 1;
  CHECK(to_host(segment_gather(ctx, y, segments)) == std::vector<float>(24, 0.0f));  // -7 is no segment
  const Tensor<int32_t, 2> short_segments(ctx, {2, 2});
  REQUIRE_ERROR(segment_reduce(ctx, x, short_segments, 2, SegmentReduction::mean), ShapeError,
                "axis N of segments [2, 2] is 2 but must be 3 (from x)");
  Tensor<float, 3> d_x(ctx, x.shape);
  REQUIRE_ERROR(segment_reduce_backward(ctx, view(d_x), y, {}, {}, segments, SegmentReduction::mean), ValueError,
                "counts");
  REQUIRE_ERROR(
      segment_reduce_forward(ctx, view(y), {}, Tensor<int32_t, 3>(ctx, y.shape), x, segments, SegmentReduction::sum),
      ValueError, "index is for the maximum only");
}
