// Superpixels as scikit-image makes them, and the labels that training crops get from them.
#include <cstdio>
#include <string>
#include <vector>

#include <support/golden.hpp>
#include <tessera/data/superpixels.hpp>

using namespace tessera;
using namespace tessera_test;
using data::SegmentMap;

namespace {

data::Image rgb_picture(const Case& which, const std::string& name) {
  const auto shape = which.shape(name);
  REQUIRE(shape.size() == 3);
  data::Image image{int(shape[1]), int(shape[0]), int(shape[2])};
  image.pixels = which.values<uint8_t>(name);
  return image;
}

data::FelzenszwalbOptions options_of(const Case& which, const std::string& name) {
  const auto config = which.config()["images"][name];
  return {config.get<double>("scale"), config.get<double>("sigma"), config.get<int>("min_size")};
}

void same_map(const Case& which, const std::string& name, const SegmentMap& ours) {
  REQUIRE(which.shape(name) == std::vector<int64_t>{ours.height, ours.width});
  compare_exactly<int32_t>(which, name, ours.labels);
}

/// The numbers in the first parentheses after "=" of a tensor's description: "… box (x0,y0,x1,y1)=(0.13, 0.21, 0.83,
/// 0.97)".
data::RelativeBox described_crop(const Case& which, const std::string& name) {
  const std::string text = which.description()["tensors"][name].get<std::string>("desc");
  const size_t at = text.find("=(");
  REQUIRE(at != std::string::npos);
  data::RelativeBox box;
  REQUIRE(std::sscanf(text.c_str() + at, "=(%f, %f, %f, %f)", &box.x0, &box.y0, &box.x1, &box.y1) == 4);
  return box;
}

}  // namespace

TEST_CASE("golden felzenszwalb: label maps and smoothed pictures equal scikit-image's", "[golden]") {
  for (const Case& which : find_cases("felzenszwalb"))
    for (int i = 0; which.has(sentence("input.image", i)); ++i) {
      const std::string name = sentence("image", i);
      INFO(which.name() << ": " << name);
      const data::Image image = rgb_picture(which, "input." + name);
      const auto options = options_of(which, name);
      const SegmentMap map = data::felzenszwalb(image, options);
      same_map(which, "out." + name + ".labels", map);
      CHECK(map.count() == which.config()["images"][name].get<int>("segments"));
      if (!which.has("mid." + name + ".smooth")) continue;
      const std::vector<double> planes = data::detail::smooth_planes(image, options.sigma);
      const size_t plane = planes.size() / 3;
      std::vector<double> pixels(planes.size());
      for (size_t at = 0; at < plane; ++at)
        for (size_t c = 0; c < 3; ++c) pixels[3 * at + c] = planes[c * plane + at];
      compare<double>(which, "mid." + name + ".smooth", pixels);
    }
}

TEST_CASE("golden felzenszwalb: crops, nearest resizing, labels of patches", "[golden]") {
  for (const Case& which : find_cases("felzenszwalb"))
    for (int i = 0; which.has(sentence("input.image", i)); ++i) {
      const std::string name = sentence("image", i);
      const SegmentMap map = data::felzenszwalb(rgb_picture(which, "input." + name), options_of(which, name));
      for (int j = 0; which.has(sentence("out.", name, ".crop", j, ".resized")); ++j) {
        const std::string crop = sentence("out.", name, ".crop", j);
        INFO(which.name() << ": " << crop);
        const auto box = described_crop(which, crop + ".patch_labels");
        const auto size = which.shape(crop + ".resized"), grid = which.shape(crop + ".patch_labels");
        const SegmentMap resized = data::resize_labels(data::crop_labels(map, box), int(size[1]), int(size[0]));
        same_map(which, crop + ".resized", resized);
        same_map(which, crop + ".patch_labels",
                 data::patch_labels(resized, int(size[1] / grid[1]), int(size[0] / grid[0])));
      }
    }
}
