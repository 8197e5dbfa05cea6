// The vocabulary of CLIP's byte-pair encoding and the files it is kept in.
//
// A symbol is a string of bytes, written with one visible character a byte (byte_characters), and ends in "</w>" when
// it ends a word. CLIP numbers them so: the 256 bytes, the 256 bytes that end a word, one symbol for each merge in the
// order of merging, start of text, end of text. Vocabularies in Hugging Face's form state each number, and may differ.
#pragma once
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <tessera/core/error.hpp>
#include <tessera/data/unicode.hpp>
#include <tessera/io/files.hpp>
#include <tessera/io/json.hpp>

namespace tessera::data {

inline constexpr std::string_view end_of_word = "</w>";

/// Two neighbouring symbols and the symbol they become. Merges with a lower place in the list go first.
struct BpeMerge {
  int32_t left = 0, right = 0, result = 0;
};

/// Symbols, merges and special tokens: all that a tokenizer needs.
struct BpeVocabulary {
  std::vector<std::string> symbols;  ///< by id; empty where no symbol has this id
  std::unordered_map<std::string, int32_t> ids;
  std::vector<BpeMerge> merges;
  std::string start_of_text_name = "<|startoftext|>", end_of_text_name = "<|endoftext|>";
  int32_t start_of_text = -1, end_of_text = -1;
  int32_t padding = 0;
  int32_t unknown = -1;  ///< for bytes that have no symbol; -1: there are none
  int64_t context_length = 77;
};

/// The visible character that stands for each byte: printable Latin-1 characters for themselves, the other 68 bytes by
/// U+0100, U+0101, … in ascending order (Radford et al. 2019, GPT-2).
inline const std::array<char32_t, 256>& byte_characters() {
  static const std::array<char32_t, 256> characters = [] {
    std::array<char32_t, 256> table{};
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      table[size_t(byte)] = visible ? char32_t(byte) : next++;
    }
    return table;
  }();
  return characters;
}

namespace detail {

inline constexpr int64_t clip_merge_count = 49'152 - 256 - 2;  // what CLIP takes of its file's 262,145 lines
inline constexpr size_t most_symbols = 1'000'000;
inline constexpr size_t longest_symbol = 4096;

/// The bytes in CLIP's order: those with a character of their own first.
inline std::vector<uint8_t> bytes_in_vocabulary_order() {
  std::vector<uint8_t> order;
  for (const bool visible : {true, false})
    for (int byte = 0; byte < 256; ++byte)
      if ((byte_characters()[size_t(byte)] < 0x100) == visible) order.push_back(uint8_t(byte));
  return order;
}

inline std::string byte_symbol(uint8_t byte, bool ends_word) {
  std::string symbol;
  append_utf8(symbol, byte_characters()[byte]);
  if (ends_word) symbol += end_of_word;
  return symbol;
}

/// What joining two symbols gives.
inline std::string joined(std::string_view left, std::string_view right) {
  std::string symbol(left);
  symbol += right;
  return symbol;
}

/// Gives `symbol` the next id.
inline int32_t add_symbol(BpeVocabulary& vocabulary, const std::string& symbol, const std::string& where) {
  const auto id = int32_t(vocabulary.symbols.size());
  const bool is_new = vocabulary.ids.emplace(symbol, id).second;
  require<IoError>(is_new, where, ": the symbol '", symbol, "' is made twice");
  vocabulary.symbols.push_back(symbol);
  return id;
}

/// Bytes, and bytes that end a word: ids 0…511.
inline BpeVocabulary byte_vocabulary() {
  BpeVocabulary vocabulary;
  for (const bool ends_word : {false, true})
    for (const uint8_t byte : bytes_in_vocabulary_order())
      add_symbol(vocabulary, byte_symbol(byte, ends_word), "bytes");
  return vocabulary;
}

inline void add_start_and_end(BpeVocabulary& vocabulary, const std::string& where) {
  vocabulary.start_of_text = add_symbol(vocabulary, vocabulary.start_of_text_name, where);
  vocabulary.end_of_text = add_symbol(vocabulary, vocabulary.end_of_text_name, where);
}

/// Splits a line of a merges file, "left right".
inline std::pair<std::string_view, std::string_view> split_merge(std::string_view line, const std::string& where) {
  const size_t space = line.find(' ');
  const bool two = space != line.npos && space > 0 && space + 1 < line.size() && line.find(' ', space + 1) == line.npos;
  require<IoError>(two, where, ": a merge is two symbols with one space between, but this is '", line.substr(0, 80),
                   "'");
  require<IoError>(line.size() <= longest_symbol, where, ": a merge of ", line.size(), " bytes; at most ",
                   longest_symbol, " are read");
  return {line.substr(0, space), line.substr(space + 1)};
}

inline int32_t known_symbol(const BpeVocabulary& vocabulary, std::string_view symbol, const std::string& where) {
  const auto found = vocabulary.ids.find(std::string(symbol));
  require<IoError>(found != vocabulary.ids.end(), where, ": the symbol '", symbol.substr(0, 80),
                   "' is not in the vocabulary");
  return found->second;
}

/// Adds the merge "left right", whose three symbols must be known.
inline void add_known_merge(BpeVocabulary& vocabulary, std::string_view left, std::string_view right,
                            const std::string& where) {
  BpeMerge merge;
  merge.left = known_symbol(vocabulary, left, where);
  merge.right = known_symbol(vocabulary, right, where);
  merge.result = known_symbol(vocabulary, joined(left, right), where);
  vocabulary.merges.push_back(merge);
}

/// Calls use(line, number) for every line; numbers begin at 1.
template <class Use>
void for_each_line(std::string_view text, Use use) {
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    use(line, ++number);
    begin = end + 1;
  }
}

