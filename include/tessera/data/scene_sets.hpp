// What the rendered scenes show: the words of each set, the code points and colours that draw them, and the pairs of
// words that training never sees together.
#pragma once
#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include <tessera/core/error.hpp>
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
  /// What training has shown of a class; results of sets with several groups are reported by group.
  std::string group(int index) const {
    const auto& one = classes.at(size_t(index));
    if (is_background(index)) return "backgrounds";
    const bool composed = !one.looks.empty() && one.looks.front().hue >= 0;  // a colour and a thing
    if (one.held_out) return composed ? "compositions held out" : "words held out";
    if (composed) return one.test_looks.empty() ? "compositions seen" : "compositions seen, new glyphs";
    return one.test_looks.empty() ? "objects" : "objects, new glyphs";
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

/// A set in which words stand for more than one picture, so that what is learned must carry over:
/// - most words have several glyphs, and for most dev and test pictures use glyphs that training never shows;
/// - eight things come in five colours ("red car"), and of the forty combinations eight are held out of training;
/// - four words are held out altogether.
/// 8 backgrounds, 40 plain objects, 40 coloured ones.
inline SceneSet rich_set() {
  SceneSet set;
  set.name = "rich";
  detail::add_backgrounds(set);
  const struct {
    const char* name;
    std::vector<char32_t> train, test;
    bool held_out = false;
  } objects[] = {
      {"dog", {0x1F436, 0x1F415, 0x1F429}, {0x1F9AE}},
      {"cat", {0x1F431, 0x1F408, 0x1F638, 0x1F63C}, {0x1F63A, 0x1F63D}},
      {"horse", {0x1F434, 0x1F40E}, {}},
      {"cow", {0x1F42E, 0x1F404}, {}},
      {"pig", {0x1F437, 0x1F416}, {}},
      {"tiger", {0x1F42F, 0x1F405}, {}},
      {"monkey", {0x1F435, 0x1F412, 0x1F648}, {0x1F64A}},
      {"mouse", {0x1F42D, 0x1F401}, {}},
      {"rabbit", {0x1F430, 0x1F407}, {}},
      {"bird", {0x1F426, 0x1F54A, 0x1F99C, 0x1F99A}, {0x1F9A9, 0x1F9A2}},
      {"fish", {0x1F41F, 0x1F420}, {0x1F421}},
      {"whale", {0x1F40B, 0x1F433}, {}},
      {"dinosaur", {0x1F995, 0x1F996}, {}},
      {"camel", {0x1F42B}, {0x1F42A}},
      {"bug", {0x1F41B, 0x1F41E, 0x1FAB2}, {0x1FAB3}},
      {"flower", {0x1F33B, 0x1F337, 0x1F339, 0x1F33A}, {0x1F33C, 0x1F338}},
      {"tree", {0x1F332, 0x1F334}, {0x1F333}},
      {"leaf", {0x1F343, 0x1F342}, {0x1F341}},
      {"apple", {0x1F34E, 0x1F34F}, {}},
      {"cake", {0x1F370, 0x1F382}, {0x1F9C1}},
      {"bread", {0x1F35E, 0x1F956}, {0x1F950}},
      {"cup", {0x2615, 0x1F375}, {0x1F964}},
      {"train", {0x1F686, 0x1F684, 0x1F682}, {0x1F685}},
      {"truck", {0x1F69A, 0x1F69B}, {0x1F6FB}},
      {"bus", {0x1F68C, 0x1F68D}, {0x1F68E}},
      {"boat", {0x26F5, 0x1F6A4, 0x1F6A2}, {0x1F6E5}},
      {"airplane", {0x2708, 0x1F6E9}, {0x1F6EB}},
      {"motorcycle", {0x1F3CD, 0x1F6F5}, {}},
      {"house", {0x1F3E0, 0x1F3E1}, {0x1F3DA}},
      {"clock", {0x23F0, 0x1F550, 0x1F554}, {0x1F557}},
      {"phone", {0x1F4F1, 0x260E, 0x1F4DE}, {0x1F4F2}},
      {"camera", {0x1F4F7, 0x1F4F8, 0x1F3A5}, {0x1F4F9}},
      {"shoe", {0x1F45F, 0x1F45E, 0x1F460, 0x1F462}, {0x1F97F, 0x1F461}},
      {"hat", {0x1F452, 0x1F3A9, 0x1F9E2}, {0x1F393}},
      {"ball", {0x26BD, 0x1F3C0, 0x1F3D0, 0x26BE}, {0x1F3BE, 0x1F3C8}},
      {"key", {0x1F511}, {0x1F5DD}},
      {"bear", {0x1F43B}, {}, true},
      {"strawberry", {0x1F353}, {}, true},
      {"robot", {0x1F916}, {}, true},
      {"crown", {0x1F451}, {}, true},
  };
  for (const auto& one : objects) {
    SceneClass object;
    object.name = one.name;
    object.held_out = one.held_out;
    for (char32_t code_point : one.train) object.looks.push_back({code_point});
    for (char32_t code_point : one.test) object.test_looks.push_back({code_point});
    set.classes.push_back(object);
  }

  const struct {
    const char* name;
    int hue;
  } colours[] = {{"red", 0}, {"yellow", 50}, {"green", 120}, {"blue", 220}, {"purple", 285}};
  const struct {
    const char* name;
    std::vector<char32_t> train, test;
  } things[] = {
      {"car", {0x1F697, 0x1F698}, {0x1F699}},
      {"book", {0x1F4D5}, {}},
      {"heart", {0x2764}, {}},
      {"balloon", {0x1F388}, {}},
      {"dress", {0x1F457}, {}},
      {"scarf", {0x1F9E3}, {}},
      {"backpack", {0x1F392}, {}},
      {"umbrella", {0x2602}, {}},
  };
  for (int thing = 0; thing < int(std::size(things)); ++thing)
    for (int colour = 0; colour < int(std::size(colours)); ++colour) {
      SceneClass object;
      object.name = std::string(colours[colour].name) + " " + things[thing].name;
      object.held_out = (2 * thing + colour) % 5 == 0;  // one colour of each thing, every colour at least once
      for (char32_t code_point : things[thing].train) object.looks.push_back({code_point, colours[colour].hue});
      for (char32_t code_point : things[thing].test) object.test_looks.push_back({code_point, colours[colour].hue});
      set.classes.push_back(object);
    }
  return set;
}

/// "classic" or "rich".
inline SceneSet scene_set(const std::string& name) {
  require(name == "classic" || name == "rich", "there is no set of scenes called ", name,
          "; there are classic and rich");
  return name == "classic" ? classic_set() : rich_set();
}

}  // namespace tessera::data
