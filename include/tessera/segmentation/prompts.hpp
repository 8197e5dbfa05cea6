// Prompts: class names in sentences, and how the sentences' text vectors become one vector a class. Zero-shot accuracy
// depends on both; each published system has its own pair.
//   const PromptSet prompts = prompt_set("maskclip85");
//   const PromptBatch batch = prompt_texts(prompts, {{"cat"}, {"dog", "puppy"}});  // 3 names x 85 texts
//   // encode batch.texts -> embeddings [255, d]
//   auto vectors = ensemble_prompts(ctx, embeddings, batch, prompts.rule);         // [3, d]
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <tessera/core/tensor.hpp>
#include <tessera/io/files.hpp>
#include <tessera/io/json.hpp>
#include <tessera/segmentation/prompt_templates.hpp>

namespace tessera::segmentation {

/// How the vectors of one name's sentences become one vector of length 1.
///   normalise_each: each to length 1, mean, to length 1 (CLIP, MaskCLIP, SCLIP, PixelCLIP)
///   raw_mean: mean of the vectors as the encoder gives them, to length 1 (GroupViT, SegCLIP, TCL, MGCA)
enum class EnsembleRule { normalise_each, raw_mean };

/// Sentences with "{}" in the name's place, and how their vectors are averaged.
struct PromptSet {
  std::string name;
  EnsembleRule rule = EnsembleRule::normalise_each;
  std::vector<std::string> templates;
};

/// The set that programs use when none is named.
inline constexpr std::string_view default_prompt_set = "maskclip85";

/// Names of all known sets.
inline std::vector<std::string> prompt_set_names() {
  std::vector<std::string> names;
  for (const detail::KnownPromptSet& known : detail::known_prompt_sets) names.emplace_back(known.name);
  return names;
}

/// The set of this name; throws ValueError that lists all names where there is none.
inline PromptSet prompt_set(std::string_view name) {
  std::string all;
  for (const detail::KnownPromptSet& known : detail::known_prompt_sets) {
    if (known.name == name) {
      PromptSet set{
          std::string(name), known.normalise_each ? EnsembleRule::normalise_each : EnsembleRule::raw_mean, {}};
      set.templates.assign(known.templates.begin(), known.templates.end());
      set.templates.insert(set.templates.end(), known.more_templates.begin(), known.more_templates.end());
      return set;
    }
    all += (all.empty() ? "" : ", ") + std::string(known.name);
  }
  fail<ValueError>("no prompt set is called '", name, "'; there are ", all);
}

/// "{}" becomes the name, everywhere; "{article}" becomes "an" before a name that begins with a, e, i, o or u, else
/// "a". Throws ValueError for a template without "{}".
inline std::string fill(std::string_view prompt_template, std::string_view name) {
  constexpr std::string_view place = "{}", article_place = "{article}";
  require(prompt_template.find(place) != prompt_template.npos, "prompt template '", prompt_template,
          "' has no {} for the name");
  const bool vowel = !name.empty() && std::string_view("aeiouAEIOU").find(name.front()) != std::string_view::npos;
  std::string text;
  for (size_t at = 0; at < prompt_template.size();) {
    const std::string_view rest = prompt_template.substr(at);
    if (rest.starts_with(place)) {
      text += name;
      at += place.size();
    } else if (rest.starts_with(article_place)) {
      text += vowel ? "an" : "a";
      at += article_place.size();
    } else {
      text += rest.front();
      ++at;
    }
  }
  return text;
}

/// A set from a file: a template a line; or JSON, either an array of templates or {"templates": […], "rule":
/// "normalise_each" | "raw_mean"}. Throws IoError.
inline PromptSet prompt_set_from_file(const std::filesystem::path& path) {
  PromptSet set;
  set.name = path.stem().string();
  if (path.extension() == ".json") {
    const io::Json document = io::read_json(path);
    const io::JsonView root(document, path.string());
    if (root.is_object() && root.has("rule")) {
      const auto rule = root.get<std::string>("rule");
      require<IoError>(rule == "normalise_each" || rule == "raw_mean", path.string(), ": rule is '", rule,
                       "'; it must be normalise_each or raw_mean");
      set.rule = rule == "raw_mean" ? EnsembleRule::raw_mean : EnsembleRule::normalise_each;
    }
    const io::JsonView templates = root.is_object() ? root["templates"] : root;
    require<IoError>(templates.is_array(), templates.name(), " must be an array of templates");
    for (size_t i = 0; i < templates.size(); ++i) set.templates.push_back(templates[i].as<std::string>());
  } else {
    const std::string text = io::read_text(path, size_t(1) << 20);
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      std::string line = text.substr(begin, end - begin);
      while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
      if (!line.empty()) set.templates.push_back(std::move(line));
      begin = end + 1;
    }
  }
  require<IoError>(!set.templates.empty(), path.string(), ": holds no prompt templates");
  for (const std::string& one : set.templates)
    require<IoError>(one.find("{}") != one.npos, path.string(), ": the template '", one.substr(0, 80),
                     "' has no {} for the name");
  return set;
}

