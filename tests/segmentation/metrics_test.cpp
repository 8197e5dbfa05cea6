// The confusion matrix and what is read from it, on examples counted by hand.
#include <cmath>

#include <support/catch.hpp>
#include <tessera/segmentation/metrics.hpp>

using namespace tessera;
using namespace tessera::segmentation;

namespace {
LabelMap row(std::vector<uint16_t> labels) {
  LabelMap map(int(labels.size()), 1);
  map.labels = std::move(labels);
  return map;
}
}  // namespace

TEST_CASE("metrics: a case counted by hand, by both rules", "[segmentation]") {
  // Class 0: 2 found of 3 labelled, 3 predicted. Class 1: 1 of 2, 1 predicted. Class 2: predicted, never labelled.
  // Class 3: neither. The last pixel is ignored, and so is what was predicted there.
  ConfusionMatrix matrix(4);
  matrix.add(row({0, 0, 2, 1, 0, 1}), row({0, 0, 0, 1, 1, 255}));
  CHECK(matrix.at(0, 0) == 2);
  CHECK(matrix.at(0, 1) == 1);
  CHECK(matrix.at(1, 4) == 1);
  CHECK(matrix.predicted(1) == 1);
  CHECK(matrix.share(0, 1) == 0.5);
  CHECK(std::isnan(matrix.share(0, 3)));
  CHECK(matrix.labelled(0) == 3);

  const auto mm = score(matrix, MeanRule::mmsegmentation);
  CHECK(mm.iou[0] == 2.0 / 4);
  CHECK(mm.iou[1] == 1.0 / 2);
  CHECK(mm.iou[2] == 0.0);
  CHECK(std::isnan(mm.iou[3]));
  CHECK(mm.mean_iou == Approx(1.0 / 3).epsilon(1e-15));
  CHECK(mm.pixel_accuracy == 3.0 / 5);
  CHECK(mm.mean_accuracy == Approx((2.0 / 3 + 0.5) / 2).epsilon(1e-15));
  CHECK(mm.frequency_weighted_iou == Approx((3 * 0.5 + 2 * 0.5) / 5).epsilon(1e-15));

  const auto d2 = score(matrix, MeanRule::detectron2);
  CHECK(std::isnan(d2.iou[2]));
  CHECK(d2.mean_iou == Approx(0.5).epsilon(1e-15));
  CHECK(d2.mean_accuracy == mm.mean_accuracy);
}

TEST_CASE("metrics: counting goes over the data set, in parts or at once", "[segmentation]") {
  const LabelMap a = row({0, 1, 1, 2}), b = row({0, 1, 2, 2}), c = row({2, 2, 0, 1}), d = row({2, 255, 0, 0});
  ConfusionMatrix whole(3), first(3), second(3);
  whole.add(a, b);
  whole.add(c, d);
  first.add(a, b);
  second.add(c, d);
  first.merge(second);
  CHECK(first.counts() == whole.counts());
  REQUIRE_ERROR(first.merge(ConfusionMatrix(4)), ValueError, "4 classes into 3");
}

TEST_CASE("metrics: nothing counted is not a number; counts go beyond 32 bits", "[segmentation]") {
  ConfusionMatrix matrix(2);
  CHECK(std::isnan(score(matrix).mean_iou));
  CHECK(std::isnan(score(matrix).pixel_accuracy));
  matrix.add(row({0, 1}), row({0, 1}));
  for (int doubling = 0; doubling < 40; ++doubling) matrix.merge(ConfusionMatrix(matrix));
  CHECK(matrix.found(0) == int64_t(1) << 40);
  CHECK(score(matrix).mean_iou == 1.0);
}

TEST_CASE("metrics: labels that are no class are refused, with nothing counted", "[segmentation]") {
  ConfusionMatrix matrix(3);
  REQUIRE_ERROR(matrix.add(row({0, 3}), row({0, 0})), ValueError, "predicted class 3 of 3");
  REQUIRE_ERROR(matrix.add(row({0, 0}), row({0, 7})), ValueError, "label 7");
  REQUIRE_ERROR(matrix.add(row({0}), row({0, 0})), ValueError, "1 x 1 for a truth of 2 x 1");
  CHECK(matrix.counts() == ConfusionMatrix(3).counts());
}

TEST_CASE("metrics: reduce_zero_label", "[segmentation]") {
  LabelMap map = row({0, 1, 2, 254, 255});
  reduce_zero_label(map);
  CHECK(map.labels == std::vector<uint16_t>{255, 0, 1, 253, 255});
  LabelMap wide = row({0, 256});
  REQUIRE_ERROR(reduce_zero_label(wide), ValueError, "label 256");
  CHECK(wide.labels[0] == 0);
}
