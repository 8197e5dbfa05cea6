// Computes superpixels (Felzenszwalb and Huttenlocher) of a data set, once, for trainings that use them:
//
//   superpixels --data scenes/train --output scenes/train-superpixels
//   superpixels --image photos --pictures look
//
// The library does the work: felzenszwalb() segments a picture, write_superpixels() a data set, and a SuperpixelStore
// gives the maps to the training. Trainings that are given no store compute them as they load pictures.
#include <cstdio>
#include <string>

#include <tessera/data/superpixel_store.hpp>
#include <tessera/train/progress.hpp>

#include "common.hpp"

namespace {

namespace data = tessera::data;
namespace fs = std::filesystem;

struct Options {
  std::string data, output, image, pictures;
  data::SuperpixelRecipe recipe;
  int64_t picture_count = 16;
  int threads = 0;
};

/// The picture and its superpixels next to each other.
void write_picture(const fs::path& file, const data::Image& picture, const data::SuperpixelRecipe& recipe) {
  const data::Image image = data::to_rgb(picture);
  data::SegmentMap map = data::superpixels_by(recipe, image);
  const int32_t count = map.count();
  if (map.width != image.width || map.height != image.height) map = data::resize_labels(map, image.width, image.height);
  const data::Image painted = data::segment_picture(image, map);
  data::Image both(2 * image.width, image.height);
  for (int y = 0; y < image.height; ++y) {
    std::copy_n(image.row(y), image.row_bytes(), both.row(y));
    std::copy_n(painted.row(y), painted.row_bytes(), both.at(image.width, y));
  }
  data::write_image(file, both);
  std::printf("%s: %d superpixels\n", file.string().c_str(), int(count));
}

void run(const Options& options) {
  tessera::require(!options.data.empty() || !options.image.empty(), "nothing to do: name --data or --image");
  tessera::require(options.data.empty() || !options.output.empty() || !options.pictures.empty(),
                   "nothing to do: name --output DIR for label maps, --pictures DIR for a look, or both");
  tessera::require(options.image.empty() || !options.pictures.empty(), "--image needs --pictures DIR");
  examples::use_threads(options.threads);
  if (!options.pictures.empty()) examples::make_folder(options.pictures);
  if (!options.image.empty()) {
    const auto files = examples::pictures_of(options.image);
    const auto names = examples::result_names(files);
    for (size_t i = 0; i < files.size(); ++i)
      write_picture(fs::path(options.pictures) / (names[i] + ".png"), data::read_image(files[i]), options.recipe);
  }
  if (options.data.empty()) return;
  const auto source = data::open_captions(options.data);
  if (!options.pictures.empty())
    for (int64_t i = 0; i < std::min(options.picture_count, source->size()); ++i)
      write_picture(fs::path(options.pictures) / (data::superpixel_name(i) + ".png"), source->get(i).image,
                    options.recipe);
  if (options.output.empty()) return;
  const int64_t finished = data::finished_superpixel_shards(options.output) * options.recipe.samples_per_shard;
  tessera::train::Progress progress("superpixels", source->size(), "pictures", std::min(source->size(), finished));
  data::write_superpixels(*source, options.output, options.recipe, [&](int64_t count) { progress.advance(count); });
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  data::FelzenszwalbOptions& felzenszwalb = options.recipe.felzenszwalb;
  CLI::App app{
      "Computes superpixels by Felzenszwalb and Huttenlocher's method, equal to scikit-image's.\n"
      "With --output, those of a captioned data set are stored as PNGs in tar shards, for train_segclip\n"
      "--stored-superpixels. An interrupted run goes on after the last whole shard when it is started again.\n\n"
      "  superpixels --data scenes/train --output scenes/train-superpixels\n"
      "  superpixels --image photos --pictures look\n"};
  app.add_option("--data", options.data, "captioned pictures: a folder of .tar shards, one .tar, or a .tsv table");
  app.add_option("--output", options.output, "folder for the superpixels of --data");
  app.add_option("--image", options.image, "a picture or a folder of pictures, to be looked at with --pictures");
  app.add_option("--pictures", options.pictures,
                 "folder for pictures, each beside its superpixels in their mean colours");
  app.add_option("--picture-count", options.picture_count, "how many pictures of --data are written there")
      ->check(CLI::Range(int64_t(0), int64_t(1'000'000)))
      ->capture_default_str();
  app.add_option("--scale", felzenszwalb.scale, "larger: larger superpixels")
      ->check(examples::in_range(0, 1e6))
      ->capture_default_str();
  app.add_option("--sigma", felzenszwalb.sigma, "of the Gaussian before, in pixels; 0: none")
      ->check(examples::in_range(0, 100))
      ->capture_default_str();
  app.add_option("--min-size", felzenszwalb.min_size, "pixels of the smallest superpixel")
      ->check(CLI::Range(0, 1'000'000'000))
      ->capture_default_str();
  app.add_option("--short-side", options.recipe.short_side,
                 "scale pictures whose sides are both longer down to this first (SegCLIP: 224); 0: do not")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  app.add_option("--shard-size", options.recipe.samples_per_shard, "label maps in a shard")
      ->check(CLI::Range(int64_t(1), int64_t(1'000'000)))
      ->capture_default_str();
  examples::add_threads(app, options.threads);
  return examples::run_program(app, argc, argv, "superpixels", [&] { run(options); });
}
