// Elementwise operations: arithmetic with broadcasting, functions of one argument, activations, and the accumulation
// that the tape uses.
//
// Broadcasting is NumPy's: b may have fewer axes than a (they are its last ones), and where an extent is 1 in a or in b
// the value is repeated. Gradients are summed over repeated axes, in an order that depends on the shapes alone.
#pragma once
#include <tessera/core/math.hpp>
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct activation;
struct add_into;
struct arithmetic;
struct fill;
struct move_average;
struct unary;
struct scale;
}  // namespace op

/// Of two tensors, with broadcasting.
enum class Arithmetic : uint8_t { add, subtract, multiply, divide };
/// Of one tensor, element by element.
enum class Unary : uint8_t { exp, log, sigmoid, tanh, square_root };

/// "add", …, as errors name it.
inline constexpr std::string_view arithmetic_name(Arithmetic kind) {
  constexpr std::string_view names[] = {"add", "subtract", "multiply", "divide"};
  return names[size_t(kind)];
}

namespace math {

template <Arithmetic kind, class A>
TESSERA_HOST_DEVICE inline A calculate(A a, A b) {
  if constexpr (kind == Arithmetic::add) return a + b;
  if constexpr (kind == Arithmetic::subtract) return a - b;
  if constexpr (kind == Arithmetic::multiply) return a * b;
  if constexpr (kind == Arithmetic::divide) return a / b;
}
/// The gradient of calculate<kind>(a, b) with respect to a, times d_y.
template <Arithmetic kind, class A>
TESSERA_HOST_DEVICE inline A gradient_of_first(A d_y, [[maybe_unused]] A b) {
  if constexpr (kind == Arithmetic::multiply) return d_y * b;
  if constexpr (kind == Arithmetic::divide) return d_y / b;
  return d_y;
}
/// The gradient of calculate<kind>(a, b) with respect to b, times d_y.
template <Arithmetic kind, class A>
TESSERA_HOST_DEVICE inline A gradient_of_second(A d_y, [[maybe_unused]] A a, [[maybe_unused]] A b) {
  if constexpr (kind == Arithmetic::subtract) return -d_y;
  if constexpr (kind == Arithmetic::multiply) return d_y * a;
  if constexpr (kind == Arithmetic::divide) return -d_y * (a / b) / b;
  return d_y;
}

template <Unary kind, class A>
TESSERA_HOST_DEVICE inline A apply(A x) {
  if constexpr (kind == Unary::exp) return exp(x);
  if constexpr (kind == Unary::log) return std::log(x);
  if constexpr (kind == Unary::sigmoid) return sigmoid(x);
  if constexpr (kind == Unary::tanh) return tanh(x);
  if constexpr (kind == Unary::square_root) return std::sqrt(x);
}
/// Derivative of apply<kind> at x, where y = apply<kind>(x).
template <Unary kind, class A>
TESSERA_HOST_DEVICE inline A apply_derivative([[maybe_unused]] A x, [[maybe_unused]] A y) {
  if constexpr (kind == Unary::exp) return y;
  if constexpr (kind == Unary::log) return A(1) / x;
  if constexpr (kind == Unary::sigmoid) return y * (A(1) - y);
  if constexpr (kind == Unary::tanh) return (A(1) - y) * (A(1) + y);
  if constexpr (kind == Unary::square_root) return A(0.5) / y;
}

/// Calls f with the operation as a compile-time constant.
template <class F>
auto with_arithmetic(Arithmetic kind, F&& f) {
  switch (kind) {
    case Arithmetic::add:
      return f(std::integral_constant<Arithmetic, Arithmetic::add>{});
    case Arithmetic::subtract:
      return f(std::integral_constant<Arithmetic, Arithmetic::subtract>{});
    case Arithmetic::multiply:
      return f(std::integral_constant<Arithmetic, Arithmetic::multiply>{});
    case Arithmetic::divide:
      return f(std::integral_constant<Arithmetic, Arithmetic::divide>{});
  }
  fail<ValueError>("arithmetic: there is no operation number ", int(kind));
}
template <class F>
void with_unary(Unary kind, F&& f) {
  switch (kind) {
    case Unary::exp:
      return f(std::integral_constant<Unary, Unary::exp>{});
    case Unary::log:
      return f(std::integral_constant<Unary, Unary::log>{});
    case Unary::sigmoid:
      return f(std::integral_constant<Unary, Unary::sigmoid>{});
    case Unary::tanh:
      return f(std::integral_constant<Unary, Unary::tanh>{});
    case Unary::square_root:
      return f(std::integral_constant<Unary, Unary::square_root>{});
  }
}

}  // namespace math

