#include <algorithm>
#include <array>
#include <io/folder.hpp>
#include <memory>
#include <support/catch.hpp>
#include <support/skip.hpp>
#include <tessera/data/scene_source.hpp>

using namespace tessera;
using namespace tessera::data;
using tessera_test::Folder;
using tessera_test::read_bytes;
using tessera_test::write_bytes;

namespace {

std::string text(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }
std::string grey_png(uint8_t level) { return text(encode_png(Image(6, 4, 3, level))); }

/// Seven samples of one grey each in shards of three, keys k0 … k6.
void write_greys(const std::filesystem::path& folder) {
  ShardWriter writer(folder, 3);
  for (uint8_t i = 0; i < 7; ++i)
    writer.add("k" + std::to_string(i), {{"png", grey_png(i)},
                                         {"txt", "grey " + std::to_string(i)},
                                         {"seg.png", text(encode_label_map(LabelMap(6, 4, i), {}))}});
  REQUIRE(writer.finish() == 3);
}

/// A shard made byte by byte: the tar header of one file.
std::string tar_header(const std::string& name, const std::string& size_octal, char type = '0') {
  std::string header(512, '\0');
  header.replace(0, name.size(), name);
  header.replace(100, 7, "0000644");
  header.replace(108, 7, "0000000");
  header.replace(116, 7, "0000000");
  header.replace(124, size_octal.size(), size_octal);
  header.replace(136, 11, "00000000000");
  header.replace(148, 8, "        ");
  header[156] = type;
  header.replace(257, 8, std::string("ustar\00000", 8));
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  char digits[8];
  std::snprintf(digits, sizeof digits, "%06o", sum);
  header.replace(148, 7, std::string(digits, 7));
  return header;
}

std::string padded(std::string bytes) {
  bytes.resize((bytes.size() + 511) / 512 * 512, '\0');
  return bytes;
}

std::string tar_entry(const std::string& name, const std::string& bytes) {
  char octal[16];
  std::snprintf(octal, sizeof octal, "%011o", unsigned(bytes.size()));
  return tar_header(name, octal) + padded(bytes);
}
const std::string tar_end(1024, '\0');

}  // namespace

TEST_CASE("shards: what is written is read back, sample by sample, in any order", "[data]") {
  tessera_test::ran();
  const Folder folder;
  write_greys(folder / "shards");
  const ShardSource source(folder / "shards");
  REQUIRE(source.size() == 7);
  for (const int64_t i : {6, 0, 3, 2, 5, 1, 4}) {
    const Sample sample = source.get(i);
    CHECK(sample.key == "k" + std::to_string(i));
    CHECK(sample.caption == "grey " + std::to_string(i));
    CHECK(source.caption(i) == sample.caption);
    CHECK(sample.image.width == 6);
    CHECK(int(sample.image.pixels[0]) == i);
    REQUIRE(source.labels(i).has_value());
    CHECK(source.labels(i)->at(5, 3) == i);
  }
  REQUIRE_ERROR(source.get(7), ValueError, "sample 7 of 7");
}

TEST_CASE("shards: training data needs no label maps", "[data]") {
  tessera_test::ran();
  const Folder folder;
  ShardWriter writer(folder / "shards");
  writer.add("a", {{"png", grey_png(9)}, {"txt", "nine\n"}});
  writer.finish();
  const ShardSource source(folder / "shards");
  CHECK(source.get(0).caption == "nine");
  CHECK_FALSE(source.labels(0).has_value());
}

TEST_CASE("shards: the same samples give the same bytes, and no temporary file stays", "[data]") {
  tessera_test::ran();
  const Folder folder;
  write_greys(folder / "one");
  write_greys(folder / "two");
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "one")) {
    CHECK(read_bytes(entry.path()) == read_bytes(folder / "two" / entry.path().filename().string()));
    CHECK(entry.path().extension() == ".tar");
    ++files;
  }
  CHECK(files == 3);
  REQUIRE_ERROR(ShardWriter(folder / "one"), IoError, "already holds");
}

