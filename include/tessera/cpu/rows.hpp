// Sums over rows in a fixed order: what parameter gradients (bias, layernorm's weight) need on Cpu.
#pragma once
#include <algorithm>
#include <cstdint>

#include <tessera/core/parallel.hpp>
#include <tessera/core/tensor.hpp>

namespace tessera::cpu {

/// out[j] = sum over all rows r of what add_row(partial, r) adds to partial[j], j < width. Rows are cut into chunks (by
/// the problem's size alone), each chunk has a partial sum of its own, and partial sums are added in order: the result
/// does not depend on the number of threads.
template <class A, class AddRow>
void sum_over_rows(Context<Cpu>& ctx, int64_t rows, int64_t width, A* out, AddRow&& add_row) {
  const int64_t grain = std::max(row_grain(width), chunk_count(rows, 64));
  const int64_t chunks = chunk_count(rows, grain);
  if (chunks <= 1) {
    std::fill(out, out + width, A(0));
    for (int64_t r = 0; r < rows; ++r) add_row(out, r);
    return;
  }
  Tensor<A, 2> partial(ctx, {chunks, width});
  parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    A* sum = partial.data + begin / grain * width;
    std::fill(sum, sum + width, A(0));
    for (int64_t r = begin; r < end; ++r) add_row(sum, r);
  });
  parallel_for(width, 1024, [&](int64_t begin, int64_t end) {
    std::copy(partial.data + begin, partial.data + end, out + begin);
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      const A* from = partial.data + chunk * width;
      for (int64_t j = begin; j < end; ++j) out[j] += from[j];
    }
  });
}

}  // namespace tessera::cpu
