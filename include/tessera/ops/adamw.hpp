// The optimiser's arithmetic on any device: the norm of all gradients together, the clipping factor that follows from
// it, and one step of AdamW (Loshchilov & Hutter, 2019) for many parameters at once, with their moving averages in the
// same pass over memory. optim::BasicAdamW is what users hold.
//
// What changes from step to step lies in the device's memory (AdamWFactors, the steps counted so far, the rules), so
// that a captured graph of a training step stays valid while learning rates and step numbers go on. A step whose
// factors are not finite is skipped: nothing changes, and it does not count.
#pragma once
#include <cmath>
#include <limits>
#include <span>

#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct adamw;
}

/// One parameter as the update sees it; all memory is the device's. Moments, masters and averages are float, double
/// where the values are.
struct AdamWTensor {
  void* value = nullptr;
  const void* gradient = nullptr;  ///< null: the parameter is left alone
  void* master = nullptr;          ///< of values narrower than the moments; else null
  void *first_moment = nullptr, *second_moment = nullptr;
  void* average = nullptr;  ///< moving average of the values, or null
  int64_t size = 0;
  Dtype dtype = Dtype::f32, gradient_dtype = Dtype::f32;
};

/// What one parameter's steps follow, until it is changed.
struct AdamWRule {
  double learning_rate = 1e-3, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 1e-2;
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  double average_decay = 1;
};

/// What changes from step to step, for all parameters.
struct AdamWFactors {
  double learning_rate_factor = 1;  ///< from a schedule
  double gradient_scale = 1;        ///< from clipping; not finite: the step is skipped
};

/// One parameter's numbers in one step.
struct AdamWNumbers {
  double keep, gradient_scale, beta1, beta2, step_size, second_correction, epsilon, low, high, average_decay;
  bool skip;

  /// For step number `step` = 1, 2, …
  TESSERA_HOST_DEVICE static AdamWNumbers of(const AdamWRule& rule, const AdamWFactors& factors, double step) {
    const double rate = rule.learning_rate * factors.learning_rate_factor;
    AdamWNumbers n;
    n.keep = 1 - rate * rule.weight_decay;
    n.gradient_scale = factors.gradient_scale;
    n.beta1 = rule.beta1;
    n.beta2 = rule.beta2;
    n.step_size = rate / (1 - pow(rule.beta1, step));
    n.second_correction = sqrt(1 - pow(rule.beta2, step));
    n.epsilon = rule.epsilon;
    n.low = rule.low;
    n.high = rule.high;
    n.average_decay = rule.average_decay;
    n.skip = false;
    return n;
  }
};

/// Whether a step with these factors takes place.
TESSERA_HOST_DEVICE inline bool takes_place(const AdamWFactors& factors) {
  return factors.gradient_scale - factors.gradient_scale == 0 &&
         factors.learning_rate_factor - factors.learning_rate_factor == 0;
}
/// What gradients of this norm are multiplied by: 1, or what brings them to `largest` (with PyTorch's 1e-6 in the
/// denominator). NaN for a norm that is not finite.
TESSERA_HOST_DEVICE inline double clipping_factor(double norm, double largest) {
  if (!(norm - norm == 0)) return norm - norm;
  const double factor = largest / (norm + 1e-6);
  return factor < 1 ? factor : 1;
}

/// norm [] = the L2 norm of all gradients together, summed in double in a fixed order; absent gradients count as zero.
template <class Device>
void gradient_norm_forward(Context<Device>& ctx, TensorView<double, 0, Device> norm,
                           std::span<const AdamWTensor> tensors) {
  expect_present("gradient_norm", "norm", norm);
  Backend<op::adamw, Device>::gradient_norm(ctx, norm, tensors);
}

/// factors[0].gradient_scale from norm [], on the device: the host need not wait for it.
template <class Device>
void clip_gradients(Context<Device>& ctx, TensorView<AdamWFactors, 1, Device> factors, In<double, 0, Device> norm,
                    double largest_norm) {
  expect_shape("clip_gradients", "factors", factors.shape, {1}, "1", "one set of factors");
  expect_present("clip_gradients", "norm", norm);
  require(largest_norm > 0, "clip_gradients: largest_norm is ", largest_norm, " but must be positive");
  Backend<op::adamw, Device>::clip(ctx, factors, norm, largest_norm);
}

/// One step of all tensors that have a gradient: factors [1], and for each of the tensors, in their order, its rule [P]
/// and the number of steps that it has taken [P], which is counted up. Throws ShapeError where these do not fit.
template <class Device>
void adamw_step(Context<Device>& ctx, TensorView<int64_t, 1, Device> steps, In<AdamWRule, 1, Device> rules,
                In<AdamWFactors, 1, Device> factors, std::span<const AdamWTensor> tensors) {
  constexpr auto name = "adamw_step";
  const Shape<1> count{int64_t(tensors.size())};
  expect_shape(name, "steps", steps.shape, count, "P", "tensors");
  expect_shape(name, "rules", rules.shape, count, "P", "tensors");
  expect_shape(name, "factors", factors.shape, {1}, "1", "one set of factors");
  for (const AdamWTensor& t : tensors) {
    if (!t.gradient || t.size == 0) continue;
    require(t.value && t.first_moment && t.second_moment, name, ": a tensor has a gradient but no value or no moments");
    const bool wide = t.dtype == Dtype::f32 || t.dtype == Dtype::f64;
    require(wide || t.dtype == Dtype::bf16 || t.dtype == Dtype::f16, name, ": values are ", dtype_name(t.dtype),
            " but must be of a floating type");
    require(wide == (t.master == nullptr), name, ": values of ", dtype_name(t.dtype),
            wide ? " need no master" : " need a master in float");
    require(t.gradient_dtype == t.dtype || (!wide && t.gradient_dtype == Dtype::f32), name, ": gradients are ",
            dtype_name(t.gradient_dtype), " beside values of ", dtype_name(t.dtype));
  }
  Backend<op::adamw, Device>::step(ctx, steps, rules, factors, tensors);
}

}  // namespace tessera

#include <tessera/cpu/adamw.hpp>
