// Superpixels: what every map of segments must keep to, and the labels that training crops get from it.
#include <omp.h>

#include <cmath>
#include <vector>

#include <support/catch.hpp>
#include <tessera/core/random.hpp>
#include <tessera/data/superpixels.hpp>

using namespace tessera;
using namespace tessera::data;

namespace {

/// Coloured discs on a slope, with noise.
Image picture(int width, int height, uint64_t seed, int noise) {
  Image image(width, height);
  const RandomStream random{.seed = seed};
  uint64_t draw = 0;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c) {
        const bool disc = std::hypot(x - width * 0.3, y - height * 0.4) < 0.25 * std::min(width, height);
        const int value = (disc ? 200 - 60 * c : 40 + 30 * c) + 20 * x / width;
        const int shake = noise > 0 ? int(random.below(draw++, uint32_t(2 * noise + 1))) - noise : 0;
        image.at(x, y)[c] = uint8_t(std::clamp(value + shake, 0, 255));
      }
  return image;
}

/// Pixels of each segment; checks that numbers rise with first pixels and that every segment is connected over sides
/// and corners.
std::vector<int> checked_sizes(const SegmentMap& map) {
  std::vector<int> sizes(size_t(map.count()));
  std::vector<bool> reached(map.labels.size());
  int32_t next = 0, pieces = 0;
  std::vector<std::pair<int, int>> open;
  for (int y = 0; y < map.height; ++y)
    for (int x = 0; x < map.width; ++x) {
      const int32_t label = map.at(x, y);
      REQUIRE(label >= 0);
      REQUIRE(label <= next);
      if (label == next) ++next;
      ++sizes[size_t(label)];
      if (reached[size_t(y * map.width + x)]) continue;
      ++pieces;
      open.assign(1, {x, y});
      reached[size_t(y * map.width + x)] = true;
      while (!open.empty()) {
        const auto [u, v] = open.back();
        open.pop_back();
        for (int j = std::max(0, v - 1); j <= std::min(map.height - 1, v + 1); ++j)
          for (int i = std::max(0, u - 1); i <= std::min(map.width - 1, u + 1); ++i)
            if (!reached[size_t(j * map.width + i)] && map.at(i, j) == label) {
              reached[size_t(j * map.width + i)] = true;
              open.push_back({i, j});
            }
      }
    }
  CHECK(pieces == map.count());
  return sizes;
}

SegmentMap numbered(int width, int height) {
  SegmentMap map(width, height);
  for (size_t i = 0; i < map.labels.size(); ++i) map.labels[i] = int32_t(i);
  return map;
}

}  // namespace

TEST_CASE("felzenszwalb: segments are connected, large enough, numbered by their first pixels", "[data]") {
  for (const auto& [width, height] : {std::pair{61, 43}, {1, 50}, {50, 1}, {2, 2}, {3, 40}, {17, 64}})
    for (const int min_size : {0, 1, 5, 40})
      for (const int noise : {0, 40}) {
        INFO(width << " x " << height << ", min_size " << min_size << ", noise " << noise);
        const SegmentMap map = felzenszwalb(picture(width, height, 3, noise), {20, 0.8, min_size});
        const std::vector<int> sizes = checked_sizes(map);
        for (int size : sizes) CHECK((size >= min_size || map.count() == 1));
      }
}

TEST_CASE("felzenszwalb: two flat halves are two segments, one colour is one", "[data]") {
  Image halves(40, 30, 3, 20);
  for (int y = 0; y < 30; ++y) std::fill(halves.at(25, y), halves.at(39, y) + 3, uint8_t(220));
  const SegmentMap map = felzenszwalb(halves, {1, 0, 10});
  CHECK(map.count() == 2);
  for (int x = 0; x < 40; ++x) CHECK(map.at(x, 17) == (x >= 25));

  CHECK(felzenszwalb(Image(40, 30, 3, 99)).count() == 1);
  CHECK(felzenszwalb(Image(1, 1, 3, 99)) == SegmentMap(1, 1));
}

TEST_CASE("felzenszwalb: scale 0 and min_size 0 leave every pixel alone; a larger scale joins more", "[data]") {
  const Image image = picture(37, 29, 5, 60);
  CHECK(felzenszwalb(image, {0, 0.8, 0}) == numbered(37, 29));
  int32_t before = 37 * 29;
  for (const double scale : {10.0, 100.0, 1000.0, 10000.0}) {
    const int32_t count = felzenszwalb(image, {scale, 0.8, 0}).count();
    CHECK(count < before);
    before = count;
  }
}

TEST_CASE("felzenszwalb: the same on any number of threads", "[data]") {
  const Image image = picture(211, 167, 7, 30);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const SegmentMap expected = felzenszwalb(image, {30, 0.9, 20});
  CHECK(expected.count() > 5);
  for (const int number : {2, 3, 7}) {
    omp_set_num_threads(number);
    CHECK(felzenszwalb(image, {30, 0.9, 20}) == expected);
  }
  omp_set_num_threads(threads);
}

TEST_CASE("felzenszwalb: what it refuses", "[data]") {
  REQUIRE_ERROR(felzenszwalb(Image(4, 4, 1)), ValueError, "1 channels");
  REQUIRE_ERROR(felzenszwalb(Image(0, 4)), ValueError, "not empty");
  REQUIRE_ERROR(felzenszwalb(Image(4, 4), {-1, 0.9, 3}), ValueError, "scale is -1");
  REQUIRE_ERROR(felzenszwalb(Image(4, 4), {std::nan(""), 0.9, 3}), ValueError, "scale");
  REQUIRE_ERROR(felzenszwalb(Image(4, 4), {1, -0.5, 3}), ValueError, "sigma is -0.5");
  REQUIRE_ERROR(felzenszwalb(Image(4, 4), {1, std::nan(""), 3}), ValueError, "sigma");
  REQUIRE_ERROR(felzenszwalb(Image(4, 4), {1, 0.9, -3}), ValueError, "min_size is -3");
}

