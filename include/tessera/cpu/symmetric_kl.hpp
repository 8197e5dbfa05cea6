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
    const double total = parallel_sum<double>(rows, row_grain(work * classes), [&](int64_t begin, int64_t end) {
      const int64_t together = rows_together(classes);
      Tensor<A, 2> exponentials(ctx, {2, together * classes}), largest(ctx, {2, together});
      double sum = 0;
      for (int64_t first = begin; first < end; first += together) {
        const int64_t count = std::min(together, end - first);
        A *e_p = exponentials.data, *e_q = e_p + together * classes;
        A *largest_p = largest.data, *largest_q = largest_p + together;
        find_largest(largest_p, p.data + first * classes, count, classes);
        find_largest(largest_q, q.data + first * classes, count, classes);
        exponentiate(e_p, p.data + first * classes, largest_p, 1, count, classes);
        exponentiate(e_q, q.data + first * classes, largest_q, 1, count, classes);
        for (int64_t r = 0; r < count; ++r, e_p += classes, e_q += classes) {
          const T *p_row = p.data + (first + r) * classes, *q_row = q.data + (first + r) * classes;
          A sum_p = 0, sum_q = 0;
#pragma omp simd reduction(+ : sum_p, sum_q)
          for (int64_t c = 0; c < classes; ++c) {
            sum_p += e_p[c];
            sum_q += e_q[c];
          }
          const A log_p = std::log(sum_p), log_q = std::log(sum_q), scale_p = A(1) / sum_p, scale_q = A(1) / sum_q;
          // log P - log Q in parts, so that large logits cost no digits
          const A shift = largest_q[r] - largest_p[r], log = log_q - log_p;
          A p_q = 0, q_p = 0;
#pragma omp simd reduction(+ : p_q, q_p)
          for (int64_t c = 0; c < classes; ++c) {
            const A delta = (difference<A>(p_row[c], q_row[c]) + shift) + log;
            p_q += e_p[c] * scale_p * delta;
            q_p -= e_q[c] * scale_q * delta;
          }
          if (statistics) {
            A* saved = statistics.data + (first + r) * detail::symmetric_kl_statistics;
            saved[0] = largest_p[r] + log_p;
            saved[1] = largest_q[r] + log_q;
            saved[2] = p_q;
            saved[3] = q_p;
          }
          sum += double(p_q) + double(q_p);
        }
      }
      return sum;
    });
    if (loss) *loss.data = A(total * weight);
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>& ctx, Out<T, 2, Cpu> d_p, Out<T, 2, Cpu> d_q, In<A, 0, Cpu> d_loss,
                       In<A, 2, Cpu> statistics, In<T, 2, Cpu> p, In<T, 2, Cpu> q, double weight) {
    const int64_t rows = p.shape[0], classes = p.shape[1];
    const A d = A(double(*d_loss.data) * weight);
    parallel_for(rows, row_grain(work * classes), [&](int64_t begin, int64_t end) {
      const int64_t together = rows_together(classes);
      Tensor<A, 2> probabilities(ctx, {2, together * classes});
      for (int64_t first = begin; first < end; first += together) {
        const int64_t count = std::min(together, end - first);
        const A* saved = statistics.data + first * detail::symmetric_kl_statistics;
        A *prob_p = probabilities.data, *prob_q = prob_p + together * classes;
        exponentiate(prob_p, p.data + first * classes, saved, detail::symmetric_kl_statistics, count, classes);
        exponentiate(prob_q, q.data + first * classes, saved + 1, detail::symmetric_kl_statistics, count, classes);
        for (int64_t r = 0; r < count; ++r, saved += detail::symmetric_kl_statistics) {
          const int64_t row = (first + r) * classes;
          const T *p_row = p.data + row, *q_row = q.data + row;
          A *to_p = prob_p + r * classes, *to_q = prob_q + r * classes;  // probabilities become gradients
          const A shift = saved[1] - saved[0], p_q = saved[2], q_p = saved[3];
#pragma omp simd
          for (int64_t c = 0; c < classes; ++c) {
            const A delta = difference<A>(p_row[c], q_row[c]) + shift, apart = to_p[c] - to_q[c];
            to_p[c] = d * (to_p[c] * (delta - p_q) + apart);
            to_q[c] = -d * (to_q[c] * (delta + q_p) + apart);
          }
        }
        store(d_p.data, prob_p, first * classes, count * classes);
        store(d_q.data, prob_q, first * classes, count * classes);
      }
    });
  }

 private:
  static constexpr int64_t work = 4;  // an element costs as much as about four of other operations

  /// Short rows are taken several at a time, so that exponentials fill whole vectors.
  static int64_t rows_together(int64_t classes) { return std::max<int64_t>(1, 1024 / classes); }

  template <class T, class A>
  static void find_largest(A* largest, const T* x, int64_t rows, int64_t classes) {
    for (int64_t r = 0; r < rows; ++r) {
      A value = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : value)
      for (int64_t c = 0; c < classes; ++c) value = std::max(value, A(widen(x[r * classes + c])));
      largest[r] = value;
    }
  }
  /// out = e^(x - the row's shift); shifts are `step` apart.
  template <class T, class A>
  static void exponentiate(A* out, const T* x, const A* shifts, int64_t step, int64_t rows, int64_t classes) {
    for (int64_t r = 0; r < rows; ++r) {
      const A shift = shifts[r * step];
#pragma omp simd
      for (int64_t c = 0; c < classes; ++c) out[r * classes + c] = widen(x[r * classes + c]) - shift;
    }
#pragma omp simd
    for (int64_t i = 0; i < rows * classes; ++i) out[i] = math::exp(out[i]);
  }
  template <class T, class A>
  static void store(T* to, const A* from, int64_t first, int64_t count) {
    if (!to) return;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) to[first + i] = narrow<T>(from[i]);
  }
  /// p - q; 0 where they are equal, also where both are -infinity.
  template <class A, class T>
  static A difference(T p, T q) {
    const A a = widen(p), b = widen(q);
    return a == b ? A(0) : a - b;
  }
};

}  // namespace tessera
