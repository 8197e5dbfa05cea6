// The matrix product with bias and activation: c = activation(op(a) op(b) + bias), batched over leading axes.
//
// Axes: op(a) is [..., M, K], op(b) [..., K, N] or [K, N] for all of a's batch, c [..., M, N], bias [N]. With
// transpose_a, a is stored [..., K, M]; with transpose_b, b is stored [..., N, K] (a linear layer's weight
// [out, in] is b with transpose_b). Rows may be strided; each matrix's last axis is contiguous.
#pragma once
#include <tessera/ops/elementwise.hpp>

namespace tessera {
namespace op {
struct matmul;
}

/// Which factors are transposed, and what is applied to the product (plus bias).
struct MatmulOptions {
  bool transpose_a = false, transpose_b = false;
  Activation activation = Activation::none;
};

namespace detail {

/// A stack of matrices with one stride between them: what providers take.
template <class T, class Device>
struct MatrixStack {
  TensorView<T, 2, Device> matrix;  // the first
  int64_t count = 1, stride = 0;
};

/// Leading axes folded into one. Throws where they have no common stride.
template <class T, int Rank, class Device>
MatrixStack<T, Device> as_stack(std::string_view op, std::string_view name, const TensorView<T, Rank, Device>& view) {
  static_assert(Rank >= 2, "tessera: a matrix product takes tensors of rank 2 or more");
  MatrixStack<T, Device> stack;
  stack.matrix = {view.data, {view.shape[Rank - 2], view.shape[Rank - 1]}, {view.strides[Rank - 2], 1}};
  for (int axis = Rank - 3; axis >= 0; --axis) {
    const int64_t extent = view.shape[size_t(axis)], step = view.strides[size_t(axis)];
    if (extent == 1) continue;
    if (stack.count == 1)
      stack.stride = step;
    else if (step != stack.stride * stack.count)
      fail<ShapeError>(op, ": the batch axes of ", name, " ", to_string(view.shape), " with strides ",
                       to_string(view.strides), " have no common stride (copy it first)");
    stack.count *= extent;
  }
  return stack;
}

/// With one matrix b for the whole batch and a contiguous, the batch is only more rows.
template <class C, class T, class Device>
void fold_batch_into_rows(MatrixStack<C, Device>& c, MatrixStack<T, Device>& a) {
  const auto dense = [](const auto& s) {
    return s.count == 1 || (s.matrix.strides[0] == s.matrix.shape[1] && s.stride == s.matrix.size());
  };
  if (a.count == 1 || !dense(a) || !dense(c)) return;
  a.matrix = {a.matrix.data, {a.count * a.matrix.shape[0], a.matrix.shape[1]}};
  c.matrix = {c.matrix.data, {c.count * c.matrix.shape[0], c.matrix.shape[1]}};
  a.count = c.count = 1;
}

template <class CView, class AView, class BView>
void expect_matmul_shapes(std::string_view op, std::string_view c_name, const CView& c, const AView& a, const BView& b,
                          bool transpose_a, bool transpose_b) {
  constexpr int rank = AView::rank;
  constexpr int b_rank = BView::rank;
  static_assert(CView::rank == rank && (b_rank == rank || b_rank == 2),
                "tessera: a and c have one rank, b the same or 2");
  const int64_t m = a.shape[rank - (transpose_a ? 1 : 2)], k = a.shape[rank - (transpose_a ? 2 : 1)];
  const int64_t n = b.shape[b_rank - (transpose_b ? 2 : 1)], k_of_b = b.shape[b_rank - (transpose_b ? 1 : 2)];
  require<ShapeError>(k == k_of_b, op, ": axis K is ", k, " in a ", to_string(a.shape),
                      transpose_a ? " (transposed)" : "", " but ", k_of_b, " in b ", to_string(b.shape),
                      transpose_b ? " (transposed)" : "");
  auto expected = a.shape;
  expected[rank - 2] = m;
  expected[rank - 1] = n;
  expect_shape(op, c_name, c.shape, expected, "", "a and b");
  if constexpr (b_rank == rank)
    for (size_t axis = 0; axis + 2 < size_t(rank); ++axis)
      require<ShapeError>(a.shape[axis] == b.shape[axis], op, ": batch axis ", axis, " is ", a.shape[axis], " in a ",
                          to_string(a.shape), " but ", b.shape[axis], " in b ", to_string(b.shape));
}
}  // namespace detail

/// c = activation(op(a) op(b) + bias). C is T or, for weight gradients, accumulate_t<T>. bias [N] may be absent. Where
/// pre_activation (the shape of c) is present it receives op(a) op(b) + bias, which the backward pass needs when there
/// is an activation.
template <class C, int Rank, class Device, class TA, class TB, int RankB>
void matmul_forward(Context<Device>& ctx, TensorView<C, Rank, Device> c, Out<C, Rank, Device> pre_activation,
                    const TensorView<TA, Rank, Device>& a, const TensorView<TB, RankB, Device>& b,
                    In<accumulate_t<C>, 1, Device> bias, MatmulOptions options = {}) {
  using T = std::remove_const_t<TA>;
  static_assert(std::is_same_v<T, std::remove_const_t<TB>>, "tessera: a and b have one element type");
  static_assert(std::is_same_v<C, T> || std::is_same_v<C, accumulate_t<T>>);
  constexpr auto name = "matmul_forward";
  detail::expect_matmul_shapes(name, "c", c, a, b, options.transpose_a, options.transpose_b);
  if (bias) expect_shape(name, "bias", bias.shape, {c.shape[Rank - 1]}, "N", "b");
  if (pre_activation) {
    expect_shape(name, "pre_activation", pre_activation.shape, c.shape, "", "c");
    expect_contiguous(name, "pre_activation", pre_activation);
    expect_contiguous(name, "c", c);
    const MatmulOptions linear{options.transpose_a, options.transpose_b};
    matmul_forward(ctx, pre_activation, {}, a, b, bias, linear);
    activation_forward(ctx, c, pre_activation, options.activation);
    return;
  }
  auto c_stack = detail::as_stack(name, "c", c);
  auto a_stack = detail::as_stack(name, "a", TensorView<const T, Rank, Device>(a));
  auto b_stack = detail::as_stack(name, "b", TensorView<const T, RankB, Device>(b));
  if (b_stack.count == 1 && !options.transpose_a) detail::fold_batch_into_rows(c_stack, a_stack);
  if (c.size() == 0) return;
  Backend<op::matmul, Device>::template run<C, T>(ctx, c_stack, a_stack, b_stack, bias, options);
}

/// d_a, d_b (summed over the batch where b has rank 2) and d_bias, each where present, from d_c. pre_activation is
/// needed where there is an activation. d_b may be wider than T.
template <class T, int Rank, class Device, class DB, int RankB, class TB>
void matmul_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_a, const TensorView<DB, RankB, Device>& d_b,
                     Out<accumulate_t<T>, 1, Device> d_bias, In<T, Rank, Device> d_c, In<T, Rank, Device> a,
                     const TensorView<TB, RankB, Device>& b, In<T, Rank, Device> pre_activation,
                     MatmulOptions options = {}) {
  constexpr auto name = "matmul_backward";
  detail::expect_matmul_shapes(name, "d_c", d_c, a, b, options.transpose_a, options.transpose_b);
  if (d_a) expect_shape(name, "d_a", d_a.shape, a.shape, "", "a");
  if (d_b) expect_shape(name, "d_b", d_b.shape, b.shape, "", "b");
  if (d_bias) {
    expect_shape(name, "d_bias", d_bias.shape, {d_c.shape[Rank - 1]}, "N", "d_c");
    expect_contiguous(name, "d_c", d_c);
  }
  Tensor<T, Rank, Device> d_pre_activation;
  if (options.activation != Activation::none) {
    expect_present(name, "pre_activation", pre_activation);
    expect_shape(name, "pre_activation", pre_activation.shape, d_c.shape, "", "d_c");
    expect_contiguous(name, "pre_activation", pre_activation);
    d_pre_activation = Tensor<T, Rank, Device>(ctx, d_c.shape);
    if (d_bias)
      Backend<op::matmul, Device>::template activation_gradient<T>(ctx, d_pre_activation.rows(), d_bias, d_c.rows(),
                                                                   pre_activation.rows(), options.activation);
    else
      activation_backward(ctx, view(d_pre_activation), d_c, pre_activation, options.activation);
    d_c = d_pre_activation;
  } else if (d_bias) {
    Backend<op::matmul, Device>::template bias_gradient<T>(ctx, d_bias, d_c.rows());
  }
  const bool ta = options.transpose_a, tb = options.transpose_b;
  const In<T, RankB, Device> b_view = b;
  if (d_a) {
    if (ta) {
      if constexpr (RankB == Rank)
        matmul_forward(ctx, d_a, {}, b_view, d_c, {}, {.transpose_a = tb, .transpose_b = true});
      else
        fail<ShapeError>(name,
                         ": transpose_a with one b for the whole batch has no gradient for a; transpose a itself");
    } else {
      matmul_forward(ctx, d_a, {}, d_c, b_view, {}, {.transpose_b = !tb});
    }
  }
  if (d_b) {
    if constexpr (RankB == Rank) {
      if (tb)
        matmul_forward(ctx, d_b, {}, d_c, a, {}, {.transpose_a = true, .transpose_b = ta});
      else
        matmul_forward(ctx, d_b, {}, a, d_c, {}, {.transpose_a = !ta});
    } else {
      require<ShapeError>(!ta, name,
                          ": transpose_a with one b for the whole batch has no gradient for b; transpose a itself");
      expect_contiguous(name, "a", a);
      expect_contiguous(name, "d_c", d_c);
      if (tb)
        matmul_forward(ctx, d_b, {}, d_c.rows(), a.rows(), {}, {.transpose_a = true});
      else
        matmul_forward(ctx, d_b, {}, a.rows(), d_c.rows(), {}, {.transpose_a = true});
    }
  }
}

