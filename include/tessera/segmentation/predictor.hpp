// From a picture of any size to a label map: resize, normalise and pad; let a system score its grid of patches, at once
// or window by window; resample the scores to the picture where they belong, and take the best class.
//
//   picture [H0, W0] -> resized [H, W] -> padded to whole patches -> scores [N, h, w] -> labels [H0, W0]
//
// Geometry is exact throughout: patch k is centred at pixel patch / 2 + stride * k of the resized picture, a resized
// pixel i at (i + 1/2), and the original picture covers the resized one. Padding takes part in the last patches and
// otherwise nowhere. No array of classes x H0 x W0 is ever held.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <tessera/core/math.hpp>
#include <tessera/data/image.hpp>
#include <tessera/data/resize.hpp>
#include <tessera/ops/interpolate.hpp>
#include <tessera/ops/patches.hpp>
#include <tessera/ops/upsample_argmax.hpp>
#include <tessera/segmentation/windows.hpp>

namespace tessera::segmentation {

using data::Image;
using data::LabelMap;

/// What a system makes of one normalised, padded image.
struct DenseScores {
  PatchGrid grid;                     ///< of the scores: the image's patches, or its pixels
  Tensor<float, 2> patch_embeddings;  ///< [P, E], of length 1, or absent
  Tensor<float, 2> scores;            ///< [P, N]: cosines (after key smoothing: weighted probabilities)
  Tensor<float, 1> gate;              ///< [N], or absent: added to the scores of the whole image before the argmax
  bool of_pixels = false;             ///< scores lie on pixels, not on patches
  /// [H, W], or absent: the group that each pixel of the image (padded, as it was given) belongs to.
  Tensor<uint16_t, 2> groups = {};
};

/// A model that scores patches against texts, whichever system and element type it has.
class DenseModel {
 public:
  virtual ~DenseModel() = default;

  /// "maskclip", "pacl", …
  virtual std::string system() const = 0;
  /// [n, E] as the text tower gives them, from ids [n, context_length].
  virtual Tensor<float, 2> encode_text(Context<Cpu>& ctx, const Tensor<int32_t, 2>& ids) const = 0;
  /// Of one image [1, 3, H, W] that patches of patch_size() at distance stride() fit; class_embeddings [N, E].
  virtual DenseScores score(Context<Cpu>& ctx, const Tensor<float, 4>& image,
                            const TensorView<const float, 2>& class_embeddings) const = 0;
  /// [N]: how well the whole image [1, 3, H, W] fits each class, a cosine.
  virtual Tensor<float, 1> score_image(Context<Cpu>& ctx, const Tensor<float, 4>& image,
                                       const TensorView<const float, 2>& class_embeddings) const = 0;

