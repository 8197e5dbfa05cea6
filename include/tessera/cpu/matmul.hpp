// The matrix product on Cpu: a seam that a provider fills (<tessera/cpu/eigen.hpp> or <tessera/cpu/onednn.hpp>,
// included in one file of the program compiled by the host compiler; the CMake target tessera::tessera does it).
#pragma once
#include <cstdint>

#include <tessera/cpu/rows.hpp>
#include <tessera/ops/matmul.hpp>

namespace tessera {
namespace cpu {

/// c[i] = activation(op(a[i]) op(b[i]) + bias) for i < count; with `add`, c[i] += op(a[i]) op(b[i]). Strides in
/// elements; `row` is the distance of two rows as stored, `batch` of two matrices (0: one for all). bias is float, or
/// double where the output is.
struct MatrixProduct {
  struct Operand {
    const void* data;
    int64_t row, batch;
    bool transposed;
  };
  Dtype in, out;
  int64_t count, m, n, k;
  Operand a, b;
  void* c;
  int64_t c_row, c_batch;
  const void* bias = nullptr;
  Activation activation = Activation::none;
  bool add = false;
};

using MatrixProductFunction = void (*)(Pool<Cpu>&, const MatrixProduct&);
/// The provider in use. The same inline variable in every file of the program.
struct MatrixProductProvider {
  MatrixProductFunction function = nullptr;
  int preference = -1;
};
inline MatrixProductProvider matrix_product_provider;
/// Registers a provider; of several in one program the most preferred is used.
inline bool provide_matrix_product(MatrixProductFunction function, int preference) {
  if (preference > matrix_product_provider.preference) matrix_product_provider = {function, preference};
  return true;
}

inline void matrix_product(Pool<Cpu>& pool, const MatrixProduct& product) {
  require<Error>(matrix_product_provider.function != nullptr,
                 "matmul: this program has no matrix product for Cpu: link tessera::tessera, or include "
                 "<tessera/cpu/eigen.hpp> or <tessera/cpu/onednn.hpp> in one of its files");
  matrix_product_provider.function(pool, product);
}

/// y = activation(y + bias) on a row-major block, for providers whose library has no such epilogue.
template <class C, class A = accumulate_t<C>>
void apply_epilogue(C* y, int64_t rows, int64_t columns, int64_t row, const A* bias, Activation activation) {
  if (!bias && activation == Activation::none) return;
  math::with_activation(activation, [&]<Activation kind>(std::integral_constant<Activation, kind>) {
    for (int64_t r = 0; r < rows; ++r) {
      C* y_row = y + r * row;
      if (bias) {
#pragma omp simd
        for (int64_t j = 0; j < columns; ++j) y_row[j] = narrow<C>(math::activate<kind>(widen(y_row[j]) + bias[j]));
      } else {
#pragma omp simd
        for (int64_t j = 0; j < columns; ++j) y_row[j] = narrow<C>(math::activate<kind>(widen(y_row[j])));
      }
    }
  });
}

}  // namespace cpu

template <>
struct Backend<op::matmul, Cpu> {
  template <class C, class T>
  static void run(Context<Cpu>& ctx, const detail::MatrixStack<C, Cpu>& c, const detail::MatrixStack<const T, Cpu>& a,
                  const detail::MatrixStack<const T, Cpu>& b, In<accumulate_t<C>, 1, Cpu> bias,
                  const MatmulOptions& options) {
    cpu::matrix_product(
        *ctx.pool,
        cpu::MatrixProduct{.in = dtype_of<T>,
                           .out = dtype_of<C>,
                           .count = c.count,
                           .m = c.matrix.shape[0],
                           .n = c.matrix.shape[1],
                           .k = a.matrix.shape[options.transpose_a ? 0 : 1],
                           .a = {a.matrix.data, a.matrix.strides[0], a.count > 1 ? a.stride : 0, options.transpose_a},
                           .b = {b.matrix.data, b.matrix.strides[0], b.count > 1 ? b.stride : 0, options.transpose_b},
                           .c = c.matrix.data,
                           .c_row = c.matrix.strides[0],
                           .c_batch = c.count > 1 ? c.stride : 0,
                           .bias = bias.data,
                           .activation = options.activation});
  }
  template <class T, class A = accumulate_t<T>>
  static void bias_gradient(Context<Cpu>& ctx, Out<A, 1, Cpu> d_bias, In<T, 2, Cpu> d_c) {
    const int64_t columns = d_c.shape[1];
    cpu::sum_over_rows(ctx, d_c.shape[0], columns, d_bias.data, [&](A* sum, int64_t r) {
      const T* row = d_c.data + r * columns;
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j) sum[j] += widen(row[j]);
    });
  }
  /// d_pre_activation = d_c * activation'(pre_activation), and d_bias, the sum of its rows, in one pass.
  template <class T, class A = accumulate_t<T>>
  static void activation_gradient(Context<Cpu>& ctx, Out<T, 2, Cpu> d_pre_activation, Out<A, 1, Cpu> d_bias,
                                  In<T, 2, Cpu> d_c, In<T, 2, Cpu> pre_activation, Activation activation) {
    const int64_t columns = d_c.shape[1];
    math::with_activation(activation, [&]<Activation kind>(std::integral_constant<Activation, kind>) {
      cpu::sum_over_rows(ctx, d_c.shape[0], columns, d_bias.data, [&](A* sum, int64_t r) {
        const T *d_row = d_c.data + r * columns, *x = pre_activation.data + r * columns;
        T* to = d_pre_activation.data + r * columns;
#pragma omp simd
        for (int64_t j = 0; j < columns; ++j) {
          to[j] = narrow<T>(widen(d_row[j]) * math::activate_derivative<kind>(widen(x[j])));
          sum[j] += widen(to[j]);
        }
      });
    });
  }
};

}  // namespace tessera