/// activation(op(a) op(b) + bias) as a new tensor.
template <class TA, int Rank, class Device, class TB, int RankB>
auto matmul(Context<Device>& ctx, const TensorView<TA, Rank, Device>& a, const TensorView<TB, RankB, Device>& b,
            In<accumulate_t<TA>, 1, Device> bias = {}, MatmulOptions options = {}) {
  using T = std::remove_const_t<TA>;
  auto shape = a.shape;
  if (options.transpose_a) shape[Rank - 2] = a.shape[Rank - 1];
  shape[Rank - 1] = b.shape[RankB - (options.transpose_b ? 2 : 1)];
  Tensor<T, Rank, Device> c(ctx, shape);
  matmul_forward(ctx, view(c), {}, a, b, bias, options);
  return c;
}

// ---- a linear layer in groups ----

namespace detail {
/// Matrices [rows, columns / groups] that lie side by side in one [rows, columns], as a stack.
template <class T, class Device>
TensorView<T, 3, Device> side_by_side(const TensorView<T, 2, Device>& matrix, int64_t groups) {
  const auto [rows, columns] = matrix.shape;
  return {matrix.data, {groups, rows, columns / groups}, {columns / groups, matrix.strides[0], 1}};
}

template <class T, class Device>
TensorView<T, 3, Device> one_below_the_other(const TensorView<T, 2, Device>& matrix, int64_t groups) {
  return matrix.reshape(Shape<3>{groups, matrix.shape[0] / groups, matrix.shape[1]});
}

template <size_t Rank>
void expect_grouped_linear(std::string_view op, const std::array<int64_t, Rank>& y, std::string_view y_name,
                           const std::array<int64_t, Rank>& x, const Shape<2>& weight, int64_t groups) {
  const int64_t in = x[Rank - 1], out = weight[0];
  require(groups > 0, op, ": groups is ", groups, " but must be positive");
  require<ShapeError>(in > 0 && in % groups == 0, op, ": the ", in, " channels of x ", to_string(x),
                      " are not divisible into ", groups, " groups");
  require<ShapeError>(out > 0 && out % groups == 0, op, ": the ", out, " rows of weight ", to_string(weight),
                      " are not divisible into ", groups, " groups");
  expect_shape(op, "weight", weight, {out, in / groups}, "out in", "x and groups");
  auto expected = x;
  expected[Rank - 1] = out;
  expect_shape(op, y_name, y, expected, "", "x and weight");
}
}  // namespace detail

