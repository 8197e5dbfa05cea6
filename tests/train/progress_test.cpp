// Progress where the output is no terminal: whole lines, few of them, and never control characters.
#include <tessera/train/progress.hpp>

#include <cstdio>
#include <sstream>
#include <vector>

#include <support/catch.hpp>

using namespace tessera::train;

namespace {

struct Output {
  std::FILE* file = std::tmpfile();
  ~Output() { std::fclose(file); }
  std::string text() const {
    std::rewind(file);
    std::string all;
    for (int c; (c = std::fgetc(file)) != EOF;) all += char(c);
    return all;
  }
  std::vector<std::string> lines() const {
    std::istringstream stream(text());
    std::vector<std::string> found;
    for (std::string line; std::getline(stream, line);) found.push_back(line);
    return found;
  }
};

}  // namespace

TEST_CASE("progress: in a file, lines with bar, count and note", "[train]") {
  Output output;
  {
    Progress progress("training", 40, "images", 0, output.file);
    for (int i = 0; i < 10; ++i) progress.advance(4, "loss " + std::to_string(10 - i));
    progress.finish();
    progress.finish();  // once is enough
  }
  CHECK(output.text().find('\r') == std::string::npos);
  CHECK(output.text().find('\x1b') == std::string::npos);
  const auto lines = output.lines();
  REQUIRE(lines.size() == 2);  // the first step, and the end; in between less than ten seconds passed
  CHECK_THAT(lines[0], tessera_test::contains("training [##......................] 4/40 images"));
  CHECK_THAT(lines[0], tessera_test::contains("loss 10"));
  CHECK_THAT(lines[1], tessera_test::contains("[########################] 40/40 images"));
  CHECK_THAT(lines[1], tessera_test::contains("done in 0:00, loss 1"));
}

TEST_CASE("progress: work of an earlier run fills the bar and does not count for the rate", "[train]") {
  Output output;
  {
    Progress progress("training", 1'000'000, "images", 500'000, output.file);
    CHECK(progress.rate() == 0);
    progress.advance(0);
    CHECK(progress.rate() == 0);
  }
  CHECK_THAT(output.lines()[0], tessera_test::contains("[############............] 500000/1000000 images"));
  CHECK_THAT(output.lines()[0], tessera_test::contains("ETA ?"));
}

TEST_CASE("progress: nothing to do, and more than was announced", "[train]") {
  Output output;
  {
    Progress none("nothing", 0, "images", 0, output.file);
    Progress more("more", 2, "images", 0, output.file);
    more.advance(5);
  }
  for (const auto& line : output.lines()) CHECK_THAT(line, tessera_test::contains("[########################]"));
}

TEST_CASE("progress: times as clocks show them", "[train]") {
  CHECK(clock_text(0) == "0:00");
  CHECK(clock_text(-3) == "0:00");
  CHECK(clock_text(59.4) == "0:59");
  CHECK(clock_text(59.6) == "1:00");
  CHECK(clock_text(245) == "4:05");
  CHECK(clock_text(3723) == "1:02:03");
}
