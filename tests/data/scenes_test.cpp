#include <omp.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <support/catch.hpp>
#include <support/skip.hpp>
#include <tessera/data/scenes.hpp>

using namespace tessera;
using namespace tessera::data;

namespace {

bool have_font() {
  try {
    find_emoji_font();
  } catch (const IoError& error) {
    tessera_test::skip(error.what());
    return false;
  }
  tessera_test::ran();
  return true;
}

const SceneRenderer& renderer(Split split) {
  static std::map<Split, SceneRenderer> made;
  auto found = made.find(split);
  if (found == made.end()) found = made.emplace(split, SceneRenderer(classic_set(), split)).first;
  return found->second;
}

/// Code point -> how emoji-test.txt names it, for entries of a single code point (a presentation selector aside).
std::map<char32_t, std::string> emoji_names(const std::string& path) {
  std::map<char32_t, std::string> names;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t comment = line.find("# "), semicolon = line.find(';');
    if (line.empty() || line[0] == '#' || comment == std::string::npos || semicolon == std::string::npos) continue;
    std::istringstream codes(line.substr(0, semicolon));
    std::vector<char32_t> points;
    for (std::string code; codes >> code;) points.push_back(char32_t(std::stoul(code, nullptr, 16)));
    if (points.size() == 2 && points[1] == 0xFE0F) points.pop_back();
    if (points.size() == 1) names.emplace(points[0], line.substr(comment + 2));
  }
  return names;
}

uint64_t hash_pixels(const std::vector<Scene>& scenes) {
  uint64_t hash = 0;
  for (const Scene& scene : scenes)
    for (const uint8_t level : scene.image.pixels) hash = (hash ^ level) * 0x100000001b3u;
  return hash;
}

}  // namespace

TEST_CASE("scenes: the classic set has 8 backgrounds and 40 objects of one glyph each", "[data]") {
  tessera_test::ran();
  const SceneSet set = classic_set();
  REQUIRE(set.classes.size() == 48);
  CHECK(set.backgrounds == 8);
  CHECK(set.is_background(7));
  CHECK_FALSE(set.is_background(8));
  CHECK(set.names()[8] == "dog");
  CHECK(set.names()[47] == "tree");
  CHECK(set.prompt(0) == "a photo of grass");
  CHECK(set.prompt(8) == "a photo of a dog");
  std::set<std::string> different;
  for (const auto& name : set.names()) different.insert(name);
  CHECK(different.size() == 48);
}

TEST_CASE("scenes: every code point is an emoji in Unicode's own list", "[data]") {
  const std::string path = "/usr/share/unicode/emoji/emoji-test.txt";
  if (!std::filesystem::exists(path))
    return tessera_test::skip("code points not checked: " + path + " is absent (apt-get install unicode-data)");
  tessera_test::ran();
  const auto names = emoji_names(path);
  REQUIRE(names.size() > 1000);
  for (const SceneSet& set : {classic_set(), rich_set()})
    for (const SceneClass& one : set.classes)
      for (const auto* looks : {&one.looks, &one.test_looks})
        for (const Look& look : *looks) {
          INFO(one.name << ", U+" << std::hex << uint32_t(look.code_point));
          CHECK(names.count(look.code_point) == 1);
        }
  CHECK(names.at(0x1F436).find("dog face") != std::string::npos);
  CHECK(names.at(0x2602).find("umbrella") != std::string::npos);
}

TEST_CASE("scenes: draws follow the stream's elements", "[data]") {
  tessera_test::ran();
  const RandomStream stream{11, 22, 33};
  Draws draws(stream);
  for (uint64_t i = 0; i < 11; ++i) CHECK(draws.bits() == stream.bits(i));
  std::vector<int> order{0, 1, 2, 3, 4, 5, 6, 7};
  draws.shuffle(order);
  CHECK(std::set<int>(order.begin(), order.end()).size() == 8);
}

