// The compatibility of every image with every text, pooled for that text (PACL: Mukhoti et al., "Open vocabulary
// semantic segmentation with patch aligned contrastive learning", CVPR 2023). For image i with patches v_t and text j:
//
//   s_t = cos(v_t, text_j),  a = softmax over patches of (attention_scale s),  u = sum_t a_t v_t,  phi = cos(u, text_j)
//
// Axes: B images, T patches, D channels, K texts. The pooled vectors [B, K, D] are never held: work goes image by image
// and in tiles of texts. Formulas: docs/math/pair_compatibility.md.
#pragma once
#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct pair_compatibility;
}

/// PACL's softmax over patches, and what it pools.
struct PairCompatibilityOptions {
  /// Multiplies the cosines inside the softmax (the paper: 1; larger is sharper).
  double attention_scale = 1;
  /// Pool v_t / |v_t| instead of v_t.
  bool pool_normalized = false;
};

namespace detail {
template <class A, class T, class Device>
void expect_pair_compatibility(std::string_view name, std::string_view phi_name, In<A, 2, Device> phi,
                               In<A, 2, Device> log_sum_exp, In<T, 3, Device> patches, In<T, 2, Device> texts) {
  require<ShapeError>(patches.shape[1] > 0 && patches.shape[2] > 0, name, ": patches ", to_string(patches.shape),
                      " must have at least one patch and one channel");
  expect_shape(name, "texts", texts.shape, {texts.shape[0], patches.shape[2]}, "K D", "patches");
  const Shape<2> pairs{patches.shape[0], texts.shape[0]};
  expect_shape(name, phi_name, phi.shape, pairs, "B K", "patches and texts");
  expect_contiguous(name, phi_name, phi);
  if (log_sum_exp) expect_shape(name, "log_sum_exp", log_sum_exp.shape, pairs, "B K", "patches and texts");
  expect_contiguous(name, "log_sum_exp", log_sum_exp);
  expect_contiguous(name, "patches", patches);
  expect_contiguous(name, "texts", texts);
}
}  // namespace detail

/// phi [B, K] from patches [B, T, D] and texts [K, D], neither of which needs to be normalised. log_sum_exp [B, K] (of
/// attention_scale s over the patches) is written where present; the backward pass needs it. A zero patch has cosine 0
/// with every text; phi is 0 where the text or the pooled vector is zero. Throws ShapeError where shapes disagree or a
/// view is not contiguous.
template <class A, class Device, class T>
void pair_compatibility_forward(Context<Device>& ctx, TensorView<A, 2, Device> phi, Out<A, 2, Device> log_sum_exp,
                                const TensorView<T, 3, Device>& patches, In<std::remove_const_t<T>, 2, Device> texts,
                                PairCompatibilityOptions options = {}) {
  using Value = std::remove_const_t<T>;
  static_assert(std::is_same_v<A, accumulate_t<T>>, "tessera: phi is float, or double where the patches are");
  detail::expect_pair_compatibility<A, Value, Device>("pair_compatibility_forward", "phi", phi, log_sum_exp, patches,
                                                      texts);
  Backend<op::pair_compatibility, Device>::template forward<Value>(ctx, phi, log_sum_exp, patches, texts, options);
}

/// d_patches [B, T, D] and d_texts [K, D], each where present, from d_phi and what the forward pass gave. Both paths
/// count: through the pooled vector and through the attention weights. No gradient flows into the direction of a zero
/// patch, text or pooled vector.
template <class T, class Device>
void pair_compatibility_backward(Context<Device>& ctx, TensorView<T, 3, Device> d_patches, Out<T, 2, Device> d_texts,
                                 In<accumulate_t<T>, 2, Device> d_phi, In<accumulate_t<T>, 2, Device> phi,
                                 In<accumulate_t<T>, 2, Device> log_sum_exp, In<T, 3, Device> patches,
                                 In<T, 2, Device> texts, PairCompatibilityOptions options = {}) {
  constexpr auto name = "pair_compatibility_backward";
  using A = accumulate_t<T>;
  expect_present(name, "log_sum_exp", log_sum_exp);
  detail::expect_pair_compatibility<A, T, Device>(name, "d_phi", d_phi, log_sum_exp, patches, texts);
  detail::expect_pair_compatibility<A, T, Device>(name, "phi", phi, log_sum_exp, patches, texts);
  if (d_patches) expect_shape(name, "d_patches", d_patches.shape, patches.shape, "B T D", "patches");
  if (d_texts) expect_shape(name, "d_texts", d_texts.shape, texts.shape, "K D", "texts");
  expect_contiguous(name, "d_patches", d_patches);
  expect_contiguous(name, "d_texts", d_texts);
  Backend<op::pair_compatibility, Device>::template backward<T>(ctx, d_patches, d_texts, d_phi, phi, log_sum_exp,
                                                                patches, texts, options);
}

/// phi [B, K] as a new tensor.
template <class T, class Device>
auto pair_compatibility(Context<Device>& ctx, const TensorView<T, 3, Device>& patches,
                        In<std::remove_const_t<T>, 2, Device> texts, PairCompatibilityOptions options = {}) {
  Tensor<accumulate_t<T>, 2, Device> phi(ctx, {patches.shape[0], texts.shape[0]});
  pair_compatibility_forward(ctx, view(phi), {}, patches, texts, options);
  return phi;
}

}  // namespace tessera

#include <tessera/cpu/pair_compatibility.hpp>
