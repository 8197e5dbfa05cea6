// A segmentation to look at: the picture tinted by class, regions outlined in white, and a legend of names, colours and
// shares of the area.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include <tessera/data/pixels.hpp>
#include <tessera/segmentation/palette.hpp>
#include <tessera/segmentation/text.hpp>

namespace tessera::segmentation {

using data::LabelMap;

/// How strongly a picture is tinted, and where.
struct OverlayOptions {
  double opacity = 0.5;              ///< of the tint; 0 leaves the picture, 1 leaves only colours
  bool outlines = true;              ///< along the regions' borders
  int untinted = -1;                 ///< a class that is left as it is, such as the background
  int ignored = data::ignore_label;  ///< a label that is left as it is and not in the legend
};

/// One line of a legend.
struct LegendEntry {
  std::string name;
  Colour colour;
  double share = 0;  ///< of the pixels that are not ignored, in [0, 1]
};

/// The picture tinted with palette[label]. `image` is RGB and as large as `labels`; every label is in the palette, or
/// is one of those that the options leave out (ValueError).
inline Image tint(const Image& image, const LabelMap& labels, std::span<const Colour> palette,
                  const OverlayOptions& options = {}) {
  require(image.channels == 3, "tint: a picture of ", image.channels, " channels (to_rgb makes 3)");
  require(image.width == labels.width && image.height == labels.height, "tint: labels of ", labels.width, " x ",
          labels.height, " on a picture of ", image.width, " x ", image.height);
  require(options.opacity >= 0 && options.opacity <= 1, "tint: opacity ", options.opacity, " is not in [0, 1]");
  const auto left_out = [&](int label) { return label == options.untinted || label == options.ignored; };
  for (uint16_t label : labels.labels)
    require(label < palette.size() || left_out(label), "tint: label ", int(label), ", but the palette has ",
            palette.size(), " colours");

  const int reach = std::max(1, (std::min(image.width, image.height) + 100) / 300);  // width of an outline
  const auto on_border = [&](int x, int y) {
    const uint16_t label = labels.at(x, y);
    for (int step = 1; step <= reach; ++step)
      if ((x + step < labels.width && labels.at(x + step, y) != label) ||
          (y + step < labels.height && labels.at(x, y + step) != label))
        return true;
    return false;
  };
  Image result = image;
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x) {
      const int label = labels.at(x, y);
      if (!left_out(label)) detail::mix(result.at(x, y), palette[size_t(label)], options.opacity);
      if (options.outlines && on_border(x, y)) detail::mix(result.at(x, y), {255, 255, 255}, 0.75);
    }
  return result;
}

/// One entry for each class that occurs, the largest first. Classes beyond `names` are called by their numbers.
inline std::vector<LegendEntry> legend_entries(const LabelMap& labels, std::span<const std::string> names,
                                               std::span<const Colour> palette, int ignored = data::ignore_label) {
  std::vector<int64_t> pixels(65536, 0);
  int64_t all = 0;
  for (uint16_t label : labels.labels)
    if (label != ignored) {
      ++pixels[label];
      ++all;
    }
  std::vector<LegendEntry> entries;
  for (size_t label = 0; label < pixels.size(); ++label)
    if (pixels[label] > 0)
      entries.push_back({label < names.size() ? names[label] : std::to_string(label),
                         label < palette.size() ? palette[label] : Colour{255, 255, 255},
                         double(pixels[label]) / double(all)});
  std::stable_sort(entries.begin(), entries.end(),
                   [](const LegendEntry& a, const LegendEntry& b) { return a.share > b.share; });
  return entries;
}

