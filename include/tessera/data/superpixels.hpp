// From superpixels of a picture to a number for every patch of a training crop, the labels of SegCLIP's superpixel
// loss: the map is cut where the picture was cut, resized to the crop's size by nearest neighbour, and each patch takes
// the mean of its pixels' numbers, rounded down. That is the published training's rule, though a mean of numbers has no
// meaning: a patch between segments 2 and 8 may become 5. PatchRule::majority takes the segment with most pixels
// instead.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <tessera/data/augment.hpp>
#include <tessera/data/felzenszwalb.hpp>

namespace tessera::data {

/// A rectangle in a picture whose first column is at 0 and whose last is at 1; rows alike.
struct RelativeBox {
  float x0 = 0, y0 = 0, x1 = 1, y1 = 1;
};

/// Where the pixels of `box` lie in a picture of width x height, first and last pixel included. An axis of one pixel is
/// whole.
inline RelativeBox relative_box(const Box& box, int width, int height) {
  require(box.left >= 0 && box.top >= 0 && box.left < box.right && box.top < box.bottom && box.right <= width &&
              box.bottom <= height,
          "relative_box: box (", box.left, ", ", box.top, ", ", box.right, ", ", box.bottom, ") of a picture of ",
          width, " x ", height);
  const auto at = [](int pixel, int extent, float whole) {
    return extent == 1 ? whole : float(double(pixel) / (extent - 1));
  };
  return {at(box.left, width, 0), at(box.top, height, 0), at(box.right - 1, width, 1), at(box.bottom - 1, height, 1)};
}

/// The part of a map, of any resolution, inside `box`; columns from ⌊x0 W⌋ to ⌈x1 W⌉, rows alike. The whole map where
/// that leaves fewer than two columns or rows.
inline SegmentMap crop_labels(const SegmentMap& map, const RelativeBox& box) {
  require(!map.empty(), "crop_labels: a map of ", map.width, " x ", map.height);
  require(0 <= box.x0 && box.x0 <= box.x1 && box.x1 <= 1 && 0 <= box.y0 && box.y0 <= box.y1 && box.y1 <= 1,
          "crop_labels: box (", box.x0, ", ", box.y0, ", ", box.x1, ", ", box.y1, ") is not ordered or not in [0, 1]");
  const int left = int(box.x0 * float(map.width)), top = int(box.y0 * float(map.height));
  const int right = std::min(map.width, int(std::ceil(box.x1 * float(map.width))));
  const int bottom = std::min(map.height, int(std::ceil(box.y1 * float(map.height))));
  if (right - left < 2 || bottom - top < 2) return map;
  SegmentMap part(right - left, bottom - top);
  for (int y = 0; y < part.height; ++y) std::copy_n(map.row(top + y) + left, part.width, part.row(y));
  return part;
}

/// A map at another size: output i takes the label at ⌊i · in / out⌋, computed in float, as PyTorch's "nearest" does.
/// (It is not the label under the pixel's centre, which resize() of a LabelMap takes.)
inline SegmentMap resize_labels(const SegmentMap& map, int width, int height) {
  require(!map.empty() && width > 0 && height > 0, "resize_labels: a map of ", map.width, " x ", map.height, " to ",
          width, " x ", height);
  const auto positions = [](int in, int out) {
    const float step = float(in) / float(out);
    std::vector<int> from(static_cast<size_t>(out));
    for (int i = 0; i < out; ++i) from[size_t(i)] = std::min(int(std::floor(float(i) * step)), in - 1);
    return from;
  };
  const std::vector<int> columns = positions(map.width, width), rows = positions(map.height, height);
  SegmentMap result(width, height);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) result.at(x, y) = map.at(columns[size_t(x)], rows[size_t(y)]);
  return result;
}

/// Left and right exchanged.
inline SegmentMap flip(const SegmentMap& map) {
  SegmentMap result(map.width, map.height);
  for (int y = 0; y < map.height; ++y) std::reverse_copy(map.row(y), map.row(y) + map.width, result.row(y));
  return result;
}

/// How a patch's label comes from its pixels' labels.
enum class PatchRule {
  floor_mean,  ///< their mean, rounded down: the published training's
  majority     ///< the most frequent; the lowest of several
};

