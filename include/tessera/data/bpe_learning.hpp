// Learning a byte-pair vocabulary from captions (Sennrich et al. 2016): beginning with bytes, the most frequent pair of
// neighbouring symbols becomes a symbol, again and again. Words that are frequent end as one symbol.
#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <queue>
#include <span>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <tessera/data/bpe_vocabulary.hpp>
#include <tessera/data/text_cleaning.hpp>
#include <tessera/data/text_pieces.hpp>

namespace tessera::data {

struct LearningOptions {
  int64_t least_count = 2;      ///< a pair that occurs less often is not joined
  int64_t context_length = 77;  ///< of the vocabulary that comes out
  Cleaning cleaning = Cleaning::clip;
};

namespace detail {

/// The words of a text as symbols, with counts, and the counts of all pairs of neighbours kept up to date.
class PairCounts {
 public:
  struct Pair {
    int32_t left = 0, right = 0;
    int64_t count = 0;
  };

  /// `symbols` of a word that occurs `count` times.
  void add_word(std::vector<int32_t> symbols, int64_t count) {
    words_.push_back({std::move(symbols), count});
    count_pairs(words_.size() - 1, +1);
  }

  /// The most frequent pair; of equally frequent ones that with the lowest ids, so that the result does not depend on
  /// the order of the captions. Count 0: no pairs are left.
  Pair most_frequent() {
    while (!queue_.empty()) {
      const Queued top = queue_.top();
      const auto found = pairs_.find(key(top.left, top.right));
      const int64_t count = found == pairs_.end() ? 0 : found->second.count;
      if (count == top.count && count > 0) return {top.left, top.right, count};
      queue_.pop();  // counted again since
    }
    return {};
  }

  /// Replaces every occurrence of the pair, from the left, by `result`.
  void join(const Pair& pair, int32_t result) {
    const std::vector<size_t> places = std::move(pairs_.at(key(pair.left, pair.right)).words);
    for (const size_t index : places) {
      count_pairs(index, -1);
      std::vector<int32_t>& symbols = words_[index].symbols;
      size_t kept = 0;
      for (size_t i = 0; i < symbols.size(); ++i) {
        const bool joined = i + 1 < symbols.size() && symbols[i] == pair.left && symbols[i + 1] == pair.right;
        symbols[kept++] = joined ? result : symbols[i];
        if (joined) ++i;
      }
      symbols.resize(kept);
      count_pairs(index, +1);
    }
    pairs_.erase(key(pair.left, pair.right));
  }

 private:
  struct Word {
    std::vector<int32_t> symbols;
    int64_t count;
  };
  struct Occurrences {
    int64_t count = 0;
    std::vector<size_t> words;  ///< where the pair is or was, possibly more than once
  };
  struct Queued {
    int64_t count;
    int32_t left, right;
    bool operator<(const Queued& other) const {
      return std::tuple(count, -int64_t(left), -int64_t(right)) <
             std::tuple(other.count, -int64_t(other.left), -int64_t(other.right));
    }
  };
  static uint64_t key(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

  void count_pairs(size_t index, int sign) {
    const Word& word = words_[index];
    for (size_t i = 0; i + 1 < word.symbols.size(); ++i) {
      const int32_t left = word.symbols[i], right = word.symbols[i + 1];
      Occurrences& pair = pairs_[key(left, right)];
      pair.count += sign * word.count;
      if (sign > 0 && (pair.words.empty() || pair.words.back() != index)) pair.words.push_back(index);
      queue_.push({pair.count, left, right});
    }
  }

  std::vector<Word> words_;
  std::unordered_map<uint64_t, Occurrences> pairs_;
  std::priority_queue<Queued> queue_;
};

}  // namespace detail

/// A vocabulary of at most `vocabulary_size` symbols: 512 for bytes, start and end, and one for each merge learned. It
/// is smaller where no pair occurs options.least_count times any more. Padding is the end token, as in Hugging Face's
/// CLIP. Throws ValueError for a size below 514.
inline BpeVocabulary learn_vocabulary(std::span<const std::string> captions, int64_t vocabulary_size,
                                      const LearningOptions& options = {}) {
  BpeVocabulary vocabulary = detail::byte_vocabulary();
  const auto fixed = int64_t(vocabulary.symbols.size()) + 2;
  require(vocabulary_size >= fixed && vocabulary_size <= int64_t(detail::most_symbols), "learn_vocabulary: size is ",
          vocabulary_size, "; it must lie in [", fixed, ", ", detail::most_symbols,
          "], because the bytes, start and end take ", fixed);
  require(options.context_length >= 2, "learn_vocabulary: context_length is ", options.context_length,
          "; start and end alone need 2");

  std::map<std::string, int64_t> word_counts;
  for (const std::string& caption : captions) {
    const std::string cleaned = clean_text(caption, options.cleaning);
    for_each_piece(cleaned, vocabulary.start_of_text_name, vocabulary.end_of_text_name, [&](std::string_view piece) {
      if (piece != vocabulary.start_of_text_name && piece != vocabulary.end_of_text_name)
        ++word_counts[std::string(piece)];
    });
  }

  detail::PairCounts pairs;
  for (const auto& [word, count] : word_counts) {
    std::vector<int32_t> symbols;
    for (size_t i = 0; i < word.size(); ++i)
      symbols.push_back(vocabulary.ids.at(detail::byte_symbol(uint8_t(word[i]), i + 1 == word.size())));
    pairs.add_word(std::move(symbols), count);
  }

  while (int64_t(vocabulary.symbols.size()) + 2 < vocabulary_size) {
    const auto pair = pairs.most_frequent();
    if (pair.count < std::max<int64_t>(1, options.least_count)) break;
    const std::string symbol =
        detail::joined(vocabulary.symbols[size_t(pair.left)], vocabulary.symbols[size_t(pair.right)]);
    // Two different pairs may spell the same symbol ("ab"+"c", "a"+"bc"): then they share it.
    const auto known = vocabulary.ids.find(symbol);
    const int32_t result =
        known != vocabulary.ids.end() ? known->second : detail::add_symbol(vocabulary, symbol, "learn_vocabulary");
    vocabulary.merges.push_back({pair.left, pair.right, result});
    pairs.join(pair, result);
  }
  detail::add_start_and_end(vocabulary, "learn_vocabulary");
  vocabulary.padding = vocabulary.end_of_text;
  vocabulary.unknown = vocabulary.end_of_text;
  vocabulary.context_length = options.context_length;
  return vocabulary;
}

}  // namespace tessera::data
