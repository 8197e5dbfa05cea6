// What SegCLIP says of one image: which group each pixel belongs to, and which classes a group shows.
//
// Official (the released evaluation): masks are the soft assignments, enlarged to pixels before the largest is taken; a
// group's affinity to a class is its probability among all classes times its probability among the few classes that fit
// the whole image best; the background's score is 1 where no affinity reaches a threshold, else 0. Cosine (the paper's
// equation): every patch has its group's cosines with the classes, and scores, not masks, are enlarged.
#pragma once
#include <limits>
#include <numeric>

#include <tessera/ops/similarity.hpp>
#include <tessera/ops/softmax.hpp>
#include <tessera/segmentation/predictor.hpp>

namespace tessera::systems {

enum class SegclipForm : uint8_t { official, cosine };

struct SegclipReadout {
  SegclipForm form = SegclipForm::official;
  int64_t likely_classes = 5;  ///< official: classes that fit the whole image best; others are not considered
  /// Official: a row for the background, whose score is 1 where no affinity of a pixel's group reaches the threshold or
  /// the image's largest affinity (so that an image's best group is never background); 0: no such row. Published: 0.80
  /// for PASCAL VOC (paper: 0.75), 0.25 for Context, 0.65 for COCO.
  double background = 0;
};

/// One image's embeddings in host memory.
struct SegclipEmbeddings {
  Tensor<float, 2> image;    ///< [1, E], L2-normalised
  Tensor<float, 2> regions;  ///< [G, E], L2-normalised
  Tensor<float, 2> logits;   ///< [P, G], of the assignment
  PatchGrid grid;
};

namespace detail {

/// Affinities [G, N] of groups and classes.
inline Tensor<float, 2> segclip_affinities(Context<Cpu>& ctx, const SegclipEmbeddings& seen,
                                           const TensorView<const float, 2>& classes, double scale,
                                           int64_t likely_classes) {
  const auto logits = [&](const Tensor<float, 2>& embeddings) {
    const auto cosines = matmul(ctx, embeddings, classes, {}, {.transpose_b = true});
    return tessera::scale(ctx, view(cosines), scale);
  };
  const Tensor<float, 2> of_image = logits(seen.image), of_groups = logits(seen.regions);
  const auto among_all = softmax(ctx, view(of_groups));
  const auto [groups, count] = of_groups.shape;
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t(0));
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return of_image(0, a) > of_image(0, b); });
  for (int64_t i = likely_classes; i < count; ++i)
    for (int64_t g = 0; g < groups; ++g) of_groups(g, order[size_t(i)]) = -std::numeric_limits<float>::infinity();
  const auto among_likely = softmax(ctx, view(of_groups));
  return multiply(ctx, view(among_all), view(among_likely));
}

}  // namespace detail

/// Scores of the classes [N, E] (L2-normalised) on an image of height x width pixels. `scale`: the model's logit
/// factor.
inline segmentation::DenseScores segclip_scores(Context<Cpu>& ctx, const SegclipEmbeddings& seen, int64_t height,
                                                int64_t width, const TensorView<const float, 2>& classes, double scale,
                                                const SegclipReadout& readout) {
  require(readout.likely_classes > 0, "segclip: the ", readout.likely_classes, " likeliest classes; there must be one");
  require(readout.background >= 0 && readout.background <= 1, "segclip: the background threshold ", readout.background,
          " must lie in [0, 1]");
  const int64_t patches = seen.logits.shape[0], groups = seen.logits.shape[1], count = classes.shape[0];
  segmentation::DenseScores result;
  const auto soft = softmax(ctx, view(seen.logits));
  const auto masks = segmentation::detail::as_planes(ctx, soft, seen.grid);
  Tensor<uint16_t, 3> winners(ctx, {1, height, width});
  upsample_argmax_forward(ctx, view(winners), {},
                          view(masks.reshaped(Shape<4>{1, groups, seen.grid.height, seen.grid.width})));
  result.groups = winners.reshaped(Shape<2>{height, width});
  if (readout.form == SegclipForm::cosine) {
    const auto cosines = matmul(ctx, seen.regions, classes, {}, {.transpose_b = true});
    result.grid = seen.grid;
    result.scores = Tensor<float, 2>(ctx, {patches, count});
    result.patch_embeddings = Tensor<float, 2>(ctx, {patches, seen.regions.shape[1]});
    for (int64_t p = 0; p < patches; ++p) {
      const float* row = &soft(p, 0);
      const int64_t group = std::max_element(row, row + groups) - row;
      std::copy_n(&cosines(group, 0), count, &result.scores(p, 0));
      std::copy_n(&seen.regions(group, 0), seen.regions.shape[1], &result.patch_embeddings(p, 0));
    }
    return result;
  }
  const auto affinities = detail::segclip_affinities(ctx, seen, classes, scale, readout.likely_classes);
  const bool background = readout.background > 0;
  const int64_t rows = count + (background ? 1 : 0);
  Tensor<float, 2> of_group(ctx, {groups, rows});
  const float best = *std::max_element(affinities.data, affinities.data + affinities.size());
  const float threshold = std::min(float(readout.background), best);
  for (int64_t g = 0; g < groups; ++g) {
    const float* from = &affinities(g, 0);
    std::copy_n(from, count, &of_group(g, 0));
    if (background) of_group(g, count) = *std::max_element(from, from + count) < threshold ? 1.f : 0.f;
  }
  result.grid = {height, width};
  result.of_pixels = true;
  result.scores = Tensor<float, 2>(ctx, {height * width, rows});
  for (int64_t i = 0; i < height * width; ++i) std::copy_n(&of_group(winners.data[i], 0), rows, &result.scores(i, 0));
  return result;
}

}  // namespace tessera::systems
