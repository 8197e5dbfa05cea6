// The report: one page that needs nothing else, whatever its words hold.
#include <tessera/train/report.hpp>

#include <io/folder.hpp>
#include <support/catch.hpp>

using namespace tessera;
using namespace tessera::train;

namespace {
size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}
}  // namespace

TEST_CASE("report: words are escaped wherever they stand", "[train]") {
  const std::string evil = "<script>alert(\"x\")</script> & co";
  Report report(evil);
  report.heading(evil);
  report.paragraph(evil);
  report.verbatim(evil);
  report.figures({{evil, evil}});
  report.table({evil}, {{evil}, {evil}});
  report.pictures({data::Image(4, 4)}, evil);
  report.plot(evil, evil, {{evil, {{0, 1}, {1, 2}}}});
  const std::string html = report.html();
  CHECK(html.find("<script") == std::string::npos);
  CHECK(html.find("\"x\"") == std::string::npos);
  CHECK(count(html, "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; co") == 15);
  CHECK(html_escape("a < b && c > \"d\"") == "a &lt; b &amp;&amp; c &gt; &quot;d&quot;");
}

TEST_CASE("report: the page is whole and needs no other file or address", "[train]") {
  Report report("Result");
  report.begin_gallery();
  report.pictures({data::Image(8, 8, 3, 100), data::Image(300, 300, 3, 100)}, "small as PNG, large as JPEG");
  report.end_gallery();
  report.plot("loss", "steps", {{"a", {{0, 3}, {10, 1}}}, {"b", {{0, 2}, {10, 0.5}}}});
  const std::string html = report.html();
  for (const std::string address : {"http://", "https://", "src=\"/", "<link", "url("}) {
    INFO(address);
    CHECK(html.find(address) == std::string::npos);
  }
  CHECK(html.rfind("<!doctype html>", 0) == 0);
  CHECK(count(html, "<img") == 2);
  CHECK(count(html, "src=\"data:image/png;base64,") == 1);
  CHECK(count(html, "src=\"data:image/jpeg;base64,") == 1);
  CHECK(count(html, "<polyline") == 2);
  for (const std::string tag : {"div", "figure", "svg", "main", "html", "body"})
    CHECK(count(html, "<" + tag + ">") + count(html, "<" + tag + " ") == count(html, "</" + tag + ">"));
  const tessera_test::Folder folder;
  report.write(folder / "report.html");
  CHECK(tessera_test::read_bytes(folder / "report.html") == html);
}

TEST_CASE("report: plots of one point, of equal points, of none and of infinities", "[train]") {
  const auto plotted = [](const std::vector<std::pair<double, double>>& points) {
    Report report("r");
    report.plot("p", "x", {{"line", points}});
    const std::string html = report.html();
    CHECK(html.find("nan") == std::string::npos);
    CHECK(html.find("inf") == std::string::npos);
    return html;
  };
  CHECK(plotted({}).find("<svg") == std::string::npos);
  CHECK(plotted({{3, NAN}}).find("<svg") == std::string::npos);
  CHECK(count(plotted({{3, 5}}), "<circle") == 1);
  CHECK(count(plotted({{0, 0}}), "<circle") == 1);
  CHECK(count(plotted({{0, 0}, {1, 0}, {2, 0}}), "<polyline") == 1);
  CHECK(count(plotted({{2, -3}, {2, -1}}), "<polyline") == 1);
  const std::string gap = plotted({{0, 1}, {1, INFINITY}, {2, 3}, {3, NAN}});
  CHECK(gap.find("points=\"48.0,155.3 508.0,14.0 \"") != std::string::npos);  // two points of four
}

TEST_CASE("report: numbers", "[train]") {
  CHECK(number_text(12.345) == "12.3");
  CHECK(number_text(12.345, 2) == "12.35");
  CHECK(number_text(NAN) == "-");
}