TEST_CASE("shards: keys that would break the grouping are refused", "[data]") {
  tessera_test::ran();
  const Folder folder;
  ShardWriter writer(folder / "shards");
  REQUIRE_ERROR(writer.add("a.b", {}), ValueError, "\"a.b\"");
  REQUIRE_ERROR(writer.add("../a", {}), ValueError, "../a");
  writer.add("a", {{"txt", "x"}});
  REQUIRE_ERROR(writer.add("a", {}), ValueError, "twice");
}

TEST_CASE("shards: a tar by other hands is read: folders, links, names in folders, capital endings", "[data]") {
  tessera_test::ran();
  const Folder folder;
  write_bytes(folder / "other.tar",
              tar_header("data/", "00000000000", '5') + tar_entry("data/x.1.PNG", "not looked at") +
                  tar_entry("data/x.PNG", grey_png(3)) + tar_entry("data/x.cls", "7") +
                  tar_header("data/link", "00000000000", '2') + tar_entry("data/x.txt", "a grey field") + tar_end);
  const ShardSource source(folder / "other.tar");
  REQUIRE(source.size() == 1);
  CHECK(source.key(0) == "data/x");
  CHECK(source.get(0).caption == "a grey field");
  CHECK(int(source.get(0).image.pixels[0]) == 3);
}

TEST_CASE("shards: a shard cut short anywhere is an error that names it", "[data]") {
  tessera_test::ran();
  const Folder folder;
  const std::string whole = tar_entry("a.png", grey_png(1)) + tar_entry("a.txt", "one") +
                            tar_entry("b.png", grey_png(2)) + tar_entry("b.txt", "two") + tar_end;
  write_bytes(folder / "whole.tar", whole);
  CHECK(ShardSource(folder / "whole.tar").size() == 2);
  for (size_t length = 0; length <= whole.size() - tar_end.size(); length += 61) {
    INFO(length);
    write_bytes(folder / "cut.tar", whole.substr(0, length));
    REQUIRE_ERROR(ShardSource(folder / "cut.tar"), IoError, "cut.tar");
  }
}

TEST_CASE("shards: incomplete and damaged samples are named", "[data]") {
  tessera_test::ran();
  const Folder folder;
  const auto shard = [&](const std::string& bytes) {
    write_bytes(folder / "s.tar", bytes + tar_end);
    return folder / "s.tar";
  };
  REQUIRE_ERROR(ShardSource(shard(tar_entry("a.png", grey_png(1)))), IoError, "sample a has no caption");
  REQUIRE_ERROR(ShardSource(shard(tar_entry("a.txt", "x") + tar_entry("b.png", "x"))), IoError,
                "sample a has no picture");
  REQUIRE_ERROR(ShardSource(shard(tar_header("a.png", "77777777777") + grey_png(1))), IoError, "a.png declares");
  REQUIRE_ERROR(ShardSource(shard("")), IoError, "no samples");
  REQUIRE_ERROR(ShardSource(shard(std::string(2048, 'x'))), IoError, "s.tar");
  const ShardSource damaged(shard(tar_entry("a.png", "no picture") + tar_entry("a.txt", "x")));
  REQUIRE_ERROR(damaged.get(0), IoError, "s.tar, a.png");
  std::filesystem::create_directory(folder / "empty");
  REQUIRE_ERROR(ShardSource(folder / "empty"), IoError, "no .tar shards");
}

TEST_CASE("shards: a thousand damaged shards are read or refused, never worse", "[data]") {
  tessera_test::ran();
  const Folder folder;
  const std::string whole = tar_entry("a.png", grey_png(1)) + tar_entry("a.txt", "one") +
                            tar_entry("b.png", grey_png(2)) + tar_entry("b.txt", "two") + tar_end;
  Draws draws(RandomStream{5, 0, 0});
  int refused = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string bytes = whole;
    for (int i = 0; i <= round % 4; ++i) {
      // Every second change goes to a header's size, checksum or type field.
      const int header = draws.below(int(bytes.size() / 512)) * 512;
      const size_t at = i % 2 == 0 ? size_t(header + 124 + draws.below(40)) : size_t(draws.below(int(bytes.size())));
      bytes[at] = char(i % 2 == 0 ? '0' + draws.below(9) : draws.below(256));
    }
    write_bytes(folder / "s.tar", bytes);
    try {
      const ShardSource source(folder / "s.tar");
      for (int64_t i = 0; i < source.size(); ++i) source.get(i);
    } catch (const IoError&) {
      ++refused;
    }
  }
  CHECK(refused > 500);
}

