// Vectors of texts by a frozen text tower: each text is encoded once, as long as there is room to remember it.
#pragma once
#include <algorithm>
#include <functional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <tessera/core/tensor.hpp>

namespace tessera::train {

/// Remembers vectors [E] by their text.
class TextVectors {
 public:
  /// Gives [n, E] for n different texts.
  using Encode = std::function<Tensor<float, 2>(const std::vector<std::string>&)>;

  /// `most`: texts to remember; beyond it all are forgotten.
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
      const Tensor<float, 2> encoded = encode_({fresh.begin() + ptrdiff_t(begin), fresh.begin() + ptrdiff_t(end)});
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
