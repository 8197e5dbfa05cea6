// What the trainers of captioned pictures share: where the pictures come from, the vocabulary, the model folder.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <tessera/data/captions.hpp>
#include <tessera/data/scene_source.hpp>
#include <tessera/data/shards.hpp>
#include <tessera/data/tokenizer.hpp>
#include <tessera/data/wordnet.hpp>
#include <tessera/nn/text_transformer.hpp>
#include <tessera/segmentation/prompts.hpp>
#include <tessera/train/text_batch.hpp>

namespace tessera::train {

/// A data set for training: pictures with captions, and the nouns that are looked for in the captions.
struct CaptionedData {
  std::shared_ptr<const data::CaptionSource> source;
  std::vector<std::string> nouns;  ///< empty where none were given
};

/// Those nouns of a list that stand in the captions, in the list's order.
inline std::vector<std::string> nouns_in_captions(const data::CaptionSource& source,
                                                  const std::vector<std::string>& list) {
  const data::NounFinder finder(list, true);
  std::vector<char> stands(list.size(), 0);
  for (int64_t i = 0; i < source.size(); ++i)
    for (const int noun : finder.find(source.caption(i))) stands[size_t(noun)] = 1;
  std::vector<std::string> nouns;
  for (size_t n = 0; n < list.size(); ++n)
    if (stands[n]) nouns.push_back(list[n]);
  return nouns;
}

/// The nouns of a file; of WordNet ("wordnet", "wordnet:FOLDER") those that stand in the captions. Throws IoError where
/// none of them does.
inline std::vector<std::string> named_nouns(const data::CaptionSource& source, const std::string& name) {
  const auto require_some = [&](bool some) {
    require<IoError>(some, "none of the nouns of ", name, " stands in a caption of the data set (are the captions of ",
                     "another language?)");
  };
  const bool elsewhere = name.starts_with("wordnet:");
  if (name != "wordnet" && !elsewhere) {
    const auto list = data::NounFinder::from_file(name).nouns();
    const data::NounFinder finder(list, true);
    int64_t i = 0;
    while (i < source.size() && finder.find(source.caption(i)).empty()) ++i;
    require_some(i < source.size());
    return list;
  }
  const auto nouns = nouns_in_captions(source, elsewhere ? data::wordnet_nouns(name.substr(8)) : data::wordnet_nouns());
  require_some(!nouns.empty());
  return nouns;
}

/// "scenes:classic" or "scenes:rich" (rendered as training goes; `count` scenes), a folder of tar shards, one shard, or
/// a table of path<TAB>caption. `noun_file`, as in named_nouns, may be empty: scenes know their nouns, a folder of
/// shards may hold nouns.txt.
inline CaptionedData open_captioned_data(const std::string& name, const std::string& noun_file, int scene_size,
                                         int64_t scene_count, uint64_t scene_seed) {
  CaptionedData found;
  if (name.starts_with("scenes:")) {
    const std::string set = name.substr(7);
    const auto renderer =
        std::make_shared<data::SceneRenderer>(data::scene_set(set), data::Split::train,
                                              data::SceneOptions{.size = scene_size, .seed = scene_seed, .font = {}});
    found.source = std::make_shared<data::SceneSource>(renderer, scene_count);
    found.nouns = renderer->set().names();
  } else {
    found.source = data::open_captions(name);
    const std::filesystem::path beside = std::filesystem::path(name) / "nouns.txt";
    std::error_code ignored;
    if (noun_file.empty() && std::filesystem::exists(beside, ignored))
      found.nouns = data::NounFinder::from_file(beside.string()).nouns();
  }
  if (!noun_file.empty()) found.nouns = named_nouns(*found.source, noun_file);
  return found;
}

/// A vocabulary learned from at most `most` captions, evenly spread, and from the nouns' prompts.
inline data::Tokenizer learn_vocabulary(const data::CaptionSource& source, const std::vector<std::string>& prompts,
                                        int64_t size, int64_t context_length, int64_t most = 20000) {
  std::vector<std::string> texts = prompts;
  const int64_t stride = std::max<int64_t>(1, source.size() / most);
  for (int64_t i = 0; i < source.size(); i += stride) texts.push_back(source.caption(i));
  data::LearningOptions options;
  options.context_length = context_length;
  return data::Tokenizer::learn(texts, size, options);
}

/// Token ids for training: captions longer than the context are cut.
inline Tensor<int32_t, 2> tokenize(Context<Cpu>& ctx, const data::Tokenizer& tokenizer,
                                   const std::vector<std::string>& texts) {
  return tokenizer.tokenize(ctx, texts, {.context_length = 0, .truncate = true});
}

/// Embeddings [K, E] of a batch's texts, in the order of the batch; equal texts are encoded once. encode(tape, input)
/// gives the embeddings of an nn::TextInput.
template <class Device, class Encode>
auto embed_texts(Tape<Device>& tape, Context<Cpu>& host, Staging<Device>& stage, const data::Tokenizer& tokenizer,
                 const TextBatch& texts, Encode&& encode) {
  const auto embed = [&](const std::vector<std::string>& some) {
    const auto input = nn::text_input(host, tokenize(host, tokenizer, some), tokenizer.end_of_text());
    return encode(tape, nn::on_device(tape.ctx, stage, input));
  };
  auto distinct = embed(texts.captions);  // apart from the prompts, which are shorter
  if (!texts.prompts.empty()) distinct = concatenate(tape, 0, distinct, embed(texts.prompts));
  return embedding(tape, distinct, stage(tape.ctx, texts.rows));
}

}  // namespace tessera::train