TEST_CASE("superpixels: crops in relative coordinates", "[data]") {
  const SegmentMap map = numbered(10, 8);
  CHECK(crop_labels(map, {}) == map);
  CHECK(crop_labels(map, relative_box({0, 0, 10, 8}, 10, 8)) == map);
  // 0.25 of 10 columns is 2.5, rounded down; 0.61 is 6.1, rounded up.
  const SegmentMap part = crop_labels(map, {0.25f, 0.5f, 0.61f, 1});
  CHECK(part.width == 5);
  CHECK(part.height == 4);
  CHECK(part.at(0, 0) == 42);
  CHECK(part.at(4, 3) == 76);
  CHECK(crop_labels(map, {0.3f, 0, 0.35f, 1}) == map);  // one column: the whole map instead

  const RelativeBox box = relative_box({2, 1, 7, 8}, 11, 8);
  CHECK(box.x0 == 0.2f);
  CHECK(box.y0 == float(1.0 / 7));
  CHECK(box.x1 == 0.6f);
  CHECK(box.y1 == 1);
  const RelativeBox line = relative_box({0, 2, 1, 4}, 1, 5);
  CHECK(line.x0 == 0);
  CHECK(line.x1 == 1);
  REQUIRE_ERROR(relative_box({2, 1, 12, 8}, 11, 8), ValueError, "of a picture of 11 x 8");
  REQUIRE_ERROR(crop_labels(map, {0.5f, 0, 0.4f, 1}), ValueError, "not ordered");
  REQUIRE_ERROR(crop_labels(SegmentMap(), {}), ValueError, "crop_labels");
}

TEST_CASE("superpixels: labels of patches, by mean or by majority", "[data]") {
  SegmentMap map(6, 2);
  map.labels = {2, 8, 8, 1, 1, 3,  //
                2, 8, 8, 0, 3, 3};
  const SegmentMap mean = patch_labels(map, 3, 2), most = patch_labels(map, 3, 2, PatchRule::majority);
  CHECK(mean.labels == std::vector<int32_t>{6, 1});  // 36 / 6 and 11 / 6
  CHECK(most.labels == std::vector<int32_t>{8, 3});
  CHECK(patch_labels(map, 2, PatchRule::majority).labels == std::vector<int32_t>{2, 8, 3});  // of two equal: the lower
  CHECK(patch_labels(map, 1) == map);
  REQUIRE_ERROR(patch_labels(map, 4, 2), ValueError, "do not divide");
  REQUIRE_ERROR(patch_labels(map, 0), ValueError, "do not divide");
}

TEST_CASE("superpixels: a crop of a training picture and its labels show the same place", "[data]") {
  // Four flat quarters, so that a patch's segment can be told from its colour.
  Image image(64, 48, 3, 30);
  for (int y = 0; y < 48; ++y)
    for (int x = 0; x < 64; ++x) image.at(x, y)[0] = uint8_t(60 * ((x >= 40) + 2 * (y >= 20)));
  PatchSegmentOptions options;
  options.felzenszwalb = {1, 0, 20};
  options.side = 32;
  options.patch = 4;
  options.rule = PatchRule::majority;
  REQUIRE(felzenszwalb(image, options.felzenszwalb).count() == 4);
  int compared = 0;
  for (uint64_t number = 0; number < 20; ++number) {
    const CropAndFlip drawn = draw_crop(image.width, image.height, {.seed = 1}, number);
    const Image crop = resized_crop(image, options.side, drawn);
    const SegmentMap labels = crop_patch_labels(image, drawn, options);
    REQUIRE(labels.width == options.grid());
    REQUIRE(labels.height == options.grid());
    for (int row = 0; row < labels.height; ++row)
      for (int column = 0; column < labels.width; ++column) {
        // Only patches of one colour, whose neighbours are of it too: the two resizings differ at borders.
        const int value = crop.at(4 * column + 2, 4 * row + 2)[0];
        bool inside = true;
        for (int y = std::max(0, 4 * row - 2); y < std::min(32, 4 * row + 6); ++y)
          for (int x = std::max(0, 4 * column - 2); x < std::min(32, 4 * column + 6); ++x)
            inside = inside && crop.at(x, y)[0] == value;
        if (!inside || value % 60 != 0) continue;
        CHECK(labels.at(column, row) == value / 60);
        ++compared;
      }
  }
  CHECK(compared > 500);
}

TEST_CASE("superpixels: a map of another resolution gives nearly the same labels; files keep 16 bits", "[data]") {
  const SegmentMap map = felzenszwalb(picture(64, 48, 9, 10), {30, 0.8, 30});
  const LabelMap stored = to_label_map(map);
  CHECK(to_segment_map(stored) == map);
  PatchSegmentOptions options;
  options.side = 32;
  options.patch = 8;
  const CropAndFlip whole{{0, 0, 64, 48}, false};
  CHECK(crop_patch_labels(map, whole, 64, 48, options) ==
        crop_patch_labels(resize_labels(map, 128, 96), whole, 64, 48, options));
  const CropAndFlip mirrored{{0, 0, 64, 48}, true};
  CHECK(crop_patch_labels(map, mirrored, 64, 48, options) == flip(crop_patch_labels(map, whole, 64, 48, options)));
  REQUIRE_ERROR(to_label_map(numbered(300, 300)), ValueError, "16 bits");
}