/// One label for each patch of `patch_width` x `patch_height` pixels, which must divide the map (ValueError). Labels
/// must not be below 0.
inline SegmentMap patch_labels(const SegmentMap& map, int patch_width, int patch_height,
                               PatchRule rule = PatchRule::floor_mean) {
  require(patch_width > 0 && patch_height > 0 && !map.empty() && map.width % patch_width == 0 &&
              map.height % patch_height == 0,
          "patch_labels: patches of ", patch_width, " x ", patch_height, " do not divide a map of ", map.width, " x ",
          map.height);
  SegmentMap patches(map.width / patch_width, map.height / patch_height);
  std::vector<int32_t> pixels(size_t(patch_width) * size_t(patch_height));
  for (int row = 0; row < patches.height; ++row)
    for (int column = 0; column < patches.width; ++column) {
      for (int y = 0; y < patch_height; ++y)
        std::copy_n(map.row(row * patch_height + y) + column * patch_width, patch_width,
                    pixels.begin() + ptrdiff_t(y) * patch_width);
      int64_t sum = 0;
      int32_t most = 0;
      if (rule == PatchRule::floor_mean) {
        for (int32_t label : pixels) sum += label;
        most = int32_t(sum / int64_t(pixels.size()));
      } else {
        std::sort(pixels.begin(), pixels.end());
        ptrdiff_t longest = 0;
        for (auto begin = pixels.begin(); begin != pixels.end();) {
          const auto end = std::upper_bound(begin, pixels.end(), *begin);
          if (end - begin > longest) {
            longest = end - begin;
            most = *begin;
          }
          begin = end;
        }
      }
      patches.at(column, row) = most;
    }
  return patches;
}
/// Square patches.
inline SegmentMap patch_labels(const SegmentMap& map, int patch, PatchRule rule = PatchRule::floor_mean) {
  return patch_labels(map, patch, patch, rule);
}

/// What a training crop needs to get labels for its patches.
struct PatchSegmentOptions {
  FelzenszwalbOptions felzenszwalb = {};  ///< of superpixels that are computed, not stored
  int side = 224;                         ///< of the crop after resizing, in pixels
  int patch = 16;                         ///< of a patch; must divide `side`
  PatchRule rule = PatchRule::floor_mean;
  int grid() const { return side / patch; }
};

/// The labels [grid, grid] of the patches of a crop that was drawn in a picture of width x height, from the picture's
/// superpixels `map`, whose resolution may be another. A mirrored crop has its map mirrored before the patches are
/// read.
inline SegmentMap crop_patch_labels(const SegmentMap& map, const CropAndFlip& drawn, int width, int height,
                                    const PatchSegmentOptions& options) {
  SegmentMap part = resize_labels(crop_labels(map, relative_box(drawn.box, width, height)), options.side, options.side);
  if (drawn.flipped) part = flip(part);
  return patch_labels(part, options.patch, options.rule);
}

/// The same from the picture itself: its superpixels are computed first.
inline SegmentMap crop_patch_labels(const Image& image, const CropAndFlip& drawn, const PatchSegmentOptions& options) {
  return crop_patch_labels(felzenszwalb(to_rgb(image), options.felzenszwalb), drawn, image.width, image.height,
                           options);
}

/// Every segment in the mean colour of its pixels, with white lines between segments. `image` is RGB and as large as
/// `map`.
inline Image segment_picture(const Image& image, const SegmentMap& map) {
  require(image.channels == 3 && image.width == map.width && image.height == map.height && !map.empty(),
          "segment_picture: segments of ", map.width, " x ", map.height, " for a picture of ", image.width, " x ",
          image.height, " and ", image.channels, " channels");
  std::vector<std::array<int64_t, 4>> sums(size_t(map.count()));  // red, green, blue, pixels
  for (size_t i = 0; i < map.labels.size(); ++i) {
    auto& sum = sums[size_t(map.labels[i])];
    for (size_t c = 0; c < 3; ++c) sum[c] += image.pixels[3 * i + c];
    ++sum[3];
  }
  Image result(image.width, image.height);
  for (int y = 0; y < map.height; ++y)
    for (int x = 0; x < map.width; ++x) {
      const int32_t label = map.at(x, y);
      const bool border =
          (x + 1 < map.width && map.at(x + 1, y) != label) || (y + 1 < map.height && map.at(x, y + 1) != label);
      const auto& sum = sums[size_t(label)];
      for (size_t c = 0; c < 3; ++c) result.at(x, y)[c] = border ? 255 : uint8_t(sum[c] / sum[3]);
    }
  return result;
}

/// A label map for files, 16 bits a pixel. Throws ValueError for more than 65,536 segments.
inline LabelMap to_label_map(const SegmentMap& map) {
  LabelMap result(map.width, map.height);
  for (size_t i = 0; i < map.labels.size(); ++i) {
    require(map.labels[i] >= 0 && map.labels[i] <= UINT16_MAX, "to_label_map: segment ", map.labels[i],
            " does not fit into 16 bits; a larger min_size gives fewer segments");
    result.labels[i] = uint16_t(map.labels[i]);
  }
  return result;
}
/// And back.
inline SegmentMap to_segment_map(const LabelMap& map) {
  SegmentMap result(map.width, map.height);
  std::copy(map.labels.begin(), map.labels.end(), result.labels.begin());
  return result;
}

}  // namespace tessera::data
