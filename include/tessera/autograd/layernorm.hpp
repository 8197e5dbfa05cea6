// Layer normalisation on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/layernorm.hpp>

namespace tessera {

/// Layer normalisation of x [..., C] with parameters weight [C] and bias [C].
template <class T, int Rank, class Device>
Variable<T, Rank, Device> layernorm(Tape<Device>& tape, const Variable<T, Rank, Device>& x,
                                    const std::type_identity_t<Parameter<accumulate_t<T>, 1, Device>>& weight,
                                    const std::type_identity_t<Parameter<accumulate_t<T>, 1, Device>>& bias,
                                    LayernormOptions options = {}) {
  using A = accumulate_t<T>;
  const bool records = tape.records(x, weight, bias);
  Variable<T, Rank, Device> y(Tensor<T, Rank, Device>(tape.ctx, x.shape()), records);
  Tensor<A, 1, Device> mean, rstd;
  if (records) {
    const int64_t rows = x.value().rows().shape[0];
    mean = {tape.ctx, {rows}};
    rstd = {tape.ctx, {rows}};
  }
  layernorm_forward(tape.ctx, view(y.value()), mean, rstd, x.value(), weight.value(), bias.value(), options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) {
        t.contribute(weight, [&](auto d_weight) {
          t.contribute(bias, [&](auto d_bias) {
            layernorm_backward(t.ctx, view(d_x), d_weight, d_bias, d_y, mean, rstd, x.value(), weight.value());
          });
        });
      });
    });
  return y;
}

}  // namespace tessera
