// Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
// A number depends on (seed, step, operation, element) alone, so it is the same on every device, tiling and thread
// count, and a backward pass can draw it again instead of storing it.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>

#include <tessera/core/config.hpp>

namespace tessera {

TESSERA_HOST_DEVICE inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, uint64_t key) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * counter[0], b = uint64_t(0xCD9E8D57u) * counter[2];
    counter = {uint32_t(b >> 32) ^ counter[1] ^ k0, uint32_t(b), uint32_t(a >> 32) ^ counter[3] ^ k1, uint32_t(a)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

/// Names one operation's stream of random numbers.
struct RandomStream {
  uint64_t seed = 0;
  uint32_t step = 0, operation = 0;

  /// 32 random bits for `element`.
  TESSERA_HOST_DEVICE uint32_t bits(uint64_t element) const {
    const uint64_t block = element / 4;
    return philox4x32({uint32_t(block), uint32_t(block >> 32), operation, step}, seed)[element % 4];
  }
  /// Uniform in (0, 1): never 0, never 1, so that log(u) and log(1 - u) are finite.
  TESSERA_HOST_DEVICE float uniform(uint64_t element) const {
    return (float(bits(element) >> 9) + 0.5f) * 1.1920928955078125e-7f;  // 2^-23
  }
  /// Standard normal, by Box and Muller from the numbers 2 * element and 2 * element + 1.
  TESSERA_HOST_DEVICE float normal(uint64_t element) const {
    const double radius = std::sqrt(-2.0 * std::log(double(uniform(2 * element))));
    return float(radius * std::cos(6.283185307179586 * double(uniform(2 * element + 1))));
  }
  /// Uniform integer in [0, n), n > 0.
  TESSERA_HOST_DEVICE uint32_t below(uint64_t element, uint32_t n) const {
    return uint32_t(uint64_t(bits(element)) * n >> 32);
  }
};

/// The state in a Context: hands every operation that draws random numbers a stream of its own.
struct RandomState {
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t next_operation = 0;

  RandomStream draw() { return {seed, step, next_operation++}; }
  /// Called once for each training step: operations count from 0 again, on the next step's numbers.
  void begin_step(uint32_t number) {
    step = number;
    next_operation = 0;
  }
};

}  // namespace tessera
