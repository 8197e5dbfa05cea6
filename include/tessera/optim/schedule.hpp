// Learning-rate schedules: functions of the step that give the factor on a group's learning rate.
#pragma once
#include <cmath>
#include <numbers>

#include <tessera/core/error.hpp>

namespace tessera::optim {

/// Always the same factor.
struct ConstantSchedule {
  double factor = 1;
  double operator()(double) const { return factor; }
};

/// Linear warm-up from `start` to 1, then half a cosine from 1 to `end`; `end` after total_steps. Steps count from 0;
/// recipes that count from 1 pass step + 1.
///
///     CosineSchedule{.total_steps = 2000, .warmup_steps = 200}                        a common recipe
///     CosineSchedule{.total_steps = n, .warmup_steps = 0.15 * n}                      SegCLIP, at step + 1
///     CosineSchedule{.total_steps = 10000, .end = 0.5}                                PixelCLIP
///     CosineSchedule{.total_steps = n, .warmup_steps = w, .start = 4e-6 / 1.6e-3,
///                    .end = 4e-5 / 1.6e-3, .cosine_from_zero = true}                  GroupViT
struct CosineSchedule {
  double total_steps = 1;
  double warmup_steps = 0;
  double start = 0;  ///< factor at step 0 of a warm-up
  double end = 0;    ///< factor at total_steps
  /// The cosine runs over [0, total_steps] instead of [warmup_steps, total_steps]: the factor jumps down a little where
  /// the warm-up ends.
  bool cosine_from_zero = false;

  double operator()(double step) const {
    require(total_steps > 0 && warmup_steps >= 0 && warmup_steps <= total_steps, "CosineSchedule: warmup_steps is ",
            warmup_steps, " and total_steps ", total_steps, "; need 0 <= warmup_steps <= total_steps, total_steps > 0");
    if (step < warmup_steps) return start + step / warmup_steps * (1 - start);
    const double first = cosine_from_zero ? 0 : warmup_steps;
    const double progress = total_steps > first ? std::min(1.0, (step - first) / (total_steps - first)) : 1.0;
    return end + 0.5 * (1 - end) * (1 + std::cos(std::numbers::pi * progress));
  }
};

}  // namespace tessera::optim
