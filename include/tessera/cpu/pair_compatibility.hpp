// Pair compatibility on Cpu: matrix products an image and a tile of texts at a time; images in parallel. Matrices of
// one image are laid out texts by patches, so that the softmax over patches runs along memory.
#pragma once
#include <cmath>
#include <limits>

#include <tessera/cpu/product.hpp>
#include <tessera/ops/pair_compatibility.hpp>

namespace tessera {
namespace cpu {

/// 1 / |x|, or 0 for the zero vector.
template <class A, class T>
A inverse_norm(const T* x, int64_t n) {
  A squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) squares += A(widen(x[i])) * A(widen(x[i]));
  return squares > 0 ? A(1) / std::sqrt(squares) : A(0);
}

/// Rows divided by their norms, zero rows left zero.
template <class A>
struct UnitRows {
  Tensor<A, 2> unit;
  Tensor<A, 1> inverse_norms;

  template <class T>
  UnitRows(Context<Cpu>& ctx, const TensorView<T, 2>& x) : unit(ctx, x.shape), inverse_norms(ctx, {x.shape[0]}) {
    const int64_t channels = x.shape[1];
    parallel_for(x.shape[0], row_grain(channels), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* row = x.data + r * channels;
        A* unit_row = unit.data + r * channels;
        const A scale = inverse_norm<A>(row, channels);
        inverse_norms.data[r] = scale;
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) unit_row[c] = A(widen(row[c])) * scale;
      }
    });
  }
};

/// d_x of x / |x|: what is left of d_unit after its part along the unit vector is taken out, over |x|.
template <class A, class T>
void unit_backward(T* d_x, const A* d_unit, const A* unit, A inverse_norm, int64_t channels) {
  A along = 0;
#pragma omp simd reduction(+ : along)
  for (int64_t c = 0; c < channels; ++c) along += d_unit[c] * unit[c];
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) d_x[c] = narrow<T>((d_unit[c] - along * unit[c]) * inverse_norm);
}

/// One image's patches as they are pooled (as stored, or divided by their norms) and what turns their products with a
/// unit text into cosines.
template <class A>
class PooledPatches {
 public:
  template <class T>
  PooledPatches(Context<Cpu>& ctx, const T* stored, int64_t patches, int64_t channels, bool normalized)
      : inverse_norms(ctx, {patches}), cosine_scale(inverse_norms) {
    for (int64_t t = 0; t < patches; ++t) inverse_norms.data[t] = inverse_norm<A>(stored + t * channels, channels);
    if (!normalized) {
      if constexpr (!std::is_same_v<A, T>) copy_ = Tensor<A, 2>(ctx, {patches, channels});
      data = widened_or_same(stored, patches * channels, copy_.data);
      return;
    }
    copy_ = Tensor<A, 2>(ctx, {patches, channels});
    cosine_scale = Tensor<A, 1>(ctx, {patches});
    std::fill_n(cosine_scale.data, patches, A(1));
    for (int64_t t = 0; t < patches; ++t) {
      const A scale = inverse_norms.data[t];
      const T* from = stored + t * channels;
      A* to = copy_.data + t * channels;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) to[c] = A(widen(from[c])) * scale;
    }
    data = copy_.data;
  }

  Tensor<A, 1> inverse_norms, cosine_scale;
  const A* data = nullptr;  ///< [patches, channels]

 private:
  Tensor<A, 2> copy_;
};

}  // namespace cpu

