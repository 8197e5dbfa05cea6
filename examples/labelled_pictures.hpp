// A folder of pictures with a folder of label maps, as the programs take them: which belong together, and what the
// numbers in the maps mean.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include <tessera/data/image.hpp>
#include <tessera/segmentation/classes.hpp>

#include "common.hpp"

namespace examples {

/// Where pictures and label maps lie.
struct LabelledPictures {
  std::string images, labels, split, image_suffix, label_suffix = ".png";
  bool raw_labels = false;
  int64_t limit = 0;

  /// `labels_required`: whether the program can do nothing without label maps.
  void add_to(CLI::App& app, bool labels_required = true) {
    app.add_option("--images", images, "folder of pictures")->required();
    app.add_option("--labels", labels, "folder of label maps")->required(labels_required);
    app.add_option("--split", split, "a file with a name a line; default: all pictures of the folder");
    app.add_option("--image-suffix", image_suffix,
                   "how pictures' names go on after NAME (_leftImg8bit.png); default: .jpg, .png or .jpeg");
    app.add_option("--label-suffix", label_suffix, "how label maps' names go on after NAME")->capture_default_str();
    app.add_flag("--raw-labels", raw_labels,
                 "label maps hold the data set's own numbers, the raw_ids of the class list");
    app.add_option("--limit", limit, "only the first N pictures")->check(CLI::Range(int64_t(1), int64_t(1) << 40));
  }
};

/// A picture and its label map.
struct Sample {
  std::string id;
  fs::path image, labels;
};

/// The picture of an id: with the given suffix, else with the first usual ending that exists.
inline fs::path find_picture(const LabelledPictures& given, const std::string& id) {
  std::error_code ignored;
  const fs::path folder = given.images;
  if (!given.image_suffix.empty()) return folder / (id + given.image_suffix);
  for (const char* ending : {".jpg", ".png", ".jpeg", ".JPG", ".PNG"})
    if (fs::exists(folder / (id + ending), ignored)) return folder / (id + ending);
  return folder / (id + ".jpg");
}

inline std::vector<std::string> read_split(const std::string& path) {
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

/// All pairs of picture and label map; each file is looked for before the first is read.
inline std::vector<Sample> find_samples(const LabelledPictures& given) {
  std::error_code ignored;
  tessera::require<tessera::IoError>(fs::is_directory(given.images, ignored), "--images ", given.images,
                                     " is not a folder");
  tessera::require<tessera::IoError>(fs::is_directory(given.labels, ignored), "--labels ", given.labels,
                                     " is not a folder");
  std::vector<Sample> samples;
  if (!given.split.empty()) {
    for (const auto& id : read_split(given.split)) samples.push_back({id, find_picture(given, id), {}});
  } else {
    for (const auto& picture : pictures_of(given.images)) {
      const std::string name = picture.filename().string();
      const std::string suffix = given.image_suffix.empty() ? picture.extension().string() : given.image_suffix;
      if (name.ends_with(suffix)) samples.push_back({name.substr(0, name.size() - suffix.size()), picture, {}});
    }
    tessera::require<tessera::IoError>(!samples.empty(), "no picture in ", given.images, " ends in ",
                                       given.image_suffix);
  }
  if (given.limit > 0 && int64_t(samples.size()) > given.limit) samples.resize(size_t(given.limit));
  for (Sample& sample : samples) {
    sample.labels = fs::path(given.labels) / (sample.id + given.label_suffix);
    for (const fs::path& file : {sample.image, sample.labels})
      tessera::require<tessera::IoError>(fs::exists(file, ignored), "there is no ", file.string(), " for '", sample.id,
                                         "'; --image-suffix and --label-suffix tell how names end");
  }
  return samples;
}

inline constexpr uint16_t ignored_label = 65535;  // above every class

/// From values in label files to classes, and to ignored_label.
inline std::vector<uint16_t> truth_table(const tessera::segmentation::ClassList& list, bool raw) {
  std::vector<int> table;
  if (raw) {
    table = tessera::segmentation::raw_label_table(list);
  } else {
    const auto usual = tessera::segmentation::label_table(list);
    table.assign(usual.begin(), usual.end());
  }
  std::vector<uint16_t> truth;
  for (const int label : table)
    truth.push_back(label < 0 || label == list.ignore_label ? ignored_label : uint16_t(label));
  return truth;
}

/// A label map whose values are classes by `table`; `picture` is what it belongs to, of the same size.
inline tessera::data::LabelMap read_truth(const Sample& sample, const std::vector<uint16_t>& table,
                                          const tessera::data::Image& picture) {
  tessera::data::LabelMap truth = tessera::data::read_label_map(sample.labels);
  for (uint16_t& label : truth.labels) label = label < table.size() ? table[label] : ignored_label;
  tessera::require(truth.width == picture.width && truth.height == picture.height, sample.labels.string(), " is ",
                   truth.width, " x ", truth.height, " pixels, but its picture is ", picture.width, " x ",
                   picture.height);
  return truth;
}

}  // namespace examples
