// Matrix products on the tape: linear layers and general batched products.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/matmul.hpp>

namespace tessera {

/// activation(op(a) op(b) + bias); b is an activation or a parameter, of a's rank or 2 (one for all of the batch). bias
/// may be an empty handle.
template <class T, int Rank, class Device, int RankB, class GB>
Variable<T, Rank, Device> matmul(Tape<Device>& tape, const Variable<T, Rank, Device>& a,
                                 const Variable<T, RankB, Device, GB>& b,
                                 const std::type_identity_t<Parameter<accumulate_t<T>, 1, Device>>& bias = {},
                                 MatmulOptions options = {}) {
  const bool records = tape.records(a, b, bias);
  auto shape = a.shape();
  if (options.transpose_a) shape[Rank - 2] = a.shape()[Rank - 1];
  shape[Rank - 1] = b.shape()[RankB - (options.transpose_b ? 2 : 1)];
  Variable<T, Rank, Device> c(Tensor<T, Rank, Device>(tape.ctx, shape), records);
  Tensor<T, Rank, Device> pre_activation;
  if (records && options.activation != Activation::none) pre_activation = {tape.ctx, shape};
  matmul_forward(tape.ctx, view(c.value()), pre_activation, view(a.value()), view(b.value()),
                 bias ? bias.value() : Tensor<accumulate_t<T>, 1, Device>{}, options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_c = take_grad(c);
      if (!d_c) return;
      t.contribute(a, [&](auto d_a) {
        t.contribute(b, [&](auto d_b) {
          const auto backward = [&](TensorView<accumulate_t<T>, 1, Device> d_bias) {
            matmul_backward(t.ctx, view(d_a), view(d_b), d_bias, d_c, a.value(), view(b.value()), pre_activation,
                            options);
          };
          if (bias)
            t.contribute(bias, backward);
          else
            backward({});
        });
      });
    });
  return c;
}

/// A linear layer: activation(x weightᵀ + bias), x [..., in], weight [out, in], bias [out] or an empty handle.
template <class T, int Rank, class Device, class G>
Variable<T, Rank, Device> linear(Tape<Device>& tape, const Variable<T, Rank, Device>& x,
                                 const Variable<T, 2, Device, G>& weight,
                                 const std::type_identity_t<Parameter<accumulate_t<T>, 1, Device>>& bias = {},
                                 Activation activation = Activation::none) {
  return matmul(tape, x, weight, bias, {.transpose_b = true, .activation = activation});
}

/// A linear layer in groups (a grouped 1x1 convolution): x [..., in], weight [out, in / groups], bias [out] or an empty
/// handle; see grouped_linear_forward.
template <class T, int Rank, class Device, class G>
Variable<T, Rank, Device> grouped_linear(Tape<Device>& tape, const Variable<T, Rank, Device>& x,
                                         const Variable<T, 2, Device, G>& weight, int64_t groups,
                                         const std::type_identity_t<Parameter<accumulate_t<T>, 1, Device>>& bias = {}) {
  using A = accumulate_t<T>;
  const bool records = tape.records(x, weight, bias);
  const auto bias_value = bias ? bias.value() : Tensor<A, 1, Device>{};
  Variable<T, Rank, Device> y(grouped_linear(tape.ctx, x.value(), weight.value(), groups, bias_value), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) {
        t.contribute(weight, [&](auto d_weight) {
          const auto backward = [&](TensorView<A, 1, Device> d_bias) {
            grouped_linear_backward(t.ctx, view(d_x), view(d_weight), d_bias, d_y, x.value(), weight.value(), groups);
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
