#include <tessera/data/tokenizer.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <tessera/io/json.hpp>

#include <support/catch.hpp>

using namespace tessera;
using data::Cleaning;
using data::Tokenizer;
namespace fs = std::filesystem;

namespace {

const fs::path golden = fs::path(TESSERA_TEST_DIR) / "golden" / "tokenizer";

/// A folder that is removed again.
struct TemporaryFolder {
  fs::path path;
  TemporaryFolder() {
    static int count = 0;
    path =
        fs::temp_directory_path() / ("tessera_tokenizer_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
    fs::create_directories(path);
  }
  ~TemporaryFolder() { fs::remove_all(path); }
  fs::path write(const std::string& name, const std::string& text) const {
    fs::remove(path / name);  // truncating in place would wait for the disk
    std::ofstream(path / name, std::ios::binary) << text;
    return path / name;
  }
};

std::vector<std::string> captions() {
  std::vector<std::string> lines;
  std::ifstream file(golden / "captions.txt");
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::string gzip(const std::string& text) {
  std::string packed(text.size() + 1024, '\0');
  z_stream stream{};
  deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = uInt(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = uInt(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(packed.size() - stream.avail_out);
  deflateEnd(&stream);
  return packed;
}

}  // namespace

TEST_CASE("tokenizer: equals the reference on the committed texts", "[data]") {
  const Tokenizer tokenizer = Tokenizer::load(golden);
  const io::Json cases = io::read_json(golden / "cases.json");
  REQUIRE(cases.size() >= 300);
  for (const auto& one : cases) {
    const auto text = one.at("text").get<std::string>();
    const auto by_clip = one.at("clip").get<std::vector<int32_t>>();
    const auto by_hugging_face = one.value("hugging_face", by_clip);
    INFO(one.at("text").dump(-1, ' ', true));
    CHECK(tokenizer.encode(text) == by_clip);
    CHECK(tokenizer.encode(text, Cleaning::hugging_face) == by_hugging_face);
  }
}

TEST_CASE("tokenizer: text is cut into contractions, letters, single numerals and marks", "[data]") {
  const auto pieces = [](std::string_view text) {
    std::vector<std::string> cut;
    data::for_each_piece(text, "<s>", "</s>", [&](std::string_view piece) { cut.emplace_back(piece); });
    return cut;
  };
  using Pieces = std::vector<std::string>;
  CHECK(pieces("they'll've 12 c++!'s") == Pieces{"they", "'ll", "'ve", "1", "2", "c", "++!'", "s"});
  CHECK(pieces("'sky '\u017Fa") == Pieces{"'s", "ky", "'\u017F", "a"});  // the long s is an s when case is ignored
  CHECK(pieces("<s>a</s></s >") == Pieces{"<s>", "a", "</s>", "</", "s", ">"});
  CHECK(pieces("日本\u00BD\u2163é😀…") == Pieces{"日本", "\u00BD", "\u2163", "é", "😀…"});
  CHECK(pieces("") == Pieces{});
}

TEST_CASE("tokenizer: learning gives the merges of the plain reference learner", "[data]") {
  const Tokenizer reference = Tokenizer::load(golden);
  const std::vector<std::string> lines = captions();
  data::LearningOptions options;
  options.context_length = 32;
  const Tokenizer learned = Tokenizer::learn(lines, reference.vocabulary_size(), options);
  REQUIRE(learned.vocabulary().symbols == reference.vocabulary().symbols);
  REQUIRE(learned.vocabulary().merges.size() == reference.vocabulary().merges.size());
  for (size_t i = 0; i < learned.vocabulary().merges.size(); ++i) {
    CHECK(learned.vocabulary().merges[i].left == reference.vocabulary().merges[i].left);
    CHECK(learned.vocabulary().merges[i].right == reference.vocabulary().merges[i].right);
  }
  CHECK(learned.context_length() == 32);
  CHECK(learned.start_of_text() == reference.start_of_text());
  CHECK(learned.end_of_text() == learned.vocabulary_size() - 1);

  std::vector<std::string> reversed(lines.rbegin(), lines.rend());
  CHECK(Tokenizer::learn(reversed, reference.vocabulary_size()).vocabulary().symbols == learned.vocabulary().symbols);
}

TEST_CASE("tokenizer: with room enough every frequent word becomes one token", "[data]") {
  const std::vector<std::string> lines = captions();
  const Tokenizer tokenizer = Tokenizer::learn(lines, 4000);
  CHECK(tokenizer.vocabulary_size() < 1000);
  for (const char* word : {"cat", "umbrella", "pineapple", "penguin", "grass", "bricks", "photo", "a"})
    CHECK(tokenizer.encode(word).size() == 1);
  CHECK(tokenizer.encode("zebra").size() > 1);
  REQUIRE_ERROR(Tokenizer::learn(lines, 513), ValueError, "[514, 1000000]");
  CHECK(Tokenizer::learn({}, 600).vocabulary_size() == 514);
}

TEST_CASE("tokenizer: what is saved loads to the same ids from each form", "[data]") {
  const TemporaryFolder folder;
  data::LearningOptions options;
  options.context_length = 24;
  const Tokenizer learned = Tokenizer::learn(captions(), 700, options);
  const fs::path saved = folder.path / "deeper" / "tokenizer";
  learned.save(saved);
  const Tokenizer forms[] = {Tokenizer::load(saved), Tokenizer::load(saved / "tokenizer.json"),
                             Tokenizer::load(saved / "vocab.json", saved / "merges.txt")};
  for (const Tokenizer& form : forms) {
    CHECK(form.vocabulary().symbols == learned.vocabulary().symbols);
    CHECK(form.start_of_text() == learned.start_of_text());
    CHECK(form.end_of_text() == learned.end_of_text());
    CHECK(form.padding() == learned.end_of_text());
    for (const char* text : {"a photo of a pineapple at night!", "日本 Zürich 42", "😀"})
      CHECK(form.encode(text) == learned.encode(text));
  }
  CHECK(forms[0].context_length() == 24);
  fs::remove(saved / "tokenizer.json");
  CHECK(Tokenizer::load(saved).context_length() == 24);
  for (const auto& entry : fs::directory_iterator(saved)) CHECK(entry.path().extension() != ".tmp");
}

TEST_CASE("tokenizer: rows hold start, text, end and padding; long texts are errors or cut", "[data]") {
  Context<Cpu> ctx;
  const Tokenizer tokenizer = Tokenizer::load(golden);
  REQUIRE(tokenizer.context_length() == 32);
  const auto ids = tokenizer.tokenize(ctx, {"a cat", ""});
  REQUIRE(ids.shape == Shape<2>{2, 32});
  const std::vector<int32_t> cat = tokenizer.encode("a cat");
  CHECK(ids(0, 0) == tokenizer.start_of_text());
  for (size_t i = 0; i < cat.size(); ++i) CHECK(ids(0, 1 + i) == cat[i]);
  CHECK(ids(0, 1 + cat.size()) == tokenizer.end_of_text());
  CHECK(ids(0, 31) == tokenizer.padding());
  CHECK(ids(1, 0) == tokenizer.start_of_text());
  CHECK(ids(1, 1) == tokenizer.end_of_text());

  data::TokenizeOptions options;
  options.context_length = 4;
  REQUIRE_ERROR(tokenizer.tokenize(ctx, {"a", "a cat and a dog"}, options), ValueError,
                "text 1 ('a cat and a dog') has");
  options.truncate = true;
  const auto cut = tokenizer.tokenize(ctx, {"a cat and a dog"}, options);
  REQUIRE(cut.shape == Shape<2>{1, 4});
  CHECK(cut(0, 3) == tokenizer.end_of_text());
  CHECK(cut(0, 1) == tokenizer.encode("a")[0]);
  options.context_length = 1;
  REQUIRE_ERROR(tokenizer.tokenize(ctx, {"a"}, options), ValueError, "need 2");
  CHECK(tokenizer.tokenize(ctx, std::vector<std::string>{}).shape == Shape<2>{0, 32});
}

TEST_CASE("tokenizer: decoding gives the clean text back", "[data]") {
  Context<Cpu> ctx;
  const Tokenizer tokenizer = Tokenizer::load(golden);
  for (const char* text : {"a photo of a cat on grass", "日本の写真", "naïve façade", "😀"})
    CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  CHECK(tokenizer.decode(tokenizer.encode("A  Dog!")) == "a dog !");
  const auto row = to_host(tokenizer.tokenize(ctx, {"a dog"}));
  CHECK(tokenizer.decode(row) == "a dog");
  const std::vector<int32_t> half_a_character = {tokenizer.encode("日")[0]};
  CHECK(tokenizer.decode(half_a_character) == "\uFFFD");
  REQUIRE_ERROR(tokenizer.decode(std::vector<int32_t>{100000}), ValueError, "id 100000 is outside");
  REQUIRE_ERROR(tokenizer.decode(std::vector<int32_t>{-1}), ValueError, "id -1");
}

TEST_CASE("tokenizer: bytes that are not UTF-8 count as U+FFFD", "[data]") {
  const Tokenizer tokenizer = Tokenizer::load(golden);
  const std::pair<std::string, std::string> cases[] = {
      {"a\xFF"
       "b",
       "a\uFFFDb"},
      {"\xC0\xAF", "\uFFFD\uFFFD"},  // overlong
      {"\xE2\x82", "\uFFFD"},        // cut off: one sign for the whole beginning
      {"\xE2\x82!", "\uFFFD!"},
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},            // a surrogate
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},  // above U+10FFFF
      {"\xF0\x9F\x98", "\uFFFD"},
      {"\x80\x80", "\uFFFD\uFFFD"},
  };
  for (const auto& [bytes, text] : cases) {
    CHECK(data::to_utf8(data::to_code_points(bytes)) == text);
    CHECK(tokenizer.encode(bytes) == tokenizer.encode(text));
  }
  CHECK(tokenizer.encode(std::string("a\0b", 3)) == tokenizer.encode("ab"));
}

TEST_CASE("tokenizer: a word of a million letters takes n log n, not its square", "[data]") {
  const Tokenizer tokenizer = Tokenizer::load(golden);
  std::string word;
  for (int64_t i = 0; i < 1'000'000; ++i) word += "etaoin"[(i * i + i / 7) % 6];
  const std::vector<int32_t> ids = tokenizer.encode(word);
  CHECK(tokenizer.decode(ids) == word);
  CHECK(ids.size() < word.size());
}

TEST_CASE("tokenizer: threads may share one", "[data]") {
  const Tokenizer tokenizer = Tokenizer::load(golden), fresh = Tokenizer::load(golden);
  const std::vector<std::string> lines = captions();
  std::vector<std::vector<int32_t>> expected;
  for (const std::string& line : lines) expected.push_back(fresh.encode(line));
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < lines.size(); ++i) {
        const size_t line = (i * 7 + t * 31) % lines.size();
        wrong[t] += tokenizer.encode(lines[line]) != expected[line];
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4, 0));
}

