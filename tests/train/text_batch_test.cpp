// The texts of a batch: which there are, whose they are, and which pairs are no negatives.
#include <tessera/train/text_batch.hpp>

#include <algorithm>
#include <set>

#include <support/catch.hpp>

using namespace tessera;
using namespace tessera::train;

namespace {

const data::NounFinder& finder() {
  static const data::NounFinder nouns({"dog", "cat", "grass", "sky", "red car", "car", "tree"});
  return nouns;
}
TextBatchOptions options(int most = 4) {
  return {.most_nouns = most, .prompt = [](int noun) { return "a photo of a " + finder().nouns()[size_t(noun)]; }};
}
const std::vector<std::string> captions{"a dog and a cat on grass",
                                        "a cat",
                                        "the sky above a red car",
                                        "a cat",
                                        "nothing that is known",
                                        "a car under the sky",
                                        "a dog, a cat, grass, sky, a tree and a car"};

struct Texts {
  TextBatch batch;
  std::vector<std::string> all;  // captions, then prompts: what rows number
  std::string text(int64_t k) const { return all[size_t(batch.rows(k))]; }
  int64_t count() const { return batch.rows.shape[0]; }
};
Texts make(const std::vector<std::string>& of, const TextBatchOptions& with, const RandomStream& random = {1, 2, 3}) {
  static Context<Cpu> ctx;
  Texts texts{make_text_batch(ctx, of, finder(), with, random), {}};
  texts.all = texts.batch.captions;
  texts.all.insert(texts.all.end(), texts.batch.prompts.begin(), texts.batch.prompts.end());
  return texts;
}
std::set<int> nouns_of(const std::string& text) {
  const auto found = finder().find(text);
  return {found.begin(), found.end()};
}

}  // namespace

TEST_CASE("text batch: every image owns its caption and a prompt for each of its nouns", "[train]") {
  const Texts texts = make(captions, options(10));
  std::vector<std::multiset<std::string>> owned(captions.size());
  for (int64_t k = 0; k < texts.count(); ++k) owned[size_t(texts.batch.owner(k))].insert(texts.text(k));
  for (size_t i = 0; i < captions.size(); ++i) {
    std::multiset<std::string> expected{captions[i]};
    for (int noun : nouns_of(captions[i])) expected.insert("a photo of a " + finder().nouns()[size_t(noun)]);
    INFO(captions[i]);
    CHECK(owned[i] == expected);
  }
  // "a cat" stands twice among the captions, its prompt four times: each is encoded once
  CHECK(texts.batch.captions.size() == 6);
  const std::set<std::string> distinct(texts.batch.prompts.begin(), texts.batch.prompts.end());
  CHECK(distinct.size() == texts.batch.prompts.size());
  CHECK(distinct.size() == 7);
}

TEST_CASE("text batch: excluded are another image's texts whose nouns all stand in the caption", "[train]") {
  for (const int most : {1, 2, 10}) {
    const Texts texts = make(captions, options(most));
    REQUIRE(texts.batch.excluded.shape == Shape<2>{7, texts.count()});
    int excluded = 0;
    for (int64_t i = 0; i < 7; ++i)
      for (int64_t k = 0; k < texts.count(); ++k) {
        const auto of_text = nouns_of(texts.text(k)), of_image = nouns_of(captions[size_t(i)]);
        const bool implied =
            !of_text.empty() && std::includes(of_image.begin(), of_image.end(), of_text.begin(), of_text.end());
        const bool expected = implied && texts.batch.owner(k) != i;
        INFO("image " << i << ", text " << texts.text(k));
        CHECK(bool(texts.batch.excluded(i, k)) == expected);
        excluded += expected;
      }
    CHECK(excluded > 5);
  }
  auto keep = options();
  keep.exclude_implied = false;
  const Texts texts = make(captions, keep);
  for (int64_t i = 0; i < texts.batch.excluded.size(); ++i) CHECK(texts.batch.excluded.data[i] == 0);
}

