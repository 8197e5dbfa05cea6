// Seeded mutations of bytes, for tests that feed damaged files to readers. A failure is reproduced by its number.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <tessera/core/random.hpp>

namespace tessera_test {

/// A stream of random choices that depends on the seed alone.
class Choices {
 public:
  explicit Choices(uint64_t seed) : stream_{seed, 0, 0} {}
  /// In [0, n).
  size_t below(size_t n) { return size_t(stream_.below(next_++, uint32_t(n))); }
  bool one_in(size_t n) { return below(n) == 0; }
  template <class T>
  const T& of(const std::vector<T>& values) {
    return values[below(values.size())];
  }

 private:
  tessera::RandomStream stream_;
  uint64_t next_ = 0;
};

/// One to four changes: a bit, a byte, a number at a boundary, a piece removed, doubled, moved or overwritten, the end
/// cut.
inline std::string mutate_bytes(std::string bytes, Choices& choices) {
  for (size_t changes = choices.one_in(2) ? 1 : 1 + choices.below(4); changes > 0 && !bytes.empty(); --changes) {
    const size_t at = choices.below(bytes.size());
    const size_t length = 1 + choices.below(std::min<size_t>(bytes.size() - at, 64));
    switch (choices.below(8)) {
      case 0:
        bytes[at] = char(bytes[at] ^ (1 << choices.below(8)));
        break;
      case 1:
        bytes[at] = char(choices.below(256));
        break;
      case 2: {
        static const std::vector<int> boundaries = {0, 1, 0x7f, 0x80, 0xff};
        const char value = char(choices.of(boundaries));
        for (size_t i = at; i < std::min(at + (size_t(1) << choices.below(4)), bytes.size()); ++i) bytes[i] = value;
        break;
      }
      case 3:
        bytes.erase(at, length);
        break;
      case 4:
        bytes.insert(choices.below(bytes.size()), bytes.substr(at, length));
        break;
      case 5:
        bytes.replace(choices.below(bytes.size()), length, bytes.substr(at, length));
        break;
      case 6:
        bytes.insert(at, length, char(choices.below(256)));
        break;
      case 7:
        bytes.resize(at);
        break;
    }
  }
  return bytes;
}

/// Changes in text of the kind of JSON: a number replaced by one at a boundary, a token replaced, removed or doubled.
inline std::string mutate_json(std::string text, Choices& choices) {
  static const std::vector<std::string> tokens = {"0",
                                                  "-1",
                                                  "1",
                                                  "2147483648",
                                                  "4294967296",
                                                  "9223372036854775807",
                                                  "9223372036854775808",
                                                  "18446744073709551615",
                                                  "18446744073709551616",
                                                  "1e999",
                                                  "0.5",
                                                  "-0",
                                                  "null",
                                                  "true",
                                                  "\"\"",
                                                  "\"a\"",
                                                  "\"\\u0000\"",
                                                  "\"\\ud800\"",
                                                  "{}",
                                                  "[]",
                                                  "[[[[",
                                                  "}",
                                                  "]",
                                                  "{",
                                                  "\"",
                                                  ",",
                                                  ":",
                                                  "\\",
                                                  " ",
                                                  "[0,0]",
                                                  "\xff",
                                                  "\"\xc3\xbc\""};
  const auto is_word = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' ||
           c == '-' || c == '+';
  };
  for (size_t changes = choices.one_in(2) ? 1 : 1 + choices.below(3); changes > 0 && !text.empty(); --changes) {
    // The token around a random place: a word or a single sign.
    size_t begin = choices.below(text.size()), end = begin + 1;
    if (is_word(text[begin])) {
      while (begin > 0 && is_word(text[begin - 1])) --begin;
      while (end < text.size() && is_word(text[end])) ++end;
    }
    switch (choices.below(4)) {
      case 0:
        text.replace(begin, end - begin, choices.of(tokens));
        break;
      case 1:
        text.erase(begin, end - begin);
        break;
      case 2:
        text.insert(begin, text.substr(begin, end - begin));
        break;
      case 3:
        text.insert(begin, choices.of(tokens));
        break;
    }
  }
  return text;
}

}  // namespace tessera_test
