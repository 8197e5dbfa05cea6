// The end of examples/demo.sh: how well does the model that was just trained segment scenes that it has never seen?
// Writes metrics.json and report.html.
//
//   demo --model demo/model --baseline demo/baseline --output demo photo.jpg
#include <tessera/data/scene_source.hpp>
#include <tessera/segmentation/class_embeddings.hpp>
#include <tessera/segmentation/classes.hpp>
#include <tessera/segmentation/metrics.hpp>
#include <tessera/segmentation/overlay.hpp>
#include <tessera/segmentation/superpixel_vote.hpp>
#include <tessera/systems/dense_models.hpp>
#include <tessera/train/progress.hpp>
#include <tessera/train/report.hpp>

#include <array>
#include <cmath>
#include <ctime>
#include <fstream>
#include <map>

#include "common.hpp"

using namespace tessera;
namespace fs = std::filesystem;

namespace {

struct Options {
  std::string model, baseline, output = "demo", scenes = "classic", checkpoint, classes;
  std::vector<std::string> pictures;
  std::string encoder;              ///< the model whose encoder the model began with
  std::vector<std::string> beside;  ///< NAME=FOLDER: more models for the table of read-outs
  uint64_t seed = 0;
  int threads = 0;
  double package_seconds = 0, started = 0;
};

/// How dense scores are read out: patches alone, or as the system does best: PACL's and CLIP's patches at half the
/// patch size plus the score of the whole image, SegCLIP's groups times the likeliest classes of the whole image.
enum class ReadOut : uint8_t { plain, best };

std::string read_out_text(const std::string& system, ReadOut read_out, int64_t patch) {
  const bool plain = read_out == ReadOut::plain;
  if (system == "segclip")
    return plain ? "cosines of groups (the paper's)" : "groups and likely classes (the released)";
  return "patches at stride " + std::to_string(plain ? patch : patch / 2) + (plain ? ", no gate" : ", image gate");
}

/// A trained folder, read out in one way, with the vectors of the scenes' classes.
struct Reader {
  std::unique_ptr<segmentation::DenseModel> model;
  Tensor<float, 2> classes;

  segmentation::ScoreMap score(Context<Cpu>& ctx, const data::Image& picture) const {
    const int window = int(model->usual_window());
    return segmentation::score_picture(ctx, *model, classes, picture, {.window = window, .window_stride = window});
  }
};

int64_t patch_size_of(const fs::path& model) {
  return io::read_json(model / "config.json").at("vision_config").at("patch_size").get<int64_t>();
}

Reader open_model(Context<Cpu>& ctx, const fs::path& folder, const std::vector<std::string>& names, ReadOut read_out) {
  Reader reader;
  const auto description = systems::describe_checkpoint(folder);
  const auto patch = patch_size_of(folder);
  const bool plain = read_out == ReadOut::plain;
  const int64_t stride = plain ? patch : patch / 2;
  const double gate = plain ? 0 : 1;
  systems::DenseModelOptions options;
  options.pacl = {.stride = stride, .gate = gate};
  options.maskclip.patch_stride = stride;  // CLIP is read out likewise: MaskCLIP's patches and the image's cosine
  options.maskclip_gate = gate;
  if (description.model_type == "segclip") options.system = plain ? "segclip-cosine" : "segclip";
  reader.model = systems::load_dense_model(ctx, folder, options);
  const segmentation::PromptSet prompts{"trained", segmentation::EnsembleRule::normalise_each, {description.prompts}};
  std::vector<std::vector<std::string>> queries;
  for (const auto& name : names) queries.push_back({name});
  const auto tokenizer = data::Tokenizer::load(folder);
  reader.classes = segmentation::embed_classes(ctx, *reader.model, tokenizer, prompts, queries).vectors;
  return reader;
}

/// Predictions for scenes, and what they are worth.
struct Evaluation {
  std::vector<data::LabelMap> predictions, groups;  ///< groups: of systems that form some
  segmentation::SegmentationScores all, unseen;
};

data::LabelMap label(Context<Cpu>& ctx, const Reader& reader, const segmentation::ScoreMap& map) {
  return segmentation::label_picture(ctx, map, {.scale = reader.model->scale()});
}

/// What the predictions are worth, on all scenes and on those of unseen combinations.
void score_predictions(Evaluation& result, const std::vector<data::Scene>& scenes, int classes) {
  segmentation::ConfusionMatrix all(classes), unseen(classes);
  for (size_t i = 0; i < scenes.size(); ++i) {
    all.add(result.predictions[i], scenes[i].labels);
    if (scenes[i].unseen) unseen.add(result.predictions[i], scenes[i].labels);
  }
  result.all = segmentation::score(all);
  result.unseen = segmentation::score(unseen);
}

Evaluation evaluate(Context<Cpu>& ctx, const Reader& reader, const std::vector<data::Scene>& scenes) {
  Evaluation result;
  result.predictions.resize(scenes.size());
  result.groups.resize(scenes.size());
  parallel_for(int64_t(scenes.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      auto map = reader.score(ctx, scenes[size_t(i)].image);
      result.predictions[size_t(i)] = label(ctx, reader, map);
      result.groups[size_t(i)] = std::move(map.groups);
    }
  });
  score_predictions(result, scenes, int(reader.classes.shape[0]));
  return result;
}