/// The contents of a gzip file; throws IoError when it is damaged or holds more than `limit` bytes.
inline std::string read_gzip(const std::filesystem::path& path, size_t limit) {
  const std::string packed = io::read_text(path, limit);
  const bool is_gzip = packed.size() >= 18 && uint8_t(packed[0]) == 0x1F && uint8_t(packed[1]) == 0x8B;
  require<IoError>(is_gzip, path.string(), ": not a gzip file");
  z_stream stream{};
  const int gzip_format = 16 + MAX_WBITS;
  require<IoError>(inflateInit2(&stream, gzip_format) == Z_OK, path.string(), ": zlib cannot start");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = uInt(packed.size());
  std::string text;
  std::string block(size_t(1) << 16, '\0');
  int status = Z_OK;
  while (status == Z_OK && text.size() <= limit) {
    stream.next_out = reinterpret_cast<Bytef*>(block.data());
    stream.avail_out = uInt(block.size());
    status = inflate(&stream, Z_NO_FLUSH);
    text.append(block, 0, block.size() - stream.avail_out);
    if (status == Z_BUF_ERROR) break;  // the input ends too early
  }
  const bool trailing = stream.avail_in != 0;
  inflateEnd(&stream);
  require<IoError>(text.size() <= limit, path.string(), ": unpacks to more than ", limit, " bytes");
  require<IoError>(status == Z_STREAM_END, path.string(), ": the gzip data is ",
                   status == Z_BUF_ERROR || status == Z_OK ? "cut off" : "damaged");
  require<IoError>(!trailing, path.string(), ": bytes follow the end of the gzip data");
  return text;
}

/// Fills symbols and ids from {"symbol": id, …}.
inline void read_symbol_object(BpeVocabulary& vocabulary, const io::JsonView& object) {
  require<IoError>(object.is_object() && object.size() > 0, object.name(), " must be an object of symbols with ids");
  require<IoError>(object.size() <= most_symbols, object.name(), ": ", object.size(), " symbols; at most ",
                   most_symbols, " are read");
  for (const auto& [symbol, id] : object.json().items()) {
    require<IoError>(id.is_number_integer() && symbol.size() <= longest_symbol, object.name(), ": the symbol '",
                     symbol.substr(0, 80), "' needs an integer id and at most ", longest_symbol, " bytes");
    const bool in_range = id.is_number_unsigned() && id.get<uint64_t>() < most_symbols;
    require<IoError>(in_range, object.name(), ": id ", id.dump(), " of '", symbol, "' is outside 0 to ",
                     most_symbols - 1);
    const auto number = id.get<size_t>();
    if (vocabulary.symbols.size() <= number) vocabulary.symbols.resize(number + 1);
    std::string& place = vocabulary.symbols[number];
    require<IoError>(!symbol.empty(), object.name(), ": an empty symbol");
    require<IoError>(place.empty(), object.name(), ": id ", number, " belongs to '", place, "' and to '", symbol, "'");
    place = symbol;
    vocabulary.ids.emplace(symbol, int32_t(number));
  }
}

/// The id of a special token; it must be in the vocabulary.
inline int32_t special_id(const BpeVocabulary& vocabulary, const std::string& name, std::string_view role,
                          const std::string& where) {
  const auto found = vocabulary.ids.find(name);
  require<IoError>(found != vocabulary.ids.end(), where, ": the ", role, " token '", name,
                   "' is not in the vocabulary");
  return found->second;
}

