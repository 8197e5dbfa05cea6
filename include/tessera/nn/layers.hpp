// Layers with parameters: Linear, Layernorm, Embedding, Mlp. T is the storage type of matrices and activations; norm
// weights and biases are accumulate_t<T>.
#pragma once
#include <tessera/autograd/embedding.hpp>
#include <tessera/autograd/layernorm.hpp>
#include <tessera/autograd/matmul.hpp>
#include <tessera/nn/module.hpp>

namespace tessera::nn {

/// y = activation(x weightᵀ + bias); weight [out, in], bias [out] or absent.
template <class T, class Device = Cpu>
struct Linear {
  Parameter<T, 2, Device> weight;
  Parameter<accumulate_t<T>, 1, Device> bias;

  void members(auto&& visit) {
    visit("weight", weight);
    visit("bias", bias);
  }
  template <int Rank>
  Variable<T, Rank, Device> operator()(Tape<Device>& tape, const Variable<T, Rank, Device>& x,
                                       Activation activation = Activation::none) const {
    return linear(tape, x, weight, bias, activation);
  }
};

/// Layer normalisation over the last axis; weight and bias [channels].
template <class T, class Device = Cpu>
struct Layernorm {
  Parameter<accumulate_t<T>, 1, Device> weight, bias;
  double epsilon = 1e-5;

  void members(auto&& visit) {
    visit("weight", weight);
    visit("bias", bias);
  }
  template <int Rank>
  Variable<T, Rank, Device> operator()(Tape<Device>& tape, const Variable<T, Rank, Device>& x) const {
    return layernorm(tape, x, weight, bias, {.epsilon = epsilon});
  }
};

template <class T, class Device>
Layernorm<T, Device> make_layernorm(Context<Device>& ctx, int64_t channels, double epsilon) {
  return {constant<accumulate_t<T>, 1>(ctx, {channels}, 1), constant<accumulate_t<T>, 1>(ctx, {channels}, 0), epsilon};
}

/// Rows of a table by number; weight [vocabulary, channels].
template <class T, class Device = Cpu>
struct Embedding {
  Parameter<T, 2, Device> weight;

  void members(auto&& visit) { visit("weight", weight); }
  template <int Rank>
  auto operator()(Tape<Device>& tape, const Tensor<int32_t, Rank, Device>& ids) const {
    return embedding(tape, weight, ids);
  }
};

/// c_proj(activation(c_fc(x))), the names of OpenAI's CLIP.
template <class T, class Device = Cpu>
struct Mlp {
  Linear<T, Device> c_fc, c_proj;
  Activation activation = Activation::quick_gelu;

  void members(auto&& visit) {
    visit("c_fc", c_fc);
    visit("c_proj", c_proj);
  }
  template <int Rank>
  Variable<T, Rank, Device> operator()(Tape<Device>& tape, const Variable<T, Rank, Device>& x) const {
    return c_proj(tape, c_fc(tape, x, activation));
  }
};

}  // namespace tessera::nn
