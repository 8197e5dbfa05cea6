// Pair compatibility on Cpu: matrix products an image and a tile of texts at a time; images in parallel. Matrices of
// one image are laid out texts by patches, so that weights over patches run along memory. Where it is less work, pooled
// vectors are not made at all: what is needed of them follows from the image's Gram matrix of patches.
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

/// d_x = (d_unit - along unit) / |x|: of x / |x| where `along` is d_unit . unit.
template <class A, class T>
void unit_backward(T* d_x, const A* d_unit, const A* unit, A along, A inverse_norm, int64_t channels) {
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) d_x[c] = narrow<T>((d_unit[c] - along * unit[c]) * inverse_norm);
}

/// One image's patches p_t as they are pooled (as stored, or divided by their norms) and what turns their products with
/// a text into scores.
template <class A>
class PooledPatches {
 public:
  template <class T>
  PooledPatches(Context<Cpu>& ctx, const T* stored, int64_t patches, int64_t channels, bool normalized,
                bool lengths_count)
      : inverse_norms(ctx, {patches}), score_factors(ctx, {patches}) {
    for (int64_t t = 0; t < patches; ++t) {
      const A inverse = inverse_norm<A>(stored + t * channels, channels);
      inverse_norms.data[t] = inverse;
      if (normalized == lengths_count)
        score_factors.data[t] = normalized ? length_of(inverse) : inverse;
      else
        score_factors.data[t] = 1;
    }
    if (!normalized) {
      if constexpr (!std::is_same_v<A, T>) copy_ = Tensor<A, 2>(ctx, {patches, channels});
      data = widened_or_same(stored, patches * channels, copy_.data);
      return;
    }
    copy_ = Tensor<A, 2>(ctx, {patches, channels});
    for (int64_t t = 0; t < patches; ++t) {
      const A scale = inverse_norms.data[t];
      const T* from = stored + t * channels;
      A* to = copy_.data + t * channels;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) to[c] = A(widen(from[c])) * scale;
    }
    data = copy_.data;
  }

  /// |x| from 1 / |x|, where a zero vector has 0 for both.
  static A length_of(A inverse) { return inverse > 0 ? A(1) / inverse : A(0); }

  Tensor<A, 1> inverse_norms, score_factors;
  const A* data = nullptr;  ///< [patches, channels]

 private:
  Tensor<A, 2> copy_;
};

/// A pair's scaled scores z_t, as a weighting sees them. (Marked for devices, since weightings are.)
template <class A>
struct PairScores {
  const A* products;       ///< p_t . unit text
  const A* patch_factors;  ///< of PooledPatches
  A factor;                ///< attention_scale, and the text's length where lengths count
  int64_t count;

  TESSERA_HOST_DEVICE A operator[](int64_t t) const { return factor * patch_factors[t] * products[t]; }
  TESSERA_HOST_DEVICE A max() const {
    A largest = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : largest)
    for (int64_t t = 0; t < count; ++t) largest = (*this)[t] > largest ? (*this)[t] : largest;
    return largest;
  }
  template <class F>
  TESSERA_HOST_DEVICE A sum(F&& of) const {
    A total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t t = 0; t < count; ++t) total += of((*this)[t]);
    return total;
  }
};

template <class A>
A dot(const A* a, const A* b, int64_t n) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace cpu

template <>
struct Backend<op::pair_compatibility, Cpu> {
  /// Texts at a time: bounds the work space of an image to a few matrices of this many rows.
  static constexpr int64_t text_tile = 256;
  /// Sums of the texts' gradient that are held at once: this many, and no more than 64 MiB of them in float.
  static constexpr int64_t most_text_sums = 32, most_text_sum_elements = int64_t(1) << 24;