/// The same predictions where each superpixel of a scene takes the class of most of its pixels.
Evaluation refined_by_superpixels(const Evaluation& evaluation, const std::vector<data::Scene>& scenes, int classes) {
  constexpr data::FelzenszwalbOptions of_scenes{.scale = 20, .sigma = 0.5, .min_size = 10};
  Evaluation refined;
  refined.predictions.resize(scenes.size());
  parallel_for(int64_t(scenes.size()), 1, [&](int64_t begin, int64_t end) {
    for (size_t i = size_t(begin); i < size_t(end); ++i) {
      const auto superpixels = data::felzenszwalb(scenes[i].image, of_scenes);
      refined.predictions[i] = segmentation::vote_in_segments(evaluation.predictions[i], superpixels);
    }
  });
  score_predictions(refined, scenes, classes);
  return refined;
}

/// The true background everywhere and no object: what any figure must be read against.
double floor_of(const std::vector<data::Scene>& scenes, int classes) {
  segmentation::ConfusionMatrix matrix(classes);
  for (const auto& scene : scenes) {
    data::LabelMap background(scene.image.width, scene.image.height, uint16_t(scene.words.at(0)));
    matrix.add(background, scene.labels);
  }
  return segmentation::score(matrix).mean_iou;
}

/// Mean IoU over the classes of each group, in the order in which the set names them.
std::vector<std::pair<std::string, double>> group_means(const data::SceneSet& set,
                                                        const segmentation::SegmentationScores& scores) {
  std::vector<std::pair<std::string, double>> means;
  std::vector<int> counts;
  for (int c = 0; c < int(set.classes.size()); ++c) {
    if (std::isnan(scores.iou[size_t(c)])) continue;  // neither shown nor predicted
    const std::string group = set.group(c);
    size_t g = 0;
    while (g < means.size() && means[g].first != group) ++g;
    if (g == means.size()) {
      means.emplace_back(group, 0.0);
      counts.push_back(0);
    }
    means[g].second += scores.iou[size_t(c)];
    ++counts[g];
  }
  for (size_t g = 0; g < means.size(); ++g) means[g].second /= counts[g];
  return means;
}

std::vector<io::Json> read_lines(const fs::path& path) {
  std::vector<io::Json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(io::parse_json(line, path.string()));
  require<IoError>(!lines.empty(), path.string(),
                   " holds no lines; was the model trained by train_pacl, train_clip or train_segclip?");
  return lines;
}

/// A map's colours over its picture, enlarged, with the names of its classes below.
data::Image picture_of_labels(const data::Scene& scene, const data::LabelMap& labels,
                              const std::vector<std::string>& names, const std::vector<data::Colour>& palette) {
  constexpr int zoom = 3;
  const int side = scene.image.width * zoom;
  const auto large = data::resize(scene.image, side, side, data::Filter::nearest);
  return segmentation::overlay(large, data::resize(labels, side, side), names, palette, {.opacity = 0.8});
}

