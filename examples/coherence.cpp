// Do patches of one class look alike to an encoder? Pairs of patches, taken from one picture or from two, are told
// "same class" from "different class" by their cosine alone: ROC and precision-recall curves, encoders side by side.
//
//   coherence --encoder clip=clip-vit-base-patch16 --encoder dino=dino-vitb16
//             --images VOC2012/JPEGImages --labels VOC2012/SegmentationClass --split val.txt --classes voc21
//
// Pictures are resized and their middle square taken, as CLIP does; a patch has the class of most of its pixels.
#include <tessera/segmentation/charts.hpp>
#include <tessera/segmentation/roc.hpp>
#include <tessera/train/report.hpp>

#include "analysis_options.hpp"

namespace {

using namespace examples;
using tessera::io::Json;
using tessera::segmentation::PairScope;

struct Options {
  AnalysisOptions analysis;
  LabelledPictures pictures;
  std::string classes;
  int64_t pairs = 10'000'000;
  uint64_t seed = 0;
};

/// What one encoder's similarities are worth, in one picture and across two.
struct Coherence {
  std::string name;
  std::vector<segmentation::RocCurve> of_scope;
};

constexpr PairScope scopes[] = {PairScope::within, PairScope::across};
constexpr const char* scope_keys[] = {"within", "across"};
constexpr const char* scope_words[] = {"within one picture", "across two pictures"};

Json to_json(const segmentation::RocCurve& curve, int64_t pairs, int64_t all) {
  Json points = Json::array();
  for (const auto& point : curve.points)
    points.push_back({point.threshold, point.false_positive_rate, point.true_positive_rate, point.precision});
  return {{"pairs", pairs},
          {"pairs_there_are", all},
          {"same_class", curve.positives},
          {"different_class", curve.negatives},
          {"auc", curve.area},
          {"average_precision", curve.average_precision},
          {"chance_precision", double(curve.positives) / double(curve.positives + curve.negatives)},
          {"best_balanced_accuracy", curve.best_balanced_accuracy},
          {"best_threshold", curve.best_threshold},
          {"curve_columns", {"threshold", "false_positive_rate", "true_positive_rate", "precision"}},
          {"curve", points}};
}

/// ROC beside precision-recall.
std::vector<data::Image> draw(const std::vector<Coherence>& all, size_t scope) {
  std::vector<segmentation::ChartCurve> roc, precision;
  for (const auto& one : all) {
    const auto& curve = one.of_scope[scope];
    roc.push_back({one.name + "  AUC " + segmentation::fixed_text(curve.area, 3), {{0, 0}}});
    precision.push_back({one.name + "  AP " + segmentation::fixed_text(curve.average_precision, 3), {}});
    for (const auto& point : curve.points) {
      roc.back().points.emplace_back(point.false_positive_rate, point.true_positive_rate);
      precision.back().points.emplace_back(point.true_positive_rate, point.precision);
    }
  }
  const auto& first = all.front().of_scope[scope];
  const double share = double(first.positives) / double(first.positives + first.negatives);
  roc.push_back({"chance  0.500", {{0, 0}, {1, 1}}, true});
  precision.push_back({"chance  " + segmentation::fixed_text(share, 3), {{0, share}, {1, share}}, true});
  const std::string words = scope_words[scope];
  return {segmentation::draw_chart({"ROC, " + words, "false positive rate", "true positive rate"}, roc),
          segmentation::draw_chart({"Precision-recall, " + words, "recall", "precision"}, precision)};
}

void run(const Options& options) {
  use_threads(options.analysis.threads);
  const auto choices = options.analysis.choices();
  const auto samples = find_samples(options.pictures);
  auto list = segmentation::load_class_list(options.classes);
  const auto table = take_foreground(list, options.pictures.raw_labels);
  const int classes = int(list.size());
  const fs::path folder = options.analysis.output;
  require_result_folder(folder);
  Context<Cpu> ctx;
  std::vector<NamedEncoder> encoders;
  for (const auto& choice : choices) encoders.push_back(open_encoder(ctx, options.analysis, choice));

  std::vector<Coherence> all;
  Json results = Json::array();
  std::vector<std::vector<std::string>> rows;
  for (const auto& named : encoders) {
    const auto patches = labelled_patches(ctx, named, samples, table, classes);
    Json result = named.json();
    result["labelled_patches"] = patches.labels.size();
    result["patches_left_out"] = patches.left_out;
    const auto counts = patches.counts(classes);
    for (int c = 0; c < classes; ++c) result["patches_of_class"][list.classes[size_t(c)].name] = counts[size_t(c)];
    all.push_back({named.name, {}});
    std::vector<std::string> row = {named.name, named.description(), std::to_string(patches.labels.size())};
    for (size_t s = 0; s < 2; ++s) {
      const segmentation::PatchPairs pairs(patches.of_picture, scopes[s], options.pairs, options.seed);
      auto similarities = segmentation::pair_similarities(patches.view(), patches.labels, pairs);
      tessera::require(!similarities.same.empty() && !similarities.different.empty(), "of ", pairs.size(), " pairs ",
                       scope_words[s], ", ", similarities.same.size(), " are of one class and ",
                       similarities.different.size(), " of two; a curve needs both: give more pictures or classes");
      all.back().of_scope.push_back(
          segmentation::roc_curve(std::move(similarities.same), std::move(similarities.different)));
      const auto& curve = all.back().of_scope.back();
      result[scope_keys[s]] = to_json(curve, pairs.size(), pairs.all());
      row.push_back(segmentation::fixed_text(curve.area, 4));
      row.push_back(segmentation::fixed_text(curve.average_precision, 4));
      std::printf("%s, %s: AUC %.4f, average precision %.4f (%lld pairs, %.1f %% of one class)\n", named.name.c_str(),
                  scope_words[s], curve.area, curve.average_precision, static_cast<long long>(pairs.size()),
                  100 * double(curve.positives) / double(pairs.size()));
    }
    rows.push_back(row);
    results.push_back(result);
  }

  make_folder(folder);
  tessera::train::Report report("Coherence of patches");
  report.paragraph("Two patches, and how similar an encoder finds them (cosine): are they of one class? " +
                   std::to_string(samples.size()) + " pictures, " + std::to_string(classes) +
                   " classes; a patch has the class of most of its pixels, at least half of them. AUC: the chance that "
                   "a pair of one class is more similar than a pair of two.");
  report.table({"encoder", "what", "labelled patches", "AUC within", "AP within", "AUC across", "AP across"}, rows);
  std::vector<segmentation::SheetRow> sheet;
  for (size_t s = 0; s < 2; ++s) {
    const auto charts = draw(all, s);
    report.heading(std::string("Pairs ") + scope_words[s]);
    report.pictures(charts, "");
    sheet.push_back({"", {{charts[0], ""}, {charts[1], ""}}});
  }
  data::write_image(folder / "coherence.png", segmentation::picture_sheet(sheet));
  tessera::io::write_json(folder / "coherence.json", {{"images", options.pictures.images},
                                                      {"pictures", samples.size()},
                                                      {"class_list", options.classes},
                                                      {"seed", options.seed},
                                                      {"encoders", results}});
  report.write(folder / "report.html");
  std::printf("written to %s: report.html, coherence.png, coherence.json\n", folder.string().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{
      "Do patches of one class look alike to an encoder? ROC and precision-recall curves of the cosine of two patches "
      "as a\nclassifier of \"same class\", within one picture and across two, for encoders side by side.\n\n"
      "  coherence --encoder clip=clip-vit-base-patch16 --encoder dino=dino-vitb16 --images JPEGImages\n"
      "            --labels SegmentationClass --split val.txt --classes voc21\n\n"
      "A picture NAME.jpg belongs to the label map NAME.png; label maps are read as `evaluate` reads them. Background "
      "and\nwhat is not labelled do not count.\n"};
  options.analysis.add_to(app, "coherence");
  options.pictures.add_to(app);
  app.add_option("--classes", options.classes,
                 "a class list FILE.json, a benchmark (voc21, ...), or names separated by commas, in the order of the "
                 "label maps' numbers")
      ->required();
  app.add_option("--pairs", options.pairs, "pairs drawn, within and across each; all, where there are no more")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 30))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of the draw")->check(whole_number());
  return run_program(app, argc, argv, "coherence", [&] { run(options); });
}
