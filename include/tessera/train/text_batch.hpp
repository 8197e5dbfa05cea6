// The texts of a training batch: each image's caption and a prompt for every noun that is found in it. Labels are never
// looked at; all that is known of a picture comes from its caption.
#pragma once
#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <tessera/core/random.hpp>
#include <tessera/core/tensor.hpp>
#include <tessera/data/captions.hpp>
#include <tessera/data/draws.hpp>

namespace tessera::train {

/// K texts for B images. A text that stands several times is encoded once.
struct TextBatch {
  std::vector<std::string> captions;  ///< distinct
  std::vector<std::string> prompts;   ///< distinct; row captions.size() + i of the encoded texts is prompts[i]
  Tensor<int32_t, 1> rows;            ///< [K]: each text's row among captions and prompts
  Tensor<int32_t, 1> owner;           ///< [K]: the image that each text belongs to
  /// [B, K]: 1 where text j belongs to another image but all its nouns stand in image i's caption: it may well be true
  /// of image i, so the pair is no negative.
  Tensor<uint8_t, 2> excluded;
};

/// Which texts a batch gets beside its captions.
struct TextBatchOptions {
  int most_nouns = 4;                      ///< prompts per image; of more nouns a random choice
  bool exclude_implied = true;             ///< fill `excluded`; otherwise it is zero
  std::function<std::string(int)> prompt;  ///< the prompt of a noun, by its number in the finder's list
};

namespace detail {

/// [B, K]: 1 where text k belongs to another image than i (owner[k] != i) but has nouns, all of which are image i's.
inline Tensor<uint8_t, 2> implied_texts(Context<Cpu>& ctx, std::vector<std::vector<int>> image_nouns,
                                        const std::vector<std::vector<int>>& text_nouns,
                                        const std::vector<int32_t>& owner) {
  const int64_t images = int64_t(image_nouns.size()), texts = int64_t(text_nouns.size());
  auto implied = Tensor<uint8_t, 2>::zeros(ctx, {images, texts});
  for (int64_t i = 0; i < images; ++i) {
    std::vector<int>& known = image_nouns[size_t(i)];
    std::sort(known.begin(), known.end());
    for (int64_t k = 0; k < texts; ++k) {
      if (owner[size_t(k)] == i) continue;
      const auto& nouns = text_nouns[size_t(k)];
      const bool all_known = !nouns.empty() && std::all_of(nouns.begin(), nouns.end(), [&](int noun) {
        return std::binary_search(known.begin(), known.end(), noun);
      });
      implied(i, k) = all_known ? 1 : 0;
    }
  }
  return implied;
}

}  // namespace detail

/// `random` chooses among an image's nouns where there are more than most_nouns.
inline TextBatch make_text_batch(Context<Cpu>& ctx, const std::vector<std::string>& captions,
                                 const data::NounFinder& finder, const TextBatchOptions& options,
                                 const RandomStream& random) {
  TextBatch batch;
  std::map<std::string, int32_t> caption_rows, prompt_rows;
  std::vector<int32_t> rows, owner;
  std::vector<std::vector<int>> image_nouns, text_nouns;
  std::vector<uint8_t> is_prompt;
  const auto add = [&](const std::string& text, bool prompt, size_t image, std::vector<int> nouns) {
    auto& known = prompt ? prompt_rows : caption_rows;
    auto& list = prompt ? batch.prompts : batch.captions;
    const auto [at, fresh] = known.try_emplace(text, int32_t(list.size()));
    if (fresh) list.push_back(text);
    rows.push_back(at->second);
    is_prompt.push_back(prompt);
    owner.push_back(int32_t(image));
    text_nouns.push_back(std::move(nouns));
  };
  data::Draws draws(random);
  for (size_t image = 0; image < captions.size(); ++image) {
    std::vector<int> nouns = finder.find(captions[image]);
    image_nouns.push_back(nouns);
    add(captions[image], false, image, nouns);
    if (int(nouns.size()) > options.most_nouns) {
      draws.shuffle(nouns);
      nouns.resize(size_t(options.most_nouns));
    }
    for (int noun : nouns) add(options.prompt(noun), true, image, {noun});
  }
  for (size_t k = 0; k < rows.size(); ++k)
    if (is_prompt[k]) rows[k] += int32_t(batch.captions.size());
  const int64_t images = int64_t(captions.size()), texts = int64_t(rows.size());
  batch.rows = Tensor<int32_t, 1>::from_host(ctx, {texts}, rows);
  batch.owner = Tensor<int32_t, 1>::from_host(ctx, {texts}, owner);
  batch.excluded = options.exclude_implied ? detail::implied_texts(ctx, std::move(image_nouns), text_nouns, owner)
                                           : Tensor<uint8_t, 2>::zeros(ctx, {images, texts});
  return batch;
}

/// One text for each image.
struct DrawnTexts {
  std::vector<std::string> texts;  ///< [B]
  Tensor<int32_t, 1> owner;        ///< [B]: 0, 1, …
  Tensor<uint8_t, 2> excluded;     ///< [B, B], as in TextBatch; a text that is image i's own too is no negative of it
};

/// PACL's augmentation of texts: for each image one of its caption and its nouns, each as likely as the others; a noun
/// is asked for by one of `templates`, drawn anew, as prompt(noun, number of the template). `finder` may be null: then
/// the captions are taken as they are.
inline DrawnTexts draw_texts(Context<Cpu>& ctx, const std::vector<std::string>& captions,
                             const data::NounFinder* finder, int templates,
                             const std::function<std::string(int noun, int number)>& prompt, bool exclude_implied,
                             const RandomStream& random) {
  DrawnTexts drawn;
  std::vector<int32_t> owner;
  std::vector<std::vector<int>> image_nouns, text_nouns;
  data::Draws draws(random);
  for (size_t image = 0; image < captions.size(); ++image) {
    const std::vector<int> nouns = finder ? finder->find(captions[image]) : std::vector<int>{};
    const int choice = draws.below(1 + int(nouns.size())), number = draws.below(templates);
    image_nouns.push_back(nouns);
    owner.push_back(int32_t(image));
    text_nouns.push_back(choice == 0 ? nouns : std::vector<int>{nouns[size_t(choice - 1)]});
    drawn.texts.push_back(choice == 0 ? captions[image] : prompt(text_nouns.back().front(), number));
  }
  const int64_t images = int64_t(captions.size());
  drawn.owner = Tensor<int32_t, 1>::from_host(ctx, {images}, owner);
  drawn.excluded = exclude_implied ? detail::implied_texts(ctx, std::move(image_nouns), text_nouns, owner)
                                   : Tensor<uint8_t, 2>::zeros(ctx, {images, images});
  for (int64_t i = 0; exclude_implied && i < images; ++i)
    for (int64_t k = 0; k < images; ++k)
      if (i != k && drawn.texts[size_t(i)] == drawn.texts[size_t(k)]) drawn.excluded(i, k) = 1;
  return drawn;
}

}  // namespace tessera::train
