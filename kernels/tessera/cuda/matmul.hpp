// The matrix product on the GPU: cuBLASLt, with bias and activation in its epilogue where it has one, and else by one
// kernel after it.
#pragma once
#include <tessera/cuda/blas.hpp>
#include <tessera/kernels/matmul.cuh>
#include <tessera/ops/matmul.hpp>

namespace tessera {

template <>
struct Backend<op::matmul, Cuda> {
  template <class C, class T>
  static void run(Context<Cuda>& ctx, const detail::MatrixStack<C, Cuda>& c,
                  const detail::MatrixStack<const T, Cuda>& a, const detail::MatrixStack<const T, Cuda>& b,
                  In<accumulate_t<C>, 1, Cuda> bias, const MatmulOptions& options) {
    static_assert(!std::is_same_v<T, double>, "tessera: matrix products of doubles are computed on Cpu alone");
    const int64_t k = a.matrix.shape[options.transpose_a ? 0 : 1];
    const TensorView<C, 3, Cuda> result(c.matrix.data, {c.count, c.matrix.shape[0], c.matrix.shape[1]},
                                        {c.stride, c.matrix.strides[0], 1});
    if (k == 0) {  // the library takes no empty matrices; the sum of nothing is 0
      zero(ctx, result);
    } else {
      require<ShapeError>(c.count <= std::numeric_limits<int32_t>::max(), "matmul: a batch of ", c.count,
                          " products; the GPU's library takes 2^31 - 1 at most");
      cuda::BlasProduct product;  // field by field: nvcc garbles designated initialisers in templates
      product.in = dtype_of<T>;
      product.out = dtype_of<C>;
      product.count = c.count;
      product.m = c.matrix.shape[0];
      product.n = c.matrix.shape[1];
      product.k = k;
      product.a = operand("a", a, options.transpose_a);
      product.b = operand("b", b, options.transpose_b);
      product.c = operand("c", c, false);
      product.bias = bias.data;
      product.activation = options.activation;
      product.float_products = ctx.float_products;
      const bool complete = cuda::blas(ctx).multiply(*ctx.stream, product);
      if (complete) return;
    }
    if (bias || options.activation != Activation::none)
      kernels::bias_activation<C, C>(ctx, result, result, bias.data, options.activation);
  }

  template <class T>
  static void bias_gradient(Context<Cuda>& ctx, Out<float, 1, Cuda> d_bias, In<T, 2, Cuda> d_c) {
    kernels::bias_gradient(ctx, d_bias.data, d_c.data, d_c.shape[0], d_c.shape[1]);
  }
  template <class T>
  static void activation_gradient(Context<Cuda>& ctx, Out<T, 2, Cuda> d_pre_activation, Out<float, 1, Cuda> d_bias,
                                  In<T, 2, Cuda> d_c, In<T, 2, Cuda> pre_activation, Activation activation) {
    kernels::bias_activation_gradient(ctx, d_pre_activation.data, d_bias.data, d_c.data, pre_activation.data,
                                      d_c.shape[0], d_c.shape[1], activation);
  }

 private:
  template <class T>
  static cuda::BlasProduct::Operand operand(std::string_view name, const detail::MatrixStack<T, Cuda>& stack,
                                            bool transposed) {
    const auto [rows, columns] = stack.matrix.shape;
    // One row has no next: its stride may be anything.
    const int64_t row = rows == 1 ? std::max(stack.matrix.strides[0], columns) : stack.matrix.strides[0];
    require<ShapeError>(row >= columns, "matmul: the rows of ", name, " [", rows, ", ", columns, "] are ", row,
                        " elements apart and overlap; the GPU's library takes no such view (copy it first)");
    return {stack.matrix.data, row, stack.count > 1 ? stack.stride : 0, transposed};
  }
  template <class C>
  static void zero(Context<Cuda>& ctx, const TensorView<C, 3, Cuda>& c) {
    const auto row = size_t(c.shape[2]) * sizeof(C), pitch = size_t(std::max(c.strides[1], c.shape[2])) * sizeof(C);
    for (int64_t i = 0; i < c.shape[0]; ++i)
      cuda::check(cudaMemset2DAsync(c.data + i * c.strides[0], pitch, 0, row, size_t(c.shape[1]), ctx.stream->handle()),
                  "matmul: zeros where there is nothing to add up");
  }
};

}  // namespace tessera
