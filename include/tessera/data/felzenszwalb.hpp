// Superpixels by Felzenszwalb and Huttenlocher, "Efficient graph-based image segmentation" (IJCV 2004): pixels are
// joined to regions along edges of rising colour difference, as long as an edge is lighter than what already varies
// inside both regions plus scale / size.
//
// Equal to scikit-image's felzenszwalb, which defines the published label maps: the same roundings (smoothing and
// differences in double, each product and sum rounded by itself; the bound in float), the same order of edges. Where
// two edges weigh exactly the same, the order is: right, down, down-right, up-right neighbours, each from the top row
// by row. scikit-image sorts by numpy's unstable sort, so there such ties fall as the machine's instructions have it.
//
// Faster than sorting all edges: they are dealt into buckets by weight, and a bucket is sorted when its turn comes,
// without the edges whose ends have meanwhile come together. About 80 bytes a pixel are needed for the time of the
// call.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <tessera/core/parallel.hpp>
#include <tessera/data/pixels.hpp>

namespace tessera::data {

/// A segment's number for every pixel, row by row.
struct SegmentMap {
  int width = 0, height = 0;
  std::vector<int32_t> labels;  ///< height * width

  SegmentMap() = default;
  SegmentMap(int w, int h, int32_t value = 0) : width(w), height(h) {
    require(w >= 0 && h >= 0, "SegmentMap: ", w, " x ", h, " pixels");
    labels.assign(size_t(w) * size_t(h), value);
  }
  bool empty() const { return width == 0 || height == 0; }
  int32_t* row(int y) { return labels.data() + size_t(y) * size_t(width); }
  const int32_t* row(int y) const { return labels.data() + size_t(y) * size_t(width); }
  int32_t& at(int x, int y) { return row(y)[x]; }
  int32_t at(int x, int y) const { return row(y)[x]; }
  /// The largest number and one: of a map from felzenszwalb, how many segments there are.
  int32_t count() const { return labels.empty() ? 0 : *std::max_element(labels.begin(), labels.end()) + 1; }
  friend bool operator==(const SegmentMap&, const SegmentMap&) = default;
};

/// The defaults are those of SegCLIP.
struct FelzenszwalbOptions {
  double scale = 224;  ///< larger: larger regions (in units of 1 / 255, as in the paper)
  double sigma = 0.9;  ///< of the Gaussian that smooths the picture first, in pixels; 0: none
  int min_size = 224;  ///< smaller regions are joined to a neighbour, along the lightest edge that leads to one
};

// scikit-image's products and sums are rounded one by one. A compiler may fuse them where the processor can; that would
// put edges of almost equal weight in another order, so here it may not. Nor does sqrt have to set errno.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off", "no-math-errno")
#endif
namespace detail {

/// out = x * factor
inline void scale_row(double* out, const double* x, double factor, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * factor;
}

/// out += (a + b) * factor
inline void add_scaled_pair(double* out, const double* a, const double* b, double factor, int64_t n) {
#if defined(__clang__)
#pragma clang fp contract(off)
#endif
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const double product = (a[i] + b[i]) * factor;
    out[i] = out[i] + product;
  }
}

/// The colour distances between n pixels and their neighbours `step` further on; colours lie in planes.
inline void colour_distances(double* out, const double* red, const double* green, const double* blue, int64_t step,
                             int64_t n) {
#if defined(__clang__)
#pragma clang fp contract(off)
#endif
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const double r = red[i + step] - red[i], g = green[i + step] - green[i], b = blue[i + step] - blue[i];
    const double rr = r * r, gg = g * g, bb = b * b;
    const double sum = rr + gg;
    out[i] = std::sqrt(sum + bb);
  }
}

}  // namespace detail
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif

