// Group normalisation on Cpu: the numerical reference. A plane is one channel of one item, a group is some planes that
// lie one behind the other.
#pragma once
#include <cmath>

#include <tessera/core/parallel.hpp>
#include <tessera/ops/groupnorm.hpp>

namespace tessera {

template <>
struct Backend<op::groupnorm, Cpu> {
  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>&, Out<T, 3, Cpu> y, Out<A, 2, Cpu> mean, Out<A, 2, Cpu> rstd, In<T, 3, Cpu> x,
                      In<A, 1, Cpu> weight, In<A, 1, Cpu> bias, GroupnormOptions options) {
    const auto [items, channels, positions] = x.shape;
    const int64_t groups = options.groups, of_group = channels / groups, length = of_group * positions;
    parallel_for(items * groups, row_grain(length), [&, positions = positions](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        const T* group = x.data + g * length;
        const double sum = sum_of_pieces(length, [&](int64_t first, int64_t last) {
          A piece = 0;
#pragma omp simd reduction(+ : piece)
          for (int64_t i = first; i < last; ++i) piece += widen(group[i]);
          return piece;
        });
        const A m = A(sum / double(length));
        const double squares = sum_of_pieces(length, [&](int64_t first, int64_t last) {
          A piece = 0;  // about the mean: E[x^2] - m^2 would cancel
#pragma omp simd reduction(+ : piece)
          for (int64_t i = first; i < last; ++i) piece += (widen(group[i]) - m) * (widen(group[i]) - m);
          return piece;
        });
        const A scale = A(1) / std::sqrt(A(squares / double(length)) + A(options.epsilon));
        for (int64_t c = 0; c < of_group; ++c) {
          const int64_t channel = g % groups * of_group + c;
          const A gain = weight.data[channel], shift = bias.data[channel];
          const T* from = group + c * positions;
          T* to = y.data + g * length + c * positions;
#pragma omp simd
          for (int64_t i = 0; i < positions; ++i) to[i] = narrow<T>((widen(from[i]) - m) * scale * gain + shift);
        }
        if (mean) mean.data[g] = m;
        if (rstd) rstd.data[g] = scale;
      }
    });
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>& ctx, Out<T, 3, Cpu> d_x, Out<A, 1, Cpu> d_weight, Out<A, 1, Cpu> d_bias,
                       In<T, 3, Cpu> d_y, In<A, 2, Cpu> mean, In<A, 2, Cpu> rstd, In<T, 3, Cpu> x,
                       In<A, 1, Cpu> weight) {
    const auto [items, channels, positions] = x.shape;
    const int64_t groups = mean.shape[1], of_group = channels / groups, length = of_group * positions;
    // A plane's sums of d_y and of d_y times the normalised x: all gradients are made of them. They are taken before
    // d_x, which may be d_y itself, is written.
    Tensor<A, 2> sums(ctx, {items, channels}), dots(ctx, {items, channels});
    parallel_for(items * groups, row_grain(length), [&, positions = positions](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        const A m = mean.data[g], scale = rstd.data[g];
        double sum_h = 0, dot_h = 0;  // of h = d_y * weight over the group
        for (int64_t plane = g * of_group; plane < (g + 1) * of_group; ++plane) {
          const T *d_y_plane = d_y.data + plane * positions, *x_plane = x.data + plane * positions;
          double sum = 0, dot = 0;
          for_each_piece(positions, [&](int64_t first, int64_t last) {
            A piece = 0, piece_dot = 0;
#pragma omp simd reduction(+ : piece, piece_dot)
            for (int64_t i = first; i < last; ++i) {
              piece += widen(d_y_plane[i]);
              piece_dot += widen(d_y_plane[i]) * (widen(x_plane[i]) - m);
            }
            sum += piece;
            dot += piece_dot;
          });
          sums.data[plane] = A(sum);
          dots.data[plane] = A(dot * scale);
          const A gain = weight.data[plane % sums.shape[1]];
          sum_h += gain * sum;
          dot_h += gain * dot * scale;
        }
        if (!d_x) continue;
        const A mean_h = A(sum_h / double(length)), mean_dot = A(dot_h / double(length));
        for (int64_t plane = g * of_group; plane < (g + 1) * of_group; ++plane) {
          const T *d_y_plane = d_y.data + plane * positions, *x_plane = x.data + plane * positions;
          T* d_x_plane = d_x.data + plane * positions;
          const A gain = weight.data[plane % sums.shape[1]];
#pragma omp simd
          for (int64_t i = 0; i < positions; ++i) {
            const A normalised = (widen(x_plane[i]) - m) * scale;
            d_x_plane[i] = narrow<T>(scale * (widen(d_y_plane[i]) * gain - mean_h - normalised * mean_dot));
          }
        }
      }
    });
    if (d_weight) sum_items<A>(d_weight, dots);
    if (d_bias) sum_items<A>(d_bias, sums);
  }

 private:
  template <class Visit>
  static void for_each_piece(int64_t n, Visit&& visit) {
    constexpr int64_t piece = 1024;
    for (int64_t first = 0; first < n; first += piece) visit(first, std::min(n, first + piece));
  }
  /// The sum of sum(first, last) over pieces of [0, n), in double: a group may have millions of elements.
  template <class Sum>
  static double sum_of_pieces(int64_t n, Sum&& sum) {
    double total = 0;
    for_each_piece(n, [&](int64_t first, int64_t last) { total += sum(first, last); });
    return total;
  }
  /// out [C] = the sum of values [B, C] over items, in their order.
  template <class A>
  static void sum_items(Out<A, 1, Cpu> out, In<A, 2, Cpu> values) {
    const auto [items, channels] = values.shape;
    std::fill_n(out.data, channels, A(0));
    for (int64_t b = 0; b < items; ++b)
      for (int64_t c = 0; c < channels; ++c) out.data[c] += values.data[b * values.shape[1] + c];
  }
};

}  // namespace tessera
