// Short texts drawn into pictures: the names in a legend. Letters are strokes (lines, quadratic curves, arcs) drawn
// with a round pen and smooth edges, so they can have any size. Printable ASCII; any other character shows as '?'.
//
// A letter is described on a grid of units: capitals reach from y = 0 to the baseline y = 6, small letters from y
// = 2.3, descenders to y = 8; x begins at 0. "M x y" moves the pen, "L x y" draws a line, "Q cx cy x y" a curve, "O cx
// cy rx ry" an ellipse, "A cx cy rx ry from to" an arc of it (degrees, clockwise from the right), from whose end
// drawing goes on.
#pragma once
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <tessera/data/pixels.hpp>

namespace tessera::segmentation {

using data::Colour;
using data::Image;

namespace detail {

struct Letter {
  double width;
  const char* strokes;
};

/// From ' ' (32) to '~' (126).
inline constexpr std::array<Letter, 95> letters = {{
    {1.6, ""},
    {0, "M0 0L0 4M0 6L0 6"},
    {1.5, "M0 0L0 1.5M1.5 0L1.5 1.5"},
    {4, "M1.4 0L.8 6M3.2 0L2.6 6M0 2L4 2M0 4L4 4"},
    {3.8, "A1.9 1.6 1.6 1.4 -35 -270A1.9 4.4 1.8 1.4 -90 150M1.9 -.8L1.9 6.8"},
    {4.6, "O.9 1.3 .9 1.3O3.7 4.7 .9 1.3M4 0L.6 6"},
    {4.2, "M4.2 6L.9 2.1Q.3 1.2 .6 .6Q1 0 1.7 0Q2.8 0 2.8 1.2Q2.8 2.2 1.5 2.9Q0 3.7 0 4.5Q0 6 1.7 6Q3.3 6 4 3.4"},
    {0, "M0 0L0 1.5"},
    {1.4, "M1.4 -.5Q-1.2 3.1 1.4 6.8"},
    {1.4, "M0 -.5Q2.6 3.1 0 6.8"},
    {3, "M1.5 .3L1.5 3.3M.2 1L2.8 2.6M2.8 1L.2 2.6"},
    {3.6, "M1.8 1.6L1.8 5.2M0 3.4L3.6 3.4"},
    {.4, "M.4 5.9L0 7.2"},
    {2.2, "M0 3.7L2.2 3.7"},
    {0, "M0 6L0 6"},
    {2.6, "M2.6 -.3L0 6.6"},
    {3.8, "O1.9 3 1.9 3"},
    {3.8, "M.9 1.3L2.3 0L2.3 6"},
    {3.8, "A1.9 1.8 1.8 1.8 -165 25L0 6L3.8 6"},
    {3.8, "A1.8 1.5 1.7 1.5 -150 90A1.8 4.5 2 1.5 -90 150"},
    {3.8, "M2.9 6L2.9 0L0 4.2L3.9 4.2"},
    {3.8, "M3.4 0L.6 0L.27 2.71A1.8 4 2 2 -140 150"},
    {3.8, "O1.9 4.1 1.9 1.9M3 .1Q0 1.3 0 4.1"},
    {3.8, "M0 0L3.8 0L1.4 6"},
    {3.8, "O1.9 1.5 1.6 1.5O1.9 4.5 1.9 1.5"},
    {3.8, "O1.9 1.9 1.9 1.9M3.8 1.9Q3.8 4.7 .8 5.9"},
    {0, "M0 2.8L0 2.8M0 6L0 6"},
    {.4, "M.4 2.8L.4 2.8M.4 5.9L0 7.2"},
    {3.4, "M3.4 1.5L0 3.5L3.4 5.5"},
    {3.4, "M0 2.6L3.4 2.6M0 4.4L3.4 4.4"},
    {3.4, "M0 1.5L3.4 3.5L0 5.5"},
    {3.2, "A1.6 1.6 1.6 1.6 -170 60Q1.6 3.5 1.6 4.3M1.6 6L1.6 6"},
    {5, "O2.4 3.4 1.1 1.3M3.5 2.1L3.5 4Q3.7 4.8 4.4 4.7Q5 4.4 5 3.2A2.5 3.2 2.5 2.9 0 -300"},
    {4.4, "M0 6L2.2 0L4.4 6M.77 3.9L3.63 3.9"},
    {3.8, "M2 2.9L0 2.9L0 0L2 0A2 1.45 1.5 1.45 -90 90M0 2.9L0 6L2 6M2 2.9A2 4.45 1.8 1.55 -90 90"},
    {4.2, "A2.5 3 2.5 3 -48 -312"},
    {4.2, "A1.6 3 2.6 3 -90 90L0 6L0 0L1.6 0"},
    {3.3, "M3.3 0L0 0L0 6L3.3 6M0 2.9L2.9 2.9"},
    {3.2, "M3.2 0L0 0L0 6M0 3L2.8 3"},
    {4.8, "A2.4 3 2.4 3 -48 -360L4.8 3.2L2.8 3.2"},
    {4, "M0 0L0 6M4 0L4 6M0 2.9L4 2.9"},
    {0, "M0 0L0 6"},
    {2.8, "M2.8 0L2.8 4.4A1.4 4.4 1.4 1.6 0 170"},
    {3.8, "M0 0L0 6M3.7 0L0 3.6M1.35 2.3L3.9 6"},
    {3.1, "M0 0L0 6L3.1 6"},
    {5, "M0 6L0 0L2.5 4.2L5 0L5 6"},
    {4, "M0 6L0 0L4 6L4 0"},
    {5, "O2.5 3 2.5 3"},
    {3.7, "M0 6L0 0L2 0A2 1.65 1.7 1.65 -90 90L0 3.3"},
    {5, "O2.5 3 2.5 3M3 4.3L4.8 6.4"},
    {3.9, "M0 6L0 0L2 0A2 1.65 1.7 1.65 -90 90L0 3.3M2 3.3L3.9 6"},
    {3.9, "A1.9 1.5 1.7 1.5 -30 -270A1.9 4.5 1.9 1.5 -90 155"},
    {4, "M0 0L4 0M2 0L2 6"},
    {4, "M0 0L0 4A2 4 2 2 180 0L4 0"},
    {4.2, "M0 0L2.1 6L4.2 0"},
    {6, "M0 0L1.5 6L3 .6L4.5 6L6 0"},
    {4, "M0 0L4 6M4 0L0 6"},
    {4, "M0 0L2 3.1L4 0M2 3.1L2 6"},
    {3.8, "M0 0L3.8 0L0 6L3.8 6"},
    {1.2, "M1.2 -.6L0 -.6L0 6.8L1.2 6.8"},
    {2.6, "M0 -.3L2.6 6.6"},
    {1.2, "M0 -.6L1.2 -.6L1.2 6.8L0 6.8"},
    {3, "M0 2.2L1.5 0L3 2.2"},
    {3.6, "M0 7.2L3.6 7.2"},
    {1, "M0 -.2L.9 1"},
    {3.4, "O1.7 4.1 1.7 1.9M3.4 2.2L3.4 6"},
    {3.4, "M0 -.4L0 6M0 4.1O1.7 4.1 1.7 1.9"},
    {3.1, "A1.8 4.1 1.8 1.9 -48 -312"},
    {3.4, "O1.7 4.1 1.7 1.9M3.4 -.4L3.4 6"},
    {3.5, "M0 4.1L3.5 4.1A1.75 4.1 1.75 1.9 0 -312"},
    {2, "M2.2 -.3Q.8 -.6 .8 1.2L.8 6M-.2 2.4L2 2.4"},
    {3.4, "O1.7 4.1 1.7 1.9M3.4 2.2L3.4 6.2A1.7 6.2 1.7 1.8 0 155"},
    {3.2, "M0 -.4L0 6M0 4A1.6 4 1.6 1.8 180 360L3.2 6"},
    {0, "M0 2.3L0 6M0 .4L0 .4"},
    {.7, "M.7 2.3L.7 6.6Q.7 8 -.5 7.8M.7 .4L.7 .4"},
    {3, "M0 -.4L0 6M2.8 2.3L0 4.7M1.1 3.8L3 6"},
    {.8, "M0 -.4L0 5Q0 6 .8 6"},
    {5.2, "M0 2.3L0 6M0 3.7A1.3 3.7 1.3 1.5 180 360L2.6 6M2.6 3.7A3.9 3.7 1.3 1.5 180 360L5.2 6"},
    {3.2, "M0 2.3L0 6M0 4A1.6 4 1.6 1.8 180 360L3.2 6"},
    {3.6, "O1.8 4.1 1.8 1.9"},
    {3.4, "M0 2.3L0 8O1.7 4.1 1.7 1.9"},
    {3.4, "O1.7 4.1 1.7 1.9M3.4 2.3L3.4 8"},
    {2, "M0 2.3L0 6M0 4.2Q.2 2.2 2 2.3"},
    {2.8, "A1.4 3.15 1.3 .95 -25 -270A1.4 5.05 1.4 .95 -90 155"},
    {2, "M.8 .8L.8 4.8Q.8 6.2 2 5.9M-.2 2.4L2 2.4"},
    {3.2, "M0 2.3L0 4.2A1.6 4.2 1.6 1.8 180 0M3.2 2.3L3.2 6"},
    {3.2, "M0 2.3L1.6 6L3.2 2.3"},
    {4.8, "M0 2.3L1.2 6L2.4 2.5L3.6 6L4.8 2.3"},
    {3, "M0 2.3L3 6M3 2.3L0 6"},
    {3.2, "M0 2.3L1.6 6M3.2 2.3L1.6 6Q.9 7.9 -.2 7.8"},
    {2.8, "M0 2.3L2.8 2.3L0 6L2.8 6"},
    {1.6, "M1.6 -.6Q.7 -.6 .7 .4L.7 2.2Q.7 3.1 0 3.1Q.7 3.1 .7 4L.7 5.8Q.7 6.8 1.6 6.8"},
    {0, "M0 -.6L0 7.2"},
    {1.6, "M0 -.6Q.9 -.6 .9 .4L.9 2.2Q.9 3.1 1.6 3.1Q.9 3.1 .9 4L.9 5.8Q.9 6.8 0 6.8"},
    {3.4, "M0 4Q.9 2.8 1.7 3.5Q2.5 4.2 3.4 3.1"},
}};

inline constexpr double letter_gap = 1.75;  // between the strokes of neighbours
inline constexpr double pen_radius = 0.36;
inline constexpr double dot_excess = 0.16;  // by which the radius of dots exceeds the pen's

/// The letters of a UTF-8 text, one for each character.
inline std::vector<const Letter*> letters_of(std::string_view text) {
  std::vector<const Letter*> result;
  for (char c : text) {
    const auto byte = uint8_t(c);
    if ((byte & 0xc0) == 0x80) continue;  // goes on with the character before
    result.push_back(&letters[byte >= 32 && byte < 127 ? size_t(byte - 32) : size_t('?' - 32)]);
  }
  return result;
}

struct Point {
  double x, y;
};
struct Segment {
  Point from, to;