/// A special token in a configuration is a string, or an object with "content". False where absent.
inline bool read_special_name(const io::JsonView& config, const std::string& key, std::string& name) {
  if (!config.has(key)) return false;
  const io::JsonView value = config[key];
  name = value.is_object() ? value.get<std::string>("content") : value.as<std::string>();
  return true;
}

/// Takes names of special tokens and the context length from tokenizer_config.json or special_tokens_map.json.
inline void read_token_configuration(BpeVocabulary& vocabulary, const io::JsonView& config) {
  require<IoError>(config.is_object(), config.name(), " must be an object");
  const bool pads_with_end = vocabulary.padding == vocabulary.end_of_text;
  if (read_special_name(config, "bos_token", vocabulary.start_of_text_name))
    vocabulary.start_of_text = special_id(vocabulary, vocabulary.start_of_text_name, "start", config.name());
  if (read_special_name(config, "eos_token", vocabulary.end_of_text_name)) {
    vocabulary.end_of_text = special_id(vocabulary, vocabulary.end_of_text_name, "end", config.name());
    if (pads_with_end) vocabulary.padding = vocabulary.end_of_text;
  }
  std::string name;
  if (read_special_name(config, "pad_token", name))
    vocabulary.padding = special_id(vocabulary, name, "padding", config.name());
  if (read_special_name(config, "unk_token", name))
    vocabulary.unknown = special_id(vocabulary, name, "unknown", config.name());
  if (config.has("model_max_length")) {  // Hugging Face writes 1e30 where no length is known
    const auto length = config.get<double>("model_max_length");
    require<IoError>(length >= 2, config.name(), ": model_max_length is ", length, "; start and end alone need 2");
    if (length <= 65'536) vocabulary.context_length = int64_t(length);
  }
}

/// Start and end by their names, where the vocabulary has them; the end token also pads, and stands for what has no
/// symbol, unless a configuration says otherwise (the defaults of `transformers`).
inline void find_special_tokens(BpeVocabulary& vocabulary) {
  const auto id_or_none = [&](const std::string& name) {
    const auto found = vocabulary.ids.find(name);
    return found == vocabulary.ids.end() ? -1 : found->second;
  };
  vocabulary.start_of_text = id_or_none(vocabulary.start_of_text_name);
  vocabulary.end_of_text = id_or_none(vocabulary.end_of_text_name);
  vocabulary.padding = vocabulary.end_of_text;
  vocabulary.unknown = vocabulary.end_of_text;
}

/// The names of start and end in a tokenizer.json's post-processor, of either kind.
inline void read_post_processor(BpeVocabulary& vocabulary, const io::JsonView& ends) {
  if (ends.has("cls") && ends["cls"].is_array()) vocabulary.start_of_text_name = ends["cls"][0].as<std::string>();
  if (ends.has("sep") && ends["sep"].is_array()) vocabulary.end_of_text_name = ends["sep"][0].as<std::string>();
  if (!ends.has("single") || !ends["single"].is_array()) return;
  const io::JsonView pieces = ends["single"];
  bool text_seen = false;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (!pieces[i].has("SpecialToken")) {
      text_seen = true;
    } else {
      (text_seen ? vocabulary.end_of_text_name : vocabulary.start_of_text_name) =
          pieces[i]["SpecialToken"].get<std::string>("id");
    }
  }
}

}  // namespace detail

/// CLIP's own file, bpe_simple_vocab_16e6.txt.gz: a line of heading, then merges, of which the first 48,894 count.
/// Padding is id 0. Throws IoError.
inline BpeVocabulary read_bpe_file(const std::filesystem::path& path) {
  const std::string text = detail::read_gzip(path, size_t(32) << 20);
  BpeVocabulary vocabulary = detail::byte_vocabulary();
  detail::for_each_line(text, [&](std::string_view line, size_t number) {
    const auto merges = int64_t(vocabulary.merges.size());
    if (number == 1 || line.empty() || merges >= detail::clip_merge_count) return;
    const std::string where = sentence(path.string(), ": line ", number);
    const auto [left, right] = detail::split_merge(line, where);
    BpeMerge merge;
    merge.left = detail::known_symbol(vocabulary, left, where);
    merge.right = detail::known_symbol(vocabulary, right, where);
    merge.result = detail::add_symbol(vocabulary, detail::joined(left, right), where);
    vocabulary.merges.push_back(merge);
  });
  require<IoError>(!vocabulary.merges.empty(), path.string(), ": holds no merges");
  detail::add_start_and_end(vocabulary, path.string());
  return vocabulary;
}

