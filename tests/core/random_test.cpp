#include <cmath>
#include <set>

#include <tessera/core/random.hpp>

#include "support/catch.hpp"

using namespace tessera;

TEST_CASE("random: Philox 4x32-10 gives its known answers", "[core]") {
  using Words = std::array<uint32_t, 4>;
  const uint32_t ones = 0xffffffffu;
  CHECK(philox4x32({0, 0, 0, 0}, 0) == Words{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  CHECK(philox4x32({ones, ones, ones, ones}, ~uint64_t(0)) ==
        Words{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
}

TEST_CASE("random: every part of a stream's name changes its numbers", "[core]") {
  std::set<uint32_t> seen;
  for (const RandomStream& stream : {RandomStream{1, 0, 0}, {2, 0, 0}, {uint64_t(1) << 32, 0, 0}, {1, 1, 0}, {1, 0, 1}})
    for (uint64_t element : {uint64_t(0), uint64_t(1), uint64_t(4), uint64_t(1) << 34})
      seen.insert(stream.bits(element));
  CHECK(seen.size() == 20);
  CHECK(RandomStream{7, 3, 5}.bits(11) == RandomStream{7, 3, 5}.bits(11));
}

TEST_CASE("random: operations of a step get streams of their own, the same on a second run", "[core]") {
  RandomState state{5};
  state.begin_step(9);
  const RandomStream first = state.draw(), second = state.draw();
  CHECK((first.step == 9 && first.operation == 0 && second.operation == 1));
  state.begin_step(9);
  CHECK(state.draw().bits(0) == first.bits(0));
}

TEST_CASE("random: uniform numbers are inside (0, 1) with the right moments", "[core]") {
  const RandomStream random{3, 0, 0};
  constexpr int n = 200000;
  double sum = 0, squares = 0;
  std::array<int, 16> counts{};
  for (uint64_t i = 0; i < n; ++i) {
    const float u = random.uniform(i);
    REQUIRE((u > 0 && u < 1));
    sum += u;
    squares += double(u) * u;
    ++counts[size_t(u * 16)];
  }
  // Five standard deviations of the estimates.
  CHECK(std::abs(sum / n - 0.5) < 5 * std::sqrt(1.0 / 12 / n));
  CHECK(std::abs(squares / n - 1.0 / 3) < 5 * std::sqrt(4.0 / 45 / n));
  for (int count : counts) CHECK(std::abs(count - n / 16) < 5 * std::sqrt(n / 16.0));
}

TEST_CASE("random: normal numbers have the right moments and tails", "[core]") {
  const RandomStream random{4, 0, 0};
  constexpr int n = 200000;
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
  int beyond_two = 0;
  for (uint64_t i = 0; i < n; ++i) {
    const double x = random.normal(i);
    REQUIRE(std::isfinite(x));
    m1 += x, m2 += x * x, m3 += x * x * x, m4 += x * x * x * x;
    beyond_two += std::abs(x) > 2;
  }
  CHECK(std::abs(m1 / n) < 5 / std::sqrt(double(n)));
  CHECK(std::abs(m2 / n - 1) < 5 * std::sqrt(2.0 / n));
  CHECK(std::abs(m3 / n) < 5 * std::sqrt(15.0 / n));
  CHECK(std::abs(m4 / n - 3) < 5 * std::sqrt(96.0 / n));
  CHECK(std::abs(beyond_two / double(n) - 0.0455) < 5 * std::sqrt(0.0455 / n));
}

TEST_CASE("random: below(n) reaches all of [0, n) evenly", "[core]") {
  const RandomStream random{5, 0, 0};
  std::array<int, 7> counts{};
  for (uint64_t i = 0; i < 70000; ++i) {
    const uint32_t k = random.below(i, 7);
    REQUIRE(k < 7);
    ++counts[k];
  }
  for (int count : counts) CHECK(std::abs(count - 10000) < 5 * 100);
  CHECK(random.below(3, 1) == 0);
}
