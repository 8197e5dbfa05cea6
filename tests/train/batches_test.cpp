// Batches: the pictures of a step depend on the step alone; cut, scaled and normalised as stated.
#include <tessera/train/batches.hpp>

#include <algorithm>
#include <atomic>
#include <set>

#include <io/folder.hpp>
#include <support/catch.hpp>
#include <tessera/train/caption_training.hpp>

using namespace tessera;
using namespace tessera::train;

namespace {

// Picture i is of one colour, its caption its number; `broken` cannot be read.
class Colours : public data::CaptionSource {
 public:
  Colours(int64_t size, int width, int height, int64_t broken = -1)
      : size_(size), broken_(broken), width_(width), height_(height) {}
  int64_t size() const override { return size_; }
  data::Sample get(int64_t index) const override {
    require<IoError>(index != broken_, "picture ", index, " is damaged");
    data::Image image(width_, height_, 3, 0);
    for (size_t p = 0; p < image.pixels.size(); ++p) image.pixels[p] = uint8_t(p % 3 == 0 ? 10 * index : 20 * (p % 3));
    return {std::to_string(index), std::move(image), std::to_string(index)};
  }

 private:
  int64_t size_, broken_;
  int width_, height_;
};
// Left half black, right half white, top row red.
class Halves : public data::CaptionSource {
 public:
  int64_t size() const override { return 4; }
  data::Sample get(int64_t) const override {
    data::Image image(16, 8, 3, 0);
    for (int y = 0; y < 8; ++y)
      for (int x = 8; x < 16; ++x)
        for (int c = 0; c < 3; ++c) image.pixels[size_t((y * 16 + x) * 3 + c)] = 255;
    return {"k", std::move(image), "halves"};
  }
};

// Stripes of two colours, as many and as bright as the picture's number says.
class Stripes : public data::CaptionSource {
 public:
  explicit Stripes(int64_t size) : size_(size) {}
  int64_t size() const override { return size_; }
  data::Sample get(int64_t index) const override {
    data::Image image(36, 24, 3, 0);
    for (int y = 0; y < 24; ++y)
      for (int x = 0; x < 36; ++x) {
        image.at(x, y)[1] = uint8_t(x * (int(index) + 2) / 36 % 2 * (100 + 20 * index));
        image.at(x, y)[2] = y < 4 * (index + 1) ? 180 : 0;
      }
    return {"stripes " + std::to_string(index), std::move(image), "stripes"};
  }

 private:
  int64_t size_;
};

struct Got {
  std::vector<std::string> captions;
  std::vector<float> pixels;
  bool operator==(const Got&) const = default;
};
Got at(Batches& batches, int64_t step) {
  const Batch batch = batches(step);
  return {batch.captions, to_host(view(batch.images))};
}

}  // namespace

TEST_CASE("batches: a step's pictures are the same whatever came before", "[train]") {
  Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
  const auto source = std::make_shared<Colours>(11, 12, 12);
  for (const bool random_crop : {false, true}) {
    const BatchOptions options{.batch = 3, .image_size = 8, .random_crop = random_crop, .seed = 4};
    Batches in_order(ctx, source, options);
    std::vector<Got> expected;
    for (int64_t step = 0; step < 10; ++step) expected.push_back(at(in_order, step));
    Batches resumed(ctx, source, options);
    for (int64_t step = 5; step < 10; ++step) CHECK(at(resumed, step) == expected[size_t(step)]);
    Batches jumping(ctx, source, options);
    for (const int64_t step : {7, 2, 3, 3, 9, 0, 8}) CHECK(at(jumping, step) == expected[size_t(step)]);
    auto other = options;
    other.seed = 5;
    Batches of_other_seed(ctx, source, other);
    CHECK_FALSE(at(of_other_seed, 0) == expected[0]);
  }
}

