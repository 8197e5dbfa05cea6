// How well a score tells two kinds apart, at every threshold: ROC and precision-recall curves with the areas below
// them. At a threshold everything that scores at least as much is called positive; of equal scores none is told from
// the other, so a curve moves over all of them at once.
//
// The area below the ROC curve is the probability that a positive scores above a negative, a tie counting half (the
// rank statistic of Mann and Whitney). Average precision is the sum over thresholds of precision x gain in recall:
// no interpolation between thresholds, which would flatter.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include <tessera/core/error.hpp>

namespace tessera::segmentation {

/// What one threshold makes of the scores.
struct RocPoint {
  double threshold = 0;
  double false_positive_rate = 0;  ///< negatives called positive / all negatives
  double true_positive_rate = 0;   ///< positives called positive / all positives: recall
  double precision = 1;            ///< positives among what is called positive
};

/// The whole sweep, from the highest score down.
struct RocCurve {
  int64_t positives = 0, negatives = 0;
  double area = 0;               ///< below the ROC curve: 0.5 is chance, 1 is perfect
  double average_precision = 0;  ///< chance is positives / (positives + negatives)
  /// The largest mean of true positive and true negative rate, and the (highest) threshold that has it.
  double best_balanced_accuracy = 0.5, best_threshold = 0;
  /// Thresholds at which a rate has moved by at least 1 / resolution since the last, and the lowest score.
  std::vector<RocPoint> points;
};

/// The curve of the scores of positives and of negatives, in any order. Throws ValueError where either has none or a
/// score is not a finite number.
inline RocCurve roc_curve(std::vector<float> positive, std::vector<float> negative, int resolution = 256) {
  require(!positive.empty() && !negative.empty(), "roc_curve: ", positive.size(), " positives and ", negative.size(),
          " negatives; a curve needs both");
  require(resolution > 0, "roc_curve: a resolution of ", resolution);
  require(positive.size() < (size_t(1) << 30) && negative.size() < (size_t(1) << 30), "roc_curve: ", positive.size(),
          " positives and ", negative.size(), " negatives; at most 2^30 of each are counted exactly");
  for (const auto* scores : {&positive, &negative})
    for (const float score : *scores) require(std::isfinite(score), "roc_curve: a score is ", score);
  std::sort(positive.begin(), positive.end(), std::greater<>());
  std::sort(negative.begin(), negative.end(), std::greater<>());

  RocCurve curve;
  curve.positives = int64_t(positive.size());
  curve.negatives = int64_t(negative.size());
  const double all_positive = double(positive.size()), all_negative = double(negative.size());
  int64_t pairs_won = 0;  // twice the number of (positive, negative) pairs in order; a tie counts one
  size_t true_positives = 0, false_positives = 0;
  RocPoint kept;
  while (true_positives < positive.size() || false_positives < negative.size()) {
    RocPoint point;
    if (false_positives == negative.size() ||
        (true_positives < positive.size() && positive[true_positives] >= negative[false_positives]))
      point.threshold = double(positive[true_positives]);
    else
      point.threshold = double(negative[false_positives]);
    const size_t positives_above = true_positives, negatives_above = false_positives;
    while (true_positives < positive.size() && double(positive[true_positives]) == point.threshold) ++true_positives;
    while (false_positives < negative.size() && double(negative[false_positives]) == point.threshold) ++false_positives;
    const auto found = int64_t(true_positives - positives_above);
    pairs_won += int64_t(false_positives - negatives_above) * (2 * int64_t(positives_above) + found);

    point.true_positive_rate = double(true_positives) / all_positive;
    point.false_positive_rate = double(false_positives) / all_negative;
    point.precision = double(true_positives) / double(true_positives + false_positives);
    curve.average_precision += double(found) / all_positive * point.precision;
    const double balanced = (point.true_positive_rate + 1 - point.false_positive_rate) / 2;
    if (balanced > curve.best_balanced_accuracy) {
      curve.best_balanced_accuracy = balanced;
      curve.best_threshold = point.threshold;
    }
    const double moved = std::max(point.true_positive_rate - kept.true_positive_rate,
                                  point.false_positive_rate - kept.false_positive_rate);
    const bool last = true_positives == positive.size() && false_positives == negative.size();
    if (moved * resolution >= 1 || last) curve.points.push_back(kept = point);
  }
  curve.area = double(pairs_won) / (2 * all_positive * all_negative);
  return curve;
}

}  // namespace tessera::segmentation
