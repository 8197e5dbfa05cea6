#include <omp.h>

#include <algorithm>
#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/pair_compatibility.hpp>
#include <tessera/io/tensor_source.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

/// A selection as a caller may write it: softmax over the best patches, three where image and text belong together, two
/// elsewhere.
struct BestPatches {
  static int64_t kept(PairPlace place) { return place.image == place.text ? 3 : 2; }

  struct Common {
    double largest, lowest;
  };
  template <class Scores>
  Common common(const Scores& scores, PairPlace place) const {
    const double largest = scores.max();
    double above = largest, lowest = largest - 100;  // the border between kept scores and others lies between them
    for (int halving = 0; halving < 60; ++halving) {
      const double middle = (above + lowest) / 2;
      const double count = scores.sum([&](double z) { return z >= middle ? 1.0 : 0.0; });
      (count <= double(kept(place)) ? above : lowest) = middle;
    }
    return {largest, above};
  }
  double weight(double z, Common common) const { return z >= common.lowest ? std::exp(z - common.largest) : 0; }
  double slope(double, double weight) const { return weight; }
};

std::vector<double> weights_of(SoftmaxWeights, std::vector<double> z, PairPlace) {
  for (double& v : z) v = std::exp(v);
  return z;
}
std::vector<double> weights_of(SigmoidWeights weighting, std::vector<double> z, PairPlace) {
  for (double& v : z) v = 1 / (1 + std::exp(-v - weighting.bias));
  return z;
}
std::vector<double> weights_of(BestPatches, std::vector<double> z, PairPlace place) {
  auto sorted = z;
  std::sort(sorted.rbegin(), sorted.rend());
  const double lowest = sorted[size_t(std::min<int64_t>(BestPatches::kept(place), int64_t(z.size())) - 1)];
  for (double& v : z) v = v >= lowest ? std::exp(v) : 0;
  return z;
}

// Straight from the definition, one pair at a time, in double.
template <class T, class Weighting = SoftmaxWeights, class Score = CosineScore>
std::vector<double> reference(const TensorView<T, 3>& patches, const TensorView<T, 2>& texts,
                              const PairCompatibilityOptions& options, Weighting weighting = {}, Score = {}) {
  const auto [images, count, channels] = patches.shape;
  const int64_t all_texts = texts.shape[0];
  const auto norm = [](const std::vector<double>& x) {
    double squares = 0;
    for (double v : x) squares += v * v;
    return std::sqrt(squares);
  };
  const auto cosine = [&](const std::vector<double>& a, const std::vector<double>& b) {
    double dot = 0;
    for (size_t c = 0; c < a.size(); ++c) dot += a[c] * b[c];
    const double norms = norm(a) * norm(b);
    return norms > 0 ? dot / norms : 0;
  };
  std::vector<double> phi;
  for (int64_t i = 0; i < images; ++i)
    for (int64_t j = 0; j < all_texts; ++j) {
      std::vector<double> text, pooled(static_cast<size_t>(channels)), z;
      for (int64_t c = 0; c < channels; ++c) text.push_back(double(widen(texts(j, c))));
      std::vector<std::vector<double>> image;
      for (int64_t t = 0; t < count; ++t) {
        std::vector<double> patch;
        for (int64_t c = 0; c < channels; ++c) patch.push_back(double(widen(patches(i, t, c))));
        const double lengths = Score::lengths_count ? norm(patch) * norm(text) : 1;
        z.push_back(options.attention_scale * lengths * cosine(patch, text));
        if (const double n = norm(patch); options.pool_normalized && n > 0)
          for (double& v : patch) v /= n;
        image.push_back(patch);
      }
      const auto weights = weights_of(weighting, z, {i, j});
      for (size_t t = 0; t < image.size(); ++t)
        for (size_t c = 0; c < pooled.size(); ++c) pooled[c] += weights[t] * image[t][c];
      phi.push_back(cosine(pooled, text));
    }
  return phi;
}

