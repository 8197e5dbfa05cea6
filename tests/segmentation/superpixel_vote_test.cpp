// Labels refined by superpixels: the majority in each, ties to the smallest label, and an edge found again.
#include <tessera/segmentation/superpixel_vote.hpp>

#include <support/catch.hpp>

using namespace tessera;
using namespace tessera::segmentation;

TEST_CASE("superpixel vote: each segment gets the label of most of its pixels", "[segmentation]") {
  data::LabelMap labels(4, 2);
  data::SegmentMap segments(4, 2);
  labels.labels = {7, 7, 2, 65535, 1, 7, 65535, 2};
  segments.labels = {0, 0, 3, 3, 0, 1, 3, 3};
  const auto refined = vote_in_segments(labels, segments);
  CHECK(refined.width == 4);
  CHECK(refined.height == 2);
  CHECK(refined.labels == std::vector<uint16_t>{7, 7, 2, 2, 7, 7, 2, 2});  // 2 and 65535 are equal: the smaller
  REQUIRE_ERROR(vote_in_segments(labels, data::SegmentMap(2, 4)), ValueError,
                "labels of 4 x 2 pixels, segments of 2 x 4");
  segments.labels[3] = -1;
  REQUIRE_ERROR(vote_in_segments(labels, segments), ValueError, "segment -1 at pixel 3");
  CHECK(vote_in_segments({}, {}).empty());
}

TEST_CASE("superpixel vote: coarse labels find the edge of an object", "[segmentation]") {
  // A bright square from 5 to 18 on dark ground; labels know it in cells of 8 pixels only.
  data::Image picture(24, 24, 3, 20);
  data::LabelMap truth(24, 24), coarse(24, 24);
  for (int y = 0; y < 24; ++y)
    for (int x = 0; x < 24; ++x) {
      const bool inside = x >= 5 && x < 19 && y >= 5 && y < 19;
      if (inside) picture.at(x, y)[0] = 220;
      truth.at(x, y) = inside ? 1 : 0;
      coarse.at(x, y) = x >= 8 && x < 16 && y / 8 == 1 ? 1 : 0;
      if (x / 8 == 1 && y >= 4 && y < 20) coarse.at(x, y) = 1;
    }
  const auto refined = vote_in_segments(coarse, data::felzenszwalb(picture, {.scale = 20, .sigma = 0, .min_size = 10}));
  CHECK(coarse.labels != truth.labels);
  CHECK(refined.labels == truth.labels);
}
