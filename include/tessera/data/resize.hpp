// Resizing of 8-bit pictures, bit for bit as the libraries with which the published models were trained and scored.
//
// resize():             Pillow. Separable, antialiased: a filter that is widened by the shrinking factor. Weights are
//                       rounded to 22 binary places, and the picture to 8 bits between the two passes. Which pass goes
//                       first follows Pillow 13: the horizontal one, unless the height shrinks by more than twice as
//                       many pixels as the width. (Older versions: the horizontal one, always; results then differ by
//                       a level or two, for pictures more than twice as high as wide.) nearest takes the pixel under
//                       the centre.
// resize_cv2_linear():  OpenCV's INTER_LINEAR. Two neighbours an axis without antialiasing, weights in 11 binary
//                       places; up to one level away from the exactly rounded value.
// Picture sizes follow CLIP (short side to n, the long side truncated) and mmsegmentation (keep_ratio, rounded).
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <tessera/core/parallel.hpp>
#include <tessera/data/pixels.hpp>

namespace tessera::data {

/// Pillow's resampling filters.
enum class Filter { nearest, box, bilinear, hamming, bicubic, lanczos };

/// Of a picture, in pixels.
struct Size {
  int width = 0, height = 0;
  friend bool operator==(const Size&, const Size&) = default;
};

namespace detail {

inline constexpr int weight_bits = 22;

inline double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= M_PI;
  return std::sin(x) / x;
}

/// How far the filter reaches, in pixels of the coarser grid.
inline double filter_support(Filter filter) {
  switch (filter) {
    case Filter::box:
      return 0.5;
    case Filter::bilinear:
    case Filter::hamming:
      return 1.0;
    case Filter::bicubic:
      return 2.0;
    default:
      return 3.0;
  }
}

inline double filter_value(Filter filter, double x) {
  if (filter == Filter::box) return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
  x = std::fabs(x);
  switch (filter) {
    case Filter::bilinear:
      return x < 1.0 ? 1.0 - x : 0.0;
    case Filter::hamming:
      if (x == 0.0) return 1.0;
      return x >= 1.0 ? 0.0 : sinc(x) * (double(0.54f) + double(0.46f) * std::cos(M_PI * x));
    case Filter::bicubic: {
      constexpr double a = -0.5;
      if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
      return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
    }
    default:
      return x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
  }
}

/// For each output position of a range: the first input position, and the weights of it and its successors in fixed
/// point.
struct ResizeWeights {
  int taps = 0;  // the longest run
  std::vector<int> first, count;
  std::vector<int32_t> values;  // [output, taps]

  int outputs() const { return int(first.size()); }

