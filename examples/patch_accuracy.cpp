// Are patches where the words are? Every labelled patch is given the class whose text it is most similar to: accuracy,
// class by class, for encoders side by side: CLIP's own projected patches (before alignment) and PACL's (after).
//
//   patch_accuracy --encoder before=clip-vit-base-patch16:projected --encoder after=pacl-b16:aligned
//                  --images VOC2012/JPEGImages --labels VOC2012/SegmentationClass --split val.txt --classes voc20
//
// Pictures are resized and their middle square taken, as CLIP does; a patch has the class of most of its pixels.
#include <tessera/segmentation/charts.hpp>
#include <tessera/segmentation/metrics.hpp>
#include <tessera/segmentation/overlay.hpp>
#include <tessera/segmentation/roc.hpp>
#include <tessera/train/report.hpp>

#include "analysis_options.hpp"

namespace {

using namespace examples;
using tessera::io::Json;

struct Options {
  AnalysisOptions analysis;
  LabelledPictures pictures;
  std::string classes, prompts, text;
  int shown = 8;
};

/// An encoder, the vectors of the classes in its space, and what its patches were taken for.
struct Aligned {
  NamedEncoder named;
  tessera::Tensor<float, 2> texts;  ///< [N, E]
  std::string prompts;
  segmentation::ConfusionMatrix counts;
  std::vector<std::optional<segmentation::RocCurve>> of_class;  ///< of "this patch shows it", or none
  std::vector<data::Image> shown;                               ///< predictions on some pictures
  std::vector<double> shown_accuracy;
};

/// [P, N]
tessera::Tensor<float, 2> cosines(Context<Cpu>& ctx, const tessera::TensorView<const float, 2>& patches,
                                  const tessera::Tensor<float, 2>& texts) {
  return tessera::matmul(ctx, patches, view(texts), {}, {.transpose_b = true});
}

std::vector<int32_t> best_classes(const tessera::Tensor<float, 2>& scores) {
  std::vector<int32_t> best;
  for (int64_t p = 0; p < scores.shape[0]; ++p) {
    const float* row = &scores(p, 0);
    best.push_back(int32_t(std::max_element(row, row + scores.shape[1]) - row));
  }
  return best;
}

/// The samples that are shown: so many, evenly spread over all.
std::vector<Sample> some_of(const std::vector<Sample>& samples, int wanted) {
  const size_t count = std::min(samples.size(), size_t(wanted));
  std::vector<Sample> some;
  for (size_t i = 0; i < count; ++i) some.push_back(samples[i * samples.size() / count]);
  return some;
}

data::LabelMap as_row(const std::vector<int32_t>& labels) {
  data::LabelMap map(int(labels.size()), 1);
  for (size_t i = 0; i < labels.size(); ++i)
    map.labels[i] = labels[i] == segmentation::no_class ? ignored_label : uint16_t(labels[i]);
  return map;
}

/// A square picture, its labelled patches tinted by `labels`, each patch whole, and the six commonest below.
data::Image tinted_patches(const NamedEncoder& named, const data::Image& picture, const std::vector<int32_t>& labels,
                           const std::vector<std::string>& names, const std::vector<data::Colour>& palette) {
  const auto grid = named.encoder->grid(named.side, named.side);
  const auto square = for_display(data::clip_resize(picture, named.side), 240, 280);
  data::LabelMap map(square.width, square.height);
  for (int y = 0; y < map.height; ++y)
    for (int x = 0; x < map.width; ++x) {
      const int64_t row = y * grid.height / map.height, column = x * grid.width / map.width;
      const int32_t label = labels[size_t(row * grid.width + column)];
      map.at(x, y) = label == segmentation::no_class ? ignored_label : uint16_t(label);
    }
  const auto tinted = segmentation::tint(square, map, palette, {.opacity = 0.6, .ignored = ignored_label});
  auto legend = segmentation::legend_entries(map, names, palette, ignored_label);
  legend.resize(std::min<size_t>(legend.size(), 6));  // of words seen in single patches there may be many
  return segmentation::stack(tinted, segmentation::draw_legend(legend, tinted.width));
}

void classify_patches(Context<Cpu>& ctx, Aligned& one, const std::vector<Sample>& samples,
                      const std::vector<Sample>& shown, const std::vector<uint16_t>& table,
                      const segmentation::ClassList& list) {
  const int classes = int(list.size());
  const auto patches = labelled_patches(ctx, one.named, samples, table, classes);
  const auto scores = cosines(ctx, patches.view(), one.texts);
  one.counts.add(as_row(best_classes(scores)), as_row(patches.labels));
  for (int c = 0; c < classes; ++c) {
    std::vector<float> present, absent;
    for (size_t p = 0; p < patches.labels.size(); ++p)
      (patches.labels[p] == c ? present : absent).push_back(scores(int64_t(p), c));
    one.of_class.emplace_back();
    if (!present.empty() && !absent.empty())
      one.of_class.back() = segmentation::roc_curve(std::move(present), std::move(absent));
  }
  const auto palette = segmentation::class_palette(classes);
  std::vector<std::string> names;
  for (const auto& entry : list.classes) names.push_back(entry.name);
  for (const Sample& sample : shown) {
    const auto picture = data::read_image(sample.image);
    const auto truth = square_labels(one.named, read_truth(sample, table, picture), classes);
    auto predicted = best_classes(cosines(ctx, view(square_patches(ctx, one.named, picture)), one.texts));
    int64_t right = 0, labelled = 0;
    for (size_t p = 0; p < truth.size(); ++p) {
      if (truth[p] == segmentation::no_class) predicted[p] = segmentation::no_class;
      labelled += truth[p] != segmentation::no_class;
      right += truth[p] != segmentation::no_class && truth[p] == predicted[p];
    }
    one.shown.push_back(tinted_patches(one.named, picture, predicted, names, palette));
    one.shown_accuracy.push_back(labelled > 0 ? double(right) / double(labelled) : std::nan(""));
  }
}

/// What a class's patches are worth to a yes-or-no question.
struct Binary {
  double by_argmax = std::nan("");  ///< balanced accuracy where yes means: no other class fits better
  double by_threshold = std::nan(""),
         threshold = std::nan("");  ///< the same at the threshold that suits the class best
  double area = std::nan(""), average_precision = std::nan("");
};

Binary binary_of(const Aligned& one, int c) {
  Binary binary;
  const auto& curve = one.of_class[size_t(c)];
  if (!curve) return binary;
  const auto found = double(one.counts.found(c)), predicted = double(one.counts.predicted(c));
  const auto present = double(curve->positives), absent = double(curve->negatives);
  binary.by_argmax = (found / present + (absent - (predicted - found)) / absent) / 2;
  binary.by_threshold = curve->best_balanced_accuracy;
  binary.threshold = curve->best_threshold;
  binary.area = curve->area;
  binary.average_precision = curve->average_precision;
  return binary;
}

/// The mean of those that are numbers.
double mean_of_defined(const std::vector<double>& values) {
  double sum = 0;
  int count = 0;
  for (const double value : values) {
    if (std::isnan(value)) continue;
    sum += value;
    ++count;
  }
  return count > 0 ? sum / count : std::nan("");
}

/// Means over the classes that patches show.
Binary mean_of(const Aligned& one) {
  std::vector<double> argmax, threshold, area, precision;
  for (int c = 0; c < one.counts.classes(); ++c) {
    const Binary binary = binary_of(one, c);
    argmax.push_back(binary.by_argmax);
    threshold.push_back(binary.by_threshold);
    area.push_back(binary.area);
    precision.push_back(binary.average_precision);
  }
  return {mean_of_defined(argmax), mean_of_defined(threshold), std::nan(""), mean_of_defined(area),
          mean_of_defined(precision)};
}

Json to_json(const Aligned& one, const segmentation::ClassList& list) {
  const auto scores = segmentation::score(one.counts);
  const auto as_json = [](const Binary& binary) -> Json {
    return {{"balanced_accuracy", binary.by_argmax},
            {"best_balanced_accuracy", binary.by_threshold},
            {"best_threshold", binary.threshold},
            {"auc", binary.area},
            {"average_precision", binary.average_precision}};
  };
  Json result = one.named.json();
  result["prompts"] = one.prompts;
  result["accuracy"] = scores.pixel_accuracy;
  result["mean_class_accuracy"] = scores.mean_accuracy;
  result["binary"] = as_json(mean_of(one));
  result["binary"].erase("best_threshold");
  Json confusion = Json::array(), classes = Json::array();
  int64_t labelled = 0, most = 0;
  for (int c = 0; c < one.counts.classes(); ++c) {
    Json entry = {{"name", list.classes[size_t(c)].name},
                  {"patches", one.counts.labelled(c)},
                  {"predicted", one.counts.predicted(c)},
                  {"accuracy", scores.accuracy[size_t(c)]},
                  {"binary", as_json(binary_of(one, c))}};
    classes.push_back(entry);
    labelled += one.counts.labelled(c);
    most = std::max(most, one.counts.labelled(c));
    Json row = Json::array();
    for (int p = 0; p < one.counts.classes(); ++p) row.push_back(one.counts.at(p, c));
    confusion.push_back(row);
  }
  result["labelled_patches"] = labelled;
  result["accuracy_of_commonest_class"] = double(most) / double(labelled);
  result["classes"] = classes;
  result["confusion"] = confusion;  // [truth][prediction]
  return result;
}

data::Image draw_confusion(const Aligned& one, const std::vector<int>& occurring,
                           const std::vector<std::string>& names) {
  std::vector<std::vector<double>> shares;
  std::vector<std::string> occurring_names;
  for (const int truth : occurring) {
    occurring_names.push_back(names[size_t(truth)]);
    shares.emplace_back();
    for (const int predicted : occurring) shares.back().push_back(one.counts.share(predicted, truth));
  }
  return segmentation::draw_matrix(one.named.name + ": % of a class's patches (row) taken for each class (column)",
                                   occurring_names, shares);
}

void write_report(const Options& options, const std::vector<Aligned>& all, const segmentation::ClassList& list,
                  size_t pictures, const std::vector<segmentation::SheetTile>& truths) {
  const fs::path folder = options.analysis.output;
  make_folder(folder);
  std::vector<std::string> names, series, bar_names;
  for (const auto& entry : list.classes) names.push_back(entry.name);
  std::vector<int> occurring;
  for (int c = 0; c < int(names.size()); ++c)
    if (std::any_of(all.begin(), all.end(), [&](const auto& one) { return one.counts.labelled(c) > 0; }))
      occurring.push_back(c);
  for (const int c : occurring) bar_names.push_back(names[size_t(c)]);
  std::vector<std::vector<double>> accuracies, areas;
  std::vector<std::vector<std::string>> totals, table;
  std::vector<std::pair<std::string, std::string>> figures;
  Json results = Json::array();
  for (const auto& one : all) {
    const auto scores = segmentation::score(one.counts);
    const Binary binary = mean_of(one);
    series.push_back(one.named.name);
    accuracies.emplace_back();
    areas.emplace_back();
    for (const int c : occurring) {
      accuracies.back().push_back(scores.accuracy[size_t(c)]);
      areas.back().push_back(binary_of(one, c).area);
    }
    const auto percent = [](double share) { return segmentation::fixed_text(100 * share, 2); };
    figures.emplace_back(percent(scores.pixel_accuracy), "% of patches right, " + one.named.name);
    totals.push_back({one.named.name, one.named.description(), percent(scores.pixel_accuracy),
                      percent(scores.mean_accuracy), percent(binary.by_argmax), percent(binary.by_threshold),
                      segmentation::fixed_text(binary.area, 4), segmentation::fixed_text(binary.average_precision, 4)});
    results.push_back(to_json(one, list));
    std::printf(
        "%s (%s): %s %% of patches right, mean over classes %s %%; yes or no: balanced accuracy %s %%, AUC %.4f\n",
        one.named.name.c_str(), one.named.description().c_str(), percent(scores.pixel_accuracy).c_str(),
        percent(scores.mean_accuracy).c_str(), percent(binary.by_argmax).c_str(), binary.area);
  }
  std::vector<std::string> header = {"class", "patches"};
  for (const auto& one : all) {
    header.push_back(one.named.name + ": accuracy %");
    header.push_back(one.named.name + ": AUC");
  }
  for (size_t i = 0; i < occurring.size(); ++i) {
    table.push_back({bar_names[i], std::to_string(all.front().counts.labelled(occurring[i]))});
    for (size_t s = 0; s < all.size(); ++s) {
      table.back().push_back(segmentation::fixed_text(100 * accuracies[s][i], 1));
      table.back().push_back(segmentation::fixed_text(areas[s][i], 3));
    }
  }
  const auto bars =
      segmentation::draw_bars("% of a class's patches that are given its name", bar_names, series, accuracies);
  data::write_image(folder / "accuracy.png", bars);
  std::vector<data::Image> matrices;
  for (const auto& one : all) matrices.push_back(draw_confusion(one, occurring, names));
  std::vector<segmentation::SheetRow> matrix_rows, picture_rows;
  for (const auto& matrix : matrices) matrix_rows.push_back({"", {{matrix, ""}}});
  data::write_image(folder / "confusion.png", segmentation::picture_sheet(matrix_rows));
  for (size_t i = 0; i < truths.size(); ++i) {
    picture_rows.push_back({"", {truths[i]}});
    for (const auto& one : all)
      picture_rows.back().tiles.push_back(
          {one.shown[i],
           one.named.name + ": " + segmentation::fixed_text(100 * one.shown_accuracy[i], 0) + " % right"});
  }
  const auto sheet = segmentation::picture_sheet(picture_rows);
  if (!truths.empty()) data::write_image(folder / "patches.png", sheet);

  tessera::train::Report report("Patches and words");
  report.paragraph("Each labelled patch of " + std::to_string(pictures) + " pictures is given that of " +
                   std::to_string(names.size()) + " words whose vector it is most similar to (cosine).");
  report.figures(figures);
  report.table({"encoder", "what", "right %", "mean over classes %", "yes or no: balanced %", "at the best threshold %",
                "AUC", "average precision"},
               totals);
  report.paragraph(
      "Yes or no: is this class at this patch? Balanced accuracy is the mean of the shares of patches with "
      "and without the class that are judged rightly, where yes means that no other word fits better; then "
      "the same for the cosine alone, at the threshold that suits each class best (which needs the labels), "
      "and areas over all thresholds. All are means over classes; chance is 50 % and 0.5.");
  report.heading("Classes");
  report.pictures({bars}, "");
  report.table(header, table);
  report.heading("What is taken for what");
  for (const auto& matrix : matrices) report.pictures({matrix}, "");
  if (!truths.empty()) {
    report.heading("Pictures");
    report.pictures({sheet},
                    "Labelled patches, coloured by the class of most of their pixels, and by the word that fits "
                    "best.");
  }
  tessera::io::write_json(folder / "patch_accuracy.json", {{"images", options.pictures.images},
                                                           {"pictures", pictures},
                                                           {"class_list", options.classes},
                                                           {"encoders", results}});
  report.write(folder / "report.html");
  std::printf("written to %s: report.html, accuracy.png, confusion.png,%s patch_accuracy.json\n",
              folder.string().c_str(), truths.empty() ? "" : " patches.png,");
}

void run(const Options& options) {
  use_threads(options.analysis.threads);
  auto choices = options.analysis.choices();
  require_result_folder(options.analysis.output);
  const auto samples = find_samples(options.pictures);
  auto list = segmentation::load_class_list(options.classes);
  const auto table = take_foreground(list, options.pictures.raw_labels);
  Context<Cpu> ctx;
  std::vector<Aligned> all;
  for (auto& choice : choices) {
    const TextSource source = open_texts(ctx, options.analysis, choice, options.text);
    const auto prompts = source.prompts(options.prompts);
    Aligned one{open_encoder(ctx, options.analysis, choice),
                source.embed(ctx, list, prompts),
                prompts.name,
                segmentation::ConfusionMatrix(int(list.size()), ignored_label),
                {},
                {},
                {}};
    tessera::require(one.texts.shape[1] == one.named.encoder->width(), "the patches of ", choice.name, " have ",
                     one.named.encoder->width(), " channels, the texts of ", source.options.checkpoint, " ",
                     one.texts.shape[1], ": they cannot be compared");
    all.push_back(std::move(one));
  }
  const auto shown = some_of(samples, options.shown);
  for (auto& one : all) classify_patches(ctx, one, samples, shown, table, list);

  std::vector<std::string> names;
  for (const auto& entry : list.classes) names.push_back(entry.name);
  const auto palette = segmentation::class_palette(int(names.size()));
  std::vector<segmentation::SheetTile> truths;
  for (const Sample& sample : shown) {
    const auto picture = data::read_image(sample.image);
    const auto truth = square_labels(all.front().named, read_truth(sample, table, picture), int(names.size()));
    truths.push_back({tinted_patches(all.front().named, picture, truth, names, palette), sample.id + ": truth"});
  }
  write_report(options, all, list, samples.size(), truths);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{
      "Are patches where the words are? Each labelled patch is given the class whose text it is most similar to; the "
      "share that\nis right, class by class, for encoders side by side: before and after alignment.\n\n"
      "  patch_accuracy --encoder before=clip-vit-base-patch16:projected --encoder after=pacl-b16:aligned\n"
      "                 --images JPEGImages --labels SegmentationClass --split val.txt --classes voc20\n\n"
      "A picture NAME.jpg belongs to the label map NAME.png; label maps are read as `evaluate` reads them. Encoders "
      "whose\n"
      "tokens are not named take aligned (PACL) or projected (any other).\n"};
  options.analysis.add_to(app, "patch_accuracy");
  options.pictures.add_to(app);
  app.add_option("--classes", options.classes,
                 "a class list FILE.json, a benchmark (voc20, ...), or names separated by commas, in the order of the "
                 "label maps' numbers; a background class is not asked for")
      ->required();
  app.add_option(
      "--prompts", options.prompts,
      "a prompt set (clip_best7, ...), a file with a template a line, or one template with {} in it; default: "
      "each checkpoint's own, else clip_best7");
  app.add_option("--text", options.text, "checkpoint whose text tower is asked; default: each encoder's own");
  app.add_option("--shown", options.shown, "pictures shown, evenly spread over all")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  return run_program(app, argc, argv, "patch_accuracy", [&] { run(options); });
}
