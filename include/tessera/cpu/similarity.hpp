// L2 normalisation on Cpu.
#pragma once
#include <cmath>

#include <tessera/core/parallel.hpp>
#include <tessera/ops/similarity.hpp>

namespace tessera {

template <>
struct Backend<op::l2_normalise, Cpu> {
  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>&, Out<T, 2, Cpu> y, Out<A, 1, Cpu> norm, In<T, 2, Cpu> x,
                      L2NormaliseOptions options) {
    const int64_t channels = x.shape[1];
    parallel_for(x.shape[0], row_grain(channels), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* x_row = x.data + r * channels;
        T* y_row = y.data + r * channels;
        A squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t c = 0; c < channels; ++c) squares += A(widen(x_row[c])) * A(widen(x_row[c]));
        const A length = std::sqrt(squares), divisor = length > A(options.epsilon) ? length : A(options.epsilon);
        // A zero vector has no direction; NaN lengths must not pass for one.
        const A factor = length == A(0) && divisor == A(0) ? A(0) : A(1) / (length != length ? length : divisor);
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) y_row[c] = narrow<T>(A(widen(x_row[c])) * factor);
        if (norm) norm.data[r] = length;
      }
    });
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>&, Out<T, 2, Cpu> d_x, In<T, 2, Cpu> d_y, In<A, 1, Cpu> norm, In<T, 2, Cpu> y,
                       L2NormaliseOptions options) {
    const int64_t channels = y.shape[1];
    parallel_for(y.shape[0], row_grain(channels), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T *d_y_row = d_y.data + r * channels, *y_row = y.data + r * channels;
        T* d_x_row = d_x.data + r * channels;
        const A length = norm.data[r], epsilon = A(options.epsilon);
        const bool bounded = length <= epsilon;  // then y is x / epsilon, or 0 without epsilon
        const A factor = !bounded ? A(1) / length : epsilon > A(0) ? A(1) / epsilon : A(0);
        A dot = 0;
        if (!bounded) {
#pragma omp simd reduction(+ : dot)
          for (int64_t c = 0; c < channels; ++c) dot += A(widen(d_y_row[c])) * A(widen(y_row[c]));
        }
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c)
          d_x_row[c] = narrow<T>((A(widen(d_y_row[c])) - A(widen(y_row[c])) * dot) * factor);
      }
    });
  }
};

}  // namespace tessera
