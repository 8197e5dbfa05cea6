// Softmax and log-softmax over the last axis: y = e^x / sum(e^x), and its logarithm x - log(sum(e^x)).
//
// The row's maximum is subtracted first, so that no exponential overflows. Logits of -infinity (masked positions) have
// probability 0. A row of nothing but -infinity has no distribution: softmax is 0 everywhere in it and log-softmax
// -infinity, and its gradient is 0. A NaN or +infinity makes its row NaN.
#pragma once
#include <tessera/core/math.hpp>
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct softmax;
struct log_softmax;
}  // namespace op

namespace detail {
template <class T, int Rank, class Device, class Y>
void expect_softmax_shapes(std::string_view op, std::string_view out, const TensorView<T, Rank, Device>& written,
                           std::string_view d_y_name, const Y& d_y, std::string_view last, const Y& from) {
  static_assert(Rank >= 1, "tessera: softmax needs an axis");
  expect_shape(op, out, written.shape, from.shape, "", last);
  expect_shape(op, d_y_name, d_y.shape, from.shape, "", last);
  expect_contiguous(op, out, written);
  expect_contiguous(op, d_y_name, d_y);
  expect_contiguous(op, last, from);
}
}  // namespace detail

/// y [..., C] = softmax(x [..., C]) over the last axis. y may be x itself. Throws ShapeError where shapes differ or a
/// view is not contiguous.
template <class T, int Rank, class Device>
void softmax_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, In<T, Rank, Device> x) {
  detail::expect_softmax_shapes("softmax_forward", "y", y, "x", x, "x", x);
  Backend<op::softmax, Device>::template forward<T>(ctx, y.rows(), x.rows());
}
/// d_x = y * (d_y - sum(y * d_y)). d_x may be d_y itself.
template <class T, int Rank, class Device>
void softmax_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x, In<T, Rank, Device> d_y,
                      In<T, Rank, Device> y) {
  detail::expect_softmax_shapes("softmax_backward", "d_x", d_x, "d_y", d_y, "y", y);
  Backend<op::softmax, Device>::template backward<T>(ctx, d_x.rows(), d_y.rows(), y.rows());
}

/// y [..., C] = log(softmax(x [..., C])) over the last axis. y may be x itself.
template <class T, int Rank, class Device>
void log_softmax_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, In<T, Rank, Device> x) {
  detail::expect_softmax_shapes("log_softmax_forward", "y", y, "x", x, "x", x);
  Backend<op::log_softmax, Device>::template forward<T>(ctx, y.rows(), x.rows());
}
/// d_x = d_y - e^y * sum(d_y). d_x may be d_y itself.
template <class T, int Rank, class Device>
void log_softmax_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x, In<T, Rank, Device> d_y,
                          In<T, Rank, Device> y) {
  detail::expect_softmax_shapes("log_softmax_backward", "d_x", d_x, "d_y", d_y, "y", y);
  Backend<op::log_softmax, Device>::template backward<T>(ctx, d_x.rows(), d_y.rows(), y.rows());
}

/// softmax(x) over the last axis, as a new tensor.
template <class T, int Rank, class Device>
auto softmax(Context<Device>& ctx, const TensorView<T, Rank, Device>& x) {
  Tensor<std::remove_const_t<T>, Rank, Device> y(ctx, x.shape);
  softmax_forward(ctx, view(y), x);
  return y;
}
/// log(softmax(x)) over the last axis, as a new tensor.
template <class T, int Rank, class Device>
auto log_softmax(Context<Device>& ctx, const TensorView<T, Rank, Device>& x) {
  Tensor<std::remove_const_t<T>, Rank, Device> y(ctx, x.shape);
  log_softmax_forward(ctx, view(y), x);
  return y;
}

}  // namespace tessera

#include <tessera/cpu/softmax.hpp>