TEST_CASE("scenes: rotation keeps areas and returns to the start after four quarters", "[data]") {
  tessera_test::ran();
  Image sprite(20, 12, 4, 255);
  sprite.at(0, 0)[0] = 0;
  Image turned = sprite;
  for (int i = 0; i < 4; ++i) turned = rotate(turned, 90);
  CHECK(turned.width == sprite.width);
  CHECK(turned.pixels == sprite.pixels);

  const Image slanted = rotate(sprite, 25);
  double covered = 0;
  for (size_t i = 3; i < slanted.pixels.size(); i += 4) covered += slanted.pixels[i] / 255.0;
  CHECK(covered == Approx(240).epsilon(0.01));
  for (size_t i = 0; i < slanted.pixels.size(); i += 4) REQUIRE(slanted.pixels[i] <= slanted.pixels[i + 3]);
}

TEST_CASE("scenes: recolouring moves the main hue and leaves grey alone", "[data]") {
  tessera_test::ran();
  Image sprite(2, 1, 4, 255);
  const uint8_t red_and_grey[] = {200, 10, 10, 255, 90, 90, 90, 255};
  std::copy_n(red_and_grey, 8, sprite.pixels.begin());
  recolour(sprite, 240);
  CHECK(sprite.pixels[2] == 200);
  CHECK(sprite.pixels[0] < 40);
  CHECK(sprite.pixels[4] == 90);
  CHECK(sprite.pixels[6] == 90);
  REQUIRE_ERROR(recolour(sprite, 360), ValueError, "360");
}

TEST_CASE("scenes: the caption names exactly what the label map shows", "[data]") {
  if (!have_font()) return;
  const SceneSet& set = renderer(Split::test).set();
  const NounFinder finder(set.names());
  for (const Scene& scene : renderer(Split::test).render(0, 200)) {
    INFO(scene.caption);
    REQUIRE(scene.image.width == 64);
    REQUIRE(scene.labels.height == 64);
    auto named = finder.find(scene.caption);
    std::set<int> in_caption(named.begin(), named.end()), in_words(scene.words.begin(), scene.words.end());
    CHECK(in_caption == in_words);
    CHECK(scene.words.size() >= 2);
    CHECK(scene.words.size() <= 4);
    CHECK(set.is_background(scene.words[0]));
    const std::set<int> in_map(scene.labels.labels.begin(), scene.labels.labels.end());
    for (int label : in_map) CHECK(in_words.count(label) == 1);
    CHECK(in_map.count(scene.words[0]) == 1);
  }
}

TEST_CASE("scenes: training holds no reserved pair, every second test scene one", "[data]") {
  if (!have_font()) return;
  const SceneSet set = classic_set();
  int pairs = 0, reserved = 0;
  for (int a = 8; a < 48; ++a)
    for (int b = 8; b < a; ++b) {
      ++pairs;
      reserved += set.reserved_pair(a, b);
      CHECK(set.reserved_pair(a, b) == set.reserved_pair(b, a));
    }
  CHECK(pairs == 780);
  CHECK(reserved == 114);
  for (const Scene& scene : renderer(Split::train).render(0, 2000)) REQUIRE_FALSE(set.unseen(scene.words));
  const auto test = renderer(Split::test).render(0, 400);
  for (size_t i = 0; i < test.size(); ++i) {
    REQUIRE(set.unseen(test[i].words) == (i % 2 == 1));
    REQUIRE(test[i].unseen == (i % 2 == 1));
  }
}

TEST_CASE("scenes: one object is commoner than two, two than three, all classes occur", "[data]") {
  if (!have_font()) return;
  std::map<size_t, int> counts;
  std::map<int, int> classes;
  for (const Scene& scene : renderer(Split::train).render(0, 4000)) {
    ++counts[scene.words.size() - 1];
    for (int word : scene.words) ++classes[word];
  }
  // 35, 40 and 25 % are asked for; scenes with a reserved pair are drawn again and some third objects find no place.
  CHECK(counts[1] / 4000.0 == Approx(0.49).margin(0.03));
  CHECK(counts[2] / 4000.0 == Approx(0.41).margin(0.03));
  CHECK(counts[3] / 4000.0 == Approx(0.095).margin(0.02));
  CHECK(classes.size() == 48);
}

