// Patch tokens of a data set's pictures, computed once by a frozen encoder and kept in a folder, so that what is
// trained on top of the encoder need not run it again.
//
//   features.json: how they were made; 000000.safetensors: "patches" [n, P, C] of the first n pictures, …
//
// Shards come to their place whole and in order: a run that was interrupted goes on after the last one.
#pragma once
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <tessera/core/parallel.hpp>
#include <tessera/data/dataset.hpp>
#include <tessera/data/resize.hpp>
#include <tessera/io/json.hpp>
#include <tessera/io/tensor_source.hpp>
#include <tessera/train/sample_order.hpp>

namespace tessera::train {

/// What features.json says. A folder belongs to one encoder, one data set and one way to store them.
struct FeatureRecipe {
  std::string encoder;       ///< what kind it is ("clip", "vit")
  uint64_t fingerprint = 0;  ///< of its weights and settings: nn::fingerprint
  std::string tokens;        ///< which of its tokens ("ln_post")
  int64_t image_size = 224, patches = 0, width = 0;
  data::ImageStatistics statistics = data::clip_statistics;
  Dtype dtype = Dtype::f16;  ///< f32, bf16 or f16
  int64_t pictures_per_shard = 256;

  /// With what tells the data set.
  io::Json json(const data::CaptionSource& source) const {
    const auto hexadecimal = [](uint64_t number) {
      char text[17];
      std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
      return std::string(text);
    };
    uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a, of all captions in order
    for (int64_t i = 0; i < source.size(); ++i) {
      for (const char letter : source.caption(i)) hash = (hash ^ uint8_t(letter)) * 0x100000001b3u;
      hash = (hash ^ 0x0a) * 0x100000001b3u;
    }
    return {{"encoder", encoder},
            {"weights", hexadecimal(fingerprint)},
            {"tokens", tokens},
            {"image_size", image_size},
            {"mean", statistics.mean},
            {"deviation", statistics.deviation},
            {"patches", patches},
            {"width", width},
            {"dtype", std::string(dtype_name(dtype))},
            {"pictures", source.size()},
            {"pictures_per_shard", pictures_per_shard},
            {"captions", hexadecimal(hash)},
            {"first", source.get(0).key},
            {"last", source.get(source.size() - 1).key}};
  }
};

namespace detail {

inline std::filesystem::path feature_shard(const std::filesystem::path& folder, int64_t number) {
  char name[40];
  std::snprintf(name, sizeof name, "%06lld.safetensors", static_cast<long long>(number));
  return folder / name;
}

/// The names of what differs between two recipes, for the error.
inline std::string differing_keys(const io::Json& a, const io::Json& b) {
  std::string names;
  for (const auto& [key, value] : a.items())
    if (!b.contains(key) || b[key] != value) names += (names.empty() ? "" : ", ") + key;
  return names;
}

[[noreturn]] inline void refuse_value(float value, int64_t picture, Dtype dtype) {
  require<Error>(std::isfinite(value), "features: the encoder gives ", value, " for picture ", picture);
  fail<Error>("features: a token of picture ", picture, " is ", value, ", which ", dtype_name(dtype),
              " cannot hold; begin another folder with --feature-dtype bf16 or f32");
}

/// Tokens [n, P, C] of the pictures from `first` on, as they are stored. Throws Error for values that cannot be.
inline AnyTensor narrowed(const Tensor<float, 3>& values, Dtype dtype, int64_t first) {
  const auto store = [&]<class To>(To) {
    auto elements = std::make_shared<std::vector<To>>(size_t(values.size()));
    parallel_for(values.size(), int64_t(1) << 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const To stored = narrow<To>(values.data[i]);
        if (!std::isfinite(widen(stored)))
          refuse_value(values.data[i], first + i / (values.shape[1] * values.shape[2]), dtype);
        (*elements)[size_t(i)] = stored;
      }
    });
    return AnyTensor{dtype_of<To>, {values.shape.begin(), values.shape.end()}, {elements, elements->data()}};
  };
  if (dtype == Dtype::bf16) return store(bfloat16{});
  return dtype == Dtype::f16 ? store(float16{}) : store(float{});
}

}  // namespace detail

/// Shards of a folder, at most: all are mapped at once, and Linux gives a process 65,530 mappings.
inline constexpr int64_t most_feature_shards = 60'000;

