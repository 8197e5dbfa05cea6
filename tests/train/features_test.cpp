// The cache of features: what is stored, a run that goes on where another ended, what is refused, batches in the order
// of pictures; and vectors of texts that are encoded once.
#include <tessera/train/batches.hpp>
#include <tessera/train/feature_cache.hpp>
#include <tessera/train/text_vectors.hpp>

#include <io/folder.hpp>
#include <support/catch.hpp>

using namespace tessera;
using namespace tessera::train;
using tessera_test::Folder;
namespace fs = std::filesystem;

namespace {

/// Seven pictures of 8 pixels, one of them wider.
class Pictures : public data::CaptionSource {
 public:
  explicit Pictures(std::string word = "picture ") : word_(std::move(word)) {}
  int64_t size() const override { return 7; }
  data::Sample get(int64_t index) const override {
    data::Image image(index == 3 ? 13 : 8, 8);
    for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = uint8_t((i * 37 + size_t(index) * 59) % 251);
    return {sentence("key", index), image, caption(index)};
  }
  std::string caption(int64_t index) const override { return word_ + std::to_string(index); }

 private:
  std::string word_;
};

/// Four patches of 4 x 4 pixels; of each the colour of its first pixel.
Tensor<float, 3> first_pixels(const Tensor<float, 4>& images) {
  static Context<Cpu> ctx;
  Tensor<float, 3> tokens(ctx, {images.shape[0], 4, 3});
  for (int64_t b = 0; b < images.shape[0]; ++b)
    for (int64_t p = 0; p < 4; ++p)
      for (int64_t c = 0; c < 3; ++c) tokens(b, p, c) = images(b, c, p / 2 * 4, p % 2 * 4);
  return tokens;
}
FeatureRecipe recipe(Dtype dtype = Dtype::f32) {
  return {.encoder = "clip",
          .fingerprint = 17,
          .tokens = "ln_post",
          .image_size = 8,
          .patches = 4,
          .width = 3,
          .dtype = dtype,
          .pictures_per_shard = 3};
}
bool go_on(int64_t) { return true; }

Tensor<float, 3> tokens_of(Context<Cpu>& ctx, const Pictures& pictures, int64_t index) {
  Tensor<float, 4> image(ctx, {1, 3, 8, 8});
  data::normalise_image({image.data, {3, 8, 8}}, central_square(pictures.get(index).image, 8), data::clip_statistics);
  return first_pixels(image);
}

}  // namespace

TEST_CASE("features: the encoder's tokens of the central squares, as wide as asked", "[train]") {
  Context<Cpu> ctx;
  const Pictures pictures;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
    const Folder folder;
    CHECK(write_features(ctx, pictures, folder.path(), recipe(dtype), first_pixels, go_on, 2) == 0);
    const FeatureStore store(folder.path());
    CHECK(store.size() == 7);
    const auto stored = store.read(ctx, {3, 6, 0});
    REQUIRE(stored.shape == Shape<3>{3, 4, 3});
    for (const auto& [row, index] : {std::pair{0, 3}, {1, 6}, {2, 0}}) {
      const auto expected = tokens_of(ctx, pictures, index);
      for (int64_t i = 0; i < 12; ++i) {
        const float value = expected.data[i], ours = stored.data[row * 12 + i];
        if (dtype == Dtype::f32) CHECK(ours == value);
        if (dtype == Dtype::bf16) CHECK(ours == widen(narrow<bfloat16>(value)));
        if (dtype == Dtype::f16) CHECK(ours == widen(narrow<float16>(value)));
      }
    }
    REQUIRE_ERROR(store.read(ctx, {7}), ValueError, "picture 7 of 7");
  }
  REQUIRE_ERROR(write_features(ctx, pictures, "unused", recipe(Dtype::i32), first_pixels, go_on), ValueError,
                "f32, bf16 or f16");
}

