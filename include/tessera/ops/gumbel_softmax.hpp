// Gumbel-softmax over the last axis (Jang, Gu & Poole, 2017; Maddison, Mnih & Teh, 2017): a sample from the
// distribution softmax(logits) that has a gradient.
//   y = softmax((logits + g) / temperature), g independent Gumbel noise, or none
//   soft: assignment = y;  hard: assignment = (onehot(argmax y) - y) + y, whose gradient is that of y ("straight
//   through")
// argmax y is a sample of softmax(logits) exactly, whatever the temperature. The hard assignment is computed as
// written, as PyTorch does; its ones are exact. y is saved.
#pragma once
#include <array>
#include <bit>
#include <cmath>
#include <optional>

#include <tessera/core/math.hpp>
#include <tessera/core/random.hpp>
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct gumbel_softmax;
}

struct GumbelSoftmaxOptions {
  double temperature = 1;  ///< > 0; the smaller, the nearer y is to one-hot
  bool hard = true;        ///< whether the assignment is one-hot
  /// Draws the noise where none is given: element i of the logits takes number i of the stream. Absent: no noise, as in
  /// evaluation.
  std::optional<RandomStream> noise = {};
};

namespace detail {

/// log x of a normal number x > 0, to a unit or two in the last place; of float it compiles to vector code.
TESSERA_HOST_DEVICE inline double log_of_normal(double x) { return std::log(x); }
TESSERA_HOST_DEVICE inline float log_of_normal(float x) {
  // x = 2^n (1 + f), 1 + f in [sqrt(1/2), sqrt(2)); with s = f / (2 + f), log(1 + f) = 2 artanh s, written so that f
  // itself, which is exact, is the leading term
  constexpr uint32_t root_of_half = 0x3f3504f3u;
  const uint32_t bits = std::bit_cast<uint32_t>(x), above = bits - root_of_half;
  const float n = float(int32_t(above) >> 23);
  const float f = std::bit_cast<float>((above & 0x007fffffu) + root_of_half) - 1.0f;
  const float s = f / (2.0f + f), square = s * s;
  float p = 2.0f / 9.0f;
  p = p * square + 2.0f / 7.0f;
  p = p * square + 2.0f / 5.0f;
  p = p * square + 2.0f / 3.0f;
  const float rest = s * (f - p * square);
  return n * 0.693359375f + ((f - rest) - n * 2.12194440e-4f);  // ln 2 in two parts: the first product is exact
}

/// Gumbel(0, 1) from u, uniform in (0, 1): its distribution function is exp(-exp(-g)).
template <class A>
TESSERA_HOST_DEVICE A gumbel_of(A u) {
  return -log_of_normal(-log_of_normal(u));
}

/// stream.uniform(4 * block + i) for i < 4: the generator makes four numbers at once.
TESSERA_HOST_DEVICE inline std::array<float, 4> four_uniforms(const RandomStream& stream, uint64_t block) {
  const std::array<uint32_t, 4> bits =
      philox4x32({uint32_t(block), uint32_t(block >> 32), stream.operation, stream.step}, stream.seed);
  std::array<float, 4> u{};
  for (size_t i = 0; i < 4; ++i) u[i] = (float(bits[i] >> 9) + 0.5f) * 1.1920928955078125e-7f;
  return u;
}

/// What both passes ask of a tensor of the logits' shape.
template <class View, size_t Rank>
void expect_like_logits(std::string_view op, std::string_view name, const View& view,
                        const std::array<int64_t, Rank>& logits) {
  if (!view) return;
  expect_shape(op, name, view.shape, logits, "", "logits");
  expect_contiguous(op, name, view);
}
inline void expect_temperature(std::string_view op, const GumbelSoftmaxOptions& options) {
  require(options.temperature > 0 && std::isfinite(options.temperature), op, ": temperature is ", options.temperature,
          " but must be greater than 0");
}
}  // namespace detail

