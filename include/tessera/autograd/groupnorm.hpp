// Group normalisation on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/groupnorm.hpp>

namespace tessera {

/// Group normalisation of x [B, C, …] with parameters weight [C] and bias [C].
template <class T, int Rank, class Device>
Variable<T, Rank, Device> groupnorm(Tape<Device>& tape, const Variable<T, Rank, Device>& x,
                                    const std::type_identity_t<Parameter<accumulate_t<T>, 1, Device>>& weight,
                                    const std::type_identity_t<Parameter<accumulate_t<T>, 1, Device>>& bias,
                                    GroupnormOptions options = {}) {
  using A = accumulate_t<T>;
  const bool records = tape.records(x, weight, bias);
  Variable<T, Rank, Device> y(Tensor<T, Rank, Device>(tape.ctx, x.shape()), records);
  Tensor<A, 2, Device> mean, rstd;
  if (records) {
    mean = {tape.ctx, {x.shape()[0], options.groups}};
    rstd = {tape.ctx, mean.shape};
  }
  groupnorm_forward(tape.ctx, view(y.value()), mean, rstd, x.value(), weight.value(), bias.value(), options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) {
        t.contribute(weight, [&](auto d_weight) {
          t.contribute(bias, [&](auto d_bias) {
            groupnorm_backward(t.ctx, view(d_x), d_weight, d_bias, d_y, mean, rstd, x.value(), weight.value());
          });
        });
      });
    });
  return y;
}

}  // namespace tessera
