// L2 normalisation over the last axis and cosine similarity of all pairs of rows.
//
// y = x / max(|x|, epsilon). CLIP divides by the norm alone, which is epsilon 0, the default; PyTorch's normalize has
// 1e-12. With epsilon 0 a zero vector, which has no direction, gives zeros and gradient 0.
#pragma once
#include <tessera/ops/matmul.hpp>

namespace tessera {
namespace op {
struct l2_normalise;
}

/// How rows of length 0 are treated.
struct L2NormaliseOptions {
  double epsilon = 0;
};

/// y [..., C] from x [..., C]; norm [rows], the lengths of x's rows, is written where present; the backward pass needs
/// it. y may be x itself. Throws ShapeError where shapes disagree or a view is not contiguous.
template <class T, int Rank, class Device>
void l2_normalise_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, Out<accumulate_t<T>, 1, Device> norm,
                          In<T, Rank, Device> x, L2NormaliseOptions options = {}) {
  constexpr auto name = "l2_normalise_forward";
  expect_shape(name, "y", y.shape, x.shape, "", "x");
  expect_contiguous(name, "y", y);
  expect_contiguous(name, "x", x);
  require(options.epsilon >= 0, name, ": epsilon is ", options.epsilon, " but must not be negative");
  const auto x_rows = x.rows();
  if (norm) expect_shape(name, "norm", norm.shape, {x_rows.shape[0]}, "rows", "x");
  Backend<op::l2_normalise, Device>::template forward<T>(ctx, y.rows(), norm, x_rows, options);
}
/// d_x from d_y, the saved norm and the result y: (d_y - y (y . d_y)) / norm where norm > epsilon, else d_y / epsilon.
/// d_x may be d_y itself.
template <class T, int Rank, class Device>
void l2_normalise_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x, In<T, Rank, Device> d_y,
                           In<accumulate_t<T>, 1, Device> norm, In<T, Rank, Device> y,
                           L2NormaliseOptions options = {}) {
  constexpr auto name = "l2_normalise_backward";
  expect_shape(name, "d_x", d_x.shape, y.shape, "", "y");
  expect_shape(name, "d_y", d_y.shape, y.shape, "", "y");
  expect_contiguous(name, "d_x", d_x);
  expect_contiguous(name, "d_y", d_y);
  expect_contiguous(name, "y", y);
  const auto y_rows = y.rows();
  expect_shape(name, "norm", norm.shape, {y_rows.shape[0]}, "rows", "y");
  Backend<op::l2_normalise, Device>::template backward<T>(ctx, d_x.rows(), d_y.rows(), norm, y_rows, options);
}

/// What cosine_similarity's forward pass keeps for its backward pass: both operands normalised, and their lengths.
template <class T, int Rank, class Device = Cpu>
struct CosineSimilaritySaved {
  Tensor<T, Rank, Device> a_unit;
  Tensor<T, 2, Device> b_unit;
  Tensor<accumulate_t<T>, 1, Device> a_norm, b_norm;

  CosineSimilaritySaved() = default;
  CosineSimilaritySaved(Context<Device>& ctx, const Shape<Rank>& a, const Shape<2>& b)
      : a_unit(ctx, a),
        b_unit(ctx, b),
        a_norm(ctx, {element_count(a) / std::max<int64_t>(1, a[Rank - 1])}),
        b_norm(ctx, {b[0]}) {}
};

/// y [..., M, N] = cosines of a's rows [..., M, C] with b's rows [N, C]: images with texts, or patches [B, P, C] with
/// texts. `saved` is written.
template <class T, int Rank, class Device>
void cosine_similarity_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y,
                               CosineSimilaritySaved<T, Rank, Device>& saved, In<T, Rank, Device> a, In<T, 2, Device> b,
                               L2NormaliseOptions options = {}) {
  constexpr auto name = "cosine_similarity";
  require<ShapeError>(a.shape[Rank - 1] == b.shape[1] && b.shape[1] > 0, name, ": axis C is ", a.shape[Rank - 1],
                      " in a ", to_string(a.shape), " but ", b.shape[1], " in b ", to_string(b.shape),
                      " (they must be equal and not 0)");
  auto expected = a.shape;
  expected[Rank - 1] = b.shape[0];
  expect_shape(name, "y", y.shape, expected, "", "a and b");
  expect_contiguous(name, "a", a);
  expect_contiguous(name, "b", b);
  l2_normalise_forward(ctx, view(saved.a_unit), saved.a_norm, a, options);
  l2_normalise_forward(ctx, view(saved.b_unit), saved.b_norm, b, options);
  matmul_forward(ctx, y, {}, view(saved.a_unit), view(saved.b_unit), {}, {.transpose_b = true});
}
/// d_a and d_b, each where present, from d_y and what the forward pass saved.
template <class T, int Rank, class Device>
void cosine_similarity_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_a, Out<T, 2, Device> d_b,
                                In<T, Rank, Device> d_y, const CosineSimilaritySaved<T, Rank, Device>& saved,
                                L2NormaliseOptions options = {}) {
  matmul_backward(ctx, d_a, d_b, {}, d_y, saved.a_unit, view(saved.b_unit), {}, {.transpose_b = true});
  if (d_a) l2_normalise_backward(ctx, d_a, d_a, saved.a_norm, saved.a_unit, options);
  if (d_b) l2_normalise_backward(ctx, d_b, d_b, saved.b_norm, saved.b_unit, options);
}

/// x with rows of length 1, as a new tensor.
template <class T, int Rank, class Device>
auto l2_normalise(Context<Device>& ctx, const TensorView<T, Rank, Device>& x, L2NormaliseOptions options = {}) {
  Tensor<std::remove_const_t<T>, Rank, Device> y(ctx, x.shape);
  l2_normalise_forward(ctx, view(y), {}, x, options);
  return y;
}
/// Cosines of all pairs of rows of a [..., M, C] and b [N, C], as a new tensor [..., M, N].
template <class TA, int Rank, class Device>
auto cosine_similarity(Context<Device>& ctx, const TensorView<TA, Rank, Device>& a,
                       In<std::remove_const_t<TA>, 2, Device> b, L2NormaliseOptions options = {}) {
  using T = std::remove_const_t<TA>;
  auto shape = a.shape;
  shape[Rank - 1] = b.shape[0];
  Tensor<T, Rank, Device> y(ctx, shape);
  CosineSimilaritySaved<T, Rank, Device> saved(ctx, a.shape, b.shape);
  cosine_similarity_forward(ctx, view(y), saved, a, b, options);
  return y;
}

}  // namespace tessera

#include <tessera/cpu/similarity.hpp>
