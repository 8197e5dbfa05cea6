// Convolution on Cpu: matrix products over tiles of the output's places. For a tile of n places, what the kernel's taps
// read is gathered into a matrix `columns` [taps, n], taps = (channel, row, column of the kernel); then
//
//   y = weight columns,   d_weight = d_y columnsᵀ,   d_columns = weightᵀ d_y, scattered back onto d_x.
//
// A kernel of one tap at stride 1 reads the map as it is: nothing is gathered. Tiles and the order of all sums come
// from the shapes alone.
#pragma once
#include <algorithm>

#include <tessera/cpu/matmul.hpp>
#include <tessera/ops/conv2d.hpp>

namespace tessera {
namespace cpu {

/// The sizes of a convolution, its channels counted by group.
struct ConvolutionSizes {
  int64_t items, groups, inputs, outputs;  // inputs and outputs: channels of a group
  int64_t height, width, out_height, out_width, kernel_height, kernel_width;
  Conv2dOptions options;

  ConvolutionSizes(const Shape<4>& x, const Shape<4>& weight, const Shape<4>& y, const Conv2dOptions& with)
      : items(x[0]),
        groups(with.groups),
        inputs(x[1] / with.groups),
        outputs(y[1] / with.groups),
        height(x[2]),
        width(x[3]),
        out_height(y[2]),
        out_width(y[3]),
        kernel_height(weight[2]),
        kernel_width(weight[3]),
        options(with) {}
  int64_t positions() const { return height * width; }
  int64_t places() const { return out_height * out_width; }
  int64_t kernel() const { return kernel_height * kernel_width; }
  int64_t taps() const { return inputs * kernel(); }
  /// Whether columns would be the map itself.
  bool pointwise() const { return kernel() == 1 && options.stride == PerAxis(1) && options.padding == PerAxis(0); }
  /// Places of a tile: few enough for `columns` to stay in cache, enough for a product to be worth its call.
  int64_t tile() const { return std::min(places(), std::clamp<int64_t>((1 << 19) / taps(), 64, 4096) / 16 * 16); }
};

/// What one tap reads at the output's places [begin, end), a row of places at a time: visit(at, outside, inside, from):
/// places begin + at, … lie `outside` the map, the `inside` places after them read cells from, from + stride, …, and
/// the rest of the row, up to the next call, lies outside again.
template <class Visit>
void for_each_run(const ConvolutionSizes& s, int64_t ky, int64_t kx, int64_t begin, int64_t end, Visit&& visit) {
  const int64_t step = s.options.stride.columns;
  const int64_t left = kx * s.options.dilation.columns - s.options.padding.columns;  // the cell under place 0
  // Places of a row that read a cell: 0 <= place step + left < width.
  const int64_t first = left >= 0 ? 0 : (-left + step - 1) / step;
  const int64_t last = left >= s.width ? 0 : (s.width - 1 - left) / step + 1;
  for (int64_t at = begin; at < end;) {
    const int64_t row = at / s.out_width, column = at - row * s.out_width;
    const int64_t count = std::min(end - at, s.out_width - column);
    const int64_t y = row * s.options.stride.rows + ky * s.options.dilation.rows - s.options.padding.rows;
    const int64_t lower = std::clamp<int64_t>(first - column, 0, count);
    const int64_t upper = y < 0 || y >= s.height ? lower : std::clamp<int64_t>(last - column, lower, count);
    visit(at - begin, count, lower, upper - lower, y * s.width + (column + lower) * step + left);
    at += count;
  }
}

/// columns [channels * kernel, n] of a tile, from planes of x. `row` is the distance of two rows of columns.
template <class T>
void gather_taps(T* columns, int64_t row, const T* x, const ConvolutionSizes& s, int64_t channels, int64_t begin,
                 int64_t end) {
  const int64_t step = s.options.stride.columns;
  for (int64_t tap = 0; tap < channels * s.kernel(); ++tap) {
    const T* plane = x + tap / s.kernel() * s.positions();
    T* to = columns + tap * row;
    for_each_run(s, tap / s.kernel_width % s.kernel_height, tap % s.kernel_width, begin, end,
                 [&](int64_t at, int64_t count, int64_t outside, int64_t inside, int64_t from) {
                   std::fill_n(to + at, outside, T{});
                   T* cells = to + at + outside;
                   if (step == 1)
                     std::copy_n(plane + (inside ? from : 0), inside, cells);
                   else
                     for (int64_t i = 0; i < inside; ++i) cells[i] = plane[from + i * step];
                   std::fill_n(cells + inside, count - outside - inside, T{});
                 });
  }
}

/// The converse: adds columns to the cells that they were read from.
template <class A>
void scatter_taps(A* d_x, const A* columns, int64_t row, const ConvolutionSizes& s, int64_t begin, int64_t end) {
  const int64_t step = s.options.stride.columns;
  parallel_for(s.inputs, 1, [&](int64_t first, int64_t last) {
    for (int64_t tap = first * s.kernel(); tap < last * s.kernel(); ++tap) {
      A* plane = d_x + tap / s.kernel() * s.positions();
      const A* from_row = columns + tap * row;
      for_each_run(s, tap / s.kernel_width % s.kernel_height, tap % s.kernel_width, begin, end,
                   [&](int64_t at, int64_t, int64_t outside, int64_t inside, int64_t to) {
                     const A* values = from_row + at + outside;
                     A* cells = plane + (inside ? to : 0);
#pragma omp simd
                     for (int64_t i = 0; i < inside; ++i) cells[i * step] += values[i];
                   });
    }
  });
}

}  // namespace cpu

template <>
struct Backend<op::conv2d, Cpu> {
  using Sizes = cpu::ConvolutionSizes;

  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>& ctx, Out<T, 4, Cpu> y, In<T, 4, Cpu> x, In<T, 4, Cpu> weight, In<A, 1, Cpu> bias,
                      const Conv2dOptions& options) {
    const Sizes s(x.shape, weight.shape, y.shape, options);
    const int64_t tile = s.tile(), tiles = chunk_count(s.places(), tile);
    parallel_for(s.items * s.groups * tiles, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t block = task / tiles, group = block % s.groups;  // block: a group of an item
        const int64_t first = task % tiles * tile, count = std::min(tile, s.places() - first);
        Tensor<T, 2> gathered;
        const auto columns =
            columns_of(ctx, gathered, x.data + block * s.inputs * s.positions(), s, s.inputs, first, count, false);
        // The bias goes first and the products are added to it, in A: bfloat16 is rounded once.
        T* y_tile = y.data + block * s.outputs * s.places() + first;
        Tensor<A, 2> wide;
        A* sums;
        int64_t row;
        if constexpr (std::is_same_v<T, A>) {
          sums = y_tile;
          row = s.places();
        } else {
          wide = Tensor<A, 2>(ctx, {s.outputs, count});
          sums = wide.data;
          row = count;
        }
        if (bias)
          for (int64_t o = 0; o < s.outputs; ++o) std::fill_n(sums + o * row, count, bias.data[group * s.outputs + o]);
        product<T, A>(ctx, s.outputs, count, s.taps(), {weight.data + group * s.outputs * s.taps(), s.taps(), 0, false},
                      columns, sums, row, bool(bias));
        if constexpr (!std::is_same_v<T, A>) narrow_rows(y_tile, s.places(), sums, s.outputs, count);
      }
    });
  }

  template <class T, class A = accumulate_t<T>>
  static void input_gradient(Context<Cpu>& ctx, Out<T, 4, Cpu> d_x, In<T, 4, Cpu> d_y, In<T, 4, Cpu> weight,
                             const Conv2dOptions& options) {
    const Sizes s(d_x.shape, weight.shape, d_y.shape, options);
    const int64_t tile = s.tile();
    // Tiles of one block add to the same cells, in their order; within it products and scattering share threads.
    parallel_for(s.items * s.groups, 1, [&](int64_t begin, int64_t end) {
      Tensor<A, 2> columns(ctx, {s.pointwise() ? 0 : s.taps(), tile}), wide;
      if constexpr (!std::is_same_v<T, A>) wide = Tensor<A, 2>(ctx, {s.inputs, s.positions()});
      for (int64_t block = begin; block < end; ++block) {
        const int64_t group = block % s.groups;
        T* to = d_x.data + block * s.inputs * s.positions();
        A* sums;
        if constexpr (std::is_same_v<T, A>)
          sums = to;
        else
          sums = wide.data;
        if (!s.pointwise()) std::fill_n(sums, s.inputs * s.positions(), A(0));
        for (int64_t first = 0; first < s.places(); first += tile) {
          const int64_t count = std::min(tile, s.places() - first);
          product<T, A>(ctx, s.taps(), count, s.outputs,
                        {weight.data + group * s.outputs * s.taps(), s.taps(), 0, true},
                        {d_y.data + block * s.outputs * s.places() + first, s.places(), 0, false},
                        s.pointwise() ? sums + first : columns.data, s.pointwise() ? s.places() : tile, false);
          if (!s.pointwise()) cpu::scatter_taps(sums, columns.data, tile, s, first, first + count);
        }
        if constexpr (!std::is_same_v<T, A>) narrow_rows(to, s.positions(), sums, s.inputs, s.positions());
      }
    });
  }

  template <class T, class G, class A = accumulate_t<T>>
  static void weight_gradient(Context<Cpu>& ctx, Out<G, 4, Cpu> d_weight, In<T, 4, Cpu> d_y, In<T, 4, Cpu> x,
                              const Conv2dOptions& options) {
    const Sizes s(x.shape, d_weight.shape, d_y.shape, options);
    if (s.items == 0) return void(std::fill_n(d_weight.data, d_weight.size(), G{}));
    const int64_t tile = s.tile();
    // A task has some input channels of a group, and adds up their part of d_weight over all items and tiles.
    const int64_t channels = std::min(s.inputs, std::max<int64_t>(1, 256 / s.kernel()));
    const int64_t parts = chunk_count(s.inputs, channels);
    parallel_for(s.groups * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t group = task / parts, channel = task % parts * channels;
        const int64_t of_task = std::min(channels, s.inputs - channel), taps = of_task * s.kernel();
        G* to = d_weight.data + group * s.outputs * s.taps() + channel * s.kernel();
        Tensor<A, 2> wide;
        A* sums;
        int64_t row;
        if constexpr (std::is_same_v<G, A>) {
          sums = to;
          row = s.taps();
        } else {
          wide = Tensor<A, 2>(ctx, {s.outputs, taps});
          sums = wide.data;
          row = taps;
        }
        Tensor<T, 2> gathered;
        for (int64_t item = 0; item < s.items; ++item) {
          const int64_t block = item * s.groups + group;
          const T* planes = x.data + (block * s.inputs + channel) * s.positions();
          for (int64_t first = 0; first < s.places(); first += tile) {
            const int64_t count = std::min(tile, s.places() - first);
            const auto columns = columns_of(ctx, gathered, planes, s, of_task, first, count, true);
            product<T, A>(ctx, s.outputs, taps, count,
                          {d_y.data + block * s.outputs * s.places() + first, s.places(), 0, false}, columns, sums, row,
                          item > 0 || first > 0);
          }
        }
        if constexpr (!std::is_same_v<G, A>) narrow_rows(to, s.taps(), sums, s.outputs, taps);
      }
    });
  }

  template <class T, class A = accumulate_t<T>>
  static void bias_gradient(Context<Cpu>&, Out<A, 1, Cpu> d_bias, In<T, 4, Cpu> d_y) {
    const int64_t items = d_y.shape[0], channels = d_y.shape[1], places = d_y.shape[2] * d_y.shape[3];
    parallel_for(channels, row_grain(items * places), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) {
        A total = 0;
        for (int64_t b = 0; b < items; ++b) {
          const T* plane = d_y.data + (b * channels + o) * places;
          A sum = 0;
#pragma omp simd reduction(+ : sum)
          for (int64_t i = 0; i < places; ++i) sum += widen(plane[i]);
          total += sum;
        }
        d_bias.data[o] = total;
      }
    });
  }

 private:
  using Operand = cpu::MatrixProduct::Operand;

  /// The columns of a tile as a factor of a product: gathered, or the planes themselves.
  template <class T>
  static Operand columns_of(Context<Cpu>& ctx, Tensor<T, 2>& gathered, const T* planes, const Sizes& s,
                            int64_t channels, int64_t first, int64_t count, bool transposed) {
    if (s.pointwise()) return {planes + first, s.positions(), 0, transposed};
    if (!gathered) gathered = Tensor<T, 2>(ctx, {channels * s.kernel(), s.tile()});
    cpu::gather_taps(gathered.data, s.tile(), planes, s, channels, first, first + count);
    return {gathered.data, s.tile(), 0, transposed};
  }
  /// c [m, n] = a b, or += with `add`.
  template <class T, class A>
  static void product(Context<Cpu>& ctx, int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b, A* c,
                      int64_t c_row, bool add) {
    cpu::MatrixProduct p{};
    p.in = dtype_of<T>;
    p.out = dtype_of<A>;
    p.count = 1;
    p.m = m;
    p.n = n;
    p.k = k;
    p.a = a;
    p.b = b;
    p.c = c;
    p.c_row = c_row;
    p.add = add;
    cpu::matrix_product(*ctx.pool, p);
  }
  template <class T, class A>
  static void narrow_rows(T* to, int64_t to_row, const A* from, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) to[r * to_row + i] = narrow<T>(from[r * columns + i]);
    }
  }
};

}  // namespace tessera
