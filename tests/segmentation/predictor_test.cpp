// The way from a picture to labels, with models whose scores are known functions of place or colour.
#include <tessera/segmentation/class_embeddings.hpp>
#include <tessera/segmentation/predictor.hpp>

#include <cmath>

#include <support/catch.hpp>
#include <support/random.hpp>

using namespace tessera;
using namespace tessera::segmentation;

namespace {

/// Scores: row 0 the column of a patch's centre (of the whole input), row 1 its row, row 2 its centre's red value, row
/// 3 a constant; times the class embeddings' first entry.
class PlaceModel : public DenseModel {
 public:
  int64_t patch = 8, step = 8;
  double gate = 0;

  std::string system() const override { return "place"; }
  Tensor<float, 2> encode_text(Context<Cpu>& ctx, const Tensor<int32_t, 2>& ids) const override {
    Tensor<float, 2> vectors(ctx, {ids.shape[0], 2});
    for (int64_t n = 0; n < ids.shape[0]; ++n) {  // depends on the text alone, length differs from 1
      double sum = 0;
      for (int64_t i = 0; i < ids.shape[1]; ++i) sum += double((i + 1) * ids(n, i));
      vectors(n, 0) = float(3 * std::cos(sum));
      vectors(n, 1) = float(2 * std::sin(sum));
    }
    return vectors;
  }
  DenseScores score(Context<Cpu>& ctx, const Tensor<float, 4>& image,
                    const TensorView<const float, 2>& classes) const override {
    DenseScores result;
    result.grid = patch_grid(image.shape[2], image.shape[3], {patch, step});
    result.scores = Tensor<float, 2>(ctx, {result.grid.count(), classes.shape[0]});
    result.patch_embeddings = Tensor<float, 2>::zeros(ctx, {result.grid.count(), 2});
    for (int64_t p = 0; p < result.grid.count(); ++p) {
      const double x = 0.5 * double(patch) + double(p % result.grid.width * step);
      const double y = 0.5 * double(patch) + double(p / result.grid.width * step);
      const double red = image(0, 0, int64_t(y), int64_t(x));
      const double rows[4] = {x, y, red, 1};
      for (int64_t n = 0; n < classes.shape[0]; ++n) result.scores(p, n) = float(rows[n % 4]) * classes(n, 0);
    }
    if (gate != 0) {
      result.gate = Tensor<float, 1>::zeros(ctx, {classes.shape[0]});
      result.gate(0) = float(gate);
    }
    return result;
  }
  Tensor<float, 1> score_image(Context<Cpu>& ctx, const Tensor<float, 4>&,
                               const TensorView<const float, 2>& classes) const override {
    return Tensor<float, 1>::zeros(ctx, {classes.shape[0]});
  }
  int64_t image_size() const override { return 32; }
  int64_t patch_size() const override { return patch; }
  int64_t stride() const override { return step; }
  int64_t context_length() const override { return 12; }
  int64_t vocabulary_size() const override { return 600; }
  double scale() const override { return 100; }
  data::ImageStatistics statistics() const override { return {{0, 0, 0}, {1, 1, 1}}; }
};

Tensor<float, 2> factors(Context<Cpu>& ctx, const std::vector<float>& values) {
  return Tensor<float, 2>::from_host(ctx, {int64_t(values.size()), 1}, values);
}

data::Tokenizer small_tokenizer() {
  const std::vector<std::string> captions = {"a photo of a cat", "a photo of a dog and a puppy", "grass in the sky"};
  return data::Tokenizer::learn(captions, 600);
}

}  // namespace

TEST_CASE("predictor: resized sizes follow CLIP's truncation up to the longest side", "[segmentation]") {
  CHECK(resized_size(Image(451, 300), 100, 2048) == data::Size{150, 100});
  CHECK(resized_size(Image(300, 451), 100, 2048) == data::Size{100, 150});
  CHECK(resized_size(Image(1, 1), 32, 2048) == data::Size{32, 32});
  CHECK(resized_size(Image(8000, 50), 224, 2048) == data::Size{2048, 13});
  CHECK(resized_size(Image(50, 8000), 224, 2048) == data::Size{13, 2048});
  CHECK(resized_size(Image(100, 10), 30, 300) == data::Size{300, 30});
  REQUIRE_ERROR(resized_size(Image(10, 10), 4096, 2048), ValueError, "1 to 2048 pixels, not 4096");
}

