// Scores segmentation by words on pictures with label maps: IoU of every class, their mean, pixel accuracy.
//
//   evaluate --checkpoint clip-vit-base-patch16 --images VOC2012/JPEGImages --labels VOC2012/SegmentationClass
//            --split VOC2012/ImageSets/Segmentation/val.txt --classes voc20 --size 448 --window 448 --stride 224
//
// The confusion matrix is counted over the whole data set. Scores are resampled to each label map's size before the
// best class is taken; label maps are never resized.
#include <cmath>

#include <tessera/segmentation/metrics.hpp>
#include <tessera/train/progress.hpp>

#include "segmentation_options.hpp"

namespace examples {

struct EvaluateOptions {
  SegmentationOptions segmentation;
  std::string images, labels, split, image_suffix, label_suffix = ".png", rule = "mmsegmentation", output;
  bool raw_labels = false;
  int64_t limit = 0;
};

}  // namespace examples

namespace {

using namespace examples;
using Options = EvaluateOptions;

struct Sample {
  std::string id;
  fs::path image, labels;
};

/// The picture of an id: with the given suffix, else with the first usual ending that exists.
fs::path find_picture(const Options& options, const std::string& id) {
  std::error_code ignored;
  const fs::path folder = options.images;
  if (!options.image_suffix.empty()) return folder / (id + options.image_suffix);
  for (const char* ending : {".jpg", ".png", ".jpeg", ".JPG", ".PNG"})
    if (fs::exists(folder / (id + ending), ignored)) return folder / (id + ending);
  return folder / (id + ".jpg");
}

std::vector<std::string> read_split(const std::string& path) {
  std::vector<std::string> ids;
  const std::string text = tessera::io::read_text(path);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    const size_t word_end = line.find_first_of(" \t\r");  // some lists have further columns
    if (const std::string id = line.substr(0, word_end); !id.empty()) ids.push_back(id);
    begin = end + 1;
  }
  tessera::require<tessera::IoError>(!ids.empty(), path, " names no pictures; write one name a line");
  return ids;
}

/// All pairs of picture and label map; each file is looked for before the first is scored.
std::vector<Sample> find_samples(const Options& options) {
  std::error_code ignored;
  tessera::require<tessera::IoError>(fs::is_directory(options.images, ignored), "--images ", options.images,
                                     " is not a folder");
  tessera::require<tessera::IoError>(fs::is_directory(options.labels, ignored), "--labels ", options.labels,
                                     " is not a folder");
  std::vector<Sample> samples;
  if (!options.split.empty()) {
    for (const auto& id : read_split(options.split)) samples.push_back({id, find_picture(options, id), {}});
  } else {
    for (const auto& picture : pictures_of(options.images)) {
      const std::string name = picture.filename().string();
      const std::string suffix = options.image_suffix.empty() ? picture.extension().string() : options.image_suffix;
      if (name.ends_with(suffix)) samples.push_back({name.substr(0, name.size() - suffix.size()), picture, {}});
    }
    tessera::require<tessera::IoError>(!samples.empty(), "no picture in ", options.images, " ends in ",
                                       options.image_suffix);
  }
  if (options.limit > 0 && int64_t(samples.size()) > options.limit) samples.resize(size_t(options.limit));
  for (Sample& sample : samples) {
    sample.labels = fs::path(options.labels) / (sample.id + options.label_suffix);
    for (const fs::path& file : {sample.image, sample.labels})
      tessera::require<tessera::IoError>(fs::exists(file, ignored), "there is no ", file.string(), " for '", sample.id,
                                         "'; --image-suffix and --label-suffix tell how names end");
  }
  return samples;
}

constexpr uint16_t ignored_label = 65535;  // above every class

/// From values in label files to classes, and to ignored_label.
std::vector<uint16_t> truth_table(const segmentation::ClassList& list, bool raw) {
  std::vector<int> table;
  if (raw) {
    table = segmentation::raw_label_table(list);
  } else {
    const auto usual = segmentation::label_table(list);
    table.assign(usual.begin(), usual.end());
  }
  std::vector<uint16_t> truth;
  for (const int label : table)
    truth.push_back(label < 0 || label == list.ignore_label ? ignored_label : uint16_t(label));
  return truth;
}

data::LabelMap read_truth(const fs::path& path, const std::vector<uint16_t>& table) {
  data::LabelMap truth = data::read_label_map(path);
  for (uint16_t& label : truth.labels) label = label < table.size() ? table[label] : ignored_label;
  return truth;
}

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
  const auto samples = find_samples(options);
  require_writable(options.output);
  Context<Cpu> ctx;
  Context<ThisDevice> device;
  const Segmenter segmenter = make_segmenter(ctx, device, options.segmentation);
  const auto given = segmentation::load_class_list(options.segmentation.classes);
  tessera::require(segmenter.list.size() == given.size(), "--background puts a class before the ", given.size(), " of ",
                   options.segmentation.classes,
                   ", which its label maps do not have; use a list whose background_id names one");
  const auto table = truth_table(segmenter.list, options.raw_labels);
  segmentation::ConfusionMatrix counts(int(segmenter.list.size()), ignored_label);
  tessera::train::Progress progress("evaluating", int64_t(samples.size()), "pictures");
  for (const Sample& sample : samples) {
    const data::Image picture = data::read_image(sample.image);
    const data::LabelMap truth = read_truth(sample.labels, table);
    tessera::require(truth.width == picture.width && truth.height == picture.height, sample.labels.string(), " is ",
                     truth.width, " x ", truth.height, " pixels, but its picture is ", picture.width, " x ",
                     picture.height);
    counts.add(segmenter.label(ctx, segmenter.score(ctx, picture)), truth);
    progress.advance(1);
  }
  progress.finish();
  int64_t counted = 0;
  for (int c = 0; c < int(segmenter.list.size()); ++c) counted += counts.labelled(c);
  tessera::require(counted > 0, "no pixel of the ", samples.size(), " label maps in ", options.labels,
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
      "--background its name is looked for like any other.\n"};
  options.segmentation.add_to(
      app,
      "a class list FILE.json, a benchmark (voc20, voc21, context59, ...), or names separated by commas, in the "
      "order of the label maps' numbers");
  app.add_option("--images", options.images, "folder of pictures")->required();
  app.add_option("--labels", options.labels, "folder of label maps")->required();
  app.add_option("--split", options.split, "a file with a name a line; default: all pictures of the folder");
  app.add_option("--image-suffix", options.image_suffix,
                 "how pictures' names go on after NAME (_leftImg8bit.png); default: .jpg, .png or .jpeg");
  app.add_option("--label-suffix", options.label_suffix, "how label maps' names go on after NAME")
      ->capture_default_str();
  app.add_flag("--raw-labels", options.raw_labels,
               "label maps hold the data set's own numbers, the raw_ids of the class list");
  app.add_option("--rule", options.rule,
                 "mmsegmentation: a class that is predicted but labelled nowhere counts as 0; detectron2: it does not "
                 "count")
      ->check(CLI::IsMember({"mmsegmentation", "detectron2"}))
      ->capture_default_str();
  app.add_option("--limit", options.limit, "only the first N pictures")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 40));
  app.add_option("--output", options.output, "the scores and settings as JSON");
  return run_program(app, argc, argv, "evaluate", [&] { Devices<Options>::run(options.segmentation.device, options); });
}
#endif
