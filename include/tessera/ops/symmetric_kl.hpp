// The symmetric Kullback-Leibler divergence of two distributions given by their logits, P = softmax(p) and
// Q = softmax(q) over the last axis:
//   loss = weight * sum over all elements of (P - Q)(log P - log Q) = weight * sum over rows of KL(P || Q) + KL(Q ||
//   P).
// Both arguments have gradients. This is SegCLIP's superpixel loss (Luo et al., 2023) without the pooling.
#pragma once
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct symmetric_kl;
}

/// What the sum is divided by.
struct SymmetricKlOptions {
  bool per_row = false;  ///< weight 1 / (2 rows); else 1 / (2 rows C), as SegCLIP's code has it
};

namespace detail {
/// Of a row: log-sum-exp of p and of q, KL(P || Q), KL(Q || P).
inline constexpr int64_t symmetric_kl_statistics = 4;

inline double symmetric_kl_weight(int64_t rows, int64_t classes, const SymmetricKlOptions& options) {
  const double elements = double(rows) * (options.per_row ? 1.0 : double(classes));
  return elements > 0 ? 0.5 / elements : 0.0;
}
template <class T, int Rank, class Device>
void expect_symmetric_kl(std::string_view op, const TensorView<const T, Rank, Device>& p,
                         const TensorView<const T, Rank, Device>& q,
                         const TensorView<const accumulate_t<T>, 2, Device>& statistics) {
  static_assert(Rank >= 1, "tessera: distributions have an axis");
  const int64_t classes = p.shape[Rank - 1];
  require<ShapeError>(classes > 0, op, ": p ", to_string(p.shape), " has no classes");
  expect_shape(op, "q", q.shape, p.shape, "", "p");
  expect_contiguous(op, "p", p);
  expect_contiguous(op, "q", q);
  if (!statistics) return;
  expect_shape(op, "statistics", statistics.shape, {p.size() / classes, symmetric_kl_statistics}, "rows 4", "p");
  expect_contiguous(op, "statistics", statistics);
}
}  // namespace detail

/// loss [] from the logits p and q [..., C]. statistics [rows, 4] is written where present; the backward pass needs it.
/// A class that is -infinity in both takes no part. The loss over no rows is 0. Throws ShapeError where shapes differ
/// or a view is not contiguous.
template <class T, int Rank, class Device>
void symmetric_kl_forward(Context<Device>& ctx, Out<accumulate_t<T>, 0, Device> loss,
                          Out<accumulate_t<T>, 2, Device> statistics, const TensorView<T, Rank, Device>& p,
                          In<std::remove_const_t<T>, Rank, Device> q, SymmetricKlOptions options = {}) {
  using Value = std::remove_const_t<T>;
  detail::expect_symmetric_kl<Value, Rank, Device>("symmetric_kl_forward", p, q, statistics);
  const In<Value, 2, Device> p_rows = p.rows(), q_rows = q.rows();
  const double weight = detail::symmetric_kl_weight(p_rows.shape[0], p_rows.shape[1], options);
  Backend<op::symmetric_kl, Device>::template forward<Value>(ctx, loss, statistics, p_rows, q_rows, weight);
}

/// d_p and d_q [..., C], each where present, from d_loss [] and what the forward pass saved. d_p may be p, and d_q q.
template <class T, int Rank, class Device>
void symmetric_kl_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_p, Out<T, Rank, Device> d_q,
                           In<accumulate_t<T>, 0, Device> d_loss, In<accumulate_t<T>, 2, Device> statistics,
                           In<T, Rank, Device> p, In<T, Rank, Device> q, SymmetricKlOptions options = {}) {
  constexpr auto name = "symmetric_kl_backward";
  expect_present(name, "d_loss", d_loss);
  expect_present(name, "statistics", statistics);
  detail::expect_symmetric_kl<T, Rank, Device>(name, p, q, statistics);
  for (const auto& [view, argument] : {std::pair{d_p, "d_p"}, {d_q, "d_q"}}) {
    if (!view) continue;
    expect_shape(name, argument, view.shape, p.shape, "", "p");
    expect_contiguous(name, argument, view);
  }
  if (!d_p && !d_q) return;
  const auto rows_of = [](const auto& v) { return v ? v.rows() : TensorView<T, 2, Device>{}; };
  const In<T, 2, Device> p_rows = p.rows();
  const double weight = detail::symmetric_kl_weight(p_rows.shape[0], p_rows.shape[1], options);
  Backend<op::symmetric_kl, Device>::template backward<T>(ctx, rows_of(d_p), rows_of(d_q), d_loss, statistics, p_rows,
                                                          q.rows(), weight);
}

/// The loss as a new scalar.
template <class T, int Rank, class Device>
auto symmetric_kl(Context<Device>& ctx, const TensorView<T, Rank, Device>& p,
                  In<std::remove_const_t<T>, Rank, Device> q, SymmetricKlOptions options = {}) {
  Tensor<accumulate_t<T>, 0, Device> loss(ctx, {});
  symmetric_kl_forward(ctx, loss, {}, p, q, options);
  return loss;
}

}  // namespace tessera

#include <tessera/cpu/symmetric_kl.hpp>
