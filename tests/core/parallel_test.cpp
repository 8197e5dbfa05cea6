#include <omp.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <stdexcept>

#include <tessera/core/parallel.hpp>
#include <tessera/core/random.hpp>

#include "support/catch.hpp"

using namespace tessera;

namespace {
// Runs a part of a test with a number of threads, then restores the number.
struct Threads {
  explicit Threads(int count) : before(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before); }
  int before;
};
}  // namespace

TEST_CASE("parallel: every element once, in chunks cut by the size alone", "[core]") {
  for (int threads : {1, 3, 16})
    for (int64_t n : {0, 1, 9, 10, 11, 1000}) {
      const Threads scope(threads);
      std::vector<std::atomic<int>> visits(static_cast<size_t>(n));
      std::atomic<bool> whole{true};
      parallel_for(n, 10, [&](int64_t begin, int64_t end) {
        if (begin % 10 != 0 || end != std::min(n, begin + 10)) whole = false;
        for (int64_t i = begin; i < end; ++i) ++visits[size_t(i)];
      });
      CHECK(whole);
      CHECK(std::all_of(visits.begin(), visits.end(), [](const auto& v) { return v == 1; }));
    }
}

TEST_CASE("parallel: sums have the same bits at any number of threads", "[core]") {
  const RandomStream random{1, 0, 0};
  std::vector<float> values(100003);
  for (size_t i = 0; i < values.size(); ++i) values[i] = random.normal(i) * std::exp(8 * random.normal(i + 1000000));
  float first = 0;
  for (int threads : {1, 2, 3, 16}) {
    const Threads scope(threads);
    const float sum = parallel_sum<float>(int64_t(values.size()), 1000, [&](int64_t begin, int64_t end) {
      float part = 0;
      for (int64_t i = begin; i < end; ++i) part += values[size_t(i)];
      return part;
    });
    if (threads == 1) first = sum;
    CHECK(std::bit_cast<uint32_t>(sum) == std::bit_cast<uint32_t>(first));
  }
  CHECK(parallel_sum<float>(0, 10, [](int64_t, int64_t) { return 1.0f; }) == 0);
}

TEST_CASE("parallel: a chunk's exception arrives here, the first chunk's of several", "[core]") {
  for (int threads : {1, 4}) {
    const Threads scope(threads);
    const auto run = [] {
      parallel_for(100, 10, [](int64_t begin, int64_t) {
        if (begin >= 30) throw std::runtime_error("chunk " + std::to_string(begin));
      });
    };
    REQUIRE_THROWS_WITH(run(), "chunk 30");
  }
  REQUIRE_THROWS_WITH(parallel_for(5, 10, [](int64_t, int64_t) { throw std::runtime_error("alone"); }), "alone");
}

TEST_CASE("parallel: loops may be nested", "[core]") {
  std::atomic<int64_t> sum{0};
  parallel_for(8, 1, [&](int64_t i, int64_t) {
    parallel_for(100, 7, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) sum += i * 100 + j;
    });
  });
  CHECK(sum == 799 * 800 / 2);
}
