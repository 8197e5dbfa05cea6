// Loops over arrays of one shape with any strides, and sums over axes in a fixed order: what elementwise operations,
// copies and reductions share on Cpu.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>

#include <tessera/core/parallel.hpp>
#include <tessera/core/tensor.hpp>

namespace tessera::cpu {

/// A stride of each of several arrays.
template <int Arrays>
using Steps = std::array<int64_t, size_t(Arrays)>;

/// Several arrays walked together. Neighbouring axes are merged where every array's strides allow it, so that
/// contiguous arrays of any rank become one long row. The rank is erased here, so that loop bodies are compiled once.
template <int Arrays>
class StridedLoop {
 public:
  using Offsets = Steps<Arrays>;

  template <size_t Rank>
  StridedLoop(const std::array<int64_t, Rank>& shape,
              const std::type_identity_t<std::array<std::array<int64_t, Rank>, size_t(Arrays)>>& strides)
      : size_(element_count(shape)) {
    static_assert(Rank <= most_axes, "tessera: more axes than the loops take");
    for (size_t axis = 0; axis < Rank; ++axis) {
      if (shape[axis] == 1) continue;
      Offsets steps;
      bool merges = axes_ > 0;
      for (size_t array = 0; array < size_t(Arrays); ++array) {
        steps[array] = strides[array][axis];
        merges = merges && strides_[axes_ - 1][array] == steps[array] * shape[axis];
      }
      if (merges) {
        extents_[axes_ - 1] *= shape[axis];
      } else {
        extents_[axes_] = shape[axis];
        ++axes_;
      }
      strides_[axes_ - 1] = steps;
    }
    if (axes_ == 0) {
      extents_[0] = 1;
      strides_[0].fill(1);  // one element: any stride, and 1 has the fastest loops
      axes_ = 1;
    }
  }

  /// The last merged axis' stride in `array`: constant over all rows.
  int64_t inner_stride(int array) const { return strides_[axes_ - 1][size_t(array)]; }
  Steps<Arrays> inner_strides() const { return strides_[axes_ - 1]; }

  /// Calls body(offsets, count) for all pieces of rows, on several threads; offsets are those of the pieces' first
  /// elements in each array.
  template <class Body>
  void run(Body&& body) const {
    if (size_ == 0) return;
    constexpr int64_t piece = 16384;
    const int64_t length = extents_[axes_ - 1], rows = size_ / length, pieces = chunk_count(length, piece);
    parallel_for(rows * pieces, row_grain(length), [&](int64_t begin, int64_t end) {
      int64_t number = begin % pieces, row = begin / pieces;
      std::array<int64_t, most_axes> index{};
      Offsets row_start{};
      for (size_t axis = axes_ - 1; axis-- > 0; row /= extents_[axis]) {
        index[axis] = row % extents_[axis];
        for (size_t array = 0; array < size_t(Arrays); ++array) row_start[array] += index[axis] * strides_[axis][array];
      }
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = number * piece;
        Offsets offsets = row_start;
        for (size_t array = 0; array < size_t(Arrays); ++array) offsets[array] += first * strides_[axes_ - 1][array];
        body(offsets, std::min(piece, length - first));
        if (++number < pieces) continue;
        number = 0;
        for (size_t axis = axes_ - 1;
             axis-- > 0;) {  // to the next row: an odometer, divisions cost more than short rows
          const bool carry = ++index[axis] == extents_[axis];
          const int64_t step = carry ? 1 - extents_[axis] : 1;
          for (size_t array = 0; array < size_t(Arrays); ++array) row_start[array] += step * strides_[axis][array];
          if (!carry) break;
          index[axis] = 0;
        }
      }
    });
  }

 private:
  static constexpr size_t most_axes = 8;
  int64_t size_;
  size_t axes_ = 0;
  std::array<int64_t, most_axes> extents_{};
  std::array<Offsets, most_axes> strides_{};
};

/// Calls f with the last axis' strides of two operands, as compile-time constants where both are 1, or the second is 0
/// (one value for the whole row): these loops become vector code.
template <class F>
void with_strides(int64_t first, int64_t second, F&& f) {
  using One = std::integral_constant<int64_t, 1>;
  if (first == 1 && second == 1)
    f(One{}, One{});
  else if (first == 1 && second == 0)
    f(One{}, std::integral_constant<int64_t, 0>{});
  else
    f(first, second);
}