TEST_CASE("tokenizer: a gzip vocabulary in CLIP's form", "[data]") {
  const TemporaryFolder folder;
  const std::string merges = "\"heading\nc a\nca t</w>\n";
  const Tokenizer tokenizer = Tokenizer::load(folder.write("bpe_simple_vocab_16e6.txt.gz", gzip(merges)));
  CHECK(tokenizer.vocabulary_size() == 516);
  CHECK(tokenizer.encode("Cat") == std::vector<int32_t>{513});
  CHECK(tokenizer.encode("!") == std::vector<int32_t>{256});
  CHECK(tokenizer.start_of_text() == 514);
  CHECK(tokenizer.end_of_text() == 515);
  CHECK(tokenizer.padding() == 0);
  CHECK(tokenizer.context_length() == 77);
  CHECK(Tokenizer::load(folder.path).vocabulary_size() == 516);

  const auto load = [&](const std::string& bytes) { return Tokenizer::load(folder.write("bad.gz", bytes)); };
  std::string packed = gzip(merges);
  REQUIRE_ERROR(load("c a\nca t</w>\n and more bytes"), IoError, "not a gzip file");
  REQUIRE_ERROR(load(packed.substr(0, packed.size() - 5)), IoError, "cut off");
  REQUIRE_ERROR(load(packed + "x"), IoError, "bytes follow");
  packed[packed.size() - 6] = char(packed[packed.size() - 6] ^ 1);
  REQUIRE_ERROR(load(packed), IoError, "damaged");
  REQUIRE_ERROR(load(gzip("heading\nc a\nca x y\n")), IoError, "line 3: a merge is two symbols");
  REQUIRE_ERROR(load(gzip("heading\nc a\nco w</w>\n")), IoError, "line 3: the symbol 'co' is not in the vocabulary");
  REQUIRE_ERROR(load(gzip("heading\nc a\nc a\n")), IoError, "'ca' is made twice");
  REQUIRE_ERROR(load(gzip("heading\n")), IoError, "no merges");
  REQUIRE_ERROR(load(gzip(std::string(40 << 20, '\n'))), IoError, "unpacks to more than");
  REQUIRE_ERROR(Tokenizer::load(folder.path / "none.gz"), IoError, "none.gz");
}