  const int32_t* of(int output) const { return values.data() + size_t(output) * size_t(taps); }
  /// Counts positions from the first that is used; returns the range of positions that was in use.
  std::pair<int, int> make_relative() {
    const int begin = first.front(), end = first.back() + count.back();
    for (int& position : first) position -= begin;
    return {begin, end};
  }
};

/// The weights of the outputs [from, to) of an axis of `in` pixels resized to `out`.
inline ResizeWeights resize_weights(int in, int out, int from, int to, Filter filter) {
  const double scale = double(in) / out, widening = std::max(scale, 1.0), inverse = 1.0 / widening;
  const double support = filter_support(filter) * widening;
  ResizeWeights weights;
  weights.taps = int(std::ceil(support)) * 2 + 1;
  weights.first.resize(size_t(to - from));
  weights.count.resize(size_t(to - from));
  weights.values.resize(size_t(to - from) * size_t(weights.taps));
  std::vector<double> exact(static_cast<size_t>(weights.taps));
  for (int x = from; x < to; ++x) {
    const double centre = (x + 0.5) * scale;
    const int begin = std::max(int(centre - support + 0.5), 0), end = std::min(int(centre + support + 0.5), in);
    double sum = 0.0;
    for (int j = begin; j < end; ++j) {
      exact[size_t(j - begin)] = filter_value(filter, (j - centre + 0.5) * inverse);
      sum += exact[size_t(j - begin)];
    }
    int32_t* values = weights.values.data() + size_t(x - from) * size_t(weights.taps);
    for (int j = 0; j < end - begin; ++j) {
      const double w = (sum != 0.0 ? exact[size_t(j)] / sum : exact[size_t(j)]) * (1 << weight_bits);
      values[j] = int32_t(w < 0 ? w - 0.5 : w + 0.5);
    }
    weights.first[size_t(x - from)] = begin;
    weights.count[size_t(x - from)] = end - begin;
  }
  return weights;
}

inline uint8_t clip_weighted(int32_t sum) { return uint8_t(std::clamp(sum >> weight_bits, 0, 255)); }

/// Horizontal pass over `rows` (at most 8) rows. The rows are laid side by side first, so that the inner loop runs over
/// rows and channels, which lie next to each other and share their weight, and the compiler can vectorise it.
template <int Channels>
void resize_rows(const uint8_t* from, size_t from_step, int in, uint8_t* to, size_t to_step, int out, int rows,
                 const ResizeWeights& weights, std::vector<uint8_t>& scratch) {
  constexpr int lanes = 8 * Channels;
  scratch.resize(size_t(in) * lanes);
  for (int row = 0; row < rows; ++row) {
    const uint8_t* source = from + size_t(row) * from_step;
    for (int x = 0; x < in; ++x)
      for (int c = 0; c < Channels; ++c) scratch[size_t(x) * lanes + size_t(c * 8 + row)] = source[x * Channels + c];
  }
  for (int x = 0; x < out; ++x) {
    int32_t sums[lanes];
    std::fill(sums, sums + lanes, 1 << (weight_bits - 1));
    const uint8_t* column = scratch.data() + size_t(weights.first[size_t(x)]) * lanes;
    const int32_t* weight = weights.of(x);
    for (int j = 0; j < weights.count[size_t(x)]; ++j, column += lanes)
      for (int lane = 0; lane < lanes; ++lane) sums[lane] += weight[j] * int32_t(column[lane]);
    for (int row = 0; row < rows; ++row)
      for (int c = 0; c < Channels; ++c)
        to[size_t(row) * to_step + size_t(x * Channels + c)] = clip_weighted(sums[c * 8 + row]);
  }
}

/// `source` of `image`, each row by `weights`.
inline Image resize_horizontally(const Image& image, const Box& source, const ResizeWeights& weights) {
  Image result(weights.outputs(), source.height(), image.channels);
  const auto pass = [&]<int Channels>() {
    const int64_t work = int64_t(result.row_bytes()) * weights.taps;  // for 8 rows, which are vectorised
    parallel_for(chunk_count(result.height, 8), row_grain(work), [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> scratch;
      for (int64_t block = begin; block < end; ++block) {
        const int y = int(block) * 8;
        resize_rows<Channels>(image.at(source.left, source.top + y), image.row_bytes(), source.width(), result.row(y),
                              result.row_bytes(), result.width, std::min(8, result.height - y), weights, scratch);
      }
    });
  };
  switch (image.channels) {
    case 1:
      pass.template operator()<1>();
      break;
    case 2:
      pass.template operator()<2>();
      break;
    case 3:
      pass.template operator()<3>();
      break;
    default:
      pass.template operator()<4>();
      break;
  }
  return result;
}

/// `source` of `image`, each column by `weights`.
inline Image resize_vertically(const Image& image, const Box& source, const ResizeWeights& weights) {
  Image result(source.width(), weights.outputs(), image.channels);
  const size_t length = result.row_bytes();
  parallel_for(result.height, row_grain(int64_t(length) * weights.taps / 8), [&](int64_t begin, int64_t end) {
    std::vector<int32_t> sums(length);
    for (int64_t y = begin; y < end; ++y) {
      std::fill(sums.begin(), sums.end(), 1 << (weight_bits - 1));
      for (int j = 0; j < weights.count[size_t(y)]; ++j) {
        const int32_t weight = weights.of(int(y))[j];
        const uint8_t* row = image.at(source.left, source.top + weights.first[size_t(y)] + j);
        for (size_t i = 0; i < length; ++i) sums[i] += weight * int32_t(row[i]);
      }
      uint8_t* to = result.row(int(y));
      for (size_t i = 0; i < length; ++i) to[i] = clip_weighted(sums[i]);
    }
  });
  return result;
}

/// The input position under the centre of each of the outputs [0, end); steps are added up, not multiplied, as Pillow
/// does.
inline std::vector<int> nearest_positions(int in, int out, int end) {
  std::vector<int> positions(static_cast<size_t>(end));
  const double scale = double(in) / out;
  double centre = scale * 0.5;
  for (int& position : positions) {
    position = std::min(int(centre), in - 1);
    centre += scale;
  }
  return positions;
}

inline Image resize_nearest(const Image& image, const Box& source, int width, int height, const Box& kept) {
  const std::vector<int> columns = nearest_positions(source.width(), width, kept.right);
  const std::vector<int> rows = nearest_positions(source.height(), height, kept.bottom);
  Image result(kept.width(), kept.height(), image.channels);
  for (int y = 0; y < result.height; ++y)
    for (int x = 0; x < result.width; ++x)
      std::copy_n(image.at(source.left + columns[size_t(kept.left + x)], source.top + rows[size_t(kept.top + y)]),
                  image.channels, result.at(x, y));
  return result;
}

/// Pillow 13's choice of the first pass; Pillow up to 12.1 always passes horizontally first.
inline bool vertical_pass_first(const Box& source, int width, int height) {
  return height < source.height() && int64_t(source.height()) - height > 2 * (int64_t(source.width()) - width);
}

inline void check_resize(const char* name, const Image& image, const Box& source, int width, int height) {
  require(width > 0 && height > 0, name, ": to ", width, " x ", height, " pixels");
  require(image.channels >= 1 && image.channels <= 4, name, ": a picture of ", image.channels, " channels");
  require(source.left >= 0 && source.top >= 0 && source.left < source.right && source.top < source.bottom &&
              source.right <= image.width && source.bottom <= image.height,
          name, ": box (", source.left, ", ", source.top, ", ", source.right, ", ", source.bottom, ") of a picture of ",
          image.width, " x ", image.height);
}

}  // namespace detail

