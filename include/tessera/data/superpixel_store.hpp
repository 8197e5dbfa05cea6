// Superpixels of a data set, computed once and kept beside it: a folder of tar shards with a 16-bit PNG for every
// picture, in the data set's order, and superpixels.json, which says how they were made.
//
//   000000.tar: 000000000.png (label map), 000000000.txt (the sample's key), 000000001.png, …
//
// A folder that is not complete holds whole shards, so that a run that was interrupted goes on after them.
#pragma once
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <tessera/data/shards.hpp>
#include <tessera/data/superpixels.hpp>
#include <tessera/io/json.hpp>

namespace tessera::data {

/// What superpixels.json says.
struct SuperpixelRecipe {
  int64_t samples = 0, samples_per_shard = 1000;
  FelzenszwalbOptions felzenszwalb;
  int short_side = 0;  ///< pictures with both sides longer were scaled down to it first; 0: none were

  io::Json json() const {
    io::Json document;
    document["samples"] = samples;
    document["samples_per_shard"] = samples_per_shard;
    document["scale"] = felzenszwalb.scale;
    document["sigma"] = felzenszwalb.sigma;
    document["min_size"] = felzenszwalb.min_size;
    document["short_side"] = short_side;
    return document;
  }
  static SuperpixelRecipe read(const std::filesystem::path& file) {
    const io::Json json = io::read_json(file);
    const io::JsonView view(json, file.string());
    SuperpixelRecipe recipe;
    recipe.samples = view.get<int64_t>("samples");
    recipe.samples_per_shard = view.get<int64_t>("samples_per_shard");
    recipe.felzenszwalb = {view.get<double>("scale"), view.get<double>("sigma"), view.get<int>("min_size")};
    recipe.short_side = view.get<int>("short_side");
    require<IoError>(recipe.samples > 0 && recipe.samples_per_shard > 0, file.string(), ": ", recipe.samples,
                     " samples, ", recipe.samples_per_shard, " in a shard; both must be above 0");
    return recipe;
  }
  friend bool operator==(const SuperpixelRecipe& a, const SuperpixelRecipe& b) { return a.json() == b.json(); }
};

/// The superpixels of a picture by a recipe: RGB, scaled down with Lanczos' filter where the recipe says so.
inline SegmentMap superpixels_by(const SuperpixelRecipe& recipe, const Image& picture) {
  const Image image = to_rgb(picture);
  if (recipe.short_side == 0 || std::min(image.width, image.height) <= recipe.short_side)
    return felzenszwalb(image, recipe.felzenszwalb);
  const Size size = short_side_size(image.width, image.height, recipe.short_side);
  return felzenszwalb(resize(image, size.width, size.height, Filter::lanczos), recipe.felzenszwalb);
}

/// What the superpixels of a sample are called in a store: nine digits.
inline std::string superpixel_name(int64_t index) {
  char name[24];
  std::snprintf(name, sizeof name, "%09lld", static_cast<long long>(index));
  return name;
}

/// How many of a store's first shards are in their place.
inline int64_t finished_superpixel_shards(const std::filesystem::path& folder) {
  int64_t shards = 0;
  while (std::filesystem::exists(folder / ShardWriter::shard_name(shards))) ++shards;
  return shards;
}

/// Computes the superpixels of all pictures of `source` into `folder` and returns how many shards were there already.
/// One process a folder. `done(count)` is called with the samples that a shard added, after it is in its place. Throws
/// IoError where the folder was begun with another recipe.
template <class Done>
int64_t write_superpixels(const CaptionSource& source, const std::filesystem::path& folder, SuperpixelRecipe recipe,
                          Done&& done) {
  recipe.samples = source.size();
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require<IoError>(std::filesystem::is_directory(folder), "cannot make the folder ", folder.string(), ": ",
                   error.message());
  const io::FolderLock lock(folder);
  const auto about = folder / "superpixels.json";
  if (std::filesystem::exists(about))
    require<IoError>(SuperpixelRecipe::read(about) == recipe, folder.string(),
                     " holds superpixels of other settings or of a data set of another size; name another folder");
  else
    io::write_json(about, recipe.json());

  const int64_t first = finished_superpixel_shards(folder);
  ShardWriter writer(folder, recipe.samples_per_shard, first);
  for (int64_t begin = first * recipe.samples_per_shard; begin < recipe.samples; begin += recipe.samples_per_shard) {
    const int64_t count = std::min(recipe.samples_per_shard, recipe.samples - begin);
    std::vector<std::vector<ShardFile>> files(static_cast<size_t>(count));
    parallel_for(count, 1, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const Sample sample = source.get(begin + i);
        const std::vector<uint8_t> png = encode_label_map(to_label_map(superpixels_by(recipe, sample.image)), {});
        files[size_t(i)] = {{"png", std::string(png.begin(), png.end())}, {"txt", sample.key}};
      }
    });
    for (int64_t i = 0; i < count; ++i) writer.add(superpixel_name(begin + i), std::move(files[size_t(i)]));
    writer.finish();
    done(count);
  }
  return first;
}

