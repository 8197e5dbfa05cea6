// CLIP's tokenizer (Radford et al. 2021; byte-pair encoding after Sennrich et al. 2016): text -> clean text -> pieces
// (letters, single numerals, marks, English contractions) -> bytes -> symbols joined by the merges of a vocabulary ->
// ids.
//   Tokenizer tokenizer = Tokenizer::load("model/");
//   Tensor<int32_t, 2> ids = tokenizer.tokenize(ctx, {"a photo of a cat", "grass"});   // [2, 77]: start, text, end,
//   padding
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <queue>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <tessera/core/tensor.hpp>
#include <tessera/data/bpe_learning.hpp>
#include <tessera/data/bpe_vocabulary.hpp>
#include <tessera/data/text_cleaning.hpp>
#include <tessera/data/text_pieces.hpp>

namespace tessera::data {

struct TokenizeOptions {
  int64_t context_length = 0;  ///< tokens a text, start and end included; 0: the tokenizer's own
  bool truncate = false;       ///< cut longer texts, keeping the end token; otherwise they are an error
};

/// Immutable and safe to use from several threads; copies share one cache of words.
class Tokenizer {
 public:
  /// From a vocabulary whose merges, start and end are known; throws IoError where they are not.
  explicit Tokenizer(BpeVocabulary vocabulary) : state_(std::make_shared<State>(std::move(vocabulary))) {}

  /// From a checkpoint's folder, whichever files it has (read_vocabulary_directory); from a .json file
  /// (tokenizer.json); or from a .gz file (CLIP's own bpe_simple_vocab_16e6.txt.gz: 49,408 symbols, 77 tokens a text,
  /// padding 0). Throws IoError for anything else and for damaged files.
  static Tokenizer load(const std::filesystem::path& path) {
    if (std::filesystem::is_directory(path)) return Tokenizer(read_vocabulary_directory(path));
    if (path.extension() == ".gz") return Tokenizer(read_bpe_file(path));
    if (path.extension() == ".json") return Tokenizer(read_tokenizer_json(path));
    fail<IoError>(path.string(), ": a tokenizer is a folder, a tokenizer.json or a bpe_simple_vocab_16e6.txt.gz");
  }
  /// From vocab.json and merges.txt, wherever they are. Throws IoError.
  static Tokenizer load(const std::filesystem::path& vocab, const std::filesystem::path& merges) {
    return Tokenizer(read_vocab_and_merges(vocab, merges));
  }
  /// Learns a vocabulary of at most `vocabulary_size` symbols from captions (learn_vocabulary).
  static Tokenizer learn(std::span<const std::string> captions, int64_t vocabulary_size,
                         const LearningOptions& options = {}) {
    return Tokenizer(learn_vocabulary(captions, vocabulary_size, options));
  }
  /// Writes Hugging Face's files into `directory` (write_vocabulary_directory).
  void save(const std::filesystem::path& directory) const { write_vocabulary_directory(vocabulary(), directory); }

  /// The ids of the text alone, without start, end and padding. `text` is UTF-8 of any length; bytes that are not count
  /// as U+FFFD. The names of the start and end token, written out in a text, give their ids.
  std::vector<int32_t> encode(std::string_view text, Cleaning cleaning = Cleaning::clip) const {
    std::vector<int32_t> ids;
    state_->encode(clean_text(text, cleaning), ids);
    return ids;
  }

  /// ids [texts, context_length]: start, the text, end, padding. Throws ValueError for a text that is too long, unless
  /// options.truncate.
  Tensor<int32_t, 2> tokenize(Context<Cpu>& ctx, std::span<const std::string> texts,
                              const TokenizeOptions& options = {}) const {
    const int64_t length = options.context_length > 0 ? options.context_length : context_length();
    require(length >= 2, "tokenize: context_length is ", length, "; start and end alone need 2");
    Tensor<int32_t, 2> ids(ctx, {int64_t(texts.size()), length});
    for (size_t row = 0; row < texts.size(); ++row) {
      std::vector<int32_t> text = encode(texts[row]);
      const auto count = int64_t(text.size());
      require(options.truncate || count + 2 <= length, "tokenize: text ", row, " ('", texts[row].substr(0, 60),
              "') has ", count, " tokens; start and end included at most ", length, " fit. Shorten it or set truncate");
      text.resize(size_t(std::min(count, length - 2)));
      int32_t* to = ids.data + int64_t(row) * length;
      *to++ = start_of_text();
      to = std::copy(text.begin(), text.end(), to);
      *to++ = end_of_text();
      std::fill(to, ids.data + int64_t(row + 1) * length, padding());
    }
    return ids;
  }
  Tensor<int32_t, 2> tokenize(Context<Cpu>& ctx, std::initializer_list<std::string> texts,
                              const TokenizeOptions& options = {}) const {
    return tokenize(ctx, std::span<const std::string>(texts.begin(), texts.size()), options);
  }