/// The groups that a picture's patches were gathered into, over it; each with the word that most of its pixels got.
data::Image picture_of_groups(const data::Scene& scene, const data::LabelMap& groups, const data::LabelMap& words,
                              const std::vector<std::string>& names) {
  const auto of_pixels = data::resize(groups, scene.image.width, scene.image.height);
  data::SegmentMap segments(of_pixels.width, of_pixels.height);
  std::copy(of_pixels.labels.begin(), of_pixels.labels.end(), segments.labels.begin());
  const auto word_of_pixel = segmentation::vote_in_segments(words, segments);
  const int count = segments.count();
  std::vector<std::string> titles;
  for (int g = 0; g < count; ++g) {
    titles.push_back(std::to_string(g + 1));
    const auto at = std::find(segments.labels.begin(), segments.labels.end(), g);
    if (at != segments.labels.end())
      titles.back() += " " + names[word_of_pixel.labels[size_t(at - segments.labels.begin())]];
  }
  return picture_of_labels(scene, of_pixels, titles, segmentation::class_palette(count));
}

/// Backgrounds in muted colours of their kind, objects in colours that differ from each other.
std::vector<data::Colour> palette_of(const data::SceneSet& set) {
  std::vector<data::Colour> palette = {{120, 150, 105}, {205, 190, 150}, {95, 130, 160},  {160, 190, 210},
                                       {150, 105, 95},  {140, 115, 90},  {225, 228, 232}, {55, 58, 78}};
  require(int(palette.size()) == set.backgrounds, "the demo has colours for ", palette.size(), " backgrounds, not ",
          set.backgrounds);
  const auto objects = segmentation::class_palette(set.objects());
  palette.insert(palette.end(), objects.begin(), objects.end());
  return palette;
}

/// Pictures of a gallery on one sheet: `columns` samples in a row, on white.
data::Image sheet_of(const std::vector<std::vector<data::Image>>& groups, int columns) {
  constexpr int gap = 8;
  int width = 0;
  for (const auto& group : groups)
    for (const auto& image : group) width = std::max(width, image.width);
  std::vector<int> tops = {gap};  // of each row, and of what follows the last
  for (size_t first = 0; first < groups.size(); first += size_t(columns)) {
    int height = 0;
    for (size_t i = first; i < std::min(groups.size(), first + size_t(columns)); ++i)
      for (const auto& image : groups[i]) height = std::max(height, image.height);
    tops.push_back(tops.back() + height + gap);
  }
  const size_t pictures = groups.empty() ? 0 : groups.front().size();
  const int group_width = int(pictures) * (width + gap) + gap;
  data::Image sheet(columns * group_width, tops.back(), 3, 255);
  for (size_t i = 0; i < groups.size(); ++i)
    for (size_t k = 0; k < pictures; ++k) {
      const auto& image = groups[i][k];
      const int left = int(i) % columns * group_width + int(k) * (width + gap) + gap;
      const int top = tops[i / size_t(columns)];
      for (int y = 0; y < image.height; ++y) std::copy_n(image.row(y), image.row_bytes(), sheet.at(left, top + y));
    }
  return sheet;
}

double percent(double share) { return 100 * share; }

struct Curves {
  std::vector<train::PlotSeries> loss, miou;
};

