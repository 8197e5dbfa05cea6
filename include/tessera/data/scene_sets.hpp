// What the rendered scenes show: the words of each set, the code points and colours that draw them, and the pairs of
// words that training never sees together.
#pragma once
#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include <tessera/data/captions.hpp>
#include <tessera/data/textures.hpp>

namespace tessera::data {

/// One way to draw an object: a glyph, recoloured to a hue (degrees, 0 = red, 120 = green) unless hue is -1.
struct Look {
  char32_t code_point = 0;
  int hue = -1;
};

/// One class of a set: a word (or two, "red car") with what draws it.
struct SceneClass {
  std::string name;
  std::string phrase;            ///< backgrounds: how a caption names it, "on grass"
  Texture texture{};             ///< backgrounds: what paints it
  std::vector<Look> looks;       ///< objects: in training pictures
  std::vector<Look> test_looks;  ///< objects: in dev and test pictures; empty means the same
  bool held_out = false;         ///< objects: in no training picture and no training caption
};

/// The classes of a set. A label map holds the index into `classes`: backgrounds come first, objects follow.
struct SceneSet {
  std::string name;
  int backgrounds = 0;
  std::vector<SceneClass> classes;

  int objects() const { return int(classes.size()) - backgrounds; }
  bool is_background(int index) const { return index < backgrounds; }

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& one : classes) all.push_back(one.name);
    return all;
  }
  /// "a photo of a dog", "a photo of grass": the text that stands for a class in training and read-out.
  std::string prompt(int index) const {
    const auto& one = classes.at(size_t(index));
    return "a photo of " + (is_background(index) ? one.name : with_article(one.name));
  }
  std::vector<std::string> prompts() const {
    std::vector<std::string> all;
    for (int i = 0; i < int(classes.size()); ++i) all.push_back(prompt(i));
    return all;
  }

  /// Pairs of objects that no training scene holds (about one in seven). Arguments are class indices.
  bool reserved_pair(int a, int b) const {
    const int first = std::min(a, b) - backgrounds, second = std::max(a, b) - backgrounds;
    return (first * 37 + second * 101) % 6 == 0;
  }
  /// Objects that no training scene holds on this background (one in eight).
  bool reserved_background(int object, int background) const {
    return ((object - backgrounds) * 13 + background * 29) % 8 == 0;
  }
  /// True when a scene of these classes (the background first) has a reserved pair or a held-out class.
  bool unseen(const std::vector<int>& words) const {
    for (size_t i = 1; i < words.size(); ++i) {
      if (classes[size_t(words[i])].held_out || reserved_background(words[i], words[0])) return true;
      for (size_t j = 1; j < i; ++j)
        if (reserved_pair(words[i], words[j])) return true;
    }
    return false;
  }
};

namespace detail {
inline void add_backgrounds(SceneSet& set) {
  const struct {
    const char *name, *phrase;
    Texture texture;
  } all[] = {
      {"grass", "on grass", Texture::grass},
      {"sand", "on sand", Texture::sand},
      {"water", "in water", Texture::water},
      {"sky", "in the sky", Texture::sky},
      {"bricks", "in front of bricks", Texture::bricks},
      {"wood", "on wood", Texture::wood},
      {"snow", "in snow", Texture::snow},
      {"night", "at night", Texture::night},
  };
  for (const auto& one : all) {
    SceneClass background;
    background.name = one.name;
    background.phrase = one.phrase;
    background.texture = one.texture;
    set.classes.push_back(background);
  }
  set.backgrounds = int(std::size(all));
}
}  // namespace detail

/// 8 backgrounds and 40 objects, one glyph a word.
inline SceneSet classic_set() {
  SceneSet set;
  set.name = "classic";
  detail::add_backgrounds(set);
  const struct {
    const char* name;
    char32_t code_point;
  } objects[] = {
      {"dog", 0x1F436},        {"cat", 0x1F431},       {"pig", 0x1F437},        {"tiger", 0x1F42F},
      {"panda", 0x1F43C},      {"frog", 0x1F438},      {"elephant", 0x1F418},   {"monkey", 0x1F435},
      {"penguin", 0x1F427},    {"owl", 0x1F989},       {"octopus", 0x1F419},    {"crab", 0x1F980},
      {"fish", 0x1F420},       {"whale", 0x1F40B},     {"turtle", 0x1F422},     {"butterfly", 0x1F98B},
      {"apple", 0x1F34E},      {"banana", 0x1F34C},    {"strawberry", 0x1F353}, {"grapes", 0x1F347},
      {"watermelon", 0x1F349}, {"pineapple", 0x1F34D}, {"mushroom", 0x1F344},   {"pizza", 0x1F355},
      {"hamburger", 0x1F354},  {"doughnut", 0x1F369},  {"car", 0x1F697},        {"bicycle", 0x1F6B2},
      {"rocket", 0x1F680},     {"airplane", 0x2708},   {"boat", 0x26F5},        {"guitar", 0x1F3B8},
      {"umbrella", 0x2602},    {"clock", 0x23F0},      {"key", 0x1F511},        {"balloon", 0x1F388},
      {"ball", 0x26BD},        {"sunflower", 0x1F33B}, {"cactus", 0x1F335},     {"tree", 0x1F332},
  };
  for (const auto& one : objects) {
    SceneClass object;
    object.name = one.name;
    object.looks = {{one.code_point}};
    set.classes.push_back(object);
  }
  return set;
}

}  // namespace tessera::data
