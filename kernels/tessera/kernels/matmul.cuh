// The matrix product on kernels' devices: by the library of the device (included at the end). Here, what surrounds it
// where the library has no epilogue: y = activation(x + bias) after it, and
// before its backward pass the gradient of the activation together with that of the bias, in one reading of d_y.
// cuBLASLt has GELU by tanh alone, neither quick GELU nor GELU by erf.
#pragma once
#include <tessera/kernels/elementwise.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

/// A function for elementwise(): of an element and its column's bias.
template <class Y, Activation activation>
struct BiasActivate {
  template <class X>
  TESSERA_DEVICE Y operator()(X x, float bias) const {
    return narrow<Y>(activate<activation>(widen(x) + bias));
  }
};
/// Numbers to be summed for the bias: the gradient before the activation, computed, stored and rounded as it is read.
template <class T, Activation activation>
struct ActivationGradientSource {
  T* d_x;
  const T *d_y, *x;
  static constexpr int pack = int(16 / sizeof(T));

  template <int Count>
  TESSERA_DEVICE void read(float (&values)[Count], int64_t at) const {
    const auto gradient = load_elements<Count>(d_y + at), before = load_elements<Count>(x + at);
    Elements<T, Count> result;
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) {
      result[i] = narrow<T>(widen(gradient[i]) * activate_derivative<activation>(widen(before[i])));
      values[i] = widen(result[i]);  // what the weight's gradient sees
    }
    store_elements<Count>(d_x + at, result);
  }
  template <int Count>
  bool fits() const {
    constexpr auto alignment = uintptr_t(pack_alignment<T, Count>);
    return (reinterpret_cast<uintptr_t>(d_x) | reinterpret_cast<uintptr_t>(d_y) | reinterpret_cast<uintptr_t>(x)) %
               alignment ==
           0;
  }
};

/// Host: queues y = activation(x + bias), y and x [batch, rows, columns] with any strides, bias [columns] or null.
/// y may be x.
template <class Y, class X>
void bias_activation(Context<KernelDevice>& ctx, const TensorView<Y, 3, KernelDevice>& y,
                     const TensorView<const X, 3, KernelDevice>& x, const float* bias, Activation activation) {
  constexpr auto name = "bias_activation";
  math::with_activation(activation, [&]<Activation a>(std::integral_constant<Activation, a>) {
    if (bias)
      elementwise(name, ctx, BiasActivate<Y, a>{}, {y.shape, {y.strides, x.strides, Shape<3>{0, 0, 1}}}, y.data, x.data,
                  bias);
    else
      elementwise(name, ctx, Activate<Y, a>{}, {y.shape, {y.strides, x.strides}}, y.data, x.data);
  });
}

/// Host: queues d_bias [columns] = sum over the rows of d_y [rows, columns], contiguous.
template <class T>
void bias_gradient(Context<KernelDevice>& ctx, float* d_bias, const T* d_y, int64_t rows, int64_t columns) {
  sum_axis("bias_gradient", ctx, d_bias, ArraySource<T>{d_y}, {1, rows, columns, 0, columns});
}

/// Host: queues d_x = d_y * activation'(x) and, where d_bias is not null, d_bias = the sum of d_x's rows, in one pass
/// over d_y and x [rows, columns], all contiguous.
template <class T>
void bias_activation_gradient(Context<KernelDevice>& ctx, T* d_x, float* d_bias, const T* d_y, const T* x, int64_t rows,
                              int64_t columns, Activation activation) {
  constexpr auto name = "bias_activation_gradient";
  math::with_activation(activation, [&]<Activation a>(std::integral_constant<Activation, a>) {
    if (d_bias) {
      sum_axis(name, ctx, d_bias, ActivationGradientSource<T, a>{d_x, d_y, x}, {1, rows, columns, 0, columns});
    } else {
      const Shape<1> all{rows * columns};
      elementwise(name, ctx, ActivateGradient<T, a>{}, {all, {Shape<1>{1}, Shape<1>{1}, Shape<1>{1}}}, d_x, d_y, x);
    }
  });
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

#include <tessera/device/matmul.cuh>