/// Loss of every step (smoothed) and, on the dev scenes, the score of every snapshot without gate at the patch's
/// stride.
Curves curves_of(Context<Cpu>& ctx, const fs::path& model, const data::SceneSet& set) {
  Curves curves;
  train::PlotSeries loss{"loss (mean of 20 steps)", {}};
  double sum = 0;
  int count = 0;
  for (const auto& line : read_lines(model / "metrics.jsonl")) {
    sum += line.at("loss").get<double>();
    if (++count == 20) {
      loss.points.emplace_back(line.at("images").get<double>(), sum / count);
      sum = count = 0;
    }
  }
  curves.loss.push_back(loss);
  std::error_code ignored;
  if (!fs::exists(model / "snapshots", ignored)) return curves;
  const auto dev = data::SceneRenderer(set, data::Split::dev).render(0, data::usual_count(data::Split::dev));
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(model / "snapshots")) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  const auto config = io::read_json(model / "config.json");
  train::PlotSeries raw{"mIoU %, dev scenes, raw", {}};
  const double batch = read_lines(model / "metrics.jsonl").back().at("images").get<double>() /
                       read_lines(model / "metrics.jsonl").back().at("step").get<double>();
  train::Progress progress("curve", int64_t(folders.size()), "snapshots");
  for (const auto& folder : folders) {
    const auto reader = open_model(ctx, folder, set.names(), ReadOut::plain);
    const double images = batch * std::stod(folder.filename().string().substr(5));
    raw.points.emplace_back(images, percent(evaluate(ctx, reader, dev).all.mean_iou));
    progress.advance(1);
  }
  curves.miou.push_back(raw);
  return curves;
}

/// The person's own pictures: by the demo's model, or by another checkpoint and its classes.
void add_own_pictures(Context<Cpu>& ctx, train::Report& report, const Options& options, const data::SceneSet& set) {
  if (options.pictures.empty()) return;
  const bool other = !options.checkpoint.empty();
  const fs::path folder = other ? options.checkpoint : options.model;
  std::vector<std::string> names = set.names();
  auto palette = palette_of(set);
  if (other) {
    require(!options.classes.empty(), "--checkpoint needs --classes: a checkpoint does not say what to look for");
    names.clear();
    for (const auto& entry : segmentation::load_class_list(options.classes).classes) names.push_back(entry.name);
    palette = segmentation::class_palette(int(names.size()));
  }
  report.heading("Your pictures");
  if (other)
    report.paragraph("By the checkpoint " + folder.string() + ", for the classes that were named.");
  else
    report.paragraph(
        "By the model above. It knows " + std::to_string(names.size()) +
        " words, has seen drawings on painted backgrounds and nothing else, and sees a "
        "picture 64 pixels high: what it says of a photograph is a guess among those words. For photographs give a "
        "CLIP "
        "checkpoint: examples/demo.sh --checkpoint DIR --classes \"cat,dog,grass\" photo.jpg");
  const auto model = systems::load_dense_model(ctx, folder);
  const auto description = systems::describe_checkpoint(folder);
  const auto prompts =
      description.prompts.empty()
          ? segmentation::prompt_set(std::string(segmentation::default_prompt_set))
          : segmentation::PromptSet{"trained", segmentation::EnsembleRule::normalise_each, {description.prompts}};
  std::vector<std::vector<std::string>> queries;
  for (const auto& name : names) queries.push_back({name});
  const auto tokenizer = data::Tokenizer::load(description.folder);
  const auto classes = segmentation::embed_classes(ctx, *model, tokenizer, prompts, queries).vectors;
  for (const auto& path : options.pictures) {
    data::Image picture;
    try {
      picture = data::to_rgb(data::read_image(path));
    } catch (const Error& error) {
      report.paragraph(path + " was left out: " + error.what());
      std::fprintf(stderr, "demo: %s is left out: %s\n", path.c_str(), error.what());
      continue;
    }
    const int window = int(model->usual_window());
    const auto map =
        segmentation::score_picture(ctx, *model, classes, picture, {.window = window, .window_stride = window});
    const auto labels = segmentation::label_picture(ctx, map);
    const double shrink = std::min(1.0, 640.0 / std::max(picture.width, picture.height));
    const int width = std::max(1, int(picture.width * shrink)), height = std::max(1, int(picture.height * shrink));
    const auto small = data::resize(picture, width, height, data::Filter::bicubic);
    report.pictures({small, segmentation::overlay(small, data::resize(labels, width, height), names, palette)}, path);
  }
}