TEST_CASE("predictor: padding is zeros at the bottom and the right until patches fit", "[segmentation]") {
  auto ctx = tessera_test::nan_filled_context();
  const Image image(21, 13, 3, 255);
  const auto whole = padded_tensor(ctx, image, {{0, 0, 0}, {1, 1, 1}}, 8, 8);
  REQUIRE(whole.shape == Shape<4>{1, 3, 16, 24});
  const auto overlapping = padded_tensor(ctx, image, {{0, 0, 0}, {1, 1, 1}}, 8, 4);
  REQUIRE(overlapping.shape == Shape<4>{1, 3, 16, 24});
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t y = 0; y < 16; ++y)
      for (int64_t x = 0; x < 24; ++x) REQUIRE(whole(0, c, y, x) == (y < 13 && x < 21 ? 1.f : 0.f));
  CHECK(padded_tensor(ctx, Image(3, 5, 3), {}, 8, 4).shape == Shape<4>{1, 3, 8, 8});
}

TEST_CASE("predictor: a score that is a function of place lies where it belongs", "[segmentation]") {
  auto ctx = tessera_test::nan_filled_context();
  PlaceModel model;
  // Row 0 grows with the column, row 1 with the row: the diagonal of the resized picture separates them. At the
  // borders, beyond the outermost patch centres, scores stay as they are at those centres.
  for (const int64_t step : {8, 4})
    for (const auto& [width, height, side] : {std::tuple{64, 64, 64}, {100, 60, 40}, {37, 90, 44}, {200, 150, 61}}) {
      model.step = step;
      INFO("stride " << step << ", picture " << width << " x " << height << " at " << side);
      const auto map = score_picture(ctx, model, factors(ctx, {1, 1}), Image(width, height), {.size = side});
      const LabelMap labels = label_picture(ctx, map);
      REQUIRE(labels.width == width);
      REQUIRE(labels.height == height);
      const auto centre_of_last = [&](int64_t cells) { return 4.0 + double((cells - 1) * step); };
      int wrong = 0;
      for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) {
          const double column =
              std::clamp((x + 0.5) * map.resized.width / width, 4.0, centre_of_last(map.scores.shape[2]));
          const double row =
              std::clamp((y + 0.5) * map.resized.height / height, 4.0, centre_of_last(map.scores.shape[1]));
          if (std::abs(column - row) > 1e-3) wrong += labels.at(x, y) != (column < row);
        }
      CHECK(wrong == 0);
    }
}

TEST_CASE("predictor: windows are averaged at the resized picture's size", "[segmentation]") {
  auto ctx = tessera_test::nan_filled_context();
  PlaceModel model;
  Image image(90, 60, 3, 0);
  for (int y = 0; y < 60; ++y)
    for (int x = 45; x < 90; ++x) image.at(x, y)[0] = 255;
  const PredictorOptions options{.size = 60, .window = 32, .window_stride = 14};
  // row 2: red, 0 or 1; row 3: the constant 1, halved
  const auto embeddings = factors(ctx, {0, 0, 1, 0.5});
  const auto map = score_picture(ctx, model, embeddings, image, options);
  CHECK(map.scores.shape == Shape<3>{4, 60, 90});
  CHECK_FALSE(map.patch_embeddings);
  for (int64_t i = 0; i < 60 * 90; ++i) REQUIRE(map.scores.data[3 * 60 * 90 + i] == Approx(0.5));
  const LabelMap labels = label_picture(ctx, map);
  int wrong = 0;
  for (int y = 0; y < 60; ++y)
    for (int x = 0; x < 90; ++x)
      if (std::abs(x + 0.5 - 45) > 8) wrong += labels.at(x, y) != (x < 45 ? 3 : 2);
  CHECK(wrong == 0);
  // a window as large as the picture: the map of the whole picture, upsampled
  const auto one = score_picture(ctx, model, embeddings, image, {.size = 60, .window = 200, .window_stride = 100});
  const auto whole = score_picture(ctx, model, embeddings, image, {.size = 60});
  CHECK(label_picture(ctx, one).labels == label_picture(ctx, whole).labels);
  REQUIRE_ERROR(score_picture(ctx, model, embeddings, image, {.window = 10, .window_stride = 11}), ValueError,
                "at most the window");
}

