// Rows of elementwise operations, at the width of ViT-B's MLP (activations) and of its residual stream (arithmetic).
#include <tessera/ops/elementwise.hpp>

#include "row.hpp"

namespace bench {
namespace {

template <class T>
void add_activation(Activation kind, int64_t rows, int64_t columns) {
  const std::string operation(activation_name(kind)), shape = extents({rows, columns});
  add_row(row_name<T>(operation, "forward", shape), [=](Row& row) {
    const auto x = row.input<T>("x", Shape<2>{rows, columns});
    const auto y = row.output<T>("y", x.shape);
    row.work = [=, &row] { activation_forward(row.ctx, view(y), x, kind); };
  });
  add_row(row_name<T>(operation, "backward", shape), [=](Row& row) {
    const auto x = row.input<T>("x", Shape<2>{rows, columns}), d_y = row.input<T>("d_y", x.shape);
    const auto d_x = row.output<T>("d_x", x.shape);
    row.work = [=, &row] { activation_backward(row.ctx, view(d_x), d_y, x, kind); };
  });
}

/// y = a (kind) b, b of a's shape or one row of it.
template <class T>
void add_arithmetic(Arithmetic kind, int64_t rows, int64_t columns, bool broadcast) {
  const std::string operation(arithmetic_name(kind));
  const std::string shape = extents({rows, columns}) + (broadcast ? "_row" : "");
  const Shape<2> b_shape{broadcast ? 1 : rows, columns};
  add_row(row_name<T>(operation, "forward", shape), [=](Row& row) {
    const auto a = row.input<T>("a", Shape<2>{rows, columns}), b = row.input<T>("b", b_shape);
    const auto y = row.output<T>("y", a.shape);
    row.work = [=, &row] { arithmetic_forward(row.ctx, view(y), a, view(b), kind); };
  });
  if (kind == Arithmetic::add && !broadcast) return;  // the gradients are d_y itself
  add_row(row_name<T>(operation, "backward", shape), [=](Row& row) {
    const auto a = row.input<T>("a", Shape<2>{rows, columns}), b = row.input<T>("b", b_shape);
    const auto d_y = row.input<T>("d_y", a.shape);
    const auto d_a = row.output<T>("d_a", a.shape), d_b = row.output<T>("d_b", b.shape);
    row.work = [=, &row] { arithmetic_backward(row.ctx, view(d_a), view(d_b), view(d_y), a, view(b), kind); };
  });
}

void add_unary(Unary kind, const std::string& operation, int64_t rows, int64_t columns) {
  const std::string shape = extents({rows, columns});
  add_row(row_name<float>(operation, "forward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", Shape<2>{rows, columns}), y = row.output<float>("y", x.shape);
    row.work = [=, &row] { unary_forward(row.ctx, view(y), x, kind); };
  });
  add_row(row_name<float>(operation, "backward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", Shape<2>{rows, columns}), d_y = row.input<float>("d_y", x.shape);
    const auto d_x = row.output<float>("d_x", x.shape);
    Tensor<float, 2> y(row.ctx, x.shape);
    unary_forward(row.ctx, view(y), x, kind);
    row.work = [=, &row] { unary_backward(row.ctx, view(d_x), d_y, x, y, kind); };
  });
}

}  // namespace

void add_elementwise_rows() {
  for (Activation kind : {Activation::gelu, Activation::quick_gelu}) {
    add_activation<float>(kind, 1576, 3072);
    add_activation<bfloat16>(kind, 1576, 3072);
  }
  add_activation<float>(Activation::gelu_tanh, 1576, 3072);
  add_activation<float>(Activation::gelu, 2048, 512);
  add_arithmetic<float>(Arithmetic::add, 1576, 768, false);
  add_arithmetic<bfloat16>(Arithmetic::add, 1576, 768, false);
  add_arithmetic<float>(Arithmetic::add, 1576, 768, true);
  add_arithmetic<float>(Arithmetic::multiply, 1576, 768, false);
  add_arithmetic<float>(Arithmetic::multiply, 1576, 768, true);
  add_arithmetic<float>(Arithmetic::divide, 1576, 768, false);
  add_unary(Unary::exp, "exp", 1576, 768);
  add_unary(Unary::sigmoid, "sigmoid", 1576, 768);
  add_unary(Unary::tanh, "tanh", 1576, 768);
  add_row(row_name<float>("scale", "forward", "1576x768"), [](Row& row) {
    const auto x = row.input<float>("x", Shape<2>{1576, 768}), y = row.output<float>("y", x.shape);
    row.work = [=, &row] { scale_forward(row.ctx, view(y), x, 0.125); };
  });
}

}  // namespace bench
