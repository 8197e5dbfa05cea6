// Colours, letters, tinted pictures and legends.
#include <cmath>

#include <support/catch.hpp>
#include <tessera/segmentation/charts.hpp>
#include <tessera/segmentation/overlay.hpp>

using namespace tessera;
using namespace tessera::segmentation;

namespace {

double ink(const Image& image) {
  double sum = 0;
  for (uint8_t value : image.pixels) sum += 255 - value;
  return sum / 255 / 3;
}

Image written(std::string_view text, double capital) {
  Image image(int(text_width(text, capital) + 4 * capital), int(3 * capital), 3, 255);
  draw_text(image, 2 * capital, capital * 0.8, text, capital, {0, 0, 0});
  return image;
}

double nearest_pair(int count) {
  double nearest = 1e9;
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < i; ++j)
      nearest = std::min(
          nearest, std::sqrt(segmentation::detail::colour_distance(segmentation::detail::to_oklab(class_colour(i)),
                                                                   segmentation::detail::to_oklab(class_colour(j)))));
  return nearest;
}

}  // namespace

TEST_CASE("palette: colours are distinct, the first ones most, and never near black, white or grey", "[segmentation]") {
  CHECK(nearest_pair(8) > 0.15);
  CHECK(nearest_pair(21) > 0.09);
  CHECK(nearest_pair(60) > 0.055);
  CHECK(nearest_pair(171) > 0.03);
  CHECK(nearest_pair(512) > 0);
  for (int i = 0; i < 512; ++i) {
    const auto place = segmentation::detail::to_oklab(class_colour(i));
    CHECK(place.chroma() > 0.08);
  }
  CHECK(class_palette(3) == std::vector<Colour>{class_colour(0), class_colour(1), class_colour(2)});
  CHECK(class_colour(512) == class_colour(0));
  REQUIRE_ERROR(class_colour(-1), ValueError, "class -1");
}

TEST_CASE("palette: VOC's colours", "[segmentation]") {
  CHECK(voc_colour(0) == Colour{0, 0, 0});
  CHECK(voc_colour(1) == Colour{128, 0, 0});
  CHECK(voc_colour(15) == Colour{192, 128, 128});
  CHECK(voc_colour(20) == Colour{0, 64, 128});
  CHECK(voc_colour(255) == Colour{224, 224, 192});
}

TEST_CASE("text: every printable character leaves ink inside its width, and no two look alike", "[segmentation]") {
  std::vector<Image> seen;
  for (char c = 33; c < 127; ++c) {
    INFO(c);
    const std::string text(1, c);
    Image image = written(text, 24);
    CHECK(ink(image) > 12);
    // Nothing is drawn more than half a letter away from the letter's box.
    for (int y = 0; y < image.height; ++y)
      for (int x = 0; x < image.width; ++x)
        if (image.at(x, y)[0] < 255 && (x < 40 || x > 48 + text_width(text, 24) + 6)) FAIL("ink at " << x);
    Image canvas(200, 72, 3, 255);
    draw_text(canvas, 40, 20, text, 24, {0, 0, 0});
    for (const Image& other : seen) CHECK(other.pixels != canvas.pixels);
    seen.push_back(std::move(canvas));
  }
  CHECK(ink(written(" ", 24)) == 0);
}

TEST_CASE("text: characters outside ASCII show as one question mark each", "[segmentation]") {
  CHECK(written("caf\xc3\xa9 \xe7\x8c\xab", 16).pixels == written("caf? ?", 16).pixels);
  CHECK(written("\n", 16).pixels == written("?", 16).pixels);
  CHECK(text_width("", 12) == 0);
  CHECK(text_width("mm", 24) == Approx(2 * text_width("mm", 12)));
}

TEST_CASE("text: drawing over the edge is cut off", "[segmentation]") {
  Image small(6, 5, 3, 255);
  draw_text(small, -10, -3, "Wide text", 12, {0, 0, 0});
  draw_text(small, 100, 100, "outside", 12, {0, 0, 0});
  CHECK(small.pixels.size() == 90);
  CHECK(ink(small) > 0);
}

TEST_CASE("overlay: tint mixes, leaves out and outlines", "[segmentation]") {
  const Image grey(4, 1, 3, 100);
  LabelMap labels(4, 1);
  labels.labels = {0, 1, 1, 255};
  const std::vector<Colour> palette = {{200, 0, 0}, {0, 0, 200}};
  OverlayOptions options;
  options.outlines = false;
  const Image tinted = tint(grey, labels, palette, options);
  CHECK(tinted.pixels == std::vector<uint8_t>{150, 50, 50, 50, 50, 150, 50, 50, 150, 100, 100, 100});
  options.untinted = 0;
  CHECK(tint(grey, labels, palette, options).at(0, 0)[0] == 100);
  options.outlines = true;
  const Image outlined = tint(grey, labels, palette, options);
  CHECK(outlined.at(0, 0)[0] > 200);  // the border between 0 and 1
  CHECK(outlined.at(1, 0)[0] == 50);

  REQUIRE_ERROR(tint(grey, LabelMap(3, 1), palette), ValueError, "3 x 1 on a picture of 4 x 1");
  labels.labels[0] = 2;
  REQUIRE_ERROR(tint(grey, labels, palette), ValueError, "label 2, but the palette has 2 colours");
  options.opacity = 1.5;
  REQUIRE_ERROR(tint(grey, LabelMap(4, 1), palette, options), ValueError, "opacity 1.5");
}

