#include <tessera/segmentation/classes.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/skip.hpp>

using namespace tessera;
using namespace tessera::segmentation;

TEST_CASE("classes: the eight benchmarks", "[segmentation]") {
  tessera_test::ran();
  struct Expected {
    const char* name;
    int64_t count;
    bool background, reduce_zero;
  };
  const Expected expected[] = {{"voc21", 21, true, false},       {"voc20", 20, false, true},
                               {"context60", 60, true, false},   {"context59", 59, false, true},
                               {"coco_object", 81, true, false}, {"coco_stuff171", 171, false, false},
                               {"ade150", 150, false, true},     {"cityscapes19", 19, false, false}};
  CHECK(benchmark_names().size() == std::size(expected));
  for (const Expected& one : expected) {
    INFO(one.name);
    const ClassList list = benchmark_classes(one.name);
    CHECK(list.size() == one.count);
    CHECK(list.background == (one.background ? 0 : -1));
    CHECK(list.reduce_zero_label == one.reduce_zero);
    CHECK(list.ignore_label == 255);
    CHECK(list.validation_images >= 500);
    CHECK(list.layout.labels.find("{id}") != std::string::npos);
    for (const ClassEntry& entry : list.classes) CHECK(!entry.raw_ids.empty());
  }
  REQUIRE_ERROR(benchmark_classes("voc"), ValueError, "no benchmark is called 'voc'; there are voc21, voc20, ");

  const ClassList voc = benchmark_classes("voc21");
  CHECK(voc.classes[15].name == "person");
  CHECK(voc.classes[15].colour == Colour{192, 128, 128});
  for (int c = 0; c < 21; ++c) CHECK(voc.classes[size_t(c)].colour == palette_colour(c));
  CHECK(benchmark_classes("cityscapes19").classes[18].name == "bicycle");
  CHECK(benchmark_classes("ade150").classes[149].name == "flag");
}

TEST_CASE("classes: what the text encoder is asked for", "[segmentation]") {
  const ClassList voc = benchmark_classes("voc20");
  CHECK(class_queries(voc)[10] == std::vector<std::string>{"diningtable"});
  CHECK(class_queries(voc, "maskclip")[10] == std::vector<std::string>{"dining table"});
  CHECK(class_queries(voc, "groupvit")[10] == std::vector<std::string>{"table"});
  CHECK(class_queries(voc, "sclip")[14].size() == 7);
  CHECK(class_queries(voc, "sclip")[1] == std::vector<std::string>{"bicycle"});
  CHECK(class_queries(benchmark_classes("voc21"), "sclip")[0].size() == 26);
}

TEST_CASE("classes: label values become classes", "[segmentation]") {
  const auto ade = label_table(benchmark_classes("ade150"));
  CHECK(ade[0] == 255);
  CHECK(ade[1] == 0);
  CHECK(ade[150] == 149);
  CHECK(ade[151] == 255);
  CHECK(ade[255] == 255);
  const auto voc = label_table(benchmark_classes("voc21"));
  CHECK(voc[0] == 0);
  CHECK(voc[20] == 20);
  CHECK(voc[255] == 255);

  const auto stuff = raw_label_table(benchmark_classes("coco_stuff171"));
  CHECK(stuff[0] == 0);
  CHECK(stuff[11] == 255);   // a number that COCO never used
  CHECK(stuff[181] == 170);  // its last
  const auto object = raw_label_table(benchmark_classes("coco_object"));
  CHECK(object[0] == 1);
  CHECK(object[89] == 80);
  CHECK(object[91] == 0);
  CHECK(object[255] == 0);  // unlabelled pixels count as background here
  CHECK(raw_label_table(benchmark_classes("context59")).size() > 256);
}

TEST_CASE("classes: from a line of text", "[segmentation]") {
  const ClassList list = class_list_from_text(" cat, person | man|woman ,sea lion");
  REQUIRE(list.size() == 3);
  CHECK(list.classes[1].name == "person");
  CHECK(list.use_synonyms);
  CHECK(class_queries(list)[1] == std::vector<std::string>{"person", "man", "woman"});
  CHECK(class_queries(list)[2] == std::vector<std::string>{"sea lion"});
  CHECK(list.background == -1);
  CHECK(list.classes[0].colour != list.classes[1].colour);
  REQUIRE_ERROR(class_list_from_text("cat,,dog"), ValueError, "name 2 ('') is empty");
  REQUIRE_ERROR(class_list_from_text(""), ValueError, "is empty");
  REQUIRE_ERROR(class_list_from_text("cat|"), ValueError, "is empty");
  REQUIRE_ERROR(class_list_from_text("cat,cat"), ValueError, "two classes are called 'cat'");
  CHECK(load_class_list("voc20").size() == 20);
  CHECK(load_class_list("voc20,cat").size() == 2);
  REQUIRE_ERROR(load_class_list("missing.json"), IoError, "missing.json");

  std::set<Colour> colours;
  for (int i = 0; i < 256; ++i) colours.insert(palette_colour(i));
  CHECK(colours.size() == 256);
}

