// Decoding as Pillow does, writing, label maps, damaged files, normalisation.
#include <zlib.h>

#include <cstring>
#include <fstream>
#include <map>

#include <support/catch.hpp>
#include <support/skip.hpp>
#include <tessera/data/augment.hpp>
#include <tessera/data/image.hpp>
#include <tessera/io/json.hpp>

using namespace tessera;
using namespace tessera::data;

namespace {

const std::filesystem::path files = TESSERA_TEST_DIR "/golden/images";

std::string fnv1a(std::span<const uint8_t> bytes) {
  uint64_t value = 0xcbf29ce484222325;
  for (uint8_t byte : bytes) value = (value ^ byte) * 0x100000001b3;
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

std::vector<uint8_t> bytes_of_file(const std::string& name) {
  const std::string text = io::read_text(files / name);
  return {text.begin(), text.end()};
}

Image test_picture(int width, int height, int channels) {
  Image image(width, height, channels);
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = uint8_t(i * 37 + i / 7 * 11);
  return image;
}

/// A folder of its own, removed at the end.
struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / sentence("tessera-image-test-", ::getpid());
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
};

/// Decodes what may be damaged: a picture of the declared size or an IoError, nothing else.
bool decodes(std::span<const uint8_t> file) {
  DecodeOptions options;
  options.max_pixels = 1 << 20;
  options.apply_orientation = true;
  try {
    const Image image = decode_image(file, options);
    REQUIRE(image.pixels.size() == size_t(image.width) * size_t(image.height) * 3);
    return true;
  } catch (const IoError&) {
    return false;
  }
}

}  // namespace

TEST_CASE("image: files decode to the pixels that Pillow's convert(\"RGB\") gives", "[data]") {
  const io::Json expected = io::read_json(files / "expected.json")["decoded"];
  REQUIRE(expected.size() >= 14);
  for (const auto& [name, entry] : expected.items()) {
    INFO(name);
    const Image image = read_image(files / name);
    CHECK(image.width == entry["size"][0].get<int>());
    CHECK(image.height == entry["size"][1].get<int>());
    CHECK(fnv1a(image.pixels) == entry["fnv1a"].get<std::string>());
  }
}

TEST_CASE("image: EXIF orientation is applied only where asked for", "[data]") {
  const Image stored = read_image(files / "turned.jpg");
  DecodeOptions options;
  options.apply_orientation = true;
  const Image seen = read_image(files / "turned.jpg", options);
  REQUIRE(seen.width == stored.height);
  REQUIRE(seen.height == stored.width);
  // Orientation 6: the stored left edge, read upwards, is the top.
  for (int x = 0; x < seen.width; ++x)
    CHECK(std::equal(seen.at(x, 0), seen.at(x, 0) + 3, stored.at(0, stored.height - 1 - x)));

  // All eight, on the picture 1 2 3 / 4 5 6.
  Image small(3, 2, 1);
  small.pixels = {1, 2, 3, 4, 5, 6};
  const std::map<int, std::vector<uint8_t>> turned = {
      {1, {1, 2, 3, 4, 5, 6}}, {2, {3, 2, 1, 6, 5, 4}}, {3, {6, 5, 4, 3, 2, 1}}, {4, {4, 5, 6, 1, 2, 3}},
      {5, {1, 4, 2, 5, 3, 6}}, {6, {4, 1, 5, 2, 6, 3}}, {7, {6, 3, 5, 2, 4, 1}}, {8, {3, 6, 2, 5, 1, 4}}};
  for (const auto& [orientation, pixels] : turned) {
    INFO(orientation);
    CHECK(data::detail::orient(small, orientation).pixels == pixels);
  }
}

TEST_CASE("image: PNG keeps every pixel, whatever the channels", "[data]") {
  for (int channels : {1, 2, 3, 4}) {
    const Image image = test_picture(19, 11, channels);
    CHECK(decode_image(encode_png(image)).pixels == to_rgb(image).pixels);
  }
  CHECK(to_rgb(test_picture(2, 1, 2)).pixels == std::vector<uint8_t>{0, 0, 0, 74, 74, 74});
}

TEST_CASE("image: JPEG comes back close, in colour and grey", "[data]") {
  Image smooth(64, 40);
  for (int y = 0; y < 40; ++y)
    for (int x = 0; x < 64; ++x) {
      uint8_t* pixel = smooth.at(x, y);
      pixel[0] = uint8_t(x * 4);
      pixel[1] = uint8_t(y * 6);
      pixel[2] = uint8_t(255 - x * 2);
    }
  const Image back = decode_image(encode_jpeg(smooth, 95));
  double error = 0;
  for (size_t i = 0; i < back.pixels.size(); ++i) error += std::abs(back.pixels[i] - smooth.pixels[i]);
  CHECK(error / double(back.pixels.size()) < 2.0);
  CHECK(decode_image(encode_jpeg(Image(5, 3, 1, 77))).pixels == Image(5, 3, 3, 77).pixels);
  REQUIRE_ERROR(encode_jpeg(Image(5, 3, 4)), ValueError, "4 channels");
  REQUIRE_ERROR(encode_jpeg(Image(5, 3), 0), ValueError, "quality 0");
}

