// MaskCLIP: the forms, the official code's numerics, and both refinements against a plain reference in double.
#include <tessera/systems/maskclip.hpp>

#include <support/modules.hpp>

using namespace tessera;
using namespace tessera::systems;
using namespace tessera_test;

namespace {

ClipConfig tiny_maskclip() {
  ClipConfig config;
  config.vision = {
      .image_size = 16, .patch_size = 4, .transformer = {.width = 16, .layers = 3, .heads = 2}, .embed_dim = 10};
  config.text = {.vocabulary_size = 13,
                 .context_length = 5,
                 .transformer = {.width = 6, .layers = 1, .heads = 3},
                 .embed_dim = 10};
  return config;
}
Clip<float> model(Context<Cpu>& ctx) {
  auto clip = make_clip<float>(ctx, tiny_maskclip());
  randomise(clip, 3);
  return clip;
}
Tensor<float, 4> picture(Context<Cpu>& ctx) { return random_tensor<float>(ctx, Shape<4>{1, 3, 12, 20}, 6); }
Tensor<float, 2> classes(Context<Cpu>& ctx) {
  return l2_normalise(ctx, view(random_tensor<float>(ctx, Shape<2>{4, 10}, 5)));
}

using Matrix = std::vector<std::vector<double>>;
Matrix matrix(const Tensor<float, 2>& t) {
  Matrix m(size_t(t.shape[0]), std::vector<double>(size_t(t.shape[1])));
  for (int64_t i = 0; i < t.shape[0]; ++i)
    for (int64_t j = 0; j < t.shape[1]; ++j) m[size_t(i)][size_t(j)] = t(i, j);
  return m;
}
Matrix row_softmax(const Matrix& m, double scale) {
  Matrix p = m;
  for (auto& row : p) {
    double most = -1e300, total = 0;
    for (double v : row) most = std::max(most, v);
    for (double& v : row) total += v = std::exp(scale * (v - most));
    for (double& v : row) v /= total;
  }
  return p;
}
// A class whose probability nowhere reaches the threshold is out: its probability is zero wherever another is in.
Matrix denoised(Matrix scores, double threshold, double scale) {
  const Matrix p = row_softmax(scores, scale);
  for (size_t n = 0; n < scores[0].size(); ++n) {
    double most = 0;
    for (const auto& row : p) most = std::max(most, row[n]);
    if (most < threshold)
      for (auto& row : scores) row[n] = -1;
  }
  return scores;
}
// keys [P, C], normalised along the patches, one channel at a time; weights' rows are not.
Matrix smoothed(const Matrix& scores, Matrix keys, double threshold, double scale) {
  for (size_t c = 0; c < keys[0].size(); ++c) {
    double squares = 0;
    for (const auto& row : keys) squares += row[c] * row[c];
    for (auto& row : keys) row[c] /= std::sqrt(squares);
  }
  const Matrix p = row_softmax(scores, scale);
  Matrix result = p;
  for (size_t i = 0; i < p.size(); ++i) {
    if (*std::max_element(p[i].begin(), p[i].end()) >= threshold) continue;
    for (size_t n = 0; n < p[0].size(); ++n) {
      result[i][n] = 0;
      for (size_t j = 0; j < p.size(); ++j) {
        double weight = 0;
        for (size_t c = 0; c < keys[0].size(); ++c) weight += keys[i][c] * keys[j][c];
        result[i][n] += weight * p[j][n];
      }
    }
  }
  return result;
}
void check_close(const Tensor<float, 2>& ours, const Matrix& expected, double tolerance) {
  REQUIRE(ours.shape[0] == int64_t(expected.size()));
  double worst = 0;
  for (int64_t i = 0; i < ours.shape[0]; ++i)
    for (int64_t j = 0; j < ours.shape[1]; ++j)
      worst = std::max(worst, std::abs(ours(i, j) - expected[size_t(i)][size_t(j)]));
  CHECK(worst < tolerance);
}
Tensor<float, 2> keys_of(Context<Cpu>& ctx, const Clip<float>& clip, const Tensor<float, 4>& image) {
  Tape<Cpu> tape(ctx, false);
  const auto& block = clip.visual.transformer.resblocks.back();
  const auto before = clip.visual.before_last_block(tape, Variable<float, 4>(image));
  const auto keys = block.attn.key_path(tape, block.ln_1(tape, before));
  const auto patches = slice(tape, keys, 1, 1, keys.shape()[1]).value();
  return patches.reshaped(Shape<2>{patches.shape[1], patches.shape[2]});
}

}  // namespace