/// The part `source` of `image` at width x height, as Pillow's image.crop(source).resize((width, height), filter):
/// pixels outside the box are not looked at. Of the result only the part `kept` is computed and returned. Pillow treats
/// alpha separately; here it is one more channel.
inline Image resize(const Image& image, const Box& source, int width, int height, Filter filter, const Box& kept) {
  detail::check_resize("resize", image, source, width, height);
  require(kept.left >= 0 && kept.top >= 0 && kept.left < kept.right && kept.top < kept.bottom && kept.right <= width &&
              kept.bottom <= height,
          "resize: the kept box (", kept.left, ", ", kept.top, ", ", kept.right, ", ", kept.bottom, ") of ", width,
          " x ", height);
  if (filter == Filter::nearest) return detail::resize_nearest(image, source, width, height, kept);
  const bool across = source.width() != width, down = source.height() != height;
  Box rest = source;  // what the next pass reads
  if (!across) {
    rest.left = source.left + kept.left;
    rest.right = source.left + kept.right;
  }
  if (!down) {
    rest.top = source.top + kept.top;
    rest.bottom = source.top + kept.bottom;
  }
  detail::ResizeWeights columns, rows;
  if (across) columns = detail::resize_weights(source.width(), width, kept.left, kept.right, filter);
  if (down) rows = detail::resize_weights(source.height(), height, kept.top, kept.bottom, filter);
  if (!across) return down ? detail::resize_vertically(image, rest, rows) : crop(image, rest);
  if (!down) return detail::resize_horizontally(image, rest, columns);
  // The first pass makes only what the second one reads.
  if (detail::vertical_pass_first(source, width, height)) {
    const auto [first, end] = columns.make_relative();
    rest.right = source.left + end;
    rest.left = source.left + first;
    const Image low = detail::resize_vertically(image, rest, rows);
    return detail::resize_horizontally(low, {0, 0, low.width, low.height}, columns);
  }
  const auto [first, end] = rows.make_relative();
  rest.bottom = source.top + end;
  rest.top = source.top + first;
  const Image narrow = detail::resize_horizontally(image, rest, columns);
  return detail::resize_vertically(narrow, {0, 0, narrow.width, narrow.height}, rows);
}

/// The whole of it.
inline Image resize(const Image& image, const Box& source, int width, int height, Filter filter) {
  return resize(image, source, width, height, filter, {0, 0, width, height});
}

/// `image` at width x height, as Pillow's resize.
inline Image resize(const Image& image, int width, int height, Filter filter) {
  return resize(image, {0, 0, image.width, image.height}, width, height, filter);
}

/// A label map at another size, each pixel the label under its centre (Pillow's NEAREST).
inline LabelMap resize(const LabelMap& map, int width, int height) {
  require(!map.empty() && width > 0 && height > 0, "resize: label map of ", map.width, " x ", map.height, " to ", width,
          " x ", height);
  const std::vector<int> columns = detail::nearest_positions(map.width, width, width);
  const std::vector<int> rows = detail::nearest_positions(map.height, height, height);
  LabelMap result(width, height);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) result.at(x, y) = map.at(columns[size_t(x)], rows[size_t(y)]);
  return result;
}

namespace detail {

/// cv2's two neighbours of an output position and their weights times 2048.
struct LinearTaps {
  int first, second;
  int32_t weight_first, weight_second;
};

/// Horizontally the fraction is dropped outside the picture; vertically it stays and only the rows are clipped.
inline std::vector<LinearTaps> linear_taps(int in, int out, bool horizontal) {
  std::vector<LinearTaps> taps(static_cast<size_t>(out));
  const double scale = 1.0 / (double(out) / in);
  for (int i = 0; i < out; ++i) {
    float fraction = float((i + 0.5) * scale - 0.5);
    int first = int(std::floor(fraction));
    fraction -= float(first);
    if (horizontal && (first < 0 || first >= in - 1)) fraction = 0;
    taps[size_t(i)] = {std::clamp(first, 0, in - 1), std::clamp(first + 1, 0, in - 1),
                       int32_t(std::lrint((1.f - fraction) * 2048.f)), int32_t(std::lrint(fraction * 2048.f))};
  }
  return taps;
}

}  // namespace detail

