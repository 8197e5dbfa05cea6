// The symmetric Kullback-Leibler divergence on Cpu.
#pragma once
#include <algorithm>
#include <limits>

#include <tessera/core/math.hpp>
#include <tessera/core/parallel.hpp>
#include <tessera/ops/symmetric_kl.hpp>

namespace tessera {

template <>
struct Backend<op::symmetric_kl, Cpu> {
  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>& ctx, Out<A, 0, Cpu> loss, Out<A, 2, Cpu> statistics, In<T, 2, Cpu> p,
                      In<T, 2, Cpu> q, double weight) {
    const int64_t rows = p.shape[0], classes = p.shape[1];
    const double total = parallel_sum<double>(rows, row_grain(classes), [&](int64_t begin, int64_t end) {
      Tensor<A, 2> exponentials(ctx, {2, classes});
      A *e_p = exponentials.data, *e_q = e_p + classes;
      double sum = 0;
      for (int64_t r = begin; r < end; ++r) {
        const T *p_row = p.data + r * classes, *q_row = q.data + r * classes;
        const auto of_p = normalise(e_p, p_row, classes), of_q = normalise(e_q, q_row, classes);
        // log P - log Q in parts, so that large logits cost no digits
        const A shift = of_q.largest - of_p.largest, log = of_q.log - of_p.log;
        const A scale_p = A(1) / of_p.sum, scale_q = A(1) / of_q.sum;
        A p_q = 0, q_p = 0;
#pragma omp simd reduction(+ : p_q, q_p)
        for (int64_t c = 0; c < classes; ++c) {
          const A delta = (difference<A>(p_row[c], q_row[c]) + shift) + log;
          p_q += e_p[c] * scale_p * delta;
          q_p -= e_q[c] * scale_q * delta;
        }
        if (statistics) {
          A* saved = statistics.data + r * detail::symmetric_kl_statistics;
          saved[0] = of_p.largest + of_p.log;
          saved[1] = of_q.largest + of_q.log;
          saved[2] = p_q;
          saved[3] = q_p;
        }
        sum += double(p_q) + double(q_p);
      }
      return sum;
    });
    if (loss) *loss.data = A(total * weight);
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>&, Out<T, 2, Cpu> d_p, Out<T, 2, Cpu> d_q, In<A, 0, Cpu> d_loss,
                       In<A, 2, Cpu> statistics, In<T, 2, Cpu> p, In<T, 2, Cpu> q, double weight) {
    const int64_t rows = p.shape[0], classes = p.shape[1];
    const A d = A(double(*d_loss.data) * weight);
    parallel_for(rows, row_grain(classes), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T *p_row = p.data + r * classes, *q_row = q.data + r * classes;
        const A* saved = statistics.data + r * detail::symmetric_kl_statistics;
        const A log_p = saved[0], log_q = saved[1], p_q = saved[2], q_p = saved[3];
        T* d_p_row = d_p ? d_p.data + r * classes : nullptr;
        T* d_q_row = d_q ? d_q.data + r * classes : nullptr;
        const auto gradient = [&](int64_t c, A& of_p, A& of_q) {
          const A prob_p = math::exp(widen(p_row[c]) - log_p), prob_q = math::exp(widen(q_row[c]) - log_q);
          const A delta = difference<A>(p_row[c], q_row[c]) + (log_q - log_p), apart = prob_p - prob_q;
          of_p = d * (prob_p * (delta - p_q) + apart);
          of_q = -d * (prob_q * (delta + q_p) + apart);
        };
        if (d_p_row && d_q_row) {
#pragma omp simd
          for (int64_t c = 0; c < classes; ++c) {
            A of_p, of_q;
            gradient(c, of_p, of_q);
            d_p_row[c] = narrow<T>(of_p);
            d_q_row[c] = narrow<T>(of_q);
          }
        } else {
          T* to = d_p_row ? d_p_row : d_q_row;
          const bool first = d_p_row != nullptr;
#pragma omp simd
          for (int64_t c = 0; c < classes; ++c) {
            A of_p, of_q;
            gradient(c, of_p, of_q);
            to[c] = narrow<T>(first ? of_p : of_q);
          }
        }
      }
    });
  }

 private:
  template <class A>
  struct Normaliser {
    A largest, sum, log;
  };
  /// exponentials = e^(row - its maximum).
  template <class T, class A>
  static Normaliser<A> normalise(A* exponentials, const T* row, int64_t classes) {
    A largest = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : largest)
    for (int64_t c = 0; c < classes; ++c) largest = std::max(largest, A(widen(row[c])));
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < classes; ++c) {
      exponentials[c] = math::exp(widen(row[c]) - largest);
      sum += exponentials[c];
    }
    return {largest, sum, std::log(sum)};
  }
  /// p - q; 0 where they are equal, also where both are -infinity.
  template <class A, class T>
  static A difference(T p, T q) {
    const A a = widen(p), b = widen(q);
    return a == b ? A(0) : a - b;
  }
};

}  // namespace tessera