  template <class T, class Weighting, class Score, class A = accumulate_t<T>>
  static void forward(Context<Cpu>& ctx, Out<A, 2, Cpu> phi, In<T, 3, Cpu> patches, In<T, 2, Cpu> texts,
                      PairCompatibilityOptions options, Weighting weighting, Score) {
    const auto [images, count, channels] = patches.shape;
    const int64_t all_texts = texts.shape[0], tile = std::min(text_tile, all_texts);
    if (images == 0 || all_texts == 0) return;
    const cpu::UnitRows<A> unit_texts(ctx, texts);
    // Multiplications of G = p pT and a G against those of the pooled a p.
    const bool by_gram = count * (channels + all_texts) < channels * all_texts;
    parallel_for(images, 1, [&, count = count, channels = channels](int64_t begin, int64_t end) {
      Tensor<A, 2> weights(ctx, {tile, count}), gram(ctx, {by_gram ? count : 0, count}),
          pooled(ctx, {tile, by_gram ? count : channels});  // a G or a p
      Tensor<A, 1> along_text(ctx, {tile});                 // u . unit text
      for (int64_t i = begin; i < end; ++i) {
        const cpu::PooledPatches<A> image(ctx, patches.data + i * count * channels, count, channels,
                                          options.pool_normalized, Score::lengths_count);
        if (by_gram) make_gram(ctx, gram.data, image.data, count, channels);
        for (int64_t first = 0; first < all_texts; first += tile) {
          const int64_t rows = std::min(tile, all_texts - first);
          cpu::multiply<A, A>(ctx, rows, count, channels, weights.data, count,
                              {unit_texts.unit.data + first * channels, channels}, {image.data, channels, true});
          for (int64_t j = 0; j < rows; ++j) {
            A* row = weights.data + j * count;
            along_text.data[j] =
                weigh(row, row, image, text_factor<Score>(options, unit_texts, first + j), weighting, {i, first + j});
          }
          const int64_t width = by_gram ? count : channels;
          cpu::multiply<A, A>(ctx, rows, width, count, pooled.data, width, {weights.data, count},
                              {by_gram ? gram.data : image.data, width});
          for (int64_t j = 0; j < rows; ++j) {
            const A* row = pooled.data + j * width;
            const A squares = cpu::dot(by_gram ? weights.data + j * count : row, row, width);
            phi.data[i * all_texts + first + j] = along_text.data[j] * inverse_root(squares);
          }
        }
      }
    });
  }

