// Scalar functions that compilers turn into vector code (no calls, no branches), and the activations built on them.
// float versions are accurate to a few units in the last place; double versions are the C library's.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include <tessera/core/config.hpp>

namespace tessera {
namespace math {

TESSERA_HOST_DEVICE inline double exp(double x) { return std::exp(x); }
TESSERA_HOST_DEVICE inline double tanh(double x) { return std::tanh(x); }
TESSERA_HOST_DEVICE inline double erf(double x) { return std::erf(x); }

/// e^x. Where the result would be subnormal (x < -87.336) it is 0; where it would overflow (x > 88.7228), infinity.
TESSERA_HOST_DEVICE inline float exp(float x) {
  // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts so that r is exact to float; e^r by its Taylor series
  constexpr float lowest = -87.3365402f, highest = 88.7228317f;
  constexpr float round_to_integer = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float bounded = x < lowest ? lowest : (x > highest ? highest : x);
  const float shifted = bounded * 1.44269504088896341f + round_to_integer;
  const float n = shifted - round_to_integer;
  const float high = bounded - n * 0.693359375f, low = n * 2.12194440e-4f, r = high + low;
  float q = 1.0f / 5040.0f;
  q = q * r + 1.0f / 720.0f;
  q = q * r + 1.0f / 120.0f;
  q = q * r + 1.0f / 24.0f;
  q = q * r + 1.0f / 6.0f;
  q = q * r + 0.5f;
  const float square = r * r * q;
  const float p = 1.0f + (high + (low + square));  // small terms first: one unit of error at most, fused or not
  // 2^n as two factors: n runs from -126 to 128, further than one exponent reaches
  const int32_t power = int32_t(std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(round_to_integer));
  const int32_t half = power >> 1;
  const float y =
      p * std::bit_cast<float>(uint32_t(half + 127) << 23) * std::bit_cast<float>(uint32_t(power - half + 127) << 23);
  return x < lowest ? 0.0f : (x > highest ? std::bit_cast<float>(0x7f800000u) : y);
}

TESSERA_HOST_DEVICE inline double sqrt(double x) { return std::sqrt(x); }
/// Square root of a finite x >= 0. (std::sqrt may set errno, which keeps compilers from vectorising loops with it.)
TESSERA_HOST_DEVICE inline float sqrt(float x) {
  // 1 / sqrt(x) from half the exponent, bettered twice by Newton; then sqrt(x), corrected by its own residue
  const bool tiny = x < 1.262177448e-29f;  // 2^-96: subnormal numbers have no such exponent
  const float scaled = tiny ? x * 1.8446744073709552e19f : x;
  float y = std::bit_cast<float>(0x5f375a86u - (std::bit_cast<uint32_t>(scaled) >> 1));
  y = y * (1.5f - 0.5f * scaled * y * y);
  y = y * (1.5f - 0.5f * scaled * y * y);
  float root = scaled * y;
  root = root + 0.5f * y * (scaled - root * root);
  root = root + 0.5f * y * (scaled - root * root);
  return tiny ? root * 2.3283064365386963e-10f : root;
}

/// Hyperbolic tangent: below 0.6 an odd polynomial (least relative error), above by the exponential.
TESSERA_HOST_DEVICE inline float tanh(float x) {
  const float s = x * x;
  float p = -0.00585208042f;
  p = p * s + 0.0207535494f;
  p = p * s - 0.0537686795f;
  p = p * s + 0.133316889f;
  p = p * s - 0.333332837f;
  const float near_zero = x + x * s * p;
  const float far = 1.0f - 2.0f / (exp(2.0f * x) + 1.0f);
  return s < 0.36f ? near_zero : far;
}

/// Error function: an odd rational function on [-4, 4], where it has reached 1 in float; never beyond 1.
TESSERA_HOST_DEVICE inline float erf(float x) {
  const float b = x < -4.0f ? -4.0f : (x > 4.0f ? 4.0f : x), s = b * b;
  float p = -2.72614225801306e-10f;
  p = p * s + 2.77068142495902e-08f;
  p = p * s - 2.10102402082508e-06f;
  p = p * s - 5.69250639462346e-05f;
  p = p * s - 7.34990630326855e-04f;
  p = p * s - 2.95459980854025e-03f;
  p = p * s - 1.60960333262415e-02f;
  float q = -1.45660718464996e-05f;
  q = q * s - 2.13374055278905e-04f;
  q = q * s - 1.68282697438203e-03f;
  q = q * s - 7.37332916720468e-03f;
  q = q * s - 1.42647390514189e-02f;
  const float y = b * p / q;
  return y < -1.0f ? -1.0f : (y > 1.0f ? 1.0f : y);
}

template <class A>
TESSERA_HOST_DEVICE inline A sigmoid(A x) {
  return A(1) / (A(1) + exp(-x));
}

}  // namespace math

/// The activations of the published models. `gelu` is x Phi(x) by erf, `gelu_tanh` its tanh approximation (Hendrycks &
/// Gimpel, 2016), `quick_gelu` x sigmoid(1.702 x) (OpenAI's CLIP).
enum class Activation : uint8_t { none, relu, gelu, gelu_tanh, quick_gelu };

inline constexpr std::string_view activation_name(Activation activation) {
  constexpr std::string_view names[] = {"none", "relu", "gelu", "gelu_tanh", "quick_gelu"};
  return names[size_t(activation)];
}

namespace math {

template <Activation activation, class A>
TESSERA_HOST_DEVICE inline A activate(A x) {
  if constexpr (activation == Activation::relu) return x < 0 ? A(0) : x;  // NaN passes
  if constexpr (activation == Activation::gelu) return A(0.5) * x * (A(1) + erf(x * A(0.70710678118654752440)));
  if constexpr (activation == Activation::gelu_tanh)
    return A(0.5) * x * (A(1) + tanh(A(0.79788456080286535588) * (x + A(0.044715) * x * x * x)));
  if constexpr (activation == Activation::quick_gelu) return x * sigmoid(A(1.702) * x);
  return x;
}

/// Derivative of activate<activation> at x.
template <Activation activation, class A>
TESSERA_HOST_DEVICE inline A activate_derivative(A x) {
  if constexpr (activation == Activation::relu) return x <= 0 ? A(0) : A(1);
  // Beyond +-64 the derivatives are 0 and 1 to the last bit, but x^2 times an exponential would be infinity times 0.
  const A b = x < A(-64) ? A(-64) : (x > A(64) ? A(64) : x);
  if constexpr (activation == Activation::gelu)
    return A(0.5) * (A(1) + erf(b * A(0.70710678118654752440))) + b * exp(A(-0.5) * b * b) * A(0.39894228040143267794);
  if constexpr (activation == Activation::gelu_tanh) {
    const A c = A(0.79788456080286535588), t = tanh(c * (b + A(0.044715) * b * b * b));
    return A(0.5) * (A(1) + t) + A(0.5) * b * (A(1) - t * t) * c * (A(1) + A(3 * 0.044715) * b * b);
  }
  if constexpr (activation == Activation::quick_gelu) {
    const A s = sigmoid(A(1.702) * b);
    return s + A(1.702) * b * s * (A(1) - s);
  }
  return A(1);
}

/// Calls f with the activation as a compile-time constant: f(std::integral_constant<Activation, …>).
template <class F>
decltype(auto) with_activation(Activation activation, F&& f) {
  switch (activation) {
    case Activation::relu:
      return f(std::integral_constant<Activation, Activation::relu>{});
    case Activation::gelu:
      return f(std::integral_constant<Activation, Activation::gelu>{});
    case Activation::gelu_tanh:
      return f(std::integral_constant<Activation, Activation::gelu_tanh>{});
    case Activation::quick_gelu:
      return f(std::integral_constant<Activation, Activation::quick_gelu>{});
    default:
      return f(std::integral_constant<Activation, Activation::none>{});
  }
}

}  // namespace math
}  // namespace tessera
