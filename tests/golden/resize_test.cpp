// Resizing of 8-bit pictures as Pillow and OpenCV do it, and the normalised tensors made from them.
#include <cmath>
#include <string>
#include <vector>

#include <support/golden.hpp>
#include <tessera/data/image.hpp>
#include <tessera/data/resize.hpp>

using namespace tessera;
using namespace tessera_test;
using data::Image;

namespace {

Image picture(const Case& which, const std::string& name) {
  const auto shape = which.shape(name);
  REQUIRE(shape.size() == 3);
  Image image{int(shape[1]), int(shape[0]), int(shape[2])};
  image.pixels = which.values<uint8_t>(name);
  return image;
}

void same(const Case& which, const std::string& name, const Image& ours) {
  REQUIRE(which.shape(name) == std::vector<int64_t>{ours.height, ours.width, ours.channels});
  compare_exactly<uint8_t>(which, name, ours.pixels);
}

int image_count(const Case& which) {
  int count = 0;
  while (which.has(sentence("input.image", count))) ++count;
  REQUIRE(count > 0);
  return count;
}

data::ImageStatistics statistics(const Case& which) {
  data::ImageStatistics result{};
  for (size_t c = 0; c < 3; ++c) {
    result.mean[c] = which.config()["mean"][c].as<float>();
    result.deviation[c] = which.config()["std"][c].as<float>();
  }
  return result;
}

/// The numbers in the first parentheses of a tensor's description, e.g. "crop box (x0,y0,x1,y1)=(6, 13, 38, 59) …".
data::Box described_box(const Case& which, const std::string& name) {
  const std::string text = which.description()["tensors"][name].get<std::string>("desc");
  data::Box box;
  const size_t at = text.find("=(");
  REQUIRE(at != std::string::npos);
  REQUIRE(std::sscanf(text.c_str() + at, "=(%d, %d, %d, %d)", &box.left, &box.top, &box.right, &box.bottom) == 4);
  return box;
}

}  // namespace

TEST_CASE("golden resize: Pillow's filters, CLIP's crop and normalisation", "[golden]") {
  for (const Case& which : find_cases("resize")) {
    const int side = which.config().get<int>("n_px");
    for (int i = 0; i < image_count(which); ++i) {
      const Image image = picture(which, sentence("input.image", i));
      const std::string out = sentence("out.image", i, ".");
      const data::Size size = data::short_side_size(image.width, image.height, side);
      same(which, out + "pil_bicubic", data::resize(image, size.width, size.height, data::Filter::bicubic));
      same(which, out + "pil_bilinear", data::resize(image, size.width, size.height, data::Filter::bilinear));
      same(which, out + "pil_lanczos", data::resize(image, size.width, size.height, data::Filter::lanczos));
      const Image middle = data::clip_resize(image, side);
      same(which, out + "crop", middle);
      same(which, out + "random_crop",
           data::resize(image, described_box(which, out + "random_crop"), side, side, data::Filter::bicubic));
      Context<Cpu> ctx;
      compare(which, out + "normalised", data::to_tensor(ctx, middle, statistics(which)));
    }
  }
}

TEST_CASE("golden resize: OpenCV's bilinear on 8 bits, at mmsegmentation's sizes", "[golden]") {
  for (const Case& which : find_cases("resize"))
    for (int i = 0; i < image_count(which); ++i) {
      const Image image = picture(which, sentence("input.image", i));
      const std::string out = sentence("out.image", i, ".");
      const auto limits = which.config()["cv2"][i];
      const data::Size size =
          data::keep_ratio_size(image.width, image.height, limits[0].as<int>(), limits[1].as<int>());
      const Image ours = data::resize_cv2_linear(image, size.width, size.height);
      same(which, out + "cv2_linear", ours);

      // Never more than one level from the unrounded value.
      const std::vector<double> exact = which.values<double>(out + "cv2_linear_float");
      double worst = 0;
      for (size_t at = 0; at < exact.size(); ++at) worst = std::max(worst, std::abs(ours.pixels[at] - exact[at]));
      CHECK(worst < 1.5);

      Context<Cpu> ctx;
      compare(which, out + "cv2_normalised", data::to_tensor(ctx, ours, data::imagenet_statistics));
    }
}
