// The matrix product on the Simt device. On a GPU it is the library's (cuBLASLt); here the Cpu implementation serves
// it, on copies, as a call that is queued on the context's stream. What no library fuses, the gradients of bias and
// activation, are kernels here as well.
#pragma once
#include <tessera/kernels/matmul.cuh>
#include <tessera/ops/matmul.hpp>
#include <tessera/simt/library.hpp>

namespace tessera {

template <>
struct Backend<op::matmul, Simt> {
  template <class C, class T>
  static void run(Context<Simt>& ctx, const detail::MatrixStack<C, Simt>& c,
                  const detail::MatrixStack<const T, Simt>& a, const detail::MatrixStack<const T, Simt>& b,
                  In<accumulate_t<C>, 1, Simt> bias, const MatmulOptions& options) {
    const auto c_view = as_view(c);
    const auto a_view = as_view(a), b_view = as_view(b);
    simt::LibraryCall call("matmul");
    call.reads(a_view);
    call.reads(b_view);
    call.reads(bias);
    call.writes(c_view);
    call.queue(ctx, [=] {
      Context<Cpu> host;
      const auto a_host = simt::fetch(host, a_view), b_host = simt::fetch(host, b_view);
      const auto bias_host = simt::fetch(host, bias);
      const Tensor<C, 3> c_host(host, c_view.shape);
      Backend<op::matmul, Cpu>::run<C, T>(host, as_stack<C>(c_host), as_stack<const T>(a_host),
                                          as_stack<const T>(b_host), bias_host, options);
      simt::put(c_view, c_host);
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
  template <class T>
  static TensorView<T, 3, Simt> as_view(const detail::MatrixStack<T, Simt>& stack) {
    const auto [rows, columns] = stack.matrix.shape;
    return {stack.matrix.data, {stack.count, rows, columns}, {stack.stride, stack.matrix.strides[0], 1}};
  }
  template <class T, class Copy>
  static detail::MatrixStack<T, Cpu> as_stack(const Copy& copy) {
    return {{copy.data, {copy.shape[1], copy.shape[2]}}, copy.shape[0], copy.shape[1] * copy.shape[2]};
  }
};

}  // namespace tessera
