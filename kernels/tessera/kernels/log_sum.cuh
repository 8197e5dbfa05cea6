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

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