TEST_CASE("maskclip: both forms, composed by hand", "[systems]") {
  auto ctx = nan_filled_context();
  const auto clip = model(ctx);
  const Variable<float, 4> image(picture(ctx));
  Tape<Cpu> tape(ctx, false);
  const auto& visual = clip.visual;
  const auto& last = visual.transformer.resblocks[2];
  auto x = visual.embed(tape, image);
  for (size_t i = 0; i < 2; ++i) x = visual.transformer.resblocks[i](tape, x);
  // value: out_proj(v_proj(ln_1 x)) with the third part of the packed projection
  const auto weight = slice(tape, last.attn.in_proj_weight, 0, 32, 48);
  const auto bias = slice(tape, last.attn.in_proj_bias, 0, 32, 48);
  const auto value = last.attn.out_proj(tape, linear(tape, last.ln_1(tape, x), weight, bias));
  const auto kept = add(tape, x, value);
  const auto residual = add(tape, kept, last.mlp(tape, last.ln_2(tape, kept)));
  for (const auto& [form, tokens] : {std::pair{MaskclipForm::value, value}, {MaskclipForm::residual, residual}}) {
    const auto projected = matmul(tape, visual.ln_post(tape, slice(tape, tokens, 1, 1, 16)), visual.proj);
    const auto expected = l2_normalise(tape, projected).value();
    const auto result = maskclip(ctx, clip, picture(ctx), classes(ctx), {.form = form});
    CHECK(result.grid == PatchGrid{3, 5});
    REQUIRE(result.patch_embeddings.shape == Shape<2>{15, 10});
    CHECK(largest_difference(to_host(view(result.patch_embeddings)), to_host(view(expected))) < 2e-6);
    CHECK(to_host(view(maskclip_patch_embeddings(tape, clip, image, form).value())) ==
          to_host(view(result.patch_embeddings)));
    for (int64_t p = 0; p < 15; ++p)
      for (int64_t n = 0; n < 4; ++n) {
        double cosine = 0;
        for (int64_t e = 0; e < 10; ++e) cosine += double(result.patch_embeddings(p, e)) * double(classes(ctx)(n, e));
        CHECK(result.scores(p, n) == Approx(cosine).margin(1e-6));
      }
  }
}

TEST_CASE("maskclip: the official numerics are GELU and epsilon 1e-6, in a copy", "[systems]") {
  auto ctx = nan_filled_context();
  const auto clip = model(ctx);
  const auto official = with_official_numerics(clip);
  for (const auto& block : official.visual.transformer.resblocks) {
    CHECK(block.mlp.activation == Activation::gelu);
    CHECK(block.ln_1.epsilon == 1e-6);
    CHECK(block.ln_2.epsilon == 1e-6);
  }
  CHECK(official.visual.ln_pre.epsilon == 1e-6);
  CHECK(official.visual.ln_post.epsilon == 1e-6);
  CHECK(clip.visual.transformer.resblocks[0].mlp.activation == Activation::quick_gelu);  // the original is as it was
  CHECK(clip.visual.ln_post.epsilon == 1e-5);
  CHECK(official.text.transformer.resblocks[0].mlp.activation == Activation::quick_gelu);  // texts are CLIP's own
  CHECK(official.visual.proj.value().data == clip.visual.proj.value().data);               // the weights are shared
  auto by_hand = make_clip<float>(ctx, [] {
    auto config = tiny_maskclip();
    config.vision.transformer.activation = Activation::gelu;
    config.vision.transformer.epsilon = 1e-6;
    return config;
  }());
  randomise(by_hand, 3);
  const auto a = maskclip(ctx, official, picture(ctx), classes(ctx)),
             b = maskclip(ctx, by_hand, picture(ctx), classes(ctx));
  CHECK(to_host(view(a.scores)) == to_host(view(b.scores)));
  CHECK(to_host(view(a.scores)) != to_host(view(maskclip(ctx, clip, picture(ctx), classes(ctx)).scores)));
}

TEST_CASE("maskclip: prompt denoising takes out classes that no patch takes for likely", "[systems]") {
  auto ctx = nan_filled_context();
  const auto clip = model(ctx);
  const auto plain = maskclip(ctx, clip, picture(ctx), classes(ctx));
  for (const double threshold : {0.3, 0.9, 0.999}) {
    const MaskclipOptions options{.prompt_denoising = threshold, .refinement_scale = 7};
    const auto ours = maskclip(ctx, clip, picture(ctx), classes(ctx), options);
    check_close(ours.scores, denoised(matrix(plain.scores), threshold, 7), 1e-6);
    CHECK(to_host(view(ours.patch_embeddings)) == to_host(view(plain.patch_embeddings)));
  }
  // the thresholds above part the classes: some stay, some go
  int taken_out = 0;
  const auto some = maskclip(ctx, clip, picture(ctx), classes(ctx), {.prompt_denoising = 0.9, .refinement_scale = 7});
  for (int64_t n = 0; n < 4; ++n) taken_out += some.scores(0, n) == -1;
  CHECK(taken_out > 0);
  CHECK(taken_out < 4);
}

