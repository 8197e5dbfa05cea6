// Do patches of one class look alike to an encoder, whatever picture they come from? Two patches correspond where their
// features are similar (cosine), as in STEGO (Hamilton et al., ICLR 2022); read as a classifier of "these two show the
// same class", every threshold on the similarity gives a point of a ROC curve (roc.hpp). PACL's authors compare
// encoders by it.
//
//   label map -> the square that the encoder sees -> one class a patch -> pairs of patches -> similarities
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <tessera/core/parallel.hpp>
#include <tessera/core/random.hpp>
#include <tessera/data/resize.hpp>
#include <tessera/ops/patches.hpp>

namespace tessera::segmentation {

using data::LabelMap;

/// Of a label map, the side x side pixels that data::clip_resize keeps of its picture, each with the label under its
/// centre.
inline LabelMap centre_labels(const LabelMap& labels, int side) {
  require(!labels.empty(), "centre_labels: an empty label map");
  const data::Size size = data::short_side_size(labels.width, labels.height, side);
  const data::Box box = data::centre_box(size.width, size.height, side);
  const auto columns = data::detail::nearest_positions(labels.width, size.width, box.right);
  const auto rows = data::detail::nearest_positions(labels.height, size.height, box.bottom);
  LabelMap square(side, side);
  for (int y = 0; y < side; ++y)
    for (int x = 0; x < side; ++x)
      square.at(x, y) = labels.at(columns[size_t(box.left + x)], rows[size_t(box.top + y)]);
  return square;
}

/// No class: the label of patches that belong to none.
inline constexpr int32_t no_class = -1;

/// One class a patch, row by row: the label that most of its patch x patch pixels have (of equals the lowest), or
/// no_class where that is no class (a label of `classes` and above) or less than `majority` of the patch. `grid` and
/// `stride` say where patches lie; they must lie inside the map (ShapeError).
inline std::vector<int32_t> patch_labels(const LabelMap& labels, PatchGrid grid, int64_t patch, int64_t stride,
                                         int classes, double majority = 0.5) {
  require(patch > 0 && stride > 0 && classes > 0 && majority >= 0 && majority <= 1, "patch_labels: patches of ", patch,
          " pixels at stride ", stride, ", ", classes, " classes, majority ", majority);
  require<ShapeError>(
      (grid.height - 1) * stride + patch <= labels.height && (grid.width - 1) * stride + patch <= labels.width,
      "patch_labels: a grid of ", grid.width, " x ", grid.height, " patches of ", patch, " pixels at stride ", stride,
      " reaches beyond a label map of ", labels.width, " x ", labels.height);
  std::vector<int32_t> result;
  std::vector<int64_t> counts(static_cast<size_t>(classes) + 1);  // the last: of all that is no class
  for (int64_t row = 0; row < grid.height; ++row)
    for (int64_t column = 0; column < grid.width; ++column) {
      std::fill(counts.begin(), counts.end(), 0);
      for (int64_t y = row * stride; y < row * stride + patch; ++y)
        for (int64_t x = column * stride; x < column * stride + patch; ++x)
          ++counts[std::min<size_t>(labels.at(int(x), int(y)), size_t(classes))];
      const auto most = std::max_element(counts.begin(), counts.end());
      const auto label = int32_t(most - counts.begin());
      const bool counted = label < classes && double(*most) >= majority * double(patch * patch);
      result.push_back(counted ? label : no_class);
    }
  return result;
}

/// Which pairs of patches are compared.
enum class PairScope : uint8_t {
  within,  ///< two patches of one picture
  across,  ///< patches of two pictures
};

/// Pairs of patches: all there are, or, where they are more than `most`, that many drawn at random, each pair as likely
/// as any other, with replacement. Pair k depends on the seed and k alone.
class PatchPairs {
 public:
  /// `patches_of_picture[i]` patches belong to picture i; patches are numbered picture by picture.
  PatchPairs(std::span<const int64_t> patches_of_picture, PairScope scope, int64_t most, uint64_t seed)
      : scope_(scope), random_{.seed = seed, .step = 0, .operation = uint32_t(scope)} {
    require(most > 0, "PatchPairs: at most ", most, " pairs");
    const int64_t patches = std::accumulate(patches_of_picture.begin(), patches_of_picture.end(), int64_t(0));
    require(patches < (int64_t(1) << 26), "PatchPairs: ", patches, " patches; at most 2^26 are paired");
    for (const int64_t count : patches_of_picture) {
      require(count >= 0, "PatchPairs: ", count, " patches of a picture");
      pairs_before_.push_back(all_);
      first_patch_.push_back(end_);
      end_ += count;
      all_ += scope == PairScope::within ? count * (count - 1) / 2 : count * (patches - end_);
    }
    size_ = std::min(all_, most);
  }