namespace detail {

/// `view` seen with the axes and extents of `shape`: its own axes are the last ones, and the stride is 0 on axes where
/// its value is repeated. Backends read it; its last stride may be 0.
template <class T, int RankIn, class Device, size_t Rank>
TensorView<T, int(Rank), Device> broadcast_view(std::string_view op, std::string_view name,
                                                const TensorView<T, RankIn, Device>& view,
                                                const std::array<int64_t, Rank>& shape) {
  static_assert(RankIn <= int(Rank), "tessera: only to as many axes or more can a tensor be broadcast");
  TensorView<T, int(Rank), Device> result(view.data, shape, {});
  constexpr size_t added = Rank - size_t(RankIn);
  for (size_t axis = 0; axis < size_t(RankIn); ++axis) {
    const int64_t extent = view.shape[axis];
    require<ShapeError>(extent == 1 || extent == shape[axis + added], op, ": axis ", axis, " of ", name, " ",
                        to_string(view.shape), " is ", extent, " but must be 1 or ", shape[axis + added],
                        " (the result is ", to_string(shape), ")");
    result.strides[axis + added] = extent == 1 ? 0 : view.strides[axis];
  }
  return result;
}

/// The extents of the result of an operation on shapes a and b.
template <size_t Rank, size_t RankB>
std::array<int64_t, Rank> broadcast_shape(std::string_view op, const std::array<int64_t, Rank>& a,
                                          const std::array<int64_t, RankB>& b) {
  static_assert(RankB <= Rank, "tessera: the first operand has as many axes as the second, or more");
  std::array<int64_t, Rank> shape = a;
  for (size_t axis = 0; axis < RankB; ++axis) {
    const size_t at = axis + Rank - RankB;
    require<ShapeError>(a[at] == b[axis] || a[at] == 1 || b[axis] == 1, op, ": axis ", at, " is ", a[at], " in a ",
                        to_string(a), " but ", b[axis], " in b ", to_string(b),
                        " (they must be equal, or one of them 1)");
    if (a[at] == 1) shape[at] = b[axis];
  }
  return shape;
}

/// A shape with ones put before it until it has `Rank` axes.
template <size_t Rank, size_t RankIn>
std::array<int64_t, Rank> lifted(const std::array<int64_t, RankIn>& shape) {
  std::array<int64_t, Rank> result;
  result.fill(1);
  std::copy(shape.begin(), shape.end(), result.end() - RankIn);
  return result;
}

}  // namespace detail

/// y += x. x may have any strides, and so may y. Throws ShapeError where shapes differ.
template <class T, int Rank, class Device>
void add_into(Context<Device>& ctx, const TensorView<T, Rank, Device>& y, In<T, Rank, Device> x) {
  expect_shape("add_into", "x", x.shape, y.shape, "", "y");
  Backend<op::add_into, Device>::template run<T>(ctx, y, x);
}

/// y = value at every element; y is contiguous. In the order of the context's work, which Memory<Device>::fill is not.
template <class T, int Rank, class Device>
void fill(Context<Device>& ctx, const TensorView<T, Rank, Device>& y, double value) {
  expect_contiguous("fill", "y", y);
  Backend<op::fill, Device>::template run<T>(ctx, y.flat(), value);
}

/// average = decay * average + (1 - decay) * x: one step of a moving average. Both are contiguous; x may be of another
/// type (parameters in bfloat16 with averages in float). Throws ShapeError where shapes differ.
template <class T, int Rank, class Device, class TX>
void move_average(Context<Device>& ctx, const TensorView<T, Rank, Device>& average,
                  const TensorView<TX, Rank, Device>& x, double decay) {
  expect_shape("move_average", "x", x.shape, average.shape, "", "average");
  expect_contiguous("move_average", "average", average);
  expect_contiguous("move_average", "x", x);
  using X = const std::remove_const_t<TX>;
  Backend<op::move_average, Device>::template run<T, X>(ctx, average.flat(), TensorView<X, 1, Device>(x.flat()), decay);
}

/// y = a + b, a - b, a * b or a / b, with broadcasting: y [...] has the extents of a, b or both; b has a's rank or less
/// and elements T or accumulate_t<T>. Any strides. y may be a, where a has y's shape. Throws ShapeError where extents
/// do not fit.
template <class T, int Rank, class Device, class TB, int RankB>
void arithmetic_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, In<T, Rank, Device> a,
                        const TensorView<TB, RankB, Device>& b, Arithmetic kind) {
  const auto name = arithmetic_name(kind);
  expect_shape(name, "y", y.shape, detail::broadcast_shape(name, a.shape, b.shape), "", "a and b");
  using B = const std::remove_const_t<TB>;
  Backend<op::arithmetic, Device>::template forward<T>(
      ctx, y, detail::broadcast_view(name, "a", a, y.shape),
      detail::broadcast_view(name, "b", TensorView<B, RankB, Device>(b), y.shape), kind);
}

