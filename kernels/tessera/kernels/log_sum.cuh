// log(exp(a) + exp(b) + …) in progress, and the factor on logits: what the contrastive losses' kernels share.
#pragma once
#include <tessera/kernels/row_groups.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

/// The largest term so far and the sum of exp(term - largest). Without terms: -infinity and 0.
struct LogSum {
  float largest = -__builtin_inff(), sum = 0;

  /// What is taken off exponents: the largest term, or 0 where there is none, since infinity - infinity is NaN.
  TESSERA_DEVICE static float shift_of(float largest) { return largest == negative_infinity() ? 0.0f : largest; }

  TESSERA_DEVICE LogSum with(LogSum other) const {
    const float most = fmaxf(largest, other.largest), shift = shift_of(most);
    return {most, sum * expf(largest - shift) + other.sum * expf(other.largest - shift)};
  }
  TESSERA_DEVICE void add(float term) {
    if (term > largest) {
      sum = sum * expf(largest - term) + 1;
      largest = term;
    } else {
      sum += expf(term - shift_of(largest));  // NaN stays
    }
  }
  /// -infinity without terms.
  TESSERA_DEVICE float value() const { return sum == 0 ? largest : largest + logf(sum); }
};

/// min(exp(logit_scale), largest).
TESSERA_DEVICE float logit_factor_of(const float* logit_scale, float largest) {
  const float factor = expf(*logit_scale);
  return factor > largest ? largest : factor;  // NaN stays
}

struct contrastive_sum_traits {
  static constexpr int threads = 256;
};

/// One block: to = factor * sum of terms [count]; 0 where a clamped scale lets no gradient pass. logit_scale may be
/// null.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(contrastive_sum_traits::threads)
    contrastive_sum_kernel(float* to, const double* terms, int64_t count, double factor, const float* logit_scale,
                           float largest_scale) {
  constexpr int threads = contrastive_sum_traits::threads;
  TESSERA_SHARED(double, scratch, threads / warp_size);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += threads) sum += terms[i];
  sum = block_sum_double<threads>(sum, scratch);
  if (threadIdx.x != 0) return;
  const bool passes = !logit_scale || !(expf(*logit_scale) > largest_scale);  // as torch.clamp
  *to = passes ? float(factor * sum) : 0.0f;
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