TEST_CASE("tokenizer: damaged Hugging Face files give a sentence", "[data]") {
  const TemporaryFolder folder;
  const auto load = [&](const std::string& vocab, const std::string& merges) {
    return Tokenizer::load(folder.write("vocab.json", vocab), folder.write("merges.txt", merges));
  };
  const std::string ends = "\"<|startoftext|>\": 8, \"<|endoftext|>\": 9}";
  CHECK(load("{\"a\": 0, \"b</w>\": 1, \"ab</w>\": 2, " + ends, "#version: 0.2\na b</w>\n").encode("ab") ==
        std::vector<int32_t>{2});
  CHECK(load("{\"a\": 0, " + ends, "").encode("z") == std::vector<int32_t>{9});  // the unknown token
  REQUIRE_ERROR(load("{\"a\": 0, \"b\": 0, " + ends, ""), IoError, "id 0 belongs to 'a' and to 'b'");
  REQUIRE_ERROR(load("{\"a\": -1, " + ends, ""), IoError, "id -1 of 'a' is outside");
  REQUIRE_ERROR(load("{\"a\": 9999999999, " + ends, ""), IoError, "outside 0 to 999999");
  REQUIRE_ERROR(load("{\"a\": 1.5, " + ends, ""), IoError, "needs an integer id");
  REQUIRE_ERROR(load("{\"a\": 0, " + ends, "a q\n"), IoError, "line 1: the symbol 'q'");
  REQUIRE_ERROR(load("{\"a\": 0, " + ends, "a\n"), IoError, "two symbols");
  REQUIRE_ERROR(load("{\"a\": 0, \"aa\": 1, " + ends, "a a\na a\n"), IoError, "occurs twice");
  REQUIRE_ERROR(load("{\"a\": 0, \"<|endoftext|>\": 9}", ""), IoError, "the start token '<|startoftext|>'");
  REQUIRE_ERROR(load("[]", ""), IoError, "must be an object");
  REQUIRE_ERROR(load("{\"a\": 0", ""), IoError, "not JSON");
  REQUIRE_ERROR(load(std::string(100000, '['), ""), IoError, "nested deeper");

  const auto load_one = [&](const std::string& text) { return Tokenizer::load(folder.write("tokenizer.json", text)); };
  REQUIRE_ERROR(load_one("{\"model\": {\"type\": \"WordPiece\", \"vocab\": {}}}"), IoError, "'WordPiece'");
  REQUIRE_ERROR(load_one("{}"), IoError, "model is missing");
  REQUIRE_ERROR(load_one("{\"model\": {\"type\": \"BPE\", \"end_of_word_suffix\": \"</w>\", \"vocab\": {\"a\": 0}, "
                         "\"merges\": [[\"a\"]]}}"),
                IoError, "must hold two symbols");
  const TemporaryFolder empty;
  REQUIRE_ERROR(Tokenizer::load(empty.path), IoError, "holds no tokenizer");
}

