// The input of a vision transformer (Dosovitskiy et al., 2021): the class token in front of the patch embeddings, plus
// positional embeddings, in one pass.
//
// Axes: tokens [B, S + P, C], class_embedding [C] (may be absent: then S = 0, else 1), patches [B, P, C],
// positional_embedding [S + P, C].
#pragma once
#include <type_traits>

#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct tokens;
}

namespace detail {
template <class TokensView, class PatchesView>
void expect_tokens(std::string_view op, std::string_view tokens_name, const TokensView& tokens,
                   std::string_view patches_name, const PatchesView& patches, bool has_class) {
  const auto [items, count, channels] = tokens.shape;
  require<ShapeError>(!has_class || count > 0, op, ": ", tokens_name, " ", to_string(tokens.shape),
                      " has no room for the class token");
  expect_shape(op, patches_name, patches.shape, {items, count - (has_class ? 1 : 0), channels}, "B P C", tokens_name);
  expect_contiguous(op, tokens_name, tokens);
  expect_contiguous(op, patches_name, patches);
}
}  // namespace detail

/// tokens[b, 0] = class_embedding + positional_embedding[0] (where class_embedding is present), tokens[b, S + p] =
/// patches[b, p] + positional_embedding[S + p].
template <class T, class Device>
void assemble_tokens_forward(Context<Device>& ctx, TensorView<T, 3, Device> tokens, In<T, 1, Device> class_embedding,
                             In<T, 3, Device> patches, In<T, 2, Device> positional_embedding) {
  constexpr auto name = "assemble_tokens_forward";
  const int64_t first = class_embedding ? 1 : 0, channels = patches.shape[2];
  if (class_embedding) expect_shape(name, "class_embedding", class_embedding.shape, {channels}, "C", "patches");
  expect_shape(name, "positional_embedding", positional_embedding.shape, {first + patches.shape[1], channels}, "N C",
               "patches and class_embedding");
  expect_shape(name, "tokens", tokens.shape, {patches.shape[0], first + patches.shape[1], channels}, "B N C",
               "patches and class_embedding");
  detail::expect_tokens(name, "tokens", tokens, "patches", patches, bool(class_embedding));
  expect_contiguous(name, "positional_embedding", positional_embedding);
  Backend<op::tokens, Device>::template forward<T>(ctx, tokens, class_embedding, patches, positional_embedding);
}

/// d_class_embedding [C], d_patches [B, P, C] and d_positional_embedding [S + P, C], each where present, from d_tokens
/// [B, S + P, C]. `has_class` says whether the forward pass had a class embedding. d_positional_embedding is G:
/// accumulate_t<T> for a parameter, T for a computed (resized) one; its sums are accumulate_t<T> in any case.
template <class T, class Device, class G = accumulate_t<T>>
void assemble_tokens_backward(Context<Device>& ctx, TensorView<T, 3, Device> d_patches,
                              Out<accumulate_t<T>, 1, Device> d_class_embedding,
                              const TensorView<G, 2, Device>& d_positional_embedding, In<T, 3, Device> d_tokens,
                              bool has_class) {
  static_assert(std::is_same_v<G, T> || std::is_same_v<G, accumulate_t<T>>);
  constexpr auto name = "assemble_tokens_backward";
  const int64_t count = d_tokens.shape[1], channels = d_tokens.shape[2];
  if (d_patches) detail::expect_tokens(name, "d_tokens", d_tokens, "d_patches", d_patches, has_class);
  if (d_class_embedding) {
    require<ShapeError>(has_class && count > 0, name, ": d_class_embedding is given but there is no class token");
    expect_shape(name, "d_class_embedding", d_class_embedding.shape, {channels}, "C", "d_tokens");
  }
  if (d_positional_embedding) {
    expect_shape(name, "d_positional_embedding", d_positional_embedding.shape, {count, channels}, "N C", "d_tokens");
    expect_contiguous(name, "d_positional_embedding", d_positional_embedding);
  }
  expect_contiguous(name, "d_tokens", d_tokens);
  Backend<op::tokens, Device>::template backward<T, G>(ctx, d_patches, d_class_embedding, d_positional_embedding,
                                                       d_tokens, has_class);
}

/// The tokens as a new tensor.
template <class T, class Device>
auto assemble_tokens(Context<Device>& ctx, In<T, 1, Device> class_embedding, const TensorView<T, 3, Device>& patches,
                     In<T, 2, Device> positional_embedding) {
  Tensor<std::remove_const_t<T>, 3, Device> tokens(
      ctx, {patches.shape[0], patches.shape[1] + (class_embedding ? 1 : 0), patches.shape[2]});
  assemble_tokens_forward(ctx, view(tokens), class_embedding, patches, positional_embedding);
  return tokens;
}

}  // namespace tessera

#include <tessera/cpu/tokens.hpp>
