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
// without the edges whose ends have meanwhile come together. About 150 bytes a pixel are needed for the time of the
// call.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
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

/// The edges between neighbouring pixels. An edge's code is direction * 2^pixel_bits + pixel: edges of equal weight
/// come in the order of their codes.
struct PixelEdges {
  const std::vector<double>& planes;
  int width, height, pixel_bits;
  std::array<int32_t, 4> from, to;   // what to add to the pixel for both ends
  std::array<int, 4> columns, rows;  // how many pixels have the neighbour

  PixelEdges(const std::vector<double>& smooth, int w, int h)
      : planes(smooth),
        width(w),
        height(h),
        pixel_bits(int(std::bit_width(size_t(w) * size_t(h) - 1))),
        from{0, 0, 0, w},
        to{1, w, w + 1, 1},
        columns{w - 1, w, w - 1, w - 1},
        rows{h, h - 1, h - 1, h - 1} {}

  std::pair<int32_t, int32_t> ends(uint32_t code) const {
    const int32_t pixel = int32_t(code & ((uint32_t(1) << pixel_bits) - 1));
    const uint32_t direction = code >> pixel_bits;
    return {pixel + from[direction], pixel + to[direction]};
  }
  /// Calls visit(code, weights) for every row of edges in every direction: the code of its first edge, and all its
  /// weights.
  template <class Visit>
  void each_row(Visit&& visit) const {
    std::vector<double> weights(static_cast<size_t>(width));
    const size_t plane = size_t(width) * size_t(height);
    for (uint32_t d = 0; d < 4; ++d)
      for (int y = 0; y < rows[d]; ++y) {
        const int64_t pixel = int64_t(y) * width;
        const double* first = planes.data() + pixel + from[d];
        colour_distances(weights.data(), first, first + plane, first + 2 * plane, to[d] - from[d], columns[d]);
        visit(d << pixel_bits | uint32_t(pixel), std::span<const double>(weights.data(), size_t(columns[d])));
      }
  }
};

/// Regions as trees of pixels; the root of a region is its first pixel.
class Regions {
 public:
  Regions(size_t pixels, double scale) : scale_(scale / 255), parents_(pixels), traits_(pixels, {float(scale_), 1}) {
    for (size_t i = 0; i < pixels; ++i) parents_[i] = int32_t(i);
  }
  int32_t root(int32_t pixel) {
    while (parents_[size_t(pixel)] != pixel) {
      int32_t& parent = parents_[size_t(pixel)];
      parent = parents_[size_t(parent)];  // halves the path for the next search
      pixel = parent;
    }
    return pixel;
  }
  /// Whether the two are known, without a search, to be of one region.
  bool plainly_together(int32_t a, int32_t b) const { return parents_[size_t(a)] == parents_[size_t(b)]; }
  bool lets_through(int32_t root_a, int32_t root_b, double weight) const {
    return weight < double(std::min(traits_[size_t(root_a)].bound, traits_[size_t(root_b)].bound));
  }
  int32_t size(int32_t root) const { return traits_[size_t(root)].size; }
  void join(int32_t root_a, int32_t root_b, double weight) {
    const auto [first, second] = std::minmax(root_a, root_b);
    parents_[size_t(second)] = first;
    Traits& traits = traits_[size_t(first)];
    traits.size += traits_[size_t(second)].size;
    traits.bound = float(weight + scale_ / double(traits.size));
  }
  /// Regions numbered by their first pixels.
  SegmentMap number(int width, int height) const {
    SegmentMap map(width, height);
    int32_t next = 0;
    for (size_t i = 0; i < parents_.size(); ++i) {
      const int32_t parent = parents_[i];  // never after i
      map.labels[i] = parent == int32_t(i) ? next++ : map.labels[size_t(parent)];
    }
    return map;
  }

 private:
  /// Of a region, at its root.
  struct Traits {
    float bound;  // the weight below which it grows: its heaviest edge + scale / size
    int32_t size;
  };
  double scale_;
  std::vector<int32_t> parents_;
  std::vector<Traits> traits_;
};

/// Edges by rising weight. They are dealt into buckets by weight; a bucket is sorted when its turn comes.
class EdgeQueue {
 public:
  struct Edge {
    double weight;
    uint32_t code;
    bool operator<(const Edge& other) const {
      return weight != other.weight ? weight < other.weight : code < other.code;
    }
  };