TEST_CASE("predictor: a gate is added to a class everywhere, with windows and without", "[segmentation]") {
  Context<Cpu> ctx;
  PlaceModel model;
  const auto embeddings = factors(ctx, {0, 0, 0, 0.5});  // only row 3 has a score, 0.5
  for (const int window : {0, 16}) {
    INFO("window " << window);
    const PredictorOptions options{.window = window};
    model.gate = 0;
    CHECK(label_picture(ctx, score_picture(ctx, model, embeddings, Image(40, 40), options)).at(20, 20) == 3);
    model.gate = 0.75;
    const auto map = score_picture(ctx, model, embeddings, Image(40, 40), options);
    CHECK(map.scores.data[0] == 0.f);  // cosines stay as they are
    const LabelMap labels = label_picture(ctx, map);
    CHECK(std::count(labels.labels.begin(), labels.labels.end(), 0) == 40 * 40);
  }
}

TEST_CASE("predictor: the background is where the largest probability is low, or the entropy high", "[segmentation]") {
  auto ctx = tessera_test::nan_filled_context();
  for (const int64_t classes : {1, 3, 21}) {
    ScoreMap map;
    map.scores = tessera_test::random_tensor<float>(ctx, Shape<3>{classes, 5, 7}, 11, 0.02);
    map.first = 4;
    map.spacing = 8;
    map.resized = {56, 40};
    map.original = {131, 97};
    LabelRule rule{.background_threshold = 0.6, .scale = 50};
    for (int64_t c = 0; c < classes; ++c) rule.label_of_row.push_back(uint16_t(c + 1));
    const LabelMap labels = label_picture(ctx, map, rule);
    LabelRule by_entropy{.label_of_row = rule.label_of_row, .background_entropy = 0.5, .entropy_scale = 60};
    const LabelMap certain = label_picture(ctx, map, by_entropy);
    // the same with all classes at full size, in double
    const auto columns = AxisSampling::centres(4, 8, 0.5 * 56 / 131, 56.0 / 131);
    const auto rows = AxisSampling::centres(4, 8, 0.5 * 40 / 97, 40.0 / 97);
    const auto full =
        interpolate(ctx, map.scores.reshape(Shape<4>{1, classes, 5, 7}), {97, 131}, {.rows = rows, .columns = columns});
    int wrong = 0, background = 0, uncertain = 0;
    for (int y = 0; y < 97; ++y)
      for (int x = 0; x < 131; ++x) {
        int64_t best = 0;
        for (int64_t c = 1; c < classes; ++c)
          if (full(0, c, y, x) > full(0, best, y, x)) best = c;
        double sum = 0;
        for (int64_t c = 0; c < classes; ++c) sum += std::exp(50.0 * (double(full(0, c, y, x)) - full(0, best, y, x)));
        double total = 0, entropy = 0;
        for (int64_t c = 0; c < classes; ++c) total += std::exp(60.0 * double(full(0, c, y, x)));
        for (int64_t c = 0; c < classes; ++c) {
          const double probability = std::exp(60.0 * double(full(0, c, y, x))) / total;
          entropy -= probability * std::log(probability);
        }
        if (std::abs(entropy - 0.5) > 1e-5) {
          uncertain += entropy > 0.5;
          wrong += certain.at(x, y) != (entropy > 0.5 ? 0 : int(best) + 1);
        }
        if (std::abs(1 / sum - 0.6) < 1e-5) continue;
        const int expected = 1 / sum < 0.6 ? 0 : int(best) + 1;
        background += expected == 0;
        wrong += labels.at(x, y) != expected;
      }
    INFO(classes << " classes");
    CHECK(wrong == 0);
    CHECK((background > 0) == (classes > 1));
    CHECK((uncertain > 0) == (classes > 1));
  }
  ScoreMap map;
  map.scores = Tensor<float, 3>::zeros(ctx, {2, 1, 1});
  map.resized = map.original = {1, 1};
  REQUIRE_ERROR(label_picture(ctx, map, {.background_threshold = 1.5}), ValueError, "threshold is 1.5");
  REQUIRE_ERROR(label_picture(ctx, map, {.background_entropy = -1}), ValueError, "entropy is -1");
  REQUIRE_ERROR(label_picture(ctx, map, {.background_threshold = 0.5, .background_entropy = 1}), ValueError,
                "not by both");
  REQUIRE_ERROR(label_picture(ctx, map, {.label_of_row = {1}}), ValueError, "1 labels for 2 rows");
}

