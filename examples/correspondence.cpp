// Where does an encoder see the same thing again? The similarity of one patch of a picture to all others, in that
// picture and in more; and where it sees words, encoders (before and after alignment) and prompts side by side.
//
//   correspondence --encoder clip=clip-vit-base-patch16 --encoder dino=dino-vitb16 --image cat.jpg --at 120,85
//                  --beside other.jpg --beside pictures/
//   correspondence --encoder before=clip-vit-base-patch16:projected --encoder after=pacl-b16 --image cat.jpg
//                  --words cat,grass --prompts "{}" --prompts "a photo of a {}."
//
// Whole pictures are seen, the short side resized; colours of an encoder are of one scale in all its maps.
#include <tessera/segmentation/charts.hpp>
#include <tessera/segmentation/roc.hpp>
#include <tessera/train/report.hpp>

#include "analysis_options.hpp"

namespace {

using namespace examples;
using tessera::io::Json;

struct Options {
  AnalysisOptions analysis;
  std::string image, at, words, text, labels, label_suffix = ".png", classes;
  std::vector<std::string> beside, prompts;
  bool raw_labels = false;
  int64_t patch_stride = 0;
  int most = 5;
};

struct Point {
  double x = 0, y = 0;
};

/// A picture, and its labels where there are label maps.
struct Picture {
  std::string name;
  data::Image image, shown;
  std::optional<data::LabelMap> truth;
};

/// What an encoder makes of a picture.
struct Seen {
  tessera::PatchGrid grid;
  tessera::Tensor<float, 2> patches;       ///< [P, C], of length 1
  segmentation::CellPlaces places, shown;  ///< in pixels of the picture, and of what is shown of it
  std::vector<int32_t> labels;             ///< [P], or none

