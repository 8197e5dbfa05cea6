#include <fstream>
#include <io/folder.hpp>
#include <support/catch.hpp>
#include <tessera/data/captions.hpp>
#include <tessera/data/wordnet.hpp>

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

TEST_CASE("wordnet: a noun is what is met as a noun more often than otherwise", "[data]") {
  const tessera_test::Folder folder;
  const auto write = [&](const std::string& name, const std::string& text) {
    tessera_test::write_bytes(folder / name, "  1 terms of use, to be skipped\n" + text);
  };
  const auto noun = [](const std::string& word, const std::string& pointers = "1 @") {
    return word + " n 1 " + pointers + " 1 0 00000001  \n";
  };
  write("index.noun", noun("brush") + noun("building", "2 @ ~") + noun("fire_hydrant") + noun("gravel", "0") +
                          noun("it") + noun("left") + noun("lisbon", "1 @i") + noun("moon", "2 @ @i") +
                          noun("o'clock") + noun("sitting") + noun("swimming") + noun("thin") + noun("tie"));
  write("index.verb", "build v 1 0 1 1 00000002  \nsit v 1 0 1 1 00000002  \nswim v 1 0 1 1 00000002  \n");
  write("verb.exc", "left leave\nsat sit\n");
  tessera_test::write_bytes(folder / "cntlist.rev",
                            "brush%1:06:00:: 1 3\nbrush%2:35:00:: 1 2\nbuild%2:36:00:: 1 40\n"
                            "building%1:06:00:: 1 11\nleave%2:38:00:: 1 9\nleft%1:15:00:: 1 4\nsit%2:35:00:: 1 80\n"
                            "sitting%1:04:00:: 1 5\nswim%2:38:00:: 1 8\nthin%1:06:00:: 1 1\nthin%5:00:00:: 1 2\n"
                            "tie%1:06:00:: 1 2\ntie%2:35:00:: 1 2\n");
  // "brush" 3 : 2, "building" 11 : 40 / 4, "gravel" never met; "left" is more often of "leave", "sitting" of "sit",
  // "swimming" of "swim"; "Lisbon" is a name, "moon" a kind of thing, too; "it" and the "o" of "o'clock" are too short
  CHECK(wordnet_nouns(folder.path()) == Names{"brush", "building", "fire hydrant", "gravel", "moon"});
  CHECK(found(NounFinder(wordnet_nouns(folder.path()), true), "Sitting by two fire hydrants, left of a building") ==
        Names{"fire hydrant", "building"});

  write("index.noun", "brush v 1 1 @ 1 0 00000001\n");
  REQUIRE_ERROR(wordnet_nouns(folder.path()), IoError, "index.noun: a line is not one of WordNet's index of nouns");
  write("index.noun", "brush n 1 9 @ 1 0 00000001\n");
  REQUIRE_ERROR(wordnet_nouns(folder.path()), IoError, "a line is not one of WordNet's");
  write("cntlist.rev", "brush%1:06:00:: 1 9223372036854775807\nbrush%1:06:00:: 2 9223372036854775807\n");
  REQUIRE_ERROR(wordnet_nouns(folder.path()), IoError, "cntlist.rev: a line is not 'sense, number, count'");
  write("cntlist.rev", "brush 1 3\n");
  REQUIRE_ERROR(wordnet_nouns(folder.path()), IoError, "cntlist.rev: a line is not 'sense, number, count'");
  REQUIRE_ERROR(wordnet_nouns(folder / "absent"), IoError, "install the package wordnet-base");
}