TEST_CASE("features: an interrupted run goes on, and ends with the same files", "[train]") {
  Context<Cpu> ctx;
  const Pictures pictures;
  const Folder whole, parts;
  write_features(ctx, pictures, whole.path(), recipe(), first_pixels, go_on);
  const auto stop = [](int64_t) { return false; };
  CHECK(write_features(ctx, pictures, parts.path(), recipe(), first_pixels, stop) == 0);
  REQUIRE_ERROR(FeatureStore(parts.path()), IoError, "holds features of 3 of 7 pictures");
  // an encoder that fails leaves nothing half-written
  const auto broken = [](const Tensor<float, 4>&) -> Tensor<float, 3> { fail<Error>("no memory"); };
  REQUIRE_ERROR(write_features(ctx, pictures, parts.path(), recipe(), broken, go_on), Error, "no memory");
  CHECK(finished_feature_shards(parts.path()) == 1);
  int64_t encoded = 0;
  const auto counting = [&](const Tensor<float, 4>& images) {
    encoded += images.shape[0];
    return first_pixels(images);
  };
  CHECK(write_features(ctx, pictures, parts.path(), recipe(), counting, go_on) == 3);
  CHECK(encoded == 4);
  CHECK(write_features(ctx, pictures, parts.path(), recipe(), broken, go_on) == 7);
  for (const std::string name : {"features.json", "000000.safetensors", "000001.safetensors", "000002.safetensors"})
    CHECK(tessera_test::read_bytes(parts / name) == tessera_test::read_bytes(whole / name));
}

TEST_CASE("features: of another encoder, data set or kind are refused", "[train]") {
  Context<Cpu> ctx;
  const Pictures pictures;
  const Folder folder;
  write_features(ctx, pictures, folder.path(), recipe(), first_pixels, go_on);
  const auto refuse = [&](const data::CaptionSource& source, const FeatureRecipe& other, const std::string& words) {
    REQUIRE_ERROR(write_features(ctx, source, folder.path(), other, first_pixels, go_on), IoError, words);
  };
  FeatureRecipe other = recipe();
  other.fingerprint = 18;
  refuse(pictures, other, "(weights differ)");
  refuse(pictures, recipe(Dtype::f16), "(dtype differ)");
  refuse(Pictures("photo "), recipe(), "(captions differ)");

  // Shards whose recipe is gone are not taken for those of the encoder in hand.
  fs::rename(folder / "features.json", folder / "elsewhere");
  refuse(pictures, other, "holds shards of features, but no features.json");
  CHECK_FALSE(fs::exists(folder / "features.json"));
  fs::rename(folder / "elsewhere", folder / "features.json");

  fs::copy_file(folder / "000000.safetensors", folder / "000002.safetensors", fs::copy_options::overwrite_existing);
  REQUIRE_ERROR(FeatureStore(folder.path()), IoError, "000002.safetensors: patches are F32 [3, 4, 3]");
  tessera_test::write_bytes(folder / "000001.safetensors", "half");
  REQUIRE_ERROR(FeatureStore(folder.path()), IoError, "000001.safetensors");
}

