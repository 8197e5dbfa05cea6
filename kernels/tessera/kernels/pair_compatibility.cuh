// Pair compatibility on kernels' devices: for a chunk of images and a tile of texts at a time, products by the tensor
// cores and a softmax over patches between them. What lies between is bounded by work_bytes however many pairs there
// are, and stays in the second-level cache; the pooled vectors of all pairs never exist.
//
// Nothing is normalised beforehand: with raw products p = text . v_t, lengths enter as factors 1 / |text|, 1 / |v_t|,
// so that products of bfloat16 are exact. Beside Cpu's notation, with w_t = 1, or 1 / |v_t| where
// options.pool_normalized:
//   pooled u = sum_t a_t w_t v_t,  z_t = the scaled scores
//   d_v_t  = R_t - (what is not orthogonal to v_t),  R = sum over texts of (c text + e u')
//   d_text = X - (X . unit) unit,                    X = sum over images of (sum over patches of c v + f u')
// where u' is u without its part along the text.
#pragma once
#include <algorithm>
#include <utility>

#include <tessera/device/launch.cuh>
#include <tessera/kernels/matrix_tiles.cuh>
#include <tessera/kernels/row_groups.cuh>
#include <tessera/ops/pair_compatibility.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct pair_traits {
  static constexpr int threads = 256;
  using Rows = RowGroup<threads, warp_size>;
  static constexpr int64_t work_bytes = int64_t(64) << 20;
  static constexpr int64_t most_texts = 1024;    // of a tile
  static constexpr int64_t texts_of_part = 128;  // that one block of the gradients' kernel goes through
};

/// The images and texts of one round. Row (i, j) of its matrices is row i * texts + j.
struct PairTile {
  int64_t images, texts, patches, channels;
  int64_t padded;  // patches rounded up to packs: the row length of matrices that are operands, zero in the rest
  int64_t first_image, first_text, all_texts;

  /// Of row `pair` of the round: its place in [B, K].
  TESSERA_DEVICE int64_t place(int64_t pair) const {
    return (first_image + pair / texts) * all_texts + first_text + pair % texts;
  }
};

/// 1 / |x|, or 0 for the zero vector.
TESSERA_DEVICE float inverse_length(float squares) { return squares > 0 ? 1.0f / sqrtf(squares) : 0.0f; }

/// inverse_norms [rows] of x [rows, channels]. A warp a row.
template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(pair_traits::threads)
    pair_norms_kernel(float* inverse_norms, const T* x, int64_t rows, int64_t channels) {
  const int64_t row = pair_traits::Rows::first_row();
  if (row >= rows) return;
  float squares = 0;
  pair_traits::Rows::for_each_pack<1>(channels, [&](int64_t c) {
    const float value = widen(x[row * channels + c]);
    squares += value * value;
  });
  squares = warp_sum(squares);
  if (pair_traits::Rows::lane() == 0) inverse_norms[row] = inverse_length(squares);
}

/// A pair's scaled scores z_t from its raw products with the text, as a weighting sees them; a warp reads them
/// together.
template <class Score>
struct PairScores {
  const float *products, *patch_inverse;
  float factor;  // attention_scale, over the text's length unless lengths count
  int64_t patches;

  /// d z_t / d product.
  TESSERA_DEVICE float slope(int64_t t) const { return Score::lengths_count ? factor : factor * patch_inverse[t]; }
  TESSERA_DEVICE float operator[](int64_t t) const { return slope(t) * products[t]; }
  TESSERA_DEVICE float max() const {
    float largest = negative_infinity();
    pair_traits::Rows::for_each_pack<1>(patches, [&](int64_t t) { largest = fmaxf(largest, (*this)[t]); });
    return warp_max(largest);
  }
  template <class F>
  TESSERA_DEVICE float sum(F&& of) const {
    float total = 0;
    pair_traits::Rows::for_each_pack<1>(patches, [&](int64_t t) { total += of((*this)[t]); });
    return warp_sum(total);
  }
};
template <class Score>
TESSERA_DEVICE PairScores<Score> pair_scores(const float* products, const float* patch_inverse,
                                             const float* text_inverse, int64_t pair, const PairTile& tile,
                                             float scale) {
  return {products + pair * tile.patches, patch_inverse + pair / tile.texts * tile.patches,
          Score::lengths_count ? scale : scale * text_inverse[pair % tile.texts], tile.patches};
}
/// What a weighting finds that a pair's weights have in common.
template <class Weighting>
using PairCommon = decltype(std::declval<Weighting>().common(std::declval<PairScores<CosineScore>>(), PairPlace{}));