TEST_CASE("batches: an epoch shows no picture twice, the next has another order", "[train]") {
  Context<Cpu> ctx;
  Batches batches(ctx, std::make_shared<Colours>(11, 8, 8), {.batch = 3, .image_size = 8, .seed = 4});
  std::vector<std::vector<std::string>> epochs;
  for (int64_t epoch = 0; epoch < 4; ++epoch) {
    std::vector<std::string> order;
    for (int64_t step = 0; step < 3; ++step)  // eleven pictures are three whole batches
      for (const auto& caption : batches(epoch * 3 + step).captions) order.push_back(caption);
    CHECK(std::set<std::string>(order.begin(), order.end()).size() == 9);
    epochs.push_back(order);
  }
  CHECK(epochs[0] != epochs[1]);
  CHECK(epochs[1] != epochs[2]);
  // what one epoch leaves out, another shows
  std::set<std::string> seen;
  for (const auto& epoch : epochs) seen.insert(epoch.begin(), epoch.end());
  CHECK(seen.size() == 11);
}

TEST_CASE("batches: pixels are normalised with the statistics, planes by colour", "[train]") {
  Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
  const data::ImageStatistics statistics{{0.5f, 0.25f, 0.125f}, {0.5f, 2.0f, 0.25f}};
  Batches batches(ctx, std::make_shared<Colours>(6, 10, 7),
                  {.batch = 6, .image_size = 8, .statistics = statistics, .seed = 4});
  const Batch batch = batches(0);
  REQUIRE(batch.images.shape == Shape<4>{6, 3, 8, 8});
  for (int64_t i = 0; i < 6; ++i) {
    const float levels[] = {float(10 * std::stoi(batch.captions[size_t(i)])), 20, 40};
    for (int64_t c = 0; c < 3; ++c)
      for (int64_t y = 0; y < 8; ++y)
        for (int64_t x = 0; x < 8; ++x)
          CHECK(batch.images(i, c, y, x) ==
                Approx((levels[c] / 255 - statistics.mean[size_t(c)]) / statistics.deviation[size_t(c)]).margin(1e-6));
  }
}

TEST_CASE("batches: the central square, or random crops", "[train]") {
  Context<Cpu> ctx;
  const data::ImageStatistics plain{{0, 0, 0}, {1, 1, 1}};
  const auto source = std::make_shared<Halves>();
  Batches centred(ctx, source, {.batch = 4, .image_size = 8, .statistics = plain});
  const Batch batch = centred(0);
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t y = 0; y < 8; ++y) {
      CHECK(batch.images(i, 0, y, 0) == 0);  // four black columns, four white ones
      CHECK(batch.images(i, 0, y, 3) == 0);
      CHECK(batch.images(i, 0, y, 4) == 1);
      CHECK(batch.images(i, 0, y, 7) == 1);
    }
  Batches cropped(ctx, source, {.batch = 4, .image_size = 8, .random_crop = true, .statistics = plain});
  std::set<std::vector<float>> crops;
  for (int64_t step = 0; step < 3; ++step) {
    const auto pixels = to_host(view(cropped(step).images));
    for (size_t i = 0; i < 4; ++i) crops.emplace(pixels.begin() + long(i) * 192, pixels.begin() + long(i + 1) * 192);
  }
  CHECK(crops.size() > 6);
}

