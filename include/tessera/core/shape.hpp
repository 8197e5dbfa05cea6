// Extents and strides of static rank, and the checks that turn a mismatch into a sentence with named axes.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <tessera/core/error.hpp>

namespace tessera {

template <int Rank>
using Shape = std::array<int64_t, size_t(Rank)>;

/// Number of elements; 1 for rank 0.
template <size_t Rank>
constexpr int64_t element_count(const std::array<int64_t, Rank>& shape) {
  int64_t n = 1;
  for (int64_t extent : shape) n *= extent;
  return n;
}

/// Row-major strides, in elements.
template <size_t Rank>
constexpr std::array<int64_t, Rank> contiguous_strides(const std::array<int64_t, Rank>& shape) {
  std::array<int64_t, Rank> strides{};
  int64_t step = 1;
  for (size_t axis = Rank; axis-- > 0;) {
    strides[axis] = step;
    step *= shape[axis];
  }
  return strides;
}

/// "[2, 50, 768]"
inline std::string to_string(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t axis = 0; axis < shape.size(); ++axis) text += (axis ? ", " : "") + std::to_string(shape[axis]);
  return text + "]";
}

namespace detail {
/// The word for `axis` in a list such as "B N C"; its number where the list is too short.
inline std::string axis_name(std::string_view axes, size_t axis) {
  size_t at = 0;
  for (size_t skipped = 0; skipped < axis && at != std::string_view::npos; ++skipped) {
    at = axes.find(' ', at);
    if (at != std::string_view::npos) ++at;
  }
  if (at == std::string_view::npos || at >= axes.size()) return std::to_string(axis);
  return std::string(axes.substr(at, axes.find(' ', at) - at));
}
}  // namespace detail

/// Throws ShapeError unless `shape`, of argument `name` of operation `op`, equals `expected`. `axes` names the axes
/// ("B N C"); `from` says which argument the expectation comes from.
template <size_t Rank>
void expect_shape(std::string_view op, std::string_view name, const std::array<int64_t, Rank>& shape,
                  const std::array<int64_t, Rank>& expected, std::string_view axes, std::string_view from) {
  for (size_t axis = 0; axis < Rank; ++axis)
    if (shape[axis] != expected[axis]) [[unlikely]]
      fail<ShapeError>(op, ": axis ", detail::axis_name(axes, axis), " of ", name, " ", to_string(shape), " is ",
                       shape[axis], " but must be ", expected[axis], " (from ", from, ")");
}

}  // namespace tessera
