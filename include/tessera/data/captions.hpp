// Nouns in captions: which words of a list occur in a text. Training takes its words from captions by this, never from
// label maps.
#pragma once
#include <algorithm>
#include <cstddef>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <tessera/core/error.hpp>

namespace tessera::data {

/// Splits a text into lower-case words (ASCII letters are lowered; digits, letters and bytes above 127 make words; an
/// apostrophe ends one, so "dog's" holds "dog").
inline std::vector<std::string> caption_words(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  const auto close = [&] {
    if (!word.empty()) words.push_back(std::move(word));
    word.clear();
  };
  for (const char byte : text) {
    const auto c = static_cast<unsigned char>(byte);
    if (c >= 'A' && c <= 'Z')
      word += char(c - 'A' + 'a');
    else if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c >= 128)
      word += byte;
    else
      close();
  }
  close();
  return words;
}

/// The singular forms that an English plural may stand for, by its ending: "cities" -> "city", "boxes" -> "box",
/// "boxe".
inline std::vector<std::string> singular_forms(const std::string& word) {
  static const std::map<std::string, std::string> irregular{
      {"men", "man"},     {"women", "woman"}, {"people", "person"}, {"children", "child"}, {"mice", "mouse"},
      {"geese", "goose"}, {"feet", "foot"},   {"teeth", "tooth"},   {"oxen", "ox"},
  };
  if (const auto found = irregular.find(word); found != irregular.end()) return {found->second};
  const auto ends = [&](std::string_view ending) {
    return word.size() > ending.size() + 1 && std::string_view(word).substr(word.size() - ending.size()) == ending;
  };
  const auto without = [&](size_t letters) { return word.substr(0, word.size() - letters); };
  std::vector<std::string> forms;
  if (ends("ies")) forms.push_back(without(3) + "y");
  if (ends("ves")) {
    forms.push_back(without(3) + "f");
    forms.push_back(without(3) + "fe");
  }
  if (ends("es")) forms.push_back(without(2));
  if (ends("s") && !ends("ss")) forms.push_back(without(1));
  return forms;
}

/// A noun found in a caption.
struct NounMatch {
  int noun;         ///< index into the finder's list
  size_t position;  ///< of its first word among caption_words(caption)
};

/// Finds the nouns of a list in captions: whole words, longest match first ("hot dog" hides "dog"), each place once.
class NounFinder {
 public:
  /// `nouns` may have several words each. With `plurals`, the last word may also stand in the plural. Throws ValueError
  /// for a noun without letters or one given twice.
  explicit NounFinder(std::vector<std::string> nouns, bool plurals = false)
      : nouns_(std::move(nouns)), plurals_(plurals) {
    require(!nouns_.empty(), "NounFinder: the list of nouns is empty");
    for (size_t i = 0; i < nouns_.size(); ++i) {
      const auto words = caption_words(nouns_[i]);
      require(!words.empty(), "NounFinder: noun ", i + 1, ", \"", nouns_[i], "\", has no letters");
      const bool fresh = index_.emplace(joined(words, 0, words.size()), int(i)).second;
      require(fresh, "NounFinder: \"", nouns_[i], "\" occurs twice in the list of nouns");
      longest_ = std::max(longest_, words.size());
    }
  }

  /// One noun a line; empty lines and lines that begin with '#' are skipped. Throws IoError when the file cannot be
  /// read.
  static NounFinder from_file(const std::string& path, bool plurals = false) {
    std::ifstream file(path);
    require<IoError>(bool(file), path, ": cannot be opened; it should hold one noun a line");
    std::vector<std::string> nouns;
    std::string line;
    while (std::getline(file, line)) {
      require<IoError>(line.size() <= 4096, path, ": line ", nouns.size() + 1,
                       " is longer than 4096 bytes; one noun a line is expected");
      while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) line.pop_back();
      if (!line.empty() && line[0] != '#') nouns.push_back(line);
    }
    require<IoError>(!nouns.empty(), path, ": holds no nouns; one a line is expected");
    return NounFinder(std::move(nouns), plurals);
  }

  const std::vector<std::string>& nouns() const { return nouns_; }

  /// All matches from left to right.
  std::vector<NounMatch> matches(std::string_view caption) const {
    const auto words = caption_words(caption);
    std::vector<NounMatch> found;
    for (size_t at = 0; at < words.size();) {
      size_t taken = 0;
      for (size_t length = std::min(longest_, words.size() - at); length > 0 && taken == 0; --length)
        if (const auto noun = lookup(words, at, length)) {
          found.push_back({*noun, at});
          taken = length;
        }
      at += std::max<size_t>(taken, 1);
    }
    return found;
  }

  /// The different nouns of a caption in order of their first appearance.
  std::vector<int> find(std::string_view caption) const {
    std::vector<int> found;
    std::set<int> seen;
    for (const NounMatch& match : matches(caption))
      if (seen.insert(match.noun).second) found.push_back(match.noun);
    return found;
  }

 private:
  static std::string joined(const std::vector<std::string>& words, size_t at, size_t length) {
    std::string text = words[at];
    for (size_t i = 1; i < length; ++i) text += ' ' + words[at + i];
    return text;
  }

  std::optional<int> lookup(const std::vector<std::string>& words, size_t at, size_t length) const {
    const std::string text = joined(words, at, length);
    if (const auto found = index_.find(text); found != index_.end()) return found->second;
    if (!plurals_) return std::nullopt;
    const std::string& last = words[at + length - 1];
    const std::string before = text.substr(0, text.size() - last.size());
    for (const std::string& form : singular_forms(last))
      if (const auto found = index_.find(before + form); found != index_.end()) return found->second;
    return std::nullopt;
  }

  std::vector<std::string> nouns_;
  bool plurals_;
  std::map<std::string, int> index_;  // words joined by one space -> noun
  size_t longest_ = 0;
};

/// "dog" -> "a dog", "apple" -> "an apple".
inline std::string with_article(std::string_view noun) {
  const bool vowel = !noun.empty() && std::string_view("aeiou").find(noun[0]) != std::string_view::npos;
  return (vowel ? "an " : "a ") + std::string(noun);
}

}  // namespace tessera::data
