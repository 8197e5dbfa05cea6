#include <tessera/segmentation/prompts.hpp>

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/skip.hpp>

using namespace tessera;
using namespace tessera::segmentation;

namespace {

struct TemporaryFile {
  std::filesystem::path path;
  TemporaryFile(const std::string& name, const std::string& text)
      : path(std::filesystem::temp_directory_path() / (std::to_string(::getpid()) + "_" + name)) {
    std::ofstream(path, std::ios::binary) << text;
  }
  ~TemporaryFile() { std::filesystem::remove(path); }
};

}  // namespace

TEST_CASE("prompts: every set has its number of templates and its rule", "[segmentation]") {
  struct Expected {
    const char* name;
    size_t count;
    EnsembleRule rule;
  };
  const Expected expected[] = {
      {"imagenet80", 80, EnsembleRule::normalise_each},
      {"clip_best7", 7, EnsembleRule::normalise_each},
      {"maskclip85", 85, EnsembleRule::normalise_each},
      {"maskclip5", 5, EnsembleRule::raw_mean},
      {"simple1", 1, EnsembleRule::raw_mean},
      {"groupvit_subset7", 7, EnsembleRule::raw_mean},
      {"subset_maskclip12", 12, EnsembleRule::raw_mean},
      {"tcl_custom9", 9, EnsembleRule::raw_mean},
      {"plural1", 1, EnsembleRule::raw_mean},
      {"identity1", 1, EnsembleRule::raw_mean},
      {"pixelclip_single1", 1, EnsembleRule::normalise_each},
      {"pixelclip_imagenet_select8", 8, EnsembleRule::normalise_each},
      {"vild63", 63, EnsembleRule::normalise_each},
      {"pacl7_reported", 7, EnsembleRule::raw_mean},
      {"nms05_pacl_train5", 5, EnsembleRule::raw_mean},
  };
  CHECK(prompt_set_names().size() == std::size(expected));
  for (const Expected& one : expected) {
    const PromptSet set = prompt_set(one.name);
    INFO(one.name);
    CHECK(set.templates.size() == one.count);
    CHECK(set.rule == one.rule);
    CHECK(std::set<std::string>(set.templates.begin(), set.templates.end()).size() == one.count);
    for (const std::string& text : set.templates) CHECK(text.find("{}") != text.npos);
  }
  CHECK(prompt_set(default_prompt_set).templates.back() == "this is one {} in the scene.");
  REQUIRE_ERROR(prompt_set("imagenet81"), ValueError, "no prompt set is called 'imagenet81'; there are imagenet80, ");
  REQUIRE_ERROR(load_prompt_set("nowhere.txt"), ValueError, "neither a file nor a prompt set");
}

TEST_CASE("prompts: filling a template", "[segmentation]") {
  tessera_test::ran();
  CHECK(fill("a photo of a {}.", "cat") == "a photo of a cat.");
  CHECK(fill("{} and {}", "x") == "x and x");
  CHECK(fill("a photo of {article} {}.", "cat") == "a photo of a cat.");
  CHECK(fill("a photo of {article} {}.", "owl") == "a photo of an owl.");
  CHECK(fill("{}", "{}") == "{}");  // a name is not filled again
  REQUIRE_ERROR(fill("a photo", "cat"), ValueError, "'a photo' has no {}");
}

TEST_CASE("prompts: sets from files", "[segmentation]") {
  const TemporaryFile lines("lines.txt", "a {}.\r\n\nthe {}  \n");
  const PromptSet from_lines = load_prompt_set(lines.path.string());
  CHECK(from_lines.templates == std::vector<std::string>{"a {}.", "the {}"});
  CHECK(from_lines.rule == EnsembleRule::normalise_each);
  const TemporaryFile object("object.json", R"({"templates": ["a {}", "b {}"], "rule": "raw_mean"})");
  CHECK(prompt_set_from_file(object.path).rule == EnsembleRule::raw_mean);
  CHECK(prompt_set_from_file(object.path).templates.size() == 2);
  const TemporaryFile array("array.json", R"(["a {}"])");
  CHECK(prompt_set_from_file(array.path).templates == std::vector<std::string>{"a {}"});

  const TemporaryFile no_place("bad.txt", "a photo\n");
  REQUIRE_ERROR(prompt_set_from_file(no_place.path), IoError, "'a photo' has no {}");
  const TemporaryFile empty("empty.txt", "\n");
  REQUIRE_ERROR(prompt_set_from_file(empty.path), IoError, "holds no prompt templates");
  const TemporaryFile bad_rule("rule.json", R"({"templates": ["{}"], "rule": "median"})");
  REQUIRE_ERROR(prompt_set_from_file(bad_rule.path), IoError, "rule is 'median'");
}

