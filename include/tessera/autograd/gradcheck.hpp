// Gradient checks: central differences in double against the tape.
#pragma once
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include <tessera/autograd/tape.hpp>

namespace tessera {

/// How finely the gradients are checked.
struct GradcheckOptions {
  double step = 1e-5;           ///< of the central difference
  double tolerance = 1e-6;      ///< |analytic - numeric| <= tolerance * max(1, largest numeric derivative of the input)
  int64_t most_elements = 200;  ///< per input; of larger inputs this many are checked, drawn at random
  uint64_t seed = 1;            ///< of the random cotangent
};

/// Converts to whether all gradients agree.
struct GradcheckResult {
  bool passed = true;
  double worst = 0;     ///< largest error, in units of the tolerance's right-hand side
  std::string message;  ///< what failed first, or empty
  explicit operator bool() const { return passed; }
};

namespace detail {
/// sum(out * cotangent) with a fixed random cotangent, so that every output counts with its own weight.
template <class V>
double weighted_sum(const V& out, const RandomStream& random) {
  const auto values = to_host(TensorView(out.value()));
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) sum += double(widen(values[i])) * double(random.normal(i));
  return sum;
}
}  // namespace detail

/// Checks the gradients of f(tape, inputs...) with respect to every input that requires one. Inputs are
/// Variable<double, …> whose values this function changes and restores.
///
///     auto result = gradcheck(ctx, [](auto& tape, auto x, auto w) { return matmul(tape, x, w); }, x, w);
template <class F, class... V>
GradcheckResult gradcheck(Context<Cpu>& ctx, GradcheckOptions options, F&& f, const V&... inputs) {
  const RandomStream random{options.seed, 0, 0};
  const RandomState state = ctx.random;
  const auto loss = [&] {
    ctx.random = state;  // random operations draw the same numbers every time
    Tape<Cpu> tape(ctx, false);
    return detail::weighted_sum(f(tape, inputs...), random);
  };
  (void(inputs.state().grad = {}), ...);
  {
    ctx.random = state;
    Tape<Cpu> tape(ctx);
    const auto out = f(tape, inputs...);
    using Grad = std::decay_t<decltype(out.state().grad)>;
    Grad cotangent(ctx, out.shape());
    for (int64_t i = 0; i < cotangent.size(); ++i) cotangent.data[i] = double(random.normal(uint64_t(i)));
    tape.backward(out, cotangent);
  }
  GradcheckResult result;
  int argument = 0;
  const auto check = [&](const auto& input) {
    ++argument;
    if (!input.requires_grad()) return;
    double* values = input.state().value.data;
    const auto& grad = input.grad();
    const int64_t n = input.value().size(), checked = std::min(n, options.most_elements);
    const RandomStream chosen{options.seed, 1, uint32_t(argument)};
    std::vector<std::pair<int64_t, double>> numeric;
    double largest = 1;
    for (int64_t k = 0; k < checked; ++k) {  // not every n-th: that would see one column of a matrix
      const int64_t i = checked == n ? k : int64_t(chosen.below(uint64_t(k), uint32_t(n)));
      const double before = values[i];
      values[i] = before + options.step;
      const double above = loss();
      values[i] = before - options.step;
      const double below = loss();
      values[i] = before;
      numeric.emplace_back(i, (above - below) / (2 * options.step));
      largest = std::max(largest, std::abs(numeric.back().second));
    }
    for (const auto& [i, derivative] : numeric) {
      const double analytic = grad ? grad.data[i] : 0.0;
      const double error = std::abs(analytic - derivative) / (options.tolerance * largest);
      if (!(error <= result.worst)) result.worst = error;
      if (!(error <= 1) && result.passed) {
        result.passed = false;
        result.message = sentence("gradcheck: input ", argument, ", element ", i, " of ", to_string(input.shape()),
                                  ": analytic ", analytic, ", numeric ", derivative);
      }
    }
  };
  (check(inputs), ...);
  ctx.random = state;
  return result;
}

template <class F, class... V>
GradcheckResult gradcheck(Context<Cpu>& ctx, F&& f, const V&... inputs) {
  return gradcheck(ctx, GradcheckOptions{}, std::forward<F>(f), inputs...);
}

}  // namespace tessera