TEST_CASE("image: label maps keep their numbers", "[data]") {
  LabelMap map(7, 5);
  for (size_t i = 0; i < map.labels.size(); ++i) map.labels[i] = uint16_t(i * 8 % 256);
  map.labels.back() = ignore_label;
  const std::vector<Colour> palette = {{0, 0, 0}, {9, 9, 9}, {9, 9, 9}};  // colours may repeat
  CHECK(decode_label_map(encode_label_map(map, palette)).labels == map.labels);
  CHECK(decode_image(encode_label_map(map, palette)).at(6, 4)[0] == 255);

  map.labels[3] = 40000;  // 16 bits, grey; as a picture its upper byte
  const auto wide = encode_label_map(map, palette);
  CHECK(decode_label_map(wide).labels == map.labels);
  CHECK(decode_image(wide).at(3, 0)[0] == 40000 >> 8);

  // Several indices a byte: each index has one colour.
  const LabelMap indices = read_label_map(files / "palette_4bit.png");
  const Image colours = read_image(files / "palette_4bit.png");
  std::map<int, std::vector<uint8_t>> seen;
  for (int y = 0; y < indices.height; ++y)
    for (int x = 0; x < indices.width; ++x) {
      const uint8_t* pixel = colours.at(x, y);
      const std::vector<uint8_t> colour(pixel, pixel + 3);
      CHECK(seen.try_emplace(indices.at(x, y), colour).first->second == colour);
    }
  CHECK(seen.size() == 11);
  CHECK(read_label_map(files / "bilevel.png").at(19, 15) == 1);

  REQUIRE_ERROR(read_label_map(files / "rgb.png"), IoError, "rgb.png: PNG: a label map must be a palette or grey");
  REQUIRE_ERROR(read_label_map(files / "grey.jpg"), IoError, "must be a PNG");
}

TEST_CASE("image: files that are cut short are errors, at every length", "[data]") {
  for (const char* name : {"rgb.png", "palette_4bit.png", "colour_420.jpg", "progressive.jpg", "cmyk.jpg"}) {
    INFO(name);
    const std::vector<uint8_t> file = bytes_of_file(name);
    REQUIRE(decodes(file));
    size_t decoded = 0;
    for (size_t length = 0; length < file.size(); ++length) decoded += decodes({file.data(), length});
    CHECK(decoded <= 20);  // those that lack only the end mark
  }
  std::vector<uint8_t> half = bytes_of_file("colour_420.jpg");
  half.resize(700);
  REQUIRE_ERROR(decode_image(half), IoError, "JPEG: Premature end");
}

TEST_CASE("image: damaged files give a picture or an IoError", "[data]") {
  const RandomStream random{5, 0, 0};
  uint64_t draw = 0;
  int refused = 0;
  for (const auto& entry : std::filesystem::directory_iterator(files)) {
    if (entry.path().extension() == ".json") continue;
    const std::vector<uint8_t> good = bytes_of_file(entry.path().filename());
    for (int round = 0; round < 150; ++round) {
      std::vector<uint8_t> file = good;
      const uint32_t changes = 1 + random.below(draw++, 4);
      for (uint32_t change = 0; change < changes; ++change) {
        const uint32_t at = random.below(draw++, uint32_t(file.size()));
        file[at] = uint8_t(random.bits(draw++));
      }
      refused += !decodes(file);
      try {
        decode_label_map(file);
      } catch (const IoError&) {
      }
    }
  }
  CHECK(refused > 100);
}

TEST_CASE("image: sizes are limited before memory is taken", "[data]") {
  DecodeOptions options;
  options.max_pixels = 21 * 14 - 1;
  REQUIRE_ERROR(read_image(files / "rgb.png", options), IoError, "more than the limit of 293");
  REQUIRE_ERROR(read_image(files / "colour_420.jpg", options), IoError, "21 x 14 pixels, more than the limit");

  // A PNG whose header declares far more than its bytes could hold.
  std::vector<uint8_t> bomb = bytes_of_file("rgb.png");
  const auto put = [&](size_t at, uint32_t value) {
    for (size_t i = 0; i < 4; ++i) bomb[at + i] = uint8_t(value >> (24 - 8 * i));
  };
  put(16, 10000);
  put(20, 10000);
  put(29, uint32_t(crc32(0, bomb.data() + 12, 17)));
  REQUIRE_ERROR(decode_image(bomb), IoError, "10000 x 10000 pixels cannot be in a file of");
}

TEST_CASE("image: other formats are named", "[data]") {
  REQUIRE_ERROR(decode_image(std::string_view("")), IoError, "an empty file");
  REQUIRE_ERROR(decode_image(std::string_view("GIF89a...")), IoError, "a GIF picture; tessera reads JPEG and PNG");
  REQUIRE_ERROR(decode_image(std::string_view("RIFF....WEBPVP8 ")), IoError, "a WebP picture");
  REQUIRE_ERROR(decode_image(std::string_view("hello, world")), IoError, "not a picture");
  REQUIRE_ERROR(read_image(files / "absent.png"), IoError, "absent.png");
  REQUIRE_ERROR(read_image(files), IoError, "folder");
}