  explicit EdgeQueue(const PixelEdges& edges) : begin_(buckets + 1) {
    edges.each_row([&](uint32_t, std::span<const double> weights) {
      for (double weight : weights) ++begin_[bucket(weight) + 1];
    });
    for (size_t i = 0; i < buckets; ++i) begin_[i + 1] += begin_[i];
    edges_ = std::make_unique_for_overwrite<Edge[]>(begin_[buckets]);
    std::vector<size_t> next = begin_;
    edges.each_row([&](uint32_t code, std::span<const double> weights) {
      for (double weight : weights) edges_[next[bucket(weight)]++] = {weight, code++};
    });
  }

  /// Calls visit(edge) for the edges by rising weight. Edges with drop(edge) when their bucket's turn comes are left
  /// out.
  template <class Drop, class Visit>
  void drain(Drop&& drop, Visit&& visit) {
    std::vector<Edge> scratch;
    for (size_t i = 0; i < buckets; ++i) {
      Edge* begin = edges_.get() + begin_[i];
      Edge* end = std::remove_if(begin, edges_.get() + begin_[i + 1], drop);
      sort(begin, end, scratch);
      for (Edge* edge = begin; edge != end; ++edge) visit(*edge);
    }
  }

 private:
  // The bits of a number above 0 rise with it. Those of weight + 2^-14 rise evenly below 2^-14 and by powers of two
  // above. Weights are below 2, so the upper 4 + 8 of the bits that are counted from 2^-14 number the buckets.
  static constexpr int bucket_bits = 12, max_part_bits = 10;
  static constexpr size_t buckets = size_t(1) << bucket_bits;
  static uint64_t key(double weight) {
    return std::bit_cast<uint64_t>(weight + 0x1p-14) - std::bit_cast<uint64_t>(0x1p-14);
  }
  static size_t bucket(double weight) { return size_t(key(weight) >> (56 - bucket_bits)); }

  /// Deals the edges into about half as many parts, and sorts each.
  static void sort(Edge* begin, Edge* end, std::vector<Edge>& scratch) {
    const auto count = size_t(end - begin);
    if (count <= 16) return std::sort(begin, end);
    const int bits = std::min(max_part_bits, int(std::bit_width(count)) - 2);
    const auto part = [&](const Edge& edge) {
      return size_t(key(edge.weight) >> (56 - bucket_bits - bits)) & ((size_t(1) << bits) - 1);
    };
    std::array<uint32_t, (size_t(1) << max_part_bits) + 1> next;
    std::fill_n(next.begin(), (size_t(1) << bits) + 1, 0u);
    for (const Edge* edge = begin; edge != end; ++edge) ++next[part(*edge) + 1];
    for (size_t i = 0; i < size_t(1) << bits; ++i) next[i + 1] += next[i];
    scratch.assign(begin, end);
    for (const Edge& edge : scratch) begin[next[part(edge)]++] = edge;
    uint32_t first = 0;
    for (size_t i = 0; i < size_t(1) << bits; first = next[i++])
      if (next[i] - first > 1) std::sort(begin + first, begin + next[i]);
  }

  std::vector<size_t> begin_;  // of each bucket in edges_
  std::unique_ptr<Edge[]> edges_;
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
  const std::vector<double> smooth = detail::smooth_planes(image, options.sigma);
  const detail::PixelEdges edges(smooth, image.width, image.height);
  detail::EdgeQueue queue(edges);
  detail::Regions regions(smooth.size() / 3, options.scale);
  using Edge = detail::EdgeQueue::Edge;
  std::vector<Edge> borders;  // edges that were no reason to join
  queue.drain(
      [&](const Edge& edge) {
        const auto [a, b] = edges.ends(edge.code);
        return regions.plainly_together(a, b);
      },
      [&](const Edge& edge) {
        const auto [first, second] = edges.ends(edge.code);
        const int32_t a = regions.root(first), b = regions.root(second);
        if (a == b) return;
        if (regions.lets_through(a, b, edge.weight))
          regions.join(a, b, edge.weight);
        else
          borders.push_back(edge);
      });
  for (const Edge& edge : borders) {
    const auto [first, second] = edges.ends(edge.code);
    const int32_t a = regions.root(first), b = regions.root(second);
    if (a != b && std::min(regions.size(a), regions.size(b)) < options.min_size) regions.join(a, b, 0);
  }
  return regions.number(image.width, image.height);
}

}  // namespace tessera::data