/// For command lines: the name of a set, or the path of a file.
inline PromptSet load_prompt_set(const std::string& name_or_path) {
  for (const detail::KnownPromptSet& known : detail::known_prompt_sets)
    if (known.name == name_or_path) return prompt_set(name_or_path);
  std::error_code error;
  if (std::filesystem::is_regular_file(name_or_path, error)) return prompt_set_from_file(name_or_path);
  const std::string all = [] {
    std::string names;
    for (const std::string& name : prompt_set_names()) names += (names.empty() ? "" : ", ") + name;
    return names;
  }();
  fail<ValueError>("'", name_or_path, "' is neither a file nor a prompt set; sets are ", all);
}

/// The texts of several classes, ready for the text encoder: text n * templates + t is template t with name n.
struct PromptBatch {
  std::vector<std::string> texts;
  int64_t names = 0, templates = 0, classes = 0;
  std::vector<int32_t> class_of_name;  ///< [names]
};

/// `class_names[c]` holds the name of class c and any synonyms. Throws ValueError for a class without a name.
inline PromptBatch prompt_texts(const PromptSet& set, const std::vector<std::vector<std::string>>& class_names) {
  require(!set.templates.empty(), "prompt_texts: the prompt set '", set.name, "' has no templates");
  PromptBatch batch;
  batch.templates = int64_t(set.templates.size());
  batch.classes = int64_t(class_names.size());
  for (size_t c = 0; c < class_names.size(); ++c) {
    require(!class_names[c].empty(), "prompt_texts: class ", c, " has no name");
    for (const std::string& name : class_names[c]) {
      for (const std::string& one : set.templates) batch.texts.push_back(fill(one, name));
      batch.class_of_name.push_back(int32_t(c));
    }
  }
  batch.names = int64_t(batch.class_of_name.size());
  return batch;
}

namespace detail {

/// To length 1; the zero vector stays.
inline void normalise(std::vector<double>& vector) {
  double square = 0;
  for (const double value : vector) square += value * value;
  const double factor = square > 0 ? 1 / std::sqrt(square) : 0;
  for (double& value : vector) value *= factor;
}

/// Writes the normalised mean of some rows of `rows` [n, d] to `to`; rows are summed in order, in double.
template <class Rows>
void normalised_mean(const TensorView<const float, 2>& rows, const Rows& chosen, bool normalise_each, float* to) {
  const auto width = size_t(rows.shape[1]);
  std::vector<double> sum(width, 0.0), row(width);
  for (const int64_t index : chosen) {
    for (size_t i = 0; i < width; ++i) row[i] = double(rows(index, i));
    if (normalise_each) normalise(row);
    for (size_t i = 0; i < width; ++i) sum[i] += row[i];
  }
  normalise(sum);
  for (size_t i = 0; i < width; ++i) to[i] = float(sum[i]);
}

}  // namespace detail

/// One vector of length 1 a name: [names, d] from the encoded texts of a batch, embeddings [names * templates, d].
inline Tensor<float, 2> ensemble_prompts(Context<Cpu>& ctx, In<float, 2, Cpu> embeddings, const PromptBatch& batch,
                                         EnsembleRule rule) {
  const Shape<2> expected{batch.names * batch.templates, embeddings.shape[1]};
  expect_shape("ensemble_prompts", "embeddings", embeddings.shape, expected, "names*templates d", "the batch");
  Tensor<float, 2> vectors(ctx, {batch.names, embeddings.shape[1]});
  std::vector<int64_t> rows(size_t(batch.templates));
  for (int64_t name = 0; name < batch.names; ++name) {
    for (int64_t t = 0; t < batch.templates; ++t) rows[size_t(t)] = name * batch.templates + t;
    detail::normalised_mean(embeddings, rows, rule == EnsembleRule::normalise_each, &vectors(name, 0));
  }
  return vectors;
}

/// One vector of length 1 a class: [classes, d], the mean of its names' vectors [names, d] brought to length 1.
/// (SCLIP keeps one vector a name and takes the best score instead: then use class_of_name on the scores.)
inline Tensor<float, 2> average_synonyms(Context<Cpu>& ctx, In<float, 2, Cpu> name_vectors, const PromptBatch& batch) {
  const Shape<2> expected{batch.names, name_vectors.shape[1]};
  expect_shape("average_synonyms", "name_vectors", name_vectors.shape, expected, "names d", "the batch");
  Tensor<float, 2> vectors(ctx, {batch.classes, name_vectors.shape[1]});
  std::vector<std::vector<int64_t>> names_of(size_t(batch.classes));
  for (size_t name = 0; name < batch.class_of_name.size(); ++name)
    names_of[size_t(batch.class_of_name[name])].push_back(int64_t(name));
  for (int64_t c = 0; c < batch.classes; ++c)
    detail::normalised_mean(name_vectors, names_of[size_t(c)], true, &vectors(c, 0));
  return vectors;
}

}  // namespace tessera::segmentation
