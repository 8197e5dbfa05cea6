// Scores segmentation by words on pictures with label maps: IoU of every class, their mean, pixel accuracy. Or, with
// --task classify, classification of whole pictures: top-1 and top-5 accuracy over a folder of pictures for each class.
//
//   evaluate --checkpoint clip-vit-base-patch16 --images VOC2012/JPEGImages --labels VOC2012/SegmentationClass
//            --split VOC2012/ImageSets/Segmentation/val.txt --classes voc20 --size 448 --window 448 --stride 224
//   evaluate --task classify --checkpoint clip-vit-base-patch16 --beside pacl=pacl-b16 --images pets/
//
// The confusion matrix is counted over the whole data set. Scores are resampled to each label map's size before the
// best class is taken; label maps are never resized.
#include <cmath>

#include <tessera/segmentation/metrics.hpp>
#include <tessera/train/progress.hpp>

#include "classification.hpp"
#include "labelled_pictures.hpp"
#include "segmentation_options.hpp"
#include "superpixel_options.hpp"

namespace examples {

struct EvaluateOptions {
  SegmentationOptions segmentation;
  SuperpixelOptions superpixels;
  LabelledPictures pictures;
  std::string task = "segment", rule = "mmsegmentation", output, confusion;
  std::vector<std::string> beside;
};

}  // namespace examples

namespace {

using namespace examples;
using Options = EvaluateOptions;

tessera::io::Json report(const Options& options, const Segmenter& segmenter,
                         const segmentation::ConfusionMatrix& counts, const segmentation::SegmentationScores& scores,
                         size_t images, double seconds) {
  tessera::io::Json classes = tessera::io::Json::array();
  for (size_t c = 0; c < segmenter.list.classes.size(); ++c)
    classes.push_back({{"name", segmenter.list.classes[c].name},
                       {"iou", scores.iou[c]},
                       {"accuracy", scores.accuracy[c]},
                       {"labelled_pixels", counts.labelled(int(c))},
                       {"predicted_pixels", counts.predicted(int(c))}});
  const auto& given = options.segmentation;
  return {{"system", segmenter.model->system()},
          {"checkpoint", given.model.checkpoint},
          {"class_list", given.classes},
          {"prompts", segmenter.prompts.name},
          {"images", images},
          {"rule", options.rule},
          {"miou", scores.mean_iou},
          {"pixel_accuracy", scores.pixel_accuracy},
          {"mean_accuracy", scores.mean_accuracy},
          {"frequency_weighted_iou", scores.frequency_weighted_iou},
          {"size", given.predictor.size > 0 ? int64_t(given.predictor.size) : segmenter.model->image_size()},
          {"window", given.predictor.window},
          {"stride", given.predictor.window_stride > 0 ? given.predictor.window_stride : given.predictor.window / 2},
          {"patch_stride", segmenter.model->stride()},
          {"gate", given.gate ? tessera::io::Json(*given.gate) : tessera::io::Json()},
          {"synonyms", given.model.synonyms},
          {"class_names", given.model.names},
          {"background", given.background},
          {"numerics", given.numerics},
          {"key_smoothing", given.key_smoothing},
          {"prompt_denoising", given.prompt_denoising},
          {"superpixels", options.superpixels.json()},
          {"dtype", given.model.dtype},
          {"seconds", seconds},
          {"classes", classes}};
}

std::string percent(double share) {
  char text[16];
  std::snprintf(text, sizeof text, "%6.2f", 100 * share);
  return std::isnan(share) ? "     -" : text;
}

void print_scores(const Segmenter& segmenter, const segmentation::SegmentationScores& scores, size_t images,
                  const std::string& rule) {
  size_t widest = 14;
  for (const auto& one : segmenter.list.classes) widest = std::max(widest, one.name.size());
  std::printf("%-*s  IoU %%   accuracy %%\n", int(widest), "class");
  for (size_t c = 0; c < segmenter.list.classes.size(); ++c)
    std::printf("%-*s %s   %s\n", int(widest), segmenter.list.classes[c].name.c_str(), percent(scores.iou[c]).c_str(),
                percent(scores.accuracy[c]).c_str());
  std::printf("%-*s %s   %s\n", int(widest), "mean", percent(scores.mean_iou).c_str(),
              percent(scores.mean_accuracy).c_str());
  std::printf("%-*s          %s\n", int(widest), "pixel accuracy", percent(scores.pixel_accuracy).c_str());
  std::printf("%zu pictures, mean by the rule of %s\n", images, rule.c_str());
}

void run(const Options& options) {
  Context<Cpu> ctx;
  Context<ThisDevice> device;
  if (options.task == "classify")
    return evaluate_classification(ctx, device, options.segmentation.model, options.beside, options.pictures.images,
                                   options.segmentation.classes, options.pictures.limit, options.output,
                                   options.confusion);
  tessera::require(!options.pictures.labels.empty(), "--labels is required: the folder of label maps");
  tessera::require(!options.segmentation.classes.empty(),
                   "--classes is required, in the order of the label maps' numbers");
  tessera::require(options.beside.empty() && options.confusion.empty(),
                   "--beside and --confusion belong to --task classify");
  const auto samples = find_samples(options.pictures);
  require_writable(options.output);
  const Segmenter segmenter = make_segmenter(ctx, device, options.segmentation);
  const auto given = segmentation::load_class_list(options.segmentation.classes);
  tessera::require(segmenter.list.size() == given.size(), "--background puts a class before the ", given.size(), " of ",
                   options.segmentation.classes,
                   ", which its label maps do not have; use a list whose background_id names one");
  const auto table = truth_table(segmenter.list, options.pictures.raw_labels);
  segmentation::ConfusionMatrix counts(int(segmenter.list.size()), ignored_label);
  tessera::train::Progress progress("evaluating", int64_t(samples.size()), "pictures");
  for (const Sample& sample : samples) {
    const data::Image picture = data::read_image(sample.image);
    const data::LabelMap truth = read_truth(sample, table, picture);
    counts.add(options.superpixels.refine(segmenter.label(ctx, segmenter.score(ctx, picture)), picture), truth);
    progress.advance(1);
  }
  progress.finish();
  int64_t counted = 0;
  for (int c = 0; c < int(segmenter.list.size()); ++c) counted += counts.labelled(c);
  tessera::require(counted > 0, "no pixel of the ", samples.size(), " label maps in ", options.pictures.labels,
                   " belongs to a class of ", options.segmentation.classes,
                   "; are these label maps and this list of one data set (--raw-labels, reduce_zero_label)?");
  const auto rule =
      options.rule == "detectron2" ? segmentation::MeanRule::detectron2 : segmentation::MeanRule::mmsegmentation;
  const auto scores = segmentation::score(counts, rule);
  print_scores(segmenter, scores, samples.size(), options.rule);
  if (options.output.empty()) return;
  tessera::io::write_json(options.output,
                          report(options, segmenter, counts, scores, samples.size(), progress.elapsed()));
  std::printf("written to %s\n", options.output.c_str());
}

const Devices<Options> on_this_device(ThisDevice{}, run);

}  // namespace

