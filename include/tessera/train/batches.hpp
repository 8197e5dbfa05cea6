// Batches of captioned pictures: in a random order of each epoch that depends on the seed alone, decoded and cut to
// size in a thread of their own, one batch ahead of the step that uses them.
#pragma once
#include <omp.h>

#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <tessera/core/parallel.hpp>
#include <tessera/core/tensor.hpp>
#include <tessera/data/augment.hpp>
#include <tessera/data/dataset.hpp>
#include <tessera/data/image.hpp>
#include <tessera/data/resize.hpp>
#include <tessera/data/superpixel_store.hpp>
#include <tessera/train/sample_order.hpp>

namespace tessera::train {

/// How pictures become batches.
struct BatchOptions {
  int64_t batch = 32;
  int image_size = 224;
  bool random_crop = false;  ///< a random crop, as crop says, instead of the central square
  data::RandomCropOptions crop = {};
  /// Where present, batches come with superpixels, of as many patches as the pictures have at this patch size.
  std::optional<data::PatchSegmentOptions> superpixels = {};
  /// Where the pictures' superpixels are stored; absent: they are computed as the pictures are loaded.
  std::shared_ptr<const data::SuperpixelStore> stored_superpixels = {};
  data::ImageStatistics statistics = data::clip_statistics;
  uint64_t seed = 0;
};

/// Pictures and their captions.
struct Batch {
  Tensor<float, 4> images;  ///< [B, 3, S, S], normalised
  std::vector<std::string> captions;
  /// [B, P], or absent: the superpixel of each patch; the numbers of a picture count up from 0 in the patches' order.
  Tensor<int32_t, 2> superpixels;
};

/// Batch after batch of a source. The pictures of step s are the same whatever came before, so a resumed run sees what
/// the uninterrupted one would have seen.
class Batches {
 public:
  Batches(Context<Cpu>& ctx, std::shared_ptr<const data::CaptionSource> source, BatchOptions options)
      : ctx_(ctx),
        source_(std::move(source)),
        options_(options),
        order_(source_->size(), options_.batch, options_.seed) {
    if (options_.superpixels) options_.superpixels->side = options_.image_size;
    if (options_.stored_superpixels) options_.stored_superpixels->check_source(*source_);
  }

  /// The batch of step `step` (from 0). The next step's is begun before this returns.
  Batch operator()(int64_t step) {
    const bool begun = next_.valid() && next_step_ == step;
    if (next_.valid() && !begun) next_.wait();
    Batch batch = begun ? next_.get() : load(step);
    next_step_ = step + 1;
    next_ = std::async(std::launch::async, [this, step] {
      omp_set_num_threads(1);  // in this thread: the others compute the step in hand
      return load(step + 1);
    });
    return batch;
  }

 private:
  Batch load(int64_t step) {
    const int64_t side = options_.image_size, count = options_.batch, plane = 3 * side * side;
    Batch batch{Tensor<float, 4>(ctx_, {count, 3, side, side}), std::vector<std::string>(size_t(count)), {}};
    if (options_.superpixels) {
      const int64_t grid = options_.superpixels->grid();
      batch.superpixels = Tensor<int32_t, 2>(ctx_, {count, grid * grid});
    }
    const std::vector<int64_t> samples = order_(step);
    const RandomStream random{options_.seed, uint32_t(step), crop_operation};
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        data::Sample sample = source_->get(samples[size_t(i)]);
        const data::CropAndFlip part = part_of(sample.image, random, uint64_t(i));
        data::normalise_image({batch.images.data + i * plane, {3, side, side}}, fit(sample.image, part),
                              options_.statistics);
        if (batch.superpixels) {
          const auto map = superpixels_of(sample, samples[size_t(i)], part);
          number_from_zero(map.labels, &batch.superpixels(i, 0));
        }
        batch.captions[size_t(i)] = std::move(sample.caption);
      }
    });
    return batch;
  }
  data::SegmentMap superpixels_of(const data::Sample& sample, int64_t index, const data::CropAndFlip& part) const {
    if (!options_.stored_superpixels) return data::crop_patch_labels(sample.image, part, *options_.superpixels);
    return data::crop_patch_labels(options_.stored_superpixels->get(index, sample.key), part, sample.image.width,
                                   sample.image.height, *options_.superpixels);
  }
  /// The part of a picture that becomes one of the batch.
  data::CropAndFlip part_of(const data::Image& image, const RandomStream& random, uint64_t number) const {
    if (options_.random_crop) return data::draw_crop(image.width, image.height, random, number, options_.crop);
    return {data::centre_box(image.width, image.height, std::min(image.width, image.height)), false};
  }
  data::Image fit(const data::Image& image, const data::CropAndFlip& part) const {
    const int side = options_.image_size;
    if (options_.random_crop) return data::resized_crop(image, side, part);
    if (image.width == side && image.height == side) return data::to_rgb(image);
    const data::Image resized = data::to_rgb(data::clip_resize(image, side));
    return data::crop(resized, data::centre_box(resized.width, resized.height, side));
  }
  static void number_from_zero(const std::vector<int32_t>& labels, int32_t* numbers) {
    std::map<int32_t, int32_t> known;
    for (size_t i = 0; i < labels.size(); ++i)
      numbers[i] = known.try_emplace(labels[i], int32_t(known.size())).first->second;
  }

  static constexpr uint32_t crop_operation = 0x63726f70;  // apart from the streams of the model's own random numbers

  Context<Cpu>& ctx_;
  std::shared_ptr<const data::CaptionSource> source_;
  BatchOptions options_;
  SampleOrder order_;
  int64_t next_step_ = -1;
  std::future<Batch> next_;
};

}  // namespace tessera::train