void run(const Options& options) {
  examples::use_threads(options.threads);
  Context<Cpu> ctx;
  const fs::path model = options.model;
  const std::string system = systems::describe_checkpoint(model).model_type;
  const auto set = data::scene_set(options.scenes);
  const auto names = set.names();
  const auto scenes = data::SceneRenderer(set, data::Split::test).render(0, data::usual_count(data::Split::test));

  const auto patch = patch_size_of(model);
  const auto raw = evaluate(ctx, open_model(ctx, model, names, ReadOut::plain), scenes);
  const auto gated = evaluate(ctx, open_model(ctx, model, names, ReadOut::best), scenes);
  const auto refined = refined_by_superpixels(gated, scenes, int(names.size()));
  std::optional<Evaluation> baseline;
  if (!options.baseline.empty())
    baseline = evaluate(ctx, open_model(ctx, options.baseline, names, ReadOut::best), scenes);
  const double floor = floor_of(scenes, int(names.size()));
  const auto curves = curves_of(ctx, model, set);
  const auto last = read_lines(model / "metrics.jsonl").back();

  io::Json metrics = {{"system", system},
                      {"scenes", set.name},
                      {"classes", names.size()},
                      {"seed", options.seed},
                      {"images_seen", last.at("images")},
                      {"encoder_images_seen", nullptr},
                      {"training_seconds", last.at("seconds")},
                      {"package_seconds", options.package_seconds},
                      {"miou_raw", percent(raw.all.mean_iou)},
                      {"miou", percent(gated.all.mean_iou)},
                      {"miou_refined", percent(refined.all.mean_iou)},
                      {"miou_unseen_combinations", percent(gated.unseen.mean_iou)},
                      {"pixel_accuracy", percent(gated.all.pixel_accuracy)},
                      {"floor", percent(floor)},
                      {"baseline", nullptr},
                      {"baseline_images_seen", nullptr}};
  if (baseline) {
    metrics["baseline"] = percent(baseline->all.mean_iou);
    metrics["baseline_images_seen"] = read_lines(fs::path(options.baseline) / "metrics.jsonl").back().at("images");
  }
  auto all_beside = options.beside;
  if (!options.encoder.empty()) {
    metrics["encoder_images_seen"] = read_lines(fs::path(options.encoder) / "metrics.jsonl").back().at("images");
    all_beside.push_back("its encoder=" + options.encoder);
  }
  for (size_t c = 0; c < names.size(); ++c) metrics["iou"][names[c]] = percent(gated.all.iou[c]);
  const auto groups = group_means(set, gated.all);
  std::map<std::string, double> baseline_groups;
  if (baseline)
    for (const auto& [group, mean] : group_means(set, baseline->all)) baseline_groups[group] = mean;
  for (const auto& [group, mean] : groups) metrics["groups"][group] = percent(mean);
  std::vector<std::vector<std::string>> rows_beside;
  for (const auto& one : all_beside) {
    const std::string name = one.substr(0, one.find('=')), folder = one.substr(name.size() + 1);
    const std::string type = systems::describe_checkpoint(folder).model_type;
    const auto images = read_lines(fs::path(folder) / "metrics.jsonl").back().at("images");
    for (const ReadOut read_out : {ReadOut::plain, ReadOut::best}) {
      const auto scores = evaluate(ctx, open_model(ctx, folder, names, read_out), scenes);
      metrics["beside"][name][read_out == ReadOut::plain ? "miou_raw" : "miou"] = percent(scores.all.mean_iou);
      rows_beside.push_back({name + ", " + type + " (" + images.dump() +
                                 " images): " + read_out_text(type, read_out, patch_size_of(folder)),
                             train::number_text(percent(scores.all.mean_iou)),
                             train::number_text(percent(scores.unseen.mean_iou))});
    }
  }

  train::Report report("Learned from captions, segmenting by words");
  report.paragraph(
      "A model with random weights saw rendered pictures with captions such as \"a photo of a dog and a key on "
      "grass\", "
      "and no label map. It was then asked, on " +
      std::to_string(scenes.size()) + " scenes that it had never seen, which of " + std::to_string(names.size()) +
      " words each pixel shows. Every second scene holds a combination that training never showed.");
  const bool on_encoder = !options.encoder.empty();
  if (on_encoder)
    report.paragraph("It learned in two steps: " + systems::describe_checkpoint(options.encoder).model_type +
                     " trained an encoder from random weights, " + system +
                     " went on from there. Both are told apart below.");
  report.figures({{train::number_text(percent(gated.all.mean_iou)), "mIoU %, " + system},
                  {train::number_text(percent(gated.unseen.mean_iou)), "on unseen combinations"},
                  {train::number_text(percent(floor)), "true background everywhere"},
                  {baseline ? train::number_text(percent(baseline->all.mean_iou)) : "-",
                   baseline ? "plain CLIP, " + metrics["baseline_images_seen"].dump() + " images" : "no baseline"},
                  {metrics["images_seen"].dump(),
                   on_encoder ? "images seen, after its encoder's " + metrics["encoder_images_seen"].dump()
                              : std::string("images seen")},
                  {train::clock_text(last.at("seconds").get<double>()), "training"}});
  report.heading("Learning");
  report.plot("Loss over images seen", "images", curves.loss);
  if (!curves.miou.empty()) report.plot("mIoU on 200 dev scenes over images seen", "images", curves.miou);
  report.heading("Scenes it has never seen");
  const bool with_groups = !gated.groups.front().labels.empty();
  report.paragraph(std::string("Picture, true labels, prediction") + (with_groups ? ", groups" : "") + " (all " +
                   std::to_string(names.size()) +
                   " words offered everywhere). Every second scene holds a combination that training never showed.");
  if (with_groups)
    report.paragraph("Patches are gathered into groups, and a group has one word: numbers tell which group it is.");
  const auto palette = palette_of(set);
  report.begin_gallery();
  std::vector<std::vector<data::Image>> gallery;
  for (size_t i = 0; i < 16 && i < scenes.size(); ++i) {
    const auto& scene = scenes[i];
    constexpr int zoom = 3;
    gallery.push_back(
        {data::resize(scene.image, scene.image.width * zoom, scene.image.height * zoom, data::Filter::nearest),
         picture_of_labels(scene, scene.labels, names, palette),
         picture_of_labels(scene, gated.predictions[i], names, palette)});
    if (with_groups) gallery.back().push_back(picture_of_groups(scene, gated.groups[i], gated.predictions[i], names));
    report.pictures(gallery.back(), scene.caption + (scene.unseen ? " (unseen combination)" : ""));
  }
  report.end_gallery();
  report.heading("Read-outs");
  std::vector<std::vector<std::string>> read_outs = {
      {system + ": " + read_out_text(system, ReadOut::plain, patch), train::number_text(percent(raw.all.mean_iou)),
       train::number_text(percent(raw.unseen.mean_iou))},
      {system + ": " + read_out_text(system, ReadOut::best, patch), train::number_text(percent(gated.all.mean_iou)),
       train::number_text(percent(gated.unseen.mean_iou))},
      {system + ": the same, refined: one word for each superpixel", train::number_text(percent(refined.all.mean_iou)),
       train::number_text(percent(refined.unseen.mean_iou))}};
  read_outs.insert(read_outs.end(), rows_beside.begin(), rows_beside.end());
  if (baseline)
    read_outs.push_back({"plain CLIP (" + metrics["baseline_images_seen"].dump() +
                             " images): " + read_out_text("clip", ReadOut::best, patch),
                         train::number_text(percent(baseline->all.mean_iou)),
                         train::number_text(percent(baseline->unseen.mean_iou))});
  read_outs.push_back({"true background everywhere, no object", train::number_text(percent(floor)), "-"});
  report.table({"read-out", "mIoU %", "unseen combinations"}, read_outs);
  report.heading("IoU of each group of words");
  std::vector<std::vector<std::string>> group_rows;
  for (const auto& [group, mean] : groups)
    group_rows.push_back({group, train::number_text(percent(mean)),
                          baseline_groups.count(group) ? train::number_text(percent(baseline_groups[group])) : "-"});
  report.table({"group", system + ", mIoU %", "plain CLIP"}, group_rows);
  add_own_pictures(ctx, report, options, set);
  report.heading("IoU of each class");
  std::vector<std::vector<std::string>> rows;
  for (size_t c = 0; c < names.size(); ++c) rows.push_back({names[c], train::number_text(percent(gated.all.iou[c]))});
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return std::stod(a[1]) > std::stod(b[1]); });
  report.table({"class", "IoU %"}, rows);
  report.heading("Go on");
  const std::string here = "build/cpu/examples/";
  std::string own_training = "train_" + system + " --data scenes:" + set.name + " --output model --steps 4000";
  if (on_encoder) own_training += " --init " + options.encoder;
  if (system == "segclip")
    own_training += " --group-layer 3 --superpixel-scale 20 --superpixel-sigma 0.5 --superpixel-min-size 10";
  report.verbatim(here + "segment --checkpoint " + model.string() +
                  " --image PICTURE --classes \"dog,grass,key\" --output overlay.png\n" + here + own_training + "\n" +
                  here + "scenes --set rich --preview rich.png\n" + here + "train_" + system + " --help");

  std::printf("\n%-14s %6s\n", "class", "IoU %");
  for (const auto& row : rows) std::printf("%-14s %6s\n", row[0].c_str(), row[1].c_str());
  if (groups.size() > 2) {
    std::printf("\n%-30s %6s\n", "group", "IoU %");
    for (const auto& [group, mean] : groups) std::printf("%-30s %6.1f\n", group.c_str(), percent(mean));
  }
  std::printf(
      "\nmIoU %.1f %% (unseen combinations %.1f, plain read-out %.1f, refined by superpixels %.1f; true background "
      "everywhere %.1f",
      percent(gated.all.mean_iou), percent(gated.unseen.mean_iou), percent(raw.all.mean_iou),
      percent(refined.all.mean_iou), percent(floor));
  if (baseline) std::printf("; plain CLIP %.1f", percent(baseline->all.mean_iou));
  std::printf(")\n");
  metrics["total_seconds"] = options.started > 0
                                 ? double(std::time(nullptr)) - options.started - options.package_seconds
                                 : last.at("seconds").get<double>();
  examples::make_folder(options.output);
  report.write(fs::path(options.output) / "report.html");
  gallery.resize(std::min<size_t>(gallery.size(), 8));
  data::write_image(fs::path(options.output) / "gallery.png", sheet_of(gallery, 2));
  io::write_json(fs::path(options.output) / "metrics.json", metrics);
  std::printf("report: %s\nmodel:  %s\n", (fs::path(options.output) / "report.html").string().c_str(),
              model.string().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Evaluates a model that was trained on rendered scenes and writes report.html and metrics.json.\n"};
  app.add_option("--model", options.model, "folder that train_pacl, train_clip or train_segclip wrote")->required();
  app.add_option("--baseline", options.baseline, "folder of a second model to compare with");
  app.add_option("--encoder", options.encoder, "folder of the model whose encoder --model began with (--init)");
  app.add_option("--beside", options.beside, "NAME=FOLDER: more models whose figures stand in the table of read-outs")
      ->check([](const std::string& text) {
        return text.find('=') == std::string::npos ? "--beside wants NAME=FOLDER, not " + text : std::string();
      });
  app.add_option("--output", options.output, "folder of report.html and metrics.json")->capture_default_str();
  app.add_option("--scenes", options.scenes, "the set that the model was trained on")
      ->check(CLI::IsMember({"classic", "rich"}))
      ->capture_default_str();
  app.add_option("--checkpoint", options.checkpoint, "another checkpoint for your own pictures");
  app.add_option("--classes", options.classes, "what --checkpoint shall look for");
  app.add_option("--seed", options.seed, "noted in metrics.json");
  app.add_option("--package-seconds", options.package_seconds, "noted in metrics.json");
  app.add_option("--started", options.started, "when the whole run began, in seconds since 1970");
  app.add_option("pictures", options.pictures, "your own pictures");
  examples::add_threads(app, options.threads);
  return examples::run_program(app, argc, argv, "demo", [&] { run(options); });
}
