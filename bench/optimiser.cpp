// Rows of the optimiser: AdamW and the global norm of gradients over 20 million parameters.
#include <tessera/optim/adamw.hpp>
#include <tessera/optim/gradient_clipping.hpp>

#include "row.hpp"

namespace bench {
namespace {

/// A parameter of normal numbers with a gradient.
Parameter<float, 1> parameter_with_gradient(Row& row, int64_t count) {
  const auto value = row.input<float>("p", Shape<1>{count}), gradient = row.input<float>("gradient", Shape<1>{count});
  Parameter<float, 1> parameter(value, true);
  parameter.state().grad = gradient;
  return parameter;
}

}  // namespace

void add_optimiser_rows() {
  constexpr int64_t count = 20'000'000;
  add_row(row_name<float>("adamw", "step", std::to_string(count)), [](Row& row) {
    const auto parameter = parameter_with_gradient(row, count);
    optim::ParameterList list;
    list.add("p", parameter);
    const auto optimizer = std::make_shared<optim::AdamW>();
    optimizer->add_group(list, {.learning_rate = 1e-3, .weight_decay = 0.05});
    row.outputs.emplace_back("p", [parameter] { return io::to_any(parameter.value()); });
    row.work = [optimizer] { optimizer->step(); };
  });
  add_row(row_name<float>("gradient_norm", "forward", std::to_string(count)), [](Row& row) {
    const auto parameter = parameter_with_gradient(row, count);
    const auto norm = row.output<double>("norm", Shape<0>{});
    optim::ParameterList list;
    list.add("p", parameter);
    row.work = [list, norm] { *norm.data = optim::gradient_norm(list); };
  });
}

}  // namespace bench