TEST_CASE("text batch: of too many nouns a random choice that the stream alone decides", "[train]") {
  std::set<std::string> chosen;
  std::set<std::set<std::string>> choices;
  for (uint32_t step = 0; step < 40; ++step) {
    const Texts texts = make({captions[6]}, options(2), {1, step, 0});
    REQUIRE(texts.count() == 3);
    CHECK(texts.text(0) == captions[6]);
    CHECK(texts.text(1) != texts.text(2));
    choices.insert({texts.text(1), texts.text(2)});
    chosen.insert({texts.text(1), texts.text(2)});
    const Texts again = make({captions[6]}, options(2), {1, step, 0});
    CHECK(again.all == texts.all);
  }
  CHECK(chosen.size() == 6);    // every noun has its turn
  CHECK(choices.size() >= 10);  // of fifteen pairs
  // two images with the same nouns do not choose alike every time
  int alike = 0;
  for (uint32_t step = 0; step < 40; ++step) {
    const Texts texts = make({captions[6], captions[6]}, options(1), {1, step, 0});
    alike += texts.text(1) == texts.text(3);
  }
  CHECK(alike < 20);
}

TEST_CASE("text batch: captions without nouns, and no prompts at all", "[train]") {
  const Texts texts = make({"nothing", "at all"}, options());
  CHECK(texts.count() == 2);
  CHECK(texts.batch.prompts.empty());
  CHECK(to_host(view(texts.batch.owner)) == std::vector<int32_t>{0, 1});
  CHECK(to_host(view(texts.batch.excluded)) == std::vector<uint8_t>{0, 0, 0, 0});
  CHECK(make(captions, options(0)).batch.prompts.empty());
}

TEST_CASE("text batch: one text an image, the caption and its nouns each as likely, any template", "[train]") {
  Context<Cpu> ctx;
  const auto prompt = [](int noun, int number) {
    return (number == 0 ? "a photo of a " : "the ") + finder().nouns()[size_t(noun)];
  };
  const std::vector<std::string> same(3000, "a dog and a cat on grass");
  std::map<std::string, int> count;
  const auto drawn = draw_texts(ctx, same, &finder(), 2, prompt, false, {1, 2, 3});
  for (const auto& text : drawn.texts) ++count[text];
  CHECK(count.size() == 7);  // the caption, and three nouns in two templates
  CHECK(std::abs(count["a dog and a cat on grass"] - 750) < 120);
  for (const std::string noun : {"dog", "cat", "grass"})
    for (const std::string before : {"a photo of a ", "the "}) CHECK(std::abs(count[before + noun] - 375) < 90);
  CHECK(draw_texts(ctx, same, &finder(), 2, prompt, false, {1, 2, 3}).texts == drawn.texts);
  CHECK(draw_texts(ctx, same, &finder(), 2, prompt, false, {1, 2, 4}).texts != drawn.texts);
  CHECK(draw_texts(ctx, captions, nullptr, 2, prompt, false, {1, 2, 3}).texts == captions);

  // no negatives: texts all of whose nouns an image's caption has, and its own text where it stands again
  const auto texts = draw_texts(ctx, captions, &finder(), 2, prompt, true, {1, 2, 3});
  const auto all = draw_texts(ctx, captions, &finder(), 2, prompt, false, {1, 2, 3});
  CHECK(all.texts == texts.texts);
  const int64_t images = int64_t(captions.size());
  REQUIRE(texts.excluded.shape == Shape<2>{images, images});
  for (int64_t i = 0; i < images; ++i) {
    CHECK(texts.owner(i) == i);
    const auto known = nouns_of(captions[size_t(i)]);
    for (int64_t k = 0; k < images; ++k) {
      const auto asked = nouns_of(texts.texts[size_t(k)]);
      const bool implied = !asked.empty() && std::includes(known.begin(), known.end(), asked.begin(), asked.end());
      INFO(i << " " << texts.texts[size_t(k)]);
      CHECK(int(texts.excluded(i, k)) == int(i != k && (implied || texts.texts[size_t(i)] == texts.texts[size_t(k)])));
      CHECK(all.excluded(i, k) == 0);
    }
  }
}
