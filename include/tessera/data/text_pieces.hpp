// How CLIP cuts clean text into the pieces that byte-pair encoding works on: English contractions, runs of letters,
// single numerals, runs of other signs. Spaces only separate.
#pragma once
#include <string_view>

#include <tessera/data/unicode.hpp>

namespace tessera::data {

namespace detail {

/// The length in bytes of a contraction ('s 't 're 've 'm 'll 'd) at `at`, or 0. The long s (U+017F) counts as s: it is
/// the one other letter that equals an ASCII letter of these when case is ignored.
inline size_t contraction_length(std::string_view text, size_t at) {
  constexpr std::string_view contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'\u017F"};
  for (const std::string_view contraction : contractions)
    if (text.substr(at, contraction.size()) == contraction) return contraction.size();
  return 0;
}

}  // namespace detail

/// Calls use(piece) for every piece of `text` (clean: lower case, UTF-8), in order. `start` and `end`, the names of the
/// special tokens, are pieces of their own.
template <class Use>
void for_each_piece(std::string_view text, std::string_view start, std::string_view end, Use use) {
  size_t at = 0;
  while (at < text.size()) {
    size_t length = 0;
    for (const std::string_view special : {start, end})
      if (length == 0 && !special.empty() && text.substr(at, special.size()) == special) length = special.size();
    if (length == 0) length = detail::contraction_length(text, at);
    if (length == 0) {
      size_t behind = at;
      const CharacterClass first = character_class(next_code_point(text, behind));
      if (first == CharacterClass::space) {
        at = behind;
        continue;
      }
      length = behind - at;
      while (first != CharacterClass::numeral && behind < text.size()) {
        if (character_class(next_code_point(text, behind)) != first) break;
        length = behind - at;
      }
    }
    use(text.substr(at, length));
    at += length;
  }
}

}  // namespace tessera::data