TEST_CASE("overlay: the legend lists what occurs, the largest first", "[segmentation]") {
  LabelMap labels(10, 1);
  labels.labels = {1, 1, 1, 1, 1, 0, 0, 3, 255, 255};
  const std::vector<std::string> names = {"cat", "grass", "unused"};
  const auto entries = legend_entries(labels, names, class_palette(4));
  REQUIRE(entries.size() == 3);
  CHECK(entries[0].name == "grass");
  CHECK(entries[0].share == 5.0 / 8);
  CHECK(entries[0].colour == class_colour(1));
  CHECK(entries[1].name == "cat");
  CHECK(entries[2].name == "3");  // beyond the names
  CHECK(segmentation::detail::percentage(0.625) == "62%");
  CHECK(segmentation::detail::percentage(0.0994) == "9.9%");
  CHECK(segmentation::detail::percentage(0.0996) == "10%");
  CHECK(segmentation::detail::percentage(0.0004) == "<0.1%");
}

TEST_CASE("overlay: legends fit their width, with long names and many classes", "[segmentation]") {
  std::vector<LegendEntry> entries;
  for (int i = 0; i < 150; ++i) entries.push_back({sentence("class ", i), class_colour(i), 1.0 / 150});
  const Image wide = draw_legend(entries, 1200), narrow = draw_legend(entries, 160);
  CHECK(wide.width == 1200);
  CHECK(narrow.width == 160);
  CHECK(narrow.height > wide.height);

  // A long name is cut, and does not reach the picture's edge.
  const std::vector<LegendEntry> one = {{std::string(300, 'm'), {10, 20, 200}, 1.0}};
  const Image legend = draw_legend(one, 200);
  for (int y = 0; y < legend.height; ++y) CHECK(legend.at(199, y)[0] > 240);
  CHECK(segmentation::detail::fitted("\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", text_width("??..", 10), 10) ==
        "\xc3\xa9\xc3\xa9..");
  CHECK(draw_legend({}, 100).height > 0);

  const Image picture(64, 30, 3, 80);
  const std::vector<std::string> names = {"all"};
  const Image both = overlay(picture, LabelMap(64, 30), names, class_palette(1));
  CHECK(both.width == 64);
  CHECK(both.height > 40);
}

TEST_CASE("heat_colour: lighter for more, ends beyond 0 and 1", "[segmentation]") {
  double before = -1;
  for (int i = 0; i <= 40; ++i) {
    const Colour colour = heat_colour(i / 40.0);
    const double lightness = 0.299 * colour.red + 0.587 * colour.green + 0.114 * colour.blue;
    CHECK(lightness > before);
    before = lightness;
  }
  CHECK(heat_colour(-3) == heat_colour(0));
  CHECK(heat_colour(7) == heat_colour(1));
}

TEST_CASE("heat_map: values lie where their cells do", "[segmentation]") {
  // Two cells side by side, centred at pixels 2 and 6 of 8: constant beyond the centres, half-way in the middle.
  Context<Cpu> ctx;
  const auto values = Tensor<float, 2>::from_host(ctx, {1, 2}, {0, 1});
  const Image map = heat_map(ctx, Image(8, 3, 3, 90), view(values), {2, 4, 1.5, 3}, 0, 1, 1);
  const auto colour = [&](int x) { return Colour{map.at(x, 1)[0], map.at(x, 1)[1], map.at(x, 1)[2]}; };
  CHECK(colour(0) == heat_colour(0));
  CHECK(colour(1) == heat_colour(0));
  CHECK(colour(3) == heat_colour(0.375));
  CHECK(colour(4) == heat_colour(0.625));
  CHECK(colour(7) == heat_colour(1));
}

TEST_CASE("draw_chart: a curve passes through its points; sheets hold what is put on them", "[segmentation]") {
  const Image chart = draw_chart({"t", "x", "y"}, {{"line", {{0, 0.5}, {1, 0.5}}}}, 100);
  const Colour line = series_colour(0);
  int rows = 0;
  for (int y = 58; y < 158; ++y) {  // the plot begins at (58, 58)
    const uint8_t* pixel = chart.at(58 + 33, y);
    rows += pixel[0] == line.red && pixel[1] == line.green && pixel[2] == line.blue;
    if (y < 105 || y > 111) CHECK(pixel[0] >= 200);
  }
  CHECK(rows >= 2);
  const Image sheet = picture_sheet({{"", {{Image(5, 4, 3, 7), ""}, {Image(5, 4, 3, 9), ""}}}});
  CHECK(sheet.at(14, 14)[0] == 7);
  CHECK(sheet.at(14 + 5 + 14, 14)[0] == 9);
  REQUIRE_ERROR(draw_bars("t", {"a"}, {"s", "t"}, {{1}}), ValueError, "1 rows of values for 2 series");
}
