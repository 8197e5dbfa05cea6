// Augmentation for training: mirrored pictures and random crops. Random numbers are drawn by the number of the picture,
// so a picture is treated alike whatever batch, thread or order it comes in.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include <tessera/core/random.hpp>
#include <tessera/data/pixels.hpp>
#include <tessera/data/resize.hpp>

namespace tessera::data {

/// Mirrored, left for right.
inline Image flip(const Image& image) {
  Image result(image.width, image.height, image.channels);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      std::copy_n(image.at(image.width - 1 - x, y), image.channels, result.at(x, y));
  return result;
}
/// Left and right exchanged.
inline LabelMap flip(const LabelMap& map) {
  LabelMap result(map.width, map.height);
  for (int y = 0; y < map.height; ++y) std::reverse_copy(map.row(y), map.row(y) + map.width, result.row(y));
  return result;
}

/// Which crops are drawn: areas and aspects as torchvision's RandomResizedCrop takes them.
struct RandomCropOptions {
  double min_area = 0.08, max_area = 1.0;                 ///< of the picture's area
  double min_aspect = 3.0 / 4.0, max_aspect = 4.0 / 3.0;  ///< width by height; uniform in its logarithm
  double flip_probability = 0.5;
};

/// What to do with one picture.
struct CropAndFlip {
  Box box;
  bool flipped = false;
};

/// Draws a crop and a flip for picture number `picture` of width x height: an area and an aspect are drawn until they
/// fit, at most ten times; else the middle is taken, with the nearest aspect allowed (the rule of torchvision's
/// RandomResizedCrop).
inline CropAndFlip draw_crop(int width, int height, const RandomStream& stream, uint64_t picture,
                             const RandomCropOptions& options = {}) {
  require(width > 0 && height > 0, "draw_crop: a picture of ", width, " x ", height);
  require(options.min_area > 0 && options.min_area <= options.max_area && options.max_area <= 1,
          "draw_crop: areas from ", options.min_area, " to ", options.max_area, " are not in (0, 1]");
  require(options.min_aspect > 0 && options.min_aspect <= options.max_aspect, "draw_crop: aspects from ",
          options.min_aspect, " to ", options.max_aspect);
  constexpr uint64_t draws = 64;  // numbers set aside for one picture
  const auto uniform = [&](uint64_t draw) { return double(stream.uniform(picture * draws + draw)); };
  const auto below = [&](uint64_t draw, int n) { return int(stream.below(picture * draws + draw, uint32_t(n))); };
  CropAndFlip result;
  result.flipped = uniform(0) < options.flip_probability;
  const double low = std::log(options.min_aspect), high = std::log(options.max_aspect);
  for (uint64_t attempt = 0; attempt < 10; ++attempt) {
    const uint64_t draw = 1 + 4 * attempt;
    const double area =
        double(width) * height * (options.min_area + (options.max_area - options.min_area) * uniform(draw));
    const double aspect = std::exp(low + (high - low) * uniform(draw + 1));
    const double w = std::nearbyint(std::sqrt(area * aspect)), h = std::nearbyint(std::sqrt(area / aspect));
    if (w < 1 || h < 1 || w > width || h > height) continue;
    const int left = below(draw + 2, width - int(w) + 1), top = below(draw + 3, height - int(h) + 1);
    result.box = {left, top, left + int(w), top + int(h)};
    return result;
  }
  const double aspect = std::clamp(double(width) / height, options.min_aspect, options.max_aspect);
  const int w = std::clamp(int(std::nearbyint(height * aspect)), 1, width);
  const int h = std::clamp(int(std::nearbyint(width / aspect)), 1, height);
  const int left = (width - w) / 2, top = (height - h) / 2;
  result.box = {left, top, left + w, top + h};
  return result;
}

/// Makes a crop that was drawn: RGB, side x side, by bicubic.
inline Image resized_crop(const Image& image, int side, const CropAndFlip& drawn) {
  const Image resized = to_rgb(resize(image, drawn.box, side, side, Filter::bicubic));
  return drawn.flipped ? flip(resized) : resized;
}

/// Draws a crop and makes it.
inline Image random_resized_crop(const Image& image, int side, const RandomStream& stream, uint64_t picture,
                                 const RandomCropOptions& options = {}) {
  return resized_crop(image, side, draw_crop(image.width, image.height, stream, picture, options));
}

}  // namespace tessera::data
