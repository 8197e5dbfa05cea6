// Rows of operations on rows of a matrix: softmax, layer and group normalisation, L2 normalisation, sums and maxima.
#include <tessera/ops/groupnorm.hpp>
#include <tessera/ops/layernorm.hpp>
#include <tessera/ops/reduce.hpp>
#include <tessera/ops/similarity.hpp>
#include <tessera/ops/softmax.hpp>

#include "row.hpp"

namespace bench {
namespace {

void add_softmax(bool logarithm, int64_t rows, int64_t columns) {
  const std::string operation = logarithm ? "log_softmax" : "softmax", shape = extents({rows, columns});
  const auto forward = [=](Context<Cpu>& ctx, const Tensor<float, 2>& y, const Tensor<float, 2>& x) {
    logarithm ? log_softmax_forward(ctx, view(y), x) : softmax_forward(ctx, view(y), x);
  };
  add_row(row_name<float>(operation, "forward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", Shape<2>{rows, columns}), y = row.output<float>("y", x.shape);
    row.work = [=, &row] { forward(row.ctx, y, x); };
  });
  add_row(row_name<float>(operation, "backward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", Shape<2>{rows, columns}), d_y = row.input<float>("d_y", x.shape);
    const auto d_x = row.output<float>("d_x", x.shape);
    const Tensor<float, 2> y(row.ctx, x.shape);
    forward(row.ctx, y, x);
    row.work = [=, &row] {
      logarithm ? log_softmax_backward(row.ctx, view(d_x), d_y, y) : softmax_backward(row.ctx, view(d_x), d_y, y);
    };
  });
}

template <class T>
void add_layernorm(int64_t rows, int64_t channels) {
  const std::string shape = extents({rows, channels});
  add_row(row_name<T>("layernorm", "forward", shape), [=](Row& row) {
    const auto x = row.input<T>("x", Shape<2>{rows, channels});
    const auto weight = row.input<float>("weight", Shape<1>{channels});
    const auto bias = row.input<float>("bias", Shape<1>{channels});
    const auto y = row.output<T>("y", x.shape);
    row.work = [=, &row] { layernorm_forward(row.ctx, view(y), {}, {}, x, weight, bias); };
  });
  add_row(row_name<T>("layernorm", "backward", shape), [=](Row& row) {
    const auto x = row.input<T>("x", Shape<2>{rows, channels}), d_y = row.input<T>("d_y", x.shape);
    const auto weight = row.input<float>("weight", Shape<1>{channels});
    const auto bias = row.input<float>("bias", Shape<1>{channels});
    const auto d_x = row.output<T>("d_x", x.shape);
    const auto d_weight = row.output<float>("d_weight", weight.shape), d_bias = row.output<float>("d_bias", bias.shape);
    const Tensor<T, 2> y(row.ctx, x.shape);
    const Tensor<float, 1> mean(row.ctx, {rows}), rstd(row.ctx, {rows});
    layernorm_forward(row.ctx, view(y), mean, rstd, x, weight, bias);
    row.work = [=, &row] { layernorm_backward(row.ctx, view(d_x), d_weight, d_bias, d_y, mean, rstd, x, weight); };
  });
}