/// How many of a folder's first shards are in their place.
inline int64_t finished_feature_shards(const std::filesystem::path& folder) {
  int64_t shards = 0;
  while (std::filesystem::exists(detail::feature_shard(folder, shards))) ++shards;
  return shards;
}

/// The central square of a picture as an encoder is given it: its short side becomes `side`.
inline data::Image central_square(const data::Image& picture, int side) {
  if (picture.width == side && picture.height == side) return data::to_rgb(picture);
  return data::to_rgb(data::clip_resize(picture, side));
}

/// Computes the tokens of all pictures of `source` into `folder` and returns how many pictures were there already.
/// encode(images [B, 3, S, S], normalised) gives [B, P, C]. done(count) is called with the pictures that a shard added,
/// after it is in its place; where it gives false, the rest is left for another time. One process a folder. Throws
/// IoError where the folder was begun with another encoder, data set or way to store them, Error for tokens that cannot
/// be stored.
inline int64_t write_features(Context<Cpu>& ctx, const data::CaptionSource& source, const std::filesystem::path& folder,
                              const FeatureRecipe& recipe,
                              const std::function<Tensor<float, 3>(const Tensor<float, 4>&)>& encode,
                              const std::function<bool(int64_t)>& done, int64_t batch = 16) {
  require(recipe.dtype == Dtype::f32 || recipe.dtype == Dtype::bf16 || recipe.dtype == Dtype::f16,
          "features are stored as f32, bf16 or f16, not ", dtype_name(recipe.dtype));
  require(recipe.pictures_per_shard > 0 && batch > 0, "features: ", recipe.pictures_per_shard,
          " pictures a shard, computed ", batch, " at a time; both must be positive");
  require(chunk_count(source.size(), recipe.pictures_per_shard) <= most_feature_shards, "features: ", source.size(),
          " pictures are more than ", most_feature_shards, " shards of ", recipe.pictures_per_shard,
          ", the most that are read at once; store the features of a part of the data set, or train without a store");
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require<IoError>(std::filesystem::is_directory(folder), "cannot make the folder ", folder.string(), ": ",
                   error.message());
  const io::FolderLock lock(folder);
  const auto about = folder / "features.json";
  const io::Json wanted = recipe.json(source);
  if (std::filesystem::exists(about)) {
    // As text: a float read back is the same number, though not of the same type.
    const std::string differing =
        detail::differing_keys(io::parse_json(io::json_text(wanted, -1), "features"), io::read_json(about));
    require<IoError>(differing.empty(), folder.string(), " holds features of another encoder or data set (", differing,
                     " differ); name another folder");
  } else {
    require<IoError>(finished_feature_shards(folder) == 0, folder.string(),
                     " holds shards of features, but no features.json that tells of which encoder and data set; name "
                     "another folder, or remove them");
    io::write_json(about, wanted);
  }
  int64_t shard = finished_feature_shards(folder);
  const int64_t before = std::min(source.size(), shard * recipe.pictures_per_shard), side = recipe.image_size;
  for (int64_t first = before; first < source.size(); first += recipe.pictures_per_shard) {
    const int64_t count = std::min(recipe.pictures_per_shard, source.size() - first);
    Tensor<float, 3> tokens(ctx, {count, recipe.patches, recipe.width});
    for (int64_t begin = 0; begin < count; begin += batch) {
      const int64_t some = std::min(batch, count - begin), picture = 3 * side * side;
      Tensor<float, 4> images(ctx, {some, 3, side, side});
      parallel_for(some, 1, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i)
          data::normalise_image({images.data + i * picture, {3, side, side}},
                                central_square(source.get(first + begin + i).image, int(side)), recipe.statistics);
      });
      const Tensor<float, 3> encoded = encode(images);
      expect_shape("write_features", "tokens", encoded.shape, {some, recipe.patches, recipe.width}, "B P C",
                   "the recipe");
      std::copy_n(encoded.data, encoded.size(), tokens.data + begin * recipe.patches * recipe.width);
    }
    const AnyTensor stored = detail::narrowed(tokens, recipe.dtype, first);
    io::write_safetensors(detail::feature_shard(folder, shard++), {{"patches", stored}}, {});
    if (!done(count)) break;
  }
  return before;
}