TEST_CASE("batches: stored superpixels are those that are computed as pictures are loaded", "[train]") {
  const tessera_test::Folder folder;
  Context<Cpu> ctx({.memory = {.fill_with_nan = true}});
  const auto source = std::make_shared<Stripes>(6);
  const data::FelzenszwalbOptions felzenszwalb{30, 0.5, 6};
  const data::SuperpixelRecipe recipe{.samples_per_shard = 4, .felzenszwalb = felzenszwalb};
  data::write_superpixels(*source, folder / "maps", recipe, [](int64_t) {});
  const auto store = std::make_shared<const data::SuperpixelStore>(folder / "maps");
  for (const bool random_crop : {false, true})
    for (const auto rule : {data::PatchRule::floor_mean, data::PatchRule::majority}) {
      BatchOptions options{.batch = 3, .image_size = 16, .random_crop = random_crop, .seed = 4};
      options.superpixels = {.felzenszwalb = felzenszwalb, .patch = 4, .rule = rule};
      Batches computing(ctx, source, options);
      options.superpixels->felzenszwalb = {};  // the store's own settings hold
      options.stored_superpixels = store;
      Batches reading(ctx, source, options);
      std::set<std::vector<int32_t>> maps;
      for (const int64_t step : {0, 1, 2, 5}) {
        const Batch computed = computing(step), read = reading(step);
        REQUIRE(read.superpixels.shape == Shape<2>{3, 16});
        CHECK(to_host(view(read.superpixels)) == to_host(view(computed.superpixels)));
        CHECK(to_host(view(read.images)) == to_host(view(computed.images)));
        maps.insert(to_host(view(read.superpixels)));
      }
      CHECK(maps.size() >= 3);  // they do tell pictures apart
    }
  BatchOptions options{.batch = 3, .image_size = 16};
  options.superpixels.emplace();
  options.stored_superpixels = store;
  REQUIRE_ERROR(Batches(ctx, std::make_shared<Stripes>(7), options), IoError, "superpixels of 6 pictures");
  REQUIRE_ERROR(Batches(ctx, std::make_shared<Colours>(6, 16, 8), options), IoError, "another picture than 0;");
}

TEST_CASE("batches: a picture that cannot be read is an error of its step, not of the program", "[train]") {
  Context<Cpu> ctx;
  const auto source = std::make_shared<Colours>(6, 8, 8, 3);
  Batches batches(ctx, source, {.batch = 2, .image_size = 8, .seed = 4});
  int failed = 0;
  for (int64_t step = 0; step < 3; ++step) {
    for (int attempt = 0; attempt < 2; ++attempt) try {
        batches(step);
        break;
      } catch (const IoError& error) {
        CHECK_THAT(error.what(), tessera_test::contains("picture 3 is damaged"));
        ++failed;
      }
  }
  CHECK(failed == 2);  // one step, tried twice
}

TEST_CASE("batches: a data set smaller than a batch is refused", "[train]") {
  Context<Cpu> ctx;
  REQUIRE_ERROR(Batches(ctx, std::make_shared<Colours>(6, 8, 8), {.batch = 7, .image_size = 8}), ValueError,
                "6 pictures, less than one batch of 7");
}

TEST_CASE("caption training: data sets by name, nouns from a file or beside the shards", "[train]") {
  const tessera_test::Folder folder;
  REQUIRE_ERROR(open_captioned_data("scenes:modern", "", 32, 10, 0), ValueError, "there are classic and rich");
  data::write_image(folder / "a.png", data::Image(4, 4));
  io::write_text(folder / "table.tsv", "a.png\ta dog\na.png\tan old dog and a cat\n");
  io::write_text(folder / "nouns.txt", "dog\ncat\n");
  const auto without = open_captioned_data((folder / "table.tsv").string(), "", 32, 10, 0);
  CHECK(without.source->size() == 2);
  CHECK(without.nouns.empty());
  const auto with = open_captioned_data((folder / "table.tsv").string(), (folder / "nouns.txt").string(), 32, 10, 0);
  CHECK(with.nouns == std::vector<std::string>{"dog", "cat"});
  CHECK(with.source->get(1).caption == "an old dog and a cat");
  io::write_text(folder / "other.txt", "zebra\n");
  REQUIRE_ERROR(open_captioned_data((folder / "table.tsv").string(), (folder / "other.txt").string(), 32, 10, 0),
                IoError, "other.txt stands in a caption of the data set");
  const auto tokenizer = learn_vocabulary(*with.source, {"a photo of a dog"}, 600, 8);
  Context<Cpu> ctx;
  const auto ids = tokenize(ctx, tokenizer, {"a dog", "an old dog and a cat and a dog and a cat and a dog"});
  CHECK(ids.shape == Shape<2>{2, 8});
  CHECK(ids(1, 7) == tokenizer.end_of_text());  // cut to the context
}
