// Window boxes and the averaging of overlapping score maps.
#include <omp.h>

#include <support/catch.hpp>
#include <tessera/segmentation/windows.hpp>

using namespace tessera;
using namespace tessera::segmentation;

TEST_CASE("windows: counts and places by mmsegmentation's rule", "[segmentation]") {
  CHECK(sliding_windows(597, 448, 448, 224) == std::vector<Box>{{0, 0, 448, 448}, {149, 0, 597, 448}});
  CHECK(sliding_windows(896, 448, 448, 224).size() == 3);
  CHECK(sliding_windows(672, 448, 448, 224).size() == 2);
  CHECK(sliding_windows(448, 448, 448, 224).size() == 1);
  CHECK(sliding_windows(300, 200, 448, 224) == std::vector<Box>{{0, 0, 300, 200}});
  CHECK(sliding_windows(5, 1, 2, 2) == std::vector<Box>{{0, 0, 2, 1}, {2, 0, 4, 1}, {3, 0, 5, 1}});
  REQUIRE_ERROR(sliding_windows(9, 9, 4, 5), ValueError, "stride 5");
  REQUIRE_ERROR(sliding_windows(0, 9, 4, 2), ValueError, "0 x 9");
}

TEST_CASE("windows: every pixel is covered, and only windows of one size occur", "[segmentation]") {
  for (int width = 1; width < 40; ++width)
    for (int window : {1, 3, 8})
      for (int stride = 1; stride <= window; ++stride) {
        std::vector<int> covered(size_t(width), 0);
        for (const Box& box : sliding_windows(width, 1, window, stride)) {
          REQUIRE(box.width() == std::min(window, width));
          for (int x = box.left; x < box.right; ++x) ++covered.at(size_t(x));
        }
        REQUIRE(std::find(covered.begin(), covered.end(), 0) == covered.end());
      }
}

TEST_CASE("windows: scores are averaged by how often a pixel was seen, at any number of threads", "[segmentation]") {
  Context<Cpu> ctx;
  const int before = omp_get_max_threads();
  std::vector<std::vector<float>> results;
  for (int threads : {1, 3}) {
    omp_set_num_threads(threads);
    WindowAverage average(ctx, 20, 60, 90);
    float value = 0;
    for (const Box& box : sliding_windows(90, 60, 40, 25)) {
      Tensor<float, 3> scores(ctx, {20, box.height(), box.width()});
      for (int64_t i = 0; i < scores.size(); ++i) scores.data[i] = value + float(i % 101) * 0.37f;
      average.add(box, scores);
      value += 10;
    }
    results.push_back(to_host(average.mean()));
  }
  omp_set_num_threads(before);
  CHECK(results[0] == results[1]);

  WindowAverage two(ctx, 1, 1, 3);
  const std::vector<float> first = {1, 2}, second = {6, 5};
  two.add({0, 0, 2, 1}, TensorView<const float, 3>(first.data(), {1, 1, 2}));
  REQUIRE_ERROR(two.mean(), ValueError, "in no window");
  two.add({1, 0, 3, 1}, TensorView<const float, 3>(second.data(), {1, 1, 2}));
  CHECK(to_host(two.count()) == std::vector<float>{1, 2, 1});
  CHECK(to_host(two.mean()) == std::vector<float>{1, 4, 5});
}

TEST_CASE("windows: scores that do not fit are refused", "[segmentation]") {
  Context<Cpu> ctx;
  WindowAverage average(ctx, 2, 8, 8);
  const auto scores = Tensor<float, 3>::zeros(ctx, {2, 4, 4});
  REQUIRE_ERROR(average.add({5, 0, 9, 4}, scores), ValueError, "outside the map");
  REQUIRE_ERROR(average.add({0, 0, 4, 5}, scores), ShapeError, "height of scores");
  REQUIRE_ERROR(average.add({0, 0, 4, 4}, Tensor<float, 3>::zeros(ctx, {3, 4, 4})), ShapeError, "channels of scores");
}
