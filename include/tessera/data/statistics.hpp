// The statistics by which pictures are normalised before a model sees them: (value / 255 - mean) / deviation, channel
// by channel. Apart from the picture headers, so that checkpoints can name them without image libraries.
#pragma once
#include <array>

namespace tessera::data {

/// Means and standard deviations of red, green and blue, of values in [0, 1], with which a model was trained; by
/// default those of OpenAI's CLIP.
struct ImageStatistics {
  std::array<float, 3> mean{0.48145466f, 0.4578275f, 0.40821073f};
  std::array<float, 3> deviation{0.26862954f, 0.26130258f, 0.27577711f};
};
/// OpenAI's and most of OpenCLIP's models.
inline constexpr ImageStatistics clip_statistics = {};
/// Models begun from ImageNet classifiers; also GroupViT and TCL, whose CLIP tower sees these, and MaskCLIP's official
/// code (123.675/255, …).
inline constexpr ImageStatistics imagenet_statistics = {{0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};

}  // namespace tessera::data
