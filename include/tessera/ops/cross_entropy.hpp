// Cross-entropy of logits [R, C] with class numbers or with soft targets:
//   loss_r = sum over c of t_rc (log_sum_exp_r - logits_rc), t smoothed: (1 - label_smoothing) t + label_smoothing / C.
// A class number k is the target with t_k = 1; a row whose class is ignore_index has loss 0 and counts for nothing.
// The log-sum-exp of every row is saved. Conventions are those of PyTorch's cross_entropy but for two: the mean over no
// rows is 0 with zero gradients (PyTorch: NaN), and a soft target of exactly 0 takes no part, so that a class masked by
// a logit of -infinity costs nothing (PyTorch: 0 * infinity = NaN).
#pragma once
#include <tessera/ops/reduce.hpp>

namespace tessera {
namespace op {
struct cross_entropy;
}

/// As PyTorch's.
struct CrossEntropyOptions {
  double label_smoothing = 0;   ///< in [0, 1]
  int32_t ignore_index = -100;  ///< a class number that means "no target"; soft targets have none
  /// How the rows' losses become one number. The mean is over the rows that are not ignored; with soft targets over
  /// all.
  Reduction reduction = Reduction::mean;
};

namespace detail {
template <class T, class A, class Device>
void expect_cross_entropy(std::string_view op, const TensorView<const T, 2, Device>& logits,
                          const TensorView<const A, 1, Device>& log_sum_exp, const CrossEntropyOptions& options) {
  require<ShapeError>(logits.shape[1] > 0, op, ": logits ", to_string(logits.shape), " have no classes");
  require(options.label_smoothing >= 0 && options.label_smoothing <= 1, op, ": label_smoothing is ",
          options.label_smoothing, " but must lie in [0, 1]");
  expect_contiguous(op, "logits", logits);
  if (log_sum_exp) expect_shape(op, "log_sum_exp", log_sum_exp.shape, {logits.shape[0]}, "R", "logits");
}
}  // namespace detail

/// loss [] (reduced), row_loss [R] (not reduced) and log_sum_exp [R], each where present, from logits [R, C] and
/// targets [R], class numbers in [0, C) or options.ignore_index. Throws ValueError naming the row and the number of the
/// first other target.
template <class T, class Device>
void cross_entropy_forward(Context<Device>& ctx, Out<accumulate_t<T>, 0, Device> loss,
                           Out<accumulate_t<T>, 1, Device> row_loss, Out<accumulate_t<T>, 1, Device> log_sum_exp,
                           const TensorView<T, 2, Device>& logits, In<int32_t, 1, Device> targets,
                           CrossEntropyOptions options = {}) {
  constexpr auto name = "cross_entropy_forward";
  using A = accumulate_t<T>;
  using Value = std::remove_const_t<T>;
  detail::expect_cross_entropy<Value, A, Device>(name, logits, log_sum_exp, options);
  expect_shape(name, "targets", targets.shape, {logits.shape[0]}, "R", "logits");
  expect_contiguous(name, "targets", targets);
  if (row_loss) expect_shape(name, "row_loss", row_loss.shape, {logits.shape[0]}, "R", "logits");
  Backend<op::cross_entropy, Device>::template forward<Value>(ctx, loss, row_loss, log_sum_exp, logits, targets,
                                                              options);
}

/// d_logits [R, C] from d_loss [] or d_row_loss [R], whichever are present (both: their sum). d_logits may be logits
/// itself.
template <class T, class Device>
void cross_entropy_backward(Context<Device>& ctx, TensorView<T, 2, Device> d_logits,
                            In<accumulate_t<T>, 0, Device> d_loss, In<accumulate_t<T>, 1, Device> d_row_loss,
                            In<accumulate_t<T>, 1, Device> log_sum_exp, In<T, 2, Device> logits,
                            In<int32_t, 1, Device> targets, CrossEntropyOptions options = {}) {
  constexpr auto name = "cross_entropy_backward";
  detail::expect_cross_entropy<T, accumulate_t<T>, Device>(name, logits, log_sum_exp, options);
  expect_present(name, "log_sum_exp", log_sum_exp);
  require(d_loss || d_row_loss, name, ": both d_loss and d_row_loss are absent; one is needed");
  expect_shape(name, "targets", targets.shape, {logits.shape[0]}, "R", "logits");
  expect_contiguous(name, "targets", targets);
  if (d_row_loss) expect_shape(name, "d_row_loss", d_row_loss.shape, {logits.shape[0]}, "R", "logits");
  if (!d_logits) return;
  expect_shape(name, "d_logits", d_logits.shape, logits.shape, "R C", "logits");
  expect_contiguous(name, "d_logits", d_logits);
  Backend<op::cross_entropy, Device>::template backward<T>(ctx, d_logits, d_loss, d_row_loss, log_sum_exp, logits,
                                                           targets, options);
}

/// As above with soft targets [R, C]: weights of any sum, usually a distribution a row. With Reduction::mean the loss
/// is divided by R.
template <class T, class Device>
void soft_cross_entropy_forward(Context<Device>& ctx, Out<accumulate_t<T>, 0, Device> loss,
                                Out<accumulate_t<T>, 1, Device> row_loss, Out<accumulate_t<T>, 1, Device> log_sum_exp,
                                const TensorView<T, 2, Device>& logits, In<std::remove_const_t<T>, 2, Device> targets,
                                CrossEntropyOptions options = {}) {
  constexpr auto name = "soft_cross_entropy_forward";
  using A = accumulate_t<T>;
  using Value = std::remove_const_t<T>;
  detail::expect_cross_entropy<Value, A, Device>(name, logits, log_sum_exp, options);
  expect_shape(name, "targets", targets.shape, logits.shape, "R C", "logits");
  expect_contiguous(name, "targets", targets);
  if (row_loss) expect_shape(name, "row_loss", row_loss.shape, {logits.shape[0]}, "R", "logits");
  Backend<op::cross_entropy, Device>::template soft_forward<Value>(ctx, loss, row_loss, log_sum_exp, logits, targets,
                                                                   options);
}

/// d_logits [R, C] and d_targets [R, C], each where present, from d_loss [] or d_row_loss [R].
template <class T, class Device>
void soft_cross_entropy_backward(Context<Device>& ctx, TensorView<T, 2, Device> d_logits, Out<T, 2, Device> d_targets,
                                 In<accumulate_t<T>, 0, Device> d_loss, In<accumulate_t<T>, 1, Device> d_row_loss,
                                 In<accumulate_t<T>, 1, Device> log_sum_exp, In<T, 2, Device> logits,
                                 In<T, 2, Device> targets, CrossEntropyOptions options = {}) {
  constexpr auto name = "soft_cross_entropy_backward";
  detail::expect_cross_entropy<T, accumulate_t<T>, Device>(name, logits, log_sum_exp, options);
  expect_present(name, "log_sum_exp", log_sum_exp);
  require(d_loss || d_row_loss, name, ": both d_loss and d_row_loss are absent; one is needed");
  expect_shape(name, "targets", targets.shape, logits.shape, "R C", "logits");
  expect_contiguous(name, "targets", targets);
  if (d_row_loss) expect_shape(name, "d_row_loss", d_row_loss.shape, {logits.shape[0]}, "R", "logits");
  for (const auto& [view, argument] : {std::pair{d_logits, "d_logits"}, {d_targets, "d_targets"}}) {
    if (!view) continue;
    expect_shape(name, argument, view.shape, logits.shape, "R C", "logits");
    expect_contiguous(name, argument, view);
  }
  Backend<op::cross_entropy, Device>::template soft_backward<T>(ctx, d_logits, d_targets, d_loss, d_row_loss,
                                                                log_sum_exp, logits, targets, options);
}

/// The reduced loss of class numbers as a new scalar.
template <class T, class Device>
auto cross_entropy(Context<Device>& ctx, const TensorView<T, 2, Device>& logits, In<int32_t, 1, Device> targets,
                   CrossEntropyOptions options = {}) {
  Tensor<accumulate_t<T>, 0, Device> loss(ctx, {});
  cross_entropy_forward(ctx, loss, {}, {}, logits, targets, options);
  return loss;
}
/// The loss of every row, not reduced, as a new tensor [R]; 0 for ignored rows.
template <class T, class Device>
auto cross_entropy_rows(Context<Device>& ctx, const TensorView<T, 2, Device>& logits, In<int32_t, 1, Device> targets,
                        CrossEntropyOptions options = {}) {
  Tensor<accumulate_t<T>, 1, Device> row_loss(ctx, {logits.shape[0]});
  cross_entropy_forward(ctx, {}, row_loss, {}, logits, targets, options);
  return row_loss;
}
/// The reduced loss of soft targets as a new scalar.
template <class T, class Device>
auto soft_cross_entropy(Context<Device>& ctx, const TensorView<T, 2, Device>& logits,
                        In<std::remove_const_t<T>, 2, Device> targets, CrossEntropyOptions options = {}) {
  Tensor<accumulate_t<T>, 0, Device> loss(ctx, {});
  soft_cross_entropy_forward(ctx, loss, {}, {}, logits, targets, options);
  return loss;
}
/// The loss of every row, not reduced, as a new tensor [R].
template <class T, class Device>
auto soft_cross_entropy_rows(Context<Device>& ctx, const TensorView<T, 2, Device>& logits,
                             In<std::remove_const_t<T>, 2, Device> targets, CrossEntropyOptions options = {}) {
  Tensor<accumulate_t<T>, 1, Device> row_loss(ctx, {logits.shape[0]});
  soft_cross_entropy_forward(ctx, {}, row_loss, {}, logits, targets, options);
  return row_loss;
}

}  // namespace tessera

#include <tessera/cpu/cross_entropy.hpp>