namespace detail {

/// exp(-x² / 2 sigma²) for x = 0 … radius, divided by the sum over both sides; the filter ends at four sigma.
inline std::vector<double> gaussian_weights(double sigma) {
  const int radius = int(4 * sigma + 0.5);
  std::vector<double> both(2 * size_t(radius) + 1);
  const double factor = -0.5 / (sigma * sigma);
  for (int x = -radius; x <= radius; ++x) both[size_t(x + radius)] = std::exp(factor * double(int64_t(x) * x));
  // numpy's order of summation, for the last bit: eight interleaved sums, then the rest.
  double sum = 0;
  size_t next = 0;
  if (both.size() >= 8) {
    std::array<double, 8> part{};
    for (; next + 8 <= both.size(); next += 8)
      for (size_t i = 0; i < 8; ++i) part[i] += both[next + i];
    sum = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
  }
  for (; next < both.size(); ++next) sum += both[next];
  std::vector<double> weights(both.begin() + radius, both.end());
  for (double& weight : weights) weight /= sum;
  return weights;
}

/// A position outside [0, n) mirrored into it; the pixel at the border is repeated: d c b a | a b c d | d c b a.
inline int mirrored(int64_t i, int n) {
  const int64_t period = 2 * int64_t(n);
  i = (i % period + period) % period;
  return int(i < n ? i : period - 1 - i);
}

/// The smoothed picture as three planes [3, height, width], red, green, blue, values from 0 to 1.
inline std::vector<double> smooth_planes(const Image& image, double sigma) {
  std::array<double, 256> unit;
  for (int value = 0; value < 256; ++value) unit[size_t(value)] = value * (1.0 / 255.0);
  const int width = image.width, height = image.height;
  const size_t plane = size_t(width) * size_t(height);
  std::vector<double> sharp(3 * plane);
  for (size_t i = 0; i < plane; ++i)
    for (size_t c = 0; c < 3; ++c) sharp[c * plane + i] = unit[image.pixels[3 * i + c]];
  if (sigma <= 1e-15) return sharp;

  const std::vector<double> weights = gaussian_weights(sigma);
  const int radius = int(weights.size()) - 1;
  std::vector<double> smooth(3 * plane);
  parallel_for(3 * int64_t(height), row_grain(int64_t(width) * (radius + 1)), [&](int64_t begin, int64_t end) {
    std::vector<double> padded(size_t(width) + 2 * size_t(radius));  // one row, smoothed across rows
    double* middle = padded.data() + radius;
    for (int64_t number = begin; number < end; ++number) {
      const int y = int(number % height);
      const double* channel = sharp.data() + size_t(number / height) * plane;
      const auto row = [&](int64_t at) { return channel + size_t(mirrored(at, height)) * size_t(width); };
      scale_row(middle, row(y), weights[0], width);
      for (int j = radius; j > 0; --j) add_scaled_pair(middle, row(y - j), row(y + j), weights[size_t(j)], width);
      for (int j = 1; j <= radius; ++j) {
        middle[-j] = middle[mirrored(-j, width)];
        middle[width - 1 + j] = middle[mirrored(int64_t(width) - 1 + j, width)];
      }
      double* out = smooth.data() + size_t(number) * size_t(width);
      scale_row(out, middle, weights[0], width);
      for (int j = radius; j > 0; --j) add_scaled_pair(out, middle - j, middle + j, weights[size_t(j)], width);
    }
  });
  return smooth;
}

/// The edges between neighbouring pixels. An edge's code is direction * 2^pixel_bits + pixel, which puts edges of equal
/// weight in their order.
struct PixelEdges {
  int width, pixel_bits;
  std::vector<double> weights;       // [direction, height, width]; of pixels without that neighbour: never read
  std::array<int64_t, 4> from, to;   // what to add to the pixel for both ends
  std::array<int, 4> columns, rows;  // how many pixels have the neighbour

  PixelEdges(const std::vector<double>& planes, int w, int h)
      : width(w),
        pixel_bits(int(std::bit_width(size_t(w) * size_t(h) - 1))),
        weights(4 * size_t(w) * size_t(h)),
        from{0, 0, 0, w},
        to{1, w, w + 1, 1},
        columns{w - 1, w, w - 1, w - 1},
        rows{h, h - 1, h - 1, h - 1} {
    const size_t plane = size_t(w) * size_t(h);
    parallel_for(h, row_grain(12 * int64_t(w)), [&](int64_t begin, int64_t end) {
      for (size_t d = 0; d < 4; ++d)
        for (int64_t y = begin; y < std::min<int64_t>(end, rows[d]); ++y) {
          const double* first = planes.data() + y * w + from[d];
          colour_distances(weights.data() + d * plane + size_t(y * w), first, first + plane, first + 2 * plane,
                           to[d] - from[d], columns[d]);
        }
    });
  }
  size_t pixels() const { return weights.size() / 4; }
  int code_bits() const { return pixel_bits + 2; }
  double weight(uint64_t code) const { return weights[direction(code) * pixels() + pixel(code)]; }
  int32_t first_pixel(uint64_t code) const { return int32_t(int64_t(pixel(code)) + from[direction(code)]); }
  int32_t second_pixel(uint64_t code) const { return int32_t(int64_t(pixel(code)) + to[direction(code)]); }