namespace detail {

inline constexpr Colour legend_paper{250, 250, 248}, legend_ink{38, 42, 48}, legend_faint{128, 134, 142};
inline constexpr Colour legend_clear{222, 222, 218};  // the swatch of a class that is not tinted

inline std::string percentage(double share) {
  if (share < 0.001) return "<0.1%";
  char text[16];
  std::snprintf(text, sizeof text, share < 0.0995 ? "%.1f%%" : "%.0f%%", 100 * share);
  return text;
}

/// `name`, cut and ended with dots where it is wider than `room` pixels.
inline std::string fitted(const std::string& name, double room, double capital) {
  if (text_width(name, capital) <= room) return name;
  std::string cut = name;
  while (!cut.empty() && text_width(cut + "..", capital) > room) {
    while (cut.size() > 1 && (uint8_t(cut.back()) & 0xc0) == 0x80) cut.pop_back();  // the rest of a UTF-8 character
    cut.pop_back();
  }
  return cut + "..";
}

/// A filled square with rounded corners and smooth edges.
inline void draw_swatch(Image& image, double left, double top, double side, Colour colour) {
  const double corner = side * 0.28, half = side / 2 - corner;
  const double middle_x = left + side / 2, middle_y = top + side / 2;
  for (int y = std::max(0, int(top) - 1); y < std::min(image.height, int(top + side) + 2); ++y)
    for (int x = std::max(0, int(left) - 1); x < std::min(image.width, int(left + side) + 2); ++x) {
      const double dx = std::max(0.0, std::fabs(x + 0.5 - middle_x) - half);
      const double dy = std::max(0.0, std::fabs(y + 0.5 - middle_y) - half);
      const double ink = std::clamp(corner - std::hypot(dx, dy) + 0.5, 0.0, 1.0);
      if (ink > 0) mix(image.at(x, y), colour, ink);
    }
}

}  // namespace detail

/// A legend of the given width: entries in columns, read downwards, each a swatch, a name and its share. The height
/// is what the entries need.
inline Image draw_legend(std::span<const LegendEntry> entries, int width) {
  require(width > 0, "draw_legend: ", width, " pixels wide");
  const double capital = std::clamp(width / 56.0, 9.0, 26.0);
  const double line = capital * 2.4, margin = capital * 1.3, gap = capital * 2, swatch = capital * 1.45;
  double name_width = 0, share_width = text_width("100%", capital);
  for (const LegendEntry& entry : entries) {
    name_width = std::max(name_width, text_width(entry.name, capital));
    share_width = std::max(share_width, text_width(detail::percentage(entry.share), capital));
  }
  const double around = swatch + capital * 0.9 + capital + share_width;  // all of an entry but its name
  const double inner = std::max(1.0, width - 2 * margin);
  const int count = int(entries.size());
  const int columns = std::clamp(int((inner + gap) / (around + name_width + gap)), 1, std::max(1, count));
  const int lines = (count + columns - 1) / columns;
  const double column = (inner - (columns - 1) * gap) / columns;
  name_width = std::min(name_width, column - around);

  Image legend(width, int(std::ceil(lines * line + 2 * margin - (line - capital))), 3);
  for (size_t i = 0; i < legend.pixels.size(); i += 3) detail::mix(&legend.pixels[i], detail::legend_paper, 1);
  for (int i = 0; i < count; ++i) {
    const LegendEntry& entry = entries[size_t(i)];
    const double x = margin + (i / lines) * (column + gap), y = margin + (i % lines) * line;
    detail::draw_swatch(legend, x, y + (capital - swatch) / 2, swatch, entry.colour);
    const double name_at = x + swatch + capital * 0.9;
    draw_text(legend, name_at, y, detail::fitted(entry.name, name_width, capital), capital, detail::legend_ink);
    const std::string share = detail::percentage(entry.share);
    const double share_at = name_at + name_width + capital + share_width - text_width(share, capital);
    draw_text(legend, share_at, y, share, capital, detail::legend_faint);
  }
  return legend;
}

/// `upper` above `lower`, both RGB and of one width.
inline Image stack(const Image& upper, const Image& lower) {
  require(upper.width == lower.width && upper.channels == lower.channels, "stack: pictures ", upper.width, " and ",
          lower.width, " pixels wide, of ", upper.channels, " and ", lower.channels, " channels");
  Image both(upper.width, upper.height + lower.height, upper.channels);
  std::copy(upper.pixels.begin(), upper.pixels.end(), both.pixels.begin());
  std::copy(lower.pixels.begin(), lower.pixels.end(), both.pixels.begin() + ptrdiff_t(upper.pixels.size()));
  return both;
}

/// The tinted picture with its legend below.
inline Image overlay(const Image& image, const LabelMap& labels, std::span<const std::string> names,
                     std::span<const Colour> palette, const OverlayOptions& options = {}) {
  const Image tinted = tint(image, labels, palette, options);
  std::vector<Colour> colours(palette.begin(), palette.end());
  if (options.untinted >= 0 && size_t(options.untinted) < colours.size())
    colours[size_t(options.untinted)] = detail::legend_clear;
  return stack(tinted, draw_legend(legend_entries(labels, names, colours, options.ignored), image.width));
}

}  // namespace tessera::segmentation