TEST_CASE("image: writing goes by the ending, and replaces a file whole or not at all", "[data]") {
  const Folder folder;
  const Image image = test_picture(12, 9, 3);
  write_image(folder.path / "a.PNG", image);
  CHECK(read_image(folder.path / "a.PNG").pixels == image.pixels);
  write_image(folder.path / "a.jpeg", image);
  CHECK(read_image(folder.path / "a.jpeg").width == 12);
  REQUIRE_ERROR(write_image(folder.path / "a.bmp", image), ValueError, "neither in .png nor in .jpg");
  REQUIRE_THROWS_AS(write_image(folder.path / "a.PNG", Image()), ValueError);
  CHECK(read_image(folder.path / "a.PNG").pixels == image.pixels);
  REQUIRE_ERROR(write_image(folder.path / "absent" / "a.png", image), IoError, "absent");
  const auto entries = std::filesystem::directory_iterator(folder.path);
  CHECK(std::distance(begin(entries), end(entries)) == 2);
}

TEST_CASE("image: base64 and data URIs", "[data]") {
  const auto encoded = [](std::string_view text) { return base64(data::detail::bytes_of(text)); };
  CHECK(encoded("") == "");
  CHECK(encoded("f") == "Zg==");
  CHECK(encoded("fo") == "Zm8=");
  CHECK(encoded("foo") == "Zm9v");
  CHECK(encoded("foobar") == "Zm9vYmFy");
  CHECK(encoded("\xff\xfe\xfb") == "//77");
  CHECK(data_uri(Image(2, 2), 0).starts_with("data:image/png;base64,iVBORw0KGgo"));
  CHECK(data_uri(Image(2, 2), 80).starts_with("data:image/jpeg;base64,/9j/"));
}

TEST_CASE("image: normalised tensors", "[data]") {
  Context<Cpu> ctx;
  const Image image = test_picture(50, 33, 3);
  const Tensor<float, 3> tensor = to_tensor(ctx, image, clip_statistics);
  REQUIRE(tensor.shape == Shape<3>{3, 33, 50});
  for (int c = 0; c < 3; ++c)
    for (int y = 0; y < 33; ++y)
      for (int x = 0; x < 50; ++x) {
        const float mean = clip_statistics.mean[size_t(c)], deviation = clip_statistics.deviation[size_t(c)];
        if (tensor(c, y, x) != (float(image.at(x, y)[c]) / 255.f - mean) / deviation) FAIL("at " << x << ", " << y);
      }
  REQUIRE_ERROR(to_tensor(ctx, Image(4, 4, 1), clip_statistics), ValueError, "1 channels");
  Tensor<float, 3> other(ctx, {3, 33, 49});
  REQUIRE_ERROR(normalise_image(other, image, clip_statistics), ShapeError, "width");
}

TEST_CASE("augment: crops lie inside, follow their limits and depend on the picture's number alone", "[data]") {
  const RandomStream stream{1, 2, 3};
  double area = 0;
  int flips = 0, distinct = 0;
  for (uint64_t picture = 0; picture < 500; ++picture) {
    const CropAndFlip drawn = draw_crop(320, 240, stream, picture);
    REQUIRE(drawn.box.left >= 0);
    REQUIRE(drawn.box.top >= 0);
    REQUIRE(drawn.box.right <= 320);
    REQUIRE(drawn.box.bottom <= 240);
    const double aspect = double(drawn.box.width()) / drawn.box.height();
    CHECK(aspect > 0.73);
    CHECK(aspect < 1.37);
    area += double(drawn.box.width()) * drawn.box.height() / (320 * 240);
    flips += drawn.flipped;
    distinct += !(drawn.box == draw_crop(320, 240, stream, picture + 1).box);
    CHECK(drawn.box == draw_crop(320, 240, stream, picture).box);
  }
  CHECK(area / 500 > 0.4);
  CHECK(area / 500 < 0.6);
  CHECK(flips > 200);
  CHECK(flips < 300);
  CHECK(distinct == 500);
  CHECK(draw_crop(1000, 10, stream, 0, {1, 1, 0.75, 1.25}).box == Box{494, 0, 506, 10});  // ten misses: the middle
  CHECK(draw_crop(1, 1, stream, 0).box == Box{0, 0, 1, 1});
  REQUIRE_ERROR(draw_crop(5, 5, stream, 0, {0.5, 0.2}), ValueError, "areas");

  Image row(3, 1, 1);
  row.pixels = {1, 2, 3};
  CHECK(flip(row).pixels == std::vector<uint8_t>{3, 2, 1});
  CHECK(random_resized_crop(Image(40, 30, 3, 9), 16, stream, 7).pixels == Image(16, 16, 3, 9).pixels);
}
