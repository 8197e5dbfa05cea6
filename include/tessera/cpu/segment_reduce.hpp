// Segments' sums, means and maxima on Cpu, and rows gathered back.
#pragma once
#include <algorithm>

#include <tessera/core/parallel.hpp>
#include <tessera/ops/segment_reduce.hpp>

namespace tessera {

template <>
struct Backend<op::segment_reduce, Cpu> {
  template <class T>
  static void forward(Context<Cpu>& ctx, Out<T, 3, Cpu> y, Out<int32_t, 2, Cpu> counts, Out<int32_t, 3, Cpu> index,
                      In<T, 3, Cpu> x, In<int32_t, 2, Cpu> segments, SegmentReduction kind) {
    const auto [items, tokens, channels] = x.shape;
    const int64_t count = y.shape[1];
    check("segment_reduce", segments, count);
    Tensor<int32_t, 2> own_counts;
    if (!counts) {
      own_counts = Tensor<int32_t, 2>(ctx, {items, count});
      counts = own_counts;
    }
    std::fill_n(counts.data, counts.size(), 0);
    for (int64_t b = 0; b < items; ++b)
      for (int64_t n = 0; n < tokens; ++n)
        if (const int32_t s = segments(b, n); s >= 0) ++counts(b, s);
    if (y.size() == 0) return;
    Tensor<int32_t, 3> own_index;
    if (kind == SegmentReduction::max && !index) {
      own_index = Tensor<int32_t, 3>(ctx, y.shape);
      index = own_index;
    }
    // A task is an item's block of columns, and streams over its tokens: their order is that of the additions.
    const int64_t columns = 128, blocks = chunk_count(channels, columns);
    const int64_t grain = row_grain(tokens * std::min(channels, columns));
    parallel_for(items * blocks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t b = task / blocks, first = task % blocks * columns;
        const Block block{b, first, std::min(columns, y.shape[2] - first)};
        if (kind == SegmentReduction::max)
          largest<T>(y, index, x, segments, block);
        else
          sums<T>(ctx, y, counts, x, segments, block, kind == SegmentReduction::mean);
      }
    });
  }

  template <class T, class A = accumulate_t<T>>
  static void gather(Context<Cpu>&, Out<T, 3, Cpu> x, In<T, 3, Cpu> y, In<int32_t, 2, Cpu> counts,
                     In<int32_t, 3, Cpu> index, In<int32_t, 2, Cpu> segments, SegmentReduction kind) {
    const int64_t tokens = x.shape[1], channels = x.shape[2], count = y.shape[1];
    check("segment_gather", segments, count);
    parallel_for(x.shape[0] * tokens, row_grain(channels), [&](int64_t begin, int64_t end) {
      for (int64_t token = begin; token < end; ++token) {
        T* to = x.data + token * channels;
        const int32_t s = segments.data[token];
        if (s < 0) {
          std::fill_n(to, channels, T{});
          continue;
        }
        const int64_t row = token / tokens * count + s;
        const T* from = y.data + row * channels;
        if (kind == SegmentReduction::sum) {
          std::copy_n(from, channels, to);
        } else if (kind == SegmentReduction::mean) {
          const A factor = A(1) / A(counts.data[row]);
#pragma omp simd
          for (int64_t c = 0; c < channels; ++c) to[c] = narrow<T>(factor * widen(from[c]));
        } else {
          const int32_t *chosen = index.data + row * channels, n = int32_t(token % tokens);
#pragma omp simd
          for (int64_t c = 0; c < channels; ++c) to[c] = chosen[c] == n ? from[c] : T{};
        }
      }
    });
  }

 private:
  /// An item's columns [first, first + width).
  struct Block {
    int64_t item, first, width;
  };

  static void check(std::string_view name, In<int32_t, 2, Cpu> segments, int64_t count) {
    for (int64_t i = 0; i < segments.size(); ++i)
      if (segments.data[i] >= count) [[unlikely]]
        fail<ValueError>(name, ": segment ", segments.data[i], " of item ", i / segments.shape[1], ", token ",
                         i % segments.shape[1], ", is not below ", count, ", the number of segments");
  }

  template <class T, class A = accumulate_t<T>>
  static void sums(Context<Cpu>& ctx, Out<T, 3, Cpu> y, In<int32_t, 2, Cpu> counts, In<T, 3, Cpu> x,
                   In<int32_t, 2, Cpu> segments, const Block& block, bool mean) {
    const int64_t count = y.shape[1], channels = y.shape[2], width = block.width;
    T* out = y.data + block.item * count * channels + block.first;
    A* sum;  // [count, width], rows `row` apart: y itself where it has the right type
    int64_t row;
    Tensor<A, 2> partial;
    if constexpr (std::is_same_v<A, T>) {
      sum = out;
      row = channels;
    } else {
      partial = Tensor<A, 2>(ctx, {count, width});
      sum = partial.data;
      row = width;
    }
    for (int64_t s = 0; s < count; ++s) std::fill_n(sum + s * row, width, A(0));
    for (int64_t n = 0; n < x.shape[1]; ++n) {
      const int32_t s = segments(block.item, n);
      if (s < 0) continue;
      const T* from = x.data + block.item * x.strides[0] + n * x.strides[1] + block.first;
      A* to = sum + s * row;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) to[c] += widen(from[c]);
    }
    if (std::is_same_v<A, T> && !mean) return;
    for (int64_t s = 0; s < count; ++s) {
      const int32_t members = counts(block.item, s);
      const A factor = mean && members > 1 ? A(1) / A(members) : A(1), *from = sum + s * row;
      T* to = out + s * channels;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) to[c] = narrow<T>(factor * from[c]);
    }
  }

  template <class T>
  static void largest(Out<T, 3, Cpu> y, Out<int32_t, 3, Cpu> index, In<T, 3, Cpu> x, In<int32_t, 2, Cpu> segments,
                      const Block& block) {
    const int64_t count = y.shape[1], channels = y.shape[2], width = block.width;
    T* out = y.data + block.item * count * channels + block.first;
    int32_t* chosen = index.data + block.item * count * channels + block.first;
    for (int64_t s = 0; s < count; ++s) {
      std::fill_n(out + s * channels, width, T{});
      std::fill_n(chosen + s * channels, width, -1);
    }
    for (int64_t n = 0; n < x.shape[1]; ++n) {
      const int32_t s = segments(block.item, n);
      if (s < 0) continue;
      const T* from = x.data + block.item * x.strides[0] + n * x.strides[1] + block.first;
      T* to = out + s * channels;
      int32_t* at = chosen + s * channels;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        const auto value = widen(from[c]), before = widen(to[c]);
        // the first of all; else what is larger, or the first NaN
        const bool takes = (at[c] < 0) | (!(value <= before) & (before == before));
        to[c] = takes ? from[c] : to[c];
        at[c] = takes ? int32_t(n) : at[c];
      }
    }
  }
};

}  // namespace tessera