TEST_CASE("scenes: a scene depends on its number, the seed and the split alone", "[data]") {
  if (!have_font()) return;
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const SceneRenderer alone(classic_set(), Split::dev);
  const auto one = alone.render(0, 40);
  omp_set_num_threads(3);
  const SceneRenderer together(classic_set(), Split::dev, {.size = 64, .seed = 99});  // dev ignores the seed
  const auto three = together.render(0, 40);
  omp_set_num_threads(threads);
  CHECK(hash_pixels(one) == hash_pixels(three));
  CHECK(hash_labels(one) == hash_labels(three));
  CHECK(alone.render(17).caption == one[17].caption);
  CHECK(hash_labels(renderer(Split::test).render(0, 40)) != hash_labels(one));
}

TEST_CASE("scenes: the 400 test scenes are the published ones", "[data]") {
  if (!have_font()) return;
  const std::string edition = "2.042-d2a2d29f";
  const SceneRenderer& test = renderer(Split::test);
  if (test.font_edition() != edition)
    return tessera_test::skip("hashes of the scenes not checked: they are those of Noto Color Emoji " + edition +
                              ", installed is " + test.font_edition());
  CHECK(hash_labels(test.render(0, usual_count(Split::test))) == 0x82aca97e891d117d);
  CHECK(hash_labels(renderer(Split::dev).render(0, usual_count(Split::dev))) == 0x1bcae73276c7d21c);
  CHECK(hash_labels(SceneRenderer(rich_set(), Split::test).render(0, 400)) == 0x49787735fb3a631d);
  CHECK(hash_pixels(test.render(0, 400)) == 0x2df5a8eb0b8cb804);
}

TEST_CASE("scenes: the rich set holds words, colours and combinations back", "[data]") {
  const SceneSet set = rich_set();
  REQUIRE(set.classes.size() == 88);
  int held_out_words = 0, held_out_colours = 0;
  std::set<std::string> different;
  for (const SceneClass& one : set.classes) {
    different.insert(one.name);
    const bool coloured = one.name.find(' ') != std::string::npos;
    (coloured ? held_out_colours : held_out_words) += one.held_out;
    for (const Look& look : one.test_looks)
      for (const Look& trained : one.looks) CHECK(look.code_point != trained.code_point);
  }
  CHECK(different.size() == 88);
  CHECK(held_out_words == 4);
  CHECK(held_out_colours == 8);
  CHECK(set.prompt(87) == "a photo of a purple umbrella");

  if (!have_font()) return;
  const NounFinder finder(set.names());
  const SceneRenderer train(set, Split::train, {.size = 48}), test(set, Split::test, {.size = 48});
  for (const Scene& scene : train.render(0, 1000))
    for (int word : scene.words) REQUIRE_FALSE(set.classes[size_t(word)].held_out);
  std::set<int> seen_held_out;
  for (const Scene& scene : test.render(0, 400)) {
    const auto named = finder.find(scene.caption);
    REQUIRE(std::set<int>(named.begin(), named.end()) == std::set<int>(scene.words.begin(), scene.words.end()));
    for (int word : scene.words)
      if (set.classes[size_t(word)].held_out) seen_held_out.insert(word);
  }
  CHECK(seen_held_out.size() == 12);
}

TEST_CASE("scenes: sizes out of range, absent fonts and glyphs are refused by name", "[data]") {
  REQUIRE_ERROR(SceneRenderer(classic_set(), Split::test, {.size = 8}), ValueError, "size 8");
  REQUIRE_ERROR(EmojiFont("/nowhere/font.ttf"), IoError, "fonts-noto-color-emoji");
  if (!have_font()) return;
  REQUIRE_ERROR(EmojiFont().glyph(0x10FFFF), ValueError, "U+10FFFF");
  REQUIRE_ERROR(renderer(Split::test).render(-1), ValueError, "-1");
}
