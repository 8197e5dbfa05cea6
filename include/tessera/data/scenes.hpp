// Scenes: captioned pictures with exact label maps, composed from emoji sprites on painted backgrounds. A data set that
// any machine can make: every random choice comes from Philox keyed by split, seed and scene number, and pixels are
// composed in integers, so a scene depends on nothing else (but the edition of the emoji font).
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <tessera/core/error.hpp>
#include <tessera/core/parallel.hpp>
#include <tessera/core/random.hpp>
#include <tessera/data/captions.hpp>
#include <tessera/data/draws.hpp>
#include <tessera/data/glyphs.hpp>
#include <tessera/data/pixels.hpp>
#include <tessera/data/recolour.hpp>
#include <tessera/data/scene_sets.hpp>
#include <tessera/data/sprites.hpp>
#include <tessera/data/textures.hpp>

namespace tessera::data {

/// One picture with everything that is known of it.
struct Scene {
  Image image;             ///< size x size, RGB
  LabelMap labels;         ///< class index of each pixel
  std::string caption;     ///< "a photo of a dog and a key on grass"
  std::vector<int> words;  ///< classes in the picture: the background, then the objects from back to front
  bool unseen = false;     ///< holds a pair of classes, or a class, that no training scene holds
};

/// Training pictures, pictures to choose settings with, pictures to report on. Sprites, textures and layouts of the
/// three have no random number in common. Every second dev and test scene is `unseen`; no training scene is.
enum class Split { train, dev, test };

/// "train", "dev" or "test".
inline const char* name_of(Split split) {
  return split == Split::train ? "train" : split == Split::dev ? "dev" : "test";
}
/// How many scenes the split has by convention: 48,000, 200 and 400.
inline int64_t usual_count(Split split) { return split == Split::train ? 48000 : split == Split::dev ? 200 : 400; }

/// What a scene depends on besides its set, split and number.
struct SceneOptions {
  int size = 64;          ///< width and height in pixels, 32 … 512
  uint64_t seed = 0;      ///< of the training split; dev and test are the same for every seed
  std::string font = {};  ///< an emoji font; empty: find_emoji_font()
};

/// Makes the scenes of one split of a set. Building it draws all sprites and textures once (seconds); after that a
/// scene takes some 50 microseconds, so trainers render as they go. Rendering is const and may run on many threads.
class SceneRenderer {
 public:
  SceneRenderer(SceneSet set, Split split, SceneOptions options = {})
      : set_(std::move(set)), split_(split), options_(std::move(options)) {
    require(options_.size >= 32 && options_.size <= 512, "SceneRenderer: size ", options_.size,
            " must lie in 32 … 512");
    require(set_.classes.size() <= 255, "SceneRenderer: ", set_.classes.size(), " classes; at most 255 are possible");
    if (split_ != Split::train) options_.seed = 0;
    const EmojiFont font(options_.font);
    font_edition_ = font.edition();
    build_sprites(font);
    build_textures();
  }

  const SceneSet& set() const { return set_; }
  Split split() const { return split_; }
  int size() const { return options_.size; }
  const std::string& font_edition() const { return font_edition_; }

  /// Scene `index` (0, 1, 2, … without end) of the split.
  Scene render(int64_t index) const {
    require(index >= 0 && index < (int64_t(1) << 32), "SceneRenderer: scene number ", index,
            " must lie in 0 … 2^32 - 1");
    Draws draws(stream(Purpose::layout, uint32_t(index)));
    const bool want_unseen = split_ != Split::train && index % 2 == 1;
    Scene scene;
    do compose(scene, draws, want_unseen);
    while (scene.unseen != want_unseen);
    scene.caption = caption(index, scene.words);
    return scene;
  }