template <class T>
struct Gradients {
  Tensor<accumulate_t<T>, 2> phi;
  Tensor<T, 3> d_patches;
  Tensor<T, 2> d_texts;
};
template <class T>
Gradients<T> run(Context<Cpu>& ctx, const Tensor<T, 3>& patches, const Tensor<T, 2>& texts,
                 const Tensor<accumulate_t<T>, 2>& d_phi, PairCompatibilityOptions options) {
  Gradients<T> g{Tensor<accumulate_t<T>, 2>(ctx, d_phi.shape), Tensor<T, 3>(ctx, patches.shape),
                 Tensor<T, 2>(ctx, texts.shape)};
  pair_compatibility_forward(ctx, view(g.phi), view(patches), texts, options);
  pair_compatibility_backward(ctx, view(g.d_patches), g.d_texts, d_phi, g.phi, patches, texts, options);
  return g;
}
template <class To, class From, int Rank>
Tensor<To, Rank> converted(Context<Cpu>& ctx, const TensorView<From, Rank>& from) {
  Tensor<To, Rank> to(ctx, from.shape);
  for (int64_t i = 0; i < to.size(); ++i) to.data[i] = narrow<To>(accumulate_t<To>(widen(from.data[i])));
  return to;
}

const PairCompatibilityOptions all_options[] = {{1, false}, {10, false}, {1, true}, {10, true}};

}  // namespace

TEMPLATE_TEST_CASE("pair_compatibility: forward is the definition at every size", "[ops][pair_compatibility]", float,
                   double, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, double> ? 1e-13 : 3e-6;
  auto ctx = nan_filled_context();
  // The last one by Gram matrices: few patches beside channels and texts.
  const int64_t sizes[][4] = {{1, 1, 1, 1},    {2, 1, 5, 3},       {1, 63, 64, 1},  {3, 65, 7, 2},
                              {2, 128, 33, 9}, {1, 197, 129, 300}, {2, 35, 64, 270}};
  for (const auto& [images, count, channels, texts] : sizes)
    for (const auto& options : all_options) {
      INFO("B " << images << " T " << count << " D " << channels << " K " << texts << " scale "
                << options.attention_scale << " normalised " << options.pool_normalized);
      auto v = random_tensor<T, 3>(ctx, {images, count, channels}, 1, 2.0);
      auto t = random_tensor<T, 2>(ctx, {texts, channels}, 2, 3.0);
      CHECK(largest_difference(to_host(pair_compatibility(ctx, v, t, options)), reference(view(v), view(t), options)) <
            tolerance);
    }
}

TEST_CASE("pair_compatibility: gradients agree with finite differences", "[ops][pair_compatibility]") {
  auto ctx = nan_filled_context();
  const int64_t sizes[][4] = {{2, 7, 5, 3}, {1, 1, 4, 2}, {3, 4, 6, 1}, {1, 3, 6, 261}};  // the last by Gram matrices
  for (const auto& [images, count, channels, texts] : sizes)
    for (const auto& options : all_options) {
      auto v = random_variable<3>(ctx, {images, count, channels}, 1);
      auto t = random_variable<2>(ctx, {texts, channels}, 2);
      const auto result = gradcheck(
          ctx, [&](auto& tape, auto a, auto b) { return pair_compatibility(tape, a, b, options); }, v, t);
      INFO("K " << texts << " scale " << options.attention_scale << options.pool_normalized << result.message);
      CHECK(result);
    }
}

TEMPLATE_TEST_CASE("pair_compatibility: backward agrees with double, absent outputs change nothing",
                   "[ops][pair_compatibility]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 5e-6 : 5e-3;  // bfloat16: the stores' rounding
  auto ctx = nan_filled_context();
  for (const auto& options : all_options) {
    const int64_t count = options.attention_scale > 1 ? 65 : 20;  // pooled vectors, Gram matrices
    auto v = random_tensor<T, 3>(ctx, {5, count, 33}, 1, 2.0);
    auto t = random_tensor<T, 2>(ctx, {300, 33}, 2, 3.0);
    auto d_phi = random_tensor<float, 2>(ctx, {5, 300}, 3);
    const auto narrow_run = run(ctx, v, t, d_phi, options);
    const auto wide_run = run(ctx, converted<double>(ctx, view(v)), converted<double>(ctx, view(t)),
                              converted<double>(ctx, view(d_phi)), options);
    CHECK(largest_difference(view(narrow_run.phi), view(wide_run.phi)) < 5e-6);
    CHECK(largest_difference(view(narrow_run.d_patches), view(wide_run.d_patches)) < tolerance);
    CHECK(largest_difference(view(narrow_run.d_texts), view(wide_run.d_texts)) < tolerance);

    Tensor<T, 3> d_patches(ctx, v.shape);
    Tensor<T, 2> d_texts(ctx, t.shape);
    pair_compatibility_backward(ctx, view(d_patches), {}, d_phi, narrow_run.phi, v, t, options);
    pair_compatibility_backward(ctx, TensorView<T, 3>{}, d_texts, d_phi, narrow_run.phi, v, t, options);
    CHECK(largest_difference(view(d_patches), view(narrow_run.d_patches)) == 0);
    CHECK(largest_difference(view(d_texts), view(narrow_run.d_texts)) == 0);
  }
}