/// Reads what write_features wrote. read() may be called from several threads at once.
class FeatureStore {
 public:
  /// Throws IoError where the folder is not complete, or is none.
  explicit FeatureStore(const std::filesystem::path& folder) : folder_(folder) {
    const auto about = folder / "features.json";
    const io::Json document = io::read_json(about);
    const io::JsonView json(document, about.string());
    constexpr int64_t most = int64_t(1) << 40;
    size_ = json.get<int64_t>("pictures", 1, most);
    per_shard_ = json.get<int64_t>("pictures_per_shard", 1, most);
    patches_ = json.get<int64_t>("patches", 1, most);
    width_ = json.get<int64_t>("width", 1, most);
    for (int64_t first = 0; first < size_; first += per_shard_) {
      const auto path = detail::feature_shard(folder, first / per_shard_);
      require<IoError>(std::filesystem::exists(path), folder.string(), " holds features of ", first, " of ", size_,
                       " pictures; run the same training again to complete it");
      const AnyTensor shard = io::TensorSource::open(path).get("patches");
      const std::vector<int64_t> expected{std::min(per_shard_, size_ - first), patches_, width_};
      require<IoError>(shard.shape == expected && io::is_floating(shard.dtype), path.string(), ": patches are ",
                       dtype_name(shard.dtype), " ", to_string(shard.shape), ", not floating ", to_string(expected));
      shards_.push_back(shard);
    }
  }

  int64_t size() const { return size_; }
  int64_t patches() const { return patches_; }
  int64_t width() const { return width_; }
  /// Tokens [n, P, C] of these pictures.
  Tensor<float, 3> read(Context<Cpu>& ctx, const std::vector<int64_t>& pictures) const {
    const int64_t each = patches_ * width_;
    Tensor<float, 3> tokens(ctx, {int64_t(pictures.size()), patches_, width_});
    for (size_t i = 0; i < pictures.size(); ++i) {
      require(pictures[i] >= 0 && pictures[i] < size_, "FeatureStore: picture ", pictures[i], " of ", size_);
      const AnyTensor& shard = shards_[size_t(pictures[i] / per_shard_)];
      const char* bytes = static_cast<const char*>(shard.storage.get()) +
                          size_t(pictures[i] % per_shard_ * each) * dtype_size(shard.dtype);
      io::convert_elements(AnyTensor{shard.dtype, {patches_, width_}, {shard.storage, bytes}},
                           tokens.data + int64_t(i) * each, folder_.string());
    }
    return tokens;
  }

 private:
  std::filesystem::path folder_;
  int64_t size_ = 0, per_shard_ = 0, patches_ = 0, width_ = 0;
  std::vector<AnyTensor> shards_;
};

/// Stored tokens of pictures, and their captions.
struct FeatureBatch {
  Tensor<float, 3> tokens;  ///< [B, P, C]
  std::vector<std::string> captions;
};

/// Batch after batch of stored tokens, in the order in which Batches gives the pictures of this seed. The next one is
/// read while the step in hand is computed.
class FeatureBatches {
 public:
  FeatureBatches(Context<Cpu>& ctx, std::shared_ptr<const data::CaptionSource> source, FeatureStore store,
                 int64_t batch, uint64_t seed)
      : ctx_(ctx), source_(std::move(source)), store_(std::move(store)), order_(source_->size(), batch, seed) {
    require<IoError>(store_.size() == source_->size(), "training: features of ", store_.size(),
                     " pictures are stored, but the data set has ", source_->size());
  }

  /// The batch of step `step` (from 0).
  FeatureBatch operator()(int64_t step) {
    const bool begun = next_.valid() && next_step_ == step;
    if (next_.valid() && !begun) next_.wait();
    FeatureBatch batch = begun ? next_.get() : load(step);
    next_step_ = step + 1;
    next_ = std::async(std::launch::async, [this, step] {
      omp_set_num_threads(1);  // in this thread: the others compute the step in hand
      return load(step + 1);
    });
    return batch;
  }

 private:
  FeatureBatch load(int64_t step) {
    const std::vector<int64_t> samples = order_(step);
    FeatureBatch batch{store_.read(ctx_, samples), {}};
    for (const int64_t sample : samples) batch.captions.push_back(source_->caption(sample));
    return batch;
  }

  Context<Cpu>& ctx_;
  std::shared_ptr<const data::CaptionSource> source_;
  FeatureStore store_;
  SampleOrder order_;
  int64_t next_step_ = -1;
  std::future<FeatureBatch> next_;
};

}  // namespace tessera::train
