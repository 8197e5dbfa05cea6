// Class lists: what a picture's pixels may be, what the text encoder is asked for, and which number means which class
// in label maps. From a line of text ("cat,dog|puppy,grass"), from JSON, or one of eight benchmarks by name.
//
// JSON: {"name", "ignore_index": 255, "reduce_zero_label": false, "background_id": 0, "use_synonyms_default": false,
//        "classes": [{"name": "cat", "synonyms": ["kitten"], "color": [64, 0, 0], "raw_ids": [8]}, …]}
// Only "classes" with their names are needed; a class may also be just a string. Classes may state "id" (0, 1, … in any
// order). Other spellings for single systems are kept by key: "maskclip_name", "groupvit_name", "pixelclip_name" (a
// string) and "sclip_names" (an array).
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <tessera/core/error.hpp>
#include <tessera/data/pixels.hpp>
#include <tessera/io/json.hpp>
#include <tessera/segmentation/benchmark_classes.hpp>

namespace tessera::segmentation {

using data::Colour;

/// A class: its name, what else it is called, its colour and its labels.
struct ClassEntry {
  std::string name;
  std::vector<std::string> synonyms;
  Colour colour{};
  std::vector<int> raw_ids;                               ///< labels in the data set's own annotation
  std::map<std::string, std::vector<std::string>> names;  ///< by system ("maskclip"), where it asks for other words
};

/// Where the parts of a data set lie; "{id}" stands for an image's name.
struct DatasetLayout {
  std::string root, images, labels, split;
};

/// The classes of a data set, and what its label maps mean.
struct ClassList {
  std::string name, title;
  std::vector<ClassEntry> classes;
  int background = -1;             ///< the class that no text is asked for; -1: none
  int ignore_label = 255;          ///< pixels with this label do not count
  bool reduce_zero_label = false;  ///< label maps hold class + 1, and 0 where nothing counts
  bool use_synonyms = false;       ///< whether synonyms are asked for along with the name
  int validation_images = 0;       ///< customary number; 0: not known
  DatasetLayout layout;