template <>
struct Backend<op::pair_compatibility, Cpu> {
  /// Texts at a time: bounds the work space of an image to a few matrices of this many rows.
  static constexpr int64_t text_tile = 256;

  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>& ctx, Out<A, 2, Cpu> phi, Out<A, 2, Cpu> log_sum_exp, In<T, 3, Cpu> patches,
                      In<T, 2, Cpu> texts, PairCompatibilityOptions options) {
    const auto [images, count, channels] = patches.shape;
    const int64_t all_texts = texts.shape[0], tile = std::min(text_tile, all_texts);
    if (images == 0 || all_texts == 0) return;
    const cpu::UnitRows<A> unit_texts(ctx, texts);
    parallel_for(images, 1, [&, count = count, channels = channels](int64_t begin, int64_t end) {
      Tensor<A, 2> attention(ctx, {tile, count}), pooled(ctx, {tile, channels});
      for (int64_t i = begin; i < end; ++i) {
        const cpu::PooledPatches<A> image(ctx, patches.data + i * count * channels, count, channels,
                                          options.pool_normalized);
        for (int64_t first = 0; first < all_texts; first += tile) {
          const int64_t rows = std::min(tile, all_texts - first);
          const A* unit = unit_texts.unit.data + first * channels;
          cpu::multiply<A, A>(ctx, rows, count, channels, attention.data, count, {unit, channels},
                              {image.data, channels, true});
          for (int64_t j = 0; j < rows; ++j) {
            const A sum = softmax_of_cosines(attention.data + j * count, image.cosine_scale.data, count,
                                             A(options.attention_scale));
            if (log_sum_exp) log_sum_exp.data[i * all_texts + first + j] = sum;
          }
          cpu::multiply<A, A>(ctx, rows, channels, count, pooled.data, channels, {attention.data, count},
                              {image.data, channels});
          for (int64_t j = 0; j < rows; ++j)
            phi.data[i * all_texts + first + j] =
                cosine_with_unit(pooled.data + j * channels, unit + j * channels, channels);
        }
      }
    });
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>& ctx, Out<T, 3, Cpu> d_patches, Out<T, 2, Cpu> d_texts, In<A, 2, Cpu> d_phi,
                       In<A, 2, Cpu> phi, In<A, 2, Cpu> log_sum_exp, In<T, 3, Cpu> patches, In<T, 2, Cpu> texts,
                       PairCompatibilityOptions options) {
    const auto [images, count, channels] = patches.shape;
    const int64_t all_texts = texts.shape[0], tile = std::min(text_tile, all_texts);
    if (all_texts == 0 || images == 0) {
      if (d_patches) std::fill_n(d_patches.data, d_patches.size(), T{});
      if (d_texts) std::fill_n(d_texts.data, d_texts.size(), T{});
      return;
    }
    const cpu::UnitRows<A> unit_texts(ctx, texts);
    // Every chunk of images has a sum of its own for the texts' gradient; at most 64 MiB of them (in float).
    const int64_t most_chunks = std::clamp<int64_t>((int64_t(1) << 24) / (all_texts * channels), 1, 64);
    const int64_t grain = chunk_count(images, most_chunks), chunks = chunk_count(images, grain);
    Tensor<A, 3> d_unit_texts;
    if (d_texts) d_unit_texts = Tensor<A, 3>(ctx, {chunks, all_texts, channels});
    parallel_for(images, grain, [&, count = count, channels = channels](int64_t begin, int64_t end) {
      Tensor<A, 2> products(ctx, {tile, count}), attention(ctx, {tile, count}), with_pooled(ctx, {tile, count}),
          pooled(ctx, {tile, channels}), d_image(ctx, {d_patches ? count : 0, channels});
      Tensor<A, 1> turning(ctx, {count});
      for (int64_t i = begin; i < end; ++i) {
        const cpu::PooledPatches<A> image(ctx, patches.data + i * count * channels, count, channels,
                                          options.pool_normalized);
        const A* cosine_scale = image.cosine_scale.data;
        turning.set_zero();
        for (int64_t first = 0; first < all_texts; first += tile) {
          const int64_t rows = std::min(tile, all_texts - first), pair = i * all_texts + first;
          const A* unit = unit_texts.unit.data + first * channels;
          cpu::multiply<A, A>(ctx, rows, count, channels, products.data, count, {unit, channels},
                              {image.data, channels, true});
          for (int64_t j = 0; j < rows; ++j)
            attention_again(attention.data + j * count, products.data + j * count, cosine_scale, count,
                            A(options.attention_scale), log_sum_exp.data[pair + j]);
          cpu::multiply<A, A>(ctx, rows, channels, count, pooled.data, channels, {attention.data, count},
                              {image.data, channels});
          cpu::multiply<A, A>(ctx, rows, count, channels, with_pooled.data, count, {pooled.data, channels},
                              {image.data, channels, true});
          for (int64_t j = 0; j < rows; ++j)
            pair_gradient(products.data + j * count, attention.data + j * count, turning.data,
                          with_pooled.data + j * count, cosine_scale, count, A(options.attention_scale),
                          cpu::inverse_norm<A>(pooled.data + j * channels, channels), d_phi.data[pair + j],
                          phi.data[pair + j]);
          const auto after_first = [](bool is_first) { return is_first ? cpu::Store::overwrite : cpu::Store::add; };
          if (d_patches) {
            cpu::multiply<A, A>(ctx, count, channels, rows, d_image.data, channels, {products.data, count, true},
                                {unit, channels}, after_first(first == 0));
            cpu::multiply<A, A>(ctx, count, channels, rows, d_image.data, channels, {attention.data, count, true},
                                {pooled.data, channels}, cpu::Store::add);
          }
          if (d_texts)
            cpu::multiply<A, A>(ctx, rows, channels, count,
                                d_unit_texts.data + (begin / grain * all_texts + first) * channels, channels,
                                {products.data, count}, {image.data, channels}, after_first(i == begin));
        }
        if (d_patches)
          store_patch_gradients(d_patches.data + i * count * channels, d_image.data, image, turning.data, count,
                                channels, options.pool_normalized);
      }
    });
    if (d_texts) add_chunks_and_normalise(d_texts, d_unit_texts, unit_texts);
  }

 private:
  /// Turns products with a unit text into attention weights, in place. Returns log sum exp(scale * cosine).
  template <class A>
  static A softmax_of_cosines(A* row, const A* cosine_scale, int64_t count, A scale) {
    A largest = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : largest)
    for (int64_t t = 0; t < count; ++t) {
      row[t] *= scale * cosine_scale[t];
      largest = row[t] > largest ? row[t] : largest;
    }
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t < count; ++t) {
      row[t] = math::exp(row[t] - largest);
      sum += row[t];
    }
    const A over_sum = A(1) / sum;