  /// The text of ids, words separated by one space; start, end and padding are left out, from the first end on
  /// everything is. Bytes that do not form UTF-8 give U+FFFD. Throws ValueError for an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids) const {
    std::string bytes;
    for (const int32_t id : ids) {
      require(id >= 0 && id < vocabulary_size(), "decode: id ", id, " is outside the vocabulary of ", vocabulary_size(),
              " symbols");
      if (id == end_of_text()) break;
      if (id != start_of_text()) bytes += state_->bytes_of[size_t(id)];
    }
    while (!bytes.empty() && bytes.back() == ' ') bytes.pop_back();
    return to_utf8(to_code_points(bytes));
  }

  /// The id that every text begins with.
  int32_t start_of_text() const { return vocabulary().start_of_text; }
  /// The id that every text ends with; CLIP's text tower takes the embedding of the text there.
  int32_t end_of_text() const { return vocabulary().end_of_text; }
  /// The id behind the end, up to the context length.
  int32_t padding() const { return vocabulary().padding; }
  /// Rows that an embedding table needs: the largest id + 1.
  int64_t vocabulary_size() const { return int64_t(vocabulary().symbols.size()); }
  /// Tokens a text, start and end included.
  int64_t context_length() const { return vocabulary().context_length; }
  const BpeVocabulary& vocabulary() const { return state_->vocabulary; }

 private:
  /// Order of a merge and what it makes.
  struct Merge {
    int32_t rank = 0, result = 0;
  };
  struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  /// Neighbours that may be joined, in the order of the priority queue: lowest rank first, then from the left.
  struct Candidate {
    int32_t rank, position, left, right;
    bool operator<(const Candidate& other) const {
      return std::pair(rank, position) > std::pair(other.rank, other.position);
    }
  };

  struct State {
    BpeVocabulary vocabulary;
    std::unordered_map<uint64_t, Merge> merges;  ///< by pair of ids
    std::array<int32_t, 256> byte_ids{}, last_byte_ids{};
    std::vector<std::string> bytes_of;  ///< by id; the end of a word is a space

    static constexpr size_t cached_words = size_t(1) << 16;
    std::shared_mutex cache_mutex;
    std::unordered_map<std::string, std::vector<int32_t>, StringHash, std::equal_to<>> cache;