/// assignment [..., G] of logits [..., G]. soft [..., G] (y, which the backward pass needs) and index [...] (argmax y,
/// the first of the largest) are written where present. The noise is `gumbel` [..., G] where present, else drawn from
/// options.noise, else 0. assignment may be logits itself; with hard = false it may also be soft. Logits of -infinity
/// are never chosen; in a row of nothing else y is 0 and index 0. A NaN makes its row NaN, with index 0. Throws
/// ShapeError where shapes differ, a view is not contiguous or G is 0, and ValueError for a temperature that is not
/// positive.
template <class T, int Rank, class Device>
void gumbel_softmax_forward(Context<Device>& ctx, TensorView<T, Rank, Device> assignment, Out<T, Rank, Device> soft,
                            Out<int32_t, Rank - 1, Device> index, In<T, Rank, Device> logits,
                            In<accumulate_t<T>, Rank, Device> gumbel, GumbelSoftmaxOptions options = {}) {
  static_assert(Rank >= 1, "tessera: gumbel_softmax needs an axis");
  constexpr auto name = "gumbel_softmax_forward";
  detail::expect_temperature(name, options);
  require<ShapeError>(logits.shape[Rank - 1] > 0, name, ": logits ", to_string(logits.shape),
                      " have nothing to choose from in their last axis");
  expect_contiguous(name, "logits", logits);
  expect_present(name, "assignment", assignment);
  detail::expect_like_logits(name, "assignment", assignment, logits.shape);
  detail::expect_like_logits(name, "soft", soft, logits.shape);
  detail::expect_like_logits(name, "gumbel", gumbel, logits.shape);
  if (index) {
    Shape<Rank - 1> rows{};
    std::copy_n(logits.shape.begin(), Rank - 1, rows.begin());
    expect_shape(name, "index", index.shape, rows, "", "logits without the last axis");
    expect_contiguous(name, "index", index);
  }
  const auto rows_of = [](const auto& view) { return view ? view.rows() : decltype(view.rows()){}; };
  Backend<op::gumbel_softmax, Device>::template forward<T>(ctx, assignment.rows(), rows_of(soft),
                                                           index ? index.flat() : TensorView<int32_t, 1, Device>{},
                                                           logits.rows(), rows_of(gumbel), options);
}

/// d_logits = y * (d_assignment - sum(y * d_assignment)) / temperature, hard or soft. d_logits may be d_assignment
/// itself.
template <class T, int Rank, class Device>
void gumbel_softmax_backward(Context<Device>& ctx, TensorView<T, Rank, Device> d_logits,
                             In<T, Rank, Device> d_assignment, In<T, Rank, Device> soft,
                             GumbelSoftmaxOptions options = {}) {
  constexpr auto name = "gumbel_softmax_backward";
  detail::expect_temperature(name, options);
  expect_present(name, "soft", soft);
  expect_shape(name, "d_assignment", d_assignment.shape, soft.shape, "", "soft");
  expect_contiguous(name, "d_assignment", d_assignment);
  expect_contiguous(name, "soft", soft);
  if (!d_logits) return;
  expect_shape(name, "d_logits", d_logits.shape, soft.shape, "", "soft");
  expect_contiguous(name, "d_logits", d_logits);
  Backend<op::gumbel_softmax, Device>::template backward<T>(ctx, d_logits.rows(), d_assignment.rows(), soft.rows(),
                                                            options);
}

/// Gumbel(0, 1) noise as a new tensor: element i from number i of the stream, just as gumbel_softmax draws it. Between
/// -2.82 and 16.64, since a uniform number of the stream is at least 2^-24 from 0 and from 1.
template <class A = float, size_t Rank, class Device>
auto gumbel_noise(Context<Device>& ctx, const std::array<int64_t, Rank>& shape, const RandomStream& stream) {
  static_assert(std::is_same_v<A, accumulate_t<A>>, "tessera: noise is float or double");
  Tensor<A, int(Rank), Device> noise(ctx, shape);
  Backend<op::gumbel_softmax, Device>::template noise<A>(ctx, noise.flat(), stream);
  return noise;
}

/// What gumbel_softmax returns: the assignment [..., G] and the number of the chosen entry [...].
template <class T, int Rank, class Device = Cpu>
struct GumbelSoftmaxResult {
  Tensor<T, Rank, Device> assignment;
  Tensor<int32_t, Rank - 1, Device> index;
};

/// Assignment and index as new tensors.
template <class TX, int Rank, class Device>
auto gumbel_softmax(Context<Device>& ctx, const TensorView<TX, Rank, Device>& logits, GumbelSoftmaxOptions options = {},
                    In<accumulate_t<TX>, Rank, Device> gumbel = {}) {
  Shape<Rank - 1> rows{};
  std::copy_n(logits.shape.begin(), Rank - 1, rows.begin());
  GumbelSoftmaxResult<std::remove_const_t<TX>, Rank, Device> result{{ctx, logits.shape}, {ctx, rows}};
  gumbel_softmax_forward(ctx, view(result.assignment), {}, result.index, logits, gumbel, options);
  return result;
}

}  // namespace tessera

#include <tessera/cpu/gumbel_softmax.hpp>