/// vocab.json ({"symbol": id}) and merges.txt ("left right" a line, after a "#version" line). Padding is the end token.
inline BpeVocabulary read_vocab_and_merges(const std::filesystem::path& vocab, const std::filesystem::path& merges) {
  BpeVocabulary vocabulary;
  const io::Json document = io::read_json(vocab);
  detail::read_symbol_object(vocabulary, io::JsonView(document, vocab.string()));
  const std::string text = io::read_text(merges, size_t(32) << 20);
  detail::for_each_line(text, [&](std::string_view line, size_t number) {
    if (line.empty() || (number == 1 && line.substr(0, 8) == "#version")) return;
    const std::string where = sentence(merges.string(), ": line ", number);
    const auto [left, right] = detail::split_merge(line, where);
    detail::add_known_merge(vocabulary, left, right, where);
  });
  detail::find_special_tokens(vocabulary);
  return vocabulary;
}

/// tokenizer.json of Hugging Face's `tokenizers`, for a byte-level BPE whose words end in "</w>".
inline BpeVocabulary read_tokenizer_json(const std::filesystem::path& path) {
  const io::Json document = io::read_json(path);
  const io::JsonView root(document, path.string());
  const io::JsonView model = root["model"];
  const std::string type = model.get_or("type", "BPE"), suffix = model.get_or("end_of_word_suffix", "");
  require<IoError>(type == "BPE" && suffix == end_of_word, path.string(), ": holds a model of type '", type,
                   "' with word ending '", suffix, "'; CLIP's is 'BPE' with '</w>'");
  BpeVocabulary vocabulary;
  detail::read_symbol_object(vocabulary, model["vocab"]);
  const io::JsonView merges = model["merges"];
  require<IoError>(merges.is_array(), merges.name(), " must be an array");
  for (size_t i = 0; i < merges.size(); ++i) {
    const io::JsonView merge = merges[i];
    if (merge.is_array()) {
      require<IoError>(merge.size() == 2, merge.name(), " must hold two symbols");
      detail::add_known_merge(vocabulary, merge[0].as<std::string>(), merge[1].as<std::string>(), merge.name());
    } else {
      const std::string line = merge.as<std::string>();
      const auto [left, right] = detail::split_merge(line, merge.name());
      detail::add_known_merge(vocabulary, left, right, merge.name());
    }
  }
  if (root.has("added_tokens")) {
    const io::JsonView added = root["added_tokens"];
    require<IoError>(added.is_array(), added.name(), " must be an array");
    for (size_t i = 0; i < added.size(); ++i) {
      const auto content = added[i].get<std::string>("content");
      const auto id = added[i].get<int64_t>("id", 0, int64_t(detail::most_symbols) - 1);
      if (vocabulary.symbols.size() <= size_t(id)) vocabulary.symbols.resize(size_t(id) + 1);
      std::string& place = vocabulary.symbols[size_t(id)];
      require<IoError>(place.empty() || place == content, added[i].name(), ": id ", id, " belongs to '", place,
                       "' and to '", content, "'");
      place = content;
      vocabulary.ids[content] = int32_t(id);
    }
  }
  if (root.has("post_processor")) detail::read_post_processor(vocabulary, root["post_processor"]);
  detail::find_special_tokens(vocabulary);
  if (model.has("unk_token"))
    vocabulary.unknown = detail::special_id(vocabulary, model.get<std::string>("unk_token"), "unknown", path.string());
  if (root.has("padding"))
    vocabulary.padding = root["padding"].get<int32_t>("pad_id", 0, int32_t(vocabulary.symbols.size()) - 1);
  if (root.has("truncation")) vocabulary.context_length = root["truncation"].get<int64_t>("max_length", 2, 65'536);
  return vocabulary;
}

/// A checkpoint's folder: tokenizer.json, or vocab.json + merges.txt, or bpe_simple_vocab_16e6.txt.gz; special tokens
/// and context length from special_tokens_map.json and tokenizer_config.json where present (the latter decides).
inline BpeVocabulary read_vocabulary_directory(const std::filesystem::path& directory) {
  const auto has = [&](const char* name) { return std::filesystem::is_regular_file(directory / name); };
  BpeVocabulary vocabulary;
  if (has("tokenizer.json")) {
    vocabulary = read_tokenizer_json(directory / "tokenizer.json");
  } else if (has("vocab.json") && has("merges.txt")) {
    vocabulary = read_vocab_and_merges(directory / "vocab.json", directory / "merges.txt");
  } else if (has("bpe_simple_vocab_16e6.txt.gz")) {
    return read_bpe_file(directory / "bpe_simple_vocab_16e6.txt.gz");
  } else {
    fail<IoError>(directory.string(),
                  ": holds no tokenizer; needed is tokenizer.json, or vocab.json and merges.txt, or "
                  "bpe_simple_vocab_16e6.txt.gz");
  }
  for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"}) {
    if (!has(name)) continue;
    const io::Json document = io::read_json(directory / name);
    detail::read_token_configuration(vocabulary, io::JsonView(document, (directory / name).string()));
  }
  return vocabulary;
}

