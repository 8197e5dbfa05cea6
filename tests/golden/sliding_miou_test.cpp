// Window boxes, averaging of overlapping windows, the confusion matrix and both rules of the mean IoU.
#include <cmath>
#include <string>
#include <vector>

#include <support/golden.hpp>
#include <tessera/data/resize.hpp>
#include <tessera/segmentation/metrics.hpp>
#include <tessera/segmentation/windows.hpp>

using namespace tessera;
using namespace tessera_test;
using data::Box;
using data::LabelMap;

namespace {

LabelMap label_map(const Case& which, const std::string& name) {
  const auto shape = which.shape(name);
  REQUIRE(shape.size() == 2);
  LabelMap map{int(shape[1]), int(shape[0])};
  map.labels = which.values<uint16_t>(name);
  return map;
}

/// Boxes as the files store them: (top, bottom, left, right).
std::vector<int64_t> stored_order(const std::vector<Box>& boxes) {
  std::vector<int64_t> values;
  for (const Box& box : boxes)
    for (int value : {box.top, box.bottom, box.left, box.right}) values.push_back(value);
  return values;
}

/// Bilinear with pixel centres at halves and clamped edges, in double: one value.
double bilinear(const TensorView<const float, 3>& map, int64_t c, double y, double x) {
  y = std::max(y, 0.0);
  x = std::max(x, 0.0);
  const auto y0 = int64_t(y), x0 = int64_t(x);
  const int64_t y1 = std::min(y0 + 1, map.shape[1] - 1), x1 = std::min(x0 + 1, map.shape[2] - 1);
  const double fy = y - double(y0), fx = x - double(x0);
  return (1 - fy) * ((1 - fx) * map(c, y0, x0) + fx * map(c, y0, x1)) +
         fy * ((1 - fx) * map(c, y1, x0) + fx * map(c, y1, x1));
}

void compare_one(const Case& which, const std::string& name, double ours) {
  compare(which, name, std::span<const double>(&ours, 1));
}

/// Undefined values are stored as -1.
std::vector<double> with_minus_one(std::vector<double> values) {
  for (double& value : values)
    if (std::isnan(value)) value = -1;
  return values;
}

}  // namespace

TEST_CASE("golden sliding_miou: sizes and window boxes", "[golden]") {
  for (const Case& which : find_cases("sliding_miou")) {
    const auto config = which.config();
    for (size_t i = 0; i < config["original_sizes"].size(); ++i) {
      const auto original = config["original_sizes"][i];
      const data::Size size = data::keep_ratio_size(original[1].as<int>(), original[0].as<int>(),
                                                    config["scale"][0].as<int>(), config["scale"][1].as<int>());
      compare_exactly<int>(which, sentence("out.windows.resized", i), std::vector<int>{size.height, size.width});
      const auto boxes =
          segmentation::sliding_windows(size.width, size.height, config.get<int>("crop"), config.get<int>("stride"));
      compare_exactly<int64_t>(which, sentence("out.windows.boxes", i), stored_order(boxes));
    }
  }
}

TEST_CASE("golden sliding_miou: averaged windows, enlarged, and their labels", "[golden]") {
  for (const Case& which : find_cases("sliding_miou")) {
    const auto toy = which.config()["toy"];
    const int height = toy.get<int>("H"), width = toy.get<int>("W");
    Context<Cpu> ctx;
    segmentation::WindowAverage average(ctx, toy.get<int>("C"), height, width);
    const auto boxes = segmentation::sliding_windows(width, height, toy.get<int>("crop"), toy.get<int>("stride"));
    for (size_t i = 0; i < boxes.size(); ++i)
      average.add(boxes[i], which.read<float, 3>(ctx, sentence("input.win", i)));
    REQUIRE_FALSE(which.has(sentence("input.win", boxes.size())));
    compare(which, "mid.accumulate.count", average.count());
    const Tensor<float, 3> mean = average.mean();
    compare(which, "mid.accumulate.mean", mean);

    const int up_height = toy.get<int>("orig_h"), up_width = toy.get<int>("orig_w");
    std::vector<double> enlarged;
    for (int64_t c = 0; c < mean.shape[0]; ++c)
      for (int y = 0; y < up_height; ++y)
        for (int x = 0; x < up_width; ++x)
          enlarged.push_back(
              bilinear(mean, c, (y + 0.5) * height / up_height - 0.5, (x + 0.5) * width / up_width - 0.5));
    compare(which, "out.accumulate.up", std::span<const double>(enlarged));
    const size_t pixels = size_t(up_height) * size_t(up_width);
    std::vector<int64_t> labels(pixels, 0);
    for (size_t i = 0; i < pixels; ++i)
      for (size_t c = 1; c < enlarged.size() / pixels; ++c)
        if (enlarged[c * pixels + i] > enlarged[size_t(labels[i]) * pixels + i]) labels[i] = int64_t(c);
    compare_exactly<int64_t>(which, "out.accumulate.label", labels);
  }
}

TEST_CASE("golden sliding_miou: confusion and mean IoU by both rules", "[golden]") {
  for (const Case& which : find_cases("sliding_miou")) {
    const int classes = which.config().get<int>("classes");
    segmentation::ConfusionMatrix all(classes);
    std::vector<int64_t> of_each;
    for (int i = 0; which.has(sentence("input.pred", i)); ++i) {
      segmentation::ConfusionMatrix one(classes);
      one.add(label_map(which, sentence("input.pred", i)), label_map(which, sentence("input.gt", i)));
      of_each.insert(of_each.end(), one.counts().begin(), one.counts().end());
      all.merge(one);
    }
    compare_exactly<int64_t>(which, "mid.miou.confusion_per_image", of_each);
    compare_exactly<int64_t>(which, "out.miou.confusion", all.counts());

    const auto scores = segmentation::score(all, segmentation::MeanRule::mmsegmentation);
    compare(which, "out.miou.iou", std::span<const double>(with_minus_one(scores.iou)));
    compare(which, "out.miou.acc", std::span<const double>(with_minus_one(scores.accuracy)));
    compare_one(which, "out.miou.mIoU", scores.mean_iou);
    compare_one(which, "out.miou.mIoU_rounded", std::nearbyint(scores.mean_iou * 1e4) / 100);
    compare_one(which, "out.miou.aAcc", scores.pixel_accuracy);
    compare_one(which, "out.miou.mAcc", scores.mean_accuracy);
    compare_one(which, "out.miou.mIoU_detectron2",
                segmentation::score(all, segmentation::MeanRule::detectron2).mean_iou);
  }
}

TEST_CASE("golden sliding_miou: reduce_zero_label", "[golden]") {
  for (const Case& which : find_cases("sliding_miou")) {
    LabelMap map = label_map(which, "input.raw");
    segmentation::reduce_zero_label(map);
    compare_exactly<uint16_t>(which, "out.reduce_zero_label.label", map.labels);
  }
}
