// One plain matrix product inside an operation on Cpu: a short form of cpu::matrix_product for dense float or double
// blocks.
#pragma once
#include <algorithm>

#include <tessera/cpu/matmul.hpp>

namespace tessera::cpu {

/// A matrix as stored: its first element, the distance of two stored rows, and whether the product takes its transpose.
template <class T>
struct Factor {
  const T* data;
  int64_t row;
  bool transposed = false;
};

enum class Store : uint8_t { overwrite, add };

/// c [m, n] = a [m, k] b [k, n], or += with Store::add. Rows of c lie `c_row` apart. T may be narrower than C.
template <class C, class T>
void multiply(Context<Cpu>& ctx, int64_t m, int64_t n, int64_t k, C* c, int64_t c_row, Factor<T> a, Factor<T> b,
              Store store = Store::overwrite) {
  matrix_product(*ctx.pool, {.in = dtype_of<T>,
                             .out = dtype_of<C>,
                             .count = 1,
                             .m = m,
                             .n = n,
                             .k = k,
                             .a = {a.data, a.row, 0, a.transposed},
                             .b = {b.data, b.row, 0, b.transposed},
                             .c = c,
                             .c_row = c_row,
                             .c_batch = 0,
                             .add = store == Store::add});
}

/// The same for a product c [n, n] that is symmetric, without the upper right quarter: mirror_lower fills it in.
template <class C, class T>
void multiply_lower(Context<Cpu>& ctx, int64_t n, int64_t k, C* c, Factor<T> a, Factor<T> b,
                    Store store = Store::overwrite) {
  const int64_t half = std::min(n, (n / 2 + 15) / 16 * 16);  // libraries like whole vectors
  const Factor<T> lower{a.data + half * (a.transposed ? 1 : a.row), a.row, a.transposed};
  multiply<C, T>(ctx, half, half, k, c, n, a, b, store);
  if (half < n) multiply<C, T>(ctx, n - half, n, k, c + half * n, n, lower, b, store);
}

/// c [n, n] becomes symmetric: what is above the diagonal becomes what is below.
template <class C>
void mirror_lower(C* c, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i + 1; j < n; ++j) c[i * n + j] = c[j * n + i];
}

/// `from` itself where it is of type A already, else its first `count` elements widened into `copy`.
template <class A, class T>
const A* widened_or_same(const T* from, int64_t count, A* copy) {
  if constexpr (std::is_same_v<A, T>) {
    return from;
  } else {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) copy[i] = widen(from[i]);
    return copy;
  }
}

}  // namespace tessera::cpu