TEST_CASE("pair_compatibility: other weights and scores, forward and backward", "[ops][pair_compatibility]") {
  auto ctx = nan_filled_context();
  const int64_t sizes[][4] = {{2, 7, 5, 3}, {1, 4, 6, 20}};  // pooled vectors, Gram matrices
  for (const auto& [images, count, channels, texts] : sizes)
    for (const bool normalized : {false, true}) {
      const PairCompatibilityOptions options{.attention_scale = 0.5, .pool_normalized = normalized};
      auto v = random_variable<3>(ctx, {images, count, channels}, 1);
      auto t = random_variable<2>(ctx, {texts, channels}, 2);
      const auto check = [&](auto weighting, auto score) {
        const auto phi = pair_compatibility(ctx, view(v.value()), t.value(), options, weighting, score);
        const auto expected = reference(view(v.value()), view(t.value()), options, weighting, score);
        const auto result = gradcheck(
            ctx, [&](auto& tape, auto a, auto b) { return pair_compatibility(tape, a, b, options, weighting, score); },
            v, t);
        INFO("T " << v.value().shape[1] << ", normalised " << normalized << ": " << result.message);
        CHECK(largest_difference(to_host(phi), expected) < 1e-13);
        CHECK(result);
      };
      check(SigmoidWeights{.bias = -0.3}, CosineScore{});
      check(SoftmaxWeights{}, DotScore{});
      check(BestPatches{}, DotScore{});
    }
}

TEST_CASE("pair_compatibility: zero patches, zero texts and no texts are defined", "[ops][pair_compatibility]") {
  auto ctx = nan_filled_context();
  for (const auto& options : all_options) {
    auto v = random_tensor<double, 3>(ctx, {2, 4, 3}, 1);
    auto t = random_tensor<double, 2>(ctx, {3, 3}, 2);
    std::fill_n(v.data + 3, 3, 0.0);    // one patch of image 0
    std::fill_n(v.data + 12, 12, 0.0);  // all of image 1
    std::fill_n(t.data + 6, 3, 0.0);    // text 2
    const auto g = run(ctx, v, t, random_tensor<double, 2>(ctx, {2, 3}, 3), options);
    CHECK(largest_difference(to_host(g.phi), reference(view(v), view(t), options)) < 1e-14);
    CHECK(g.phi(0, 2) == 0);
    CHECK(g.phi(1, 0) == 0);
    for (double x : to_host(g.d_patches)) CHECK(std::isfinite(x));
    for (double x : to_host(g.d_texts)) CHECK(std::isfinite(x));
    for (int64_t c = 0; c < 3; ++c) CHECK(g.d_texts(2, c) == 0);

    Tensor<double, 2> nothing(ctx, {0, 3}), no_pairs(ctx, {2, 0});
    const auto empty = run(ctx, v, nothing, no_pairs, options);
    for (double x : to_host(empty.d_patches)) CHECK(x == 0);
  }
}

TEST_CASE("pair_compatibility: 1, 2, 3 and 16 threads give equal bits", "[ops][pair_compatibility]") {
  auto ctx = nan_filled_context();
  auto v = random_tensor<float, 3>(ctx, {70, 65, 48}, 1);
  auto t = random_tensor<float, 2>(ctx, {270, 48}, 2);
  auto d_phi = random_tensor<float, 2>(ctx, {70, 270}, 3);
  const int before = omp_get_max_threads();
  std::vector<Gradients<float>> runs;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    runs.push_back(run(ctx, v, t, d_phi, {.attention_scale = 5}));
  }
  omp_set_num_threads(before);
  for (size_t i = 1; i < runs.size(); ++i) {
    CHECK(to_host(runs[i].phi) == to_host(runs[0].phi));
    CHECK(to_host(runs[i].d_patches) == to_host(runs[0].d_patches));
    CHECK(to_host(runs[i].d_texts) == to_host(runs[0].d_texts));
  }
}

