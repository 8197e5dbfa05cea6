#include <fstream>
#include <io/folder.hpp>
#include <support/catch.hpp>
#include <tessera/data/captions.hpp>

using namespace tessera;
using namespace tessera::data;

namespace {
std::vector<std::string> found(const NounFinder& finder, const std::string& caption) {
  std::vector<std::string> names;
  for (int noun : finder.find(caption)) names.push_back(finder.nouns()[size_t(noun)]);
  return names;
}
using Names = std::vector<std::string>;
}  // namespace

TEST_CASE("captions: words are lower-cased and split at everything but letters and digits", "[data]") {
  CHECK(caption_words("A Dog's life, 2 cats!") == Names{"a", "dog", "s", "life", "2", "cats"});
  CHECK(caption_words("  ").empty());
  CHECK(caption_words("a K\xC3\xA4se") == Names{"a", "k\xC3\xA4se"});
}

TEST_CASE("captions: nouns are found as whole words in order of appearance, each once", "[data]") {
  const NounFinder finder({"dog", "water", "watermelon", "key"});
  CHECK(found(finder, "a photo of a watermelon , a key and a dog in water") ==
        Names{"watermelon", "key", "dog", "water"});
  CHECK(found(finder, "a monkey and a hotdog").empty());
  CHECK(found(finder, "a DOG, another dog") == Names{"dog"});
  CHECK(finder.matches("a DOG, another dog").size() == 2);
  CHECK(finder.matches("a DOG, another dog")[1].position == 3);
}

TEST_CASE("captions: the longest noun wins and hides the words in it", "[data]") {
  const NounFinder finder({"dog", "hot dog", "red car", "car", "traffic light", "light"});
  CHECK(found(finder, "a hot dog on a plate") == Names{"hot dog"});
  CHECK(found(finder, "a hot dog and a dog") == Names{"hot dog", "dog"});
  CHECK(found(finder, "a hot, dog-shaped red  car") == Names{"hot dog", "red car"});
  CHECK(found(finder, "traffic jam, a light and a car") == Names{"light", "car"});
}

TEST_CASE("captions: plurals match only where asked for", "[data]") {
  const Names nouns{"dog", "box", "city", "knife", "person", "glass", "fire hydrant"};
  const std::string caption = "two dogs, boxes, cities, knives, people, glasses and fire hydrants";
  CHECK(found(NounFinder(nouns), caption).empty());
  CHECK(found(NounFinder(nouns, true), caption) == nouns);
  CHECK(found(NounFinder({"gla"}, true), "glass").empty());
}

TEST_CASE("captions: a list of nouns comes from a file, and errors name the noun", "[data]") {
  const tessera_test::Folder folder;
  tessera_test::write_bytes(folder / "nouns.txt", "# animals\r\ndog\r\n\nhot dog \ncat\n");
  CHECK(NounFinder::from_file((folder / "nouns.txt").string()).nouns() == Names{"dog", "hot dog", "cat"});
  REQUIRE_ERROR(NounFinder::from_file((folder / "absent.txt").string()), IoError, "absent.txt");
  REQUIRE_ERROR(NounFinder({"dog", "Dog"}), ValueError, "\"Dog\" occurs twice");
  REQUIRE_ERROR(NounFinder({"dog", "?!"}), ValueError, "noun 2");
  REQUIRE_ERROR(NounFinder(Names{}), ValueError, "empty");
}

TEST_CASE("captions: articles", "[data]") {
  CHECK(with_article("apple") == "an apple");
  CHECK(with_article("dog") == "a dog");
}