/// d_a and d_b, each where present, from d_y; a and b are read by multiply (each for the other's gradient) and divide.
/// d_a and d_b are contiguous, of type T or accumulate_t<T>. Neither may be d_y.
template <class DA, int Rank, class Device, class DB, int RankB, class TY, class TB>
void arithmetic_backward(Context<Device>& ctx, TensorView<DA, Rank, Device> d_a,
                         const TensorView<DB, RankB, Device>& d_b, const TensorView<TY, Rank, Device>& d_y,
                         In<std::remove_const_t<TY>, Rank, Device> a, const TensorView<TB, RankB, Device>& b,
                         Arithmetic kind) {
  using T = std::remove_const_t<TY>;
  using B = const std::remove_const_t<TB>;
  const auto name = arithmetic_name(kind);
  expect_shape(name, "d_y", d_y.shape, detail::broadcast_shape(name, a.shape, b.shape), "", "a and b");
  if (d_a) expect_shape(name, "d_a", d_a.shape, a.shape, "", "a");
  if (d_b) expect_shape(name, "d_b", d_b.shape, b.shape, "", "b");
  expect_contiguous(name, "d_a", d_a);
  expect_contiguous(name, "d_b", d_b);
  TensorView<DB, Rank, Device> d_b_lifted;
  if (d_b) d_b_lifted = {d_b.data, detail::lifted<size_t(Rank)>(d_b.shape)};
  Backend<op::arithmetic, Device>::template backward<T>(
      ctx, d_a, d_b_lifted, TensorView<const T, Rank, Device>(d_y), detail::broadcast_view(name, "a", a, d_y.shape),
      detail::broadcast_view(name, "b", TensorView<B, RankB, Device>(b), d_y.shape), kind);
}

/// y = factor * x, any shape and strides. y may be x itself. The backward pass is the same with d_y: see
/// scale_backward.
template <class T, int Rank, class Device>
void scale_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, In<T, Rank, Device> x, double factor) {
  expect_shape("scale", "y", y.shape, x.shape, "", "x");
  Backend<op::scale, Device>::template forward<T>(ctx, y, x, factor);
}
/// d_x = factor * d_y. d_x may be d_y itself.
template <class T, int Rank, class Device>
void scale_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x, In<T, Rank, Device> d_y, double factor) {
  expect_shape("scale", "d_x", d_x.shape, d_y.shape, "", "d_y");
  Backend<op::scale, Device>::template forward<T>(ctx, d_x, d_y, factor);
}

/// y = f(x) for one of the functions of one argument, any shape. y may be x itself.
template <class T, int Rank, class Device>
void unary_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, In<T, Rank, Device> x, Unary function) {
  expect_shape("unary_forward", "y", y.shape, x.shape, "", "x");
  expect_contiguous("unary_forward", "y", y);
  expect_contiguous("unary_forward", "x", x);
  Backend<op::unary, Device>::template forward<T>(ctx, y.flat(), x.flat(), function);
}
/// d_x = d_y * f'(x), where y = f(x). d_x may be d_y itself.
template <class T, int Rank, class Device>
void unary_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x, In<T, Rank, Device> d_y,
                    In<T, Rank, Device> x, In<T, Rank, Device> y, Unary function) {
  constexpr auto name = "unary_backward";
  expect_shape(name, "d_x", d_x.shape, x.shape, "", "x");
  expect_shape(name, "d_y", d_y.shape, x.shape, "", "x");
  expect_shape(name, "y", y.shape, x.shape, "", "x");
  expect_contiguous(name, "d_x", d_x);
  expect_contiguous(name, "d_y", d_y);
  expect_contiguous(name, "x", x);
  expect_contiguous(name, "y", y);
  Backend<op::unary, Device>::template backward<T>(ctx, d_x.flat(), d_y.flat(), x.flat(), y.flat(), function);
}

/// y = activation(x), any shape. y may be x itself.
template <class T, int Rank, class Device>
void activation_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, In<T, Rank, Device> x,
                        Activation activation) {
  expect_shape("activation_forward", "y", y.shape, x.shape, "", "x");
  expect_contiguous("activation_forward", "y", y);
  expect_contiguous("activation_forward", "x", x);
  Backend<op::activation, Device>::template forward<T>(ctx, y.flat(), x.flat(), activation);
}

