// Rows of assigning tokens to groups and of reconstructing hidden ones: Gumbel-softmax, pooling by assignment, the
// masked mean squared error.
#include <tessera/ops/assignment_pool.hpp>
#include <tessera/ops/gumbel_softmax.hpp>
#include <tessera/ops/masked_mse.hpp>

#include "row.hpp"

namespace bench {
namespace {

void add_gumbel_softmax(int64_t rows, int64_t groups) {
  const std::string shape = extents({rows, groups});
  const Shape<2> logits_shape{rows, groups};
  add_row(row_name<float>("gumbel_softmax", "forward", shape), [=](Row& row) {
    const auto logits = row.input<float>("logits", logits_shape), gumbel = row.input<float>("gumbel", logits_shape);
    const auto assignment = row.output<float>("assignment", logits_shape);
    const Tensor<float, 2> soft(row.ctx, logits_shape);
    row.work = [=, &row] {
      gumbel_softmax_forward(row.ctx, view(assignment), soft, {}, logits, gumbel, {.temperature = 0.9});
    };
  });
  // Noise drawn in place; one logit of a row is so far ahead that noise decides nothing, or no two programs could be
  // compared.
  add_row(row_name<float>("gumbel_softmax", "draw", shape), [=](Row& row) {
    const auto logits = row.input<float>("logits", logits_shape);
    const auto ahead = row.numbers("ahead", Shape<1>{rows}, uint32_t(groups));
    for (int64_t r = 0; r < rows; ++r) logits(r, ahead(r)) += 100;
    row.inputs[0].tensor = io::to_any(logits);
    const auto assignment = row.output<float>("assignment", logits_shape);
    const Tensor<float, 2> soft(row.ctx, logits_shape);
    row.work = [=, &row] {
      gumbel_softmax_forward(row.ctx, view(assignment), soft, {}, logits, {},
                             {.temperature = 0.9, .noise = RandomStream{.seed = 3}});
    };
  });
  add_row(row_name<float>("gumbel_softmax", "backward", shape), [=](Row& row) {
    const auto logits = row.input<float>("logits", logits_shape), gumbel = row.input<float>("gumbel", logits_shape);
    const auto d_assignment = row.input<float>("d_assignment", logits_shape);
    const auto d_logits = row.output<float>("d_logits", logits_shape);
    const Tensor<float, 2> soft(row.ctx, logits_shape), assignment(row.ctx, logits_shape);
    gumbel_softmax_forward(row.ctx, view(assignment), soft, {}, logits, gumbel, {.temperature = 0.9});
    row.work = [=, &row] {
      gumbel_softmax_backward(row.ctx, view(d_logits), d_assignment, soft, {.temperature = 0.9});
    };
  });
}

void add_assignment_pool(int64_t items, int64_t tokens, int64_t channels, int64_t groups) {
  const std::string shape = sentence(extents({items, tokens, channels}), "g", groups);
  // Every token all but wholly in one group; no group's mass is exactly 1, where gradients are a matter of taste.
  const auto weights = [=](Row& row) {
    const auto choice = row.numbers("choice", Shape<2>{items, tokens}, uint32_t(groups));
    const auto assignment = Tensor<float, 3>(row.ctx, {items, tokens, groups});
    std::fill_n(assignment.data, assignment.size(), 0.01f);
    for (int64_t i = 0; i < choice.size(); ++i) assignment.data[i * groups + choice.data[i]] = 0.9f;
    row.add_input("assignment", assignment);
    return assignment;
  };
  for (const std::string pass : {"forward", "backward"})
    add_row(row_name<float>("assignment_pool", pass, shape), [=](Row& row) {
      const auto value = row.input<float>("value", Shape<3>{items, tokens, channels});
      const auto assignment = weights(row);
      const Tensor<float, 2> mass(row.ctx, {items, groups});
      const Shape<3> pooled_shape{items, groups, channels};
      const bool forward = pass == "forward";
      row.flops = (forward ? 2.0 : 4.0) * double(items * tokens * channels * groups);
      const auto pooled = forward ? row.output<float>("pooled", pooled_shape) : Tensor<float, 3>(row.ctx, pooled_shape);
      const auto run_forward = [=, &row] { assignment_pool_forward(row.ctx, view(pooled), mass, value, assignment); };
      row.work = run_forward;
      if (forward) return;
      run_forward();
      const auto d_pooled = row.input<float>("d_pooled", pooled_shape);
      const auto d_value = row.output<float>("d_value", value.shape);
      const auto d_assignment = row.output<float>("d_assignment", assignment.shape);
      row.work = [=, &row] {
        assignment_pool_backward(row.ctx, view(d_value), d_assignment, d_pooled, mass, value, assignment);
      };
    });
}

/// Three tokens in four are hidden.
void add_masked_mse(int64_t items, int64_t tokens, int64_t channels) {
  const Shape<3> shape{items, tokens, channels};
  for (const std::string pass : {"forward", "backward"})
    add_row(row_name<float>("masked_mse", pass, extents({items, tokens, channels})), [=](Row& row) {
      const auto prediction = row.input<float>("prediction", shape), target = row.input<float>("target", shape);
      const Tensor<uint8_t, 2> mask(row.ctx, {items, tokens});
      for (int64_t i = 0; i < mask.size(); ++i) mask.data[i] = RandomStream{.seed = 4}.below(uint64_t(i), 4) != 0;
      row.add_input("mask", mask);
      const bool forward = pass == "forward";
      const auto loss = forward ? row.output<float>("loss", Shape<0>{}) : Tensor<float, 0>(row.ctx, {});
      const Tensor<float, 0> count(row.ctx, {});
      const auto run_forward = [=, &row] { masked_mse_forward(row.ctx, loss, count, view(prediction), target, mask); };
      row.work = run_forward;
      if (forward) return;
      run_forward();
      const float one = 1;
      const auto d_loss = Tensor<float, 0>::from_host(row.ctx, {}, &one);
      const auto d_prediction = row.output<float>("d_prediction", shape);
      row.work = [=, &row] {
        masked_mse_backward(row.ctx, view(d_prediction), {}, d_loss, count, prediction, target, mask);
      };
    });
}

}  // namespace

void add_assignment_rows() {
  add_gumbel_softmax(784, 8);
  add_gumbel_softmax(18816, 8);
  add_assignment_pool(4, 196, 768, 8);
  add_assignment_pool(16, 196, 384, 64);
  add_masked_mse(4, 196, 768);
}

}  // namespace bench
