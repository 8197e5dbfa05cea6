// Colours for classes: as many as wanted, always the same, far from each other to the eye.
//
// Each colour is the one that lies farthest from all before it, among colours of middling lightness and clear chroma,
// in OKLab (Ottosson, "A perceptual color space for image processing", 2020), where distances are about what the eye
// sees. The first n colours are therefore the same for any number of classes, and the first ones differ most.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <tessera/data/pixels.hpp>

namespace tessera::segmentation {

using data::Colour;

namespace detail {

/// Lightness and two opponent axes (green to red, blue to yellow).
struct Oklab {
  double lightness, green_red, blue_yellow;

  double chroma() const { return std::hypot(green_red, blue_yellow); }
};

inline double linear_light(uint8_t value) {
  const double v = value / 255.0;
  return v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4);
}

inline Oklab to_oklab(Colour colour) {
  const double r = linear_light(colour.red), g = linear_light(colour.green), b = linear_light(colour.blue);
  const double l = std::cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const double m = std::cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const double s = std::cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return {0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s,
          1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s,
          0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s};
}

/// Squared; hue counts more than lightness, since a picture's own light and shade shows through its colours.
inline double colour_distance(const Oklab& a, const Oklab& b) {
  const double lightness = 0.6 * (a.lightness - b.lightness);
  const double green_red = a.green_red - b.green_red, blue_yellow = a.blue_yellow - b.blue_yellow;
  return lightness * lightness + green_red * green_red + blue_yellow * blue_yellow;
}

struct PaletteCandidate {
  Colour colour;
  Oklab place;
  double distance = std::numeric_limits<double>::infinity();  // to the nearest colour that was chosen
};

inline std::vector<PaletteCandidate> palette_candidates() {
  std::vector<PaletteCandidate> candidates;
  for (int red = 0; red <= 255; red += 15)
    for (int green = 0; green <= 255; green += 15)
      for (int blue = 0; blue <= 255; blue += 15) {
        const Colour colour{uint8_t(red), uint8_t(green), uint8_t(blue)};
        const Oklab place = to_oklab(colour);
        if (place.lightness > 0.45 && place.lightness < 0.84 && place.chroma() > 0.08 && place.chroma() < 0.19)
          candidates.push_back({colour, place});
      }
  return candidates;
}

inline std::vector<Colour> spread_colours(size_t count) {
  std::vector<PaletteCandidate> candidates = palette_candidates();
  std::vector<Colour> chosen;
  Colour next{60, 120, 225};
  while (chosen.size() < std::min(count, candidates.size())) {
    chosen.push_back(next);
    const Oklab place = to_oklab(next);
    const PaletteCandidate* farthest = &candidates.front();
    for (PaletteCandidate& candidate : candidates) {
      candidate.distance = std::min(candidate.distance, colour_distance(candidate.place, place));
      // A margin beyond rounding, so that every machine breaks ties alike: by the order of the candidates.
      if (candidate.distance > farthest->distance + 1e-9) farthest = &candidate;
    }
    next = farthest->colour;
  }
  return chosen;
}

}  // namespace detail

/// The colour of class `i`. From 512 on, colours repeat.
inline Colour class_colour(int i) {
  require(i >= 0, "class_colour: class ", i);
  static const std::vector<Colour> colours = detail::spread_colours(512);
  return colours[size_t(i) % colours.size()];
}

/// The colours of classes 0 to count - 1.
inline std::vector<Colour> class_palette(int count) {
  require(count >= 0, "class_palette: ", count, " classes");
  std::vector<Colour> palette;
  for (int i = 0; i < count; ++i) palette.push_back(class_colour(i));
  return palette;
}

/// PASCAL VOC's colour of label `i` (0 to 255): bits 0, 3, 6 of the label make red from its highest bit down, bits
/// 1, 4, 7 green, bits 2, 5 blue.
inline Colour voc_colour(int i) {
  require(i >= 0 && i <= 255, "voc_colour: label ", i, " is not in 0 to 255");
  std::array<uint8_t, 3> channels{};
  for (int bit = 0; bit < 8; ++bit) channels[size_t(bit % 3)] |= uint8_t((i >> bit & 1) << (7 - bit / 3));
  return {channels[0], channels[1], channels[2]};
}

}  // namespace tessera::segmentation
