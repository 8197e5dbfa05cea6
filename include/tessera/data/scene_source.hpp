// Scenes as a data set: rendered when asked for (CaptionSource), or as the files of a shard.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <tessera/core/error.hpp>
#include <tessera/data/dataset.hpp>
#include <tessera/data/scenes.hpp>
#include <tessera/data/shards.hpp>
#include <tessera/io/json.hpp>

namespace tessera::data {

/// The first `count` scenes of a renderer. Nothing is stored: a scene is rendered each time it is asked for.
class SceneSource : public CaptionSource {
 public:
  SceneSource(std::shared_ptr<const SceneRenderer> renderer, int64_t count)
      : renderer_(std::move(renderer)), count_(count) {
    require(renderer_ != nullptr && count > 0, "SceneSource: a renderer and at least one scene are needed");
  }
  int64_t size() const override { return count_; }
  Sample get(int64_t index) const override {
    check_index("SceneSource", index);
    Scene scene = renderer_->render(index);
    return {scene_key(index), std::move(scene.image), std::move(scene.caption)};
  }
  /// The name of a scene in shards: six digits.
  static std::string scene_key(int64_t index) {
    char key[24];
    std::snprintf(key, sizeof key, "%06lld", static_cast<long long>(index));
    return key;
  }

 private:
  std::shared_ptr<const SceneRenderer> renderer_;
  int64_t count_;
};

/// Colours for label maps and legends: hues by the golden angle in three shades, the same for the same class count.
inline std::vector<Colour> scene_palette(int classes) {
  std::vector<Colour> palette;
  for (int i = 0; i < classes; ++i) {
    const double strength = i % 3 == 0 ? 230 : i % 3 == 1 ? 190 : 150;
    const auto rgb = detail::from_hue(double(i * 137 % 360), strength * (i % 2 == 0 ? 0.85 : 0.55), strength);
    palette.push_back({uint8_t(rgb[0]), uint8_t(rgb[1]), uint8_t(rgb[2])});
  }
  return palette;
}

/// The files of a scene in a shard: picture (png), caption (txt), label map (seg.png), and what else is known (json).
inline std::vector<ShardFile> scene_files(const Scene& scene, const SceneSet& set) {
  const auto text = [](const std::vector<uint8_t>& bytes) { return std::string(bytes.begin(), bytes.end()); };
  io::Json about;
  about["caption"] = scene.caption;
  about["unseen"] = scene.unseen;
  for (int word : scene.words) about["words"].push_back(set.classes[size_t(word)].name);
  return {{"png", text(encode_png(scene.image))},
          {"txt", scene.caption},
          {"seg.png", text(encode_label_map(scene.labels, scene_palette(int(set.classes.size()))))},
          {"json", io::json_text(about, -1)}};
}

/// The classes of a set as a data set description: name, num_classes, and for each class id, name and colour.
inline io::Json scene_classes_json(const SceneSet& set) {
  io::Json document;
  document["name"] = "scenes-" + set.name;
  document["num_classes"] = set.classes.size();
  document["ignore_index"] = 255;
  document["reduce_zero_label"] = false;
  document["has_background"] = false;
  const auto palette = scene_palette(int(set.classes.size()));
  for (size_t i = 0; i < set.classes.size(); ++i) {
    io::Json one;
    one["id"] = i;
    one["name"] = set.classes[i].name;
    one["color"] = {palette[i].red, palette[i].green, palette[i].blue};
    one["prompt"] = set.prompt(int(i));
    one["thing"] = !set.is_background(int(i));
    one["held_out"] = set.classes[i].held_out;
    document["classes"].push_back(one);
  }
  return document;
}

}  // namespace tessera::data