/// A linear layer whose channels are cut into `groups`, each with a weight of its own (a 1x1 convolution with groups):
/// group g of y [..., out] is group g of x [..., in] times weight's rows of group g, transposed; weight [out, in /
/// groups]. bias [out] may be absent; it is added to the product as stored. One batched product on views that skip the
/// other groups' channels. Throws ShapeError where extents do not fit or a tensor is not contiguous.
template <class T, int Rank, class Device>
void grouped_linear_forward(Context<Device>& ctx, TensorView<T, Rank, Device> y, In<T, Rank, Device> x,
                            In<T, 2, Device> weight, In<accumulate_t<T>, 1, Device> bias, int64_t groups) {
  constexpr auto name = "grouped_linear_forward";
  detail::expect_grouped_linear(name, y.shape, "y", x.shape, weight.shape, groups);
  if (bias) expect_shape(name, "bias", bias.shape, {weight.shape[0]}, "out", "weight");
  expect_contiguous(name, "y", y);
  expect_contiguous(name, "x", x);
  expect_contiguous(name, "weight", weight);
  if (y.size() == 0) return;
  matmul_forward(ctx, detail::side_by_side(y.rows(), groups), {}, detail::side_by_side(x.rows(), groups),
                 detail::one_below_the_other(weight, groups), {}, {.transpose_b = true});
  if (bias) arithmetic_forward(ctx, y, y, bias, Arithmetic::add);
}

