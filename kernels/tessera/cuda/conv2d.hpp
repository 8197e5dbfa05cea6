// Convolution on the GPU: cuDNN, where the program was built with it (TESSERA_CUDNN is defined; CMake's option of that
// name). The bias and its gradient are kernels.
#pragma once
#include <tessera/kernels/conv2d.cuh>
#include <tessera/kernels/rearrange.cuh>
#include <tessera/ops/conv2d.hpp>
#if defined(TESSERA_CUDNN)
#include <tessera/cuda/dnn.hpp>
#endif

namespace tessera {

template <>
struct Backend<op::conv2d, Cuda> {
  template <class T>
  static void forward(Context<Cuda>& ctx, Out<T, 4, Cuda> y, In<T, 4, Cuda> x, In<T, 4, Cuda> weight,
                      In<float, 1, Cuda> bias, const Conv2dOptions& options) {
    convolve<T>(ctx, Pass::forward, x, weight, y, options);
    if (bias) kernels::add_channel_bias<T>(ctx, y, bias.data);
  }
  template <class T>
  static void input_gradient(Context<Cuda>& ctx, Out<T, 4, Cuda> d_x, In<T, 4, Cuda> d_y, In<T, 4, Cuda> weight,
                             const Conv2dOptions& options) {
    convolve<T>(ctx, Pass::input_gradient, d_x, weight, d_y, options);
  }
  /// The library sums in float and writes T; a wider d_weight is converted from that.
  template <class T, class G>
  static void weight_gradient(Context<Cuda>& ctx, Out<G, 4, Cuda> d_weight, In<T, 4, Cuda> d_y, In<T, 4, Cuda> x,
                              const Conv2dOptions& options) {
    if (x.shape[0] == 0) {  // the library takes no empty maps; the sum of nothing is 0
      cuda::check(cudaMemsetAsync(d_weight.data, 0, size_t(d_weight.size()) * sizeof(G), ctx.stream->handle()),
                  "conv2d_weight_gradient");
    } else if constexpr (std::is_same_v<T, G>) {
      convolve<T>(ctx, Pass::weight_gradient, x, d_weight, d_y, options);
    } else {
      Tensor<T, 4, Cuda> rounded(ctx, d_weight.shape);
      convolve<T>(ctx, Pass::weight_gradient, x, rounded, d_y, options);
      copy_forward(ctx, d_weight, view(rounded));
    }
  }
  template <class T>
  static void bias_gradient(Context<Cuda>& ctx, Out<float, 1, Cuda> d_bias, In<T, 4, Cuda> d_y) {
    kernels::channel_bias_gradient<T>(ctx, d_bias.data, d_y);
  }

 private:
  enum class Pass : uint8_t { forward, input_gradient, weight_gradient };

  /// The result of the pass, x, weight or y, is written.
  template <class T>
  static void convolve([[maybe_unused]] Context<Cuda>& ctx, [[maybe_unused]] Pass pass,
                       [[maybe_unused]] In<T, 4, Cuda> x, [[maybe_unused]] In<T, 4, Cuda> weight,
                       [[maybe_unused]] In<T, 4, Cuda> y, [[maybe_unused]] const Conv2dOptions& options) {
    static_assert(!std::is_same_v<T, double>, "tessera: convolutions of doubles are computed on Cpu alone");
#if defined(TESSERA_CUDNN)
    cuda::DnnConvolution convolution;  // field by field: nvcc garbles designated initialisers in templates
    convolution.pass = cuda::ConvolutionPass(pass);
    convolution.dtype = dtype_of<T>;
    convolution.x = x.shape;
    convolution.weight = weight.shape;
    convolution.y = y.shape;
    convolution.options = options;
    convolution.float_products = ctx.float_products;
    cuda::dnn(ctx).convolve(ctx, convolution, x.data, weight.data, y.data);
#else
    fail<Error>(
        "conv2d: this program was built without cuDNN, which convolves on a GPU (install its headers and library "
        "and configure with TESSERA_CUDNN=ON, or compile with -DTESSERA_CUDNN and link cudnn)");
#endif
  }
};

}  // namespace tessera
