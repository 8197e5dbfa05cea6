// Random weights for a row's model.
#pragma once
#include <cmath>

#include <tessera/nn/module.hpp>

#include "row.hpp"

namespace bench {

/// Weights that keep activations at the size that trained ones have; norms and biases near 1 and 0.
template <class Module>
void fill_parameters(Module& module) {
  uint64_t stream = 100;
  nn::for_each_parameter(module, [&]<class P>(const std::string& name, P& parameter) {
    auto& value = parameter.state().value;
    const bool matrix = P::rank >= 2;
    const double fan_in = matrix ? double(value.size() / value.shape[0]) : 1;
    fill_normal(value.data, value.size(), ++stream, matrix ? 1 / std::sqrt(fan_in) : 0.1);
    const bool gain = P::rank == 1 && name.ends_with("weight");
    if (gain)
      for (int64_t i = 0; i < value.size(); ++i)
        value.data[i] = narrow<typename P::value_type>(1 + widen(value.data[i]));
  });
}

}  // namespace bench
