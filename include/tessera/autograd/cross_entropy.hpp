// Cross-entropy on the tape. Losses are accumulate_t<T>; soft targets may require a gradient too.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/cross_entropy.hpp>

namespace tessera {
namespace detail {

/// LossRank 0: reduced, 1: a loss each row. `targets` holds its memory until the backward pass.
template <int LossRank, class T, class Device>
auto record_cross_entropy(Tape<Device>& tape, const Variable<T, 2, Device>& logits,
                          const Tensor<int32_t, 1, Device>& targets, const CrossEntropyOptions& options) {
  using A = accumulate_t<T>;
  const bool records = tape.records(logits);
  const int64_t rows = logits.shape()[0];
  Variable<A, LossRank, Device> loss;
  Tensor<A, 1, Device> log_sum_exp;
  if (records) log_sum_exp = {tape.ctx, {rows}};
  if constexpr (LossRank == 0) {
    loss = Variable<A, 0, Device>(Tensor<A, 0, Device>(tape.ctx, {}), records);
    cross_entropy_forward(tape.ctx, loss.value(), {}, log_sum_exp, logits.value(), targets, options);
  } else {
    loss = Variable<A, 1, Device>(Tensor<A, 1, Device>(tape.ctx, {rows}), records);
    cross_entropy_forward(tape.ctx, {}, loss.value(), log_sum_exp, logits.value(), targets, options);
  }
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_loss = take_grad(loss);
      if (!d_loss) return;
      t.contribute(logits, [&](auto d_logits) {
        if constexpr (LossRank == 0)
          cross_entropy_backward(t.ctx, view(d_logits), d_loss, {}, log_sum_exp, logits.value(), targets, options);
        else
          cross_entropy_backward(t.ctx, view(d_logits), {}, d_loss, log_sum_exp, logits.value(), targets, options);
      });
    });
  return loss;
}

template <int LossRank, class T, class Device>
auto record_soft_cross_entropy(Tape<Device>& tape, const Variable<T, 2, Device>& logits,
                               const Variable<T, 2, Device>& targets, const CrossEntropyOptions& options) {
  using A = accumulate_t<T>;
  const bool records = tape.records(logits, targets);
  const int64_t rows = logits.shape()[0];
  Variable<A, LossRank, Device> loss;
  Tensor<A, 1, Device> log_sum_exp;
  if (records) log_sum_exp = {tape.ctx, {rows}};
  if constexpr (LossRank == 0) {
    loss = Variable<A, 0, Device>(Tensor<A, 0, Device>(tape.ctx, {}), records);
    soft_cross_entropy_forward(tape.ctx, loss.value(), {}, log_sum_exp, logits.value(), targets.value(), options);
  } else {
    loss = Variable<A, 1, Device>(Tensor<A, 1, Device>(tape.ctx, {rows}), records);
    soft_cross_entropy_forward(tape.ctx, {}, loss.value(), log_sum_exp, logits.value(), targets.value(), options);
  }
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_loss = take_grad(loss);
      if (!d_loss) return;
      t.contribute(logits, [&](auto d_logits) {
        t.contribute(targets, [&](auto d_targets) {
          if constexpr (LossRank == 0)
            soft_cross_entropy_backward(t.ctx, view(d_logits), d_targets, d_loss, {}, log_sum_exp, logits.value(),
                                        targets.value(), options);
          else
            soft_cross_entropy_backward(t.ctx, view(d_logits), d_targets, {}, d_loss, log_sum_exp, logits.value(),
                                        targets.value(), options);
        });
      });
    });
  return loss;
}

}  // namespace detail

/// The reduced loss of logits [R, C] and class numbers targets [R].
template <class T, class Device>
Variable<accumulate_t<T>, 0, Device> cross_entropy(Tape<Device>& tape, const Variable<T, 2, Device>& logits,
                                                   const Tensor<int32_t, 1, Device>& targets,
                                                   CrossEntropyOptions options = {}) {
  return detail::record_cross_entropy<0>(tape, logits, targets, options);
}
/// The loss of every row [R], not reduced.
template <class T, class Device>
Variable<accumulate_t<T>, 1, Device> cross_entropy_rows(Tape<Device>& tape, const Variable<T, 2, Device>& logits,
                                                        const Tensor<int32_t, 1, Device>& targets,
                                                        CrossEntropyOptions options = {}) {
  return detail::record_cross_entropy<1>(tape, logits, targets, options);
}
/// The reduced loss of logits [R, C] and soft targets [R, C].
template <class T, class Device>
Variable<accumulate_t<T>, 0, Device> soft_cross_entropy(Tape<Device>& tape, const Variable<T, 2, Device>& logits,
                                                        const Variable<T, 2, Device>& targets,
                                                        CrossEntropyOptions options = {}) {
  return detail::record_soft_cross_entropy<0>(tape, logits, targets, options);
}
/// The loss of every row [R], not reduced.
template <class T, class Device>
Variable<accumulate_t<T>, 1, Device> soft_cross_entropy_rows(Tape<Device>& tape, const Variable<T, 2, Device>& logits,
                                                             const Variable<T, 2, Device>& targets,
                                                             CrossEntropyOptions options = {}) {
  return detail::record_soft_cross_entropy<1>(tape, logits, targets, options);
}

}  // namespace tessera