  /// Calls visit(code, weight) for all edges, in the order of codes.
  template <class Visit>
  void each(Visit&& visit) const {
    const int height = int(pixels() / size_t(width));
    for (size_t d = 0; d < 4; ++d)
      for (int y = 0; y < std::min(height, rows[d]); ++y) {
        const size_t row = size_t(y) * size_t(width);
        const double* row_weights = weights.data() + d * pixels() + row;
        for (int x = 0; x < columns[d]; ++x) visit(uint64_t(d) << pixel_bits | (row + size_t(x)), row_weights[x]);
      }
  }

 private:
  size_t direction(uint64_t code) const { return size_t(code >> pixel_bits); }
  size_t pixel(uint64_t code) const { return size_t(code & ((uint64_t(1) << pixel_bits) - 1)); }
};

/// Regions as trees of pixels; the root of a region is its first pixel.
class Regions {
 public:
  Regions(size_t pixels, double scale) : scale_(scale / 255), nodes_(pixels) {
    for (size_t i = 0; i < pixels; ++i) nodes_[i] = {int32_t(i), 1, float(scale_)};
  }
  int32_t root(int32_t pixel) {
    while (nodes_[size_t(pixel)].parent != pixel) {
      int32_t& parent = nodes_[size_t(pixel)].parent;
      parent = nodes_[size_t(parent)].parent;  // halves the path for the next search
      pixel = parent;
    }
    return pixel;
  }
  /// Whether the two are known, without a search, to be of one region.
  bool plainly_together(int32_t a, int32_t b) const { return nodes_[size_t(a)].parent == nodes_[size_t(b)].parent; }
  bool lets_through(int32_t root_a, int32_t root_b, double weight) const {
    return weight < double(std::min(nodes_[size_t(root_a)].bound, nodes_[size_t(root_b)].bound));
  }
  int32_t size(int32_t root) const { return nodes_[size_t(root)].size; }
  void join(int32_t root_a, int32_t root_b, double weight) {
    const auto [first, second] = std::minmax(root_a, root_b);
    Node& node = nodes_[size_t(first)];
    nodes_[size_t(second)].parent = first;
    node.size += nodes_[size_t(second)].size;
    node.bound = float(weight + scale_ / double(node.size));
  }
  /// Regions numbered by their first pixels.
  SegmentMap number(int width, int height) const {
    SegmentMap map(width, height);
    int32_t next = 0;
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const int32_t parent = nodes_[i].parent;  // never after i
      map.labels[i] = parent == int32_t(i) ? next++ : map.labels[size_t(parent)];
    }
    return map;
  }

 private:
  struct Node {
    int32_t parent;
    int32_t size;  // of the region, at its root
    float bound;   // the weight below which the region grows, at its root: its heaviest edge + scale / size
  };
  double scale_;
  std::vector<Node> nodes_;
};

/// Edges by rising weight, those of one region left out where that is seen in time. An edge is kept as one word: the
/// weight, cut to what fits above the code. Cut weights that are equal are told apart by looking the weights up.
class EdgeQueue {
 public:
  explicit EdgeQueue(const PixelEdges& edges)
      : edges_(edges), shift_(std::max(0, key_bits - (64 - edges.code_bits()))) {
    std::vector<size_t> next(buckets + 1);
    edges.each([&](uint64_t, double weight) { ++next[(key(weight) >> bucket_shift) + 1]; });
    for (size_t i = 0; i < buckets; ++i) next[i + 1] += next[i];
    begin_ = next;
    words_.resize(next[buckets]);
    edges.each([&](uint64_t code, double weight) {
      const uint64_t k = key(weight);
      words_[next[k >> bucket_shift]++] = k >> shift_ << edges_.code_bits() | code;
    });
  }