  template <class T, class Weighting, class Score, class A = accumulate_t<T>>
  static void backward(Context<Cpu>& ctx, Out<T, 3, Cpu> d_patches, Out<T, 2, Cpu> d_texts, In<A, 2, Cpu> d_phi,
                       In<A, 2, Cpu> phi, In<T, 3, Cpu> patches, In<T, 2, Cpu> texts, PairCompatibilityOptions options,
                       Weighting weighting, Score) {
    const auto [images, count, channels] = patches.shape;
    const int64_t all_texts = texts.shape[0], tile = std::min(text_tile, all_texts);
    if (all_texts == 0 || images == 0) {
      if (d_patches) std::fill_n(d_patches.data, d_patches.size(), T{});
      if (d_texts) std::fill_n(d_texts.data, d_texts.size(), T{});
      return;
    }
    const cpu::UnitRows<A> unit_texts(ctx, texts);
    // Every chunk of images has a sum of its own for the texts' gradient.
    const int64_t most_chunks = std::clamp<int64_t>(most_text_sum_elements / (all_texts * channels), 1, most_text_sums);
    const int64_t grain = chunk_count(images, most_chunks), chunks = chunk_count(images, grain);
    Tensor<A, 3> d_unit_texts;
    if (d_texts) d_unit_texts = Tensor<A, 3>(ctx, {chunks, all_texts, channels});
    // Multiplications of G, a G, M = aT C a and M p against those of the three products with pooled vectors.
    const bool by_gram = 2 * count * (channels + all_texts) < 3 * channels * all_texts;
    const int64_t gram_rows = by_gram ? count : 0;
    parallel_for(images, grain, [&, count = count, channels = channels](int64_t begin, int64_t end) {
      Tensor<A, 2> products(ctx, {tile, count}), weights(ctx, {tile, count}), with_pooled(ctx, {tile, count}),
          pooled(ctx, {by_gram ? 0 : tile, channels}), gram(ctx, {gram_rows, count}),
          pooled_share(ctx, {d_patches ? gram_rows : 0, count}), d_image(ctx, {d_patches ? count : 0, channels});
      Tensor<A, 1> turning(ctx, {count});
      for (int64_t i = begin; i < end; ++i) {
        const cpu::PooledPatches<A> image(ctx, patches.data + i * count * channels, count, channels,
                                          options.pool_normalized, Score::lengths_count);
        if (by_gram) make_gram(ctx, gram.data, image.data, count, channels);
        turning.set_zero();
        for (int64_t first = 0; first < all_texts; first += tile) {
          const int64_t rows = std::min(tile, all_texts - first), pair = i * all_texts + first;
          const A* unit = unit_texts.unit.data + first * channels;
          const auto after_first = [](bool is_first) { return is_first ? cpu::Store::overwrite : cpu::Store::add; };
          cpu::multiply<A, A>(ctx, rows, count, channels, products.data, count, {unit, channels},
                              {image.data, channels, true});
          for (int64_t j = 0; j < rows; ++j)
            weigh(weights.data + j * count, products.data + j * count, image,
                  text_factor<Score>(options, unit_texts, first + j), weighting, {i, first + j});
          if (by_gram) {
            cpu::multiply<A, A>(ctx, rows, count, count, with_pooled.data, count, {weights.data, count},
                                {gram.data, count});
          } else {
            cpu::multiply<A, A>(ctx, rows, channels, count, pooled.data, channels, {weights.data, count},
                                {image.data, channels});
            cpu::multiply<A, A>(ctx, rows, count, channels, with_pooled.data, count, {pooled.data, channels},
                                {image.data, channels, true});
          }
          for (int64_t j = 0; j < rows; ++j)
            pair_gradient(products.data + j * count, with_pooled.data + j * count, turning.data,
                          weights.data + j * count, image, text_factor<Score>(options, unit_texts, first + j),
                          weighting, d_phi.data[pair + j], phi.data[pair + j]);
          const cpu::Factor<A> of_texts{products.data, count, true}, of_pooled{with_pooled.data, count, true};
          if (d_patches) {
            cpu::multiply<A, A>(ctx, count, channels, rows, d_image.data, channels, of_texts, {unit, channels},
                                after_first(first == 0));
            if (by_gram)
              cpu::multiply_lower<A, A>(ctx, count, rows, pooled_share.data, of_pooled, {weights.data, count},
                                        after_first(first == 0));
            else
              cpu::multiply<A, A>(ctx, count, channels, rows, d_image.data, channels, of_pooled,
                                  {pooled.data, channels}, cpu::Store::add);
          }
          if (d_texts)
            cpu::multiply<A, A>(ctx, rows, channels, count,
                                d_unit_texts.data + (begin / grain * all_texts + first) * channels, channels,
                                {products.data, count}, {image.data, channels}, after_first(i == begin));
        }
        if (!d_patches) continue;
        if (by_gram) {
          cpu::mirror_lower(pooled_share.data, count);
          cpu::multiply<A, A>(ctx, count, channels, count, d_image.data, channels, {pooled_share.data, count},
                              {image.data, channels}, cpu::Store::add);
        }
        store_patch_gradients<Score>(d_patches.data + i * count * channels, d_image.data, image, turning.data, count,
                                     channels, options.pool_normalized);
      }
    });
    if (d_texts) store_text_gradients<Score>(d_texts, d_unit_texts, unit_texts, d_phi, phi);
  }

 private:
  template <class A>
  static A inverse_root(A squares) {
    return squares > 0 ? A(1) / std::sqrt(squares) : A(0);
  }

  template <class A>
  static void make_gram(Context<Cpu>& ctx, A* gram, const A* patches, int64_t count, int64_t channels) {
    cpu::multiply_lower<A, A>(ctx, count, channels, gram, {patches, channels}, {patches, channels, true});
    cpu::mirror_lower(gram, count);
  }

  /// What text j multiplies scores by before they become weights.
  template <class Score, class A>
  static A text_factor(const PairCompatibilityOptions& options, const cpu::UnitRows<A>& texts, int64_t j) {
    const A length = Score::lengths_count ? cpu::PooledPatches<A>::length_of(texts.inverse_norms.data[j]) : A(1);
    return A(options.attention_scale) * length;
  }

