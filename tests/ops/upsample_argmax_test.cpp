#include <omp.h>

#include <support/catch.hpp>
#include <support/random.hpp>
#include <tessera/io/tensor_source.hpp>
#include <tessera/ops/upsample_argmax.hpp>

using namespace tessera;
using namespace tessera_test;

namespace {

template <class A>
struct Best {
  std::vector<int32_t> labels;
  std::vector<A> scores;
};
/// The composition: interpolate, then a loop over classes. The lowest class wins ties, a NaN is above everything.
template <class A>
Best<A> composition(Context<Cpu>& ctx, const Tensor<A, 4>& scores, Shape<2> size, InterpolateOptions options = {}) {
  const auto maps = interpolate(ctx, scores, size, options);
  Best<A> best;
  for (int64_t b = 0; b < maps.shape[0]; ++b)
    for (int64_t y = 0; y < size[0]; ++y)
      for (int64_t x = 0; x < size[1]; ++x) {
        int32_t label = 0;
        A score = maps(b, 0, y, x);
        for (int32_t c = 1; c < maps.shape[1]; ++c) {
          const A value = maps(b, c, y, x);
          if (std::isnan(score) || value <= score) continue;
          label = c;
          score = value;
        }
        best.labels.push_back(label);
        best.scores.push_back(score);
      }
  return best;
}
template <class A>
void check(Context<Cpu>& ctx, const Tensor<A, 4>& scores, Shape<2> size, InterpolateOptions options = {}) {
  INFO(to_string(scores.shape) << " to " << to_string(size));
  const auto expected = composition(ctx, scores, size, options);
  Tensor<int32_t, 3> labels(ctx, {scores.shape[0], size[0], size[1]});
  Tensor<A, 3> best(ctx, labels.shape);
  upsample_argmax_forward(ctx, view(labels), best, scores, options);
  CHECK(to_host(labels) == expected.labels);
  int64_t different = 0;
  for (int64_t i = 0; i < best.size(); ++i) {
    const A ours = best.data[i], theirs = expected.scores[size_t(i)];
    different += ours != theirs && !(std::isnan(ours) && std::isnan(theirs));
  }
  CHECK(different == 0);
  const auto small = to_host(upsample_argmax(ctx, scores, size, options));  // uint16_t, without scores
  CHECK(std::vector<int32_t>(small.begin(), small.end()) == expected.labels);
}

const Shape<6> shapes[] = {  // B, C, h, w, H, W
    {1, 1, 1, 1, 1, 1},      {2, 3, 1, 1, 5, 70},     {1, 150, 7, 9, 112, 144}, {2, 17, 6, 5, 63, 65},
    {1, 40, 28, 3, 64, 200}, {1, 5, 33, 65, 66, 130}, {1, 7, 20, 20, 20, 20},   {2, 4, 50, 41, 13, 8},
    {1, 21, 2, 2, 197, 129}, {1, 65, 3, 1, 1, 127}};

}  // namespace

TEMPLATE_TEST_CASE("upsample_argmax: equals interpolate and argmax bit for bit", "[ops][upsample_argmax]", float,
                   double) {
  using A = TestType;
  auto ctx = nan_filled_context();
  for (const auto& [batch, classes, h, w, height, width] : shapes) {
    const auto noise = random_tensor<A, 4>(ctx, {batch, classes, h, w}, 1);
    // Coherent maps, where nearly all classes are left out, and few levels, where ties are everywhere.
    Tensor<A, 4> coherent(ctx, noise.shape), levels(ctx, noise.shape), nearly(ctx, noise.shape);
    for (int64_t i = 0; i < noise.size(); ++i) {
      const int64_t c = i / (h * w) % classes, y = i / w % h, x = i % w;
      coherent.data[i] = A(0.3) * noise.data[i] + ((y / 3 * 7 + x / 3 * 3) % classes == c ? A(3) : A(0));
      levels.data[i] = std::round(noise.data[i]);
      nearly.data[i] = A(1e4) + std::numeric_limits<A>::epsilon() * A(1e4) * std::round(2 * noise.data[i]);
    }
    for (bool align_corners : {false, true})
      for (const Tensor<A, 4>* scores : std::initializer_list<const Tensor<A, 4>*>{&noise, &coherent, &levels, &nearly})
        check(ctx, *scores, {height, width}, {.align_corners = align_corners});
  }
}

TEST_CASE("upsample_argmax: constant, huge, tiny and NaN scores", "[ops][upsample_argmax]") {
  auto ctx = nan_filled_context();
  const Shape<4> shape{1, 6, 4, 5};
  for (float scale : {0.0f, 1e-45f, 1e-38f, 1e30f, 3e38f}) {
    auto scores = random_tensor<float, 4>(ctx, shape, 3);
    for (int64_t i = 0; i < scores.size(); ++i) scores.data[i] = scale * std::clamp(scores.data[i], -1.0f, 1.0f);
    INFO("scale " << scale);
    check(ctx, scores, {37, 80});
  }
  auto scores = random_tensor<float, 4>(ctx, shape, 4);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  scores(0, 4, 1, 1) = scores(0, 2, 2, 2) = scores(0, 5, 2, 2) = nan;
  const auto labels = upsample_argmax<int32_t>(ctx, scores, {37, 80});
  CHECK(to_host(labels) == composition(ctx, scores, {37, 80}).labels);
  CHECK(labels(0, 13, 24) == 4);
  CHECK(labels(0, 23, 40) == 2);
  // A class is masked by a large negative number.
  for (int64_t i = 0; i < 20; ++i) scores(0, 0, i / 5, i % 5) = -1e30f;
  for (int32_t label : to_host(upsample_argmax<int32_t>(ctx, scores, {37, 80}))) CHECK(label != 0);
}

