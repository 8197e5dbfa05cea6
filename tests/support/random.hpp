// Random tensors for tests: seeded, the same everywhere.
#pragma once
#include <tessera/autograd/variable.hpp>

namespace tessera_test {

/// Standard normal values times `scale`.
template <class T, size_t Rank>
tessera::Tensor<T, int(Rank)> random_tensor(tessera::Context<tessera::Cpu>& ctx, const std::array<int64_t, Rank>& shape,
                                            uint64_t seed, double scale = 1) {
  tessera::Tensor<T, int(Rank)> t(ctx, shape);
  const tessera::RandomStream random{seed, 0, 0};
  for (int64_t i = 0; i < t.size(); ++i)
    t.data[i] = tessera::narrow<T>(tessera::accumulate_t<T>(scale * double(random.normal(uint64_t(i)))));
  return t;
}
/// A double-precision variable that requires a gradient: what gradcheck takes.
template <size_t Rank>
tessera::Variable<double, int(Rank)> random_variable(tessera::Context<tessera::Cpu>& ctx,
                                                     const std::array<int64_t, Rank>& shape, uint64_t seed,
                                                     double scale = 1) {
  return tessera::Variable<double, int(Rank)>(random_tensor<double>(ctx, shape, seed, scale), true);
}
/// A context whose new buffers are NaN, so that an output that is not written shows.
inline tessera::Context<tessera::Cpu> nan_filled_context() {
  return tessera::Context<tessera::Cpu>({.seed = 0, .memory = {.cache = true, .fill_with_nan = true}});
}

/// Largest |a - b| divided by `scale` (default: the largest |b|, at least 1e-30). NaN anywhere gives infinity.
template <class A, class B>
double largest_difference(const std::vector<A>& a, const std::vector<B>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double scale = 1e-30, worst = 0;
  for (const B& v : b) scale = std::max(scale, std::abs(double(tessera::widen(v))));
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(double(tessera::widen(a[i])) - double(tessera::widen(b[i])));
    if (!(d <= worst)) worst = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
  }
  return worst / scale;
}
template <class A, class B, int Rank>
double largest_difference(const tessera::TensorView<A, Rank>& a, const tessera::TensorView<B, Rank>& b) {
  if (a.shape != b.shape) return std::numeric_limits<double>::infinity();
  return largest_difference(tessera::to_host(a), tessera::to_host(b));
}

}  // namespace tessera_test
