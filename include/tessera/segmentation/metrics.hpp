// Scores of a segmentation over a whole data set: a confusion matrix, counted in 64 bits, and what is read from it by
// the rules of mmsegmentation and of detectron2. With I the pixels of a class that were found, P those predicted and G
// those labelled (ignored pixels count nowhere): IoU = I / (P + G - I), accuracy = I / G. The two rules differ only in
// the classes over which the mean IoU goes: mmsegmentation takes all that occur in prediction or truth, detectron2
// those that occur in the truth.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <tessera/data/pixels.hpp>

namespace tessera::segmentation {

using data::LabelMap;

/// Data sets that number their classes from 1: 0 (nothing, or background) becomes 255 (ignored), all others go down by
/// one, 255 stays. In place, on labels of at most 8 bits (ValueError).
inline void reduce_zero_label(LabelMap& map) {
  for (uint16_t label : map.labels) require(label <= 255, "reduce_zero_label: label ", int(label), " is above 255");
  for (uint16_t& label : map.labels) label = label == 0 || label == 255 ? 255 : uint16_t(label - 1);
}

/// Counts of pixels by predicted and true class, over as many pictures as are added.
class ConfusionMatrix {
 public:
  explicit ConfusionMatrix(int classes, int ignored = data::ignore_label) : classes_(classes), ignored_(ignored) {
    require(classes > 0, "ConfusionMatrix: ", classes, " classes");
    counts_.assign(size_t(classes) * size_t(classes + 1), 0);
  }

  /// The number of classes.
  int classes() const { return classes_; }
  /// Pixels predicted as `prediction` and labelled `truth`; the truth numbered classes() stands for ignored.
  int64_t at(int prediction, int truth) const { return counts_[index(prediction, truth)]; }
  /// [classes, classes + 1], as at().
  const std::vector<int64_t>& counts() const { return counts_; }

  /// Counts one picture. ValueError, with nothing counted, where the sizes differ or a label is neither a class nor
  /// (in the truth) the ignored one.
  void add(const LabelMap& prediction, const LabelMap& truth) {
    require(prediction.width == truth.width && prediction.height == truth.height,
            "ConfusionMatrix::add: a prediction of ", prediction.width, " x ", prediction.height, " for a truth of ",
            truth.width, " x ", truth.height, "; scores are resized to the truth's size before the argmax");
    for (size_t i = 0; i < truth.labels.size(); ++i) {
      const int predicted = prediction.labels[i], label = truth.labels[i];
      require(predicted < classes_, "ConfusionMatrix::add: predicted class ", predicted, " of ", classes_);
      require(label < classes_ || label == ignored_, "ConfusionMatrix::add: label ", label,
              " in the truth is neither one of ", classes_, " classes nor ", ignored_, " (ignored)");
    }
    for (size_t i = 0; i < truth.labels.size(); ++i) {
      const int label = truth.labels[i];
      ++counts_[index(prediction.labels[i], label == ignored_ ? classes_ : label)];
    }
  }
  /// Of what is labelled `truth`, the share predicted as `prediction`; NaN where nothing is.
  double share(int prediction, int truth) const {
    const int64_t all = labelled(truth);
    return all == 0 ? std::numeric_limits<double>::quiet_NaN() : double(at(prediction, truth)) / double(all);
  }
  /// Adds another part's counts.
  void merge(const ConfusionMatrix& other) {
    require(other.classes_ == classes_, "ConfusionMatrix::merge: ", other.classes_, " classes into ", classes_);
    for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  }

  /// Predicted as `c`, and rightly so.
  int64_t found(int c) const { return at(c, c); }
  /// Predicted as `c` where the truth is not ignored.
  int64_t predicted(int c) const {
    int64_t sum = 0;
    for (int truth = 0; truth < classes_; ++truth) sum += at(c, truth);
    return sum;
  }
  /// `c` in the truth.
  int64_t labelled(int c) const {
    int64_t sum = 0;
    for (int prediction = 0; prediction < classes_; ++prediction) sum += at(prediction, c);
    return sum;
  }

 private:
  size_t index(int prediction, int truth) const { return size_t(prediction) * size_t(classes_ + 1) + size_t(truth); }

  int classes_, ignored_;
  std::vector<int64_t> counts_;
};

/// All in [0, 1]; NaN where undefined (nothing to divide by).
struct SegmentationScores {
  std::vector<double> iou;       ///< by class
  std::vector<double> accuracy;  ///< by class: recall
  double mean_iou = 0;
  double mean_accuracy = 0;
  double pixel_accuracy = 0;  ///< aAcc, pACC
  double frequency_weighted_iou = 0;
};

/// Which classes a mean is taken over.
enum class MeanRule {
  mmsegmentation,  ///< a class that is predicted but occurs in no truth counts as 0
  detectron2,      ///< such a class is left out
};

namespace detail {
inline double ratio(int64_t part, int64_t whole) {
  return whole == 0 ? std::numeric_limits<double>::quiet_NaN() : double(part) / double(whole);
}
/// The mean of those that are numbers; NaN where none is.
inline double mean_of_defined(const std::vector<double>& values) {
  double sum = 0;
  int64_t count = 0;
  for (double value : values)
    if (!std::isnan(value)) {
      sum += value;
      ++count;
    }
  return count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / double(count);
}
}  // namespace detail

/// The scores of all that was counted. iou is NaN for classes that the rule leaves out.
inline SegmentationScores score(const ConfusionMatrix& matrix, MeanRule rule = MeanRule::mmsegmentation) {
  SegmentationScores scores;
  int64_t all_found = 0, all_labelled = 0;
  double weighted = 0;
  for (int c = 0; c < matrix.classes(); ++c) {
    const int64_t found = matrix.found(c), labelled = matrix.labelled(c);
    const int64_t joined = matrix.predicted(c) + labelled - found;
    const bool counts = rule == MeanRule::mmsegmentation || labelled > 0;
    scores.iou.push_back(counts ? detail::ratio(found, joined) : std::numeric_limits<double>::quiet_NaN());
    scores.accuracy.push_back(detail::ratio(found, labelled));
    if (labelled > 0) weighted += double(labelled) * scores.iou.back();
    all_found += found;
    all_labelled += labelled;
  }
  scores.mean_iou = detail::mean_of_defined(scores.iou);
  scores.mean_accuracy = detail::mean_of_defined(scores.accuracy);
  scores.pixel_accuracy = detail::ratio(all_found, all_labelled);
  scores.frequency_weighted_iou =
      all_labelled == 0 ? std::numeric_limits<double>::quiet_NaN() : weighted / double(all_labelled);
  return scores;
}

}  // namespace tessera::segmentation
