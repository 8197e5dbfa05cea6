// Loops over threads whose results do not depend on the number of threads: chunk borders come from the problem's size
// alone, and sums over chunks run in chunk order.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <vector>

#include <tessera/core/config.hpp>

namespace tessera {

/// Chunks of `grain` that [0, n) has; the last may be shorter.
inline constexpr int64_t chunk_count(int64_t n, int64_t grain) { return n <= 0 ? 0 : (n + grain - 1) / grain; }

/// Calls body(begin, end) for the consecutive chunks [0, grain), [grain, 2 grain), … of [0, n), in any order and on
/// several threads. An exception that a chunk throws is thrown again here (of several, the first chunk's).
template <class Body>
void parallel_for(int64_t n, int64_t grain, Body&& body) {
  const int64_t chunks = chunk_count(n, grain);
  if (chunks <= 1) {
    if (n > 0) body(int64_t(0), n);
    return;
  }
  std::exception_ptr error;
  int64_t error_chunk = chunks;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    try {
      body(chunk * grain, std::min(n, (chunk + 1) * grain));
    } catch (...) {
#pragma omp critical(tessera_parallel_for)
      if (chunk < error_chunk) {
        error_chunk = chunk;
        error = std::current_exception();
      }
    }
  }
  if (error) std::rethrow_exception(error);
}

/// Sum of body(begin, end) over the chunks of [0, n), added in chunk order.
template <class A, class Body>
A parallel_sum(int64_t n, int64_t grain, Body&& body) {
  std::vector<A> partial(size_t(chunk_count(n, grain)));
  parallel_for(n, grain, [&](int64_t begin, int64_t end) { partial[size_t(begin / grain)] = body(begin, end); });
  A total = 0;
  for (A p : partial) total += p;
  return total;
}

/// Rows per chunk so that a chunk holds about 16,384 elements: enough work to be worth a thread.
inline constexpr int64_t row_grain(int64_t row_length) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, row_length));
}

}  // namespace tessera