    explicit State(BpeVocabulary given) : vocabulary(std::move(given)) {
      detail::special_id(vocabulary, vocabulary.start_of_text_name, "start", "tokenizer");
      detail::special_id(vocabulary, vocabulary.end_of_text_name, "end", "tokenizer");
      index_merges();
      index_bytes();
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    static uint64_t pair_key(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

    void index_merges() {
      merges.reserve(vocabulary.merges.size() * 2);
      for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
        const BpeMerge& merge = vocabulary.merges[rank];
        const bool is_new =
            merges.emplace(pair_key(merge.left, merge.right), Merge{int32_t(rank), merge.result}).second;
        require<IoError>(is_new, "tokenizer: merge ", rank, " ('", vocabulary.symbols[size_t(merge.left)], " ",
                         vocabulary.symbols[size_t(merge.right)], "') occurs twice");
      }
    }

    void index_bytes() {
      std::unordered_map<char32_t, char> byte_of;
      for (int byte = 0; byte < 256; ++byte) {
        byte_of.emplace(byte_characters()[size_t(byte)], char(byte));
        byte_ids[size_t(byte)] = byte_id(uint8_t(byte), false);
        last_byte_ids[size_t(byte)] = byte_id(uint8_t(byte), true);
      }
      bytes_of.reserve(vocabulary.symbols.size());
      for (const std::string& symbol : vocabulary.symbols) {
        std::string_view visible = symbol;
        const bool ends_word = visible.size() > end_of_word.size() && visible.ends_with(end_of_word);
        if (ends_word) visible.remove_suffix(end_of_word.size());
        std::string bytes;
        for (size_t at = 0; at < visible.size();) {
          const char32_t character = next_code_point(visible, at);
          const auto byte = byte_of.find(character);
          if (byte == byte_of.end()) {
            append_utf8(bytes, character);  // an added token, written as it is
          } else {
            bytes += byte->second;
          }
        }
        if (ends_word) bytes += ' ';
        bytes_of.push_back(std::move(bytes));
      }
    }

    int32_t byte_id(uint8_t byte, bool ends_word) const {
      const std::string symbol = detail::byte_symbol(byte, ends_word);
      const auto found = vocabulary.ids.find(symbol);
      if (found != vocabulary.ids.end()) return found->second;
      require<IoError>(vocabulary.unknown >= 0, "tokenizer: the vocabulary has no symbol '", symbol,
                       "' for a byte, and no token for what is unknown");
      return vocabulary.unknown;
    }

    /// Appends the ids of clean text. Words met before come from the cache; new ones are put there afterwards.
    void encode(std::string_view text, std::vector<int32_t>& ids) {
      std::vector<std::pair<std::string, std::vector<int32_t>>> new_words;
      {
        const std::shared_lock lock(cache_mutex);
        for_each_piece(text, vocabulary.start_of_text_name, vocabulary.end_of_text_name, [&](std::string_view piece) {
          if (piece == vocabulary.start_of_text_name || piece == vocabulary.end_of_text_name) {
            ids.push_back(piece == vocabulary.start_of_text_name ? vocabulary.start_of_text : vocabulary.end_of_text);
            return;
          }
          if (const auto found = cache.find(piece); found != cache.end()) {
            ids.insert(ids.end(), found->second.begin(), found->second.end());
            return;
          }
          std::vector<int32_t> word = encode_word(piece);
          ids.insert(ids.end(), word.begin(), word.end());
          if (piece.size() <= 64) new_words.emplace_back(piece, std::move(word));
        });
      }
      if (new_words.empty()) return;
      const std::unique_lock lock(cache_mutex);
      for (auto& [word, word_ids] : new_words)
        if (cache.size() < cached_words) cache.emplace(std::move(word), std::move(word_ids));
    }

    /// Joins the bytes of a word, always the pair with the lowest rank and of equal ones the leftmost, until no pair
    /// has a merge. Symbols are a linked list; a queue holds the candidates: n log n for a word of n bytes.
    std::vector<int32_t> encode_word(std::string_view word) const {
      const auto count = int32_t(word.size());
      std::vector<int32_t> symbol(word.size()), next(word.size()), previous(word.size());
      for (int32_t i = 0; i < count; ++i) {
        const bool last = i + 1 == count;
        symbol[size_t(i)] = (last ? last_byte_ids : byte_ids)[uint8_t(word[size_t(i)])];
        next[size_t(i)] = last ? -1 : i + 1;
        previous[size_t(i)] = i - 1;
      }
      std::priority_queue<Candidate> candidates;
      const auto consider = [&](int32_t position) {
        if (position < 0 || next[size_t(position)] < 0) return;
        const int32_t left = symbol[size_t(position)], right = symbol[size_t(next[size_t(position)])];
        const auto found = merges.find(pair_key(left, right));
        if (found != merges.end()) candidates.push({found->second.rank, position, left, right});
      };
      for (int32_t i = 0; i + 1 < count; ++i) consider(i);
      while (!candidates.empty()) {
        const Candidate candidate = candidates.top();
        candidates.pop();
        const int32_t position = candidate.position, after = next[size_t(position)];
        const bool stands =
            after >= 0 && symbol[size_t(position)] == candidate.left && symbol[size_t(after)] == candidate.right;
        if (!stands) continue;  // one of the two was joined with another neighbour meanwhile
        symbol[size_t(position)] = vocabulary.merges[size_t(candidate.rank)].result;
        symbol[size_t(after)] = -1;
        next[size_t(position)] = next[size_t(after)];
        if (next[size_t(after)] >= 0) previous[size_t(next[size_t(after)])] = position;
        consider(previous[size_t(position)]);
        consider(position);
      }
      std::vector<int32_t> ids;
      for (int32_t i = 0; i >= 0 && i < count; i = next[size_t(i)]) ids.push_back(symbol[size_t(i)]);
      return ids;
    }
  };

  std::shared_ptr<State> state_;
};

}  // namespace tessera::data