TEST_CASE("features: values that cannot be stored, and more shards than can be read, are refused", "[train]") {
  Context<Cpu> ctx;
  const Pictures pictures;
  const Folder folder;
  const auto write = [&](const std::string& name, Dtype dtype, float value) {  // that of a token of picture 4
    int64_t first = 3 * finished_feature_shards(folder / name);
    const auto encode = [&](const Tensor<float, 4>& images) {
      auto tokens = first_pixels(images);
      if (first <= 4 && 4 < first + images.shape[0]) tokens(4 - first, 1, 2) = value;
      first += images.shape[0];
      return tokens;
    };
    write_features(ctx, pictures, folder / name, recipe(dtype), encode, go_on, 2);
  };
  REQUIRE_ERROR(write("f16", Dtype::f16, 70000), Error,
                "a token of picture 4 is 70000, which F16 cannot hold; begin another folder with --feature-dtype bf16");
  CHECK(finished_feature_shards(folder / "f16") == 1);
  REQUIRE_ERROR(write("f32", Dtype::f32, std::nanf("")), Error, "the encoder gives nan for picture 4");
  write("bf16", Dtype::bf16, 70000);
  CHECK(finished_feature_shards(folder / "bf16") == 3);

  /// Says how many it has, and nothing else.
  struct Many : Pictures {
    int64_t size() const override { return 3 * most_feature_shards + 1; }
    std::string caption(int64_t) const override { fail<Error>("was read"); }
  };
  REQUIRE_ERROR(write_features(ctx, Many(), folder / "many", recipe(), first_pixels, go_on), ValueError,
                "180001 pictures are more than 60000 shards of 3");
  CHECK_FALSE(fs::exists(folder / "many"));
}

TEST_CASE("features: batches come in the order of the pictures' own", "[train]") {
  Context<Cpu> ctx;
  const auto pictures = std::make_shared<Pictures>();
  const Folder folder;
  write_features(ctx, *pictures, folder.path(), recipe(), first_pixels, go_on);
  FeatureBatches features(ctx, pictures, FeatureStore(folder.path()), 2, 5);
  Batches batches(ctx, pictures, {.batch = 2, .image_size = 8, .seed = 5});
  for (const int64_t step : {0, 1, 2, 3, 7, 4}) {  // also not one after the other
    const Batch picture = batches(step);
    const FeatureBatch feature = features(step);
    CHECK(feature.captions == picture.captions);
    CHECK(to_host(view(feature.tokens)) == to_host(view(first_pixels(picture.images))));
  }
  REQUIRE_ERROR(FeatureBatches(ctx, pictures, FeatureStore(folder.path()), 8, 5), ValueError,
                "less than one batch of 8");
}

TEST_CASE("text vectors: a text is encoded once, while there is room, in groups of one size", "[train]") {
  Context<Cpu> ctx;
  std::vector<std::string> encoded;
  const auto encode = [&](const std::vector<std::string>& texts) {
    CHECK(texts.size() == 2);
    Tensor<float, 2> vectors(ctx, {int64_t(texts.size()), 2});
    for (size_t i = 0; i < texts.size(); ++i) {
      encoded.push_back(texts[i]);
      vectors(int64_t(i), 0) = float(texts[i].size());
      vectors(int64_t(i), 1) = float(texts[i][0]);
    }
    return vectors;
  };
  TextVectors vectors(encode, 4, 2);
  const auto first = vectors(ctx, {"a", "bb", "a", "ccc"});
  CHECK(encoded == std::vector<std::string>{"a", "bb", "ccc", "ccc"});
  CHECK(to_host(view(first)) == std::vector<float>{1, 'a', 2, 'b', 1, 'a', 3, 'c'});
  CHECK(to_host(view(vectors(ctx, {"ccc"}))) == std::vector<float>{3, 'c'});
  CHECK(encoded.size() == 4);
  CHECK(to_host(view(vectors(ctx, {"dddd", "bb"}))) == std::vector<float>{4, 'd', 2, 'b'});
  CHECK(encoded == std::vector<std::string>{"a", "bb", "ccc", "ccc", "dddd", "bb"});  // the fifth: all were forgotten
}

TEST_CASE("text vectors: a text alone is cut behind its end, a group is as long as the tower reads", "[train]") {
  Context<Cpu> ctx;
  const auto tokenizer = data::Tokenizer::learn(std::vector<std::string>{"a dog"}, 520, {.context_length = 24});
  CHECK(group_input(ctx, tokenizer, {"a dog"}).ids.shape[1] < 24);
  CHECK(group_input(ctx, tokenizer, {"a dog", "a dog"}).ids.shape == Shape<2>{2, 24});
}
