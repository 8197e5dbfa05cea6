// Assembling tokens on Cpu.
#pragma once
#include <algorithm>

#include <tessera/core/parallel.hpp>
#include <tessera/ops/tokens.hpp>

namespace tessera {

template <>
struct Backend<op::tokens, Cpu> {
  template <class T>
  static void forward(Context<Cpu>&, Out<T, 3, Cpu> tokens, In<T, 1, Cpu> class_embedding, In<T, 3, Cpu> patches,
                      In<T, 2, Cpu> positional_embedding) {
    const auto [items, count, channels] = tokens.shape;
    const int64_t first = class_embedding ? 1 : 0;
    parallel_for(
        items * count, row_grain(channels), [&, count = count, channels = channels](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t item = i / count, n = i % count;
            const T* from =
                n < first ? class_embedding.data : patches.data + (item * (count - first) + n - first) * channels;
            const T* position = positional_embedding.data + n * channels;
            T* to = tokens.data + i * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) to[c] = narrow<T>(widen(from[c]) + widen(position[c]));
          }
        });
  }

  template <class T, class G, class A = accumulate_t<T>>
  static void backward(Context<Cpu>&, Out<T, 3, Cpu> d_patches, Out<A, 1, Cpu> d_class_embedding,
                       Out<G, 2, Cpu> d_positional_embedding, In<T, 3, Cpu> d_tokens, bool has_class) {
    const auto [items, count, channels] = d_tokens.shape;
    const int64_t first = has_class ? 1 : 0, row = count * channels;
    if (d_patches) {
      const int64_t from = first * channels, kept = row - from;
      parallel_for(items, row_grain(row), [&, row = row](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item)
          std::copy_n(d_tokens.data + item * row + from, kept, d_patches.data + item * kept);
      });
    }
    if (d_class_embedding) sum_over_items(d_class_embedding.data, d_tokens.data, items, row, channels);
    if (d_positional_embedding) sum_over_items(d_positional_embedding.data, d_tokens.data, items, row, row);
  }

 private:
  // sum[j] = values[0][j] + values[1][j] + …, in this order; items are `row` apart.
  template <class G, class T>
  static void sum_over_items(G* sum, const T* values, int64_t items, int64_t row, int64_t count) {
    constexpr int64_t width = 512;
    parallel_for(chunk_count(count, width), 1, [&](int64_t chunk, int64_t) {
      const int64_t begin = chunk * width, n = std::min(width, count - begin);
      accumulate_t<T> partial[width] = {};
      for (int64_t item = 0; item < items; ++item) {
        const T* from = values + item * row + begin;
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) partial[j] += widen(from[j]);
      }
      for (int64_t j = 0; j < n; ++j) sum[begin + j] = narrow<G>(partial[j]);
    });
  }
};

}  // namespace tessera