/// `image` at width x height, as OpenCV's resize with INTER_LINEAR on 8-bit pictures.
inline Image resize_cv2_linear(const Image& image, int width, int height) {
  detail::check_resize("resize_cv2_linear", image, {0, 0, image.width, image.height}, width, height);
  const auto columns = detail::linear_taps(image.width, width, true);
  const auto rows = detail::linear_taps(image.height, height, false);
  const int channels = image.channels;
  Image result(width, height, channels);
  parallel_for(height, row_grain(int64_t(result.row_bytes())), [&](int64_t begin, int64_t end) {
    std::vector<int32_t> upper(result.row_bytes()), lower(result.row_bytes());
    const auto stretch = [&](int y, std::vector<int32_t>& to) {
      const uint8_t* row = image.row(y);
      for (int x = 0; x < width; ++x) {
        const detail::LinearTaps& tap = columns[size_t(x)];
        for (int c = 0; c < channels; ++c)
          to[size_t(x * channels + c)] =
              row[tap.first * channels + c] * tap.weight_first + row[tap.second * channels + c] * tap.weight_second;
      }
    };
    int upper_row = -1, lower_row = -1;  // which rows of the picture the two buffers hold
    for (int64_t y = begin; y < end; ++y) {
      const detail::LinearTaps& tap = rows[size_t(y)];
      if (tap.first == lower_row) {
        std::swap(upper, lower);
        std::swap(upper_row, lower_row);
      }
      if (tap.first != upper_row) stretch(upper_row = tap.first, upper);
      if (tap.second != lower_row) stretch(lower_row = tap.second, lower);
      uint8_t* to = result.row(int(y));
      for (size_t i = 0; i < result.row_bytes(); ++i)
        to[i] = uint8_t(
            (((tap.weight_first * (upper[i] >> 4)) >> 16) + ((tap.weight_second * (lower[i] >> 4)) >> 16) + 2) >> 2);
    }
  });
  return result;
}

/// CLIP's size: the short side becomes `side`, the long one side * long / short, truncated.
inline Size short_side_size(int width, int height, int side) {
  require(width > 0 && height > 0 && side > 0, "short_side_size: ", width, " x ", height, " to ", side);
  const int small = std::min(width, height), large = std::max(width, height);
  const int64_t length = int64_t(side) * large / small;
  require(length < (int64_t(1) << 30), "short_side_size: the long side of ", width, " x ", height, " would be ",
          length);
  return width <= height ? Size{side, int(length)} : Size{int(length), side};
}

/// mmsegmentation's keep_ratio: the largest size whose long side is at most `long_side` and whose short side is at most
/// `short_side`; sides are rounded, and at least 1.
inline Size keep_ratio_size(int width, int height, int long_side, int short_side) {
  require(width > 0 && height > 0 && long_side > 0 && short_side > 0, "keep_ratio_size: ", width, " x ", height,
          " into ", long_side, " x ", short_side);
  const double scale =
      std::min(double(long_side) / std::max(width, height), double(short_side) / std::min(width, height));
  return {std::max(1, int(width * scale + 0.5)), std::max(1, int(height * scale + 0.5))};
}

/// The side x side box in the middle; where the margin is odd, its half is rounded to even, as CLIP's crop does.
inline Box centre_box(int width, int height, int side) {
  require(side > 0 && side <= width && side <= height, "centre_box: ", side, " in a picture of ", width, " x ", height);
  const auto offset = [](int margin) { return margin / 2 + (margin % 2 == 1 && margin / 2 % 2 == 1 ? 1 : 0); };
  const int left = offset(width - side), top = offset(height - side);
  return {left, top, left + side, top + side};
}

/// CLIP's preprocessing up to the normalisation: RGB, short side to `side` by bicubic, the middle cropped. Only that
/// middle is computed, so extreme shapes cost no more than others.
inline Image clip_resize(const Image& image, int side) {
  const Image rgb = to_rgb(image);
  const Size size = short_side_size(rgb.width, rgb.height, side);
  return resize(rgb, {0, 0, rgb.width, rgb.height}, size.width, size.height, Filter::bicubic,
                centre_box(size.width, size.height, side));
}

}  // namespace tessera::data