  virtual int64_t image_size() const = 0;  ///< side of the pictures that it was trained on
  virtual int64_t patch_size() const = 0;
  virtual int64_t stride() const { return patch_size(); }  ///< pixels from patch to patch
  virtual int groups() const { return 0; }                 ///< that patches are gathered into; 0: they are not
  /// Whether scores have a last row more than classes were given: the background's.
  virtual bool scores_background() const { return false; }
  /// Side of the windows in which the published evaluation sees pictures; 0: at once.
  virtual int64_t usual_window() const { return 0; }
  /// Tokens of a text, at most; ids have as many columns.
  virtual int64_t context_length() const = 0;
  /// Rows of the token table; ids lie below.
  virtual int64_t vocabulary_size() const = 0;
  /// Of the cosines before a softmax over classes: exp(logit_scale), at most 100.
  virtual double scale() const = 0;
  /// How pictures are to be normalised.
  virtual data::ImageStatistics statistics() const = 0;
};

/// At what size, and in which windows, a picture is seen.
struct PredictorOptions {
  int size = 0;             ///< short side of the resized picture; 0: the model's image size
  int longest_side = 2048;  ///< of the resized picture; a longer one is made smaller, keeping its proportions
  int window = 0;           ///< side of sliding windows, in resized pixels; 0: the whole picture at once
  int window_stride = 0;    ///< 0: half the window
  /// Pictures are resized as mmsegmentation does: by OpenCV's bilinear filter, which does not smooth, both sides
  /// rounded.
  bool opencv_resize = false;
};

/// The scores of one picture, coarse, and where they lie on it.
struct ScoreMap {
  Tensor<float, 3> scores;            ///< [N, h, w]
  Tensor<float, 3> gate;              ///< [N, 1, 1] or [N, h, w], or absent: added before the argmax
  Tensor<float, 3> patch_embeddings;  ///< [h, w, E], or absent (windows)
  /// Of the resized picture, or empty: the group of each pixel. Windows count their groups apart.
  LabelMap groups;
  double first = 0, spacing = 1;  ///< centre of cell 0 and distance of cells, in pixels of the resized picture
  data::Size resized, original;
};

/// The resized picture's size: CLIP's rule (the short side becomes `side`, the long one is truncated); where the long
/// side would be above `longest`, it becomes `longest` and the short one is rounded.
inline data::Size resized_size(const Image& image, int side, int longest) {
  require(side > 0 && longest >= side, "the short side must become 1 to ", longest, " pixels, not ", side);
  const int64_t small = std::min(image.width, image.height), large = std::max(image.width, image.height);
  require(small > 0, "a picture of ", image.width, " x ", image.height, " pixels cannot be resized");
  return int64_t(side) * large / small <= longest ? data::short_side_size(image.width, image.height, side)
                                                  : data::keep_ratio_size(image.width, image.height, longest, side);
}

/// An RGB picture as a model's input [1, 3, H, W]: normalised, then padded at the bottom and the right with zeros (the
/// mean colour) until patches of `patch` pixels at distance `stride` fit.
inline Tensor<float, 4> padded_tensor(Context<Cpu>& ctx, const Image& image, const data::ImageStatistics& statistics,
                                      int64_t patch, int64_t stride) {
  const PatchGrid grid = patch_grid(image.height, image.width, {patch, stride, PatchRemainder::pad});
  const int64_t height = (grid.height - 1) * stride + patch, width = (grid.width - 1) * stride + patch;
  const Tensor<float, 3> picture = data::to_tensor(ctx, image, statistics);
  if (height == image.height && width == image.width) return picture.reshaped(Shape<4>{1, 3, height, width});
  auto padded = Tensor<float, 4>::zeros(ctx, {1, 3, height, width});
  for (int64_t c = 0; c < 3; ++c)
    for (int y = 0; y < image.height; ++y) std::copy_n(&picture(c, y, 0), image.width, &padded(0, c, y, 0));
  return padded;
}

namespace detail {

/// [P, N] -> [N, h, w]
inline Tensor<float, 3> as_planes(Context<Cpu>& ctx, const Tensor<float, 2>& scores, PatchGrid grid) {
  const int64_t patches = scores.shape[0], classes = scores.shape[1];
  Tensor<float, 3> planes(ctx, {classes, grid.height, grid.width});
  for (int64_t p = 0; p < patches; ++p)
    for (int64_t n = 0; n < classes; ++n) planes.data[n * patches + p] = scores(p, n);
  return planes;
}

/// Writes the groups of a window's pixels into the whole picture's; numbers go on from `offset`.
inline void add_groups(LabelMap& all, const Tensor<uint16_t, 2>& groups, const Box& box, int offset) {
  if (all.labels.empty()) return;
  for (int y = 0; y < box.height(); ++y)
    for (int x = 0; x < box.width(); ++x) all.at(box.left + x, box.top + y) = uint16_t(groups(y, x) + offset);
}

/// Where pixels that are `scale` resized pixels wide lie on a grid of cells.
inline AxisSampling pixels_on_cells(double first, double spacing, double scale) {
  return AxisSampling::centres(first, spacing, 0.5 * scale, scale);
}

}  // namespace detail

/// Scores of classes (embeddings [N, E], of length 1) on a picture: at once, or averaged over sliding windows, whose
/// map has the resized picture's size. Throws ValueError for options outside their range.
inline ScoreMap score_picture(Context<Cpu>& ctx, const DenseModel& model,
                              const TensorView<const float, 2>& class_embeddings, const Image& picture,
                              const PredictorOptions& options = {}) {
  require(options.window >= 0 && options.window_stride >= 0, "window ", options.window, " and stride ",
          options.window_stride, " must not be negative");
  ScoreMap map;
  map.original = {picture.width, picture.height};
  const int side = options.size > 0 ? options.size : int(model.image_size());
  map.resized = options.opencv_resize ? data::keep_ratio_size(picture.width, picture.height, options.longest_side, side)
                                      : resized_size(picture, side, options.longest_side);
  const Image rgb = data::to_rgb(picture);
  const Image resized = options.opencv_resize
                            ? data::resize_cv2_linear(rgb, map.resized.width, map.resized.height)
                            : data::resize(rgb, map.resized.width, map.resized.height, data::Filter::bicubic);
  const auto score = [&](const Image& image) {
    const auto input = padded_tensor(ctx, image, model.statistics(), model.patch_size(), model.stride());
    DenseScores dense = model.score(ctx, input, class_embeddings);
    for (int64_t i = 0; i < dense.scores.size(); ++i)
      require(std::isfinite(dense.scores.data[i]), "score_picture: the ", model.system(),
              " model gave a score that is not a number; its weights hold NaN or infinite values, or overflow");
    return dense;
  };
  const auto first = [&](const DenseScores& dense) { return dense.of_pixels ? 0.5 : 0.5 * double(model.patch_size()); };
  const auto spacing = [&](const DenseScores& dense) { return dense.of_pixels ? 1.0 : double(model.stride()); };
  const auto begin_groups = [&](const DenseScores& dense) {
    if (dense.groups) map.groups = LabelMap(map.resized.width, map.resized.height);
  };
  if (options.window == 0) {
    const DenseScores dense = score(resized);
    map.first = first(dense);
    map.spacing = spacing(dense);
    begin_groups(dense);
    detail::add_groups(map.groups, dense.groups, {0, 0, map.resized.width, map.resized.height}, 0);
    map.scores = detail::as_planes(ctx, dense.scores, dense.grid);
    if (dense.gate) map.gate = dense.gate.reshaped(Shape<3>{dense.gate.shape[0], 1, 1});
    if (dense.patch_embeddings && !dense.of_pixels)
      map.patch_embeddings = dense.patch_embeddings.reshaped(
          Shape<3>{dense.grid.height, dense.grid.width, dense.patch_embeddings.shape[1]});
    return map;
  }
  const int stride = options.window_stride > 0 ? options.window_stride : std::max(1, options.window / 2);
  const int height = map.resized.height, width = map.resized.width;
  std::optional<WindowAverage> scores, gates;
  int windows = 0;
  for (const Box& box : sliding_windows(width, height, options.window, stride)) {
    const DenseScores dense = score(data::crop(resized, box));
    const int64_t classes = dense.scores.shape[1];  // the model may score a background of its own
    if (!scores) {
      scores.emplace(ctx, classes, height, width);
      begin_groups(dense);
    }
    detail::add_groups(map.groups, dense.groups, box, windows++ * model.groups());
    const auto planes = detail::as_planes(ctx, dense.scores, dense.grid);
    const auto axis = detail::pixels_on_cells(first(dense), spacing(dense), 1);
    const auto upsampled = interpolate(ctx, planes.reshape(Shape<4>{1, classes, dense.grid.height, dense.grid.width}),
                                       {box.height(), box.width()}, {.rows = axis, .columns = axis});
    scores->add(box, upsampled.select(0, 0));
    if (!dense.gate) continue;
    if (!gates) gates.emplace(ctx, classes, height, width);
    Tensor<float, 3> constant(ctx, {classes, box.height(), box.width()});
    for (int64_t n = 0; n < classes; ++n)
      std::fill_n(&constant(n, 0, 0), int64_t(box.width()) * box.height(), dense.gate(n));
    gates->add(box, constant);
  }
  map.first = 0.5;
  map.scores = scores->mean();
  if (gates) map.gate = gates->mean();
  return map;
}

/// How scores become labels.
struct LabelRule {
  std::vector<uint16_t> label_of_row = {};  ///< of each row of class embeddings; empty: its number
  /// Pixels whose largest probability, the softmax over rows of scale * score, is below this get background_label;
  /// 0: off.
  double background_threshold = 0;
  uint16_t background_label = 0;
  double scale = 100;
  /// Pixels where the entropy, in nats, of the softmax over rows of entropy_scale * score is above this get
  /// background_label (PACL); 0: off.
  double background_entropy = 0;
  double entropy_scale = 100;
};

namespace detail {

/// The scores that classes are compared by: scores + gate.
inline Tensor<float, 3> gated_scores(Context<Cpu>& ctx, const ScoreMap& map) {
  if (!map.gate) return map.scores;
  Tensor<float, 3> sum(ctx, map.scores.shape);
  const int64_t cells = map.scores.shape[1] * map.scores.shape[2], gates = map.gate.shape[1] * map.gate.shape[2];
  for (int64_t n = 0; n < map.scores.shape[0]; ++n)
    for (int64_t i = 0; i < cells; ++i)
      sum.data[n * cells + i] = map.scores.data[n * cells + i] + map.gate.data[n * gates + (gates == 1 ? 0 : i)];
  return sum;
}

/// Sets the labels of pixels whose largest probability is below the threshold, or whose entropy is above its limit.
/// `best` [H, W] holds the largest score. With z = scale * (score - best) and Z the sum over classes of exp(z), the
/// largest probability is 1 / Z and the entropy log Z - (sum of z exp(z)) / Z; both are computed row by row.
inline void mark_background(const TensorView<const float, 3>& scores, const TensorView<const float, 2>& best,
                            const AxisSampling& rows, const AxisSampling& columns, const LabelRule& rule,
                            LabelMap& labels) {
  const int64_t classes = scores.shape[0], height = scores.shape[1], width = scores.shape[2];
  const float row_step = sampling_step<float>(height, labels.height, rows, false);
  const float column_step = sampling_step<float>(width, labels.width, columns, false);
  std::vector<Taps<float>> taps(size_t(labels.width));
  for (int64_t x = 0; x < labels.width; ++x)
    taps[size_t(x)] =
        sampling_taps<float>(x, width, labels.width, column_step, Interpolation::bilinear, columns, false);
  const bool by_entropy = rule.background_entropy > 0;
  const float scale = float(by_entropy ? rule.entropy_scale : rule.scale);
  const float largest_sum = float(1 / rule.background_threshold), largest_entropy = float(rule.background_entropy);
  parallel_for(labels.height, row_grain(classes * labels.width), [&](int64_t begin, int64_t end) {
    std::vector<float> line(static_cast<size_t>(width)), sum(size_t(labels.width)), weighted(size_t(labels.width));
    for (int64_t y = begin; y < end; ++y) {
      const auto vertical =
          sampling_taps<float>(y, height, labels.height, row_step, Interpolation::bilinear, rows, false);
      std::fill(sum.begin(), sum.end(), 0.f);
      std::fill(weighted.begin(), weighted.end(), 0.f);
      for (int64_t n = 0; n < classes; ++n) {
        const float *upper = &scores(n, vertical.index[0], 0), *lower = &scores(n, vertical.index[1], 0);
        for (int64_t i = 0; i < width; ++i)
          line[size_t(i)] = vertical.weight[0] * upper[i] + vertical.weight[1] * lower[i];
        for (int64_t x = 0; x < labels.width; ++x) {
          const auto& tap = taps[size_t(x)];
          const float score = tap.weight[0] * line[size_t(tap.index[0])] + tap.weight[1] * line[size_t(tap.index[1])];
          const float z = scale * (score - best(y, x)), e = math::exp(z);
          sum[size_t(x)] += e;
          if (by_entropy && e > 0) weighted[size_t(x)] += z * e;
        }
      }
      for (int64_t x = 0; x < labels.width; ++x) {
        const float total = sum[size_t(x)];
        const bool background =
            by_entropy ? std::log(total) - weighted[size_t(x)] / total > largest_entropy : total > largest_sum;
        if (background) labels.at(int(x), int(y)) = rule.background_label;
      }
    }
  });
}

}  // namespace detail

/// The label of every pixel of the original picture. Throws ValueError for a threshold outside [0, 1] or a negative
/// entropy.
inline LabelMap label_picture(Context<Cpu>& ctx, const ScoreMap& map, const LabelRule& rule = {}) {
  const int64_t rows_of_scores = map.scores.shape[0];
  require(rule.background_threshold >= 0 && rule.background_threshold <= 1, "the background threshold is ",
          rule.background_threshold, ", but the probability that it is compared with lies in [0, 1]");
  require(rule.background_entropy >= 0 && rule.entropy_scale > 0, "the background entropy is ", rule.background_entropy,
          " nats and its scale ", rule.entropy_scale, "; the one must not be negative, the other be positive");
  require(rule.background_threshold == 0 || rule.background_entropy == 0,
          "the background is told by the largest probability or by the entropy, not by both");
  require(rule.label_of_row.empty() || int64_t(rule.label_of_row.size()) == rows_of_scores,
          "label_picture: ", rule.label_of_row.size(), " labels for ", rows_of_scores, " rows of scores");
  const auto scores = detail::gated_scores(ctx, map);
  const AxisSampling rows =
      detail::pixels_on_cells(map.first, map.spacing, double(map.resized.height) / map.original.height);
  const AxisSampling columns =
      detail::pixels_on_cells(map.first, map.spacing, double(map.resized.width) / map.original.width);
  const bool with_background = rule.background_threshold > 0 || rule.background_entropy > 0;
  Tensor<uint16_t, 3> winners(ctx, {1, map.original.height, map.original.width});
  Tensor<float, 3> best;
  if (with_background) best = Tensor<float, 3>(ctx, winners.shape);
  upsample_argmax_forward(ctx, view(winners), best,
                          view(scores.reshaped(Shape<4>{1, rows_of_scores, scores.shape[1], scores.shape[2]})),
                          {.rows = rows, .columns = columns});
  LabelMap labels(map.original.width, map.original.height);
  for (size_t i = 0; i < labels.labels.size(); ++i) {
    const uint16_t row = winners.data[i];
    labels.labels[i] = rule.label_of_row.empty() ? row : rule.label_of_row[row];
  }
  if (with_background) detail::mark_background(scores, best.select(0, 0), rows, columns, rule, labels);
  return labels;
}

}  // namespace tessera::segmentation
