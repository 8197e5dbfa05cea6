// Colours for amounts: dark violet over blue, teal and green to pale yellow. Lightness rises throughout, so that the
// order of two amounts is seen without hues, too. And a map of amounts laid over its picture.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include <tessera/data/pixels.hpp>
#include <tessera/ops/interpolate.hpp>

namespace tessera::segmentation {

using data::Colour;
using data::Image;

/// The colour of an amount in [0, 1]; beyond, that of the nearer end.
inline Colour heat_colour(double amount) {
  struct Stop {
    double red, green, blue;
  };
  constexpr std::array<Stop, 6> stops = {
      {{36, 20, 66}, {44, 60, 134}, {28, 116, 146}, {52, 168, 120}, {158, 210, 76}, {253, 240, 140}}};
  const double at = std::clamp(std::isnan(amount) ? 0.0 : amount, 0.0, 1.0) * (stops.size() - 1);
  const auto low = std::min(size_t(at), stops.size() - 2);
  const double part = at - double(low);
  const Stop &a = stops[low], &b = stops[low + 1];
  const auto channel = [&](double from, double to) { return uint8_t(std::lround(from + (to - from) * part)); };
  return {channel(a.red, b.red), channel(a.green, b.green), channel(a.blue, b.blue)};
}

/// Where the cells of a map lie on a picture, in its pixels: the centre of the first, and the distance of neighbours.
struct CellPlaces {
  double first_x = 0, step_x = 1, first_y = 0, step_y = 1;
};

/// `values` [h, w], interpolated between the cells' centres, as colours over the greyed picture (RGB): `low` and what
/// is below is dark, `high` and above pale.
inline Image heat_map(Context<Cpu>& ctx, const Image& picture, const TensorView<const float, 2>& values,
                      const CellPlaces& places, double low, double high, double opacity = 0.8) {
  require(picture.channels == 3, "heat_map: a picture of ", picture.channels, " channels (to_rgb makes 3)");
  require(opacity >= 0 && opacity <= 1, "heat_map: opacity ", opacity, " is not in [0, 1]");
  const auto full = interpolate(ctx, values.reshape(Shape<4>{1, 1, values.shape[0], values.shape[1]}),
                                {picture.height, picture.width},
                                {.rows = AxisSampling::centres(places.first_y, places.step_y, 0.5, 1),
                                 .columns = AxisSampling::centres(places.first_x, places.step_x, 0.5, 1)});
  const double range = high > low ? high - low : 1;
  Image map(picture.width, picture.height, 3);
  for (int y = 0; y < picture.height; ++y)
    for (int x = 0; x < picture.width; ++x) {
      const uint8_t* from = picture.at(x, y);
      const double grey = 0.299 * from[0] + 0.587 * from[1] + 0.114 * from[2];
      const Colour heat = heat_colour((double(full(0, 0, y, x)) - low) / range);
      const uint8_t channels[3] = {heat.red, heat.green, heat.blue};
      for (int c = 0; c < 3; ++c) map.at(x, y)[c] = uint8_t(std::lround(grey * (1 - opacity) + channels[c] * opacity));
    }
  return map;
}

}  // namespace tessera::segmentation