/// weights [pairs, padded] = a_t w_t from products [pairs, patches], and, where present, what they have in common
/// [pairs]. The inverse norms are those of this round. A warp a pair.
template <class W, class Score, class Weighting>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(pair_traits::threads)
    pair_attention_kernel(W* weights, PairCommon<Weighting>* commons, const float* products, const float* text_inverse,
                          const float* patch_inverse, PairTile tile, float scale, bool normalized,
                          Weighting weighting) {
  using Rows = pair_traits::Rows;
  const int64_t pair = Rows::first_row();
  if (pair >= tile.images * tile.texts) return;
  const auto scores = pair_scores<Score>(products, patch_inverse, text_inverse, pair, tile, scale);
  const auto common =
      weighting.common(scores, PairPlace{tile.first_image + pair / tile.texts, tile.first_text + pair % tile.texts});
  if (commons && Rows::lane() == 0) commons[pair] = common;
  Rows::for_each_pack<1>(tile.padded, [&](int64_t t) {
    float weight = 0;
    if (t < tile.patches) weight = weighting.weight(scores[t], common) * (normalized ? scores.patch_inverse[t] : 1.0f);
    weights[pair * tile.padded + t] = narrow<W>(weight);
  });
}

/// phi from pooled [pairs, channels]. A warp a pair.
template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(pair_traits::threads)
    pair_phi_kernel(float* phi, const float* pooled, const T* texts, const float* text_inverse, PairTile tile) {
  using Rows = pair_traits::Rows;
  const int64_t pair = Rows::first_row();
  if (pair >= tile.images * tile.texts) return;
  const float* u = pooled + pair * tile.channels;
  const T* text = texts + pair % tile.texts * tile.channels;
  float dot = 0, squares = 0;
  Rows::for_each_pack<1>(tile.channels, [&](int64_t c) {
    dot += u[c] * widen(text[c]);
    squares += u[c] * u[c];
  });
  dot = warp_sum(dot);
  squares = warp_sum(squares);
  if (Rows::lane() == 0) phi[tile.place(pair)] = dot * text_inverse[pair % tile.texts] * inverse_length(squares);
}

/// Of pooled vectors u [pairs, channels]: inverse [pairs] lengths, along [pairs] = u . unit text, and, as an operand,
/// what is left of u without its part along the text. u and the text's direction come close to each other in training;
/// the gradient is what tells them apart, and would drown in the rounding of the whole u. A warp a pair.
template <class W, class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(pair_traits::threads)
    pair_pooled_kernel(float* inverse, float* along, W* across, const float* pooled, const T* texts,
                       const float* text_inverse, PairTile tile) {
  using Rows = pair_traits::Rows;
  const int64_t pair = Rows::first_row();
  if (pair >= tile.images * tile.texts) return;
  const float* u = pooled + pair * tile.channels;
  const T* text = texts + pair % tile.texts * tile.channels;
  const float unit = text_inverse[pair % tile.texts];
  float squares = 0, dot = 0;
  Rows::for_each_pack<1>(tile.channels, [&](int64_t c) {
    squares += u[c] * u[c];
    dot += u[c] * widen(text[c]);
  });
  squares = warp_sum(squares);
  dot = warp_sum(dot) * unit;
  Rows::for_each_pack<1>(tile.channels, [&](int64_t c) {
    across[pair * tile.channels + c] = narrow<W>(u[c] - dot * unit * widen(text[c]));
  });
  if (Rows::lane() != 0) return;
  inverse[pair] = inverse_length(squares);
  along[pair] = dot;
}

