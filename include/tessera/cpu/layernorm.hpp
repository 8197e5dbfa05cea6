// Layer normalisation on Cpu: the numerical reference.
#pragma once
#include <cmath>

#include <tessera/cpu/rows.hpp>
#include <tessera/ops/layernorm.hpp>

namespace tessera {

template <>
struct Backend<op::layernorm, Cpu> {
  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>&, Out<T, 2, Cpu> y, Out<A, 1, Cpu> mean, Out<A, 1, Cpu> rstd, In<T, 2, Cpu> x,
                      In<A, 1, Cpu> weight, In<A, 1, Cpu> bias, LayernormOptions options) {
    const int64_t channels = x.shape[1];
    parallel_for(x.shape[0], row_grain(channels), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* x_row = x.data + r * channels;
        T* y_row = y.data + r * channels;
        A sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < channels; ++c) sum += widen(x_row[c]);
        const A m = sum / A(channels);
        A squares = 0;  // about the mean: E[x^2] - m^2 would cancel
#pragma omp simd reduction(+ : squares)
        for (int64_t c = 0; c < channels; ++c) {
          const A centred = widen(x_row[c]) - m;
          squares += centred * centred;
        }
        const A scale = A(1) / std::sqrt(squares / A(channels) + A(options.epsilon));
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c)
          y_row[c] = narrow<T>((widen(x_row[c]) - m) * scale * weight.data[c] + bias.data[c]);
        if (mean) mean.data[r] = m;
        if (rstd) rstd.data[r] = scale;
      }
    });
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>& ctx, Out<T, 2, Cpu> d_x, Out<A, 1, Cpu> d_weight, Out<A, 1, Cpu> d_bias,
                       In<T, 2, Cpu> d_y, In<A, 1, Cpu> mean, In<A, 1, Cpu> rstd, In<T, 2, Cpu> x,
                       In<A, 1, Cpu> weight) {
    const int64_t channels = x.shape[1];
    const auto input_gradient = [&](int64_t r) {
      const T *d_y_row = d_y.data + r * channels, *x_row = x.data + r * channels;
      T* d_x_row = d_x.data + r * channels;
      const A m = mean.data[r], scale = rstd.data[r];
      const A* gain = weight.data;
      A sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
      for (int64_t c = 0; c < channels; ++c) {
        const A d = widen(d_y_row[c]) * gain[c];
        sum += d;
        dot += d * (widen(x_row[c]) - m) * scale;
      }
      const A mean_d = sum / A(channels), mean_dot = dot / A(channels);
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const A normalised = (widen(x_row[c]) - m) * scale;
        d_x_row[c] = narrow<T>(scale * (widen(d_y_row[c]) * gain[c] - mean_d - normalised * mean_dot));
      }
    };
    if (!d_weight && !d_bias) {
      if (d_x)
        parallel_for(x.shape[0], row_grain(channels), [&](int64_t begin, int64_t end) {
          for (int64_t r = begin; r < end; ++r) input_gradient(r);
        });
      return;
    }
    // One pass for all three, while a row is in cache. d_x may overwrite d_y: a row's part of the sums comes first.
    Tensor<A, 2> sums(ctx, {2, channels});
    cpu::sum_over_rows(ctx, x.shape[0], 2 * channels, sums.data, [&](A* sum, int64_t r) {
      const T *d_y_row = d_y.data + r * channels, *x_row = x.data + r * channels;
      const A m = mean.data[r], scale = rstd.data[r];
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const A d = widen(d_y_row[c]);
        sum[c] += d * (widen(x_row[c]) - m) * scale;
        sum[channels + c] += d;
      }
      if (d_x) input_gradient(r);
    });
    if (d_weight) std::copy_n(sums.data, channels, d_weight.data);
    if (d_bias) std::copy_n(sums.data + channels, channels, d_bias.data);
  }
};

}  // namespace tessera
