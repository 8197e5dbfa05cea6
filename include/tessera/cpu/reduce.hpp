// Sums, means and maxima on Cpu.
#pragma once
#include <algorithm>

#include <tessera/cpu/strided.hpp>
#include <tessera/ops/reduce.hpp>

namespace tessera {

template <>
struct Backend<op::reduce, Cpu> {
  template <class C, class T>
  static void forward(Context<Cpu>& ctx, C* y, const T* x, detail::AxisSplit split, Reduction kind) {
    using A = accumulate_t<T>;
    const A factor = kind == Reduction::mean ? A(1) / A(split.n) : A(1);
    cpu::sum_over_axis(ctx, y, x, split.outer, split.n, split.inner, factor);
  }
  template <class T, class TY>
  static void backward(Context<Cpu>&, T* d_x, const TY* d_y, detail::AxisSplit split, Reduction kind) {
    using A = accumulate_t<T>;
    const A factor = kind == Reduction::mean ? A(1) / A(std::max<int64_t>(1, split.n)) : A(1);
    const int64_t inner = split.inner, n = split.n;
    if (inner == 1) {
      parallel_for(split.outer * n, 16384, [&](int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end;) {  // stretches of one sum
          const int64_t o = at / n, stop = std::min(end, (o + 1) * n);
          std::fill(d_x + at, d_x + stop, narrow<T>(factor * A(widen(d_y[o]))));
          at = stop;
        }
      });
      return;
    }
    parallel_for(split.outer * n, row_grain(inner), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const TY* from = d_y + row / n * inner;
        T* to = d_x + row * inner;
#pragma omp simd
        for (int64_t i = 0; i < inner; ++i) to[i] = narrow<T>(factor * A(widen(from[i])));
      }
    });
  }
};

template <>
struct Backend<op::max, Cpu> {
  template <class T>
  static void forward(Context<Cpu>&, T* y, int32_t* index, const T* x, detail::AxisSplit split) {
    using A = accumulate_t<T>;
    constexpr int64_t columns = 256;  // of a block: walked together, along memory
    const int64_t inner = split.inner, blocks = chunk_count(inner, columns);
    parallel_for(split.outer * blocks, row_grain(split.n * std::min(inner, columns)), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t outer = task / blocks, first = task % blocks * columns, width = std::min(columns, inner - first);
        const T* from = x + outer * split.n * inner + first;
        A largest[columns];
        int32_t best[columns];
        for (int64_t i = 0; i < width; ++i) {
          largest[i] = widen(from[i]);
          best[i] = 0;
        }
        for (int64_t j = 1; j < split.n; ++j) {
          const T* row = from + j * inner;
#pragma omp simd
          for (int64_t i = 0; i < width; ++i) {
            const A value = widen(row[i]), before = largest[i];
            const bool take = (value > before) | ((value != value) & (before == before));
            largest[i] = take ? value : before;
            best[i] = take ? int32_t(j) : best[i];
          }
        }
        for (int64_t i = 0; i < width; ++i) {
          const int64_t at = outer * inner + first + i;
          y[at] = from[best[i] * inner + i];
          if (index) index[at] = best[i];
        }
      }
    });
  }
  template <class T>
  static void backward(Context<Cpu>&, T* d_x, const T* d_y, const int32_t* index, detail::AxisSplit split) {
    const int64_t inner = split.inner, n = split.n;
    parallel_for(split.outer, row_grain(n * inner), [&](int64_t begin, int64_t end) {
      std::fill(d_x + begin * n * inner, d_x + end * n * inner, T{});
      for (int64_t at = begin * inner; at < end * inner; ++at)
        d_x[(at / inner * n + index[at]) * inner + at % inner] = d_y[at];
    });
  }
};

}  // namespace tessera