  /// A pair's weights [T] from its products with the unit text; both may be one array. Returns their sum of weight
  /// times product, u . unit text.
  template <class A, class Weighting>
  static A weigh(A* weights, const A* products, const cpu::PooledPatches<A>& image, A text_factor,
                 const Weighting& weighting, PairPlace place) {
    const int64_t count = image.score_factors.size();
    const cpu::PairScores<A> scores{products, image.score_factors.data, text_factor, count};
    const auto common = weighting.common(scores, place);
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t < count; ++t) {
      const A product = products[t], weight = weighting.weight(scores[t], common);
      sum += weight * product;
      weights[t] = weight;
    }
    return sum;
  }

  /// One pair's coefficients. `products` [T] (p_t . unit text) becomes the coefficient of the unit text in d_p_t and of
  /// p_t in d_unit_text; `with_pooled` [T] (p_t . u) that of u in d_p_t; to `turning` [T] is added d_s_t s_t, the
  /// gradient by the logarithm of a patch's length.
  template <class A, class Weighting>
  static void pair_gradient(A* products, A* with_pooled, A* turning, const A* weights,
                            const cpu::PooledPatches<A>& image, A text_factor, const Weighting& weighting, A d_phi,
                            A phi) {
    const int64_t count = image.score_factors.size();
    const A* patch_factors = image.score_factors.data;
    const A inverse_length = inverse_root(cpu::dot(weights, with_pooled, count));  // of u
    const A along_text = d_phi * inverse_length, along_pooled = along_text * phi * inverse_length;
#pragma omp simd
    for (int64_t t = 0; t < count; ++t) {
      const A factor = text_factor * patch_factors[t], z = factor * products[t];
      const A d_weight = along_text * products[t] - along_pooled * with_pooled[t];
      const A d_z = weighting.slope(z, weights[t]) * d_weight;  // what weights share passes nothing: docs/math
      turning[t] += d_z * z;
      products[t] = along_text * weights[t] + d_z * factor;
      with_pooled[t] = -along_pooled * weights[t];
    }
  }

  /// d_v of an image from d_p. As many of its parts along the patch count as the patch's length does.
  template <class Score, class T, class A>
  static void store_patch_gradients(T* d_patches, const A* d_image, const cpu::PooledPatches<A>& image,
                                    const A* turning, int64_t count, int64_t channels, bool pool_normalized) {
    for (int64_t t = 0; t < count; ++t) {
      T* d_patch = d_patches + t * channels;
      const A *d = d_image + t * channels, *patch = image.data + t * channels, inverse = image.inverse_norms.data[t];
      if (pool_normalized) {
        const A kept = Score::lengths_count ? turning[t] : A(0);
        cpu::unit_backward(d_patch, d, patch, cpu::dot(d, patch, channels) - kept, inverse, channels);
        continue;
      }
      const A back = Score::lengths_count ? A(0) : turning[t] * inverse * inverse;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) d_patch[c] = narrow<T>(d[c] - back * patch[c]);
    }
  }

  /// Adds the chunks and goes from unit texts to texts.
  template <class Score, class T, class A>
  static void store_text_gradients(const TensorView<T, 2>& d_texts, const TensorView<A, 3>& d_unit_texts,
                                   const cpu::UnitRows<A>& unit_texts, In<A, 2, Cpu> d_phi, In<A, 2, Cpu> phi) {
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
                     const A* unit = unit_texts.unit.data + j * channels;
                     A along = 0;
                     if (Score::lengths_count)  // the pooled vectors' share alone, which is d_phi phi of each image
                       for (int64_t i = 0; i < phi.shape[0]; ++i)
                         along += d_phi.data[i * texts + j] * phi.data[i * texts + j];
                     else
                       along = cpu::dot(sum, unit, channels);
                     cpu::unit_backward(d_texts.data + j * channels, sum, unit, along, unit_texts.inverse_norms.data[j],
                                        channels);
                   }
                 });
  }
};

}  // namespace tessera
