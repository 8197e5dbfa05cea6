// The nouns of English by WordNet 3.0 (Fellbaum, 1998), as its database files list them: index.noun, index.verb
// (words and their senses), verb.exc (irregular forms of verbs), cntlist.rev (how often each sense was met in a corpus
// tagged by hand). Debian's package wordnet-base installs them.
//
// Of "top", "set" or "sitting" WordNet knows nouns, too. A word counts as a noun where its noun senses were met more
// often than its other ones; where none was ever met, being listed as a noun is enough. What has a word of less than
// three letters in it ("a", "it" and "looking at" are nouns to WordNet) or an article, and names of single things
// ("Bangkok") do not count.
#pragma once
#include <algorithm>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <tessera/data/captions.hpp>
#include <tessera/io/files.hpp>

namespace tessera::data {

/// Where Debian's package puts WordNet.
inline constexpr const char* wordnet_folder = "/usr/share/wordnet";

namespace detail {

/// Calls f(words) for each line of a file of WordNet's; its licence, whose lines begin with a space, is skipped.
template <class F>
void for_each_wordnet_line(const std::filesystem::path& file, F&& f) {
  const std::string text = io::read_text(file);
  std::vector<std::string_view> words;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    if (line.empty() || line[0] == ' ') continue;
    words.clear();
    for (size_t at = 0; at < line.size();) {
      const size_t stop = std::min(line.find(' ', at), line.size());
      if (stop > at) words.push_back(line.substr(at, stop - at));
      at = stop + 1;
    }
    f(words);
  }
}

/// The whole number that a word is, or -1.
inline int64_t wordnet_number(std::string_view word) {
  int64_t number = -1;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  return error == std::errc{} && end == word.data() + word.size() && number >= 0 ? number : -1;
}

/// How often each word was met: as a noun, and as a verb, adjective or adverb.
struct WordnetCounts {
  struct Count {
    int64_t noun = 0, verb = 0, other = 0;
  };
  std::unordered_map<std::string, Count> of_word;

  // Lines "word%kind:…  number-of-sense  count"; kinds are 1 noun, 2 verb, 3 and 5 adjective, 4 adverb.
  explicit WordnetCounts(const std::filesystem::path& file) {
    for_each_wordnet_line(file, [&](const std::vector<std::string_view>& words) {
      const size_t percent = words[0].rfind('%');
      const int64_t times = words.size() == 3 ? wordnet_number(words[2]) : -1;
      const bool counted = times >= 0 && times < int64_t(1) << 31;  // so that no sum of a file's lines overflows
      require<IoError>(percent != std::string_view::npos && percent + 1 < words[0].size() && counted, file.string(),
                       ": a line is not 'sense, number, count'");
      Count& count = of_word[std::string(words[0].substr(0, percent))];
      const char kind = words[0][percent + 1];
      (kind == '1' ? count.noun : kind == '2' ? count.verb : count.other) += times;
    });
  }
  Count operator()(const std::string& word) const {
    const auto found = of_word.find(word);
    return found == of_word.end() ? Count{} : found->second;
  }
};

}  // namespace detail

/// The nouns that WordNet's files in `folder` know, of one word or several ("hot dog"), as NounFinder takes them.
/// Throws IoError where the files are not there or not WordNet's.
inline std::vector<std::string> wordnet_nouns(const std::filesystem::path& folder = wordnet_folder) {
  std::error_code ignored;
  require<IoError>(std::filesystem::exists(folder / "index.noun", ignored), "there is no WordNet in ", folder.string(),
                   " (index.noun); install the package wordnet-base, or name its folder as wordnet:FOLDER");
  const detail::WordnetCounts counts(folder / "cntlist.rev");
  std::set<std::string> verbs;
  detail::for_each_wordnet_line(folder / "index.verb", [&](const auto& words) { verbs.insert(std::string(words[0])); });
  std::unordered_map<std::string, std::string> irregular;  // "left" -> "leave"
  detail::for_each_wordnet_line(folder / "verb.exc", [&](const auto& words) {
    if (words.size() > 1) irregular[std::string(words[0])] = std::string(words[1]);
  });
  // How often a word was met as an irregular form of a verb, or as its -ing form: about a quarter of its occurrences.
  const auto met_as_form = [&](const std::string& word) -> int64_t {
    if (const auto found = irregular.find(word); found != irregular.end()) return counts(found->second).verb;
    if (word.size() < 6 || !word.ends_with("ing")) return 0;
    const std::string stem = word.substr(0, word.size() - 3);
    std::vector<std::string> possible{stem, stem + "e"};
    if (stem[stem.size() - 1] == stem[stem.size() - 2]) possible.push_back(stem.substr(0, stem.size() - 1));
    for (const std::string& verb : possible)
      if (verbs.contains(verb)) return counts(verb).verb / 4;
    return 0;
  };

  std::vector<std::string> nouns;
  std::set<std::string> seen;
  const std::filesystem::path index = folder / "index.noun";
  // Lines "word n senses pointers pointer… …"; "@" points to a kind, "@i" to what a single thing is one of.
  detail::for_each_wordnet_line(index, [&](const std::vector<std::string_view>& words) {
    const int64_t pointers = words.size() > 3 && words[1] == "n" ? detail::wordnet_number(words[3]) : -1;
    require<IoError>(pointers >= 0 && pointers <= int64_t(words.size()) - 4, index.string(),
                     ": a line is not one of WordNet's index of nouns");
    const auto points = [&](std::string_view symbol) {
      const auto first = words.begin() + 4, last = first + ptrdiff_t(pointers);
      return std::find(first, last, symbol) != last;
    };
    if (points("@i") && !points("@")) return;
    const std::string word(words[0]);
    const auto count = counts(word);
    const int64_t otherwise = count.verb + count.other + met_as_form(word);
    if (count.noun < otherwise || (count.noun == otherwise && otherwise > 0)) return;
    std::string noun;
    for (const std::string& part : caption_words(word)) {
      if (part.size() < 3 || part == "the") return;
      noun += (noun.empty() ? "" : " ") + part;
    }
    if (!noun.empty() && seen.insert(noun).second) nouns.push_back(noun);
  });
  require<IoError>(!nouns.empty(), index.string(), ": holds no nouns");
  return nouns;
}

}  // namespace tessera::data
