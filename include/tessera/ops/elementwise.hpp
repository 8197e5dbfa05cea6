// Elementwise operations: activations, and the accumulation that the tape uses.
#pragma once
#include <tessera/core/math.hpp>
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct activation;
struct add_into;
}  // namespace op

/// y += x. Throws ShapeError where shapes differ or a view is not contiguous.
template <class T, int Rank, class Device>
void add_into(Context<Device>& ctx, const TensorView<T, Rank, Device>& y, In<T, Rank, Device> x) {
  expect_shape("add_into", "x", x.shape, y.shape, "", "y");
  expect_contiguous("add_into", "y", y);
  expect_contiguous("add_into", "x", x);
  Backend<op::add_into, Device>::template run<T>(ctx, y.flat(), x.flat());
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

}  // namespace tessera

#include <tessera/cpu/elementwise.hpp>
