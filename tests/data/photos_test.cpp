// Real photos and odd pictures through the whole way in: file, pixels, model input.
#include <algorithm>
#include <cmath>

#include <support/catch.hpp>
#include <support/skip.hpp>
#include <tessera/data/image.hpp>
#include <tessera/data/resize.hpp>

using namespace tessera;
using namespace tessera::data;

namespace {

const std::filesystem::path shared = std::filesystem::path(TESSERA_SOURCE_DIR).parent_path() / "shared" / "data";

std::vector<std::filesystem::path> pictures_in(const std::filesystem::path& folder, size_t at_most) {
  std::vector<std::filesystem::path> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (const auto ending = entry.path().extension(); ending == ".jpg" || ending == ".png")
      paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  if (paths.size() > at_most) paths.resize(at_most);
  return paths;
}

/// A photo as models see it: both preprocessings give finite tensors of the right shape that are not flat.
void check_pipeline(const Image& image, bool flat) {
  Context<Cpu> ctx;
  const Image square = clip_resize(image, 224);
  REQUIRE(square.width == 224);
  REQUIRE(square.height == 224);
  const Size size = keep_ratio_size(image.width, image.height, 2048, 448);
  const Image scaled = resize_cv2_linear(to_rgb(image), size.width, size.height);
  for (const auto& tensor : {to_tensor(ctx, square, clip_statistics), to_tensor(ctx, scaled, imagenet_statistics)}) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < tensor.size(); ++i) {
      sum += tensor.data[i];
      squares += double(tensor.data[i]) * tensor.data[i];
    }
    const double mean = sum / double(tensor.size()), variance = squares / double(tensor.size()) - mean * mean;
    REQUIRE(std::isfinite(mean));
    if (!flat) CHECK(variance > 0.05);
  }
}

}  // namespace

TEST_CASE("photos: every demo photo decodes and is prepared", "[data]") {
  const auto paths = pictures_in(shared / "photos", 100);
  if (paths.empty()) return tessera_test::skip("no photos under " + (shared / "photos").string());
  tessera_test::ran();
  for (const auto& path : paths) {
    INFO(path.string());
    check_pipeline(read_image(path), false);
  }
}

TEST_CASE("photos: labelled photos fit their label maps", "[data]") {
  const auto paths = pictures_in(shared / "msrc_v2" / "images", 12);
  if (paths.empty()) return tessera_test::skip("no photos under " + (shared / "msrc_v2").string());
  tessera_test::ran();
  for (const auto& path : paths) {
    INFO(path.string());
    const Image image = read_image(path);
    const LabelMap labels = read_label_map(shared / "msrc_v2" / "labels" / path.stem().replace_extension(".png"));
    CHECK(labels.width == image.width);
    CHECK(labels.height == image.height);
    CHECK(*std::max_element(labels.labels.begin(), labels.labels.end()) <= 23);
    check_pipeline(image, false);
  }
}

TEST_CASE("photos: grey, alpha, one pixel and long strips go the same way", "[data]") {
  tessera_test::ran();
  const auto textured = [](int width, int height, int channels) {
    Image image(width, height, channels);
    for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = uint8_t((i * 2654435761u) >> 13);
    return image;
  };
  for (const Image& image : {textured(300, 200, 1), textured(300, 200, 2), textured(200, 300, 4), textured(8000, 50, 3),
                             textured(50, 8000, 1), textured(1, 1, 3), textured(2, 3, 4)}) {
    INFO(image.width << " x " << image.height << " x " << image.channels);
    const Image decoded = decode_image(encode_png(image));
    CHECK(decoded.pixels == to_rgb(image).pixels);
    check_pipeline(decoded, true);
    check_pipeline(decode_image(encode_jpeg(to_rgb(image))), true);
  }
}