/// Reads what write_superpixels wrote. get() may be called from several threads at once.
class SuperpixelStore {
 public:
  /// Throws IoError where the folder is not complete: write_superpixels goes on with it.
  explicit SuperpixelStore(const std::filesystem::path& folder)
      : folder_(folder), recipe_(SuperpixelRecipe::read(folder / "superpixels.json")) {
    for (const auto& path : shard_paths(folder)) {
      shards_.push_back(io::MappedFile::open(path));
      detail::TarReader tar(*shards_.back(), 0);
      while (tar.next()) {
        if (tar.ending() != "png") continue;
        require<IoError>(tar.key() == superpixel_name(size()), path.string(), ": ", tar.name(),
                         " stands where the superpixels of sample ", size(), " are expected");
        entries_.push_back({uint32_t(shards_.size() - 1), tar.position()});
      }
    }
    require<IoError>(size() == recipe_.samples, folder.string(), " holds superpixels of ", size(), " of ",
                     recipe_.samples, " pictures; run the program superpixels again to complete it");
  }

  int64_t size() const { return int64_t(entries_.size()); }
  const SuperpixelRecipe& recipe() const { return recipe_; }
  /// Throws IoError where the store is not one of this data set: it has more or fewer pictures, or another first or
  /// last one. (get() looks at the key of each.)
  void check_source(const CaptionSource& source) const {
    require<IoError>(size() == source.size(), folder_.string(), " holds superpixels of ", size(),
                     " pictures, but the data set has ", source.size(), "; compute them again for this data set");
    for (const int64_t index : {int64_t(0), size() - 1}) get(index, source.get(index).key);
  }
  /// The superpixels of sample `index`, whose key in the data set is `key` (IoError where they belong to another).
  SegmentMap get(int64_t index, const std::string& key) const {
    require(index >= 0 && index < size(), "SuperpixelStore: sample ", index, " of ", size());
    const Entry& entry = entries_[size_t(index)];
    const io::MappedFile& shard = *shards_[entry.shard];
    const std::string where = sentence(shard.path().string(), ": superpixels of sample ", index);
    detail::TarReader tar(shard, entry.position);
    require<IoError>(tar.next() && tar.size() <= ShardSource::max_entry_bytes, where, " cannot be read");
    const std::string png = tar.read();
    require<IoError>(tar.next() && tar.ending() == "txt" && tar.size() == int64_t(key.size()) && tar.read() == key,
                     where, " belong to another picture than ", key, "; compute them again for this data set");
    try {
      return to_segment_map(decode_label_map(detail::bytes_of(png)));
    } catch (const IoError& error) {
      fail<IoError>(where, ": ", error.what());
    }
  }

 private:
  struct Entry {
    uint32_t shard;
    size_t position;  // of the map's header
  };
  std::filesystem::path folder_;
  SuperpixelRecipe recipe_;
  std::vector<std::shared_ptr<const io::MappedFile>> shards_;
  std::vector<Entry> entries_;
};

}  // namespace tessera::data