#if !defined(EXAMPLES_SECOND_DEVICE)
int main(int argc, char** argv) {
  Options options;
  CLI::App app{
      "Scores segmentation by words on pictures with label maps: IoU of every class, their mean, pixel accuracy.\n\n"
      "  evaluate --checkpoint clip-vit-base-patch16 --images VOC2012/JPEGImages --labels VOC2012/SegmentationClass\n"
      "           --split VOC2012/ImageSets/Segmentation/val.txt --classes voc20 --size 448\n"
      "  evaluate --checkpoint demo/model --images test/images --labels test/labels --classes test/classes.json\n\n"
      "A picture NAME.jpg belongs to the label map NAME.png. Label maps are palette or grey PNGs whose values are\n"
      "class numbers, or class numbers + 1 where the class list says reduce_zero_label; what is no class is not\n"
      "counted. A class list with a background class and --background T predicts it by threshold; without\n"
      "--background its name is looked for like any other.\n\n"
      "  evaluate --task classify --checkpoint clip-vit-base-patch16 --beside pacl=pacl-b16 --images pets\n\n"
      "classifies whole pictures instead: --images holds a folder of pictures for each class, called as the class "
      "is.\n"};
  options.segmentation.add_to(
      app,
      "a class list FILE.json, a benchmark (voc20, voc21, context59, ...), or names separated by commas, in the "
      "order of the label maps' numbers");
  app.get_option("--classes")
      ->required(false)
      ->description(
          "a class list FILE.json, a benchmark (voc20, voc21, context59, ...), or names separated by commas, in the "
          "order of the label maps' numbers; with --task classify what to choose from, default: the folders' names");
  options.pictures.add_to(app, false);
  app.get_option("--limit")->description("only the first N pictures; with --task classify, of each class");
  app.add_option("--task", options.task, "segment, or classify (whole pictures)")
      ->check(CLI::IsMember({"segment", "classify"}))
      ->capture_default_str();
  app.add_option("--beside", options.beside,
                 "--task classify: NAME=CHECKPOINT, one more to compare with; may be repeated");
  app.add_option("--confusion", options.confusion,
                 "--task classify: a picture of what was taken for what (.png, .jpg)");
  options.superpixels.add_to(app);
  app.add_option("--rule", options.rule,
                 "mmsegmentation: a class that is predicted but labelled nowhere counts as 0; detectron2: it does not "
                 "count")
      ->check(CLI::IsMember({"mmsegmentation", "detectron2"}))
      ->capture_default_str();
  app.add_option("--output", options.output, "the scores and settings as JSON");
  return run_program(app, argc, argv, "evaluate", [&] {
    if (options.task == "classify") refuse_options_of_segmentation(app);
    Devices<Options>::run(options.segmentation.device, options);
  });
}
#endif
