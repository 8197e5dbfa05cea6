// A report as one self-contained HTML page: text, tables, line plots (SVG) and pictures (data URIs).
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <tessera/data/image.hpp>
#include <tessera/io/files.hpp>

namespace tessera::train {

/// Text as HTML shows it.
inline std::string html_escape(std::string_view text) {
  std::string escaped;
  for (char c : text) switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += c;
    }
  return escaped;
}

/// "12.3", "0.045": a number with as many digits as it deserves.
inline std::string number_text(double value, int digits = 1) {
  if (std::isnan(value)) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

/// One line of a plot.
struct PlotSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;
};

/// A page of headings, tables, plots and pictures, written as one self-contained HTML file.
class Report {
 public:
  explicit Report(std::string title) : title_(std::move(title)) {}

  /// Adds a heading; what follows stands below it.
  void heading(const std::string& text) { body_ += "<h2>" + html_escape(text) + "</h2>\n"; }
  /// Adds text.
  void paragraph(const std::string& text) { body_ += "<p>" + html_escape(text) + "</p>\n"; }
  /// Commands or other text as it stands.
  void verbatim(const std::string& text) { body_ += "<pre>" + html_escape(text) + "</pre>\n"; }
  /// Large numbers with a word below each.
  void figures(const std::vector<std::pair<std::string, std::string>>& values_and_words) {
    body_ += "<div class=\"figures\">";
    for (const auto& [value, words] : values_and_words)
      body_ += "<div><b>" + html_escape(value) + "</b><span>" + html_escape(words) + "</span></div>";
    body_ += "</div>\n";
  }
  /// Adds a table; every row has as many cells as the header.
  void table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows) {
    body_ += "<table><thead><tr>";
    for (const auto& cell : header) body_ += "<th>" + html_escape(cell) + "</th>";
    body_ += "</tr></thead><tbody>\n";
    for (const auto& row : rows) {
      body_ += "<tr>";
      for (const auto& cell : row) body_ += "<td>" + html_escape(cell) + "</td>";
      body_ += "</tr>\n";
    }
    body_ += "</tbody></table>\n";
  }
  /// Pictures side by side, each as wide as the others, with a caption below the row.
  void pictures(const std::vector<data::Image>& images, const std::string& caption) {
    body_ += "<figure><div class=\"row\">";
    for (const auto& image : images)
      body_ += "<img alt=\"\" src=\"" + data::data_uri(image, image.height <= 256 ? 0 : 85) + "\">";
    body_ += "</div><figcaption>" + html_escape(caption) + "</figcaption></figure>\n";
  }
  /// Pictures that are added from here to end_gallery() stand side by side.
  void begin_gallery() { body_ += "<div class=\"gallery\">\n"; }
  /// Ends what begin_gallery() began.
  void end_gallery() { body_ += "</div>\n"; }

  /// Lines over a common axis; y from 0 (or the least value, if negative) to the largest. Points that are not finite
  /// are left out; without any point there is no plot.
  void plot(const std::string& title, const std::string& x_name, const std::vector<PlotSeries>& series) {
    constexpr double width = 520, height = 260, left = 48, right = 12, top = 14, bottom = 34;
    double x_low = std::numeric_limits<double>::max(), x_high = -x_low, y_low = 0, y_high = -x_low;
    for (const auto& line : series)
      for (const auto& [x, y] : line.points) {
        if (!std::isfinite(x) || !std::isfinite(y)) continue;
        x_low = std::min(x_low, x);
        x_high = std::max(x_high, x);
        y_low = std::min(y_low, y);
        y_high = std::max(y_high, y);
      }
    if (x_high < x_low) return;  // no points
    if (x_high == x_low) x_high += 1;
    if (y_high <= y_low) y_high = y_low + 1;
    const double step = tick_step(y_high - y_low);
    y_low = std::floor(y_low / step) * step;
    y_high = std::ceil(y_high / step) * step;
    const auto at_x = [&](double x) { return left + (x - x_low) / (x_high - x_low) * (width - left - right); };
    const auto at_y = [&](double y) {
      return height - bottom - (y - y_low) / (y_high - y_low) * (height - top - bottom);
    };
    std::string svg =
        "<svg class=\"plot\" viewBox=\"0 0 520 260\" role=\"img\" aria-label=\"" + html_escape(title) + "\">";
    const auto text = [&](double x, double y, const std::string& anchor, const std::string& words) {
      svg += "<text x=\"" + number_text(x) + "\" y=\"" + number_text(y) + "\" text-anchor=\"" + anchor + "\">" +
             html_escape(words) + "</text>";
    };
    for (double y = y_low; y <= y_high + step / 2; y += step) {
      svg += "<line class=\"grid\" x1=\"" + number_text(left) + "\" x2=\"" + number_text(width - right) + "\" y1=\"" +
             number_text(at_y(y)) + "\" y2=\"" + number_text(at_y(y)) + "\"/>";
      text(left - 6, at_y(y) + 4, "end", short_number(y));
    }
    const double x_step = tick_step(x_high - x_low);
    for (double x = std::ceil(x_low / x_step) * x_step; x <= x_high + 1e-9 * x_step; x += x_step)
      text(at_x(x), height - bottom + 16, "middle", short_number(x));
    text(width - right, height - 4, "end", x_name);
    constexpr const char* colours[] = {"#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed"};
    for (size_t i = 0; i < series.size(); ++i) {
      std::string points;
      for (const auto& [x, y] : series[i].points) {
        if (!std::isfinite(x) || !std::isfinite(y)) continue;
        points += number_text(at_x(x)) + "," + number_text(at_y(y)) + " ";
        if (series[i].points.size() == 1)  // a line of one point would not show
          svg += "<circle r=\"3\" fill=\"" + std::string(colours[i % 5]) + "\" cx=\"" + number_text(at_x(x)) +
                 "\" cy=\"" + number_text(at_y(y)) + "\"/>";
      }
      svg += "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"" + std::string(colours[i % 5]) + "\" points=\"" +
             points + "\"/>";
      svg += "<text x=\"" + number_text(left + 10) + "\" y=\"" + number_text(top + 12 + 15 * double(i)) + "\" fill=\"" +
             colours[i % 5] + "\">" + html_escape(series[i].name) + "</text>";
    }
    body_ += "<figure class=\"chart\">" + svg + "</svg><figcaption>" + html_escape(title) + "</figcaption></figure>\n";
  }

  /// The whole page.
  std::string html() const {
    return "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
           "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>" +
           html_escape(title_) + "</title><style>" + style() + "</style></head><body><main><h1>" + html_escape(title_) +
           "</h1>\n" + body_ + "</main></body></html>\n";
  }
  /// Writes the page, atomically.
  void write(const std::filesystem::path& path) const { io::write_text(path, html()); }

 private:
  static std::string style() {
    return "body{margin:0;background:#f6f7f9;color:#1f2937;font:16px/1.5 system-ui,sans-serif}"
           "main{max-width:1180px;margin:0 auto;padding:32px 20px 64px;background:#fff}"
           "h1{font-size:30px;margin:0 0 8px}h2{font-size:21px;margin:36px 0 8px;border-bottom:1px solid #e5e7eb}"
           "p{max-width:75ch}pre{background:#111827;color:#e5e7eb;padding:12px 16px;border-radius:8px;overflow:auto}"
           "table{border-collapse:collapse;font-size:14px;margin:12px 0}"
           "th,td{padding:4px 14px 4px 0;text-align:right;border-bottom:1px solid #eef0f3}"
           "th:first-child,td:first-child{text-align:left}"
           ".figures{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}"
           ".figures div{background:#eef2ff;border-radius:10px;padding:12px 18px;min-width:120px}"
           ".figures b{display:block;font-size:26px}.figures span{font-size:13px;color:#4b5563}"
           "figure{margin:10px 0}figcaption{font-size:13px;color:#4b5563}"
           ".row{display:grid;grid-auto-flow:column;grid-auto-columns:minmax(0,1fr);gap:6px;align-items:start}"
           "img{width:100%;border-radius:4px}"
           ".gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(500px,1fr));gap:4px 18px}"
           ".chart{display:inline-block;margin-right:12px}.plot{width:510px;max-width:100%}"
           ".plot text{font-size:12px;fill:#4b5563}.grid{stroke:#e5e7eb}";
  }
  static double tick_step(double range) {
    const double rough = range / 5, power = std::pow(10.0, std::floor(std::log10(rough))), lead = rough / power;
    return (lead < 1.5 ? 1 : lead < 3 ? 2 : lead < 7 ? 5 : 10) * power;
  }
  static std::string short_number(double v) {
    char text[32];
    if (std::abs(v) >= 1000)
      std::snprintf(text, sizeof text, "%gk", v / 1000);
    else
      std::snprintf(text, sizeof text, "%g", std::abs(v) < 1e-12 ? 0.0 : v);
    return text;
  }

  std::string title_, body_;
};

}  // namespace tessera::train