/// d_x, d_weight and d_bias, each where present, from d_y. d_weight may be wider than T.
template <class T, int Rank, class Device, class DW>
void grouped_linear_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_x,
                             const TensorView<DW, 2, Device>& d_weight, Out<accumulate_t<T>, 1, Device> d_bias,
                             In<T, Rank, Device> d_y, In<T, Rank, Device> x, In<T, 2, Device> weight, int64_t groups) {
  constexpr auto name = "grouped_linear_backward";
  detail::expect_grouped_linear(name, d_y.shape, "d_y", x.shape, weight.shape, groups);
  if (d_x) expect_shape(name, "d_x", d_x.shape, x.shape, "", "x");
  if (d_weight) expect_shape(name, "d_weight", d_weight.shape, weight.shape, "out in", "weight");
  if (d_bias) expect_shape(name, "d_bias", d_bias.shape, {weight.shape[0]}, "out", "weight");
  expect_contiguous(name, "d_x", d_x);
  expect_contiguous(name, "d_weight", d_weight);
  expect_contiguous(name, "d_y", d_y);
  expect_contiguous(name, "x", x);
  expect_contiguous(name, "weight", weight);
  const auto d_y_groups = detail::side_by_side(d_y.rows(), groups);
  if (d_x && d_x.size() > 0)
    matmul_forward(ctx, detail::side_by_side(d_x.rows(), groups), {}, d_y_groups,
                   detail::one_below_the_other(weight, groups), {});
  if (d_weight)
    matmul_forward(ctx, detail::one_below_the_other(d_weight, groups), {}, d_y_groups,
                   detail::side_by_side(x.rows(), groups), {}, {.transpose_a = true});
  if (d_bias) Backend<op::matmul, Device>::template bias_gradient<T>(ctx, d_bias, d_y.rows());
}

/// The grouped layer's output as a new tensor [..., out].
template <class T, int Rank, class Device>
auto grouped_linear(Context<Device>& ctx, const TensorView<T, Rank, Device>& x,
                    In<std::remove_const_t<T>, 2, Device> weight, int64_t groups,
                    In<accumulate_t<T>, 1, Device> bias = {}) {
  auto shape = x.shape;
  shape[Rank - 1] = weight.shape[0];
  Tensor<std::remove_const_t<T>, Rank, Device> y(ctx, shape);
  grouped_linear_forward(ctx, view(y), x, weight, bias, groups);
  return y;
}

}  // namespace tessera

#include <tessera/cpu/matmul.hpp>
