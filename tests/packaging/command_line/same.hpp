// A product, a recorded sum and its gradient.
#pragma once
#include <cstdio>

#include <tessera/tessera.hpp>

inline double product() {
  tessera::Context<tessera::Cpu> ctx({.seed = 1});
  const auto a = tessera::nn::normal<float, 2>(ctx, {300, 70}, 1), b = tessera::nn::normal<float, 2>(ctx, {40, 70}, 1);
  tessera::Tape<tessera::Cpu> tape(ctx);
  const auto loss = tessera::sum(tape, tessera::linear(tape, a, b, {}, tessera::Activation::relu));
  tape.backward(loss);
  return double(loss.value()()) + double(b.grad()(3, 4));
}