TEST_CASE("tokenizer: special tokens and length come from the configuration", "[data]") {
  const TemporaryFolder folder;
  folder.write("vocab.json", R"({"a</w>": 0, "!": 1, "<s>": 2, "</s>": 3, "<pad>": 4})");
  folder.write("merges.txt", "");
  folder.write("special_tokens_map.json", R"({"pad_token": {"content": "<pad>"}})");
  const auto configure = [&](const std::string& text) {
    folder.write("tokenizer_config.json", text);
    return Tokenizer::load(folder.path);
  };
  const Tokenizer one = configure(R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "!",
                                      "model_max_length": 12})");
  CHECK(one.start_of_text() == 2);
  CHECK(one.end_of_text() == 3);
  CHECK(one.padding() == 4);
  CHECK(one.context_length() == 12);
  CHECK(one.encode("a b").size() == 2);
  CHECK(one.encode("a b")[1] == 1);
  CHECK(configure(R"({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "!", "model_max_length": 1e30})")
            .context_length() == 77);
  REQUIRE_ERROR(configure(R"({"bos_token": "<x>"})"), IoError, "the start token '<x>' is not in the vocabulary");
  REQUIRE_ERROR(configure(R"({"bos_token": "<s>", "eos_token": "</s>", "model_max_length": 1})"), IoError, "need 2");
}

