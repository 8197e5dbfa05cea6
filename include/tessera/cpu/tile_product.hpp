// Small matrix products on blocks that already lie in cache, for operations that fuse several of them (attention).
// Plain loops over a tile of 8 rows by 2 vectors of 64 bytes, which compilers keep in registers; a library call costs
// more than such a product takes. Every element is one sum in the order of k.
#pragma once
#include <algorithm>
#include <cstdint>

#include <tessera/core/dtype.hpp>

namespace tessera::cpu {

/// Elements of A in 64 bytes: what block widths are rounded up to.
template <class A>
inline constexpr int64_t vector_width = 64 / int64_t(sizeof(A));
/// Columns of a tile, and of a panel of packed_columns.
template <class A>
inline constexpr int64_t tile_columns = 2 * vector_width<A>;
/// Rows of a tile; blocks have room for their rows rounded up to it.
inline constexpr int64_t tile_rows = 8;

inline constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/// A block of the right-hand matrix: element (p, j) is at data[j / tile_columns * panel + p * row + j % tile_columns].
template <class A>
struct TileOperand {
  const A* data;
  int64_t row;
  int64_t panel = tile_columns<A>;  // as in a row-major matrix
};

namespace detail {

template <int Rows, int Columns, bool TransposeA, class A>
inline void product_tile(A* __restrict c, int64_t c_row, const A* __restrict a, int64_t a_row, const A* __restrict b,
                         int64_t b_row, int64_t k, bool add) {
  A sum[Rows][Columns];
  for (int i = 0; i < Rows; ++i)
#pragma omp simd
    for (int j = 0; j < Columns; ++j) sum[i][j] = add ? c[i * c_row + j] : A(0);
  for (int64_t p = 0; p < k; ++p) {
    const A* b_values = b + p * b_row;
#if !defined(__CUDACC__)  // nvcc does not know it; clang keeps the sums in registers only with it
#pragma GCC unroll 8
#endif
    for (int i = 0; i < Rows; ++i) {
      const A a_value = TransposeA ? a[p * a_row + i] : a[i * a_row + p];
#pragma omp simd
      for (int j = 0; j < Columns; ++j) sum[i][j] += a_value * b_values[j];
    }
  }
  for (int i = 0; i < Rows; ++i)
#pragma omp simd
    for (int j = 0; j < Columns; ++j) c[i * c_row + j] = sum[i][j];
}

template <int Columns, bool TransposeA, class A>
inline void product_column(A* c, int64_t c_row, const A* a, int64_t a_row, const A* b, int64_t b_row, int64_t m,
                           int64_t k, bool add) {
  constexpr int rows = int(tile_rows), half = rows / 2;
  int64_t i = 0;
  for (; i + half < m; i += rows)
    product_tile<rows, Columns, TransposeA>(c + i * c_row, c_row, TransposeA ? a + i : a + i * a_row, a_row, b, b_row,
                                            k, add);
  if (i < m)
    product_tile<half, Columns, TransposeA>(c + i * c_row, c_row, TransposeA ? a + i : a + i * a_row, a_row, b, b_row,
                                            k, add);
}

/// Asks for a row that will be read soon. The rows of one head lie far apart, which the processor does not foresee.
template <class T>
inline void prefetch_row([[maybe_unused]] const T* row, [[maybe_unused]] int64_t columns) {
#if defined(__GNUC__) && !defined(__CUDACC__)
  for (int64_t c = 0; c < columns; c += 64 / int64_t(sizeof(T))) __builtin_prefetch(row + c);
#endif
}
inline constexpr int64_t rows_ahead = 8;

}  // namespace detail

/// c [m, n] = op(a) b, or += with `add`. a is [m, k], or with TransposeA [k, m]; b is [k, n]. Rows of a and c must
/// exist up to m rounded up to 4 (they are read and written), columns of b and c up to n rounded up to vector_width.
template <bool TransposeA, class A>
void tile_product(A* c, int64_t c_row, const A* a, int64_t a_row, const TileOperand<A>& b, int64_t m, int64_t n,
                  int64_t k, bool add) {
  constexpr int64_t width = vector_width<A>, columns = tile_columns<A>;
  for (int64_t j = 0; j < n; j += columns) {
    const A* panel = b.data + j / columns * b.panel;
    if (n - j > width)
      detail::product_column<int(columns), TransposeA>(c + j, c_row, a, a_row, panel, b.row, m, k, add);
    else
      detail::product_column<int(width), TransposeA>(c + j, c_row, a, a_row, panel, b.row, m, k, add);
  }
}

/// to [rows, width] = factor * from [rows, columns], widened; the columns up to width are 0.
template <class T, class A>
void copy_rows(A* to, int64_t width, const T* from, int64_t from_row, int64_t rows, int64_t columns, A factor = A(1)) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* from_values = from + r * from_row;
    detail::prefetch_row(from + std::min(r + detail::rows_ahead, rows - 1) * from_row, columns);
    A* to_values = to + r * width;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) to_values[c] = factor * widen(from_values[c]);
    for (int64_t c = columns; c < width; ++c) to_values[c] = 0;
  }
}

/// The transpose of from [rows, columns], widened, as panels of tile_columns rows each: the TileOperand {to,
/// tile_columns, columns * tile_columns} of shape [columns, rows]. Rows up to the next multiple of tile_columns are 0.
template <class T, class A>
void copy_columns(A* to, const T* from, int64_t from_row, int64_t rows, int64_t columns) {
  constexpr int64_t width = tile_columns<A>;
  for (int64_t first = 0; first < rows; first += width) {
    A* panel = to + first * columns;
    const int64_t count = std::min(width, rows - first);
    for (int64_t r = 0; r < count; ++r) {
      const T* from_values = from + (first + r) * from_row;
      detail::prefetch_row(from + std::min(first + r + detail::rows_ahead, rows - 1) * from_row, columns);
      for (int64_t c = 0; c < columns; ++c) panel[c * width + r] = widen(from_values[c]);
    }
    for (int64_t r = count; r < width; ++r)
      for (int64_t c = 0; c < columns; ++c) panel[c * width + r] = 0;
  }
}

}  // namespace tessera::cpu