  /// Calls visit(code) for the edges by rising weight; an edge with drop(code) at its bucket's turn may be left out.
  template <class Drop, class Visit>
  void drain(Drop&& drop, Visit&& visit) {
    const uint64_t code_mask = (uint64_t(1) << edges_.code_bits()) - 1;
    const auto before = [&](uint64_t a, uint64_t b) {
      if (a >> edges_.code_bits() != b >> edges_.code_bits()) return a < b;
      const double weight_a = edges_.weight(a & code_mask), weight_b = edges_.weight(b & code_mask);
      return weight_a != weight_b ? weight_a < weight_b : a < b;
    };
    for (size_t bucket = 0; bucket < buckets; ++bucket) {
      const auto begin = words_.begin() + ptrdiff_t(begin_[bucket]);
      const auto end = std::remove_if(begin, words_.begin() + ptrdiff_t(begin_[bucket + 1]),
                                      [&](uint64_t word) { return drop(word & code_mask); });
      std::sort(begin, end, before);
      for (auto word = begin; word != end; ++word) visit(*word & code_mask);
    }
  }

 private:
  // Keys are the bits of the weight plus 2^-14: fine steps for small weights, no steps below 2^-67. Weights are below
  // 2, so 15 powers of two are spanned, of 2^52 keys each.
  static constexpr int key_bits = 56, bucket_shift = 44;
  static constexpr double offset = 0x1p-14;
  static constexpr size_t buckets = size_t(16) << (52 - bucket_shift);
  static uint64_t key(double weight) {
    return std::bit_cast<uint64_t>(weight + offset) - std::bit_cast<uint64_t>(offset);
  }

  const PixelEdges& edges_;
  int shift_;
  std::vector<size_t> begin_;  // of each bucket in words_
  std::vector<uint64_t> words_;
};

inline void check_felzenszwalb(const Image& image, const FelzenszwalbOptions& options) {
  require(!image.empty() && image.channels == 3, "felzenszwalb: a picture of ", image.width, " x ", image.height,
          " pixels and ", image.channels, " channels; it must be RGB and not empty (to_rgb makes 3 channels)");
  require(int64_t(image.width) * image.height < (int64_t(1) << 29), "felzenszwalb: ", image.width, " x ", image.height,
          " pixels; there may be fewer than 2^29");
  require(options.scale >= 0 && std::isfinite(options.scale), "felzenszwalb: scale is ", options.scale,
          "; it must not be below 0");
  require(options.sigma >= 0 && options.sigma <= 1000, "felzenszwalb: sigma is ", options.sigma,
          "; it must be from 0 to 1000 pixels");
  require(options.min_size >= 0, "felzenszwalb: min_size is ", options.min_size, "; it must not be below 0");
}

}  // namespace detail

/// The segments of an RGB picture, numbered by their first pixels, row by row from the top: 0, 1, … Every segment is
/// connected (over corners, too) and has at least min_size pixels, unless the picture has fewer. The same bits on any
/// number of threads. Throws ValueError for a picture that is not RGB and for options out of range.
inline SegmentMap felzenszwalb(const Image& image, const FelzenszwalbOptions& options = {}) {
  detail::check_felzenszwalb(image, options);
  const detail::PixelEdges edges(detail::smooth_planes(image, options.sigma), image.width, image.height);
  detail::EdgeQueue queue(edges);
  detail::Regions regions(edges.pixels(), options.scale);
  std::vector<uint64_t> borders;  // edges that were no reason to join
  queue.drain(
      [&](uint64_t code) { return regions.plainly_together(edges.first_pixel(code), edges.second_pixel(code)); },
      [&](uint64_t code) {
        const int32_t a = regions.root(edges.first_pixel(code)), b = regions.root(edges.second_pixel(code));
        if (a == b) return;
        const double weight = edges.weight(code);
        if (regions.lets_through(a, b, weight))
          regions.join(a, b, weight);
        else
          borders.push_back(code);
      });
  for (uint64_t code : borders) {
    const int32_t a = regions.root(edges.first_pixel(code)), b = regions.root(edges.second_pixel(code));
    if (a != b && std::min(regions.size(a), regions.size(b)) < options.min_size) regions.join(a, b, 0);
  }
  return regions.number(image.width, image.height);
}

}  // namespace tessera::data