/// What the gradients of a round's pairs are made from.
struct PairGradient {
  const float *d_phi, *phi;                 // [B, K]
  const float *products, *across_products;  // [pairs, patches]: p, and v_t . (u without its part along the text)
  const float *pooled_inverse, *pooled_along, *text_inverse, *patch_inverse;
  float scale;
  bool normalized;
};

/// c and e [pairs, padded], and turning [parts, images * patches], the sums over a part's texts of d_z z. Block (32
/// patches, part, image); a warp takes every eighth text.
template <class W, class Score, class Weighting>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(pair_traits::threads)
    pair_gradient_kernel(W* c, W* e, float* turning, const PairCommon<Weighting>* commons, PairGradient g,
                         PairTile tile, int64_t patch_blocks, int64_t parts, Weighting weighting) {
  constexpr int warps = pair_traits::threads / warp_size;
  TESSERA_SHARED(float, of_warp, pair_traits::threads);
  const int lane = int(threadIdx.x) % warp_size, warp = int(threadIdx.x) / warp_size;
  const int64_t t = blockIdx.x % patch_blocks * warp_size + lane, part = blockIdx.x / patch_blocks % parts;
  const int64_t image = blockIdx.x / patch_blocks / parts;
  const int64_t first = part * pair_traits::texts_of_part, end = min(first + pair_traits::texts_of_part, tile.texts);
  const bool inside = t < tile.patches;
  const float inverse = inside ? g.patch_inverse[image * tile.patches + t] : 0.0f;
  const float pool = g.normalized ? inverse : 1.0f;
  float turned = 0;
  for (int64_t j = first + warp; j < end; j += warps) {
    const int64_t pair = image * tile.texts + j, place = tile.place(pair);
    float of_text = 0, of_pooled = 0;
    if (inside) {
      const float unit = g.text_inverse[j], over = g.pooled_inverse[pair];
      const float of_phi = g.d_phi[place] * over, across = of_phi * g.phi[place] * over;
      const float along =
          of_phi * (1 - g.phi[place] * over * g.pooled_along[pair]);  // 1 - phi^2: no cancellation later
      const auto scores = pair_scores<Score>(g.products, g.patch_inverse, g.text_inverse, pair, tile, g.scale);
      const float product = unit * scores.products[t], z = scores[t], weight = weighting.weight(z, commons[pair]);
      const float d_weight = pool * (along * product - across * g.across_products[pair * tile.patches + t]);
      const float d_z = weighting.slope(z, weight) * d_weight;  // what weights share passes nothing: docs/math
      turned += d_z * z;
      of_text = unit * along * weight * pool + d_z * scores.slope(t);
      of_pooled = -across * weight * pool;
    }
    if (t < tile.padded) {
      c[pair * tile.padded + t] = narrow<W>(of_text);
      e[pair * tile.padded + t] = narrow<W>(of_pooled);
    }
  }
  of_warp[threadIdx.x] = turned;
  __syncthreads();
  if (warp != 0 || !inside) return;
  for (int other = 1; other < warps; ++other) turned += of_warp[other * warp_size + lane];
  turning[(part * tile.images + image) * tile.patches + t] = turned;
}

/// d_patches of the round's images from R [rows, channels] and turning [parts, rows]: the parts of R along a patch pass
/// as far as its length counts. A warp a patch.
template <class T, class Score>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(pair_traits::threads)
    pair_d_patches_kernel(T* d_patches, const float* sums, const float* turning, const T* patches,
                          const float* patch_inverse, int64_t rows, int64_t channels, int64_t parts, bool normalized) {
  using Rows = pair_traits::Rows;
  const int64_t row = Rows::first_row();
  if (row >= rows) return;
  const float* sum = sums + row * channels;
  const T* patch = patches + row * channels;
  const float inverse = patch_inverse[row];
  float along = 0;
  if (normalized) {
    Rows::for_each_pack<1>(channels, [&](int64_t c) { along += sum[c] * widen(patch[c]); });
    along = warp_sum(along);
  }
  if (normalized == Score::lengths_count) {
    float turned = 0;
    for (int64_t part = 0; part < parts; ++part) turned += turning[part * rows + row];
    along = normalized ? along - turned : turned;
  }
  const float back = along * inverse * inverse;
  Rows::for_each_pack<1>(
      channels, [&](int64_t c) { d_patches[row * channels + c] = narrow<T>(sum[c] - back * widen(patch[c])); });
}