TEST_CASE("prompts: the two rules of averaging", "[segmentation]") {
  Context<Cpu> ctx;
  const PromptSet set{"two", EnsembleRule::normalise_each, {"a {}", "the {}"}};
  const PromptBatch batch = prompt_texts(set, {{"cat"}, {"dog", "puppy"}});
  CHECK(batch.texts == std::vector<std::string>{"a cat", "the cat", "a dog", "the dog", "a puppy", "the puppy"});
  CHECK(batch.class_of_name == std::vector<int32_t>{0, 1, 1});

  // The first name's vectors have lengths 5 and 1, so the rules give different directions.
  const auto embeddings =
      Tensor<float, 2>::from_host(ctx, {6, 2}, std::vector<float>{3, 4, 1, 0, 0, 2, 0, 4, 1, 0, 9, 0});
  const auto each = ensemble_prompts(ctx, embeddings, batch, EnsembleRule::normalise_each);
  const auto raw = ensemble_prompts(ctx, embeddings, batch, EnsembleRule::raw_mean);
  REQUIRE(each.shape == Shape<2>{3, 2});
  CHECK(each(0, 0) == Approx(1.6 / std::hypot(1.6, 0.8)).epsilon(1e-6));
  CHECK(each(0, 1) == Approx(0.8 / std::hypot(1.6, 0.8)).epsilon(1e-6));
  CHECK(raw(0, 0) == Approx(4 / std::hypot(4.0, 4.0)).epsilon(1e-6));
  CHECK(raw(0, 1) == Approx(4 / std::hypot(4.0, 4.0)).epsilon(1e-6));

  const auto classes = average_synonyms(ctx, each, batch);
  REQUIRE(classes.shape == Shape<2>{2, 2});
  CHECK(classes(0, 0) == Approx(each(0, 0)).epsilon(1e-6));
  CHECK(classes(1, 0) == Approx(std::sqrt(0.5)).epsilon(1e-6));  // dog is (0, 1), puppy (1, 0)
  CHECK(classes(1, 1) == Approx(std::sqrt(0.5)).epsilon(1e-6));

  const auto too_few = Tensor<float, 2>::zeros(ctx, {5, 2});
  REQUIRE_ERROR(ensemble_prompts(ctx, too_few, batch, set.rule), ShapeError, "must be 6");
  const auto zeros = Tensor<float, 2>::zeros(ctx, {6, 2});
  CHECK(ensemble_prompts(ctx, zeros, batch, set.rule)(0, 0) == 0);
  REQUIRE_ERROR(prompt_texts(set, {{}}), ValueError, "class 0 has no name");
}

TEST_CASE("prompts: the built-in sets equal the recorded ones", "[segmentation]") {
  namespace fs = std::filesystem;
  const char* given = std::getenv("TESSERA_GOLDEN");
  const fs::path golden = given && *given ? fs::path(given) : fs::path(TESSERA_SOURCE_DIR) / ".." / "shared" / "golden";
  const fs::path file = golden / ".." / "datasets" / "templates.json";
  if (!fs::exists(file)) return tessera_test::skip("no " + file.string());
  const io::Json document = io::read_json(file);
  for (const auto& [name, recorded] : document.at("sets").items()) {
    const auto templates = recorded.at("templates").get<std::vector<std::string>>();
    if (templates.size() == 1 && templates[0].find("{} {}") != std::string::npos) continue;  // a prompt to be learned
    INFO(name);
    CHECK(prompt_set(name).templates == templates);
  }
}
