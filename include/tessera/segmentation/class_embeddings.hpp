// From class names to vectors: names in sentences (prompts.hpp) -> token ids -> the model's text tower, a batch at a
// time -> one vector of length 1 a class.
//   const auto classes = embed_classes(ctx, model, tokenizer, prompt_set("maskclip85"), {{"cat"}, {"dog", "puppy"}});
//   classes.vectors    // [2, E]
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <tessera/data/tokenizer.hpp>
#include <tessera/segmentation/prompts.hpp>

namespace tessera::segmentation {

/// What several names of one class become.
enum class SynonymRule : uint8_t {
  average,  ///< one vector a class: the mean of its names' vectors, brought to length 1
  best,     ///< one vector a name; where scores are compared, the best name speaks for its class (SCLIP)
};

/// What classes are compared by.
struct ClassEmbeddings {
  Tensor<float, 2> vectors;           ///< [rows, E], of length 1
  std::vector<int32_t> class_of_row;  ///< [rows]: 0, 1, … unless the rule is `best`
  int64_t texts = 0, shortened = 0;   ///< sentences encoded, and how many of them were longer than the context
};

/// What becomes of synonyms, and how many sentences are encoded at once.
struct EmbedOptions {
  SynonymRule synonyms = SynonymRule::average;
  int64_t batch = 64;  ///< sentences encoded at once
};

/// The model's vectors [texts, E], as its text tower gives them, of sentences. Longer ones than the model's context are
/// cut, their end token kept; `shortened` counts them. `Model` has context_length(), vocabulary_size() and
/// encode_text(ctx, ids [n, context]) -> Tensor<float, 2> [n, E]. Throws ValueError where the tokenizer is not the
/// model's.
template <class Model>
Tensor<float, 2> encode_texts(Context<Cpu>& ctx, const Model& model, const data::Tokenizer& tokenizer,
                              std::span<const std::string> texts, int64_t batch, int64_t& shortened) {
  require(!texts.empty() && batch > 0, "encode_texts: ", texts.size(), " texts in batches of ", batch);
  const int64_t length = model.context_length();
  require(tokenizer.vocabulary_size() <= model.vocabulary_size(), "the tokenizer has ", tokenizer.vocabulary_size(),
          " symbols, but the model's table of tokens only ", model.vocabulary_size(),
          " rows; name the tokenizer that belongs to the checkpoint");
  for (const std::string& text : texts) shortened += int64_t(tokenizer.encode(text).size()) + 2 > length;
  Tensor<float, 2> vectors;
  for (size_t begin = 0; begin < texts.size(); begin += size_t(batch)) {
    const auto part = texts.subspan(begin, std::min(size_t(batch), texts.size() - begin));
    const auto ids = tokenizer.tokenize(ctx, part, {.context_length = length, .truncate = true});
    const Tensor<float, 2> encoded = model.encode_text(ctx, ids);
    if (begin == 0) vectors = Tensor<float, 2>(ctx, {int64_t(texts.size()), encoded.shape[1]});
    std::copy_n(encoded.data, encoded.size(), vectors.data + int64_t(begin) * encoded.shape[1]);
  }
  return vectors;
}

/// One vector a class (or a name): `names[c]` holds the names of class c.
template <class Model>
ClassEmbeddings embed_classes(Context<Cpu>& ctx, const Model& model, const data::Tokenizer& tokenizer,
                              const PromptSet& prompts, const std::vector<std::vector<std::string>>& names,
                              const EmbedOptions& options = {}) {
  require(!names.empty(), "embed_classes: no classes");
  const PromptBatch batch = prompt_texts(prompts, names);
  ClassEmbeddings result;
  result.texts = int64_t(batch.texts.size());
  const auto encoded = encode_texts(ctx, model, tokenizer, batch.texts, options.batch, result.shortened);
  result.vectors = ensemble_prompts(ctx, encoded, batch, prompts.rule);
  result.class_of_row = batch.class_of_name;
  if (options.synonyms == SynonymRule::average) {
    result.vectors = average_synonyms(ctx, result.vectors, batch);
    result.class_of_row.resize(names.size());
    for (size_t c = 0; c < names.size(); ++c) result.class_of_row[c] = int32_t(c);
  }
  return result;
}

}  // namespace tessera::segmentation
