// Gumbel-softmax on Cpu: a chunk of rows at a time, whose perturbed logits lie in one buffer, so that noise and
// exponentials are vector code however short the rows are.
#pragma once
#include <algorithm>
#include <limits>

#include <tessera/core/parallel.hpp>
#include <tessera/ops/gumbel_softmax.hpp>

namespace tessera {
namespace cpu {

/// to[i] = Gumbel noise of number first + i of the stream.
template <class A>
void fill_gumbel(A* to, const RandomStream& stream, int64_t first, int64_t count) {
  constexpr int64_t blocks = 64;
  float uniform[4 * blocks];
  const int64_t end = first + count;
  for (int64_t tile = first / 4; tile * 4 < end; tile += blocks) {
    const int64_t tile_end = std::min(tile + blocks, (end + 3) / 4);
    for (int64_t block = tile; block < tile_end; ++block) {
      const auto four = tessera::detail::four_uniforms(stream, uint64_t(block));
      std::copy(four.begin(), four.end(), uniform + 4 * (block - tile));
    }
    const int64_t begin = std::max(first, tile * 4), stop = std::min(end, tile_end * 4);
    A* out = to + (begin - first);
    const float* u = uniform + (begin - tile * 4);
#pragma omp simd
    for (int64_t i = 0; i < stop - begin; ++i) out[i] = tessera::detail::gumbel_of(A(u[i]));
  }
}

}  // namespace cpu

template <>
struct Backend<op::gumbel_softmax, Cpu> {
  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>& ctx, Out<T, 2, Cpu> assignment, Out<T, 2, Cpu> soft, Out<int32_t, 1, Cpu> index,
                      In<T, 2, Cpu> logits, In<A, 2, Cpu> gumbel, const GumbelSoftmaxOptions& options) {
    const int64_t columns = logits.shape[1];
    const A temperature = A(options.temperature);
    const bool chooses = index || options.hard;
    parallel_for(logits.shape[0], row_grain(columns), [&](int64_t begin, int64_t end) {
      const int64_t first = begin * columns, count = (end - begin) * columns;
      Tensor<A, 1> chunk(ctx, {count});
      A* y = chunk.data;
      perturb(y, logits.data + first, gumbel ? gumbel.data + first : nullptr, options.noise, first, count, temperature);
      for (int64_t at = 0; at < count; at += columns) subtract_largest(y + at, columns);
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) y[i] = math::exp(y[i]);
      for (int64_t r = begin; r < end; ++r, y += columns) {
        divide_by_sum(y, columns);
        const int64_t at = r * columns;
        const int64_t chosen = chooses ? first_of_the_largest(y, columns) : 0;
        if (index) index.data[r] = int32_t(chosen);
        if (soft) {
          T* soft_row = soft.data + at;
#pragma omp simd simdlen(8)
          for (int64_t i = 0; i < columns; ++i) soft_row[i] = narrow<T>(y[i]);
        }
        T* row = assignment.data + at;
        if (options.hard) {
#pragma omp simd simdlen(8)
          for (int64_t i = 0; i < columns; ++i) row[i] = narrow<T>(((i == chosen ? A(1) : A(0)) - y[i]) + y[i]);
        } else {
#pragma omp simd simdlen(8)
          for (int64_t i = 0; i < columns; ++i) row[i] = narrow<T>(y[i]);
        }
      }
    });
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>&, Out<T, 2, Cpu> d_logits, In<T, 2, Cpu> d_assignment, In<T, 2, Cpu> soft,
                       const GumbelSoftmaxOptions& options) {
    const int64_t columns = soft.shape[1];
    const A factor = A(1 / options.temperature);
    parallel_for(soft.shape[0], row_grain(columns), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T *d = d_assignment.data + r * columns, *y = soft.data + r * columns;
        T* d_row = d_logits.data + r * columns;
        A dot = 0;
#pragma omp simd simdlen(8) reduction(+ : dot)
        for (int64_t i = 0; i < columns; ++i) dot += A(widen(y[i])) * A(widen(d[i]));
#pragma omp simd
        for (int64_t i = 0; i < columns; ++i) d_row[i] = narrow<T>(factor * (A(widen(y[i])) * (A(widen(d[i])) - dot)));
      }
    });
  }

  template <class A>
  static void noise(Context<Cpu>&, Out<A, 1, Cpu> to, const RandomStream& stream) {
    parallel_for(to.size(), row_grain(1),
                 [&](int64_t begin, int64_t end) { cpu::fill_gumbel(to.data + begin, stream, begin, end - begin); });
  }

 private:
  /// z = (logits + noise) / temperature.
  template <class A, class T>
  static void perturb(A* z, const T* logits, const A* gumbel, const std::optional<RandomStream>& stream, int64_t first,
                      int64_t count, A temperature) {
    if (gumbel) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) z[i] = (A(widen(logits[i])) + gumbel[i]) / temperature;
    } else if (stream) {
      cpu::fill_gumbel(z, *stream, first, count);
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) z[i] = (A(widen(logits[i])) + z[i]) / temperature;
    } else {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) z[i] = A(widen(logits[i])) / temperature;
    }
  }

  // Rows are often of eight entries: loops over one are cut into eights, or all of it would be what is left over.
  template <class A>
  static void subtract_largest(A* row, int64_t columns) {
    A largest = -std::numeric_limits<A>::infinity();
#pragma omp simd simdlen(8) reduction(max : largest)
    for (int64_t i = 0; i < columns; ++i) largest = row[i] > largest ? row[i] : largest;
    if (largest == -std::numeric_limits<A>::infinity()) return;  // all of it: exponentials are 0, not NaN
#pragma omp simd simdlen(8)
    for (int64_t i = 0; i < columns; ++i) row[i] -= largest;
  }
  template <class A>
  static void divide_by_sum(A* row, int64_t columns) {
    A sum = 0;
#pragma omp simd simdlen(8) reduction(+ : sum)
    for (int64_t i = 0; i < columns; ++i) sum += row[i];
    // Divided, not multiplied by 1 / sum: a product might be fused with the subtraction from the one-hot row.
    const A divisor = sum == A(0) ? A(1) : sum;
#pragma omp simd simdlen(8)
    for (int64_t i = 0; i < columns; ++i) row[i] /= divisor;
  }

  template <class A>
  static int64_t first_of_the_largest(const A* row, int64_t columns) {
    int64_t chosen = 0;
    for (int64_t i = 1; i < columns; ++i) chosen = row[i] > row[chosen] ? i : chosen;
    return chosen;
  }
};

}  // namespace tessera
