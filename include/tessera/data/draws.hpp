// Random numbers taken one after the other from a RandomStream, for code that draws a varying count of them.
#pragma once
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include <tessera/core/random.hpp>

namespace tessera::data {

/// Hands out element 0, 1, 2, … of a stream: the same numbers as stream.bits(0), stream.bits(1), …
class Draws {
 public:
  explicit Draws(RandomStream stream) : stream_(stream) {}

  /// 32 random bits.
  uint32_t bits() {
    if (next_ % 4 == 0) {
      const uint64_t block = next_ / 4;
      block_ = philox4x32({uint32_t(block), uint32_t(block >> 32), stream_.operation, stream_.step}, stream_.seed);
    }
    return block_[next_++ % 4];
  }
  /// Uniform in (low, high).
  double uniform(double low = 0, double high = 1) {
    return low + (high - low) * ((double(bits()) + 0.5) * (1.0 / 4294967296.0));
  }
  /// Uniform integer in [0, n), n > 0.
  int below(int n) { return int(uint64_t(bits()) * uint64_t(n) >> 32); }
  /// True with that probability.
  bool chance(double probability) { return uniform() < probability; }

  /// Fisher and Yates.
  template <class T>
  void shuffle(std::vector<T>& values) {
    for (int i = int(values.size()) - 1; i > 0; --i) std::swap(values[size_t(i)], values[size_t(below(i + 1))]);
  }

 private:
  RandomStream stream_;
  uint64_t next_ = 0;
  std::array<uint32_t, 4> block_{};
};

}  // namespace tessera::data
