// Charts as pictures: curves over the unit square (ROC, precision-recall), bars, matrices. Lines have smooth edges,
// text is text.hpp's.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <tessera/segmentation/heat_colours.hpp>
#include <tessera/segmentation/text.hpp>

namespace tessera::segmentation {

inline constexpr Colour chart_paper{255, 255, 255}, chart_ink{31, 41, 55}, chart_faint{107, 114, 128},
    chart_grid{229, 231, 235};

/// The colour of the i-th curve or row of bars; they repeat after five.
inline Colour series_colour(size_t i) {
  constexpr std::array<Colour, 5> colours = {
      {{37, 99, 235}, {220, 38, 38}, {5, 150, 105}, {217, 119, 6}, {124, 58, 237}}};
  return colours[i % colours.size()];
}

/// A blank sheet.
inline Image blank_sheet(int width, int height, Colour paper = chart_paper) {
  Image sheet(width, height, 3);
  for (size_t i = 0; i < sheet.pixels.size(); i += 3) {
    sheet.pixels[i] = paper.red;
    sheet.pixels[i + 1] = paper.green;
    sheet.pixels[i + 2] = paper.blue;
  }
  return sheet;
}

/// Copies `part` into `sheet` at (left, top); what does not fit is cut off.
inline void paste(Image& sheet, const Image& part, int left, int top) {
  require(sheet.channels == part.channels, "paste: ", part.channels, " channels into ", sheet.channels);
  require(left >= 0 && top >= 0, "paste: at (", left, ", ", top, ")");
  const int width = std::min(part.width, sheet.width - left), height = std::min(part.height, sheet.height - top);
  for (int y = 0; width > 0 && y < height; ++y)
    std::copy_n(part.at(0, y), size_t(width) * size_t(part.channels), sheet.at(left, top + y));
}

/// A line `width` pixels wide with round ends, between points in pixels.
inline void draw_line(Image& image, double x0, double y0, double x1, double y1, double width, Colour colour) {
  const detail::Segment segment{{x0, y0}, {x1, y1}};
  const double reach = width / 2 + 1;
  const int left = std::max(0, int(std::floor(std::min(x0, x1) - reach)));
  const int right = std::min(image.width - 1, int(std::ceil(std::max(x0, x1) + reach)));
  const int top = std::max(0, int(std::floor(std::min(y0, y1) - reach)));
  const int bottom = std::min(image.height - 1, int(std::ceil(std::max(y0, y1) + reach)));
  for (int y = top; y <= bottom; ++y)
    for (int x = left; x <= right; ++x) {
      const double ink = std::clamp(width / 2 - segment.distance({x + 0.5, y + 0.5}) + 0.5, 0.0, 1.0);
      if (ink > 0) detail::mix(image.at(x, y), colour, ink);
    }
}

/// A filled rectangle.
inline void fill_rectangle(Image& image, int left, int top, int right, int bottom, Colour colour) {
  for (int y = std::max(0, top); y < std::min(bottom, image.height); ++y)
    for (int x = std::max(0, left); x < std::min(right, image.width); ++x) detail::mix(image.at(x, y), colour, 1);
}

/// "0.873"
inline std::string fixed_text(double value, int digits) {
  if (std::isnan(value)) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

/// One line of a chart, its points in [0, 1] x [0, 1].
struct ChartCurve {
  std::string name;
  std::vector<std::pair<double, double>> points;
  bool chance = false;  ///< drawn thin and grey: what guessing gives
};

/// What stands around a chart.
struct ChartText {
  std::string title, x_name, y_name;
};

/// Curves over the unit square, their names below.
inline Image draw_chart(const ChartText& text, const std::vector<ChartCurve>& curves, int side = 360) {
  constexpr int left = 58, top = 58, right = 22, line = 22;
  constexpr double small = 9;
  const int names_at = top + side + 58;
  Image chart = blank_sheet(left + side + right, names_at + line * int(curves.size()) + 8);
  const auto at_x = [&](double x) { return left + std::clamp(x, 0.0, 1.0) * side; };
  const auto at_y = [&](double y) { return top + (1 - std::clamp(y, 0.0, 1.0)) * side; };
  for (int tick = 0; tick <= 5; ++tick) {
    const double value = tick / 5.0;
    draw_line(chart, at_x(value), at_y(0), at_x(value), at_y(1), 1, chart_grid);
    draw_line(chart, at_x(0), at_y(value), at_x(1), at_y(value), 1, chart_grid);
    const std::string number = fixed_text(value, 1);
    const double width = text_width(number, small);
    draw_text(chart, at_x(value) - width / 2, at_y(0) + 9, number, small, chart_faint);
    draw_text(chart, at_x(0) - 9 - width, at_y(value) - small / 2, number, small, chart_faint);
  }
  draw_text(chart, left, 12, text.title, 12, chart_ink);
  draw_text(chart, left, 37, text.y_name, small, chart_faint);
  draw_text(chart, at_x(1) - text_width(text.x_name, small), at_y(0) + 30, text.x_name, small, chart_faint);
  size_t colours = 0;
  for (size_t i = 0; i < curves.size(); ++i) {
    const ChartCurve& curve = curves[i];
    const Colour colour = curve.chance ? chart_faint : series_colour(colours++);
    const double width = curve.chance ? 1.2 : 2.4;
    for (size_t k = 1; k < curve.points.size(); ++k)
      draw_line(chart, at_x(curve.points[k - 1].first), at_y(curve.points[k - 1].second), at_x(curve.points[k].first),
                at_y(curve.points[k].second), width, colour);
    const int y = names_at + line * int(i);
    draw_line(chart, left, y + 5, left + 20, y + 5, width, colour);
    draw_text(chart, left + 30, y, curve.name, 10, chart_ink);
  }
  return chart;
}

/// A value in [0, 1] for every name and every series, as lying bars; NaN is left out.
inline Image draw_bars(const std::string& title, const std::vector<std::string>& names,
                       const std::vector<std::string>& series, const std::vector<std::vector<double>>& values,
                       int width = 760) {
  require(values.size() == series.size(), "draw_bars: ", values.size(), " rows of values for ", series.size(),
          " series");
  constexpr int bar = 12, gap = 8, margin = 16;
  double names_width = 0;
  for (const auto& name : names) names_width = std::max(names_width, text_width(name, 10));
  const int left = margin + int(names_width) + 14, right = width - 56, top = 48;
  const int group = bar * int(series.size()) + gap;
  const int legend_at = top + group * int(names.size()) + 10;
  Image chart = blank_sheet(width, legend_at + 22 * int(series.size()) + 8);
  draw_text(chart, margin, 14, title, 12, chart_ink);
  for (int tick = 0; tick <= 5; ++tick) {
    const double x = left + (right - left) * tick / 5.0;
    draw_line(chart, x, top - 4, x, legend_at - 8, 1, chart_grid);
  }
  for (size_t n = 0; n < names.size(); ++n) {
    const int y = top + group * int(n);
    draw_text(chart, left - 10 - text_width(names[n], 10), y + (group - gap - 10) / 2.0, names[n], 10, chart_ink);
    for (size_t s = 0; s < series.size(); ++s) {
      require(values[s].size() == names.size(), "draw_bars: ", values[s].size(), " values for ", names.size(),
              " names");
      const double value = values[s][n];
      const int bar_top = y + bar * int(s), end = left + int(std::lround((right - left) * std::clamp(value, 0.0, 1.0)));
      if (std::isnan(value)) continue;
      fill_rectangle(chart, left, bar_top, end, bar_top + bar - 2, series_colour(s));
      draw_text(chart, end + 6, bar_top + 1, fixed_text(100 * value, 1), 8, chart_faint);
    }
  }
  for (size_t s = 0; s < series.size(); ++s) {
    const int y = legend_at + 22 * int(s);
    fill_rectangle(chart, left, y, left + 20, y + 10, series_colour(s));
    draw_text(chart, left + 30, y, series[s], 10, chart_ink);
  }
  return chart;
}

/// Shares in [0, 1], shares[row][column]: what the things in a row were taken for. Columns are numbered as rows are.
inline Image draw_matrix(const std::string& title, const std::vector<std::string>& names,
                         const std::vector<std::vector<double>>& shares) {
  require(shares.size() == names.size(), "draw_matrix: ", shares.size(), " rows for ", names.size(), " names");
  const int count = int(names.size()), cell = std::clamp(640 / std::max(1, count), 1, 44);
  const bool named = cell >= 8;  // names beside smaller cells could not be read
  const double capital = std::clamp(cell * 0.42, 5.0, 11.0);
  constexpr int margin = 16, top = 70;
  const auto numbered = [&](int i) { return std::to_string(i + 1) + " " + names[size_t(i)]; };
  double names_width = 0;
  for (int i = 0; named && i < count; ++i) names_width = std::max(names_width, text_width(numbered(i), capital));
  const int left = margin + int(names_width) + 12;
  Image chart = blank_sheet(std::max(left + cell * count + margin, margin + int(text_width(title, 12)) + margin),
                            top + cell * count + margin);
  draw_text(chart, margin, 14, title, 12, chart_ink);
  for (int row = 0; row < count; ++row) {
    const int y = top + cell * row;
    const std::string number = std::to_string(row + 1);
    if (named) {
      draw_text(chart, left - 8 - text_width(numbered(row), capital), y + (cell - capital) / 2, numbered(row), capital,
                chart_ink);
      draw_text(chart, left + cell * row + (cell - text_width(number, capital)) / 2, top - capital - 8, number, capital,
                chart_faint);
    }
    for (int column = 0; column < count; ++column) {
      const double share = shares[size_t(row)][size_t(column)];
      const int x = left + cell * column;
      const bool counted = !std::isnan(share);
      fill_rectangle(chart, x, y, x + std::max(1, cell - 1), y + std::max(1, cell - 1),
                     counted ? heat_colour(share) : chart_grid);
      if (!counted || cell < 26 || share < 0.005) continue;
      const std::string percent = fixed_text(100 * share, 0);
      const double size = cell * 0.26;
      draw_text(chart, x + (cell - 1 - text_width(percent, size)) / 2, y + (cell - size) / 2, percent, size,
                share > 0.6 ? chart_ink : chart_paper);
    }
  }
  return chart;
}

/// A picture in a sheet, and a line below it.
struct SheetTile {
  Image image;
  std::string caption;
};
/// Pictures beside each other, and a line above them.
struct SheetRow {
  std::string title;
  std::vector<SheetTile> tiles;
};

/// Rows of pictures on one white sheet, tiles in columns as wide as the widest.
inline Image picture_sheet(const std::vector<SheetRow>& rows) {
  constexpr int gap = 14, caption_height = 24, title_height = 30;
  int width = 1, columns = 1;
  for (const auto& row : rows) {
    columns = std::max(columns, int(row.tiles.size()));
    for (const auto& tile : row.tiles) width = std::max(width, tile.image.width);
  }
  std::vector<int> heights;
  int total = gap, widest = gap + columns * (width + gap);
  for (const auto& row : rows) {
    int height = 0;
    for (const auto& tile : row.tiles) height = std::max(height, tile.image.height);
    heights.push_back(height);
    total += height + caption_height + gap + (row.title.empty() ? 0 : title_height);
    widest = std::max(widest, int(text_width(row.title, 12)) + 2 * gap);
  }
  Image sheet = blank_sheet(widest, total);
  int top = gap;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (!rows[r].title.empty()) {
      draw_text(sheet, gap, top + 4, rows[r].title, 12, chart_ink);
      top += title_height;
    }
    for (size_t t = 0; t < rows[r].tiles.size(); ++t) {
      const auto& tile = rows[r].tiles[t];
      const int left = gap + int(t) * (width + gap);
      paste(sheet, tile.image, left, top);
      double capital = 9;
      while (capital > 6 && text_width(tile.caption, capital) > width + gap - 4) capital -= 0.5;
      draw_text(sheet, left, top + tile.image.height + 7, tile.caption, capital, chart_faint);
    }
    top += heights[r] + caption_height + gap;
  }
  return sheet;
}

}  // namespace tessera::segmentation