  bool is_dot() const { return from.x == to.x && from.y == to.y; }
  double distance(Point p) const {
    const double dx = to.x - from.x, dy = to.y - from.y, length = dx * dx + dy * dy;
    double along = length > 0 ? ((p.x - from.x) * dx + (p.y - from.y) * dy) / length : 0.0;
    along = std::clamp(along, 0.0, 1.0);
    return std::hypot(p.x - from.x - along * dx, p.y - from.y - along * dy);
  }
};

/// A letter's strokes as straight pieces, in units.
inline std::vector<Segment> letter_segments(const char* at) {
  std::vector<Segment> segments;
  Point pen{0, 0};
  const char* const end_of_strokes = at + std::string_view(at).size();
  const auto number = [&] {  // not strtod, which follows the program's locale
    while (*at == ' ') ++at;
    double value = 0;
    at = std::from_chars(at, end_of_strokes, value).ptr;
    return value;
  };
  const auto line_to = [&](Point p) {
    segments.push_back({pen, p});
    pen = p;
  };
  const auto arc = [&](Point centre, Point radii, double from, double to) {
    const int pieces = std::max(4, int(std::fabs(to - from) / 15));
    for (int i = 0; i <= pieces; ++i) {
      const double angle = (from + (to - from) * i / pieces) * M_PI / 180;
      const Point p{centre.x + radii.x * std::cos(angle), centre.y + radii.y * std::sin(angle)};
      if (i == 0)
        pen = p;
      else
        line_to(p);
    }
  };
  while (*at) {
    const char command = *at++;
    const Point first{number(), number()};
    if (command == 'M') pen = first;
    if (command == 'L') line_to(first);
    if (command == 'Q') {
      const Point start = pen, end{number(), number()};
      for (int i = 1; i <= 8; ++i) {
        const double t = i / 8.0, u = 1 - t;
        line_to({u * u * start.x + 2 * u * t * first.x + t * t * end.x,
                 u * u * start.y + 2 * u * t * first.y + t * t * end.y});
      }
    }
    if (command == 'O') arc(first, {number(), number()}, 0, 360);
    if (command == 'A') {
      const Point radii{number(), number()};
      const double from = number(), to = number();
      arc(first, radii, from, to);
    }
  }
  return segments;
}

inline void mix(uint8_t* pixel, Colour colour, double amount) {
  const uint8_t channels[3] = {colour.red, colour.green, colour.blue};
  for (int c = 0; c < 3; ++c) pixel[c] = uint8_t(std::lround(pixel[c] + (channels[c] - pixel[c]) * amount));
}

}  // namespace detail

/// Width of `text` in pixels where capitals are `capital_height` pixels high.
inline double text_width(std::string_view text, double capital_height) {
  double units = 0;
  for (const detail::Letter* letter : detail::letters_of(text)) units += letter->width + detail::letter_gap;
  return std::max(0.0, units - detail::letter_gap) * capital_height / 6;
}

/// Draws `text` into an RGB picture, its first letter's left edge at x, its capitals from y down to y + capital_height.
/// What lies outside the picture is cut off.
inline void draw_text(Image& image, double x, double y, std::string_view text, double capital_height, Colour colour) {
  require(image.channels == 3, "draw_text: a picture of ", image.channels, " channels");
  require(capital_height > 0, "draw_text: capitals of ", capital_height, " pixels");
  const double unit = capital_height / 6, radius = std::max(0.55, detail::pen_radius * unit);
  for (const detail::Letter* letter : detail::letters_of(text)) {
    const auto segments = detail::letter_segments(letter->strokes);
    const int left = std::max(0, int(x - unit - 2)),
              right = std::min(image.width, int(x + (letter->width + 1) * unit + 3));
    const int top = std::max(0, int(y - unit - 2)), bottom = std::min(image.height, int(y + 9 * unit + 3));
    for (int row = top; row < bottom; ++row)
      for (int column = left; column < right; ++column) {
        const detail::Point p{(column + 0.5 - x) / unit, (row + 0.5 - y) / unit};
        double nearest = 1e9;
        for (const auto& segment : segments)
          nearest = std::min(nearest, segment.distance(p) - (segment.is_dot() ? detail::dot_excess : 0.0));
        const double ink = std::clamp(radius - nearest * unit + 0.5, 0.0, 1.0);
        if (ink > 0) detail::mix(image.at(column, row), colour, ink);
      }
    x += (letter->width + detail::letter_gap) * unit;
  }
}

}  // namespace tessera::segmentation