/// sums [texts, channels] (+)= parts [images, texts, channels] and, beside each, what c leaves out of the pooled vector
/// itself, image after image.
template <class W>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(pair_traits::threads)
    pair_add_images_kernel(float* sums, const float* parts, const W* across, PairGradient g, PairTile tile,
                           bool overwrite) {
  const int64_t count = tile.texts * tile.channels, i = int64_t(blockIdx.x) * pair_traits::threads + threadIdx.x;
  if (i >= count) return;
  const int64_t text = i / tile.channels;
  float sum = overwrite ? 0.0f : sums[i];
  for (int64_t image = 0; image < tile.images; ++image) {
    const int64_t pair = image * tile.texts + text, place = tile.place(pair);
    const float over = g.pooled_inverse[pair];
    const float rest = g.text_inverse[text] * g.d_phi[place] * over * g.phi[place] * over * g.pooled_along[pair];
    sum += parts[image * count + i] + rest * widen(across[image * count + i]);
  }
  sums[i] = sum;
}

template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(pair_traits::threads) pair_zero_kernel(T* to, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * pair_traits::threads + threadIdx.x;
  if (i < count) to[i] = narrow<T>(0.0f);
}

/// d_texts from X [texts, channels]. Where lengths count, only what pooled vectors gave is taken out along the text:
/// the sum over images of d_phi phi (1 - phi^2). A warp a text.
template <class T, class Score>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(pair_traits::threads)
    pair_d_texts_kernel(T* d_texts, const float* sums, const T* texts, const float* text_inverse, const float* d_phi,
                        const float* phi, int64_t images, int64_t rows, int64_t channels) {
  using Rows = pair_traits::Rows;
  const int64_t row = Rows::first_row();
  if (row >= rows) return;
  const float* sum = sums + row * channels;
  const T* text = texts + row * channels;
  float along = 0;
  if constexpr (Score::lengths_count) {
    Rows::for_each_pack<1>(images, [&](int64_t i) {
      const float cosine = phi[i * rows + row];
      along += d_phi[i * rows + row] * cosine * (1 - cosine * cosine);
    });
  } else {
    Rows::for_each_pack<1>(channels, [&](int64_t c) { along += sum[c] * widen(text[c]); });
  }
  const float back = warp_sum(along) * text_inverse[row] * text_inverse[row];
  Rows::for_each_pack<1>(channels,
                         [&](int64_t c) { d_texts[row * channels + c] = narrow<T>(sum[c] - back * widen(text[c])); });
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::pair_compatibility, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::pair_traits;
  using Tile = kernels::PairTile;
  /// Of matrices that are operands.
  template <class T>
  using work_t = std::conditional_t<std::is_same_v<T, bfloat16>, bfloat16, float>;

  template <class T, class Weighting, class Score>
  static void forward(Context<Device>& ctx, Out<float, 2, Device> phi, In<T, 3, Device> patches, In<T, 2, Device> texts,
                      PairCompatibilityOptions options, Weighting weighting, Score) {
    using namespace kernels;
    using W = work_t<T>;
    if (phi.size() == 0) return;
    const Inputs<T> in(ctx, patches, texts, options);
    const auto most = largest_tile<T>(patches, texts);
    Tensor<float, 3, Device> products(ctx, {most.images, most.texts, most.patches}),
        pooled(ctx, {most.images, most.texts, most.channels});
    Tensor<W, 3, Device> weights(ctx, {most.images, most.texts, most.padded});
    for_each_tile(most, patches.shape[0], [&](const Tile& tile) {
      attention<T, Score>(ctx, in, tile, weighting, products.data, weights.data, nullptr, pooled.data);
      launch("pair_phi", pair_phi_kernel<T>, rows(tile.images * tile.texts), threads, 0, ctx, phi.data, pooled.data,
             in.text(tile), in.text_inverse(tile), tile);
    });
  }

  template <class T, class Weighting, class Score>
  static void backward(Context<Device>& ctx, Out<T, 3, Device> d_patches, Out<T, 2, Device> d_texts,
                       In<float, 2, Device> d_phi, In<float, 2, Device> phi, In<T, 3, Device> patches,
                       In<T, 2, Device> texts, PairCompatibilityOptions options, Weighting weighting, Score) {
    using namespace kernels;
    using W = work_t<T>;
    if (phi.size() == 0) {  // nothing depends on the inputs: zeros
      const auto zero = [&](T* to, int64_t count) {
        if (to && count > 0)
          launch("pair_zero", pair_zero_kernel<T>, blocks_for(count, Traits::threads), threads, 0, ctx, to, count);
      };
      zero(d_patches.data, d_patches.size());
      zero(d_texts.data, d_texts.size());
      return;
    }
    const Inputs<T> in(ctx, patches, texts, options);
    const auto most = largest_tile<T>(patches, texts);
    const int64_t all_texts = texts.shape[0], channels = most.channels;
    const int64_t parts_of_tile = ceil_div(most.texts, Traits::texts_of_part);
    const int64_t tiles_of_image = ceil_div(all_texts, most.texts);
    Tensor<float, 3, Device> products(ctx, {most.images, most.texts, most.patches}),
        across_products(ctx, products.shape), pooled(ctx, {most.images, most.texts, channels}),
        patch_sums(ctx, {d_patches ? most.images : 0, most.patches, channels}),
        turning(ctx, {tiles_of_image * parts_of_tile, most.images, most.patches});
    Tensor<W, 3, Device> weights(ctx, {most.images, most.texts, most.padded}), c(ctx, weights.shape),
        across(ctx, pooled.shape);
    Tensor<kernels::PairCommon<Weighting>, 2, Device> commons(ctx, {most.images, most.texts});
    Tensor<float, 2, Device> pooled_inverse(ctx, {most.images, most.texts}), pooled_along(ctx, pooled_inverse.shape),
        text_sums(ctx, {d_texts ? all_texts : 0, channels});
    for_each_tile(most, patches.shape[0], [&](const Tile& tile) {
      const int64_t pairs = tile.images * tile.texts, rows_of_patches = tile.images * tile.patches;
      const int64_t patch_items = tile.patches * channels, pair_items = tile.texts * channels;
      const int64_t weight_items = tile.texts * tile.padded;
      attention<T, Score>(ctx, in, tile, weighting, products.data, weights.data, commons.data, pooled.data);
      launch("pair_pooled", pair_pooled_kernel<W, T>, rows(pairs), threads, 0, ctx, pooled_inverse.data,
             pooled_along.data, across.data, pooled.data, in.text(tile), in.text_inverse(tile), tile);
      const auto u = operand_of<W>(across.data, channels, channels, pair_items);
      const auto v = operand_of<T>(in.patch(tile), channels, channels, patch_items);
      matrix_product<true, true>("pair_across_products", ctx,
                                 MatrixProduct<W, T, float>{.c = across_products.data,
                                                            .a = u,
                                                            .b = v,
                                                            .rows = tile.texts,
                                                            .columns = tile.patches,
                                                            .depth = channels,
                                                            .a_item = pair_items,
                                                            .b_item = patch_items,
                                                            .c_item = tile.texts * tile.patches,
                                                            .items = tile.images});

      const int64_t parts = ceil_div(tile.texts, Traits::texts_of_part);
      const int64_t patch_blocks = ceil_div(tile.padded, int64_t(warp_size));
      const int64_t first_part = tile.first_text / most.texts * parts_of_tile;
      float* turned = turning.data + first_part * rows_of_patches;
      const PairGradient gradient{d_phi.data,
                                  phi.data,
                                  products.data,
                                  across_products.data,
                                  pooled_inverse.data,
                                  pooled_along.data,
                                  in.text_inverse(tile),
                                  in.patch_inverse(tile),
                                  float(in.options.attention_scale),
                                  in.options.pool_normalized};
      W* e = weights.data;  // the weights have done their work
      launch("pair_gradient", pair_gradient_kernel<W, Score, Weighting>,
             blocks_for(patch_blocks * parts * tile.images, 1), threads, 0, ctx, c.data, e, turned, commons.data,
             gradient, tile, patch_blocks, parts, weighting);

      if (d_patches) {
        const auto add = [&](const char* name, const W* coefficients, auto b, int64_t b_item, bool first) {
          using B = std::remove_const_t<std::remove_pointer_t<decltype(b.data)>>;
          MatrixProduct<W, B, float> product{.c = nullptr,
                                             .a = operand_of<W>(coefficients, tile.padded, tile.padded, weight_items),
                                             .b = b,
                                             .rows = tile.patches,
                                             .columns = channels,
                                             .depth = tile.texts,
                                             .a_item = weight_items,
                                             .b_item = b_item,
                                             .items = tile.images,
                                             .running = patch_sums.data,
                                             .first = first,
                                             .last = false};
          matrix_product<false, false>(name, ctx, product);
        };
        add("pair_d_patches_texts", c.data, operand_of<T>(in.text(tile), channels, channels), 0, tile.first_text == 0);
        add("pair_d_patches_pooled", e, u, pair_items, false);
        if (tile.first_text + tile.texts == all_texts)
          launch("pair_d_patches", pair_d_patches_kernel<T, Score>, rows(rows_of_patches), threads, 0, ctx,
                 d_patches.data + tile.first_image * patch_items, patch_sums.data, turning.data, in.patch(tile),
                 in.patch_inverse(tile), rows_of_patches, channels, first_part + parts, options.pool_normalized);
      }
      if (d_texts) {
        float* of_images = pooled.data;  // free by now, and of the size that is needed
        matrix_product<true, false>(
            "pair_d_texts_images", ctx,
            MatrixProduct<W, T, float>{.c = of_images,
                                       .a = operand_of<W>(c.data, tile.padded, tile.padded, weight_items),
                                       .b = v,
                                       .rows = tile.texts,
                                       .columns = channels,
                                       .depth = tile.patches,
                                       .a_item = weight_items,
                                       .b_item = patch_items,
                                       .c_item = pair_items,
                                       .items = tile.images});
        launch("pair_add_images", pair_add_images_kernel<W>, blocks_for(pair_items, Traits::threads), threads, 0, ctx,
               text_sums.data + tile.first_text * channels, of_images, across.data, gradient, tile,
               tile.first_image == 0);
      }
    });
    if (d_texts)
      launch("pair_d_texts", pair_d_texts_kernel<T, Score>, rows(all_texts), threads, 0, ctx, d_texts.data,
             text_sums.data, texts.data, in.text_inverse_norms.data, d_phi.data, phi.data, patches.shape[0], all_texts,
             channels);
  }

 private:
  static constexpr unsigned threads = Traits::threads;
  static unsigned rows(int64_t count) { return kernels::blocks_for(count, Traits::Rows::rows_of_block); }

  /// Patches and texts, with what turns their products into cosines.
  template <class T>
  struct Inputs {
    In<T, 3, Device> patches;
    In<T, 2, Device> texts;
    PairCompatibilityOptions options;
    Tensor<float, 1, Device> patch_inverse_norms, text_inverse_norms;

    Inputs(Context<Device>& ctx, In<T, 3, Device> v, In<T, 2, Device> t, const PairCompatibilityOptions& o)
        : patches(v),
          texts(t),
          options(o),
          patch_inverse_norms(ctx, {v.shape[0] * v.shape[1]}),
          text_inverse_norms(ctx, {t.shape[0]}) {
      static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
      const auto norms = [&](float* to, const T* from, int64_t count) {
        kernels::launch("pair_norms", kernels::pair_norms_kernel<T>, rows(count), threads, 0, ctx, to, from, count,
                        v.shape[2]);
      };
      norms(patch_inverse_norms.data, v.data, patch_inverse_norms.size());
      norms(text_inverse_norms.data, t.data, text_inverse_norms.size());
    }
    const T* patch(const Tile& tile) const { return patches.data + tile.first_image * tile.patches * tile.channels; }
    const T* text(const Tile& tile) const { return texts.data + tile.first_text * tile.channels; }
    const float* patch_inverse(const Tile& tile) const {
      return patch_inverse_norms.data + tile.first_image * tile.patches;
    }
    const float* text_inverse(const Tile& tile) const { return text_inverse_norms.data + tile.first_text; }
  };

  /// As many texts, then as many images, as the work space holds; at least 128 texts of one image.
  template <class T>
  static Tile largest_tile(In<T, 3, Device> patches, In<T, 2, Device> texts) {
    constexpr int64_t whole_tile = kernels::matrix_tile_traits::rows;
    const int64_t width = kernels::round_up(patches.shape[1], kernels::Pack<work_t<T>>::count);
    const int64_t work = int64_t(sizeof(work_t<T>)), channels = patches.shape[2];
    const int64_t bytes_of_pair =
        2 * width * (int64_t(sizeof(float)) + work) + channels * (int64_t(sizeof(float)) + work);
    const int64_t pairs = Traits::work_bytes / bytes_of_pair;
    const int64_t of_tile = std::min(texts.shape[0], std::clamp(pairs, whole_tile, Traits::most_texts));
    const int64_t images = std::clamp<int64_t>(pairs / of_tile, 1, patches.shape[0]);
    return {images, of_tile, patches.shape[1], channels, width, 0, 0, texts.shape[0]};
  }
  template <class Visit>
  static void for_each_tile(const Tile& most, int64_t images, Visit&& visit) {
    for (int64_t image = 0; image < images; image += most.images)
      for (int64_t text = 0; text < most.all_texts; text += most.texts) {
        Tile tile = most;
        tile.first_image = image;
        tile.first_text = text;
        tile.images = std::min(most.images, images - image);
        tile.texts = std::min(most.texts, most.all_texts - text);
        visit(tile);
      }
  }

  /// A round's products, weights and pooled vectors.
  template <class T, class Score, class Weighting, class W>
  static void attention(Context<Device>& ctx, const Inputs<T>& in, const Tile& tile, const Weighting& weighting,
                        float* products, W* weights, kernels::PairCommon<Weighting>* commons, float* pooled) {
    using namespace kernels;
    const int64_t channels = tile.channels, patch_items = tile.patches * channels;
    const auto v = operand_of<T>(in.patch(tile), channels, channels, patch_items);
    matrix_product<true, true>("pair_products", ctx,
                               MatrixProduct<T, T, float>{.c = products,
                                                          .a = operand_of<T>(in.text(tile), channels, channels),
                                                          .b = v,
                                                          .rows = tile.texts,
                                                          .columns = tile.patches,
                                                          .depth = channels,
                                                          .b_item = patch_items,
                                                          .c_item = tile.texts * tile.patches,
                                                          .items = tile.images});
    launch("pair_attention", pair_attention_kernel<W, Score, Weighting>, rows(tile.images * tile.texts), threads, 0,
           ctx, weights, commons, products, in.text_inverse(tile), in.patch_inverse(tile), tile,
           float(in.options.attention_scale), in.options.pool_normalized, weighting);
    matrix_product<true, false>(
        "pair_pool", ctx,
        MatrixProduct<W, T, float>{.c = pooled,
                                   .a = operand_of<W>(weights, tile.padded, tile.padded, tile.texts * tile.padded),
                                   .b = v,
                                   .rows = tile.texts,
                                   .columns = channels,
                                   .depth = tile.patches,
                                   .a_item = tile.texts * tile.padded,
                                   .b_item = patch_items,
                                   .c_item = tile.texts * channels,
                                   .items = tile.images});
  }
};

}  // namespace tessera
