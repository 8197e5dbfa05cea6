// Sums, means and maxima on the tape. mean(tape, x) of all elements is how a loss per element becomes one number.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/reduce.hpp>

namespace tessera {

namespace detail {

template <class T, int Rank, class Device>
Variable<T, Rank - 1, Device> reduced(Tape<Device>& tape, const Variable<T, Rank, Device>& x, int axis,
                                      Reduction kind) {
  const bool records = tape.records(x);
  Variable<T, Rank - 1, Device> y(reduced(tape.ctx, x.value(), axis, kind), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { reduce_backward(t.ctx, view(d_x), view(d_y), axis, kind); });
    });
  return y;
}
template <class T, int Rank, class Device>
Variable<accumulate_t<T>, 0, Device> reduced(Tape<Device>& tape, const Variable<T, Rank, Device>& x, Reduction kind) {
  const bool records = tape.records(x);
  Variable<accumulate_t<T>, 0, Device> y(reduced(tape.ctx, x.value(), kind), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { reduce_backward(t.ctx, d_x.flat(), view(d_y), 0, kind); });
    });
  return y;
}

}  // namespace detail

/// The sum over `axis`.
template <class T, int Rank, class Device>
Variable<T, Rank - 1, Device> sum(Tape<Device>& tape, const Variable<T, Rank, Device>& x, int axis) {
  return detail::reduced(tape, x, axis, Reduction::sum);
}
/// The mean over `axis`.
template <class T, int Rank, class Device>
Variable<T, Rank - 1, Device> mean(Tape<Device>& tape, const Variable<T, Rank, Device>& x, int axis) {
  return detail::reduced(tape, x, axis, Reduction::mean);
}
/// The sum of all elements, a scalar.
template <class T, int Rank, class Device>
Variable<accumulate_t<T>, 0, Device> sum(Tape<Device>& tape, const Variable<T, Rank, Device>& x) {
  return detail::reduced(tape, x, Reduction::sum);
}
/// The mean of all elements, a scalar.
template <class T, int Rank, class Device>
Variable<accumulate_t<T>, 0, Device> mean(Tape<Device>& tape, const Variable<T, Rank, Device>& x) {
  return detail::reduced(tape, x, Reduction::mean);
}
/// The largest values over `axis`; the gradient goes to the first of the largest.
template <class T, int Rank, class Device>
Variable<T, Rank - 1, Device> max(Tape<Device>& tape, const Variable<T, Rank, Device>& x, int axis) {
  const bool records = tape.records(x);
  auto found = max(tape.ctx, x.value(), axis);
  Variable<T, Rank - 1, Device> y(std::move(found.values), records);
  if (records)
    tape.record([=, index = std::move(found.index)](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { max_backward(t.ctx, view(d_x), d_y, index, axis); });
    });
  return y;
}

}  // namespace tessera
