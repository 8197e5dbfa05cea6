// Superpixels stored beside a data set: what is written is read again, for the right pictures only, and a run that was
// interrupted goes on.
#include <atomic>
#include <fstream>
#include <string>
#include <vector>

#include <io/folder.hpp>
#include <support/catch.hpp>
#include <tessera/data/superpixel_store.hpp>

using namespace tessera;
using namespace tessera::data;
namespace fs = std::filesystem;

namespace {

/// Stripes whose number grows with the sample's.
class Stripes : public CaptionSource {
 public:
  explicit Stripes(int64_t count, std::string name = "stripes/") : count_(count), name_(std::move(name)) {}
  int64_t size() const override { return count_; }
  Sample get(int64_t index) const override {
    ++asked;
    Image image(40, 30);
    for (int y = 0; y < 30; ++y)
      for (int x = 0; x < 40; ++x) image.at(x, y)[1] = uint8_t(x * (int(index) + 2) / 40 % 2 * 200);
    return {name_ + std::to_string(index) + ".png", image, "stripes"};
  }
  mutable std::atomic<int> asked{0};

 private:
  int64_t count_;
  std::string name_;
};

const SuperpixelRecipe recipe{.samples = 0, .samples_per_shard = 3, .felzenszwalb = {50, 0, 20}, .short_side = 0};
constexpr auto ignore = [](int64_t) {};

}  // namespace

TEST_CASE("superpixel store: maps are read as they were computed", "[data]") {
  tessera_test::Folder folder;
  const Stripes source(7);
  int64_t done = 0;
  CHECK(write_superpixels(source, folder / "maps", recipe, [&](int64_t count) { done += count; }) == 0);
  CHECK(done == 7);
  const SuperpixelStore store(folder / "maps");
  REQUIRE(store.size() == 7);
  for (const int64_t i : {6, 0, 3}) {
    const Sample sample = source.get(i);
    CHECK(store.get(i, sample.key) == felzenszwalb(sample.image, recipe.felzenszwalb));
    CHECK(store.get(i, sample.key).count() == i + 2);
  }
  REQUIRE_ERROR(store.get(1, "stripes/2.png"), IoError, "belong to another picture than stripes/2.png");
  REQUIRE_ERROR(store.get(7, "stripes/7.png"), ValueError, "sample 7 of 7");
  store.check_source(source);
  REQUIRE_ERROR(store.check_source(Stripes(8)), IoError,
                "maps holds superpixels of 7 pictures, but the data set has 8; compute them again for this data set");
  REQUIRE_ERROR(store.check_source(Stripes(7, "photos/")), IoError, "belong to another picture than photos/0.png");
}

TEST_CASE("superpixel store: an interrupted run goes on after its last whole shard", "[data]") {
  tessera_test::Folder folder;
  const Stripes source(8);
  struct Stop {};
  int shards = 0;
  const auto stop_after_two = [&](int64_t) {
    if (++shards == 2) throw Stop{};
  };
  CHECK_THROWS_AS(write_superpixels(source, folder / "maps", recipe, stop_after_two), Stop);
  REQUIRE_ERROR(SuperpixelStore(folder / "maps"), IoError, "holds superpixels of 6 of 8 pictures");
  source.asked = 0;
  CHECK(write_superpixels(source, folder / "maps", recipe, ignore) == 2);
  CHECK(source.asked == 2);
  write_superpixels(source, folder / "whole", recipe, ignore);
  for (const char* name : {"000000.tar", "000001.tar", "000002.tar", "superpixels.json"})
    CHECK(io::read_text(folder / "maps" / name) == io::read_text(folder / "whole" / name));
  CHECK(write_superpixels(source, folder / "maps", recipe, ignore) == 3);  // nothing left to do
}

TEST_CASE("superpixel store: other settings, other data, damage", "[data]") {
  tessera_test::Folder folder;
  const Stripes source(4);
  write_superpixels(source, folder / "maps", recipe, ignore);
  SuperpixelRecipe other = recipe;
  other.felzenszwalb.scale = 51;
  REQUIRE_ERROR(write_superpixels(source, folder / "maps", other, ignore), IoError, "other settings");
  REQUIRE_ERROR(write_superpixels(Stripes(5), folder / "maps", recipe, ignore), IoError, "another size");

  fs::rename(folder / "maps" / "000000.tar", folder / "maps" / "000002.tar");
  REQUIRE_ERROR(SuperpixelStore(folder / "maps"), IoError, "are expected");
  fs::remove(folder / "maps" / "000001.tar");
  fs::remove(folder / "maps" / "000002.tar");
  std::ofstream(folder / "maps" / "000000.tar") << "no tar at all";
  REQUIRE_ERROR(SuperpixelStore(folder / "maps"), IoError, "000000.tar");
}

TEST_CASE("superpixel store: large pictures can be scaled down first", "[data]") {
  SuperpixelRecipe small = recipe;
  small.short_side = 15;
  const SegmentMap map = superpixels_by(small, Stripes(1).get(0).image);
  CHECK(map.width == 20);
  CHECK(map.height == 15);
  small.short_side = 31;
  CHECK(superpixels_by(small, Stripes(1).get(0).image).width == 40);
}
