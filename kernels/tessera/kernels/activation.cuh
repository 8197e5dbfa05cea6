// Activations and their derivatives for kernels: the formulas of core/math.hpp with the GPU's approximate exponential
// and reciprocal, a few units of the last place from them. An elementwise kernel has some 30 instructions an element
// before arithmetic, not memory, bounds it; exact exponentials and divisions would be more.
#pragma once
#include <tessera/core/math.hpp>
#include <tessera/device/vocabulary.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

/// e^x; results below the smallest normal number are 0.
TESSERA_DEVICE float exp_approximate(float x) { return exp2_approximate(x * 1.4426950408889634f); }
/// 1 / (1 + e^-x); exactly 0 and 1 far out.
TESSERA_DEVICE float sigmoid_approximate(float x) { return reciprocal_approximate(1.0f + exp_approximate(-x)); }

/// activation(x).
template <Activation activation>
TESSERA_DEVICE float activate(float x) {
  if constexpr (activation == Activation::relu) return x < 0.0f ? 0.0f : x;  // NaN passes
  if constexpr (activation == Activation::gelu) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  if constexpr (activation == Activation::gelu_tanh)  // (1 + tanh u) / 2 = sigmoid(2 u)
    return x * sigmoid_approximate(1.5957691216057308f * (x + 0.044715f * x * x * x));
  if constexpr (activation == Activation::quick_gelu) return x * sigmoid_approximate(1.702f * x);
  return x;
}

/// Derivative of activate<activation> at x.
template <Activation activation>
TESSERA_DEVICE float activate_derivative(float x) {
  if constexpr (activation == Activation::relu) return x <= 0.0f ? 0.0f : 1.0f;
  // Beyond +-64 the derivatives are 0 and 1 to the last bit, but x^2 times an exponential would be infinity times 0.
  const float b = x < -64.0f ? -64.0f : (x > 64.0f ? 64.0f : x);
  if constexpr (activation == Activation::gelu)
    return 0.5f * (1.0f + erff(b * 0.70710678118654752f)) + b * exp_approximate(-0.5f * b * b) * 0.39894228040143268f;
  if constexpr (activation == Activation::gelu_tanh) {
    const float c = 1.5957691216057308f, s = sigmoid_approximate(c * (b + 0.044715f * b * b * b));
    return s + b * s * (1.0f - s) * c * (1.0f + 3 * 0.044715f * b * b);
  }
  if constexpr (activation == Activation::quick_gelu) {
    const float s = sigmoid_approximate(1.702f * b);
    return s + 1.702f * b * s * (1.0f - s);
  }
  return 1.0f;
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
