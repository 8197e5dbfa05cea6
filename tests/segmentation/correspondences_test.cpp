// Patches' labels, pairs of patches and the curves of their similarities, on cases worked out by hand.
#include <omp.h>

#include <map>
#include <set>

#include <support/catch.hpp>
#include <tessera/core/tensor.hpp>
#include <tessera/segmentation/correspondences.hpp>
#include <tessera/segmentation/roc.hpp>

using namespace tessera;
using namespace tessera::segmentation;

TEST_CASE("roc: a case with ties counted by hand", "[segmentation]") {
  // 30 pairs of a positive and a negative: 20 in order, 4 tied. Precision at the thresholds .9 .8 .6 .5 .3:
  // 1, 3/4, 3/5, 4/7, 5/9... over gains in recall of 1/5 each.
  const auto curve = roc_curve({.5f, .8f, .9f, .8f, .3f}, {.5f, .1f, .8f, .6f, .2f, .5f});
  CHECK(curve.positives == 5);
  CHECK(curve.negatives == 6);
  CHECK(curve.area == Approx(11.0 / 15).epsilon(1e-15));
  CHECK(curve.average_precision == Approx(32.0 / 45).epsilon(1e-15));
  REQUIRE(curve.points.size() == 7);  // .9 .8 .6 .5 .3 .2 .1
  CHECK(curve.points[1].threshold == Approx(.8));
  CHECK(curve.points[1].true_positive_rate == Approx(3.0 / 5));
  CHECK(curve.points[1].false_positive_rate == Approx(1.0 / 6));
  CHECK(curve.points[1].precision == Approx(3.0 / 4));
  CHECK(curve.points.back().true_positive_rate == 1);
  CHECK(curve.points.back().false_positive_rate == 1);
  CHECK(curve.best_balanced_accuracy == Approx((3.0 / 5 + 5.0 / 6) / 2));
  CHECK(curve.best_threshold == Approx(.8));
}

TEST_CASE("roc: perfect, reversed, all equal", "[segmentation]") {
  const auto perfect = roc_curve({3, 2}, {1, 0, -1});
  CHECK(perfect.area == 1);
  CHECK(perfect.average_precision == Approx(1).epsilon(1e-15));
  CHECK(perfect.best_balanced_accuracy == 1);
  CHECK(perfect.best_threshold == 2);
  CHECK(roc_curve({0}, {1, 2}).area == 0);
  const auto equal = roc_curve({1, 1}, {1, 1, 1, 1, 1, 1});
  CHECK(equal.area == 0.5);
  CHECK(equal.average_precision == 0.25);
  CHECK(equal.points.size() == 1);
  REQUIRE_ERROR(roc_curve({}, {1}), ValueError, "0 positives and 1 negatives");
  REQUIRE_ERROR(roc_curve({1}, {std::nanf("")}), ValueError, "a score is");
}

TEST_CASE("roc: many scores with ties, as another program counts them", "[segmentation]") {
  // Areas summed in fractions over all 592 x 1408 pairs, and over all thresholds, by a program of a few lines.
  std::vector<float> positive, negative;
  uint64_t state = 1;
  const auto next = [&] { return (state = state * 48271 % 2147483647) >> 16; };
  for (int i = 0; i < 2000; ++i) {
    const auto score = float(next() % 101);
    if (next() % 7 < 2)
      positive.push_back(std::min(100.f, score + 20));
    else
      negative.push_back(score);
  }
  const auto curve = roc_curve(positive, negative, 10);
  CHECK(curve.positives == 592);
  CHECK(curve.area == Approx(0.6802567615555897).epsilon(1e-14));
  CHECK(curve.average_precision == Approx(0.5211841981513282).epsilon(1e-12));
  CHECK(curve.points.size() <= 20);
  CHECK(curve.points.size() >= 10);
  for (size_t i = 1; i < curve.points.size(); ++i) {
    CHECK(curve.points[i].threshold < curve.points[i - 1].threshold);
    CHECK(curve.points[i].true_positive_rate >= curve.points[i - 1].true_positive_rate);
  }
}

TEST_CASE("centre_labels: the labels of the square that clip_resize keeps", "[segmentation]") {
  for (const auto& [width, height] : {std::pair{7, 5}, {5, 11}, {16, 16}, {40, 9}}) {
    LabelMap map(width, height);
    for (size_t i = 0; i < map.labels.size(); ++i) map.labels[i] = uint16_t(i * 7 % 23);
    const int side = 8;
    const auto size = data::short_side_size(width, height, side);
    const auto box = data::centre_box(size.width, size.height, side);
    const LabelMap whole = data::resize(map, size.width, size.height), square = centre_labels(map, side);
    for (int y = 0; y < side; ++y)
      for (int x = 0; x < side; ++x) REQUIRE(square.at(x, y) == whole.at(box.left + x, box.top + y));
  }
}

TEST_CASE("patch_labels: the majority of a patch, or none", "[segmentation]") {
  LabelMap map(4, 4);
  map.labels = {0, 0, 1, 2,   //
                0, 9, 2, 3,   //
                9, 9, 1, 1,   //
                1, 9, 0, 0};  //
  // upper left: 3 of 4 are class 0; upper right: 2 of 4 are class 2; lower left: no class; lower right: 0 and 1 alike
  CHECK(patch_labels(map, {2, 2}, 2, 2, 4) == std::vector<int32_t>{0, 2, no_class, 0});
  CHECK(patch_labels(map, {2, 2}, 2, 2, 4, 0.6) == std::vector<int32_t>{0, no_class, no_class, no_class});
  CHECK(patch_labels(map, {2, 2}, 2, 2, 1) == std::vector<int32_t>{0, no_class, no_class, 0});
  CHECK(patch_labels(map, {3, 1}, 2, 1, 4) == std::vector<int32_t>{0, no_class, no_class});
  REQUIRE_ERROR(patch_labels(map, {2, 3}, 2, 2, 4), ShapeError, "reaches beyond a label map of 4 x 4");
}

