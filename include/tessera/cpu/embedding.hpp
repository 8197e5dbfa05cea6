// Rows chosen by number on Cpu.
#pragma once
#include <algorithm>

#include <tessera/core/parallel.hpp>
#include <tessera/ops/embedding.hpp>

namespace tessera {
namespace cpu {

/// Throws unless all numbers are in [0, limit).
inline void expect_numbers(std::string_view op, std::string_view name, const int32_t* numbers, int64_t n, int64_t limit,
                           std::string_view of) {
  for (int64_t i = 0; i < n; ++i)
    if (numbers[i] < 0 || numbers[i] >= limit) [[unlikely]]
      fail<ValueError>(op, ": ", name, " ", numbers[i], " at position ", i, " is not in [0, ", limit, "), the ", of);
}

}  // namespace cpu

template <>
struct Backend<op::embedding, Cpu> {
  template <class T>
  static void forward(Context<Cpu>&, T* out, In<T, 2, Cpu> table, In<int32_t, 1, Cpu> ids) {
    const int64_t channels = table.shape[1];
    cpu::expect_numbers("embedding", "id", ids.data, ids.size(), table.shape[0], "rows of the table");
    parallel_for(ids.size(), row_grain(channels), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        std::copy_n(table.data + ids.data[i] * channels, channels, out + i * channels);
    });
  }

  template <class G, class T>
  static void backward(Context<Cpu>& ctx, TensorView<G, 2, Cpu> d_table, const T* d_out, In<int32_t, 1, Cpu> ids) {
    const int64_t vocabulary = d_table.shape[0], channels = d_table.shape[1], n = ids.size();
    cpu::expect_numbers("embedding", "id", ids.data, n, vocabulary, "rows of the table");
    // Positions sorted by id, those of one id in order: then every row of the table is one thread's.
    Tensor<int64_t, 1> starts = Tensor<int64_t, 1>::zeros(ctx, {vocabulary + 1});
    Tensor<int64_t, 1> positions(ctx, {n});
    for (int64_t i = 0; i < n; ++i) ++starts.data[ids.data[i] + 1];
    for (int64_t v = 0; v < vocabulary; ++v) starts.data[v + 1] += starts.data[v];
    for (int64_t i = 0; i < n; ++i) positions.data[starts.data[ids.data[i]]++] = i;
    // Each start has moved to its end, which is the next one's start.
    using A = accumulate_t<G>;
    parallel_for(vocabulary, row_grain(channels), [&](int64_t begin, int64_t end) {
      Tensor<A, 1> sum;
      if constexpr (!std::is_same_v<A, G>) sum = Tensor<A, 1>(ctx, {channels});
      for (int64_t v = begin; v < end; ++v) {
        A* row;
        if constexpr (std::is_same_v<A, G>)
          row = d_table.data + v * channels;
        else
          row = sum.data;
        std::fill_n(row, channels, A(0));
        for (int64_t k = v == 0 ? 0 : starts.data[v - 1]; k < starts.data[v]; ++k) {
          const T* from = d_out + positions.data[k] * channels;
#pragma omp simd
          for (int64_t c = 0; c < channels; ++c) row[c] += widen(from[c]);
        }
        if constexpr (!std::is_same_v<A, G>)
          for (int64_t c = 0; c < channels; ++c) d_table.data[v * channels + c] = narrow<G>(row[c]);
      }
    });
  }
};

template <>
struct Backend<op::gather_tokens, Cpu> {
  template <class T>
  static void forward(Context<Cpu>&, Out<T, 2, Cpu> y, In<T, 3, Cpu> x, In<int32_t, 1, Cpu> index) {
    cpu::expect_numbers("gather_tokens", "index", index.data, index.size(), x.shape[1], "tokens of x");
    for (int64_t b = 0; b < x.shape[0]; ++b)
      std::copy_n(x.data + b * x.strides[0] + index.data[b] * x.strides[1], x.shape[2], y.data + b * x.shape[2]);
  }
  template <class T>
  static void backward(Context<Cpu>&, Out<T, 3, Cpu> d_x, In<T, 2, Cpu> d_y, In<int32_t, 1, Cpu> index) {
    const int64_t tokens = d_x.shape[1], channels = d_x.shape[2];
    cpu::expect_numbers("gather_tokens", "index", index.data, index.size(), tokens, "tokens of d_x");
    parallel_for(d_x.shape[0], row_grain(tokens * channels), [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        T* sequence = d_x.data + b * tokens * channels;
        std::fill_n(sequence, tokens * channels, T{});
        std::copy_n(d_y.data + b * d_y.strides[0], channels, sequence + index.data[b] * channels);
      }
    });
  }
};

}  // namespace tessera