TEST_CASE("pair_compatibility: work space is a few tiles of texts a thread, never [B, K, D]",
          "[ops][pair_compatibility]") {
  Context<Cpu> ctx;
  const int64_t images = 4, count = 1500, channels = 32, texts = 800;
  auto v = random_tensor<float, 3>(ctx, {images, count, channels}, 1);
  auto t = random_tensor<float, 2>(ctx, {texts, channels}, 2);
  auto d_phi = random_tensor<float, 2>(ctx, {images, texts}, 3);
  const int before = omp_get_max_threads();
  omp_set_num_threads(2);
  const size_t inputs = ctx.pool->bytes_in_use();
  ctx.pool->reset_peak();
  const auto g = run(ctx, v, t, d_phi, {.attention_scale = 5});
  const size_t peak = ctx.pool->peak_bytes() - inputs;
  omp_set_num_threads(before);
  const size_t results = sizeof(float) * size_t(2 * images * texts + v.size() + t.size());
  const size_t tiles = sizeof(float) * size_t(2 * (3 * 256 * count + 256 * channels + count * channels));
  const size_t text_sums = sizeof(float) * size_t((images + 1) * texts * channels);
  CHECK(peak < (results + tiles + text_sums) * 5 / 4);
}

TEST_CASE("pair_compatibility: errors name the argument, the axis and the numbers", "[ops][pair_compatibility]") {
  auto ctx = nan_filled_context();
  auto v = random_tensor<float, 3>(ctx, {2, 4, 8}, 1);
  auto t = random_tensor<float, 2>(ctx, {3, 7}, 2);
  REQUIRE_ERROR(pair_compatibility(ctx, v, t), ShapeError, "axis D of texts [3, 7] is 7 but must be 8 (from patches)");
  REQUIRE_ERROR(pair_compatibility(ctx, Tensor<float, 3>(ctx, {2, 0, 7}), t), ShapeError, "at least one patch");
  Tensor<float, 2> phi(ctx, {2, 4});
  REQUIRE_ERROR(pair_compatibility_forward(ctx, view(phi), v.slice(2, 0, 7), t), ShapeError, "axis K of phi [2, 4]");
  Tensor<float, 2> right(ctx, {2, 3});
  REQUIRE_ERROR(pair_compatibility_forward(ctx, view(right), v.slice(2, 0, 7), t), ShapeError,
                "patches [2, 4, 7] is a view with strides");
  auto texts = random_tensor<float, 2>(ctx, {3, 8}, 2);
  REQUIRE_ERROR(pair_compatibility_backward(ctx, TensorView<float, 3>{}, {}, phi, right, v, texts), ShapeError,
                "axis K of d_phi [2, 4]");
}

TEMPLATE_TEST_CASE("pair_compatibility: values and gradients are PyTorch's", "[ops][pair_compatibility]", float,
                   double) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 3e-6 : 1e-12;
  Context<Cpu> ctx;
  const auto file = io::TensorSource::open(TESSERA_TEST_DIR "/golden/pair_compatibility.safetensors");
  const auto matrix = [&](const std::string& name) { return file.read<T, 2>(ctx, name); };
  const auto patches = file.read<T, 3>(ctx, "patches");
  for (const std::string variant : {"raw", "sharp", "normalized"}) {
    const PairCompatibilityOptions options{variant == "raw" ? 1.0 : 5.0, variant == "normalized"};
    const auto g = run(ctx, patches, matrix("texts"), matrix("d_phi"), options);
    INFO(variant);
    CHECK(largest_difference(view(g.phi), view(matrix(variant + ".phi"))) < tolerance);
    CHECK(largest_difference(view(g.d_texts), view(matrix(variant + ".d_texts"))) < tolerance);
    CHECK(largest_difference(view(g.d_patches), view(file.read<T, 3>(ctx, variant + ".d_patches"))) < tolerance);
  }
}
