// The matrix product on the Simt device. On a GPU it is the library's (cuBLASLt); here the Cpu implementation serves it
// on copies in host memory, as a library call that waits for the work queued before it. What no library fuses, the
// gradients of bias and activation, are kernels here as well.
#pragma once
#include <tessera/kernels/bias_activation.cuh>
#include <tessera/ops/matmul.hpp>
#include <tessera/simt/device.hpp>

namespace tessera {

template <>
struct Backend<op::matmul, Simt> {
  template <class C, class T>
  static void run(Context<Simt>&, const detail::MatrixStack<C, Simt>& c, const detail::MatrixStack<const T, Simt>& a,
                  const detail::MatrixStack<const T, Simt>& b, In<accumulate_t<C>, 1, Simt> bias,
                  const MatmulOptions& options) {
    Context<Cpu> host;
    const auto a_host = to_host(host, a), b_host = to_host(host, b);
    Tensor<accumulate_t<C>, 1> bias_host;
    if (bias) bias_host = Tensor<accumulate_t<C>, 1>::from_host(host, bias.shape, tessera::to_host(bias));
    Tensor<C, 3> c_host(host, {c.count, c.matrix.shape[0], c.matrix.shape[1]});
    Backend<op::matmul, Cpu>::run<C, T>(host, as_stack<C>(c_host), as_stack<const T>(a_host), as_stack<const T>(b_host),
                                        bias_host, options);
    for_each_piece(c, [&](C* to, int64_t offset, int64_t count) {
      Memory<Simt>::from_host(to, c_host.data + offset, size_t(count) * sizeof(C));
    });
  }

  template <class T>
  static void bias_gradient(Context<Simt>& ctx, Out<float, 1, Simt> d_bias, In<T, 2, Simt> d_c) {
    kernels::bias_gradient(ctx, d_bias.data, d_c.data, d_c.shape[0], d_c.shape[1]);
  }
  template <class T>
  static void activation_gradient(Context<Simt>& ctx, Out<T, 2, Simt> d_pre_activation, Out<float, 1, Simt> d_bias,
                                  In<T, 2, Simt> d_c, In<T, 2, Simt> pre_activation, Activation activation) {
    kernels::bias_activation_gradient(ctx, d_pre_activation.data, d_bias.data, d_c.data, pre_activation.data,
                                      d_c.shape[0], d_c.shape[1], activation);
  }

 private:
  /// Calls visit(first element, its place in a dense copy, count) for the contiguous pieces of a stack: all of it where
  /// it has no gaps, else its rows. What lies between rows is not the stack's, and may never have been written.
  template <class T, class Visit>
  static void for_each_piece(const detail::MatrixStack<T, Simt>& stack, Visit&& visit) {
    const auto [rows, columns] = stack.matrix.shape;
    const int64_t row = stack.matrix.strides[0];
    const bool dense = (row == columns || rows == 1) && (stack.count == 1 || stack.stride == rows * columns);
    if (dense) return visit(stack.matrix.data, 0, stack.count * rows * columns);
    for (int64_t i = 0; i < stack.count; ++i)
      for (int64_t r = 0; r < rows; ++r)
        visit(stack.matrix.data + i * stack.stride + r * row, (i * rows + r) * columns, columns);
  }
  template <class T>
  static Tensor<T, 3> to_host(Context<Cpu>& host, const detail::MatrixStack<const T, Simt>& stack) {
    Tensor<T, 3> copy(host, {stack.count, stack.matrix.shape[0], stack.matrix.shape[1]});
    for_each_piece(stack, [&](const T* from, int64_t offset, int64_t count) {
      Memory<Simt>::to_host(copy.data + offset, from, size_t(count) * sizeof(T));
    });
    return copy;
  }
  template <class T, class Copy>
  static detail::MatrixStack<T, Cpu> as_stack(const Copy& copy) {
    return {{copy.data, {copy.shape[1], copy.shape[2]}}, copy.shape[0], copy.shape[1] * copy.shape[2]};
  }
};

}  // namespace tessera
