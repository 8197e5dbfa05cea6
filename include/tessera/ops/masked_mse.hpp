// The mean squared error of the rows that a mask names, such as the patches that were hidden from a masked autoencoder
// (He et al., 2022):
//   loss = sum over rows r of m_r * (mean over c of (prediction_rc - target_rc)^2) / sum over rows of m_r,
// m_r = 1 where the mask is not 0. The number of rows that count is saved.
#pragma once
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct masked_mse;
}

namespace detail {
template <class View, class Mask>
void expect_masked_mse(std::string_view op, const View& prediction, const View& target, const Mask& mask) {
  constexpr int rank = View::rank;
  static_assert(rank >= 1 && Mask::rank == rank - 1, "tessera: masked_mse has one mask value a row");
  require<ShapeError>(prediction.shape[rank - 1] > 0, op, ": prediction ", to_string(prediction.shape),
                      " has no channels");
  expect_shape(op, "target", target.shape, prediction.shape, "", "prediction");
  Shape<rank - 1> rows{};
  std::copy_n(prediction.shape.begin(), rank - 1, rows.begin());
  expect_present(op, "mask", mask);
  expect_shape(op, "mask", mask.shape, rows, "", "prediction without the last axis");
  expect_contiguous(op, "prediction", prediction);
  expect_contiguous(op, "target", target);
  expect_contiguous(op, "mask", mask);
}
}  // namespace detail

/// loss [] of prediction and target [..., C] and mask [...]: rows whose mask is 0 do not count and are not read. Where
/// no row counts the loss is 0, and so are the gradients. count [], how many rows count, is written where present; the
/// backward pass needs it. Throws ShapeError where shapes disagree, a view is not contiguous or C is 0.
template <class T, int Rank, class Device>
void masked_mse_forward(Context<Device>& ctx, Out<accumulate_t<T>, 0, Device> loss,
                        Out<accumulate_t<T>, 0, Device> count, const TensorView<T, Rank, Device>& prediction,
                        In<std::remove_const_t<T>, Rank, Device> target, In<uint8_t, Rank - 1, Device> mask) {
  constexpr auto name = "masked_mse_forward";
  using Value = std::remove_const_t<T>;
  const In<Value, Rank, Device> read = prediction;
  detail::expect_masked_mse(name, read, target, mask);
  expect_present(name, "loss", loss);
  Backend<op::masked_mse, Device>::template forward<Value>(ctx, loss, count, read.rows(), target.rows(), mask.flat());
}

/// d_prediction and d_target [..., C], each where present, from d_loss [] and the count that the forward pass saved.
/// d_prediction may be prediction itself, and d_target target, where the other is absent.
template <class T, int Rank, class Device>
void masked_mse_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_prediction, Out<T, Rank, Device> d_target,
                         In<accumulate_t<T>, 0, Device> d_loss, In<accumulate_t<T>, 0, Device> count,
                         In<T, Rank, Device> prediction, In<T, Rank, Device> target,
                         In<uint8_t, Rank - 1, Device> mask) {
  constexpr auto name = "masked_mse_backward";
  detail::expect_masked_mse(name, prediction, target, mask);
  expect_present(name, "d_loss", d_loss);
  expect_present(name, "count", count);
  for (const auto& [written, argument] : {std::pair{d_prediction, "d_prediction"}, {d_target, "d_target"}}) {
    if (!written) continue;
    expect_shape(name, argument, written.shape, prediction.shape, "", "prediction");
    expect_contiguous(name, argument, written);
  }
  const auto rows_of = [](const TensorView<T, Rank, Device>& view) {
    return view ? view.rows() : TensorView<T, 2, Device>{};
  };
  Backend<op::masked_mse, Device>::template backward<T>(ctx, rows_of(d_prediction), rows_of(d_target), d_loss, count,
                                                        prediction.rows(), target.rows(), mask.flat());
}

/// The loss as a new scalar.
template <class T, int Rank, class Device>
auto masked_mse(Context<Device>& ctx, const TensorView<T, Rank, Device>& prediction,
                In<std::remove_const_t<T>, Rank, Device> target, In<uint8_t, Rank - 1, Device> mask) {
  Tensor<accumulate_t<T>, 0, Device> loss(ctx, {});
  masked_mse_forward(ctx, loss, {}, prediction, target, mask);
  return loss;
}

}  // namespace tessera

#include <tessera/cpu/masked_mse.hpp>
