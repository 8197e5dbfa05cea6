// Elementwise operations on kernels' devices: accumulation, arithmetic with broadcasting, functions of one argument and
// activations, with their gradients. All of them are elementwise() of a function; gradients of repeated operands are
// products, summed by sum_onto() in a fixed order.
#pragma once
#include <tessera/kernels/activation.cuh>
#include <tessera/kernels/strided.cuh>
#include <tessera/kernels/sums.cuh>
#include <tessera/ops/elementwise.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

// ---- functions of elements ----

template <class T>
struct Sum {
  TESSERA_DEVICE T operator()(T a, T b) const { return narrow<T>(widen(a) + widen(b)); }
};
template <class T>
struct Constant {
  T value;
  TESSERA_DEVICE T operator()() const { return value; }
};
/// One step of a moving average.
template <class T>
struct MoveAverage {
  float decay, rest;
  template <class X>
  TESSERA_DEVICE T operator()(T average, X x) const {
    return narrow<T>(decay * widen(average) + rest * widen(x));
  }
};
template <class T, Arithmetic kind>
struct Calculate {
  template <class B>
  TESSERA_DEVICE T operator()(T a, B b) const {
    return narrow<T>(math::calculate<kind>(widen(a), widen(b)));
  }
};
/// The gradient of a product's operand is d_y times the other operand.
template <class D>
struct Product {
  template <class T, class B>
  TESSERA_DEVICE D operator()(T d_y, B other) const {
    return narrow<D>(widen(d_y) * widen(other));
  }
};
template <class D>
struct Quotient {
  template <class T, class B>
  TESSERA_DEVICE D operator()(T d_y, B b) const {
    return narrow<D>(widen(d_y) / widen(b));
  }
};
template <class D>
struct DenominatorGradient {
  template <class T, class B>
  TESSERA_DEVICE D operator()(T d_y, T a, B b) const {
    return narrow<D>(math::gradient_of_second<Arithmetic::divide>(widen(d_y), widen(a), widen(b)));
  }
};

/// A function of one argument, by CUDA's own library.
template <Unary function>
TESSERA_DEVICE float apply(float x) {
  if constexpr (function == Unary::exp) return expf(x);
  if constexpr (function == Unary::log) return logf(x);
  if constexpr (function == Unary::sigmoid) return 1.0f / (1.0f + expf(-x));
  if constexpr (function == Unary::tanh) return tanhf(x);
  if constexpr (function == Unary::square_root) return sqrtf(x);
}
template <class T, Unary function>
struct Apply {
  TESSERA_DEVICE T operator()(T x) const { return narrow<T>(apply<function>(widen(x))); }
};
template <class T, Unary function>
struct ApplyGradient {
  TESSERA_DEVICE T operator()(T d_y, T x, T y) const {
    return narrow<T>(widen(d_y) * math::apply_derivative<function>(widen(x), widen(y)));
  }
};
template <class Y, Activation activation>
struct Activate {
  template <class X>
  TESSERA_DEVICE Y operator()(X x) const {
    return narrow<Y>(activate<activation>(widen(x)));
  }
};
template <class T, Activation activation>
struct ActivateGradient {
  TESSERA_DEVICE T operator()(T d_y, T x) const {
    return narrow<T>(widen(d_y) * activate_derivative<activation>(widen(x)));
  }
};

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::add_into, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  template <class T, int Rank>
  static void run(Context<Device>& ctx, TensorView<T, Rank, Device> y, TensorView<const T, Rank, Device> x) {
    kernels::elementwise("add_into", ctx, kernels::Sum<T>{}, {y.shape, {y.strides, y.strides, x.strides}}, y.data,
                         static_cast<const T*>(y.data), x.data);
  }
};

template <>
struct Backend<op::fill, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  template <class T>
  static void run(Context<Device>& ctx, TensorView<T, 1, Device> y, double value) {
    kernels::elementwise("fill", ctx, kernels::Constant<T>{narrow<T>(accumulate_t<T>(value))}, {y.shape, {y.strides}},
                         y.data);
  }
};

template <>
struct Backend<op::move_average, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  template <class T, class X>
  static void run(Context<Device>& ctx, TensorView<T, 1, Device> average, TensorView<X, 1, Device> x, double decay) {
    kernels::elementwise("move_average", ctx, kernels::MoveAverage<T>{float(decay), float(1 - decay)},
                         {average.shape, {average.strides, average.strides, x.strides}}, average.data,
                         static_cast<const T*>(average.data), x.data);
  }
};

