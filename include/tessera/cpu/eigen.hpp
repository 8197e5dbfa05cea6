// The matrix product by Eigen: the reference provider, for float, double and bfloat16/float16 (widened tile by tile).
// Include it in one file compiled by the host compiler (under nvcc Eigen would be another, scalar version of the same
// templates).
#pragma once
#if defined(__CUDACC__)
#error "tessera: <tessera/cpu/eigen.hpp> belongs in a file compiled by the host compiler"
#endif
#include <omp.h>

#include <Eigen/Core>
#include <vector>

#include <tessera/cpu/matmul.hpp>

namespace tessera::cpu {

namespace detail {

/// Keeps Eigen (and any other OpenMP code) on one thread inside: Eigen's own threading changes the bits with the number
/// of threads; the parallel loop over tiles is ours.
class SingleThread {
 public:
  SingleThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~SingleThread() { omp_set_num_threads(before_); }
  SingleThread(const SingleThread&) = delete;
  SingleThread& operator=(const SingleThread&) = delete;

 private:
  int before_;
};

/// A row-major block as Eigen's matrices need it: as stored, or widened into `copy`.
template <class A, class T>
const A* widened(const T* from, int64_t rows, int64_t columns, int64_t& row, std::vector<A>& copy) {
  if constexpr (std::is_same_v<A, T>) {
    return from;
  } else {
    copy.resize(size_t(rows * columns));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) copy[size_t(r * columns + c)] = widen(from[r * row + c]);
    row = columns;
    return copy.data();
  }
}

template <class C, class T>
void eigen_matrix_product(const MatrixProduct& p) {
  using A = accumulate_t<T>;
  using Matrix = Eigen::Matrix<A, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Stride = Eigen::OuterStride<>;
  constexpr int64_t tile_rows = 256;
  const int64_t tiles = chunk_count(p.m, tile_rows);
  parallel_for(p.count * tiles, 1, [&](int64_t begin, int64_t end) {
    const SingleThread single;
    std::vector<A> a_copy, b_copy;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t item = task / tiles, first = task % tiles * tile_rows, rows = std::min(tile_rows, p.m - first);
      int64_t a_row = p.a.row, b_row = p.b.row;
      const T* a_data = static_cast<const T*>(p.a.data) + item * p.a.batch + (p.a.transposed ? first : first * a_row);
      const A* a_from = widened<A>(a_data, p.a.transposed ? p.k : rows, p.a.transposed ? rows : p.k, a_row, a_copy);
      const A* b_from = widened<A>(static_cast<const T*>(p.b.data) + item * p.b.batch, p.b.transposed ? p.n : p.k,
                                   p.b.transposed ? p.k : p.n, b_row, b_copy);
      const Eigen::Map<const Matrix, 0, Stride> a(a_from, p.a.transposed ? p.k : rows, p.a.transposed ? rows : p.k,
                                                  Stride(a_row));
      const Eigen::Map<const Matrix, 0, Stride> b(b_from, p.b.transposed ? p.n : p.k, p.b.transposed ? p.k : p.n,
                                                  Stride(b_row));
      Matrix product(rows, p.n);
      if (p.a.transposed && p.b.transposed)
        product.noalias() = a.transpose() * b.transpose();
      else if (p.a.transposed)
        product.noalias() = a.transpose() * b;
      else if (p.b.transposed)
        product.noalias() = a * b.transpose();
      else
        product.noalias() = a * b;
      apply_epilogue(product.data(), rows, p.n, p.n, static_cast<const A*>(p.bias), p.activation);
      C* c = static_cast<C*>(p.c) + item * p.c_batch + first * p.c_row;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < p.n; ++j) {
          const A value = product.data()[r * p.n + j];
          c[r * p.c_row + j] = narrow<C>(p.add ? value + widen(c[r * p.c_row + j]) : value);
        }
    }
  });
}

}  // namespace detail

inline void eigen_matrix_product(Pool<Cpu>&, const MatrixProduct& p) {
  switch (p.in) {
    case Dtype::f32: return detail::eigen_matrix_product<float, float>(p);
    case Dtype::f64: return detail::eigen_matrix_product<double, double>(p);
    case Dtype::bf16:
      return p.out == Dtype::f32 ? detail::eigen_matrix_product<float, bfloat16>(p)
                                 : detail::eigen_matrix_product<bfloat16, bfloat16>(p);
    case Dtype::f16:
      return p.out == Dtype::f32 ? detail::eigen_matrix_product<float, float16>(p)
                                 : detail::eigen_matrix_product<float16, float16>(p);
    default: fail("matmul: ", dtype_name(p.in), " is no element type of matrix products");
  }
}

inline const bool eigen_provided = provide_matrix_product(&eigen_matrix_product, 0);

}  // namespace tessera::cpu
