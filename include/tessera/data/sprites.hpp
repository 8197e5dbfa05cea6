// Sprites: pictures with a soft mask, as Images of four channels: red, green and blue, each multiplied by alpha, and
// alpha. Mirror, rotate, resize, crop. All pixel arithmetic is in integers (angles and filter weights are rounded to
// fixed point first), so a sprite is the same on every machine and compiler.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include <tessera/core/error.hpp>
#include <tessera/data/pixels.hpp>
#include <tessera/data/resize.hpp>

namespace tessera::data {

/// The smallest part that holds every pixel with alpha > 0. Throws ValueError for an empty sprite.
inline Image crop_to_mask(const Image& from) {
  int left = from.width, right = -1, top = from.height, bottom = -1;
  for (int y = 0; y < from.height; ++y)
    for (int x = 0; x < from.width; ++x)
      if (from.at(x, y)[3] > 0) {
        left = std::min(left, x);
        right = std::max(right, x);
        top = std::min(top, y);
        bottom = y;
      }
  require(right >= 0, "crop_to_mask: the sprite of ", from.width, " x ", from.height, " pixels is wholly transparent");
  return crop(from, {left, top, right + 1, bottom + 1});
}

/// Left and right exchanged; RGBA.
inline Image mirror(const Image& from) {
  Image to(from.width, from.height, 4);
  for (int y = 0; y < from.height; ++y)
    for (int x = 0; x < from.width; ++x) std::copy_n(from.at(x, y), 4, to.at(from.width - 1 - x, y));
  return to;
}

namespace detail {
/// Keys' cubic (a = -1/2) at the 256 fractions f/256: the weights of pixels -1, 0, 1, 2, in 1/1024.
inline const std::array<std::array<int, 4>, 256>& cubic_weights() {
  static const auto table = [] {
    std::array<std::array<int, 4>, 256> weights{};
    constexpr int64_t one = 256, unit = 2 * one * one * one;  // weights are polynomials over 2 * 256^3
    const auto rounded = [](int64_t numerator) {
      return int((numerator * 1024 + unit * 4096 + unit / 2) / unit) - 4096;
    };
    for (int64_t f = 0; f < one; ++f) {
      auto& w = weights[size_t(f)];
      w[0] = rounded(-f * f * f + 2 * f * f * one - f * one * one);
      w[2] = rounded(-3 * f * f * f + 4 * f * f * one + f * one * one);
      w[3] = rounded(f * f * f - f * f * one);
      w[1] = 1024 - w[0] - w[2] - w[3];
    }
    return weights;
  }();
  return table;
}

/// Stores a filtered pixel; colours stay within [0, alpha], as premultiplied ones must.
inline void store_pixel(uint8_t* to, const int* sum, int shift) {
  const int half = 1 << (shift - 1);
  const int alpha = std::clamp((sum[3] + half) >> shift, 0, 255);
  for (int c = 0; c < 3; ++c) to[c] = uint8_t(std::clamp((sum[c] + half) >> shift, 0, alpha));
  to[3] = uint8_t(alpha);
}
}  // namespace detail

/// Rotates by `degrees` counter-clockwise with bicubic interpolation; the result is as large as the turned box.
inline Image rotate(const Image& from, double degrees) {
  const double radians = degrees * (3.14159265358979323846 / 180);
  const int64_t cosine = std::llround(std::cos(radians) * 65536), sine = std::llround(std::sin(radians) * 65536);
  const auto extent = [&](int64_t along, int64_t across) {
    return int((std::abs(cosine) * along + std::abs(sine) * across + 65535) >> 16);
  };
  Image to(extent(from.width, from.height), extent(from.height, from.width), 4);

  // A border of 3 transparent pixels lets the 4 x 4 window run over the edge unchecked.
  constexpr int border = 3;
  Image padded(from.width + 2 * border, from.height + 2 * border, 4);
  for (int y = 0; y < from.height; ++y) std::copy_n(from.at(0, y), from.width * 4, padded.at(border, y + border));

  const auto& weights = detail::cubic_weights();
  for (int y = 0; y < to.height; ++y)
    for (int x = 0; x < to.width; ++x) {
      // Offset from the centre in half pixels; the source point in 1/65536 pixel, pixel centres at integers.
      const int64_t dx = 2 * x + 1 - to.width, dy = 2 * y + 1 - to.height;
      const int64_t source_x = ((cosine * dx - sine * dy) >> 1) + (int64_t(from.width) << 15) - 32768;
      const int64_t source_y = ((sine * dx + cosine * dy) >> 1) + (int64_t(from.height) << 15) - 32768;
      const int column = int(source_x >> 16), row = int(source_y >> 16);
      if (column < -2 || row < -2 || column > from.width || row > from.height) continue;
      const auto& wx = weights[size_t(source_x >> 8 & 255)];
      const auto& wy = weights[size_t(source_y >> 8 & 255)];
      int sum[4] = {};
      for (int j = 0; j < 4; ++j) {
        const uint8_t* source = padded.at(column - 1 + border, row - 1 + j + border);
        int line[4] = {};
        for (int i = 0; i < 4; ++i)
          for (int c = 0; c < 4; ++c) line[c] += wx[size_t(i)] * source[i * 4 + c];
        for (int c = 0; c < 4; ++c) sum[c] += wy[size_t(j)] * line[c];
      }
      detail::store_pixel(to.at(x, y), sum, 20);
    }
  return to;
}

/// Resizes to width x height by Lanczos' filter.
inline Image resize_sprite(const Image& from, int width, int height) {
  Image to = resize(from, width, height, Filter::lanczos);
  for (size_t i = 0; i < to.pixels.size(); i += 4)  // the filter overshoots; a premultiplied colour may not pass alpha
    for (size_t c = 0; c < 3; ++c) to.pixels[i + c] = std::min(to.pixels[i + c], to.pixels[i + 3]);
  return to;
}

}  // namespace tessera::data
