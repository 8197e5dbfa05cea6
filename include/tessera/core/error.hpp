// Errors are exceptions with one sentence that names the operation, the argument, the axis and the numbers.
// They are always on and are thrown before anything is written.
#pragma once
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

#include <tessera/core/config.hpp>

namespace tessera {

/// Base of everything that tessera throws.
struct Error : std::runtime_error {
  using runtime_error::runtime_error;
};
/// Extents, ranks or strides that do not fit together.
struct ShapeError : Error {
  using Error::Error;
};
/// An argument, option or label outside its range.
struct ValueError : Error {
  using Error::Error;
};
/// A file that cannot be read, is damaged, or cannot be written.
struct IoError : Error {
  using Error::Error;
};

namespace detail {
inline void append(std::string& to, std::string_view piece) { to += piece; }
inline void append(std::string& to, char piece) { to += piece; }
inline void append(std::string& to, std::integral auto piece) { to += std::to_string(piece); }
inline void append(std::string& to, std::floating_point auto piece) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%g", double(piece));
  to += digits;
}
}  // namespace detail

/// Joins words and numbers into one string: sentence("axis ", 2, " is ", 0.5).
template <class... Piece>
std::string sentence(const Piece&... pieces) {
  std::string text;
  (detail::append(text, pieces), ...);
  return text;
}

/// Throws E with the joined pieces as its message.
template <class E = Error, class... Piece>
[[noreturn]] void fail(const Piece&... pieces) {
  throw E(sentence(pieces...));
}

/// Throws E with the joined pieces unless `condition` holds.
template <class E = ValueError, class... Piece>
void require(bool condition, const Piece&... pieces) {
  if (!condition) [[unlikely]]
    fail<E>(pieces...);
}

}  // namespace tessera
