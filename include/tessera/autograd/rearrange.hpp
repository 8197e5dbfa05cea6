// Moving values on the tape: reshape, permute, slice, split, concatenate, broadcast.
#pragma once
#include <array>

#include <tessera/autograd/tape.hpp>
#include <tessera/ops/rearrange.hpp>

namespace tessera {

/// The same elements under another shape; shares x's memory.
template <class T, int Rank, class Device, class G, size_t NewRank>
Variable<T, int(NewRank), Device, G> reshape(Tape<Device>& tape, const Variable<T, Rank, Device, G>& x,
                                             const std::array<int64_t, NewRank>& shape) {
  const bool records = tape.records(x);
  Variable<T, int(NewRank), Device, G> y(x.value().reshaped(shape), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      auto d_y = take_grad(y);
      if (!d_y) return;
      auto d_x = d_y.reshaped(x.shape());
      d_y = {};
      t.give(x, std::move(d_x));
    });
  return y;
}

/// x with elements of another type, x itself where it has that type: features in bfloat16 whose products are wanted in
/// float. The gradient is rounded to x's type.
template <class To, class T, int Rank, class Device, class G>
auto convert(Tape<Device>& tape, const Variable<T, Rank, Device, G>& x) {
  if constexpr (std::is_same_v<To, T>) {
    return x;
  } else {
    const bool records = tape.records(x);
    Variable<To, Rank, Device> y(convert<To>(tape.ctx, x.value()), records);
    if (records)
      tape.record([=](Tape<Device>& t) {
        const auto d_y = take_grad(y);
        if (!d_y) return;
        t.contribute(x, [&](auto d_x) { copy_forward(t.ctx, view(d_x), view(d_y)); });
      });
    return y;
  }
}

/// x with its axes in another order: the result's axis i is x's axis axes[i].
template <class T, int Rank, class Device>
Variable<T, Rank, Device> permute(Tape<Device>& tape, const Variable<T, Rank, Device>& x,
                                  const std::type_identity_t<std::array<int, size_t(Rank)>>& axes) {
  const bool records = tape.records(x);
  Variable<T, Rank, Device> y(permute(tape.ctx, x.value(), axes), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { permute_backward(t.ctx, view(d_x), d_y, axes); });
    });
  return y;
}

/// [begin, end) of `axis`, as a contiguous copy. Slices of one x (the three parts of packed query, key and value) share
/// one gradient: each adds its part.
template <class T, int Rank, class Device, class G>
Variable<T, Rank, Device> slice(Tape<Device>& tape, const Variable<T, Rank, Device, G>& x, int axis, int64_t begin,
                                int64_t end) {
  const bool records = tape.records(x);
  Variable<T, Rank, Device> y(copy(tape.ctx, x.value().slice(axis, begin, end)), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.add_to_grad(x, [&](TensorView<G, Rank, Device> d_x) {
        const auto part = d_x.slice(axis, begin, end);
        if constexpr (std::is_same_v<G, T>) {
          add_into(t.ctx, part, d_y);
        } else {
          Tensor<G, Rank, Device> wide(t.ctx, d_y.shape);
          copy_forward(t.ctx, view(wide), view(d_y));
          add_into(t.ctx, part, wide);
        }
      });
    });
  return y;
}

/// `Parts` equal parts along `axis`: auto [query, key, value] = split<3>(tape, packed, 2).
template <size_t Parts, class T, int Rank, class Device, class G>
std::array<Variable<T, Rank, Device>, Parts> split(Tape<Device>& tape, const Variable<T, Rank, Device, G>& x,
                                                   int axis) {
  detail::expect_axis("split", axis, x.shape());
  const int64_t extent = x.shape()[size_t(axis)], part = extent / int64_t(Parts);
  require<ShapeError>(extent % int64_t(Parts) == 0, "split: axis ", axis, " of ", to_string(x.shape()), " is ", extent,
                      ", which has no ", Parts, " equal parts");
  std::array<Variable<T, Rank, Device>, Parts> parts;
  for (size_t i = 0; i < Parts; ++i) parts[i] = slice(tape, x, axis, int64_t(i) * part, int64_t(i + 1) * part);
  return parts;
}

/// Variables and parameters of one rank and element type, one after the other along `axis`.
template <class T, int Rank, class Device, class G, class... GOther>
Variable<T, Rank, Device> concatenate(Tape<Device>& tape, int axis, const Variable<T, Rank, Device, G>& first,
                                      const Variable<T, Rank, Device, GOther>&... others) {
  const bool records = tape.records(first, others...);
  Variable<T, Rank, Device> y(concatenate(tape.ctx, axis, first.value(), others.value()...), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      int64_t begin = 0;
      const auto one = [&](const auto& part) {
        const int64_t end = begin + part.shape()[size_t(axis)];
        if (part.requires_grad())
          t.contribute(part, [&](auto d_part) { copy_forward(t.ctx, view(d_part), d_y.slice(axis, begin, end)); });
        begin = end;
      };
      one(first);
      (one(others), ...);
    });
  return y;
}

/// x repeated until it has `shape`: a class token [1, 1, C] for each picture of a batch. Its gradient is the sum.
template <class T, int RankX, class Device, class G, size_t Rank>
Variable<T, int(Rank), Device> broadcast_to(Tape<Device>& tape, const Variable<T, RankX, Device, G>& x,
                                            const std::array<int64_t, Rank>& shape) {
  const bool records = tape.records(x);
  Variable<T, int(Rank), Device> y(broadcast_to(tape.ctx, x.value(), shape), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_y = take_grad(y);
      if (!d_y) return;
      t.contribute(x, [&](auto d_x) { copy_backward(t.ctx, view(d_x), view(d_y)); });
    });
  return y;
}

}  // namespace tessera
