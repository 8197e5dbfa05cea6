// Makes captioned pictures with exact label maps, as tar shards that the training programs read:
//
//   scenes --set classic --split train --count 48000 --output scenes/train
//   scenes --split test --output scenes/test --preview test.png
//
// The library does the work: a SceneSet says what there is, a SceneRenderer makes scene after scene, a ShardWriter
// stores them. Training programs can also take scenes straight from the renderer (tessera::data::SceneSource).
#include <CLI/CLI.hpp>

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>

#include <tessera/data/image.hpp>
#include <tessera/data/scene_source.hpp>
#include <tessera/io/json.hpp>
#include <tessera/train/progress.hpp>
#include <tessera/version.hpp>

namespace {

namespace data = tessera::data;

struct Options {
  std::string set = "classic", split = "train", output, preview, font;
  int64_t count = 0, shard_size = 1000;
  int size = 64, preview_columns = 12, preview_rows = 8;
  uint64_t seed = 0;
  bool list = false;
};

data::Split parse_split(const std::string& name) {
  return name == "train" ? data::Split::train : name == "dev" ? data::Split::dev : data::Split::test;
}

void list_classes(const data::SceneSet& set) {
  for (size_t i = 0; i < set.classes.size(); ++i) {
    const auto& one = set.classes[i];
    std::printf("%3zu  %-16s %s%s\n", i, one.name.c_str(), set.prompt(int(i)).c_str(),
                one.held_out ? "  (held out of training)" : "");
  }
}

/// Picture and label map next to each other, scene after scene, enlarged twice.
void write_preview(const data::SceneRenderer& renderer, const Options& options, int64_t count) {
  const int size = renderer.size(), zoom = 2;
  const int columns = options.preview_columns, rows = options.preview_rows;
  const auto palette = data::scene_palette(int(renderer.set().classes.size()));
  const auto scenes = renderer.render(0, std::min<int64_t>(count, int64_t(columns) * rows));
  data::Image grid(columns * 2 * size * zoom, rows * size * zoom);
  for (size_t i = 0; i < scenes.size(); ++i) {
    const int left = int(i) % columns * 2 * size * zoom, top = int(i) / columns * size * zoom;
    for (int y = 0; y < size * zoom; ++y)
      for (int x = 0; x < size * zoom; ++x) {
        std::copy_n(scenes[i].image.at(x / zoom, y / zoom), 3, grid.at(left + x, top + y));
        const data::Colour colour = palette[scenes[i].labels.at(x / zoom, y / zoom)];
        uint8_t* label = grid.at(left + size * zoom + x, top + y);
        label[0] = colour.red;
        label[1] = colour.green;
        label[2] = colour.blue;
      }
  }
  data::write_image(options.preview, grid);
  for (size_t i = 0; i < std::min<size_t>(scenes.size(), size_t(columns)); ++i)
    std::printf("%s\n", scenes[i].caption.c_str());
}

void write_shards(const data::SceneRenderer& renderer, const Options& options, int64_t count) {
  data::ShardWriter writer(options.output, options.shard_size);
  tessera::train::Progress progress("rendering", count, "scenes");
  constexpr int64_t batch = 500;
  for (int64_t first = 0; first < count; first += batch) {
    const auto scenes = renderer.render(first, std::min(batch, count - first));
    std::vector<std::vector<data::ShardFile>> files(scenes.size());
    tessera::parallel_for(int64_t(scenes.size()), 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) files[size_t(i)] = data::scene_files(scenes[size_t(i)], renderer.set());
    });
    for (size_t i = 0; i < files.size(); ++i)
      writer.add(data::SceneSource::scene_key(first + int64_t(i)), std::move(files[i]));
    progress.advance(int64_t(scenes.size()));
  }
  progress.finish();
  const int64_t shards = writer.finish();
  const auto folder = std::filesystem::path(options.output);
  tessera::io::write_json(folder / "classes.json", data::scene_classes_json(renderer.set()));
  std::string nouns;
  for (const auto& name : renderer.set().names()) nouns += name + "\n";
  tessera::io::write_text(folder / "nouns.txt", nouns);
  std::fprintf(stderr, "%lld shards, classes.json and nouns.txt in %s\n", static_cast<long long>(shards),
               options.output.c_str());
}

void run(const Options& options) {
  const data::SceneSet set = data::scene_set(options.set);
  if (options.list) return list_classes(set);
  tessera::require(!options.output.empty() || !options.preview.empty(),
                   "nothing to do: name --output DIR for shards, --preview FILE.png for a look, or --list");
  const data::Split split = parse_split(options.split);
  const int64_t count = options.count > 0 ? options.count : data::usual_count(split);
  const data::SceneRenderer renderer(set, split, {options.size, options.seed, options.font});
  if (!options.preview.empty()) write_preview(renderer, options, count);
  if (!options.output.empty()) write_shards(renderer, options, count);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{
      "Renders captioned scenes: emoji on painted backgrounds, with pixel-exact label maps.\n"
      "A scene depends on set, split, seed, size and its number alone, so every machine with the same emoji font\n"
      "makes the same pictures. Each sample is NNNNNN.png (picture), .txt (caption), .seg.png (label map) and .json\n"
      "in WebDataset shards; classes.json names the labels, nouns.txt holds one class name a line.\n"
      "Training reads pictures and captions only.\n\n"
      "  scenes --split train --count 48000 --output scenes/train\n"
      "  scenes --split test --output scenes/test --preview look.png\n"
      "  scenes --set rich --list\n"};
  app.set_version_flag("--version", "scenes " + std::to_string(TESSERA_VERSION_MAJOR) + "." +
                                        std::to_string(TESSERA_VERSION_MINOR) + "." +
                                        std::to_string(TESSERA_VERSION_PATCH));
  app.add_option("--set", options.set,
                 "classic: 40 objects, one picture a word. rich: several pictures a word, "
                 "colours, held-out words and combinations")
      ->check(CLI::IsMember({"classic", "rich"}))
      ->capture_default_str();
  app.add_option("--split", options.split,
                 "train, dev (to choose settings with) or test (to report on); every second "
                 "dev and test scene holds a combination that training never shows")
      ->check(CLI::IsMember({"train", "dev", "test"}))
      ->capture_default_str();
  app.add_option("--count", options.count, "number of scenes; default 48000, 200 or 400 by split")
      ->check(CLI::Range(int64_t(1), int64_t(100'000'000)));
  app.add_option("--size", options.size, "width and height in pixels")
      ->check(CLI::Range(32, 512))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of the training scenes; dev and test are always the same")
      ->capture_default_str();
  app.add_option("--output", options.output, "folder for the shards; must hold none yet");
  app.add_option("--shard-size", options.shard_size, "samples in a shard")
      ->check(CLI::Range(int64_t(1), int64_t(1'000'000)))
      ->capture_default_str();
  app.add_option("--preview", options.preview,
                 "writes a sheet of the first 96 scenes with their label maps (.png, .jpg)");
  app.add_option("--font", options.font, "an emoji font with colour bitmaps; default: the installed Noto Color Emoji");
  app.add_flag("--list", options.list, "prints the classes of the set and exits");
  try {
    app.parse(argc, argv);
    run(options);
  } catch (const CLI::Success& done) {
    return app.exit(done);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "scenes: %s\n", error.what());
    return 1;
  }
}
