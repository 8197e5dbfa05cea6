// Classifying whole pictures by words: the scores of one picture, and top-1 and top-5 accuracy over folders of
// pictures, one a class, for several checkpoints side by side.
#pragma once
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <tessera/io/json.hpp>
#include <tessera/segmentation/charts.hpp>
#include <tessera/segmentation/metrics.hpp>
#include <tessera/train/progress.hpp>

#include "segmentation_options.hpp"

namespace examples {

/// The cosine (PACL: the compatibility) of a picture and each of `count` classes, by CLIP's preprocessing: the short
/// side to the model's size, the middle square. Of several names of a class, where they were kept apart, the best one
/// speaks.
inline std::vector<double> image_scores(Context<Cpu>& ctx, const segmentation::DenseModel& model,
                                        const segmentation::ClassEmbeddings& classes, size_t count,
                                        const data::Image& picture) {
  const data::Image square = data::clip_resize(picture, int(model.image_size()));
  const auto input =
      segmentation::padded_tensor(ctx, square, model.statistics(), model.patch_size(), model.patch_size());
  const auto cosines = model.score_image(ctx, input, classes.vectors);
  std::vector<double> scores(count, -2);
  for (size_t row = 0; row < classes.class_of_row.size(); ++row) {
    double& best = scores[size_t(classes.class_of_row[row])];
    const double cosine = double(cosines(int64_t(row)));
    tessera::require(std::isfinite(cosine), "the ", model.system(),
                     " model gave a score that is not a number; its weights hold NaN or infinite values");
    best = std::max(best, cosine);
  }
  return scores;
}

/// A picture, and the class whose folder it lies in.
struct ClassPicture {
  fs::path path;
  int label;
};

/// The name of a class folder as words: "polar_bear" -> "polar bear".
inline std::string folder_words(std::string name) {
  std::replace(name.begin(), name.end(), '_', ' ');
  return name;
}

/// The folders in `root`, by name.
inline std::vector<fs::path> class_folders(const fs::path& root) {
  std::error_code error;
  tessera::require<tessera::IoError>(fs::is_directory(root, error), "--images ", root.string(), " is not a folder");
  std::vector<fs::path> folders;
  fs::directory_iterator entries(root, error);
  tessera::require<tessera::IoError>(!error, "cannot list ", root.string(), ": ", error.message());
  for (const auto& entry : entries)
    if (entry.is_directory(error)) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  tessera::require<tessera::IoError>(!folders.empty(), "there is no folder in ", root.string(),
                                     "; --task classify takes a folder of pictures for each class");
  return folders;
}

/// The classes: those of `given`, or where it is "" one a folder, called as the folder is.
inline segmentation::ClassList classes_of_folders(const std::string& given, const std::vector<fs::path>& folders) {
  if (!given.empty()) return segmentation::load_class_list(given);
  tessera::io::Json names = tessera::io::Json::array();
  for (const auto& folder : folders) names.push_back(folder_words(folder.filename().string()));
  return segmentation::class_list_from_json({{"ignore_index", -1}, {"classes", names}}, "the folders of classes");
}

/// All pictures of all folders, at most `limit` of each (0: all). A folder's class has its name, or a synonym of it.
inline std::vector<ClassPicture> find_class_pictures(const segmentation::ClassList& list,
                                                     const std::vector<fs::path>& folders, int64_t limit) {
  std::vector<ClassPicture> pictures;
  for (const auto& folder : folders) {
    const std::string words = folder_words(folder.filename().string());
    int label = -1;
    for (size_t c = 0; label < 0 && c < list.classes.size(); ++c) {
      const auto& entry = list.classes[c];
      if (entry.name == words || std::count(entry.synonyms.begin(), entry.synonyms.end(), words) > 0) label = int(c);
    }
    tessera::require(label >= 0, "the folder ", folder.string(), " belongs to no class of the list: none is called '",
                     words, "'");
    int64_t taken = 0;
    for (const auto& path : pictures_of(folder))
      if (limit == 0 || taken++ < limit) pictures.push_back({path, label});
  }
  return pictures;
}

/// What one checkpoint makes of the pictures.
struct ClassificationResult {
  std::string name, checkpoint, system, prompts;
  segmentation::ConfusionMatrix counts;
  int64_t in_five = 0;
};

/// Runs a checkpoint over all pictures.
template <class Device>
ClassificationResult classify_pictures(Context<Cpu>& ctx, Context<Device>& device, const ModelOptions& options,
                                       const std::string& name, const segmentation::ClassList& list,
                                       const std::vector<ClassPicture>& pictures) {
  const auto model = systems::load_dense_model(device, options.checkpoint, options.dense());
  const auto prompts = options.prompt_set("imagenet80");
  const auto classes = options.embed(ctx, *model, list, -1, prompts);
  ClassificationResult result{name, options.checkpoint, model->system(), prompts.name,
                              segmentation::ConfusionMatrix(int(list.size()))};
  tessera::train::Progress progress(name, int64_t(pictures.size()), "pictures");
  for (const auto& picture : pictures) {
    const auto scores = image_scores(ctx, *model, classes, list.classes.size(), data::read_image(picture.path));
    const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
    const double right = scores[size_t(picture.label)];
    result.in_five += std::count_if(scores.begin(), scores.end(), [&](double score) { return score > right; }) < 5;
    data::LabelMap guess(1, 1, uint16_t(best)), truth(1, 1, uint16_t(picture.label));
    result.counts.add(guess, truth);
    progress.advance(1);
  }
  return result;
}

inline tessera::io::Json to_json(const ClassificationResult& result, const segmentation::ClassList& list,
                                 size_t pictures) {
  using tessera::io::Json;
  const auto scores = segmentation::score(result.counts);
  Json classes = Json::array(), confusion = Json::array();
  for (int c = 0; c < int(list.size()); ++c) {
    classes.push_back({{"name", list.classes[size_t(c)].name},
                       {"pictures", result.counts.labelled(c)},
                       {"predicted", result.counts.predicted(c)},
                       {"accuracy", scores.accuracy[size_t(c)]}});
    Json row = Json::array();
    for (int p = 0; p < int(list.size()); ++p) row.push_back(result.counts.at(p, c));
    confusion.push_back(row);
  }
  return {{"name", result.name},
          {"checkpoint", result.checkpoint},
          {"system", result.system},
          {"prompts", result.prompts},
          {"top1", scores.pixel_accuracy},
          {"top5", double(result.in_five) / double(pictures)},
          {"mean_class_accuracy", scores.mean_accuracy},
          {"classes", classes},
          {"confusion", confusion}};  // [truth][prediction]
}

/// % of the pictures of a class that were taken for each class, a matrix a checkpoint.
inline data::Image draw_confusions(const std::vector<ClassificationResult>& results,
                                   const segmentation::ClassList& list) {
  std::vector<std::string> names;
  for (const auto& entry : list.classes) names.push_back(entry.name);
  std::vector<segmentation::SheetRow> rows;
  for (const auto& result : results) {
    std::vector<std::vector<double>> shares(names.size());
    for (int truth = 0; truth < int(names.size()); ++truth)
      for (int guess = 0; guess < int(names.size()); ++guess)
        shares[size_t(truth)].push_back(result.counts.share(guess, truth));
    rows.push_back({"",
                    {{segmentation::draw_matrix(
                          result.name + ": % of a class's pictures (row) taken for each class (column)", names, shares),
                      ""}}});
  }
  return segmentation::picture_sheet(rows);
}

/// Of the options of `evaluate`, those given that say how pictures are segmented are refused by name.
inline void refuse_options_of_segmentation(const CLI::App& app) {
  const std::vector<std::string> taken = {"--task",    "--checkpoint", "--tokenizer",   "--activation",
                                          "--prompts", "--synonyms",   "--class-names", "--dtype",
                                          "--threads", "--device",     "--images",      "--classes",
                                          "--limit",   "--beside",     "--confusion",   "--output"};
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_name();
    tessera::require(option->count() == 0 || std::count(taken.begin(), taken.end(), name) > 0, name,
                     " belongs to --task segment; whole pictures are classified without it");
  }
}