TEST_CASE("dataset: a table of paths and captions", "[data]") {
  tessera_test::ran();
  const Folder folder;
  std::filesystem::create_directory(folder / "images");
  write_bytes(folder / "images" / "a.png", grey_png(5));
  write_bytes(folder / "captions.tsv", "filepath\ttitle\r\nimages/a.png\ta grey field\r\n\nimages/gone.png\tnothing\n");
  const auto source = open_captions(folder / "captions.tsv");
  REQUIRE(source->size() == 2);
  CHECK(source->get(0).caption == "a grey field");
  CHECK(int(source->get(0).image.pixels[0]) == 5);
  CHECK(source->caption(1) == "nothing");
  REQUIRE_ERROR(source->get(1), IoError, "gone.png");
  write_bytes(folder / "bad.tsv", "images/a.png\tx\nimages/a.png no tab\n");
  REQUIRE_ERROR(TableSource(folder / "bad.tsv"), IoError, "line 2");
  write_bytes(folder / "none.tsv", "\n");
  REQUIRE_ERROR(TableSource(folder / "none.tsv"), IoError, "no pictures");
  REQUIRE_ERROR(open_captions(folder / "absent"), IoError, "does not exist");
}

TEST_CASE("dataset: an epoch's order is a permutation of its own", "[data]") {
  tessera_test::ran();
  auto order = epoch_order(1000, 3, 0);
  CHECK(order == epoch_order(1000, 3, 0));
  CHECK(order != epoch_order(1000, 3, 1));
  CHECK(order != epoch_order(1000, 4, 0));
  std::sort(order.begin(), order.end());
  for (int64_t i = 0; i < 1000; ++i) REQUIRE(order[size_t(i)] == i);
}

TEST_CASE("scenes: as shards they are the same scenes", "[data]") {
  try {
    find_emoji_font();
  } catch (const IoError& error) {
    tessera_test::skip(error.what());
    return;
  }
  tessera_test::ran();
  const Folder folder;
  const auto renderer = std::make_shared<const SceneRenderer>(classic_set(), Split::test);
  const auto scenes = renderer->render(0, 5);
  ShardWriter writer(folder / "shards", 2);
  for (int64_t i = 0; i < 5; ++i)
    writer.add(SceneSource::scene_key(i), scene_files(scenes[size_t(i)], renderer->set()));
  CHECK(writer.finish() == 3);
  const ShardSource stored(folder / "shards");
  const SceneSource live(renderer, 5);
  REQUIRE(stored.size() == 5);
  for (int64_t i = 0; i < 5; ++i) {
    CHECK(stored.get(i).key == live.get(i).key);
    CHECK(stored.get(i).image.pixels == live.get(i).image.pixels);
    CHECK(stored.get(i).caption == live.get(i).caption);
    CHECK(stored.labels(i)->labels == scenes[size_t(i)].labels.labels);
  }

  // Training sees the same with every label map deleted.
  ShardWriter bare(folder / "bare");
  for (int64_t i = 0; i < 5; ++i) {
    auto files = scene_files(scenes[size_t(i)], renderer->set());
    std::erase_if(files, [](const ShardFile& file) { return file.ending == "seg.png" || file.ending == "json"; });
    bare.add(SceneSource::scene_key(i), std::move(files));
  }
  bare.finish();
  const ShardSource without(folder / "bare");
  for (int64_t i = 0; i < 5; ++i) {
    CHECK(without.get(i).image.pixels == stored.get(i).image.pixels);
    CHECK(without.get(i).caption == stored.get(i).caption);
    CHECK_FALSE(without.labels(i).has_value());
  }

  const auto classes = scene_classes_json(renderer->set());
  CHECK(classes["classes"].size() == 48);
  CHECK(classes["classes"][8]["name"] == "dog");
}