TEST_CASE("tokenizer: thousands of damaged files load or give an error, and nothing else", "[data]") {
  const TemporaryFolder folder;
  data::LearningOptions options;
  options.context_length = 24;
  Tokenizer::learn(captions(), 530, options).save(folder.path);
  const auto changed = [](std::string text, uint64_t& state) {
    const auto random = [&](uint64_t below) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      return (state >> 33) % below;
    };
    for (uint64_t edits = 1 + random(3); edits > 0 && !text.empty(); --edits) {
      const size_t at = random(text.size());
      switch (random(5)) {
        case 0:
          text[at] = char(random(256));
          break;
        case 1:
          text.erase(at, 1 + random(40));
          break;
        case 2:
          text.insert(at, text.substr(random(text.size()), random(60)));
          break;
        case 3:
          text.resize(at);
          break;
        default:
          text[at] = "0123456789-\"{}[],:"[random(18)];
          break;
      }
    }
    return text;
  };
  int loaded = 0, refused = 0;
  const auto attempt = [&](const auto& load) {
    try {
      const Tokenizer tokenizer = load();
      tokenizer.decode(tokenizer.encode("a photo of a cat, 日本 42!"));
      ++loaded;
    } catch (const Error& error) {
      CHECK(std::string(error.what()).size() > 20);
      ++refused;
    }
  };
  uint64_t state = 1;
  const std::string vocab = io::read_text(folder.path / "vocab.json"),
                    merges = io::read_text(folder.path / "merges.txt"),
                    whole = io::read_text(folder.path / "tokenizer.json"),
                    config = io::read_text(folder.path / "tokenizer_config.json"),
                    packed = gzip("heading\nc a\nca t</w>\n");
  const TemporaryFolder bad;
  for (int round = 0; round < 600; ++round) {
    bad.write("vocab.json", round % 2 ? vocab : changed(vocab, state));
    bad.write("merges.txt", round % 2 ? changed(merges, state) : merges);
    bad.write("tokenizer_config.json", round % 3 ? config : changed(config, state));
    attempt([&] { return Tokenizer::load(bad.path); });
    const fs::path file = bad.write("other.json", changed(whole, state));
    attempt([&] { return Tokenizer::load(file); });
    const fs::path gz = bad.write("vocabulary.gz", changed(packed, state));
    attempt([&] { return Tokenizer::load(gz); });
    const fs::path text = bad.write("text.gz", gzip(changed("heading\nc a\nca t</w>\nd o\ndo g</w>\n", state)));
    attempt([&] { return Tokenizer::load(text); });
  }
  CHECK(loaded > 50);
  CHECK(refused > 500);
}
