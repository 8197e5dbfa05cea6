// Damaged vocabularies and damaged text: a tokenizer loads and gives ids that are not negative, or throws an Error.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <tessera/data/tokenizer.hpp>

#include "fuzz/mutate.hpp"
#include "io/folder.hpp"

using namespace tessera;
using namespace tessera::data;
using tessera_test::Choices;

namespace {

const std::vector<std::string> captions = {"a red car on the road", "a red cat on the grass", "the cat's car, 2 cars"};

Tokenizer learned() { return Tokenizer::learn(captions, 540); }

void check_ids(const Tokenizer& tokenizer, const std::string& text) {
  Context<Cpu> ctx;
  const auto ids = tokenizer.tokenize(ctx, {text});
  for (int64_t i = 0; i < ids.size(); ++i)
    if (ids.data[i] < 0) FAIL("negative id");
}

}  // namespace

TEST_CASE("fuzz: tokenizer files", "[fuzz]") {
  const tessera_test::Folder folder;
  learned().save(folder.path());
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  REQUIRE(files.size() >= 2);
  std::vector<std::string> good;
  for (const auto& file : files) good.push_back(tessera_test::read_bytes(file));

  int loaded = 0;
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    INFO("seed " << seed);
    Choices choices(seed);
    const size_t which = choices.below(files.size());
    tessera_test::write_bytes(files[which], choices.one_in(2) ? tessera_test::mutate_bytes(good[which], choices)
                                                              : tessera_test::mutate_json(good[which], choices));
    // Without tokenizer.json the folder is read through vocab.json and merges.txt.
    const bool hide = choices.one_in(2);
    if (hide) std::filesystem::rename(folder / "tokenizer.json", folder / "hidden");
    try {
      const Tokenizer tokenizer = Tokenizer::load(folder.path());
      ++loaded;
      for (const std::string& caption : captions) check_ids(tokenizer, caption);
    } catch (const Error&) {
    }
    if (hide) std::filesystem::rename(folder / "hidden", folder / "tokenizer.json");
    tessera_test::write_bytes(files[which], good[which]);
  }
  REQUIRE(loaded > 50);
  REQUIRE(loaded < 1450);
}

TEST_CASE("fuzz: texts", "[fuzz]") {
  const Tokenizer tokenizer = learned();
  const std::string good =
      "A  photo &amp; of “two” cats’ naïve ﬁsh \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x98\x80, isn't it? 12½";
  int encoded = 0;
  for (uint64_t seed = 0; seed < 5000; ++seed) {
    INFO("seed " << seed);
    Choices choices(seed + 100'000);
    try {
      check_ids(tokenizer, tessera_test::mutate_bytes(good, choices));
      ++encoded;
    } catch (const Error&) {
    }
  }
  REQUIRE(encoded > 1000);
}