#pragma omp simd
    for (int64_t t = 0; t < count; ++t) row[t] *= over_sum;
    return largest + std::log(sum);
  }

  template <class A>
  static void attention_again(A* attention, const A* products, const A* cosine_scale, int64_t count, A scale,
                              A log_sum_exp) {
#pragma omp simd
    for (int64_t t = 0; t < count; ++t) attention[t] = math::exp(scale * cosine_scale[t] * products[t] - log_sum_exp);
  }

  template <class A>
  static A cosine_with_unit(const A* x, const A* unit, int64_t channels) {
    A dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t c = 0; c < channels; ++c) dot += x[c] * unit[c];
    return dot * cpu::inverse_norm<A>(x, channels);
  }

  /// One pair's coefficients. `products` [T] (v_t · unit text) becomes the coefficient of the unit text in d_v_t and of
  /// v_t in d_unit_text; `attention` [T] that of the pooled vector in d_v_t; to `turning` [T] is added d_s_t s_t, which
  /// keeps the attention path's gradient orthogonal to v_t.
  template <class A>
  static void pair_gradient(A* products, A* attention, A* turning, const A* with_pooled, const A* cosine_scale,
                            int64_t count, A scale, A inverse_pooled_norm, A d_phi, A phi) {
    const A along_text = d_phi * inverse_pooled_norm,
            along_pooled = d_phi * phi * inverse_pooled_norm * inverse_pooled_norm;
#pragma omp simd
    for (int64_t t = 0; t < count; ++t) {
      const A d_attention = along_text * products[t] - along_pooled * with_pooled[t];
      const A d_cosine = scale * attention[t] * d_attention;  // the softmax's mean term is 0: docs/math
      turning[t] += d_cosine * cosine_scale[t] * products[t];
      products[t] = along_text * attention[t] + d_cosine * cosine_scale[t];
      attention[t] *= -along_pooled;
    }
  }

  template <class T, class A>
  static void store_patch_gradients(T* d_patches, const A* d_image, const cpu::PooledPatches<A>& image,
                                    const A* turning, int64_t count, int64_t channels, bool pool_normalized) {
    for (int64_t t = 0; t < count; ++t) {
      T* d_patch = d_patches + t * channels;
      const A *d = d_image + t * channels, *patch = image.data + t * channels, inverse = image.inverse_norms.data[t];
      if (pool_normalized) {
        cpu::unit_backward(d_patch, d, patch, inverse, channels);
        continue;
      }
      const A back = turning[t] * inverse * inverse;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) d_patch[c] = narrow<T>(d[c] - back * patch[c]);
    }
  }

  template <class T, class A>
  static void add_chunks_and_normalise(const TensorView<T, 2>& d_texts, const TensorView<A, 3>& d_unit_texts,
                                       const cpu::UnitRows<A>& unit_texts) {
    const auto [chunks, texts, channels] = d_unit_texts.shape;
    parallel_for(texts, row_grain(channels),
                 [&, chunks = chunks, texts = texts, channels = channels](int64_t begin, int64_t end) {
                   for (int64_t j = begin; j < end; ++j) {
                     A* sum = d_unit_texts.data + j * channels;
                     for (int64_t chunk = 1; chunk < chunks; ++chunk) {
                       const A* more = d_unit_texts.data + (chunk * texts + j) * channels;
#pragma omp simd
                       for (int64_t c = 0; c < channels; ++c) sum[c] += more[c];
                     }
                     cpu::unit_backward(d_texts.data + j * channels, sum, unit_texts.unit.data + j * channels,
                                        unit_texts.inverse_norms.data[j], channels);
                   }
                 });
  }
};

}  // namespace tessera