/// out[o, i] = factor * sum over j of in[o, j, i], with o < outer, j < n, i < inner. Sums are cut by the sizes alone
/// and added in order: the same bits at any number of threads.
template <class C, class T>
void sum_over_axis(Context<Cpu>& ctx, C* out, const T* in, int64_t outer, int64_t n, int64_t inner,
                   accumulate_t<T> factor = 1) {
  using A = accumulate_t<T>;
  constexpr int64_t columns = 1024;  // of a block: its sums stay in the first-level cache
  const int64_t blocks = chunk_count(inner, columns);
  // Long sums are cut where the outputs alone would not keep the threads busy.
  const int64_t grain = outer * blocks >= 64 ? std::max<int64_t>(n, 1)
                                             : std::max(row_grain(std::min(inner, columns)), chunk_count(n, 64));
  const int64_t chunks = std::max<int64_t>(1, chunk_count(n, grain));
  const auto sum_block = [&](A* sum, int64_t width, const T* from, int64_t rows) {
    if (inner == 1) {
      A total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < rows; ++j) total += widen(from[j]);
      sum[0] = total;
      return;
    }
    std::fill(sum, sum + width, A(0));
    for (int64_t j = 0; j < rows; ++j) {
      const T* row = from + j * inner;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) sum[i] += widen(row[i]);
    }
  };
  Tensor<A, 1> partial;
  if (chunks > 1) partial = Tensor<A, 1>(ctx, {outer * chunks * inner});
  const int64_t block_work = std::min(inner, columns) * grain;
  parallel_for(outer * chunks * blocks, row_grain(block_work), [&](int64_t begin, int64_t end) {
    A block_sum[columns];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t block = task % blocks, chunk = task / blocks % chunks, o = task / blocks / chunks;
      const int64_t first = block * columns, width = std::min(columns, inner - first);
      const T* from = in + (o * n + chunk * grain) * inner + first;
      const int64_t rows = std::min(grain, n - chunk * grain);
      if (chunks > 1) {
        sum_block(partial.data + (o * chunks + chunk) * inner + first, width, from, rows);
      } else {
        sum_block(block_sum, width, from, rows);
        for (int64_t i = 0; i < width; ++i) out[o * inner + first + i] = narrow<C>(factor * block_sum[i]);
      }
    }
  });
  if (chunks == 1) return;
  parallel_for(outer * inner, row_grain(chunks), [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const A* from = partial.data + at / inner * chunks * inner + at % inner;
      A total = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) total += from[chunk * inner];
      out[at] = narrow<C>(factor * total);
    }
  });
}

/// out = in summed over the axes on which out's extent is 1 and in's is not; both contiguous, row-major.
template <class C, class T, size_t Rank>
void sum_onto(Context<Cpu>& ctx, C* out, const std::array<int64_t, Rank>& out_shape, const T* in,
              const std::array<int64_t, Rank>& in_shape) {
  using A = accumulate_t<T>;
  struct Group {
    int64_t extent;
    bool summed;
  };
  std::array<Group, Rank + 1> groups;  // neighbouring axes of one kind
  size_t count = 0;
  for (size_t axis = 0; axis < Rank; ++axis) {
    const bool summed = out_shape[axis] != in_shape[axis];
    if (in_shape[axis] == 1) continue;
    if (count > 0 && groups[count - 1].summed == summed)
      groups[count - 1].extent *= in_shape[axis];
    else
      groups[count++] = {in_shape[axis], summed};
  }
  const auto product = [&](size_t begin, size_t end) {
    int64_t n = 1;
    for (size_t g = begin; g < end; ++g) n *= groups[g].extent;
    return n;
  };
  size_t left = size_t(std::count_if(groups.begin(), groups.begin() + count, [](const Group& g) { return g.summed; }));
  if (left == 0) return sum_over_axis(ctx, out, in, product(0, count), 1, 1);
  Tensor<A, 1> sums;  // of the groups summed so far
  for (size_t g = 0; g < count; ++g) {
    if (!groups[g].summed) continue;
    const int64_t outer = product(0, g), n = groups[g].extent, inner = product(g + 1, count);
    groups[g].extent = 1;
    Tensor<A, 1> next;
    if (--left > 0) next = Tensor<A, 1>(ctx, {outer * inner});
    if (left > 0 && sums)
      sum_over_axis(ctx, next.data, sums.data, outer, n, inner);
    else if (left > 0)
      sum_over_axis(ctx, next.data, in, outer, n, inner);
    else if (sums)
      sum_over_axis(ctx, out, sums.data, outer, n, inner);
    else
      sum_over_axis(ctx, out, in, outer, n, inner);
    sums = std::move(next);
  }
}

}  // namespace tessera::cpu
