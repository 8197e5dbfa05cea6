// What happens to a caption before it is cut into tokens. CLIP's own tokenizer repairs text (the rules of the Python
// package ftfy), resolves HTML references twice, makes every run of spaces one space and lower-cases. Here those rules
// are followed one by one, except one: guessing which wrong encoding a broken text ("schÃ¶n") once went through.
#pragma once
#include <algorithm>
#include <cctype>
#include <cstdint>
#include <string>
#include <string_view>

#include <tessera/data/html_entities.hpp>
#include <tessera/data/unicode.hpp>

namespace tessera::data {

/// clip: all rules. hugging_face: composition, spaces, lower case and nothing else, as the `transformers` package
/// prepares text for the same vocabulary (curly quotes and HTML references then reach the model as they are).
enum class Cleaning { clip, hugging_face };

namespace detail {

/// What Windows-1252 has at 0x80…0x9F; five places are empty there and keep their control character.
inline char32_t from_windows_1252(char32_t code) {
  static constexpr char32_t table[32] = {0x20AC, 0x0081, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021,
                                         0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0x008D, 0x017D, 0x008F,
                                         0x0090, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                         0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x009D, 0x017E, 0x0178};
  return code >= 0x80 && code <= 0x9F ? table[code - 0x80] : code;
}

/// What a numeric reference such as "&#8217;" means in HTML; empty for numbers that name no character.
inline std::u32string numeric_entity(uint32_t number) {
  if (number == 0 || (number >= 0xD800 && number <= 0xDFFF) || number > 0x10FFFF) return {replacement_character};
  if (number == 0x0D || (number >= 0x80 && number <= 0x9F)) return {from_windows_1252(number)};
  const bool control = number <= 0x08 || number == 0x0B || (number >= 0x0E && number <= 0x1F) || number == 0x7F;
  const bool noncharacter = (number >= 0xFDD0 && number <= 0xFDEF) || (number & 0xFFFE) == 0xFFFE;
  if (control || noncharacter) return {};
  return {char32_t(number)};
}

/// The digits of a numeric reference from `at` (behind "&#"); moves `at` behind them. False where there are none.
inline bool read_entity_number(std::u32string_view text, size_t& at, uint32_t& number) {
  uint32_t base = 10;
  size_t digit = at;
  if (digit < text.size() && (text[digit] | 0x20) == 'x') {
    base = 16;
    ++digit;
  }
  const size_t first = digit;
  number = 0;
  for (; digit < text.size(); ++digit) {
    const char32_t c = text[digit];
    const char32_t lower = c < 0x80 ? c | 0x20 : c;
    uint32_t value = base;
    if (c >= '0' && c <= '9') value = c - '0';
    if (lower >= 'a' && lower <= 'f') value = lower - 'a' + 10;
    if (value >= base) break;
    if (number <= 0x10FFFF) number = number * base + value;
  }
  if (digit == first) return false;
  at = digit;
  return true;
}

inline void append_entity(std::u32string& to, const HtmlEntity& entity) {
  to += entity.first;
  if (entity.second) to += entity.second;
}

/// As browsers (and Python's html.unescape) read references: numbers with or without semicolon; names of up to 32
/// characters; of an unknown name, the longest beginning that is one of the old names ("&notit;" is "¬it;").
inline std::u32string unescape_html(std::u32string_view text) {
  std::u32string plain;
  plain.reserve(text.size());
  size_t at = 0;
  while (at < text.size()) {
    if (text[at] != '&') {
      plain += text[at++];
      continue;
    }
    size_t end = at + 1;
    uint32_t number = 0;
    if (end < text.size() && text[end] == '#') {
      ++end;
      if (!read_entity_number(text, end, number)) {
        plain += text[at++];
        continue;
      }
      if (end < text.size() && text[end] == ';') ++end;
      plain += numeric_entity(number);
      at = end;
      continue;
    }
    std::string name;  // ASCII only; a longer or other name matches by its beginning
    while (end < text.size() && end - at <= 32 && std::u32string_view(U"\t\n\f <&#;").find(text[end]) == text.npos)
      append_utf8(name, text[end++]);
    const bool semicolon = end < text.size() && text[end] == ';';
    const HtmlEntity* entity = find_html_entity(name);
    if (entity && (semicolon || entity->semicolon_optional)) {
      append_entity(plain, *entity);
      at = end + (semicolon ? 1 : 0);
      continue;
    }
    entity = nullptr;
    size_t length = name.size();
    while (length > 2 && !(entity && entity->semicolon_optional)) {
      --length;
      entity = find_html_entity(std::string_view(name).substr(0, length));
    }
    if (entity && entity->semicolon_optional) {
      append_entity(plain, *entity);
      at += 1 + length;  // old names are ASCII: bytes are code points
    } else {
      plain += text[at++];
    }
  }
  return plain;
}

/// The name of an entity written in capitals ("&EACUTE;"), where that is not a name of its own: its upper-case sign.
inline bool capital_entity(std::string_view name, std::u32string& sign) {
  std::string lower;
  for (const char c : name) {
    if (c >= 'a' && c <= 'z') return false;
    lower += c >= 'A' && c <= 'Z' ? char(c + 32) : c;
  }
  const HtmlEntity* entity = find_html_entity(lower);
  if (!entity) return false;
  for (size_t length = 2; length < name.size(); ++length) {  // "&LTIMES;" already reads as "<IMES;"
    const HtmlEntity* beginning = find_html_entity(name.substr(0, length));
    if (beginning && beginning->semicolon_optional) return false;
  }
  for (const char32_t code : {entity->first, entity->second}) {
    if (code == 0) continue;
    if (code == 0xDF) {
      sign += U"SS";
    } else {
      sign += char32_t(utf8proc_toupper(utf8proc_int32_t(code)));
    }
  }
  return true;
}

/// The cautious first pass: only complete references ending in a semicolon, and names in capitals.
inline std::u32string unescape_complete_html(std::u32string_view text) {
  if (text.find(U'&') == text.npos) return std::u32string(text);
  std::u32string plain;
  plain.reserve(text.size());
  size_t at = 0;
  while (at < text.size()) {
    size_t end = at + 1;
    const bool numeric = text[at] == '&' && end < text.size() && text[end] == '#';
    if (numeric) ++end;
    std::string name;
    while (text[at] == '&' && end < text.size() && name.size() < 25 && text[end] < 0x80 && std::isalnum(int(text[end])))
      name += char(text[end++]);
    const bool complete = !name.empty() && name.size() <= 24 && end < text.size() && text[end] == ';';
    std::u32string sign;
    bool known = false;
    if (complete && numeric) {
      size_t digits_end = at + 2;
      uint32_t number = 0;
      known = read_entity_number(text, digits_end, number) && digits_end == end;
      if (known) sign = numeric_entity(number);
      if (sign == U";") known = false;  // "&#59;" is left for the later passes
    } else if (complete) {
      if (const HtmlEntity* entity = find_html_entity(name)) {
        append_entity(sign, *entity);
        known = true;
      } else {
        known = capital_entity(name, sign);
      }
    }
    if (known) {
      plain += sign;
      at = end + 1;
    } else {
      plain += text[at++];
    }
  }
  return plain;
}

/// The letters of a Latin ligature or digraph sign, or null.
inline const char32_t* ligature_letters(char32_t code) {
  switch (code) {
    case 0x132:
      return U"IJ";
    case 0x133:
      return U"ij";
    case 0x149:
      return U"\u02BCn";
    case 0x1C4:
      return U"D\u017D";
    case 0x1C5:
      return U"D\u017E";
    case 0x1C6:
      return U"d\u017E";
    case 0x1C7:
      return U"LJ";
    case 0x1C8:
      return U"Lj";
    case 0x1C9:
      return U"lj";
    case 0x1CA:
      return U"NJ";
    case 0x1CB:
      return U"Nj";
    case 0x1CC:
      return U"nj";
    case 0x1F1:
      return U"DZ";
    case 0x1F2:
      return U"Dz";
    case 0x1F3:
      return U"dz";
    case 0xFB00:
      return U"ff";
    case 0xFB01:
      return U"fi";
    case 0xFB02:
      return U"fl";
    case 0xFB03:
      return U"ffi";
    case 0xFB04:
      return U"ffl";
    case 0xFB05:
      return U"\u017Ft";
    case 0xFB06:
      return U"st";
    default:
      return nullptr;
  }
}

/// Control characters that no caption means: most of ASCII's, deprecated and annotation signs, the byte order mark.
inline bool is_unwanted_control(char32_t code) {
  return code <= 0x08 || code == 0x0B || (code >= 0x0E && code <= 0x1F) || code == 0x7F ||
         (code >= 0x206A && code <= 0x206F) || code == 0xFEFF || (code >= 0xFFF9 && code <= 0xFFFC);
}

/// Removes terminal colour sequences: ESC [ digits and semicolons, one letter.
inline std::u32string remove_terminal_escapes(std::u32string text) {
  if (text.find(char32_t(0x1B)) == text.npos) return text;
  std::u32string kept;
  size_t at = 0;
  while (at < text.size()) {
    if (text[at] == 0x1B && at + 1 < text.size() && text[at + 1] == '[') {
      size_t end = at + 2;
      const auto is_parameter = [](char32_t c) {
        return c == ';' || utf8proc_category(utf8proc_int32_t(c)) == UTF8PROC_CATEGORY_ND;
      };
      while (end < text.size() && is_parameter(text[end])) ++end;
      if (end < text.size() && text[end] < 0x80 && std::isalpha(int(text[end]))) {
        at = end + 1;
        continue;
      }
    }
    kept += text[at++];
  }
  return kept;
}

/// One pass of the character rules over a line.
inline std::u32string repair_characters(std::u32string_view line) {
  std::u32string spelled;
  spelled.reserve(line.size());
  for (char32_t code : line) {
    code = from_windows_1252(code);
    if (const char32_t* letters = ligature_letters(code)) {
      spelled += letters;
    } else if (code == 0x3000) {
      spelled += U' ';
    } else if (code >= 0xFF01 && code <= 0xFFEF) {  // full-width and half-width forms
      spelled += compose_compatible({&code, 1});
    } else {
      spelled += code;
    }
  }
  for (char32_t& code : spelled) {
    if (code >= 0x201C && code <= 0x201F) code = '"';
    if (code == 0x2BC || (code >= 0x2018 && code <= 0x201B)) code = '\'';
    if (code == '\r' || code == 0x2028 || code == 0x2029 || code == 0x85) code = '\n';
  }
  spelled = remove_terminal_escapes(std::move(spelled));
  std::erase_if(spelled, is_unwanted_control);
  return compose(std::move(spelled));
}

/// Repairs a text line by line; each line until nothing changes (a full-width "＆ａｍｐ；" is a reference too). From
/// the first "<" on, the text is taken to be HTML source and references are left for the later passes.
inline std::u32string repair_text(std::u32string_view text) {
  std::u32string repaired;
  bool unescape = true;
  for (size_t begin = 0; begin < text.size();) {
    const size_t newline = text.find(U'\n', begin);
    const size_t end = newline == text.npos ? text.size() : newline + 1;
    std::u32string line(text.substr(begin, end - begin));
    if (line.find(U'<') != line.npos) unescape = false;
    while (true) {
      std::u32string next = repair_characters(unescape ? unescape_complete_html(line) : line);
      if (next == line) break;
      line = std::move(next);
    }
    repaired += line;
    begin = end;
  }
  return repaired;
}

/// One space between words, none at the ends.
inline std::u32string collapse_spaces(std::u32string_view text) {
  std::u32string collapsed;
  collapsed.reserve(text.size());
  for (const char32_t code : text) {
    if (!is_space(code)) {
      collapsed += code;
    } else if (!collapsed.empty() && collapsed.back() != ' ') {
      collapsed += U' ';
    }
  }
  if (!collapsed.empty() && collapsed.back() == ' ') collapsed.pop_back();
  return collapsed;
}

/// Captions are nearly always plain ASCII: then the rules reduce to spaces and lower case. False where they do not.
inline bool clean_plain_ascii(std::string_view text, std::string& cleaned) {
  cleaned.clear();
  cleaned.reserve(text.size());
  for (const char c : text) {
    const auto byte = uint8_t(c);
    if (byte >= 0x7F || c == '&' || (byte < ' ' && c != '\t' && c != '\n' && c != '\f' && c != '\r')) return false;
    if (byte <= ' ') {
      if (!cleaned.empty() && cleaned.back() != ' ') cleaned += ' ';
    } else {
      cleaned += c >= 'A' && c <= 'Z' ? char(c + 32) : c;
    }
  }
  if (!cleaned.empty() && cleaned.back() == ' ') cleaned.pop_back();
  return true;
}

}  // namespace detail

/// The text as the tokenizer cuts it. Bytes that are not UTF-8 count as U+FFFD.
inline std::string clean_text(std::string_view text, Cleaning cleaning = Cleaning::clip) {
  std::string cleaned;
  if (detail::clean_plain_ascii(text, cleaned)) return cleaned;
  std::u32string codes = to_code_points(text);
  const bool rules_of_clip = cleaning == Cleaning::clip;
  if (rules_of_clip) {
    codes = detail::repair_text(codes);
    codes = detail::unescape_html(detail::unescape_html(codes));
  } else {
    codes = compose(std::move(codes));
  }
  codes = lower_case(detail::collapse_spaces(codes), rules_of_clip);
  // CLIP's pattern ignores case, which makes the combining iota neither letter nor mark: it only separates.
  if (rules_of_clip) std::replace(codes.begin(), codes.end(), char32_t(0x345), U' ');
  return to_utf8(codes);
}

}  // namespace tessera::data