TEST_CASE("PatchPairs: all pairs once each, or as many as wanted", "[segmentation]") {
  const std::vector<int64_t> counts = {3, 0, 1, 4};
  const auto picture = [](int64_t patch) { return patch < 3 ? 0 : patch < 4 ? 2 : 3; };
  for (const auto scope : {PairScope::within, PairScope::across}) {
    const PatchPairs pairs(counts, scope, 1000, 0);
    CHECK(pairs.all() == (scope == PairScope::within ? 3 + 6 : 3 * 5 + 4));
    CHECK(pairs.size() == pairs.all());
    std::set<std::pair<int64_t, int64_t>> seen;
    for (int64_t k = 0; k < pairs.size(); ++k) {
      const auto [i, j] = pairs[k];
      CHECK(0 <= i);
      CHECK(i < j);
      CHECK(j < 8);
      CHECK((picture(i) == picture(j)) == (scope == PairScope::within));
      seen.insert(pairs[k]);
    }
    CHECK(int64_t(seen.size()) == pairs.all());
  }
  const std::vector<int64_t> sizes = {30, 0, 10, 40};
  const PatchPairs some(sizes, PairScope::across, 1500, 7), other(sizes, PairScope::across, 1500, 8);
  CHECK(some.all() == 30 * 50 + 400);
  CHECK(some.size() == 1500);
  std::map<std::pair<int64_t, int64_t>, int> drawn;
  int64_t differ = 0, between_first = 0;
  for (int64_t k = 0; k < some.size(); ++k) {
    ++drawn[some[k]];
    differ += some[k] != other[k];
    between_first += some[k].first < 30 && some[k].second < 40;
  }
  CHECK(differ > 1400);
  CHECK(drawn.size() > 1000);  // 1900 (1 - exp(-1500 / 1900)) = 1037 are expected to be drawn
  CHECK(drawn.size() < 1075);
  CHECK(std::abs(double(between_first) - 1500 * 300.0 / 1900) < 60);  // standard deviation 14
  CHECK(PatchPairs(std::vector<int64_t>{1}, PairScope::within, 5, 0).size() == 0);
}

TEST_CASE("pair_similarities: cosines by whether classes agree, whatever the number of threads", "[segmentation]") {
  Context<Cpu> ctx;
  const auto three = Tensor<float, 2>::from_host(ctx, {3, 2}, {1, 0, 0, 1, .6f, .8f});
  const std::vector<int64_t> counts = {3};
  const std::vector<int32_t> labels = {4, 5, 4};
  const auto pairs = pair_similarities(view(three), labels, {counts, PairScope::within, 10, 0});
  CHECK(pairs.same == std::vector<float>{.6f});
  CHECK(pairs.different == std::vector<float>{0, .8f});
  const std::vector<int32_t> unlabelled = {4, no_class, no_class};
  const auto none = pair_similarities(view(three), unlabelled, {counts, PairScope::within, 10, 0});
  CHECK(none.same.size() + none.different.size() == 0);

  const int threads = omp_get_max_threads();
  Tensor<float, 2> many(ctx, {300, 33});
  const RandomStream random{5, 0, 0};
  for (int64_t i = 0; i < many.size(); ++i) many.data[i] = random.uniform(uint64_t(i));
  const std::vector<int64_t> hundreds = {100, 100, 100};
  std::vector<int32_t> alternate;
  for (int i = 0; i < 300; ++i) alternate.push_back(i % 3);
  std::vector<PairSimilarities> results;
  for (const int count : {1, 3}) {
    omp_set_num_threads(count);
    results.push_back(pair_similarities(view(many), alternate, {hundreds, PairScope::across, 20000, 1}));
  }
  omp_set_num_threads(threads);
  CHECK(results[0].same == results[1].same);
  CHECK(results[0].different == results[1].different);
  CHECK(results[0].same.size() + results[0].different.size() == 20000);

  // Several chunks, of which the last is not full; products of small whole numbers, exact in any order.
  for (int64_t i = 0; i < many.size(); ++i) many.data[i] = float(int64_t(i) * 7 % 31 - 15);
  for (size_t i = 0; i < alternate.size(); i += 7) alternate[i] = no_class;
  const PatchPairs drawn(hundreds, PairScope::within, 10000, 2);
  PairSimilarities expected;
  for (int64_t k = 0; k < drawn.size(); ++k) {
    const auto [i, j] = drawn[k];
    float sum = 0;
    for (int64_t c = 0; c < 33; ++c) sum += many(i, c) * many(j, c);
    const int32_t one = alternate[size_t(i)], other = alternate[size_t(j)];
    if (one != no_class && other != no_class) (one == other ? expected.same : expected.different).push_back(sum);
  }
  REQUIRE(expected.same.size() > 1000);
  REQUIRE(expected.same.size() + expected.different.size() < 9000);
  const auto counted = pair_similarities(view(many), alternate, drawn);
  CHECK(counted.same == expected.same);
  CHECK(counted.different == expected.different);
  CHECK(counted.same.capacity() == counted.same.size());
  CHECK(counted.different.capacity() == counted.different.size());

  REQUIRE_ERROR(pair_similarities(view(many), labels, {counts, PairScope::within, 10, 0}), ShapeError,
                "3 labels for 300 patches");
}