  int64_t size() const { return size_; }  ///< pairs that are compared
  int64_t all() const { return all_; }    ///< pairs there are

  /// Two different patches, for k in [0, size()).
  std::pair<int64_t, int64_t> operator[](int64_t k) const {
    if (size_ < all_) k = drawn(k);
    const auto next = std::upper_bound(pairs_before_.begin(), pairs_before_.end(), k);
    const auto picture = size_t(next - pairs_before_.begin()) - 1;
    const int64_t pair = k - pairs_before_[picture], first = first_patch_[picture];
    if (scope_ == PairScope::within) {  // pairs (i, j), i < j, counted by j, then by i
      auto j = int64_t((1 + std::sqrt(1 + 8 * double(pair))) / 2);
      while (j * (j - 1) / 2 > pair) --j;
      while ((j + 1) * j / 2 <= pair) ++j;
      return {first + pair - j * (j - 1) / 2, first + j};
    }
    const int64_t next_picture = picture + 1 < first_patch_.size() ? first_patch_[picture + 1] : end_;
    const int64_t partners = end_ - next_picture;  // the patches of all later pictures
    return {first + pair / partners, next_picture + pair % partners};
  }

 private:
  /// Uniform in [0, all_), which is below 2^52.
  int64_t drawn(int64_t k) const {
    const uint64_t bits = uint64_t(random_.bits(2 * uint64_t(k))) << 32 | random_.bits(2 * uint64_t(k) + 1);
    return std::min(all_ - 1, int64_t(double(bits >> 11) * 0x1p-53 * double(all_)));
  }

  PairScope scope_;
  RandomStream random_;
  std::vector<int64_t> pairs_before_, first_patch_;
  int64_t end_ = 0, all_ = 0, size_ = 0;
};

/// Similarities of pairs, by whether both patches are of one class; each list in the order of the pairs.
struct PairSimilarities {
  std::vector<float> same, different;
};

/// The cosines of `pairs` of patches, features [N, C] of length 1, labels [N]: what roc_curve takes. Pairs with a patch
/// of no_class are left out. Holds four bytes a pair.
inline PairSimilarities pair_similarities(const TensorView<const float, 2>& features, std::span<const int32_t> labels,
                                          const PatchPairs& pairs) {
  require<ShapeError>(int64_t(labels.size()) == features.shape[0], "pair_similarities: ", labels.size(), " labels for ",
                      features.shape[0], " patches");
  constexpr int64_t grain = 4096;
  const int64_t channels = features.shape[1];
  enum class Kind : uint8_t { left_out, same, different };
  const auto kind = [&](int64_t i, int64_t j) {
    const int32_t one = labels[size_t(i)], other = labels[size_t(j)];
    if (one == no_class || other == no_class) return Kind::left_out;
    return one == other ? Kind::same : Kind::different;
  };

  // Pairs are counted first, so that every chunk knows where in the lists its similarities go.
  struct Place {
    size_t same = 0, different = 0;
  };
  std::vector<Place> places(size_t(chunk_count(pairs.size(), grain)));
  parallel_for(pairs.size(), grain, [&](int64_t begin, int64_t end) {
    Place count;
    for (int64_t k = begin; k < end; ++k) {
      const auto [i, j] = pairs[k];
      const Kind of_pair = kind(i, j);
      count.same += of_pair == Kind::same;
      count.different += of_pair == Kind::different;
    }
    places[size_t(begin / grain)] = count;
  });
  Place total;
  for (Place& place : places) {
    const Place count = place;
    place = total;
    total.same += count.same;
    total.different += count.different;
  }

  PairSimilarities result{std::vector<float>(total.same), std::vector<float>(total.different)};
  parallel_for(pairs.size(), grain, [&](int64_t begin, int64_t end) {
    Place next = places[size_t(begin / grain)];
    for (int64_t k = begin; k < end; ++k) {
      const auto [i, j] = pairs[k];
      const Kind of_pair = kind(i, j);
      if (of_pair == Kind::left_out) continue;
      const float *a = &features(i, 0), *b = &features(j, 0);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < channels; ++c) sum += a[c] * b[c];
      (of_pair == Kind::same ? result.same[next.same++] : result.different[next.different++]) = sum;
    }
  });
  return result;
}

}  // namespace tessera::segmentation
