// Resizing bit for bit as Pillow (goldens by tests/oracle/resize.py), sizes and boxes, what does not change results.
#include <omp.h>

#include <string>

#include <support/catch.hpp>
#include <support/skip.hpp>
#include <tessera/data/resize.hpp>
#include <tessera/io/json.hpp>

using namespace tessera;
using namespace tessera::data;

namespace {

/// The same formula as in the oracle.
Image pattern(int width, int height, int channels) {
  Image image(width, height, channels);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < channels; ++c)
        image.at(x, y)[c] = uint8_t((x * 7 + y * 13 + c * 101 + (x * y) / 3 + ((x / 5 + y / 4) % 2) * 90) % 256);
  return image;
}

std::string fnv1a(std::span<const uint8_t> bytes) {
  uint64_t value = 0xcbf29ce484222325;
  for (uint8_t byte : bytes) value = (value ^ byte) * 0x100000001b3;
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

Filter filter_named(const std::string& name) {
  const std::pair<const char*, Filter> names[] = {{"nearest", Filter::nearest},   {"box", Filter::box},
                                                  {"bilinear", Filter::bilinear}, {"hamming", Filter::hamming},
                                                  {"bicubic", Filter::bicubic},   {"lanczos", Filter::lanczos}};
  for (const auto& [known, filter] : names)
    if (name == known) return filter;
  FAIL("unknown filter " << name);
  return Filter::nearest;
}

}  // namespace

TEST_CASE("resize: every filter equals Pillow bit for bit, 1 x 1 to 8000 x 50", "[data]") {
  const io::Json rows = io::read_json(TESSERA_TEST_DIR "/golden/images/expected.json")["resized"];
  REQUIRE(rows.size() >= 78);
  for (const io::Json& row : rows) {
    const auto size = row["size"].get<std::vector<int>>();
    const std::string filter = row["filter"];
    INFO(filter << " " << size[0] << " x " << size[1] << " x " << size[2] << " to " << size[3] << " x " << size[4]);
    const Image ours = resize(pattern(size[0], size[1], size[2]), size[3], size[4], filter_named(filter));
    if (row.contains("pixels")) CHECK(ours.pixels == row["pixels"].get<std::vector<uint8_t>>());
    CHECK(fnv1a(ours.pixels) == row["fnv1a"].get<std::string>());
  }
}

TEST_CASE("resize: a part equals the same part of the whole; a box equals the cropped picture", "[data]") {
  const Image image = pattern(61, 47, 3);
  const Box source{5, 3, 58, 40};
  for (Filter filter : {Filter::nearest, Filter::box, Filter::bilinear, Filter::bicubic, Filter::lanczos})
    for (const Size size : {Size{20, 90}, Size{90, 20}, Size{53, 12}, Size{17, 37}, Size{53, 37}}) {
      INFO(int(filter) << " to " << size.width << " x " << size.height);
      const Image whole = resize(crop(image, source), size.width, size.height, filter);
      CHECK(resize(image, source, size.width, size.height, filter).pixels == whole.pixels);
      const Box kept{3, 2, size.width - 4, size.height - 5};
      CHECK(resize(image, source, size.width, size.height, filter, kept).pixels == crop(whole, kept).pixels);
    }
}

TEST_CASE("resize: the number of threads does not change a bit", "[data]") {
  const Image image = pattern(1200, 901, 3);
  const int before = omp_get_max_threads();
  std::vector<std::vector<uint8_t>> results;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    results.push_back(resize(image, 640, 480, Filter::bicubic).pixels);
    const Image linear = resize_cv2_linear(image, 640, 480);
    results.back().insert(results.back().end(), linear.pixels.begin(), linear.pixels.end());
  }
  omp_set_num_threads(before);
  for (const auto& result : results) CHECK(result == results[0]);
}

