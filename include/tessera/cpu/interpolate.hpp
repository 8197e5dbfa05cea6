// Resampling on Cpu, one axis after the other: forward across columns, then across rows; backward the other way round.
// Maps are [outer, H, W, inner]: inner is 1 for [B, C, H, W] and C for channels last.
#pragma once
#include <algorithm>
#include <vector>

#include <tessera/core/parallel.hpp>
#include <tessera/ops/interpolate.hpp>

namespace tessera {
namespace cpu {

/// The taps of every output cell of one axis, tap by tap: index[k][o], weight[k][o].
template <class A>
struct AxisTaps {
  int64_t input, output;
  int count = 0;
  bool identity = true;  // every output is its own input
  std::vector<int32_t> index[4];
  std::vector<A> weight[4];

  AxisTaps(int64_t input_extent, int64_t output_extent, Interpolation mode, const AxisSampling& axis,
           bool align_corners)
      : input(input_extent), output(output_extent) {
    const A step = sampling_step<A>(input, output, axis, align_corners);
    for (int64_t o = 0; o < output; ++o) {
      const Taps<A> taps = sampling_taps<A>(o, input, output, step, mode, axis, align_corners);
      A here = 0, elsewhere = 0;
      count = taps.count;
      for (int k = 0; k < count; ++k) {
        index[k].push_back(taps.index[k]);
        weight[k].push_back(taps.weight[k]);
        (taps.index[k] == o ? here : elsewhere) += std::abs(taps.weight[k]);
      }
      identity &= here == 1 && elsewhere == 0;
    }
    identity &= input == output;
  }
};

/// The same read from the inputs' side: outputs of input cell i are begin[i] to begin[i + 1], in ascending order.
template <class A>
struct AxisSources {
  std::vector<int64_t> begin;
  std::vector<int32_t> output;
  std::vector<A> weight;

  explicit AxisSources(const AxisTaps<A>& taps) : begin(size_t(taps.input + 1)) {
    for (int k = 0; k < taps.count; ++k)
      for (int32_t i : taps.index[k]) ++begin[size_t(i) + 1];
    for (size_t i = 1; i < begin.size(); ++i) begin[i] += begin[i - 1];
    output.resize(size_t(begin.back()));
    weight.resize(size_t(begin.back()));
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (int64_t o = 0; o < taps.output; ++o)
      for (int k = 0; k < taps.count; ++k) {
        const int64_t at = next[size_t(taps.index[k][size_t(o)])]++;
        output[size_t(at)] = int32_t(o);
        weight[size_t(at)] = taps.weight[k][size_t(o)];
      }
  }
};

/// a + fraction (b - a): one product and one sum, so that it rounds alike wherever it is compiled in one program, with
/// or without fused arithmetic. upsample_argmax depends on that to agree with interpolate bit for bit.
template <class A>
inline A blend(A a, A b, A fraction) {
  return a + fraction * (b - a);
}

}  // namespace cpu

template <>
struct Backend<op::interpolate, Cpu> {
  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>& ctx, Out<T, 4, Cpu> y, In<T, 4, Cpu> x, const InterpolateOptions& options) {
    const int64_t outer = y.shape[0], height = y.shape[1], width = y.shape[2], inner = y.shape[3];
    const int64_t x_height = x.shape[1], x_width = x.shape[2], line = width * inner;
    const cpu::AxisTaps<A> rows(x_height, height, options.mode, options.rows, options.align_corners);
    const cpu::AxisTaps<A> columns(x_width, width, options.mode, options.columns, options.align_corners);
    if (rows.identity && columns.identity) {
      parallel_for(y.size(), 1 << 16,
                   [&](int64_t begin, int64_t end) { std::copy(x.data + begin, x.data + end, y.data + begin); });
      return;
    }
    parallel_for(outer * height, std::max<int64_t>(8, row_grain(line)), [&](int64_t begin, int64_t end) {
      // Input rows, resampled across columns, each in slot (row mod taps): the taps of a row are neighbours.
      const int slots = rows.count;
      Tensor<A, 2> resampled(ctx, {slots, line});
      Tensor<A, 1> widened(ctx, {x_width * inner});
      int64_t held[4] = {-1, -1, -1, -1};
      for (int64_t r = begin; r < end; ++r) {
        const int64_t plane = r / height;
        const size_t o = size_t(r % height);
        const A* tap_row[4];
        for (int k = 0; k < slots; ++k) {
          const int64_t row = plane * x_height + rows.index[k][o], slot = rows.index[k][o] % slots;
          A* to = resampled.data + slot * line;
          if (held[slot] != row) {
            across_columns(to, widened.data, x.data + row * x_width * inner, columns, inner);
            held[slot] = row;
          }
          tap_row[k] = to;
        }
        across_rows(y.data + r * line, tap_row, rows, o, line);
      }
    });
  }

