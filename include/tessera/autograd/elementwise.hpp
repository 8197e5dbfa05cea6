// Elementwise operations on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/elementwise.hpp>

namespace tessera {

namespace detail {

template <class T, int Rank, class Device, class GA, class TB, int RankB, class GB>
Variable<T, Rank, Device> calculated(Tape<Device>& tape, const Variable<T, Rank, Device, GA>& a,
                                     const Variable<TB, RankB, Device, GB>& b, Arithmetic kind) {
  const bool records = tape.records(a, b);
  Tensor<T, Rank, Device> value(tape.ctx, broadcast_shape(arithmetic_name(kind), a.shape(), b.shape()));
  arithmetic_forward(tape.ctx, view(value), a.value(), view(b.value()), kind);
  Variable<T, Rank, Device> y(std::move(value), records);
  if (!records) return y;
  tape.record([=](Tape<Device>& t) {
    auto d_y = take_grad(y);
    if (!d_y) return;
    const auto backward = [&](auto d_a, auto d_b) {
      if (d_a || d_b) arithmetic_backward(t.ctx, view(d_a), view(d_b), view(d_y), a.value(), view(b.value()), kind);
    };
    if constexpr (std::is_same_v<GA, T>) {
      if (kind == Arithmetic::add && a.shape() == y.shape()) {  // d_y is a's gradient as it is
        t.contribute(b, [&](auto d_b) { backward(Tensor<GA, Rank, Device>{}, d_b); });
        t.give(a, std::move(d_y));
        return;
      }
    }
    t.contribute(a, [&](auto d_a) { t.contribute(b, [&](auto d_b) { backward(d_a, d_b); }); });
  });
  return y;
}

template <class T, int Rank, class Device, class G>
Variable<T, Rank, Device> applied(Tape<Device>& tape, const Variable<T, Rank, Device, G>& x, Unary function) {
  static_assert(std::is_same_v<G, T>,
                "tessera: functions of one argument take activations, or parameters of type float");
  const bool records = tape.records(x);
  Variable<T, Rank, Device> y(Tensor<T, Rank, Device>(tape.ctx, x.shape()), records);
  unary_forward(tape.ctx, view(y.value()), x.value(), function);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { unary_backward(t.ctx, view(d_x), d_y, x.value(), y.value(), function); });
    });
  return y;
}

}  // namespace detail

/// a + b with broadcasting. b has a's rank or less: an activation (a residual), or a parameter such as a bias [C] or
/// positional embeddings [N, C] onto [B, N, C].
template <class T, int Rank, class Device, class GA, class TB, int RankB, class GB>
Variable<T, Rank, Device> add(Tape<Device>& tape, const Variable<T, Rank, Device, GA>& a,
                              const Variable<TB, RankB, Device, GB>& b) {
  return detail::calculated(tape, a, b, Arithmetic::add);
}
/// a - b with broadcasting.
template <class T, int Rank, class Device, class GA, class TB, int RankB, class GB>
Variable<T, Rank, Device> subtract(Tape<Device>& tape, const Variable<T, Rank, Device, GA>& a,
                                   const Variable<TB, RankB, Device, GB>& b) {
  return detail::calculated(tape, a, b, Arithmetic::subtract);
}
/// a * b, elementwise, with broadcasting.
template <class T, int Rank, class Device, class GA, class TB, int RankB, class GB>
Variable<T, Rank, Device> multiply(Tape<Device>& tape, const Variable<T, Rank, Device, GA>& a,
                                   const Variable<TB, RankB, Device, GB>& b) {
  return detail::calculated(tape, a, b, Arithmetic::multiply);
}
/// a / b, elementwise, with broadcasting.
template <class T, int Rank, class Device, class GA, class TB, int RankB, class GB>
Variable<T, Rank, Device> divide(Tape<Device>& tape, const Variable<T, Rank, Device, GA>& a,
                                 const Variable<TB, RankB, Device, GB>& b) {
  return detail::calculated(tape, a, b, Arithmetic::divide);
}

/// factor * x.
template <class T, int Rank, class Device>
Variable<T, Rank, Device> scale(Tape<Device>& tape, const Variable<T, Rank, Device>& x, double factor) {
  const bool records = tape.records(x);
  Variable<T, Rank, Device> y(Tensor<T, Rank, Device>(tape.ctx, x.shape()), records);
  scale_forward(tape.ctx, view(y.value()), x.value(), factor);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { scale_backward(t.ctx, view(d_x), d_y, factor); });
    });
  return y;
}

/// activation(x).
template <class T, int Rank, class Device>
Variable<T, Rank, Device> activation(Tape<Device>& tape, const Variable<T, Rank, Device>& x, Activation kind) {
  const bool records = tape.records(x);
  Variable<T, Rank, Device> y(Tensor<T, Rank, Device>(tape.ctx, x.shape()), records);
  activation_forward(tape.ctx, view(y.value()), x.value(), kind);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { activation_backward(t.ctx, view(d_x), d_y, x.value(), kind); });
    });
  return y;
}

/// e^x.
template <class T, int Rank, class Device, class G>
Variable<T, Rank, Device> exp(Tape<Device>& tape, const Variable<T, Rank, Device, G>& x) {
  return detail::applied(tape, x, Unary::exp);
}
/// Natural logarithm.
template <class T, int Rank, class Device, class G>
Variable<T, Rank, Device> log(Tape<Device>& tape, const Variable<T, Rank, Device, G>& x) {
  return detail::applied(tape, x, Unary::log);
}
/// 1 / (1 + e^-x).
template <class T, int Rank, class Device, class G>
Variable<T, Rank, Device> sigmoid(Tape<Device>& tape, const Variable<T, Rank, Device, G>& x) {
  return detail::applied(tape, x, Unary::sigmoid);
}
/// Hyperbolic tangent.
template <class T, int Rank, class Device, class G>
Variable<T, Rank, Device> tanh(Tape<Device>& tape, const Variable<T, Rank, Device, G>& x) {
  return detail::applied(tape, x, Unary::tanh);
}
/// Square root.
template <class T, int Rank, class Device, class G>
Variable<T, Rank, Device> square_root(Tape<Device>& tape, const Variable<T, Rank, Device, G>& x) {
  return detail::applied(tape, x, Unary::square_root);
}

}  // namespace tessera
