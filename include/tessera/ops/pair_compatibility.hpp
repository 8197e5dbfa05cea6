// The compatibility of every image with every text, pooled for that text (PACL: Mukhoti et al., "Open vocabulary
// semantic segmentation with patch aligned contrastive learning", CVPR 2023). For image i with patches v_t and text j:
//
//   s_t = cos(v_t, text_j),  a = softmax over patches of (attention_scale s),  u = sum_t a_t v_t,  phi = cos(u, text_j)
//
// How patches are scored (s) and what weights the scores become (a) are types that a caller chooses or writes, the same
// for every device: see CosineScore and SoftmaxWeights.
//
// Axes: B images, T patches, D channels, K texts. Neither [B, K, T] nor the pooled vectors [B, K, D] are ever held:
// work goes image by image and in tiles of texts. Formulas: docs/math/pair_compatibility.md.
#pragma once
#include <tessera/core/math.hpp>
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct pair_compatibility;
}

/// What is scored, and what is pooled.
struct PairCompatibilityOptions {
  /// Multiplies the scores before they become weights (the paper: 1; larger is sharper).
  double attention_scale = 1;
  /// Pool v_t / |v_t| instead of v_t.
  bool pool_normalized = false;
};

/// s_t = cos(v_t, text). A score is the product of a patch and a text with their lengths divided out or left in; any
/// other function of it belongs to the weights.
struct CosineScore {
  static constexpr bool lengths_count = false;
};
/// s_t = v_t . text: longer patches and longer texts have larger scores.
struct DotScore {
  static constexpr bool lengths_count = true;
};

/// An image and a text by their numbers in the batch.
struct PairPlace {
  int64_t image, text;
};

// A weighting turns a pair's scaled scores z_t = attention_scale s_t into weights a_t >= 0. It has three functions:
//
//   common(scores, place)   what the pair's weights have in common, of any small type. `scores` has max(), the largest
//                           z, and sum(f), the sum of f(z) over the patches;
//   weight(z, common)       a patch's weight;
//   slope(z, weight)        its derivative by z.
//
// phi does not change when all weights of a pair are multiplied by one number. So weights need not sum to 1, and
// `slope` leaves out whatever only changes that number, such as a softmax's largest score. A selection of patches (the
// best k, those above a threshold; `place` tells pairs that belong together from others) is a `common` that holds the
// lowest selected score, and a weight of 0 below it.

/// a = softmax over the patches of z.
struct SoftmaxWeights {
  template <class Scores>
  TESSERA_HOST_DEVICE auto common(const Scores& scores, PairPlace) const {
    return scores.max();
  }
  template <class A>
  TESSERA_HOST_DEVICE A weight(A z, A largest) const {
    return math::exp(z - largest);
  }
  template <class A>
  TESSERA_HOST_DEVICE A slope(A, A weight) const {
    return weight;
  }
};

/// a_t = 1 / (1 + exp(-(z_t + bias))): each patch for itself.
struct SigmoidWeights {
  double bias = 0;

  struct Nothing {};
  template <class Scores>
  TESSERA_HOST_DEVICE Nothing common(const Scores&, PairPlace) const {
    return {};
  }
  template <class A>
  TESSERA_HOST_DEVICE A weight(A z, Nothing) const {
    return math::sigmoid(z + A(bias));
  }
  template <class A>
  TESSERA_HOST_DEVICE A slope(A, A weight) const {
    return weight * (A(1) - weight);
  }
};

namespace detail {
template <class A, class T, class Device>
void expect_pair_compatibility(std::string_view name, std::string_view phi_name, In<A, 2, Device> phi,
                               In<T, 3, Device> patches, In<T, 2, Device> texts) {
  require<ShapeError>(patches.shape[1] > 0 && patches.shape[2] > 0, name, ": patches ", to_string(patches.shape),
                      " must have at least one patch and one channel");
  expect_shape(name, "texts", texts.shape, {texts.shape[0], patches.shape[2]}, "K D", "patches");
  expect_shape(name, phi_name, phi.shape, {patches.shape[0], texts.shape[0]}, "B K", "patches and texts");
  expect_contiguous(name, phi_name, phi);
  expect_contiguous(name, "patches", patches);
  expect_contiguous(name, "texts", texts);
}
}  // namespace detail

/// phi [B, K] from patches [B, T, D] and texts [K, D], neither of which needs to be normalised. A zero patch has score
/// 0 with every text; phi is 0 where the text or the pooled vector is zero. Throws ShapeError where shapes disagree or
/// a view is not contiguous.
template <class A, class Device, class T, class Weighting = SoftmaxWeights, class Score = CosineScore>
void pair_compatibility_forward(Context<Device>& ctx, TensorView<A, 2, Device> phi,
                                const TensorView<T, 3, Device>& patches, In<std::remove_const_t<T>, 2, Device> texts,
                                PairCompatibilityOptions options = {}, Weighting weighting = {}, Score score = {}) {
  using Value = std::remove_const_t<T>;
  static_assert(std::is_same_v<A, accumulate_t<T>>, "tessera: phi is float, or double where the patches are");
  detail::expect_pair_compatibility<A, Value, Device>("pair_compatibility_forward", "phi", phi, patches, texts);
  Backend<op::pair_compatibility, Device>::template forward<Value>(ctx, phi, patches, texts, options, weighting, score);
}

/// d_patches [B, T, D] and d_texts [K, D], each where present, from d_phi and the forward pass's phi. Both paths count:
/// through the pooled vector and through the weights. No gradient flows into the direction of a zero patch, text or
/// pooled vector. Throws as the forward pass does.
template <class T, class Device, class Weighting = SoftmaxWeights, class Score = CosineScore>
void pair_compatibility_backward(Context<Device>& ctx, TensorView<T, 3, Device> d_patches, Out<T, 2, Device> d_texts,
                                 In<accumulate_t<T>, 2, Device> d_phi, In<accumulate_t<T>, 2, Device> phi,
                                 In<T, 3, Device> patches, In<T, 2, Device> texts,
                                 PairCompatibilityOptions options = {}, Weighting weighting = {}, Score score = {}) {
  constexpr auto name = "pair_compatibility_backward";
  using A = accumulate_t<T>;
  detail::expect_pair_compatibility<A, T, Device>(name, "d_phi", d_phi, patches, texts);
  detail::expect_pair_compatibility<A, T, Device>(name, "phi", phi, patches, texts);
  if (d_patches) expect_shape(name, "d_patches", d_patches.shape, patches.shape, "B T D", "patches");
  if (d_texts) expect_shape(name, "d_texts", d_texts.shape, texts.shape, "K D", "texts");
  expect_contiguous(name, "d_patches", d_patches);
  expect_contiguous(name, "d_texts", d_texts);
  Backend<op::pair_compatibility, Device>::template backward<T>(ctx, d_patches, d_texts, d_phi, phi, patches, texts,
                                                                options, weighting, score);
}

/// phi [B, K] as a new tensor.
template <class T, class Device, class Weighting = SoftmaxWeights, class Score = CosineScore>
auto pair_compatibility(Context<Device>& ctx, const TensorView<T, 3, Device>& patches,
                        In<std::remove_const_t<T>, 2, Device> texts, PairCompatibilityOptions options = {},
                        Weighting weighting = {}, Score score = {}) {
  Tensor<accumulate_t<T>, 2, Device> phi(ctx, {patches.shape[0], texts.shape[0]});
  pair_compatibility_forward(ctx, view(phi), patches, texts, options, weighting, score);
  return phi;
}

}  // namespace tessera

#include <tessera/cpu/pair_compatibility.hpp>