/// Of maps [B, C, H, W], with 32 groups.
void add_groupnorm(int64_t items, int64_t channels, int64_t side) {
  constexpr int64_t groups = 32;
  const Shape<4> maps{items, channels, side, side};
  add_row(row_name<float>("groupnorm", "forward", extents({items, channels, side, side})), [=](Row& row) {
    const auto x = row.input<float>("x", maps);
    const auto weight = row.input<float>("weight", Shape<1>{channels});
    const auto bias = row.input<float>("bias", Shape<1>{channels});
    const auto y = row.output<float>("y", maps);
    row.work = [=, &row] { groupnorm_forward(row.ctx, view(y), {}, {}, x, weight, bias, {.groups = groups}); };
  });
  add_row(row_name<float>("groupnorm", "backward", extents({items, channels, side, side})), [=](Row& row) {
    const auto x = row.input<float>("x", maps), d_y = row.input<float>("d_y", maps);
    const auto weight = row.input<float>("weight", Shape<1>{channels});
    const auto bias = row.input<float>("bias", Shape<1>{channels});
    const auto d_x = row.output<float>("d_x", maps);
    const auto d_weight = row.output<float>("d_weight", weight.shape), d_bias = row.output<float>("d_bias", bias.shape);
    const Tensor<float, 4> y(row.ctx, maps);
    const Tensor<float, 2> mean(row.ctx, {items, groups}), rstd(row.ctx, {items, groups});
    groupnorm_forward(row.ctx, view(y), mean, rstd, x, weight, bias, {.groups = groups});
    row.work = [=, &row] { groupnorm_backward(row.ctx, view(d_x), d_weight, d_bias, d_y, mean, rstd, x, weight); };
  });
}

void add_l2_normalise(int64_t rows, int64_t channels) {
  const std::string shape = extents({rows, channels});
  add_row(row_name<float>("l2_normalise", "forward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", Shape<2>{rows, channels}), y = row.output<float>("y", x.shape);
    row.work = [=, &row] { l2_normalise_forward(row.ctx, view(y), {}, x); };
  });
  add_row(row_name<float>("l2_normalise", "backward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", Shape<2>{rows, channels}), d_y = row.input<float>("d_y", x.shape);
    const auto d_x = row.output<float>("d_x", x.shape);
    const Tensor<float, 2> y(row.ctx, x.shape);
    const Tensor<float, 1> norm(row.ctx, {rows});
    l2_normalise_forward(row.ctx, view(y), norm, x);
    row.work = [=, &row] { l2_normalise_backward(row.ctx, view(d_x), d_y, norm, y); };
  });
}

/// Over the tokens of [B, N, C].
void add_reductions(int64_t items, int64_t tokens, int64_t channels) {
  const std::string shape = extents({items, tokens, channels});
  const Shape<3> x_shape{items, tokens, channels};
  const Shape<2> y_shape{items, channels};
  add_row(row_name<float>("mean", "forward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", x_shape);
    const auto y = row.output<float>("y", y_shape);
    row.work = [=, &row] { reduce_forward(row.ctx, view(y), view(x), 1, Reduction::mean); };
  });
  add_row(row_name<float>("mean", "backward", shape), [=](Row& row) {
    const auto d_y = row.input<float>("d_y", y_shape);
    const auto d_x = row.output<float>("d_x", x_shape);
    row.work = [=, &row] { reduce_backward(row.ctx, view(d_x), view(d_y), 1, Reduction::mean); };
  });
  add_row(row_name<float>("max", "forward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", x_shape);
    const auto y = row.output<float>("y", y_shape);
    const auto index = row.output<int32_t>("index", y_shape);
    row.work = [=, &row] { max_forward(row.ctx, view(y), index, view(x), 1); };
  });
  add_row(row_name<float>("max", "backward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", x_shape);
    const auto d_y = row.input<float>("d_y", y_shape);
    const auto d_x = row.output<float>("d_x", x_shape);
    const Tensor<float, 2> y(row.ctx, y_shape);
    const Tensor<int32_t, 2> index(row.ctx, y_shape);
    max_forward(row.ctx, view(y), index, view(x), 1);
    row.work = [=, &row] { max_backward(row.ctx, view(d_x), d_y, index, 1); };
  });
}

}  // namespace

void add_normalisation_rows() {
  add_softmax(false, 18912, 197);  // the weights of ViT-B/16's 12 heads at batch 8
  add_softmax(true, 1024, 1024);
  add_layernorm<float>(1576, 768);
  add_layernorm<bfloat16>(1576, 768);
  add_layernorm<float>(2048, 128);
  add_groupnorm(2, 256, 56);
  add_l2_normalise(1576, 512);
  add_reductions(8, 197, 768);
}

}  // namespace bench
