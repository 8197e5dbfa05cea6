// Convolution on the Simt device. On a GPU it is the library's (cuDNN); here the Cpu implementation serves it, on
// copies, as a call that is queued on the context's stream. The bias and its gradient are kernels, as on a GPU.
#pragma once
#include <tessera/kernels/conv2d.cuh>
#include <tessera/ops/conv2d.hpp>
#include <tessera/simt/library.hpp>

namespace tessera {

template <>
struct Backend<op::conv2d, Simt> {
  template <class T>
  static void forward(Context<Simt>& ctx, Out<T, 4, Simt> y, In<T, 4, Simt> x, In<T, 4, Simt> weight,
                      In<float, 1, Simt> bias, const Conv2dOptions& options) {
    serve<T>("conv2d_forward", ctx, y, x, weight, [=](auto& host, auto& result, auto& first, auto& second) {
      Backend<op::conv2d, Cpu>::forward<T>(host, result, first, second, {}, options);
    });
    if (bias) kernels::add_channel_bias<T>(ctx, y, bias.data);
  }
  template <class T>
  static void input_gradient(Context<Simt>& ctx, Out<T, 4, Simt> d_x, In<T, 4, Simt> d_y, In<T, 4, Simt> weight,
                             const Conv2dOptions& options) {
    serve<T>("conv2d_input_gradient", ctx, d_x, d_y, weight, [=](auto& host, auto& result, auto& first, auto& second) {
      Backend<op::conv2d, Cpu>::input_gradient<T>(host, result, first, second, options);
    });
  }
  template <class T, class G>
  static void weight_gradient(Context<Simt>& ctx, Out<G, 4, Simt> d_weight, In<T, 4, Simt> d_y, In<T, 4, Simt> x,
                              const Conv2dOptions& options) {
    serve<T>("conv2d_weight_gradient", ctx, d_weight, d_y, x, [=](auto& host, auto& result, auto& first, auto& second) {
      Backend<op::conv2d, Cpu>::weight_gradient<T, G>(host, result, first, second, options);
    });
  }
  template <class T>
  static void bias_gradient(Context<Simt>& ctx, Out<float, 1, Simt> d_bias, In<T, 4, Simt> d_y) {
    kernels::channel_bias_gradient<T>(ctx, d_bias.data, d_y);
  }

 private:
  /// Queues run(host, result, first, second), on copies of `first` and `second`; `result` is then copied to `to`.
  template <class T, class R, class Run>
  static void serve(const char* name, Context<Simt>& ctx, const TensorView<R, 4, Simt>& to, In<T, 4, Simt> first,
                    In<T, 4, Simt> second, const Run& run) {
    static_assert(sizeof(T) <= 4, "tessera: convolutions of doubles are computed on Cpu alone");
    simt::LibraryCall call(name);
    call.reads(first);
    call.reads(second);
    call.writes(to);
    call.queue(ctx, [=] {
      Context<Cpu> host;
      const auto first_host = simt::fetch(host, first), second_host = simt::fetch(host, second);
      const Tensor<R, 4> result(host, to.shape);
      run(host, result, first_host, second_host);
      simt::put(to, result);
    });
  }
};

}  // namespace tessera