  /// The centre of a patch in the picture.
  Point centre(int64_t patch, const segmentation::CellPlaces& cells) const {
    return {cells.first_x + double(patch % grid.width) * cells.step_x,
            cells.first_y + double(patch / grid.width) * cells.step_y};
  }
  int64_t patch_at(Point point) const {
    const auto nearest = [](double at, double first, double step, int64_t count) {
      return std::clamp<int64_t>(std::llround((at - first) / step), 0, count - 1);
    };
    return nearest(point.y, places.first_y, places.step_y, grid.height) * grid.width +
           nearest(point.x, places.first_x, places.step_x, grid.width);
  }
};

/// Cosines of a picture's patches with one vector.
struct Map {
  tessera::Tensor<float, 2> values;  ///< [h, w]
  double low = 0, high = 0;
  int64_t best = 0;            ///< the patch of the largest value
  double area = std::nan("");  ///< below the ROC curve of "the patch is of the class that is looked for"
};

Point parse_point(const std::string& text) {
  Point point;
  char rest = 0;
  tessera::require(std::sscanf(text.c_str(), "%lf,%lf%c", &point.x, &point.y, &rest) == 2 && std::isfinite(point.x) &&
                       std::isfinite(point.y),
                   "--at ", text, " is no point; write two numbers, x,y, in pixels from the upper left corner");
  return point;
}

std::vector<Picture> read_pictures(const Options& options, const std::vector<uint16_t>& table) {
  std::vector<fs::path> paths = {options.image};
  for (const auto& place : options.beside)
    for (const auto& path : pictures_of(place))
      if (int(paths.size()) <= options.most) paths.push_back(path);
  std::vector<Picture> pictures;
  for (const auto& path : paths) {
    Picture picture{path.filename().string(), data::to_rgb(data::read_image(path)), {}, {}};
    picture.shown = for_display(picture.image, 200, 260);
    if (!options.labels.empty()) {
      const Sample sample{path.stem().string(), path,
                          fs::path(options.labels) / (path.stem().string() + options.label_suffix)};
      picture.truth = read_truth(sample, table, picture.image);
    }
    pictures.push_back(std::move(picture));
  }
  return pictures;
}

Seen look(Context<Cpu>& ctx, const NamedEncoder& named, const Picture& picture, int64_t stride, int classes) {
  const auto& encoder = *named.encoder;
  const int64_t patch = encoder.patch_size();
  const auto size = segmentation::resized_size(picture.image, named.side, 2048);
  const auto resized = data::resize(picture.image, size.width, size.height, data::Filter::bicubic);
  const auto input = segmentation::padded_tensor(ctx, resized, encoder.statistics(), patch, stride);
  const auto tokens = encoder.patches(ctx, input, stride);
  Seen seen;
  seen.grid = encoder.grid(input.shape[2], input.shape[3], stride);
  seen.patches = unit_rows(ctx, tokens.reshaped(tessera::Shape<2>{tokens.shape[1], tokens.shape[2]}), named.name);
  const auto places = [&](const data::Image& shown) {
    const double across = double(shown.width) / size.width, down = double(shown.height) / size.height;
    return segmentation::CellPlaces{0.5 * double(patch) * across, double(stride) * across, 0.5 * double(patch) * down,
                                    double(stride) * down};
  };
  seen.places = places(picture.image);
  seen.shown = places(picture.shown);
  if (!picture.truth) return seen;
  const data::LabelMap labels = data::resize(*picture.truth, size.width, size.height);
  data::LabelMap padded(int(input.shape[3]), int(input.shape[2]), ignored_label);
  for (int y = 0; y < labels.height; ++y) std::copy_n(labels.row(y), labels.width, padded.row(y));
  seen.labels = segmentation::patch_labels(padded, seen.grid, patch, stride, classes);
  return seen;
}

/// `vector` [C] of length 1; `wanted` is the class that is looked for, or no_class; the patch `query` is left out of
/// the area.
Map compare(Context<Cpu>& ctx, const Seen& seen, const float* vector, int32_t wanted, int64_t query = -1) {
  Map map{tessera::Tensor<float, 2>(ctx, {seen.grid.height, seen.grid.width})};
  std::vector<float> of_class, of_others;
  for (int64_t p = 0; p < seen.patches.shape[0]; ++p) {
    float sum = 0;
    for (int64_t c = 0; c < seen.patches.shape[1]; ++c) sum += seen.patches(p, c) * vector[c];
    map.values.data[p] = sum;
    if (wanted == segmentation::no_class || seen.labels.empty() || p == query) continue;
    if (seen.labels[size_t(p)] == segmentation::no_class) continue;
    (seen.labels[size_t(p)] == wanted ? of_class : of_others).push_back(sum);
  }
  const auto [low, high] = std::minmax_element(map.values.data, map.values.data + map.values.size());
  map.low = double(*low);
  map.high = double(*high);
  map.best = high - map.values.data;
  if (!of_class.empty() && !of_others.empty())
    map.area = segmentation::roc_curve(std::move(of_class), std::move(of_others)).area;
  return map;
}

/// A white ring with a dark edge.
void draw_ring(data::Image& image, Point at) {
  constexpr int pieces = 24;
  for (const auto& [width, colour] : {std::pair{5.0, data::Colour{20, 20, 30}}, {2.5, data::Colour{255, 255, 255}}})
    for (int i = 0; i < pieces; ++i) {
      const auto on = [&](int k) {
        const double angle = 2 * M_PI * k / pieces;
        return Point{at.x + 8 * std::cos(angle), at.y + 8 * std::sin(angle)};
      };
      segmentation::draw_line(image, on(i).x, on(i).y, on(i + 1).x, on(i + 1).y, width, colour);
    }
}

std::string map_words(const Map& map) {
  const std::string range = segmentation::fixed_text(map.low, 2) + " to " + segmentation::fixed_text(map.high, 2);
  return std::isnan(map.area) ? range : range + ", AUC " + segmentation::fixed_text(map.area, 2);
}

Json to_json(const Map& map, const Seen& seen, const std::string& picture) {
  const Point best = seen.centre(map.best, seen.places);
  return {{"picture", picture},
          {"grid", {seen.grid.height, seen.grid.width}},
          {"lowest", map.low},
          {"highest", map.high},
          {"highest_at", {best.x, best.y}},
          {"auc", map.area}};
}

/// The range of an encoder's colours.
struct Range {
  double low = 1, high = -1;
  void add(const Map& map) {
    low = std::min(low, map.low);
    high = std::max(high, map.high);
  }
};

/// One row of maps an encoder, below the pictures.
std::vector<segmentation::SheetRow> query_rows(Context<Cpu>& ctx, const std::vector<NamedEncoder>& encoders,
                                               const std::vector<std::vector<Seen>>& seen,
                                               const std::vector<Picture>& pictures, Point at, Json& results) {
  std::vector<segmentation::SheetRow> rows = {{"The marked patch ...", {}}};
  for (const auto& picture : pictures) rows[0].tiles.push_back({picture.shown, picture.name});
  const Point mark = {at.x * pictures[0].shown.width / pictures[0].image.width,
                      at.y * pictures[0].shown.height / pictures[0].image.height};
  draw_ring(rows[0].tiles[0].image, mark);
  for (size_t e = 0; e < encoders.size(); ++e) {
    const int64_t query = seen[e][0].patch_at(at);
    const int32_t wanted = seen[e][0].labels.empty() ? segmentation::no_class : seen[e][0].labels[size_t(query)];
    std::vector<Map> maps;
    Range range;
    for (size_t i = 0; i < pictures.size(); ++i) {
      maps.push_back(compare(ctx, seen[e][i], &seen[e][0].patches(query, 0), wanted, i == 0 ? query : -1));
      range.add(maps.back());
    }
    Json entry = encoders[e].json();
    entry["patch"] = {{"row", query / seen[e][0].grid.width}, {"column", query % seen[e][0].grid.width}};
    entry["maps"] = Json::array();
    rows.push_back({(e == 0 ? "... and what is similar to it: " : "") + encoders[e].name, {}});
    for (size_t i = 0; i < pictures.size(); ++i) {
      auto image =
          segmentation::heat_map(ctx, pictures[i].shown, view(maps[i].values), seen[e][i].shown, range.low, range.high);
      draw_ring(image, i == 0 ? mark : seen[e][i].centre(maps[i].best, seen[e][i].shown));
      rows.back().tiles.push_back({std::move(image), map_words(maps[i])});
      entry["maps"].push_back(to_json(maps[i], seen[e][i], pictures[i].name));
    }
    results.push_back(entry);
  }
  return rows;
}

/// What a word's maps are made of: an encoder, and the words' vectors in its space in one set of prompts.
struct Column {
  size_t encoder;
  std::string prompts;
  tessera::Tensor<float, 2> vectors;  ///< [words, E]
};

/// For each picture a row a word: the picture, then a map a column.
std::vector<segmentation::SheetRow> word_rows(Context<Cpu>& ctx, const std::vector<NamedEncoder>& encoders,
                                              const std::vector<std::vector<Seen>>& seen,
                                              const std::vector<Picture>& pictures,
                                              const std::vector<std::string>& words,
                                              const std::vector<int32_t>& class_of_word,
                                              const std::vector<Column>& columns, Json& results) {
  std::vector<Range> ranges(encoders.size());
  std::vector<std::vector<std::vector<Map>>> maps(pictures.size(), std::vector<std::vector<Map>>(words.size()));
  for (size_t i = 0; i < pictures.size(); ++i)
    for (size_t w = 0; w < words.size(); ++w)
      for (const Column& column : columns) {
        maps[i][w].push_back(compare(ctx, seen[column.encoder][i], &column.vectors(int64_t(w), 0), class_of_word[w]));
        ranges[column.encoder].add(maps[i][w].back());
      }
  std::vector<segmentation::SheetRow> rows;
  for (size_t i = 0; i < pictures.size(); ++i)
    for (size_t w = 0; w < words.size(); ++w) {
      rows.push_back({"\"" + words[w] + "\"", {{pictures[i].shown, pictures[i].name}}});
      for (size_t k = 0; k < columns.size(); ++k) {
        const size_t e = columns[k].encoder;
        const Map& map = maps[i][w][k];
        std::string caption = encoders[e].name;
        if (columns.size() > encoders.size()) caption += ", " + columns[k].prompts;
        rows.back().tiles.push_back({segmentation::heat_map(ctx, pictures[i].shown, view(map.values), seen[e][i].shown,
                                                            ranges[e].low, ranges[e].high),
                                     caption + ": " + map_words(map)});
        Json entry = to_json(map, seen[e][i], pictures[i].name);
        entry["word"] = words[w];
        entry["encoder"] = encoders[e].name;
        entry["prompts"] = columns[k].prompts;
        results.push_back(entry);
      }
    }
  return rows;
}

void run(const Options& options) {
  use_threads(options.analysis.threads);
  auto choices = options.analysis.choices();
  require_result_folder(options.analysis.output);
  tessera::require(!options.at.empty() || !options.words.empty(), "name a point with --at x,y, or --words, or both");
  tessera::require(options.labels.empty() == options.classes.empty(),
                   "--labels and --classes go together: the list tells what the maps' numbers mean");
  std::optional<segmentation::ClassList> list, asked;
  std::vector<uint16_t> table;
  if (!options.classes.empty()) {
    list = segmentation::load_class_list(options.classes);
    table = take_foreground(*list, options.raw_labels);
  }
  if (!options.words.empty()) asked = segmentation::class_list_from_text(options.words);
  const auto pictures = read_pictures(options, table);
  std::optional<Point> at;
  if (!options.at.empty()) {
    at = parse_point(options.at);
    const auto& image = pictures[0].image;
    tessera::require(at->x >= 0 && at->y >= 0 && at->x < image.width && at->y < image.height, "--at ", options.at,
                     " lies outside ", options.image, ", which is ", image.width, " x ", image.height, " pixels");
  }

  Context<Cpu> ctx;
  std::vector<NamedEncoder> encoders;
  std::vector<Column> columns;
  for (auto& choice : choices) {
    if (asked) {
      const TextSource source = open_texts(ctx, options.analysis, choice, options.text);
      const auto given = options.prompts.empty() ? std::vector<std::string>{""} : options.prompts;
      for (const auto& prompts : given) {
        const auto set = source.prompts(prompts);
        columns.push_back({encoders.size(), set.name, source.embed(ctx, *asked, set)});
      }
    }
    encoders.push_back(open_encoder(ctx, options.analysis, choice));
    tessera::require(!asked || columns.back().vectors.shape[1] == encoders.back().encoder->width(), "the patches of ",
                     choice.name, " and the texts have different numbers of channels: they cannot be compared");
  }
  std::vector<std::vector<Seen>> seen;
  for (const auto& named : encoders) {
    const int64_t patch = named.encoder->patch_size(), stride = options.patch_stride ? options.patch_stride : patch;
    tessera::require(stride <= patch, "--patch-stride ", stride, " leaves gaps between the patches of ", named.name,
                     ", which are ", patch, " pixels wide");
    seen.emplace_back();
    for (const auto& picture : pictures)
      seen.back().push_back(look(ctx, named, picture, stride, list ? int(list->size()) : 1));
  }

  std::vector<std::string> words;
  std::vector<int32_t> class_of_word;
  if (asked)
    for (const auto& entry : asked->classes) {
      words.push_back(entry.name);
      class_of_word.push_back(segmentation::no_class);
      for (size_t c = 0; list && c < list->classes.size(); ++c)
        if (list->classes[c].name == entry.name) class_of_word.back() = int32_t(c);
    }
  Json document = {{"image", options.image}, {"patch_stride", options.patch_stride}};
  tessera::train::Report report("Correspondences of patches");
  const fs::path folder = options.analysis.output;
  std::vector<std::pair<std::string, data::Image>> sheets;
  if (at) {
    document["at"] = {at->x, at->y};
    document["encoders"] = Json::array();
    const auto rows = query_rows(ctx, encoders, seen, pictures, *at, document["encoders"]);
    sheets.emplace_back("correspondence.png", segmentation::picture_sheet(rows));
    report.heading("Similar patches");
    report.pictures({sheets.back().second},
                    "Cosine with the marked patch; in other pictures the most similar patch is marked. Each encoder's "
                    "colours are of one scale, from its lowest value (dark) to its highest.");
  }
  if (asked) {
    document["words"] = Json::array();
    const auto rows = word_rows(ctx, encoders, seen, pictures, words, class_of_word, columns, document["words"]);
    sheets.emplace_back("words.png", segmentation::picture_sheet(rows));
    report.heading("Where words are");
    report.pictures({sheets.back().second},
                    "Cosine of patches with a word's vector. Each encoder's colours are of one scale, over all words, "
                    "prompts and pictures.");
  }
  make_folder(folder);
  std::string written = "report.html";
  for (const auto& [name, image] : sheets) {
    data::write_image(folder / name, image);
    written += ", " + name;
  }
  tessera::io::write_json(folder / "correspondence.json", document);
  report.write(folder / "report.html");
  std::printf("written to %s: %s, correspondence.json\n", folder.string().c_str(), written.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{
      "Where does an encoder see the same thing again? Maps of the similarity of one patch to all others, in its own "
      "picture\nand in more; and of words to patches, encoders and prompts side by side.\n\n"
      "  correspondence --encoder clip=clip-vit-base-patch16 --encoder dino=dino-vitb16 --image cat.jpg --at 120,85\n"
      "                 --beside other.jpg\n"
      "  correspondence --encoder before=clip-vit-base-patch16:projected --encoder after=pacl-b16 --image cat.jpg\n"
      "                 --words cat,grass --prompts \"{}\" --prompts \"a photo of a {}.\"\n"};
  options.analysis.add_to(app, "correspondence");
  app.add_option("--image", options.image, "a JPEG or PNG")->required();
  app.add_option("--at", options.at, "x,y: the point of the picture whose patch is looked for, in its pixels");
  app.add_option("--beside", options.beside, "more pictures, or folders of them; may be repeated");
  app.add_option("--most", options.most, "of pictures beside, at most so many")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  app.add_option("--words", options.words, "words to look for, separated by commas");
  app.add_option("--prompts", options.prompts,
                 "sentences for the words: a prompt set, a file, or one template with {} in it; repeated for several "
                 "side by side; default: each checkpoint's own, else clip_best7");
  app.add_option("--text", options.text, "checkpoint whose text tower is asked; default: each encoder's own");
  app.add_option("--patch-stride", options.patch_stride, "pixels from patch to patch; default: the patch size")
      ->check(CLI::Range(int64_t(1), int64_t(1024)));
  app.add_option("--labels", options.labels,
                 "folder of label maps, for the area below the ROC curve of each map: patches of the class that is "
                 "looked for against all other labelled ones");
  app.add_option("--label-suffix", options.label_suffix, "how label maps' names go on after NAME")
      ->capture_default_str();
  app.add_flag("--raw-labels", options.raw_labels, "label maps hold the raw_ids of the class list");
  app.add_option("--classes", options.classes, "the label maps' class list: FILE.json, a benchmark, or names");
  return run_program(app, argc, argv, "correspondence", [&] { run(options); });
}