TEST_CASE("predictor: pictures of any shape and kind are labelled at their own size", "[segmentation]") {
  Context<Cpu> ctx;
  const PlaceModel model;
  for (const auto& [width, height, channels] :
       {std::tuple{1, 1, 3}, {8000, 50, 3}, {50, 8000, 3}, {33, 21, 1}, {33, 21, 4}, {33, 21, 2}}) {
    const LabelMap labels =
        label_picture(ctx, score_picture(ctx, model, factors(ctx, {1, 1}), Image(width, height, channels)));
    CHECK(labels.width == width);
    CHECK(labels.height == height);
  }
}

TEST_CASE("class embeddings: batches do not matter, rules of synonyms do", "[segmentation]") {
  auto ctx = tessera_test::nan_filled_context();
  const PlaceModel model;
  const auto tokenizer = small_tokenizer();
  const PromptSet prompts{"two", EnsembleRule::raw_mean, {"a photo of a {}", "{}"}};
  const std::vector<std::vector<std::string>> names = {{"cat"}, {"dog", "puppy"}, {"grass"}};
  const auto all = embed_classes(ctx, model, tokenizer, prompts, names);
  CHECK(all.vectors.shape == Shape<2>{3, 2});
  CHECK(all.class_of_row == std::vector<int32_t>{0, 1, 2});
  CHECK(all.texts == 8);
  for (int64_t batch : {1, 3, 100}) {
    const auto again = embed_classes(ctx, model, tokenizer, prompts, names, {.batch = batch});
    CHECK(to_host(view(again.vectors)) == to_host(view(all.vectors)));
  }
  const auto separate = embed_classes(ctx, model, tokenizer, prompts, names, {SynonymRule::best});
  CHECK(separate.class_of_row == std::vector<int32_t>{0, 1, 1, 2});
  REQUIRE(separate.vectors.shape == Shape<2>{4, 2});
  // by hand: the raw mean of two sentences, brought to length 1
  const auto raw = model.encode_text(ctx, tokenizer.tokenize(ctx, {"a photo of a cat", "cat"}, {.context_length = 12}));
  const double x = raw(0, 0) + raw(1, 0), y = raw(0, 1) + raw(1, 1);
  CHECK(all.vectors(0, 0) == Approx(x / std::hypot(x, y)).margin(1e-6));
  CHECK(separate.vectors(0, 1) == Approx(y / std::hypot(x, y)).margin(1e-6));
  const double dog_and_puppy = separate.vectors(1, 0) + separate.vectors(2, 0);
  const double other = separate.vectors(1, 1) + separate.vectors(2, 1);
  CHECK(all.vectors(1, 0) == Approx(dog_and_puppy / std::hypot(dog_and_puppy, other)).margin(1e-6));
}

TEST_CASE("class embeddings: long texts are cut and counted, foreign tokenizers refused", "[segmentation]") {
  Context<Cpu> ctx;
  const auto tokenizer = small_tokenizer();
  PlaceModel model;
  const PromptSet prompts{"long", EnsembleRule::normalise_each, {"{}", "a zebra quacks jovially at the {} forever"}};
  const auto result = embed_classes(ctx, model, tokenizer, prompts, {{"cat"}});
  CHECK(result.texts == 2);
  CHECK(result.shortened == 1);
  class Narrow : public PlaceModel {
   public:
    int64_t vocabulary_size() const override { return 100; }
  };
  REQUIRE_ERROR(embed_classes(ctx, Narrow(), tokenizer, prompts, {{"cat"}}), ValueError, "only 100 rows");
  REQUIRE_ERROR(embed_classes(ctx, model, tokenizer, prompts, {}), ValueError, "no classes");
}
