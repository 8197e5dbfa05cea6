// Unicode text: UTF-8 to code points and back, classes, lower case and composition (NFC). Tables by utf8proc.
#pragma once
#include <utf8proc.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include <tessera/core/error.hpp>

namespace tessera::data {

/// What stands for bytes that are not UTF-8.
inline constexpr char32_t replacement_character = 0xFFFD;

/// Reads one code point of `text` at `at` and moves `at` behind it. Bytes that are not UTF-8 give U+FFFD, one for each
/// longest beginning of a well-formed sequence (the rule of the Unicode standard, and of browsers).
inline char32_t next_code_point(std::string_view text, size_t& at) {
  const auto lead = uint8_t(text[at++]);
  if (lead < 0x80) return lead;
  int following = 0;
  uint8_t low = 0x80, high = 0xBF;  // what the second byte may be: keeps out overlong forms and surrogates
  char32_t code = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    following = 1;
    code = lead & 0x1Fu;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    following = 2;
    code = lead & 0x0Fu;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    following = 3;
    code = lead & 0x07u;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return replacement_character;
  }
  for (int i = 0; i < following; ++i) {
    if (at >= text.size()) return replacement_character;
    const auto byte = uint8_t(text[at]);
    if (byte < low || byte > high) return replacement_character;
    code = code << 6 | (byte & 0x3Fu);
    low = 0x80;
    high = 0xBF;
    ++at;
  }
  return code;
}

/// Appends a code point in UTF-8.
inline void append_utf8(std::string& to, char32_t code) {
  if (code < 0x80) {
    to += char(code);
  } else if (code < 0x800) {
    to += char(0xC0 | code >> 6);
    to += char(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    to += char(0xE0 | code >> 12);
    to += char(0x80 | (code >> 6 & 0x3F));
    to += char(0x80 | (code & 0x3F));
  } else {
    to += char(0xF0 | code >> 18);
    to += char(0x80 | (code >> 12 & 0x3F));
    to += char(0x80 | (code >> 6 & 0x3F));
    to += char(0x80 | (code & 0x3F));
  }
}

/// Bytes that are not UTF-8 become U+FFFD.
inline std::u32string to_code_points(std::string_view text) {
  std::u32string codes;
  codes.reserve(text.size());
  for (size_t at = 0; at < text.size();) codes += next_code_point(text, at);
  return codes;
}

/// The inverse of to_code_points.
inline std::string to_utf8(std::u32string_view codes) {
  std::string text;
  text.reserve(codes.size());
  for (const char32_t code : codes) append_utf8(text, code);
  return text;
}

/// Letters are the categories L*, numerals N*; spaces are those of the property White_Space; all else is a mark.
enum class CharacterClass : uint8_t { space, letter, numeral, mark };

/// Unicode's White_Space.
inline bool is_space(char32_t code) {
  if (code < 0x80) return code == ' ' || (code >= '\t' && code <= '\r');
  return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
         code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

/// By Unicode's general category.
inline CharacterClass character_class(char32_t code) {
  if (is_space(code)) return CharacterClass::space;
  if (code < 0x80) {
    if ((code | 0x20) >= 'a' && (code | 0x20) <= 'z') return CharacterClass::letter;
    return code >= '0' && code <= '9' ? CharacterClass::numeral : CharacterClass::mark;
  }
  switch (utf8proc_category(utf8proc_int32_t(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharacterClass::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharacterClass::numeral;
    default:
      return CharacterClass::mark;
  }
}

namespace detail {

inline std::u32string map_by_utf8proc(std::u32string_view codes, int options) {
  const std::string text = to_utf8(codes);
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             utf8proc_ssize_t(text.size()), &mapped, utf8proc_option_t(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
  require(size >= 0, "normalisation of a text of ", text.size(), " bytes: ", utf8proc_errmsg(size));
  return to_code_points({reinterpret_cast<const char*>(mapped), size_t(size)});
}

/// Whether the letter rules of Final_Sigma look through this character (property Case_Ignorable).
inline bool is_case_ignorable(char32_t code) {
  switch (code) {
    case '\'':
    case '.':
    case ':':
    case 0xB7:
    case 0x387:
    case 0x55F:
    case 0x5F4:
    case 0x2018:
    case 0x2019:
    case 0x2024:
    case 0x2027:
    case 0xFE13:
    case 0xFE52:
    case 0xFE55:
    case 0xFF07:
    case 0xFF0E:
    case 0xFF1A:
      return true;
    default:
      break;
  }
  switch (utf8proc_category(utf8proc_int32_t(code))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return false;
  }
}

/// Property Cased: letters with case, and the few letter-like signs that have it too.
inline bool is_cased(char32_t code) {
  switch (utf8proc_category(utf8proc_int32_t(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
      return true;
    default:
      break;
  }
  return code == 0xAA || code == 0xBA || (code >= 0x2160 && code <= 0x217F) || (code >= 0x24B6 && code <= 0x24E9) ||
         (code >= 0x1F130 && code <= 0x1F149) || (code >= 0x1F150 && code <= 0x1F169) ||
         (code >= 0x1F170 && code <= 0x1F189);
}

/// Whether the capital sigma at `at` ends a word.
inline bool is_final_sigma(std::u32string_view codes, size_t at) {
  size_t before = at;
  while (before > 0 && is_case_ignorable(codes[before - 1])) --before;
  if (before == 0 || !is_cased(codes[before - 1])) return false;
  size_t after = at + 1;
  while (after < codes.size() && is_case_ignorable(codes[after])) ++after;
  return after == codes.size() || !is_cased(codes[after]);
}

}  // namespace detail

/// Canonical composition (NFC).
inline std::u32string compose(std::u32string codes) {
  bool composed_already = true;  // nothing below U+0300 combines
  for (const char32_t code : codes) composed_already = composed_already && code < 0x300;
  return composed_already ? codes : detail::map_by_utf8proc(codes, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
}

/// Compatibility composition (NFKC).
inline std::u32string compose_compatible(std::u32string_view codes) {
  return detail::map_by_utf8proc(codes, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
}

/// Lower case by Unicode's rules: U+0130 becomes two code points, and with `final_sigma` a capital sigma at the end of
/// a word becomes U+03C2 (as Python's str.lower does, and Hugging Face's tokenizers do not).
inline std::u32string lower_case(std::u32string_view codes, bool final_sigma) {
  std::u32string lower;
  lower.reserve(codes.size());
  for (size_t at = 0; at < codes.size(); ++at) {
    const char32_t code = codes[at];
    if (code < 0x80) {
      lower += code >= 'A' && code <= 'Z' ? code + 32 : code;
    } else if (code == 0x130) {
      lower += U"i\u0307";
    } else if (code == 0x3A3 && final_sigma && detail::is_final_sigma(codes, at)) {
      lower += U'\u03C2';
    } else {
      lower += char32_t(utf8proc_tolower(utf8proc_int32_t(code)));
    }
  }
  return lower;
}

}  // namespace tessera::data
