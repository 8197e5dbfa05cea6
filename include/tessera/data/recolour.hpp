// Recolouring of sprites: turns the main hue of an object to another one and leaves greys and other hues alone.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include <tessera/core/error.hpp>
#include <tessera/data/pixels.hpp>

namespace tessera::data {

namespace detail {
/// Hue in degrees 0 … 360, chroma and largest channel of a premultiplied colour.
struct HueChroma {
  double hue, chroma, largest;
};

inline HueChroma hue_chroma(const uint8_t* rgb) {
  const double r = rgb[0], g = rgb[1], b = rgb[2];
  const double largest = std::max({r, g, b}), chroma = largest - std::min({r, g, b});
  if (chroma == 0) return {0, 0, largest};
  double sextant = largest == r ? (g - b) / chroma : largest == g ? (b - r) / chroma + 2 : (r - g) / chroma + 4;
  if (sextant < 0) sextant += 6;
  return {sextant * 60, chroma, largest};
}

/// The colour of given hue, chroma and largest channel.
inline std::array<double, 3> from_hue(double hue, double chroma, double largest) {
  const double sextant = hue / 60, second = chroma * (1 - std::abs(std::fmod(sextant, 2.0) - 1));
  const double low = largest - chroma;
  std::array<double, 3> rgb{};
  switch (int(sextant) % 6) {
    case 0:
      rgb = {chroma, second, 0};
      break;
    case 1:
      rgb = {second, chroma, 0};
      break;
    case 2:
      rgb = {0, chroma, second};
      break;
    case 3:
      rgb = {0, second, chroma};
      break;
    case 4:
      rgb = {second, 0, chroma};
      break;
    default:
      rgb = {chroma, 0, second};
      break;
  }
  for (double& value : rgb) value += low;
  return rgb;
}

/// Signed distance from hue a to hue b, in -180 … 180 degrees.
inline double hue_distance(double a, double b) { return std::remainder(b - a, 360.0); }
}  // namespace detail

/// Turns all pixels within 60 degrees of the sprite's main hue (the one with most chroma) by the same angle, so that
/// the main hue becomes `hue`, 0 … 359.
inline void recolour(Image& sprite, int hue) {
  require(hue >= 0 && hue < 360, "recolour: hue ", hue, " must lie in 0 … 359");
  std::array<double, 36> weight{};  // chroma in bins of ten degrees
  const size_t pixels = sprite.pixels.size() / 4;
  for (size_t i = 0; i < pixels; ++i) {
    const auto colour = detail::hue_chroma(&sprite.pixels[4 * i]);
    weight[size_t(colour.hue / 10) % 36] += colour.chroma;
  }
  const auto heaviest = std::max_element(weight.begin(), weight.end()) - weight.begin();
  const double main_hue = 10.0 * double(heaviest) + 5;
  for (size_t i = 0; i < pixels; ++i) {
    uint8_t* rgb = &sprite.pixels[4 * i];
    const auto colour = detail::hue_chroma(rgb);
    const double offset = detail::hue_distance(main_hue, colour.hue);
    if (colour.chroma < 8 || std::abs(offset) > 60) continue;
    const auto turned = detail::from_hue(std::fmod(hue + offset + 360, 360.0), colour.chroma, colour.largest);
    for (size_t c = 0; c < 3; ++c) rgb[c] = uint8_t(std::clamp(turned[c], 0.0, 255.0) + 0.5);
  }
}

}  // namespace tessera::data
