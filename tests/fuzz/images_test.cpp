// Thousands of damaged pictures, label maps and tar shards: each decodes to a picture of the size it says, or throws an
// Error.
#include <zlib.h>

#include <algorithm>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <tessera/data/image.hpp>
#include <tessera/data/shards.hpp>

#include "fuzz/mutate.hpp"
#include "io/folder.hpp"

using namespace tessera;
using namespace tessera::data;
using tessera_test::Choices;

namespace {

std::string text_of(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }
std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

Image gradient(int width, int height) {
  Image image(width, height);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c) image.at(x, y)[c] = uint8_t(17 * x + 5 * y + 80 * c);
  return image;
}

/// Makes the check sums of all chunks right again, so that a damaged PNG gets further than the first of them.
void repair_check_sums(std::string& png) {
  const auto number_at = [&](size_t at) {
    uint32_t number = 0;
    for (size_t i = 0; i < 4; ++i) number = number << 8 | uint8_t(png[at + i]);
    return number;
  };
  for (size_t at = 8; at + 12 <= png.size();) {
    const size_t length = number_at(at);
    if (length > png.size() - at - 12) return;
    const auto* chunk = reinterpret_cast<const Bytef*>(png.data() + at + 4);
    const uint32_t sum = uint32_t(::crc32(::crc32(0, nullptr, 0), chunk, uInt(length + 4)));
    for (size_t i = 0; i < 4; ++i) png[at + 8 + length + i] = char(sum >> (24 - 8 * i));
    at += length + 12;
  }
}

/// Decodes `files` mutations of `good`; `decode` gives the number of values that the result holds and must hold.
template <class Decode>
int decoded_of(const std::string& good, uint64_t first_seed, int files, bool png, Decode&& decode) {
  int decoded = 0;
  for (int number = 0; number < files; ++number) {
    INFO("seed " << first_seed + uint64_t(number));
    Choices choices(first_seed + uint64_t(number));
    std::string file = tessera_test::mutate_bytes(good, choices);
    if (png && number % 4 != 0) repair_check_sums(file);
    try {
      const auto [held, expected] = decode(file);
      if (held != expected) FAIL("the result holds " << held << " values instead of " << expected);
      ++decoded;
    } catch (const Error&) {
    }
  }
  return decoded;
}

DecodeOptions small() {
  DecodeOptions options;
  options.max_pixels = 1 << 18;
  options.apply_orientation = true;
  return options;
}

std::pair<size_t, size_t> picture(const std::string& file) {
  const Image image = decode_image(bytes_of(file), small());
  return {image.pixels.size(), size_t(image.width) * size_t(image.height) * size_t(image.channels)};
}

}  // namespace

TEST_CASE("fuzz: PNG pictures", "[fuzz]") {
  const int decoded = decoded_of(text_of(encode_png(gradient(19, 13))), 0, 3000, true, picture);
  REQUIRE(decoded > 100);
  REQUIRE(decoded < 2900);
}

TEST_CASE("fuzz: PNG label maps", "[fuzz]") {
  LabelMap map(21, 9);
  for (size_t i = 0; i < map.labels.size(); ++i) map.labels[i] = uint16_t(i % 5);
  const std::vector<Colour> palette = {{0, 0, 0}, {255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {9, 9, 9}};
  const int decoded = decoded_of(text_of(encode_label_map(map, palette)), 10'000, 3000, true, [](const std::string& f) {
    const LabelMap found = decode_label_map(bytes_of(f), small());
    return std::pair(found.labels.size(), size_t(found.width) * size_t(found.height));
  });
  REQUIRE(decoded > 100);
  REQUIRE(decoded < 2900);
}

TEST_CASE("fuzz: JPEG pictures", "[fuzz]") {
  const int decoded = decoded_of(text_of(encode_jpeg(gradient(37, 23))), 20'000, 3000, false, picture);
  REQUIRE(decoded > 100);
  REQUIRE(decoded < 2900);
}

TEST_CASE("fuzz: tar shards", "[fuzz]") {
  const tessera_test::Folder folder;
  const auto path = folder / "shard.tar";
  // Headers of ustar: name, mode, owner, group, size, time, check sum, kind.
  std::string good;
  const auto add = [&](const std::string& name, const std::string& content) {
    std::string header(512, '\0');
    const auto put = [&](size_t at, const std::string& text) { header.replace(at, text.size(), text); };
    char size[12];
    std::snprintf(size, sizeof size, "%011o", unsigned(content.size()));
    put(0, name);
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, size);
    put(136, "00000000000");
    put(148, "        ");
    put(156, "0");
    put(257, std::string("ustar\00000", 8));
    unsigned sum = 0;
    for (char c : header) sum += uint8_t(c);
    char check[8];
    std::snprintf(check, sizeof check, "%06o", sum);
    put(148, check);
    good += header + content + std::string((512 - content.size() % 512) % 512, '\0');
  };
  for (const char* key : {"000", "001"}) {
    add(std::string(key) + ".png", text_of(encode_png(gradient(5, 4))));
    add(std::string(key) + ".txt", "a gradient");
  }
  good += std::string(1024, '\0');
  tessera_test::write_bytes(path, good);
  REQUIRE(ShardSource(path).get(1).caption == "a gradient");

  int opened = 0;
  for (uint64_t seed = 30'000; seed < 32'000; ++seed) {
    INFO("seed " << seed);
    Choices choices(seed);
    tessera_test::write_bytes(path, tessera_test::mutate_bytes(good, choices));
    try {
      const ShardSource shards(path);
      ++opened;
      for (int64_t i = 0; i < shards.size(); ++i) {
        const Sample sample = shards.get(i);
        if (sample.image.pixels.size() != size_t(sample.image.height) * sample.image.row_bytes()) FAIL("wrong size");
      }
    } catch (const Error&) {
    }
  }
  REQUIRE(opened > 100);
  REQUIRE(opened < 1900);
}