/// `evaluate --task classify`: prints a table, writes JSON and the picture of the confusion matrices where they are
/// asked for. `beside`: NAME=FOLDER, more checkpoints.
template <class Device>
void evaluate_classification(Context<Cpu>& ctx, Context<Device>& device, const ModelOptions& first,
                             const std::vector<std::string>& beside, const std::string& images,
                             const std::string& given_classes, int64_t limit, const std::string& output,
                             const std::string& confusion) {
  use_threads(first.threads);
  require_writable(output);
  require_writable(confusion);
  tessera::require(confusion.empty() || is_picture(confusion), "--confusion ", confusion, " must end in .png or .jpg");
  const auto folders = class_folders(images);
  const auto list = classes_of_folders(given_classes, folders);
  const auto pictures = find_class_pictures(list, folders, limit);
  std::vector<ModelOptions> models = {first};
  std::vector<std::string> names = {fs::path(first.checkpoint).stem().string()};
  for (const auto& one : beside) {
    const size_t equals = one.find('=');
    tessera::require(equals != one.npos && equals > 0 && equals + 1 < one.size(), "--beside ", one,
                     " must be NAME=CHECKPOINT");
    names.push_back(one.substr(0, equals));
    models.push_back(first);
    models.back().checkpoint = one.substr(equals + 1);
    models.back().tokenizer.clear();
    const std::string type = systems::describe_checkpoint(models.back().checkpoint).model_type;
    if (type == "pacl" || type == "segclip") models.back().activation.clear();
  }
  std::vector<ClassificationResult> results;
  tessera::io::Json rows = tessera::io::Json::array();
  for (size_t i = 0; i < models.size(); ++i) {
    results.push_back(classify_pictures(ctx, device, models[i], names[i], list, pictures));
    rows.push_back(to_json(results.back(), list, pictures.size()));
  }
  size_t widest = 10;
  for (const auto& name : names) widest = std::max(widest, name.size());
  std::printf("%-*s  system    top-1 %%  top-5 %%  mean over classes %%\n", int(widest), "checkpoint");
  for (size_t i = 0; i < results.size(); ++i)
    std::printf("%-*s  %-8s  %7.2f  %7.2f  %7.2f\n", int(widest), names[i].c_str(), results[i].system.c_str(),
                100 * rows[i]["top1"].get<double>(), 100 * rows[i]["top5"].get<double>(),
                100 * rows[i]["mean_class_accuracy"].get<double>());
  std::printf("%zu pictures of %zu classes, %zu classes to choose from\n", pictures.size(), folders.size(),
              list.classes.size());
  if (!confusion.empty()) data::write_image(confusion, draw_confusions(results, list));
  if (output.empty()) return;
  tessera::io::write_json(output, {{"task", "classify"},
                                   {"images", images},
                                   {"pictures", pictures.size()},
                                   {"class_list", given_classes},
                                   {"checkpoints", rows}});
  std::printf("written to %s\n", output.c_str());
}

}  // namespace examples