/// d_x = d_y * activation'(x). d_x may be d_y itself.
template <class T, int Rank, class Device>
void activation_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x, In<T, Rank, Device> d_y,
                         In<T, Rank, Device> x, Activation activation) {
  expect_shape("activation_backward", "d_x", d_x.shape, x.shape, "", "x");
  expect_shape("activation_backward", "d_y", d_y.shape, x.shape, "", "x");
  expect_contiguous("activation_backward", "d_x", d_x);
  expect_contiguous("activation_backward", "d_y", d_y);
  expect_contiguous("activation_backward", "x", x);
  Backend<op::activation, Device>::template backward<T>(ctx, d_x.flat(), d_y.flat(), x.flat(), activation);
}

namespace detail {
template <class TA, int Rank, class Device, class TB, int RankB>
auto calculated(Context<Device>& ctx, const TensorView<TA, Rank, Device>& a, const TensorView<TB, RankB, Device>& b,
                Arithmetic kind) {
  Tensor<std::remove_const_t<TA>, Rank, Device> y(ctx, broadcast_shape(arithmetic_name(kind), a.shape, b.shape));
  arithmetic_forward(ctx, view(y), a, b, kind);
  return y;
}
template <class T, int Rank, class Device>
auto applied(Context<Device>& ctx, const TensorView<T, Rank, Device>& x, Unary function) {
  Tensor<std::remove_const_t<T>, Rank, Device> y(ctx, x.shape);
  unary_forward(ctx, view(y), x, function);
  return y;
}
}  // namespace detail

/// a + b as a new tensor, with broadcasting; a has b's rank or more.
template <class TA, int Rank, class Device, class TB, int RankB>
auto add(Context<Device>& ctx, const TensorView<TA, Rank, Device>& a, const TensorView<TB, RankB, Device>& b) {
  return detail::calculated(ctx, a, b, Arithmetic::add);
}
/// a - b as a new tensor, with broadcasting.
template <class TA, int Rank, class Device, class TB, int RankB>
auto subtract(Context<Device>& ctx, const TensorView<TA, Rank, Device>& a, const TensorView<TB, RankB, Device>& b) {
  return detail::calculated(ctx, a, b, Arithmetic::subtract);
}
/// a * b, elementwise, as a new tensor, with broadcasting.
template <class TA, int Rank, class Device, class TB, int RankB>
auto multiply(Context<Device>& ctx, const TensorView<TA, Rank, Device>& a, const TensorView<TB, RankB, Device>& b) {
  return detail::calculated(ctx, a, b, Arithmetic::multiply);
}
/// a / b, elementwise, as a new tensor, with broadcasting.
template <class TA, int Rank, class Device, class TB, int RankB>
auto divide(Context<Device>& ctx, const TensorView<TA, Rank, Device>& a, const TensorView<TB, RankB, Device>& b) {
  return detail::calculated(ctx, a, b, Arithmetic::divide);
}
/// factor * x as a new tensor.
template <class T, int Rank, class Device>
auto scale(Context<Device>& ctx, const TensorView<T, Rank, Device>& x, double factor) {
  Tensor<std::remove_const_t<T>, Rank, Device> y(ctx, x.shape);
  scale_forward(ctx, view(y), x, factor);
  return y;
}
/// activation(x) as a new tensor.
template <class T, int Rank, class Device>
auto activation(Context<Device>& ctx, const TensorView<T, Rank, Device>& x, Activation kind) {
  Tensor<std::remove_const_t<T>, Rank, Device> y(ctx, x.shape);
  activation_forward(ctx, view(y), x, kind);
  return y;
}
/// e^x, elementwise.
template <class T, int Rank, class Device>
auto exp(Context<Device>& ctx, const TensorView<T, Rank, Device>& x) {
  return detail::applied(ctx, x, Unary::exp);
}
/// Natural logarithm, elementwise.
template <class T, int Rank, class Device>
auto log(Context<Device>& ctx, const TensorView<T, Rank, Device>& x) {
  return detail::applied(ctx, x, Unary::log);
}
/// 1 / (1 + e^-x), elementwise.
template <class T, int Rank, class Device>
auto sigmoid(Context<Device>& ctx, const TensorView<T, Rank, Device>& x) {
  return detail::applied(ctx, x, Unary::sigmoid);
}
/// Hyperbolic tangent, elementwise.
template <class T, int Rank, class Device>
auto tanh(Context<Device>& ctx, const TensorView<T, Rank, Device>& x) {
  return detail::applied(ctx, x, Unary::tanh);
}
/// Square root, elementwise.
template <class T, int Rank, class Device>
auto square_root(Context<Device>& ctx, const TensorView<T, Rank, Device>& x) {
  return detail::applied(ctx, x, Unary::square_root);
}

}  // namespace tessera

#include <tessera/cpu/elementwise.hpp>