  /// Scenes first … first + count - 1, on all threads.
  std::vector<Scene> render(int64_t first, int64_t count) const {
    std::vector<Scene> scenes(static_cast<size_t>(count));
    parallel_for(count, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) scenes[size_t(i)] = render(first + i);
    });
    return scenes;
  }

 private:
  enum class Purpose : uint32_t { sprite, texture, layout, caption };
  static constexpr int margin = 24;  // a texture is this much larger than a scene, which shows a random part of it
  static constexpr int placement_tries = 12;
  static constexpr int fraction_bits = 12;

  RandomStream stream(Purpose purpose, uint32_t number) const {
    return {options_.seed, number, uint32_t(split_) * 16 + uint32_t(purpose)};
  }
  int sprite_variants() const { return split_ == Split::train ? 96 : 24; }
  int texture_variants() const { return split_ == Split::train ? 48 : 24; }

  void build_sprites(const EmojiFont& font) {
    const int objects = set_.objects(), variants = sprite_variants();
    std::vector<std::vector<Image>> glyphs(static_cast<size_t>(objects));
    for (int object = 0; object < objects; ++object) {
      const SceneClass& one = set_.classes[size_t(set_.backgrounds + object)];
      const bool own = split_ != Split::train && !one.test_looks.empty();
      for (const Look& look : own ? one.test_looks : one.looks) {
        Image glyph = font.glyph(look.code_point);
        if (look.hue >= 0) recolour(glyph, look.hue);
        glyphs[size_t(object)].push_back(std::move(glyph));
      }
    }
    sprites_.resize(size_t(objects) * size_t(variants));
    parallel_for(int64_t(sprites_.size()), 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto& looks = glyphs[size_t(i / variants)];
        if (looks.empty()) continue;
        Draws draws(stream(Purpose::sprite, uint32_t(i)));
        sprites_[size_t(i)] = vary(looks[size_t(i % variants) % looks.size()], draws);
      }
    });
  }

  /// One variant of a glyph: mirrored or not, rotated, and scaled so that its longer side had 0.315 to 0.588 of the
  /// scene's before the rotation.
  Image vary(const Image& glyph, Draws& draws) const {
    const bool mirrored = draws.chance(0.5);
    const double longer_side = options_.size * draws.uniform(0.30, 0.56) * 1.05;
    const double scale = longer_side / std::max(glyph.width, glyph.height);
    const Image turned = rotate(mirrored ? mirror(glyph) : glyph, draws.uniform(-25, 25));
    const auto scaled = [&](int extent) { return std::max(8, int(extent * scale)); };
    return crop_to_mask(resize_sprite(turned, scaled(turned.width), scaled(turned.height)));
  }

  void build_textures() {
    const int variants = texture_variants();
    textures_.resize(size_t(set_.backgrounds * variants));
    parallel_for(int64_t(textures_.size()), 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        textures_[size_t(i)] = paint_texture(set_.classes[size_t(i / variants)].texture, options_.size + margin,
                                             stream(Purpose::texture, uint32_t(i)));
    });
  }

  /// Draws a background and one to three different objects that are (or are not) an unseen combination.
  std::vector<int> choose_classes(Draws& draws, bool want_unseen) const {
    std::vector<int> chosen;
    do {
      chosen = {draws.below(set_.backgrounds)};
      const double count_draw = draws.uniform();
      const size_t objects = count_draw < 0.35 ? 1 : count_draw < 0.75 ? 2 : 3;
      while (chosen.size() < 1 + objects) {
        const int object = set_.backgrounds + draws.below(set_.objects());
        if (std::find(chosen.begin(), chosen.end(), object) == chosen.end()) chosen.push_back(object);
      }
    } while (set_.unseen(chosen) != want_unseen);
    return chosen;
  }

  /// Fills the scene but for its caption. Objects that find no free place are left out.
  void compose(Scene& scene, Draws& draws, bool want_unseen) const {
    const int size = options_.size;
    const std::vector<int> chosen = choose_classes(draws, want_unseen);
    scene.labels = LabelMap(size, size, uint16_t(chosen[0]));
    scene.words = {chosen[0]};
    std::vector<int> canvas = paint_background(chosen[0], draws);  // levels in 1/2^fraction_bits
    std::vector<uint8_t> occupied(size_t(size) * size_t(size), 0);
    for (size_t i = 1; i < chosen.size(); ++i) {
      const auto place = find_place(chosen[i], occupied, draws);
      if (!place) continue;
      paint_object(canvas, *place, draws);
      mark(scene.labels, occupied, *place, chosen[i]);
      scene.words.push_back(chosen[i]);
    }
    scene.unseen = set_.unseen(scene.words);
    scene.image = Image(size, size);
    for (size_t i = 0; i < canvas.size(); ++i)
      scene.image.pixels[i] = uint8_t(std::clamp(canvas[i] >> fraction_bits, 0, 255));
  }

  static int fixed(double value) { return int(value * (1 << fraction_bits) + 0.5); }

  std::vector<int> paint_background(int background, Draws& draws) const {
    const int size = options_.size, wide = size + margin;
    const int variant = draws.below(texture_variants());
    const auto& texture = textures_[size_t(background * texture_variants() + variant)];
    const int top = draws.below(margin + 1), left = draws.below(margin + 1), gain = fixed(draws.uniform(0.9, 1.1));
    std::vector<int> canvas(size_t(size) * size_t(size) * 3);
    for (int y = 0; y < size; ++y) {
      const uint8_t* from = texture.data() + (size_t(top + y) * size_t(wide) + size_t(left)) * 3;
      int* to = canvas.data() + size_t(y) * size_t(size) * 3;
      for (int i = 0; i < size * 3; ++i) to[i] = from[i] * gain;
    }
    return canvas;
  }

  struct Place {
    const Image* sprite;
    int left, top;
  };

  /// Tries twelve sprites at random places, wholly inside; takes the first of whose mask less than 6 % is occupied.
  std::optional<Place> find_place(int object, const std::vector<uint8_t>& occupied, Draws& draws) const {
    const int size = options_.size, variants = sprite_variants();
    for (int attempt = 0; attempt < placement_tries; ++attempt) {
      const int variant = draws.below(variants);
      const Image& sprite = sprites_[size_t((object - set_.backgrounds) * variants + variant)];
      if (sprite.width >= size || sprite.height >= size) continue;
      const Place place{&sprite, draws.below(size - sprite.width), draws.below(size - sprite.height)};
      int64_t area = 0, shared = 0;
      for (int y = 0; y < sprite.height; ++y)
        for (int x = 0; x < sprite.width; ++x)
          if (in_mask(sprite, x, y)) {
            ++area;
            shared += occupied[size_t((place.top + y) * size + place.left + x)];
          }
      if (shared * 100 < area * 6) return place;
    }
    return std::nullopt;
  }

  /// A pixel belongs to an object when the sprite covers more than half of it.
  static bool in_mask(const Image& sprite, int x, int y) { return sprite.at(x, y)[3] >= 128; }

  void paint_object(std::vector<int>& canvas, const Place& place, Draws& draws) const {
    const double brightness = draws.uniform(0.78, 1.15);
    std::array<int, 3> gain{};
    for (int& g : gain) g = fixed(brightness * draws.uniform(0.93, 1.07));
    const Image& sprite = *place.sprite;
    for (int y = 0; y < sprite.height; ++y)
      for (int x = 0; x < sprite.width; ++x) {
        const uint8_t* from = sprite.at(x, y);
        const int alpha = from[3];
        if (alpha == 0) continue;
        int* to = canvas.data() + size_t((place.top + y) * options_.size + place.left + x) * 3;
        for (size_t c = 0; c < 3; ++c) {
          const int light = std::min(from[c] * gain[c], alpha << fraction_bits);  // premultiplied: at most alpha
          to[c] = to[c] * (255 - alpha) / 255 + light;
        }
      }
  }

  void mark(LabelMap& labels, std::vector<uint8_t>& occupied, const Place& place, int object) const {
    for (int y = 0; y < place.sprite->height; ++y)
      for (int x = 0; x < place.sprite->width; ++x)
        if (in_mask(*place.sprite, x, y)) {
          labels.at(place.left + x, place.top + y) = uint16_t(object);
          occupied[size_t((place.top + y) * options_.size + place.left + x)] = 1;
        }
  }

  /// "an image of a dog , a cat and an owl on wood": a random opening, the objects in random order, the background.
  std::string caption(int64_t index, const std::vector<int>& words) const {
    static constexpr std::array openings{"a photo of ", "a picture of ", "an image of ", ""};
    Draws draws(stream(Purpose::caption, uint32_t(index)));
    std::vector<int> objects(words.begin() + 1, words.end());
    draws.shuffle(objects);
    std::string text = openings[size_t(draws.below(int(openings.size())))];
    for (size_t i = 0; i < objects.size(); ++i) {
      if (i > 0) text += i + 1 == objects.size() ? " and " : " , ";
      text += with_article(set_.classes[size_t(objects[i])].name);
    }
    return text + " " + set_.classes[size_t(words[0])].phrase;
  }

  SceneSet set_;
  Split split_;
  SceneOptions options_;
  std::string font_edition_;
  std::vector<Image> sprites_;                  // [object][variant]
  std::vector<std::vector<uint8_t>> textures_;  // [background][variant], RGB
};

/// Hash (FNV-1a, 64 bits) of the label maps, to tell whether two machines made the same scenes. Labels count as bytes.
inline uint64_t hash_labels(const std::vector<Scene>& scenes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const Scene& scene : scenes)
    for (const uint16_t label : scene.labels.labels) hash = (hash ^ uint8_t(label)) * 0x100000001b3u;
  return hash;
}

}  // namespace tessera::data