  /// The number of classes.
  int64_t size() const { return int64_t(classes.size()); }
};

/// Colour `index` of PASCAL VOC's palette: the bits of the index spread over the channels; 0 is black, and the first
/// 256 all differ.
inline Colour palette_colour(int index) {
  std::array<uint8_t, 3> channels{};
  for (int bit = 0; bit < 8; ++bit)
    for (size_t channel = 0; channel < 3; ++channel)
      channels[channel] = uint8_t(channels[channel] | ((index >> (3 * bit + int(channel))) & 1) << (7 - bit));
  return {channels[0], channels[1], channels[2]};
}

namespace detail {

inline std::string trimmed(std::string_view text) {
  constexpr std::string_view spaces = " \t\r\n";
  const size_t first = text.find_first_not_of(spaces);
  if (first == text.npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(spaces) + 1 - first));
}

inline std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(trimmed(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return parts;
}

/// What every list must satisfy; `what` begins the errors.
template <class E>
void check_class_list(const ClassList& list, const std::string& what) {
  require<E>(!list.classes.empty() && list.classes.size() <= 65'535, what, ": ", list.classes.size(),
             " classes; there must be 1 to 65535");
  std::set<std::string_view> seen;
  for (size_t c = 0; c < list.classes.size(); ++c) {
    require<E>(!list.classes[c].name.empty(), what, ": class ", c, " has no name");
    require<E>(seen.insert(list.classes[c].name).second, what, ": two classes are called '", list.classes[c].name, "'");
  }
  require<E>(list.background >= -1 && list.background < list.size(), what, ": background_id is ", list.background,
             "; there are ", list.size(), " classes");
  require<E>(list.ignore_label < 0 || list.ignore_label >= list.size(), what, ": ignore_index ", list.ignore_label,
             " is the number of a class");
}

inline std::vector<std::string> read_strings(const io::JsonView& array) {
  require<IoError>(array.is_array(), array.name(), " must be an array of strings");
  std::vector<std::string> strings;
  for (size_t i = 0; i < array.size(); ++i) strings.push_back(array[i].as<std::string>());
  return strings;
}

inline ClassEntry read_class(const io::JsonView& object) {
  ClassEntry entry;
  if (object.json().is_string()) {
    entry.name = object.as<std::string>();
    return entry;
  }
  entry.name = object.get<std::string>("name");
  if (object.has("synonyms")) entry.synonyms = read_strings(object["synonyms"]);
  if (object.has("color")) {
    const io::JsonView channels = object["color"];
    require<IoError>(channels.is_array() && channels.size() == 3, channels.name(), " must be [red, green, blue]");
    const auto channel = [&](size_t i) { return uint8_t(channels[i].as<int>(0, 255)); };
    entry.colour = {channel(0), channel(1), channel(2)};
  }
  if (object.has("raw_ids")) {
    const io::JsonView ids = object["raw_ids"];
    require<IoError>(ids.is_array(), ids.name(), " must be an array of numbers");
    for (size_t i = 0; i < ids.size(); ++i) entry.raw_ids.push_back(ids[i].as<int>(0, 65'535));
  }
  for (const char* system : {"maskclip", "groupvit", "pixelclip"}) {
    const std::string key = sentence(system, "_name");
    if (object.has(key)) entry.names[system] = {object.get<std::string>(key)};
  }
  if (object.has("sclip_names")) entry.names["sclip"] = read_strings(object["sclip_names"]);
  return entry;
}

/// Appends the classes of a JSON array, ordered by "id" where stated. Classes without a colour get palette colours.
inline void read_classes(ClassList& list, const io::JsonView& array) {
  require<IoError>(array.is_array(), array.name(), " must be an array of classes");
  const size_t first = list.classes.size();
  list.classes.resize(first + array.size());
  std::vector<bool> taken(array.size(), false);
  for (size_t i = 0; i < array.size(); ++i) {
    const io::JsonView object = array[i];
    const size_t id = object.is_object() && object.has("id") ? object.get<size_t>("id", 0, array.size() - 1) : i;
    require<IoError>(!taken[id], object.name(), ": id ", id, " belongs to another class too");
    taken[id] = true;
    ClassEntry& entry = list.classes[first + id];
    entry = read_class(object);
    if (!object.is_object() || !object.has("color")) entry.colour = palette_colour(int(first + id) + 1);
  }
}

}  // namespace detail

/// A list from a parsed document; `where` begins the errors, which are IoError.
inline ClassList class_list_from_json(const io::Json& document, const std::string& where) {
  const io::JsonView root(document, where);
  ClassList list;
  if (root.is_array()) {
    detail::read_classes(list, root);
    detail::check_class_list<IoError>(list, where);
    return list;
  }
  list.name = root.get_or("name", "");
  list.title = root.get_or("display_name", list.name.c_str());
  list.ignore_label = root.get_or<int>("ignore_index", 255);
  list.reduce_zero_label = root.get_or<bool>("reduce_zero_label", false);
  list.use_synonyms = root.get_or<bool>("use_synonyms_default", false);
  list.validation_images = root.get_or<int>("val_images", 0);
  if (root.has("background_id")) {
    list.background = root.get<int>("background_id");
  } else if (root.get_or<bool>("has_background", false)) {
    list.background = 0;
  }
  if (root.has("layout")) {
    const io::JsonView layout = root["layout"];
    list.layout = {layout.get_or("root", ""), layout.get_or("images", ""), layout.get_or("labels", ""),
                   layout.get_or("split", "")};
  }
  detail::read_classes(list, root["classes"]);
  if (root.has("num_classes")) {
    const auto stated = root.get<int64_t>("num_classes");
    require<IoError>(stated == list.size(), where, ": num_classes is ", stated, ", but ", list.size(), " are listed");
  }
  detail::check_class_list<IoError>(list, where);
  return list;
}

/// A list from a JSON file. Throws IoError.
inline ClassList class_list_from_file(const std::filesystem::path& path) {
  return class_list_from_json(io::read_json(path), path.string());
}

/// A list from text: classes separated by commas, the synonyms of one by "|" ("cat,dog|puppy,grass"). Spaces around
/// names do not count. Throws ValueError for empty or repeated names.
inline ClassList class_list_from_text(std::string_view text) {
  ClassList list;
  for (const std::string& part : detail::split(text, ',')) {
    const std::vector<std::string> names = detail::split(part, '|');
    for (const std::string& name : names)
      require(!name.empty(), "class list '", text.substr(0, 120), "': name ", list.classes.size() + 1, " ('", part,
              "') is empty; write names separated by commas, synonyms by |");
    ClassEntry entry;
    entry.name = names.front();
    entry.synonyms.assign(names.begin() + 1, names.end());
    entry.colour = palette_colour(int(list.classes.size()) + 1);
    list.use_synonyms = list.use_synonyms || !entry.synonyms.empty();
    list.classes.push_back(std::move(entry));
  }
  if (list.size() > list.ignore_label) list.ignore_label = -1;  // 255 is then a class
  detail::check_class_list<ValueError>(list, sentence("class list '", text.substr(0, 120), "'"));
  return list;
}

/// Names of the benchmarks whose lists are built in.
inline std::vector<std::string> benchmark_names() {
  std::vector<std::string> names;
  for (const detail::Benchmark& benchmark : detail::benchmarks) names.emplace_back(benchmark.name);
  return names;
}

/// The class list of a benchmark; throws ValueError that lists all where there is none of this name.
inline ClassList benchmark_classes(std::string_view name) {
  std::string all;
  for (const detail::Benchmark& benchmark : detail::benchmarks) {
    all += (all.empty() ? "" : ", ") + std::string(benchmark.name);
    if (benchmark.name != name) continue;
    ClassList list;
    list.name = benchmark.name;
    list.title = benchmark.title;
    list.reduce_zero_label = benchmark.reduce_zero_label;
    list.validation_images = benchmark.val_images;
    list.layout = {std::string(benchmark.root), std::string(benchmark.images), std::string(benchmark.labels),
                   std::string(benchmark.split)};
    const std::string where = sentence("classes of ", name);
    io::Json document = io::parse_json(benchmark.classes, where);
    if (!benchmark.background.empty()) {
      list.background = 0;
      document.insert(document.begin(), io::parse_json(benchmark.background, where));
    }
    detail::read_classes(list, io::JsonView(document, where));
    detail::check_class_list<IoError>(list, where);
    return list;
  }
  fail<ValueError>("no benchmark is called '", name, "'; there are ", all);
}

/// For command lines: a benchmark's name, the path of a JSON file, or names separated by commas.
inline ClassList load_class_list(const std::string& text) {
  const std::vector<std::string> known = benchmark_names();
  if (std::find(known.begin(), known.end(), text) != known.end()) return benchmark_classes(text);
  const bool names_a_file = text.size() > 5 && text.compare(text.size() - 5, 5, ".json") == 0;
  std::error_code ignored;
  const bool other_file = text.find('.') != text.npos && std::filesystem::is_regular_file(text, ignored);
  require(names_a_file || !other_file, "'", text, "' is a file; class lists end in .json");
  return names_a_file ? class_list_from_file(text) : class_list_from_text(text);
}

/// What to ask the text encoder for, class by class: the words of `system` ("maskclip", "groupvit", "pixelclip",
/// "sclip") where the list has them, else the name, with its synonyms if the list says so. The background class is
/// included.
inline std::vector<std::vector<std::string>> class_queries(const ClassList& list, const std::string& system = "") {
  std::vector<std::vector<std::string>> queries;
  for (const ClassEntry& entry : list.classes) {
    if (const auto own = entry.names.find(system); own != entry.names.end()) {
      queries.push_back(own->second);
      continue;
    }
    queries.push_back({entry.name});
    if (list.use_synonyms) queries.back().insert(queries.back().end(), entry.synonyms.begin(), entry.synonyms.end());
  }
  return queries;
}

/// What each value of an 8-bit label map means: a class, or the ignore label. With reduce_zero_label, 0 and 255 become
/// 255 and all else is one less (the arithmetic of mmsegmentation).
inline std::array<int, 256> label_table(const ClassList& list) {
  std::array<int, 256> table{};
  for (int value = 0; value < 256; ++value) {
    int label = value;
    if (list.reduce_zero_label) label = value == 0 || value == 255 ? 255 : value - 1;
    table[size_t(value)] = label < list.size() ? label : list.ignore_label;
  }
  return table;
}

/// From labels of the data set's own annotation (raw_ids) to classes; labels of no class become the ignore label. Holds
/// at least 256 entries. Throws ValueError where two classes claim one label.
inline std::vector<int> raw_label_table(const ClassList& list) {
  std::vector<int> table(256, list.ignore_label);
  std::vector<bool> taken(256, false);
  for (size_t c = 0; c < list.classes.size(); ++c)
    for (const int raw : list.classes[c].raw_ids) {
      if (size_t(raw) >= table.size()) {
        table.resize(size_t(raw) + 1, list.ignore_label);
        taken.resize(size_t(raw) + 1, false);
      }
      require(!taken[size_t(raw)], "raw_label_table: label ", raw, " belongs to '", list.classes[c].name,
              "' and to another class");
      taken[size_t(raw)] = true;
      table[size_t(raw)] = int(c);
    }
  return table;
}

}  // namespace tessera::segmentation