template <>
struct Backend<op::arithmetic, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;

  template <class T, class TB, int Rank>
  static void forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, TensorView<const T, Rank, Device> a,
                      TensorView<const TB, Rank, Device> b, Arithmetic kind) {
    math::with_arithmetic(kind, [&]<Arithmetic k>(std::integral_constant<Arithmetic, k>) {
      kernels::elementwise("arithmetic_forward", ctx, kernels::Calculate<T, k>{},
                           {y.shape, {y.strides, a.strides, b.strides}}, y.data, a.data, b.data);
    });
  }

  template <class T, class DA, class DB, class TB, int Rank>
  static void backward(Context<Device>& ctx, TensorView<DA, Rank, Device> d_a, TensorView<DB, Rank, Device> d_b,
                       TensorView<const T, Rank, Device> d_y, TensorView<const T, Rank, Device> a,
                       TensorView<const TB, Rank, Device> b, Arithmetic kind) {
    if (d_a) operand_gradient<Operand::first>(ctx, d_a, d_y, a, b, kind);
    if (d_b) operand_gradient<Operand::second>(ctx, d_b, d_y, a, b, kind);
  }

 private:
  enum class Operand { first, second };

  /// An operand's gradient, summed over the axes on which d has extent 1 and d_y more.
  template <Operand operand, class D, class T, class TB, int Rank>
  static void operand_gradient(Context<Device>& ctx, TensorView<D, Rank, Device> d,
                               TensorView<const T, Rank, Device> d_y, TensorView<const T, Rank, Device> a,
                               TensorView<const TB, Rank, Device> b, Arithmetic kind) {
    if (d.shape == d_y.shape) return products<operand>(ctx, d, d_y, a, b, kind);
    const bool is_d_y = kind == Arithmetic::add || (kind == Arithmetic::subtract && operand == Operand::first);
    if (is_d_y && d_y.is_contiguous()) return kernels::sum_onto(ctx, d.data, d.shape, d_y.data, d_y.shape);
    Tensor<float, Rank, Device> each(ctx, d_y.shape);
    products<operand>(ctx, view(each), d_y, a, b, kind);
    kernels::sum_onto(ctx, d.data, d.shape, static_cast<const float*>(each.data), d_y.shape);
  }

  /// d = d_y times the derivative, not yet summed. Reads of a and b only what the derivative holds.
  template <Operand operand, class D, class T, class TB, int Rank>
  static void products(Context<Device>& ctx, TensorView<D, Rank, Device> d, TensorView<const T, Rank, Device> d_y,
                       TensorView<const T, Rank, Device> a, TensorView<const TB, Rank, Device> b, Arithmetic kind) {
    constexpr auto name = "arithmetic_backward";
    constexpr bool first = operand == Operand::first;
    const auto with_other = [&](auto f, const auto& other) {
      kernels::elementwise(name, ctx, f, {d.shape, {d.strides, d_y.strides, other.strides}}, d.data, d_y.data,
                           other.data);
    };
    switch (kind) {
      case Arithmetic::add:
      case Arithmetic::subtract: {
        const float sign = !first && kind == Arithmetic::subtract ? -1.0f : 1.0f;
        kernels::elementwise(name, ctx, kernels::Scale<D>{sign}, {d.shape, {d.strides, d_y.strides}}, d.data, d_y.data);
        break;
      }
      case Arithmetic::multiply:
        if constexpr (first)
          with_other(kernels::Product<D>{}, b);
        else
          with_other(kernels::Product<D>{}, a);
        break;
      case Arithmetic::divide:
        if constexpr (first)
          with_other(kernels::Quotient<D>{}, b);
        else
          kernels::elementwise(name, ctx, kernels::DenominatorGradient<D>{},
                               {d.shape, {d.strides, d_y.strides, a.strides, b.strides}}, d.data, d_y.data, a.data,
                               b.data);
        break;
    }
  }
};

template <>
struct Backend<op::scale, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  template <class T, int Rank>
  static void forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, TensorView<const T, Rank, Device> x,
                      double factor) {
    kernels::elementwise("scale", ctx, kernels::Scale<T>{float(factor)}, {y.shape, {y.strides, x.strides}}, y.data,
                         x.data);
  }
};

template <>
struct Backend<op::unary, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 1, Device> y, In<T, 1, Device> x, Unary function) {
    math::with_unary(function, [&]<Unary f>(std::integral_constant<Unary, f>) {
      kernels::elementwise("unary_forward", ctx, kernels::Apply<T, f>{}, {y.shape, {y.strides, x.strides}}, y.data,
                           x.data);
    });
  }
  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 1, Device> d_x, In<T, 1, Device> d_y, In<T, 1, Device> x,
                       In<T, 1, Device> y, Unary function) {
    math::with_unary(function, [&]<Unary f>(std::integral_constant<Unary, f>) {
      kernels::elementwise("unary_backward", ctx, kernels::ApplyGradient<T, f>{},
                           {d_x.shape, {d_x.strides, d_y.strides, x.strides, y.strides}}, d_x.data, d_y.data, x.data,
                           y.data);
    });
  }
};

template <>
struct Backend<op::activation, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 1, Device> y, In<T, 1, Device> x, Activation activation) {
    math::with_activation(activation, [&]<Activation a>(std::integral_constant<Activation, a>) {
      kernels::elementwise("activation_forward", ctx, kernels::Activate<T, a>{}, {y.shape, {y.strides, x.strides}},
                           y.data, x.data);
    });
  }
  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 1, Device> d_x, In<T, 1, Device> d_y, In<T, 1, Device> x,
                       Activation activation) {
    math::with_activation(activation, [&]<Activation a>(std::integral_constant<Activation, a>) {
      kernels::elementwise("activation_backward", ctx, kernels::ActivateGradient<T, a>{},
                           {d_x.shape, {d_x.strides, d_y.strides, x.strides}}, d_x.data, d_y.data, x.data);
    });
  }
};

}  // namespace tessera
