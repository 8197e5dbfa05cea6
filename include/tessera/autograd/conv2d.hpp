// Convolutions on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/conv2d.hpp>

namespace tessera {

/// The convolution of x [B, C, H, W] with weight [O, C/G, kernel height, kernel width], plus bias [O] or an empty
/// handle.
template <class T, class Device, class G>
Variable<T, 4, Device> conv2d(Tape<Device>& tape, const Variable<T, 4, Device>& x,
                              const Variable<T, 4, Device, G>& weight,
                              const std::type_identity_t<Parameter<accumulate_t<T>, 1, Device>>& bias = {},
                              Conv2dOptions options = {}) {
  using A = accumulate_t<T>;
  const bool records = tape.records(x, weight, bias);
  const Shape<4> shape = detail::expect_conv2d("conv2d", x.shape(), weight.shape(), options);
  Variable<T, 4, Device> y(Tensor<T, 4, Device>(tape.ctx, shape), records);
  conv2d_forward(tape.ctx, view(y.value()), x.value(), weight.value(), bias ? bias.value() : Tensor<A, 1, Device>{},
                 options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) {
        t.contribute(weight, [&](auto d_weight) {
          const auto backward = [&](TensorView<A, 1, Device> d_bias) {
            conv2d_backward(t.ctx, view(d_x), view(d_weight), d_bias, d_y, x.value(), weight.value(), options);
          };
          if (bias)
            t.contribute(bias, backward);
          else
            backward({});
        });
      });
    });
  return y;
}

}  // namespace tessera