TEST_CASE("classes: from JSON, with what is wrong named", "[segmentation]") {
  const auto read = [](const char* text) {
    return class_list_from_json(io::parse_json(text, "list.json"), "list.json");
  };
  const ClassList list = read(R"({"name": "own", "background_id": 1, "ignore_index": 200, "use_synonyms_default": true,
    "classes": [{"id": 1, "name": "rest"}, {"id": 0, "name": "cat", "synonyms": ["kitten"], "color": [1, 2, 3],
                 "raw_ids": [7, 9], "maskclip_name": "house cat"}]})");
  CHECK(list.classes[0].name == "cat");
  CHECK(list.classes[0].colour == Colour{1, 2, 3});
  CHECK(list.classes[1].colour == palette_colour(2));
  CHECK(list.background == 1);
  CHECK(list.ignore_label == 200);
  CHECK(class_queries(list)[0] == std::vector<std::string>{"cat", "kitten"});
  CHECK(class_queries(list, "maskclip")[0] == std::vector<std::string>{"house cat"});
  CHECK(raw_label_table(list)[9] == 0);
  CHECK(raw_label_table(list)[8] == 200);
  CHECK(read(R"(["cat", "dog"])").size() == 2);
  CHECK(read(R"({"classes": ["cat"], "has_background": true})").background == 0);

  REQUIRE_ERROR(read(R"({"classes": []})"), IoError, "0 classes");
  REQUIRE_ERROR(read(R"({"classes": [{"color": [0, 0, 0]}]})"), IoError, "classes[0].name is missing");
  REQUIRE_ERROR(read(R"({"classes": [{"name": "a", "color": [0, 0, 256]}]})"), IoError, "is 256");
  REQUIRE_ERROR(read(R"({"classes": [{"name": "a", "color": [0, 0]}]})"), IoError, "must be [red, green, blue]");
  REQUIRE_ERROR(read(R"({"classes": [{"name": "a", "id": 1}]})"), IoError, "id is 1");
  REQUIRE_ERROR(read(R"({"classes": [{"name": "a", "id": 0}, {"name": "b", "id": 0}]})"), IoError, "another class too");
  REQUIRE_ERROR(read(R"({"classes": ["a"], "background_id": 3})"), IoError, "background_id is 3");
  REQUIRE_ERROR(read(R"({"classes": ["a"], "ignore_index": 0})"), IoError, "ignore_index 0 is the number of a class");
  REQUIRE_ERROR(read(R"({"classes": ["a"], "num_classes": 2})"), IoError, "num_classes is 2, but 1");
  REQUIRE_ERROR(read("{}"), IoError, "classes is missing");
  REQUIRE_ERROR(read("3"), IoError, "list.json");
  REQUIRE_ERROR(raw_label_table(read(R"([{"name": "a", "raw_ids": [1]}, {"name": "b", "raw_ids": [1]}])")), ValueError,
                "label 1 belongs to 'b'");
}

TEST_CASE("classes: the built-in lists equal the recorded ones", "[segmentation]") {
  const char* given = std::getenv("TESSERA_GOLDEN");
  const std::filesystem::path golden = given && *given
                                           ? std::filesystem::path(given)
                                           : std::filesystem::path(TESSERA_SOURCE_DIR) / ".." / "shared" / "golden";
  const std::filesystem::path folder = golden / ".." / "datasets";
  if (!std::filesystem::exists(folder / "voc21.json"))
    return tessera_test::skip("no " + (folder / "voc21.json").string());
  tessera_test::ran();
  for (const std::string& name : benchmark_names()) {
    INFO(name);
    const ClassList recorded = class_list_from_file(folder / (name + ".json")), own = benchmark_classes(name);
    REQUIRE(own.size() == recorded.size());
    CHECK(own.background == recorded.background);
    CHECK(own.reduce_zero_label == recorded.reduce_zero_label);
    CHECK(own.use_synonyms == recorded.use_synonyms);
    CHECK(own.validation_images == recorded.validation_images);
    CHECK(own.layout.images == recorded.layout.images);
    CHECK(own.layout.labels == recorded.layout.labels);
    CHECK(own.layout.root == recorded.layout.root);
    CHECK(own.layout.split == recorded.layout.split);
    CHECK(raw_label_table(own) == raw_label_table(recorded));
    for (const char* system : {"", "maskclip", "groupvit", "sclip"})
      CHECK(class_queries(own, system) == class_queries(recorded, system));
    for (size_t c = 0; c < own.classes.size(); ++c) {
      CHECK(own.classes[c].colour == recorded.classes[c].colour);
      CHECK(own.classes[c].synonyms == recorded.classes[c].synonyms);
    }
  }
}
