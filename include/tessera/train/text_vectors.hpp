// Vectors of texts by a frozen text tower: each text is encoded once, as long as there is room to remember it.
//
// A vector must not depend on which texts came before: a run that goes on where another ended remembers none of them,
// and is to end with the same bits. Products of other sizes sum in another order, so all groups are of one size.
#pragma once
#include <algorithm>
#include <functional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <tessera/core/tensor.hpp>
#include <tessera/data/tokenizer.hpp>
#include <tessera/nn/text_transformer.hpp>

namespace tessera::train {

/// Token ids [N, L] for the text tower, of a length that does not depend on the other texts of the group: one text
/// alone is cut behind its end, several are as long as the tower reads.
inline nn::TextInput<Cpu> group_input(Context<Cpu>& ctx, const data::Tokenizer& tokenizer,
                                      const std::vector<std::string>& texts) {
  const auto ids = tokenizer.tokenize(ctx, texts, {.context_length = 0, .truncate = true});
  nn::TextInput<Cpu> input = nn::text_input(ctx, ids, tokenizer.end_of_text());
  if (texts.size() > 1) input.ids = ids;
  return input;
}

/// Remembers vectors [E] by their text.
class TextVectors {
 public:
  /// Gives [at_once, E] for at_once texts.
  using Encode = std::function<Tensor<float, 2>(const std::vector<std::string>&)>;

  /// `most`: texts to remember; beyond it all are forgotten. `at_once`: texts in every call of `encode`, the last group
  /// of a batch filled with one of its own; where a row's bits depend on its place among the rows, as on the CPU, 1.
  explicit TextVectors(Encode encode, size_t most = size_t(1) << 17, size_t at_once = 64)
      : encode_(std::move(encode)), most_(most), at_once_(at_once) {}

  /// [n, E], one row a text; a text may stand several times.
  Tensor<float, 2> operator()(Context<Cpu>& ctx, const std::vector<std::string>& texts) {
    require(!texts.empty(), "TextVectors: no texts");
    if (known_.size() + texts.size() > most_) known_.clear();
    std::vector<std::string> fresh;
    for (const std::string& text : texts)
      if (known_.try_emplace(text).second) fresh.push_back(text);
    for (size_t begin = 0; begin < fresh.size(); begin += at_once_) {
      const size_t end = std::min(begin + at_once_, fresh.size());
      std::vector<std::string> group(fresh.begin() + ptrdiff_t(begin), fresh.begin() + ptrdiff_t(end));
      group.resize(at_once_, fresh[begin]);
      const Tensor<float, 2> encoded = encode_(group);
      for (size_t i = begin; i < end; ++i) {
        const float* row = encoded.data + int64_t(i - begin) * encoded.shape[1];
        known_[fresh[i]].assign(row, row + encoded.shape[1]);
      }
    }
    const int64_t width = int64_t(known_.at(texts.front()).size());
    Tensor<float, 2> vectors(ctx, {int64_t(texts.size()), width});
    for (size_t i = 0; i < texts.size(); ++i)
      std::copy_n(known_.at(texts[i]).data(), width, vectors.data + int64_t(i) * width);
    return vectors;
  }

 private:
  Encode encode_;
  size_t most_, at_once_;
  std::unordered_map<std::string, std::vector<float>> known_;
};

}  // namespace tessera::train
