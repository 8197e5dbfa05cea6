// What the tests of modules share: parameters with random values, all of them checked by gradcheck.
#pragma once
#include <map>
#include <set>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>
#include <tessera/autograd/gradcheck.hpp>
#include <tessera/nn/module.hpp>

namespace tessera_test {

/// Gives every parameter random values (normal, of this deviation; around 1 for norms' weights), so that no bias is
/// zero and no gain is one.
template <class Module>
void randomise(Module& module, uint64_t seed = 1, double deviation = 0.3) {
  tessera::nn::for_each_parameter(module, [&]<class P>(const std::string& name, P& p) {
    const bool gain = p.rank == 1 && name.ends_with("weight");
    const tessera::RandomStream random{seed++, 3, 0};
    for (int64_t i = 0; i < p.value().size(); ++i) {
      const double value = gain + deviation * double(random.normal(uint64_t(i)));
      p.state().value.data[i] =
          tessera::narrow<typename P::value_type>(tessera::accumulate_t<typename P::value_type>(value));
    }
  });
}

template <class Module>
std::vector<std::string> parameter_names(Module& module) {
  std::vector<std::string> names;
  tessera::nn::for_each_parameter(module, [&](const std::string& name, auto&) { names.push_back(name); });
  return names;
}

/// Every parameter's values, or its gradient's, by name.
template <class Module>
std::map<std::string, std::vector<float>> parameter_values(Module& module) {
  std::map<std::string, std::vector<float>> values;
  tessera::nn::for_each_parameter(module, [&](const std::string& name, auto& p) {
    for (const auto v : tessera::to_host(tessera::view(p.value()))) values[name].push_back(float(tessera::widen(v)));
  });
  return values;
}
template <class Module>
std::map<std::string, std::vector<float>> parameter_gradients(Module& module) {
  std::map<std::string, std::vector<float>> values;
  tessera::nn::for_each_parameter(module, [&](const std::string& name, auto& p) {
    if (!p.grad()) return;
    for (const auto v : tessera::to_host(tessera::view(p.grad()))) values[name].push_back(float(tessera::widen(v)));
  });
  return values;
}

/// Gradients of f(tape) with respect to every parameter of `module` but those in `unused` (which receive none), and of
/// f with respect to x. Elements are sampled.
template <class Module, class X, class F>
void check_gradients(tessera::Context<tessera::Cpu>& ctx, Module& module, const X& x, F&& f,
                     const std::set<std::string>& unused = {}, int64_t most_elements = 24) {
  const tessera::GradcheckOptions options{.tolerance = 1e-7, .most_elements = most_elements};
  const auto of_input = tessera::gradcheck(
      ctx, options, [&](auto& tape, const auto& input) { return f(tape, input); }, x);
  INFO("input: " << of_input.message);
  CHECK(of_input);
  tessera::nn::for_each_parameter(module, [&](const std::string& name, auto& p) {
    INFO(name);
    tessera::nn::clear_gradients(module);
    const auto result = tessera::gradcheck(
        ctx, options, [&](auto& tape, const auto&) { return f(tape, x); }, p);
    INFO(result.message);
    CHECK(result);
    double largest = 0;
    if (p.grad())
      for (int64_t i = 0; i < p.grad().size(); ++i) largest = std::max(largest, std::abs(p.grad().data[i]));
    CHECK((largest > 0) == !unused.contains(name));
  });
}

}  // namespace tessera_test