TEST_CASE("upsample_argmax: sampling of one's own, bfloat16 scores", "[ops][upsample_argmax]") {
  auto ctx = nan_filled_context();
  const auto scores = random_tensor<float, 4>(ctx, {1, 48, 15, 15}, 1);
  const auto axis = AxisSampling::centres(4, 4, 0.5, 1);
  check(ctx, scores, {64, 64}, {.rows = axis, .columns = axis});
  check(ctx, scores, {32, 70}, {.rows = AxisSampling::scale_factor(2.15), .columns = AxisSampling::cells(0.5, -20)});

  const auto narrow_scores = random_tensor<bfloat16, 4>(ctx, {2, 9, 8, 6}, 2);
  Tensor<float, 4> widened(ctx, narrow_scores.shape);
  for (int64_t i = 0; i < widened.size(); ++i) widened.data[i] = widen(narrow_scores.data[i]);
  CHECK(to_host(upsample_argmax(ctx, narrow_scores, {77, 65})) == to_host(upsample_argmax(ctx, widened, {77, 65})));
}

TEST_CASE("upsample_argmax: labels are PyTorch's", "[ops][upsample_argmax]") {
  auto ctx = nan_filled_context();
  const auto golden = io::TensorSource::open(TESSERA_TEST_DIR "/golden/upsample_argmax.safetensors");
  int cases = 0;
  for (; golden.contains(sentence("case", cases, ".scores")); ++cases) {
    const std::string name = sentence("case", cases, ".");
    INFO(name);
    const auto shape = golden.shape(name + "labels");
    const bool align_corners = golden.read_vector<int32_t>(name + "align_corners")[0] == 1;
    const auto labels = to_host(upsample_argmax(ctx, golden.read<float, 4>(ctx, name + "scores"), {shape[1], shape[2]},
                                                {.align_corners = align_corners}));
    const auto expected = golden.read_vector<uint8_t>(name + "labels");
    CHECK(labels == std::vector<uint16_t>(expected.begin(), expected.end()));
  }
  CHECK(cases == 6);
}

TEST_CASE("upsample_argmax: holds no map of all classes, equal bits on any number of threads",
          "[ops][upsample_argmax]") {
  auto ctx = nan_filled_context();
  const int before = omp_get_max_threads();
  const auto scores = random_tensor<float, 4>(ctx, {2, 150, 14, 14}, 1);
  const auto run = [&](int threads) {
    omp_set_num_threads(threads);
    Tensor<uint16_t, 3> labels(ctx, {2, 224, 224});
    Tensor<float, 3> best(ctx, labels.shape);
    ctx.pool->reset_peak();
    const size_t held = ctx.pool->bytes_in_use();
    upsample_argmax_forward(ctx, view(labels), best, scores);
    CHECK(ctx.pool->peak_bytes() - held < size_t(threads) * 150 * 224 * sizeof(float));
    return std::tuple(to_host(labels), to_host(best));
  };
  const auto one = run(1);
  for (int threads : {2, 3, 16}) CHECK(run(threads) == one);
  omp_set_num_threads(before);
}

TEST_CASE("upsample_argmax: errors name the argument, the axis and the numbers", "[ops][upsample_argmax]") {
  auto ctx = nan_filled_context();
  const auto scores = random_tensor<float, 4>(ctx, {1, 3, 4, 5}, 1);
  Tensor<uint16_t, 3> labels(ctx, {2, 8, 8});
  REQUIRE_ERROR(upsample_argmax_forward(ctx, view(labels), {}, scores), ShapeError,
                "upsample_argmax_forward: axis B of labels (with C) [2, 3, 8, 8] is 2 but must be 1 (from scores)");
  REQUIRE_ERROR(upsample_argmax(ctx, scores, {0, 8}), ShapeError, "need rows and columns");
  REQUIRE_ERROR(upsample_argmax(ctx, Tensor<float, 4>(ctx, {1, 0, 4, 5}), {8, 8}), ValueError, "have 0 classes");
  REQUIRE_ERROR(upsample_argmax(ctx, Tensor<float, 4>(ctx, {1, 65536, 1, 1}), {8, 8}), ValueError,
                "have 65536 classes, but between 1 and 65535 fit the type of labels");
  REQUIRE_ERROR(upsample_argmax(ctx, scores, {8, 8}, {.mode = Interpolation::bicubic}), ValueError, "must be bilinear");
  REQUIRE_ERROR(upsample_argmax(ctx, scores.slice(3, 0, 4), {8, 8}), ShapeError, "scores [1, 3, 4, 4] is a view");
  Tensor<uint16_t, 3> fine(ctx, {1, 8, 8});
  REQUIRE_ERROR(upsample_argmax_forward(ctx, view(fine), Tensor<float, 3>(ctx, {1, 8, 9}), scores), ShapeError,
                "axis W of best_score [1, 8, 9] is 9 but must be 8 (from labels)");
}
