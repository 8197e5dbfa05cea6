// Modules. A module is a plain struct with `void members(auto&& visit) { visit("weight", weight); … }`: no base class,
// no registry, no stored pointers, so copying and moving just work. Members are parameters, modules, or std::vectors of
// modules; a parameter's full name joins the members' names with dots, as in PyTorch's state_dict.
#pragma once
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include <tessera/autograd/variable.hpp>

namespace tessera::nn {

template <class P>
concept IsParameter = requires(P& p) {
  p.state();
  p.requires_grad();
};

/// Calls f(full name, parameter) for every parameter that is present, in the order of members().
template <class Module, class F>
void for_each_parameter(Module& module, const std::string& prefix, F&& f) {
  module.members([&]<class Member>(std::string_view name, Member& member) {
    const std::string full = prefix + std::string(name);
    if constexpr (IsParameter<Member>) {
      if (member) f(full, member);
    } else if constexpr (requires { member.begin(); }) {
      for (size_t i = 0; i < member.size(); ++i) for_each_parameter(member[i], full + "." + std::to_string(i) + ".", f);
    } else {
      for_each_parameter(member, full + ".", f);
    }
  });
}
template <class Module, class F>
void for_each_parameter(Module& module, F&& f) {
  for_each_parameter(module, std::string(), f);
}

/// Number of trainable scalars.
template <class Module>
int64_t parameter_count(Module& module) {
  int64_t count = 0;
  for_each_parameter(module, [&](const std::string&, auto& p) { count += p.value().size(); });
  return count;
}

/// Freezes (false) or trains (true) all of a module's parameters.
template <class Module>
void set_requires_grad(Module& module, bool requires_grad) {
  for_each_parameter(module, [&](const std::string&, auto& p) { p.state().requires_grad = requires_grad; });
}

/// Drops all gradients; the next backward pass writes new ones.
template <class Module>
void clear_gradients(Module& module) {
  for_each_parameter(module, [](const std::string&, auto& p) { p.state().grad = {}; });
}

// ---- initial values -------------------------------------------------------------------------------------------------

/// A parameter with values f(i), i the element's number.
template <class T, int Rank, class Device, class F>
Parameter<T, Rank, Device> make_parameter(Context<Device>& ctx, const Shape<Rank>& shape, F&& f) {
  std::vector<T> values(size_t(element_count(shape)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = narrow<T>(accumulate_t<T>(f(i)));
  return Parameter<T, Rank, Device>(Tensor<T, Rank, Device>::from_host(ctx, shape, values), true);
}
template <class T, int Rank, class Device>
Parameter<T, Rank, Device> constant(Context<Device>& ctx, const Shape<Rank>& shape, double value) {
  return make_parameter<T, Rank>(ctx, shape, [=](size_t) { return value; });
}
/// With values still to be written, by what loads them: drawing numbers for a large model takes seconds.
template <class T, int Rank, class Device>
Parameter<T, Rank, Device> unset(Context<Device>& ctx, const Shape<Rank>& shape) {
  return Parameter<T, Rank, Device>(Tensor<T, Rank, Device>(ctx, shape), true);
}
/// Normal with the given standard deviation. Each call draws a stream of the context's random numbers.
template <class T, int Rank, class Device>
Parameter<T, Rank, Device> normal(Context<Device>& ctx, const Shape<Rank>& shape, double deviation) {
  const RandomStream random = ctx.random.draw();
  return make_parameter<T, Rank>(ctx, shape, [&](size_t i) { return deviation * double(random.normal(i)); });
}
/// Uniform in (-bound, bound).
template <class T, int Rank, class Device>
Parameter<T, Rank, Device> uniform(Context<Device>& ctx, const Shape<Rank>& shape, double bound) {
  const RandomStream random = ctx.random.draw();
  return make_parameter<T, Rank>(ctx, shape, [&](size_t i) { return bound * (2 * double(random.uniform(i)) - 1); });
}
/// Uniform with the bound of Glorot & Bengio (2010): sqrt(6 / (in + out)) for a weight [out, in].
template <class T, class Device>
Parameter<T, 2, Device> xavier_uniform(Context<Device>& ctx, const Shape<2>& shape) {
  return uniform<T, 2>(ctx, shape, std::sqrt(6.0 / double(shape[0] + shape[1])));
}

}  // namespace tessera::nn