TEST_CASE("resize_cv2_linear: fixed points and hand-computed values", "[data]") {
  const Image image = pattern(9, 7, 3);
  CHECK(resize_cv2_linear(image, 9, 7).pixels == image.pixels);
  CHECK(resize_cv2_linear(Image(1, 1, 3, 200), 5, 4).pixels == Image(5, 4, 3, 200).pixels);
  Image two(2, 1, 1);
  two.pixels = {0, 100};
  CHECK(resize_cv2_linear(two, 4, 1).pixels == std::vector<uint8_t>{0, 25, 75, 100});
  Image square(2, 2, 1);
  square.pixels = {10, 20, 30, 41};
  CHECK(resize_cv2_linear(square, 1, 1).pixels == std::vector<uint8_t>{25});  // (101 + 2) / 4
}

TEST_CASE("resize: sizes and boxes follow CLIP and mmsegmentation", "[data]") {
  CHECK(short_side_size(640, 427, 224) == Size{335, 224});
  CHECK(short_side_size(427, 640, 224) == Size{224, 335});
  CHECK(short_side_size(500, 375, 336) == Size{448, 336});
  CHECK(keep_ratio_size(500, 375, 2048, 448) == Size{597, 448});
  CHECK(keep_ratio_size(4000, 100, 2048, 448) == Size{2048, 51});
  CHECK(keep_ratio_size(8000, 1, 2048, 448) == Size{2048, 1});
  // Half of an odd margin is rounded to even: 0.5 to 0, 1.5 to 2, 2.5 to 2, 3.5 to 4.
  CHECK(centre_box(224, 225, 224) == Box{0, 0, 224, 224});
  CHECK(centre_box(227, 224, 224) == Box{2, 0, 226, 224});
  CHECK(centre_box(229, 231, 224) == Box{2, 4, 226, 228});
  REQUIRE_ERROR(centre_box(100, 300, 224), ValueError, "100 x 300");
  REQUIRE_ERROR(short_side_size(1 << 29, 1, 224), ValueError, "long side");
}

TEST_CASE("clip_resize: the middle of the resized picture, also of extreme shapes", "[data]") {
  const Image image = pattern(333, 77, 3);
  const Size size = short_side_size(333, 77, 48);
  const Image whole = resize(image, size.width, size.height, Filter::bicubic);
  CHECK(clip_resize(image, 48).pixels == crop(whole, centre_box(size.width, size.height, 48)).pixels);
  const Image strip = clip_resize(Image(60000, 1, 1, 90), 224);  // whole, this would be 13 million by 224
  CHECK(strip.pixels == Image(224, 224, 3, 90).pixels);
  CHECK(clip_resize(pattern(8000, 50, 4), 32).channels == 3);
}

TEST_CASE("resize: label maps take whole labels", "[data]") {
  LabelMap map(2, 2);
  map.labels = {7, 300, 255, 0};
  CHECK(resize(map, 4, 2).labels == std::vector<uint16_t>{7, 7, 300, 300, 255, 255, 0, 0});
  CHECK(resize(map, 1, 1).labels == std::vector<uint16_t>{0});
}

TEST_CASE("resize: wrong arguments are named", "[data]") {
  const Image image = pattern(8, 6, 3);
  REQUIRE_ERROR(resize(image, 0, 4, Filter::bicubic), ValueError, "0 x 4");
  REQUIRE_ERROR(resize(Image(), 4, 4, Filter::bicubic), ValueError, "0 x 0");
  REQUIRE_ERROR(resize(image, {2, 2, 9, 4}, 4, 4, Filter::bicubic), ValueError, "box (2, 2, 9, 4)");
  REQUIRE_ERROR(resize(image, {0, 0, 8, 6}, 4, 4, Filter::bicubic, {0, 0, 5, 4}), ValueError, "kept box");
  REQUIRE_ERROR(resize_cv2_linear(image, -1, 4), ValueError, "-1 x 4");
  REQUIRE_ERROR(crop(image, {3, 0, 3, 2}), ValueError, "crop: box (3, 0, 3, 2)");
}
