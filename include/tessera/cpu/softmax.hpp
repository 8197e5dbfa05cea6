// Softmax and log-softmax on Cpu: the numerical reference.
#pragma once
#include <cmath>
#include <limits>

#include <tessera/core/parallel.hpp>
#include <tessera/ops/softmax.hpp>

namespace tessera {
namespace cpu {

/// The largest of n values, NaN passed over; -infinity where there is none. Lanes, because compilers make no vector
/// code of a plain maximum (NaN forbids them to reorder it).
template <class T, class A = accumulate_t<T>>
A row_maximum(const T* x, int64_t n) {
  constexpr int64_t lanes = 16;
  A lane[lanes];
  std::fill(lane, lane + lanes, -std::numeric_limits<A>::infinity());
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
#pragma omp simd
    for (int64_t l = 0; l < lanes; ++l) {
      const A value = widen(x[i + l]);
      lane[l] = value > lane[l] ? value : lane[l];
    }
  }
  A largest = -std::numeric_limits<A>::infinity();
  for (; i < n; ++i) largest = widen(x[i]) > largest ? widen(x[i]) : largest;
  for (int64_t l = 0; l < lanes; ++l) largest = lane[l] > largest ? lane[l] : largest;
  return largest;
}

/// Sum of e^(x - shift) over a row.
template <class T, class A = accumulate_t<T>>
A sum_of_exponentials(const T* x, int64_t n, A shift) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += math::exp(A(widen(x[i])) - shift);
  return sum;
}

/// What is subtracted from a row before the exponential: its maximum, or 0 where all of the row is -infinity (whose
/// exponentials are then 0, not NaN).
template <class A>
A softmax_shift(A largest) {
  return largest == -std::numeric_limits<A>::infinity() ? A(0) : largest;
}

/// Calls body(first element) for all rows of a [rows, columns] array, on several threads.
template <class Body>
void for_each_row(int64_t rows, int64_t columns, Body&& body) {
  parallel_for(rows, row_grain(columns), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) body(r * columns);
  });
}

}  // namespace cpu

template <>
struct Backend<op::softmax, Cpu> {
  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>&, Out<T, 2, Cpu> y, In<T, 2, Cpu> x) {
    const int64_t columns = x.shape[1];
    cpu::for_each_row(x.shape[0], columns, [&](int64_t at) {
      const T* x_row = x.data + at;
      T* y_row = y.data + at;
      const A shift = cpu::softmax_shift(cpu::row_maximum(x_row, columns));
      A sum = 0;
      if constexpr (std::is_same_v<T, A>) {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < columns; ++i) {
          const A e = math::exp(x_row[i] - shift);
          y_row[i] = e;
          sum += e;
        }
        const A factor = sum == A(0) ? A(0) : A(1) / sum;
#pragma omp simd
        for (int64_t i = 0; i < columns; ++i) y_row[i] *= factor;
      } else {  // exponentials are computed twice rather than rounded to storage in between
        sum = cpu::sum_of_exponentials(x_row, columns, shift);
        const A factor = sum == A(0) ? A(0) : A(1) / sum;
#pragma omp simd
        for (int64_t i = 0; i < columns; ++i) y_row[i] = narrow<T>(math::exp(A(widen(x_row[i])) - shift) * factor);
      }
    });
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>&, Out<T, 2, Cpu> d_x, In<T, 2, Cpu> d_y, In<T, 2, Cpu> y) {
    const int64_t columns = y.shape[1];
    cpu::for_each_row(y.shape[0], columns, [&](int64_t at) {
      const T *d_y_row = d_y.data + at, *y_row = y.data + at;
      T* d_x_row = d_x.data + at;
      A dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < columns; ++i) dot += A(widen(y_row[i])) * A(widen(d_y_row[i]));
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) d_x_row[i] = narrow<T>(A(widen(y_row[i])) * (A(widen(d_y_row[i])) - dot));
    });
  }
};

template <>
struct Backend<op::log_softmax, Cpu> {
  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>&, Out<T, 2, Cpu> y, In<T, 2, Cpu> x) {
    const int64_t columns = x.shape[1];
    cpu::for_each_row(x.shape[0], columns, [&](int64_t at) {
      const T* x_row = x.data + at;
      T* y_row = y.data + at;
      const A shift = cpu::softmax_shift(cpu::row_maximum(x_row, columns));
      const A sum = cpu::sum_of_exponentials(x_row, columns, shift);
      const A log_sum = sum == A(0) ? A(0) : std::log(sum);  // 0: a row of -infinity stays as it is
      // In two steps: shift + log_sum would round log_sum away where logits are large.
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) y_row[i] = narrow<T>((A(widen(x_row[i])) - shift) - log_sum);
    });
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>&, Out<T, 2, Cpu> d_x, In<T, 2, Cpu> d_y, In<T, 2, Cpu> y) {
    const int64_t columns = y.shape[1];
    cpu::for_each_row(y.shape[0], columns, [&](int64_t at) {
      const T *d_y_row = d_y.data + at, *y_row = y.data + at;
      T* d_x_row = d_x.data + at;
      A sum = 0, probabilities = 0;
#pragma omp simd reduction(+ : sum, probabilities)
      for (int64_t i = 0; i < columns; ++i) {
        sum += A(widen(d_y_row[i]));
        probabilities += math::exp(A(widen(y_row[i])));
      }
      const A passes = probabilities == A(0) ? A(0) : A(1);  // a row of -infinity has gradient 0
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i)
        d_x_row[i] = narrow<T>(passes * (A(widen(d_y_row[i])) - math::exp(A(widen(y_row[i]))) * sum));
    });
  }
};

}  // namespace tessera