  template <class T, class G, class A = accumulate_t<T>>
  static void backward(Context<Cpu>& ctx, Out<G, 4, Cpu> d_x, In<T, 4, Cpu> d_y, const InterpolateOptions& options) {
    const int64_t outer = d_y.shape[0], height = d_y.shape[1], width = d_y.shape[2], inner = d_y.shape[3];
    const int64_t x_height = d_x.shape[1], x_width = d_x.shape[2], line = width * inner;
    const cpu::AxisTaps<A> row_taps(x_height, height, options.mode, options.rows, options.align_corners);
    const cpu::AxisTaps<A> column_taps(x_width, width, options.mode, options.columns, options.align_corners);
    if (row_taps.identity && column_taps.identity) {
      parallel_for(d_x.size(), 1 << 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) d_x.data[i] = narrow<G>(widen(d_y.data[i]));
      });
      return;
    }
    const cpu::AxisSources<A> rows(row_taps), columns(column_taps);
    const int64_t rows_each = 1 + row_taps.count * height / x_height;
    parallel_for(outer * x_height, row_grain(line * rows_each), [&](int64_t begin, int64_t end) {
      Tensor<A, 1> gathered(ctx, {line}), sum(ctx, {inner});
      for (int64_t r = begin; r < end; ++r) {
        const T* d_y_plane = d_y.data + r / x_height * height * line;
        const size_t i = size_t(r % x_height);
        std::fill_n(gathered.data, line, A(0));
        for (int64_t s = rows.begin[i]; s < rows.begin[i + 1]; ++s) {
          const T* from = d_y_plane + rows.output[size_t(s)] * line;
          const A w = rows.weight[size_t(s)];
#pragma omp simd
          for (int64_t j = 0; j < line; ++j) gathered.data[j] += w * widen(from[j]);
        }
        gather_columns(d_x.data + r * x_width * inner, sum.data, gathered.data, columns, x_width, inner);
      }
    });
  }

  /// The first `count` rows of `to` from those of `from`.
  template <class T, class To>
  static void copy_rows(Context<Cpu>&, const TensorView<To, 2, Cpu>& to, In<T, 2, Cpu> from, int64_t count) {
    for (int64_t i = 0; i < count * to.shape[1]; ++i) to.data[i] = narrow<To>(widen(from.data[i]));
  }

 private:
  /// One input row, resampled across its columns.
  template <class T, class A>
  static void across_columns(A* to, A* widened, const T* from, const cpu::AxisTaps<A>& columns, int64_t inner) {
    for (int64_t j = 0; j < columns.input * inner; ++j) widened[j] = widen(from[j]);
    const int64_t width = columns.output;
    const int32_t *i0 = columns.index[0].data(), *i1 = columns.index[1].data();
    const int32_t *i2 = columns.index[2].data(), *i3 = columns.index[3].data();
    const A *w0 = columns.weight[0].data(), *w1 = columns.weight[1].data();
    const A *w2 = columns.weight[2].data(), *w3 = columns.weight[3].data();
    if (inner == 1) {
      if (columns.count == 1) {
#pragma omp simd
        for (int64_t o = 0; o < width; ++o) to[o] = widened[i0[o]];
      } else if (columns.count == 2) {
#pragma omp simd
        for (int64_t o = 0; o < width; ++o) to[o] = cpu::blend(widened[i0[o]], widened[i1[o]], w1[o]);
      } else {
#pragma omp simd
        for (int64_t o = 0; o < width; ++o)
          to[o] = w0[o] * widened[i0[o]] + w1[o] * widened[i1[o]] + w2[o] * widened[i2[o]] + w3[o] * widened[i3[o]];
      }
      return;
    }
    for (int64_t o = 0; o < width; ++o) {
      A* cell = to + o * inner;
      const A* c0 = widened + i0[o] * inner;
      if (columns.count == 1) {
        std::copy_n(c0, inner, cell);
        continue;
      }
      const A* c1 = widened + i1[o] * inner;
      if (columns.count == 2) {
#pragma omp simd
        for (int64_t c = 0; c < inner; ++c) cell[c] = cpu::blend(c0[c], c1[c], w1[o]);
        continue;
      }
      const A *c2 = widened + i2[o] * inner, *c3 = widened + i3[o] * inner;
#pragma omp simd
      for (int64_t c = 0; c < inner; ++c) cell[c] = w0[o] * c0[c] + w1[o] * c1[c] + w2[o] * c2[c] + w3[o] * c3[c];
    }
  }

  /// One output row from the resampled rows of its taps.
  template <class T, class A>
  static void across_rows(T* to, const A* const* row, const cpu::AxisTaps<A>& rows, size_t o, int64_t line) {
    const A *r0 = row[0], *r1 = row[1], *r2 = row[2], *r3 = row[3];
    if (rows.count == 1) {
#pragma omp simd
      for (int64_t j = 0; j < line; ++j) to[j] = narrow<T>(r0[j]);
    } else if (rows.count == 2) {
      const A fraction = rows.weight[1][o];
#pragma omp simd
      for (int64_t j = 0; j < line; ++j) to[j] = narrow<T>(cpu::blend(r0[j], r1[j], fraction));
    } else {
      const A w0 = rows.weight[0][o], w1 = rows.weight[1][o], w2 = rows.weight[2][o], w3 = rows.weight[3][o];
#pragma omp simd
      for (int64_t j = 0; j < line; ++j) to[j] = narrow<T>(w0 * r0[j] + w1 * r1[j] + w2 * r2[j] + w3 * r3[j]);
    }
  }

  /// One row of d_x from the row of gradients that was gathered for it.
  template <class G, class A>
  static void gather_columns(G* to, A* sum, const A* gathered, const cpu::AxisSources<A>& columns, int64_t width,
                             int64_t inner) {
    for (int64_t i = 0; i < width; ++i) {
      const int64_t begin = columns.begin[size_t(i)], end = columns.begin[size_t(i) + 1];
      if (inner == 1) {
        A total = 0;
        for (int64_t s = begin; s < end; ++s) total += columns.weight[size_t(s)] * gathered[columns.output[size_t(s)]];
        to[i] = narrow<G>(total);
        continue;
      }
      std::fill_n(sum, inner, A(0));
      for (int64_t s = begin; s < end; ++s) {
        const A w = columns.weight[size_t(s)];
        const A* from = gathered + columns.output[size_t(s)] * inner;
#pragma omp simd
        for (int64_t c = 0; c < inner; ++c) sum[c] += w * from[c];
      }
      for (int64_t c = 0; c < inner; ++c) to[i * inner + c] = narrow<G>(sum[c]);
    }
  }
};

}  // namespace tessera
