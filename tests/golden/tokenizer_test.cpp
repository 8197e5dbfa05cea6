// CLIP's own vocabulary against every clip_tokens*.json of $TESSERA_GOLDEN: texts with their ids, plain and as rows.
#include <tessera/data/tokenizer.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <tessera/io/json.hpp>

#include <support/catch.hpp>
#include <support/skip.hpp>

using namespace tessera;
namespace fs = std::filesystem;

namespace {

fs::path from_environment(const char* name, const fs::path& otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? fs::path(value) : otherwise;
}

const fs::path golden = from_environment("TESSERA_GOLDEN", fs::path(TESSERA_SOURCE_DIR) / ".." / "shared" / "golden");

std::vector<fs::path> token_files() {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(golden, error)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("clip_tokens", 0) == 0 && entry.path().extension() == ".json") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// The one text that only a guess at a wrong encoding ("ö" read as two Latin-1 characters) would change.
bool needs_guessing(const std::string& text) { return text.find("sch\u00C3\u00B6n") != text.npos; }

}  // namespace

TEST_CASE("golden tokenizer: CLIP's ids for every recorded text", "[golden]") {
  const std::vector<fs::path> files = token_files();
  const fs::path bpe =
      from_environment("TESSERA_CLIP_BPE", golden / ".." / "data" / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz");
  if (files.empty()) return tessera_test::skip("no clip_tokens*.json in " + golden.string());
  if (!fs::exists(bpe)) return tessera_test::skip("no " + bpe.string() + " (or set TESSERA_CLIP_BPE)");
  tessera_test::ran();

  Context<Cpu> ctx;
  const auto tokenizer = data::Tokenizer::load(bpe);
  CHECK(tokenizer.vocabulary_size() == 49408);
  CHECK(tokenizer.start_of_text() == 49406);
  CHECK(tokenizer.end_of_text() == 49407);
  size_t compared = 0;
  for (const fs::path& file : files) {
    const io::Json cases = io::read_json(file);
    for (const auto& one : cases) {
      const auto text = one.at("text").get<std::string>();
      if (needs_guessing(text)) continue;
      INFO(file.filename().string() << ": " << one.at("text").dump(-1, ' ', true));
      if (one.contains("unpadded")) CHECK(tokenizer.encode(text) == one.at("unpadded").get<std::vector<int32_t>>());
      const auto row = one.at("ids").get<std::vector<int32_t>>();
      data::TokenizeOptions options;
      options.context_length = int64_t(row.size());
      options.truncate = true;
      CHECK(to_host(tokenizer.tokenize(ctx, {text}, options)) == row);
      ++compared;
    }
  }
  CHECK(compared > 0);
}

TEST_CASE("golden tokenizer: vocabularies of the Hugging Face cases load with their numbers", "[golden]") {
  std::error_code error;
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(golden / "hf", error))
    if (fs::exists(entry.path() / "tokenizer_config.json") && fs::exists(entry.path() / "config.json"))
      folders.push_back(entry.path());
  if (folders.empty()) return tessera_test::skip("no tokenizers in " + (golden / "hf").string());
  tessera_test::ran();
  for (const fs::path& folder : folders) {
    INFO(folder.string());
    const auto tokenizer = data::Tokenizer::load(folder);
    const io::Json document = io::read_json(folder / "config.json");
    const io::JsonView text = io::JsonView(document, "config.json")["text_config"];
    CHECK(tokenizer.vocabulary_size() <= text.get<int64_t>("vocab_size"));
    // 2 is what old configurations say whatever the vocabulary; a padding id of its own belongs to the model alone.
    const auto end = text.get_or<int32_t>("eos_token_id", 2);
    if (end != 2) CHECK(tokenizer.end_of_text() == end);
    if (end != 2 && text.get_or<int32_t>("pad_token_id", -1) == end) CHECK(tokenizer.padding() == end);
    CHECK(tokenizer.decode(tokenizer.encode("a photo of a cat")) == "a photo of a cat");
  }
}