TEST_CASE("maskclip: key smoothing spreads probabilities over patches with similar keys", "[systems]") {
  auto ctx = nan_filled_context();
  const auto clip = model(ctx);
  const Matrix keys = matrix(keys_of(ctx, clip, picture(ctx)));
  for (const MaskclipForm form : {MaskclipForm::residual, MaskclipForm::value}) {
    const auto plain = maskclip(ctx, clip, picture(ctx), classes(ctx), {.form = form});
    const Matrix scores = matrix(plain.scores);
    for (const double threshold : {0.8, 1.0}) {
      const MaskclipOptions options{.form = form, .key_smoothing = threshold, .refinement_scale = 7};
      const auto ours = maskclip(ctx, clip, picture(ctx), classes(ctx), options);
      check_close(ours.scores, smoothed(scores, keys, threshold, 7), 1e-5);
    }
    // denoising comes first
    const MaskclipOptions both{.form = form, .prompt_denoising = 0.9, .key_smoothing = 0.8, .refinement_scale = 7};
    check_close(maskclip(ctx, clip, picture(ctx), classes(ctx), both).scores,
                smoothed(denoised(scores, 0.9, 7), keys, 0.8, 7), 1e-5);
  }
}

TEST_CASE("maskclip: overlapping patches are those of the picture moved by the stride", "[systems]") {
  auto ctx = nan_filled_context();
  // At the patch size the stride is no option at all.
  const auto deep = model(ctx);
  const auto plain = maskclip(ctx, deep, picture(ctx), classes(ctx));
  const auto same = maskclip(ctx, deep, picture(ctx), classes(ctx), {.patch_stride = 4});
  CHECK(same.grid == plain.grid);
  CHECK(to_host(view(same.scores)) == to_host(view(plain.scores)));
  // Without other blocks and without positions a patch depends on its own pixels alone: every patch of the dense grid
  // is the one patch of a picture cut out there.
  auto config = tiny_maskclip();
  config.vision.transformer.layers = 1;
  auto clip = make_clip<float>(ctx, config);
  randomise(clip, 3);
  clip.visual.positional_embedding.state().value.set_zero();
  for (const MaskclipForm form : {MaskclipForm::residual, MaskclipForm::value})
    for (const int64_t stride : {1, 2}) {
      const auto dense = maskclip(ctx, clip, picture(ctx), classes(ctx), {.form = form, .patch_stride = stride});
      const PatchGrid grid{(12 - 4) / stride + 1, (20 - 4) / stride + 1};
      REQUIRE(dense.grid == grid);
      REQUIRE(dense.patch_embeddings.shape == Shape<2>{grid.count(), 10});
      REQUIRE(dense.scores.shape == Shape<2>{grid.count(), 4});
      double worst = 0;
      for (int64_t p = 0; p < grid.count(); ++p) {
        const auto from = picture(ctx);
        Tensor<float, 4> cut(ctx, {1, 3, 4, 4});
        for (int64_t c = 0; c < 3; ++c)
          for (int64_t y = 0; y < 4; ++y)
            for (int64_t x = 0; x < 4; ++x)
              cut(0, c, y, x) = from(0, c, p / grid.width * stride + y, p % grid.width * stride + x);
        const auto alone = maskclip(ctx, clip, cut, classes(ctx), {.form = form});
        for (int64_t n = 0; n < 4; ++n)
          worst = std::max(worst, std::abs(double(alone.scores(0, n)) - double(dense.scores(p, n))));
      }
      CHECK(worst < 2e-6);
    }
}

TEST_CASE("maskclip: patch embeddings are differentiable", "[systems]") {
  auto ctx = nan_filled_context();
  auto config = tiny_maskclip();
  config.vision.transformer.width = 4;
  config.vision.embed_dim = config.text.embed_dim = 3;
  auto clip = make_clip<double>(ctx, config);
  randomise(clip, 3);
  const auto image = random_variable(ctx, Shape<4>{1, 3, 8, 8}, 1);
  for (const MaskclipForm form : {MaskclipForm::residual, MaskclipForm::value}) {
    const auto result = gradcheck(
        ctx, {.most_elements = 30},
        [&](auto& tape, const auto& x) { return maskclip_patch_embeddings(tape, clip, x, form); }, image);
    INFO(result.message);
    CHECK(result);
  }
}

TEST_CASE("maskclip: one image at a time", "[systems]") {
  auto ctx = nan_filled_context();
  const auto clip = model(ctx);
  REQUIRE_ERROR(maskclip(ctx, clip, random_tensor<float>(ctx, Shape<4>{2, 3, 12, 20}, 6), classes(ctx)), ShapeError,
                "one image at a time, not 2");
}
