// The masked mean squared error on Cpu.
#pragma once
#include <algorithm>

#include <tessera/core/parallel.hpp>
#include <tessera/ops/masked_mse.hpp>

namespace tessera {

template <>
struct Backend<op::masked_mse, Cpu> {
  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>&, Out<A, 0, Cpu> loss, Out<A, 0, Cpu> count, In<T, 2, Cpu> prediction,
                      In<T, 2, Cpu> target, In<uint8_t, 1, Cpu> mask) {
    const auto [rows, channels] = prediction.shape;
    const double squares =
        parallel_sum<double>(rows, row_grain(channels), [&, channels = channels](int64_t begin, int64_t end) {
          double sum = 0;
          for (int64_t r = begin; r < end; ++r) {
            if (mask.data[r] == 0) continue;
            const T *p = prediction.data + r * channels, *t = target.data + r * channels;
            A of_row = 0;
#pragma omp simd reduction(+ : of_row)
            for (int64_t c = 0; c < channels; ++c) {
              const A difference = A(widen(p[c])) - A(widen(t[c]));
              of_row += difference * difference;
            }
            sum += double(of_row);
          }
          return sum;
        });
    const int64_t counted = rows - std::count(mask.data, mask.data + rows, uint8_t(0));
    if (count) *count.data = A(counted);
    *loss.data = counted > 0 ? A(squares / (double(counted) * double(channels))) : A(0);
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>&, Out<T, 2, Cpu> d_prediction, Out<T, 2, Cpu> d_target, In<A, 0, Cpu> d_loss,
                       In<A, 0, Cpu> count, In<T, 2, Cpu> prediction, In<T, 2, Cpu> target, In<uint8_t, 1, Cpu> mask) {
    const auto [rows, channels] = prediction.shape;
    const A counted = *count.data;
    const A factor = counted > 0 ? A(2) * *d_loss.data / (counted * A(channels)) : A(0);
    parallel_for(rows, row_grain(channels), [&, channels = channels](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t at = r * channels;
        const T *p = prediction.data + at, *t = target.data + at;
        const bool counts = mask.data[r] != 0;
        if (d_prediction) write_row(d_prediction.data + at, p, t, channels, factor, counts);
        if (d_target) write_row(d_target.data + at, p, t, channels, -factor, counts);
      }
    });
  }

 private:
  template <class T, class A>
  static void write_row(T* d, const T* p, const T* t, int64_t channels, A factor, bool counts) {
    if (!counts) {
      std::fill_n(d, channels, narrow<T>(A(0)));
      return;
    }
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) d[c] = narrow<T>(factor * (A(widen(p[c])) - A(widen(t[c]))));
  }
};

}  // namespace tessera