namespace detail {

/// {"symbol": id, …} in the order of ids, a symbol a line.
inline std::string symbol_object_text(const BpeVocabulary& vocabulary) {
  std::string text = "{";
  for (size_t id = 0; id < vocabulary.symbols.size(); ++id) {
    if (vocabulary.symbols[id].empty()) continue;
    text += text.size() > 1 ? ",\n" : "\n";
    text += io::json_text(vocabulary.symbols[id], -1) + ": " + std::to_string(id);
  }
  return text + "\n}\n";
}

inline io::Json tokenizer_document(const BpeVocabulary& vocabulary) {
  using io::Json;
  const std::string pieces =
      "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";
  Json added = Json::array();
  for (const auto& [name, id] : {std::pair(vocabulary.start_of_text_name, vocabulary.start_of_text),
                                 {vocabulary.end_of_text_name, vocabulary.end_of_text}})
    added.push_back({{"id", id},
                     {"content", name},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  const Json normalizers = {{{"type", "NFC"}},
                            {{"type", "Replace"}, {"pattern", {{"Regex", "\\s+"}}}, {"content", " "}},
                            {{"type", "Lowercase"}}};
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", pieces}}}, {"behavior", "Removed"}, {"invert", true}};
  Json symbols = Json::object();
  for (const auto& [symbol, id] : vocabulary.ids) symbols[symbol] = id;
  Json merges = Json::array();
  for (const BpeMerge& merge : vocabulary.merges)
    merges.push_back(vocabulary.symbols[size_t(merge.left)] + " " + vocabulary.symbols[size_t(merge.right)]);
  const Json ends = {{"type", "RobertaProcessing"},
                     {"sep", Json::array({vocabulary.end_of_text_name, vocabulary.end_of_text})},
                     {"cls", Json::array({vocabulary.start_of_text_name, vocabulary.start_of_text})},
                     {"trim_offsets", false},
                     {"add_prefix_space", false}};
  const Json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", vocabulary.end_of_text_name},
                      {"continuing_subword_prefix", ""},
                      {"end_of_word_suffix", end_of_word},
                      {"fuse_unk", false},
                      {"vocab", std::move(symbols)},
                      {"merges", std::move(merges)}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", std::move(added)},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", normalizers}}},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level})}}},
          {"post_processor", ends},
          {"decoder", byte_level},
          {"model", model}};
}

}  // namespace detail

/// Writes vocab.json, merges.txt, tokenizer_config.json, special_tokens_map.json and tokenizer.json, each atomically,
/// so that `transformers` loads the folder as CLIPTokenizer. A padding token that also occurs in texts (CLIP's own id 0
/// is
/// "!") is written as the end token: there, a padding token would be cut out of every text. Throws IoError.
inline void write_vocabulary_directory(const BpeVocabulary& vocabulary, const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  require<IoError>(!error, "cannot make the folder ", directory.string(), ": ", error.message());
  const bool pads_with_start = vocabulary.padding == vocabulary.start_of_text;
  const io::Json special = {
      {"bos_token", vocabulary.start_of_text_name},
      {"eos_token", vocabulary.end_of_text_name},
      {"unk_token", vocabulary.end_of_text_name},
      {"pad_token", pads_with_start ? vocabulary.start_of_text_name : vocabulary.end_of_text_name}};
  io::Json config = special;
  config["tokenizer_class"] = "CLIPTokenizer";
  config["model_max_length"] = vocabulary.context_length;
  std::string merges = "#version: 0.2\n";
  for (const BpeMerge& merge : vocabulary.merges)
    merges += vocabulary.symbols[size_t(merge.left)] + " " + vocabulary.symbols[size_t(merge.right)] + "\n";
  io::write_text(directory / "vocab.json", detail::symbol_object_text(vocabulary));
  io::write_text(directory / "merges.txt", merges);
  io::write_json(directory / "special_tokens_map.json", special);
  io::write_json(directory / "tokenizer_config.json", config);
  io::write_json(directory / "tokenizer.json", detail::tokenizer_document(vocabulary));
}

}  // namespace tessera::data
