// Attention on Cpu. A work item is one head and a group of its queries (forward) or keys (backward); keys are taken in
// tiles, queries in blocks, so that scores, weights and the packed operands of their products stay in cache. Tiles,
// blocks and groups follow from the shapes alone, and all sums run in their order.
#pragma once
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include <tessera/core/math.hpp>
#include <tessera/core/parallel.hpp>
#include <tessera/cpu/tile_product.hpp>
#include <tessera/ops/attention.hpp>

namespace tessera {
namespace cpu {

inline constexpr int64_t attention_key_tile = 512;
inline constexpr int64_t attention_query_block = 32;

/// Which keys a query sees: always the first few.
struct AttentionMask {
  const int32_t* key_lengths;  // may be null
  int64_t keys;
  bool causal;

  int64_t visible(int64_t item, int64_t query) const {
    const int64_t length = key_lengths ? key_lengths[item] : keys;
    return causal ? std::min(length, query + 1) : length;
  }
};

/// The rows of one head of a [B, N, H, D] view.
template <class T>
struct HeadRows {
  T* data;
  int64_t row;

  HeadRows(const TensorView<T, 4, Cpu>& view, int64_t item, int64_t head)
      : data(view.data ? view.data + item * view.strides[0] + head * view.strides[2] : nullptr), row(view.strides[1]) {}
  T* operator[](int64_t i) const { return data + i * row; }
};

/// Consecutive pieces of a scratch buffer.
template <class A>
struct Scratch {
  A* next;
  A* take(int64_t count) { return std::exchange(next, next + round_up(count, vector_width<A>)); }
};

/// e^x for x <= 0 or a little above (log-sum-exp is rounded): math::exp without its upper end, in half the time.
inline float exp_nonpositive(float x) {
  constexpr float round_to_integer = 12582912.0f;  // 1.5 * 2^23
  const float bounded = x < -87.0f ? -87.0f : x;
  const float shifted = bounded * 1.44269504088896341f + round_to_integer;
  const float n = shifted - round_to_integer;
  const float r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(round_to_integer) + 127u) << 23;
  const float y = p * std::bit_cast<float>(exponent);
  return x < -87.0f ? 0.0f : y;
}
inline double exp_nonpositive(double x) { return std::exp(x); }

/// All lanes combined, halves first: the order is fixed.
template <size_t lanes, class A, class Combine>
A fold_lanes(const A (&values)[lanes], Combine combine) {
  static_assert(std::has_single_bit(lanes));
  if constexpr (lanes == 1) {
    return values[0];
  } else {
    A half[lanes / 2];
#pragma omp simd
    for (size_t lane = 0; lane < lanes / 2; ++lane) half[lane] = combine(values[lane], values[lane + lanes / 2]);
    return fold_lanes(half, combine);
  }
}

/// Work items per chunk so that a chunk is about a million multiplications.
inline int64_t attention_grain(int64_t multiplications) {
  return std::max<int64_t>(1, 1'000'000 / std::max<int64_t>(1, multiplications));
}

template <class T>
struct AttentionForward {
  using A = accumulate_t<T>;
  static constexpr int64_t block = attention_query_block, lanes = tile_columns<A>;

  TensorView<T, 4> out;
  TensorView<A, 3> log_sum_exp;
  TensorView<const T, 4> query, key, value;
  AttentionMask mask;
  A scale;

  const int64_t queries = query.shape[1], keys = key.shape[1], heads = query.shape[2], channels = query.shape[3];
  const int64_t width = round_up(channels, vector_width<A>);
  const int64_t tile = std::clamp<int64_t>(keys, 1, attention_key_tile), tile_width = round_up(tile, tile_columns<A>);
  // Whole heads where there are many, else smaller groups of queries, each of which packs the keys again.
  const int64_t group = std::min(queries, query.shape[0] * heads >= 32 ? int64_t(512) : int64_t(128));
  const int64_t groups = chunk_count(queries, group);

  void operator()(Context<Cpu>& ctx) const {
    const int64_t items = query.shape[0] * heads * groups;
    const int64_t result_rows = keys > tile ? round_up(group, block) : block;
    const int64_t scratch_size = tile_width * (channels + width + block) + block * width + result_rows * width +
                                 2 * round_up(group, vector_width<A>) + 8 * vector_width<A>;
    parallel_for(items, attention_grain(group * keys * width), [&](int64_t begin, int64_t end) {
      Tensor<A, 1> buffer(ctx, {scratch_size});
      for (int64_t i = begin; i < end; ++i)
        run(i / groups / heads, i / groups % heads, i % groups * group, {buffer.data});
    });
  }

 private:
  void run(int64_t item, int64_t head, int64_t first_query, Scratch<A> scratch) const {
    const HeadRows q(query, item, head), k(key, item, head), v(value, item, head);
    const HeadRows o(out, item, head);
    const int64_t last_query = std::min(queries, first_query + group);
    A* key_columns = scratch.take(tile_width * channels);
    A* value_rows = scratch.take(tile_width * width);
    A* scores = scratch.take(block * tile_width);
    A* query_rows = scratch.take(block * width);
    A* maximum = scratch.take(group);
    A* sum = scratch.take(group);
    A* results = scratch.take(0);  // one block, or with several tiles of keys the whole group's
    std::fill_n(maximum, last_query - first_query, -std::numeric_limits<A>::infinity());
    std::fill_n(sum, last_query - first_query, A(0));

    const int64_t most_keys = mask.visible(item, last_query - 1);
    int64_t first_key = 0;
    do {  // at least once, so that results are written where no key is seen
      const int64_t tile_keys = std::min(tile, most_keys - first_key);
      copy_columns(key_columns, k[first_key], k.row, tile_keys, channels);
      copy_rows(value_rows, width, v[first_key], v.row, tile_keys, channels);
      for (int64_t i = first_query; i < last_query; i += block) {
        const int64_t rows = std::min(block, last_query - i), at = i - first_query;
        A* result = results + (keys > tile ? at * width : 0);
        // Of this tile, the block's last query sees the most keys.
        const int64_t seen = std::min(tile_keys, mask.visible(item, i + rows - 1) - first_key);
        if (seen > 0) {
          copy_rows(query_rows, width, q[i], q.row, rows, channels, scale);
          tile_product<false>(scores, tile_width, query_rows, width,
                              {key_columns, tile_columns<A>, channels * tile_columns<A>}, rows, seen, channels, false);
          for (int64_t r = 0; r < rows; ++r) {
            const int64_t seen_by_row = std::min(seen, mask.visible(item, i + r) - first_key);
            const A kept = softmax_row(scores + r * tile_width, seen_by_row, seen, maximum[at + r], sum[at + r]);
            if (first_key > 0 && kept != A(1))
              for (int64_t c = 0; c < width; ++c) result[r * width + c] *= kept;
          }
          tile_product<false>(result, width, scores, tile_width, {value_rows, width}, rows, width, seen, first_key > 0);
        }
        const bool finished = mask.visible(item, i + rows - 1) <= first_key + tile_keys;
        const bool finished_before = first_key > 0 && mask.visible(item, i + rows - 1) <= first_key;
        if (finished && !finished_before) write(o, item, head, i, rows, result, maximum + at, sum + at);
      }
      first_key += tile;
    } while (first_key < most_keys);
  }

  // Turns the first `seen_by_row` scores of a row into exp(score - maximum) and the others up to `seen` into 0; updates
  // the row's maximum and sum. Returns the factor by which the row's earlier results shrink.
  static A softmax_row(A* scores, int64_t seen_by_row, int64_t seen, A& maximum, A& sum) {
    constexpr A minus_infinity = -std::numeric_limits<A>::infinity();
    const int64_t padded = round_up(std::max<int64_t>(0, seen_by_row), lanes);
    std::fill(scores + std::max<int64_t>(0, seen_by_row), scores + padded, minus_infinity);
    std::fill(scores + padded, scores + std::max(padded, seen), A(0));
    A largest[lanes], partial[lanes];
    std::fill_n(largest, lanes, minus_infinity);
    std::fill_n(partial, lanes, A(0));
    for (int64_t j = 0; j < padded; j += lanes)
#pragma omp simd
      for (int64_t lane = 0; lane < lanes; ++lane)
        largest[lane] = largest[lane] < scores[j + lane] ? scores[j + lane] : largest[lane];
    const A new_maximum = fold_lanes(largest, [](A a, A b) { return a < b ? b : a; }), old_maximum = maximum;
    const bool grown = old_maximum < new_maximum;
    if (grown) maximum = new_maximum;
    const A subtracted = maximum;
    for (int64_t j = 0; j < padded; j += lanes)
#pragma omp simd
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const A weight = exp_nonpositive(scores[j + lane] - subtracted);
        scores[j + lane] = weight;
        partial[lane] += weight;
      }
    const A kept = grown ? exp_nonpositive(old_maximum - new_maximum) : A(1);
    sum = sum * kept + fold_lanes(partial, [](A a, A b) { return a + b; });
    return kept;
  }

  void write(const HeadRows<T>& o, int64_t item, int64_t head, int64_t first, int64_t rows, const A* result,
             const A* maximum, const A* sum) const {
    for (int64_t r = 0; r < rows; ++r) {
      T* row = o[first + r];
      if (mask.visible(item, first + r) <= 0) {
        std::fill_n(row, channels, narrow<T>(A(0)));
      } else {
        const A factor = A(1) / sum[r];
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) row[c] = narrow<T>(result[r * width + c] * factor);
      }
      if (log_sum_exp) log_sum_exp(item, head, first + r) = maximum[r] + std::log(sum[r]);
    }
  }
};

template <class T>
struct AttentionBackward {
  using A = accumulate_t<T>;
  static constexpr int64_t block = attention_query_block, lanes = tile_columns<A>;

  TensorView<T, 4> d_query, d_key, d_value;
  TensorView<const T, 4> d_out;
  TensorView<const A, 3> log_sum_exp;
  TensorView<const T, 4> out, query, key, value;
  AttentionMask mask;
  A scale;

  const int64_t queries = query.shape[1], keys = key.shape[1], heads = query.shape[2], channels = query.shape[3];
  const int64_t width = round_up(channels, vector_width<A>);
  const int64_t tile = std::clamp<int64_t>(keys, 1, attention_key_tile), tile_width = round_up(tile, tile_columns<A>);
  // Few long heads are cut into ranges of keys; each range has a d_query of its own, and these are added in order.
  const int64_t tiles = std::max<int64_t>(1, chunk_count(keys, tile));
  const int64_t range = query.shape[0] * heads >= 16 ? tiles : chunk_count(tiles, 8);  // in tiles
  const int64_t ranges = chunk_count(tiles, range);

  void operator()(Context<Cpu>& ctx) const {
    const int64_t items = query.shape[0] * heads;
    const bool summed = tiles > 1 && d_query;
    // [ranges, items, queries, width]
    Tensor<A, 1> sums(ctx, {summed ? ranges * items * queries * width : 0});
    const int64_t scratch_size = tile_width * (2 * channels + 3 * width + 2 * block) + 3 * block * width +
                                 2 * round_up(block, vector_width<A>) + 16 * vector_width<A>;
    parallel_for(items * ranges, attention_grain(3 * queries * keys * width / ranges), [&](int64_t begin, int64_t end) {
      Tensor<A, 1> buffer(ctx, {scratch_size});
      for (int64_t i = begin; i < end; ++i) {
        const int64_t index = i / ranges;
        A* sum = summed ? sums.data + (i % ranges * items + index) * queries * width : nullptr;
        run(index / heads, index % heads, i % ranges * range, sum, {buffer.data});
      }
    });
    if (summed) add_ranges(sums.data, items);
  }

 private:
  // One head, the tiles of one range of keys. With `sum` the contributions to d_query are added there, else written.
  void run(int64_t item, int64_t head, int64_t first_tile, A* sum, Scratch<A> scratch) const {
    const HeadRows q(query, item, head), k(key, item, head), v(value, item, head), o(out, item, head),
        d_o(d_out, item, head);
    const HeadRows d_q(d_query, item, head), d_k(d_key, item, head), d_v(d_value, item, head);
    A* key_columns = scratch.take(tile_width * channels);
    A* value_columns = scratch.take(tile_width * channels);
    A* key_rows = scratch.take(tile_width * width);
    A* d_key_rows = scratch.take(tile_width * width);
    A* d_value_rows = scratch.take(tile_width * width);
    A* weights = scratch.take(block * tile_width);
    A* d_scores = scratch.take(block * tile_width);
    A* query_rows = scratch.take(block * width);
    A* d_out_rows = scratch.take(block * width);
    A* d_query_rows = scratch.take(block * width);
    A* dots = scratch.take(block);
    if (sum) std::fill_n(sum, queries * width, A(0));

    const TileOperand<A> key_transposed{key_columns, tile_columns<A>, channels * tile_columns<A>};
    const TileOperand<A> value_transposed{value_columns, tile_columns<A>, channels * tile_columns<A>};
    const int64_t last_key = std::min(keys, (first_tile + range) * tile);
    int64_t first_key = first_tile * tile;
    do {  // at least once, so that d_query is written where there are no keys
      const int64_t tile_keys = std::min(tile, last_key - first_key);
      copy_columns(key_columns, k[first_key], k.row, tile_keys, channels);
      copy_columns(value_columns, v[first_key], v.row, tile_keys, channels);
      copy_rows(key_rows, width, k[first_key], k.row, tile_keys, channels);
      std::fill_n(d_key_rows, tile_width * width, A(0));
      std::fill_n(d_value_rows, tile_width * width, A(0));
      for (int64_t i = 0; i < queries; i += block) {
        const int64_t rows = std::min(block, queries - i);
        const int64_t seen = std::min(tile_keys, mask.visible(item, i + rows - 1) - first_key);
        if (seen <= 0) {
          if (!sum && d_query)
            for (int64_t r = 0; r < rows; ++r) std::fill_n(d_q[i + r], channels, narrow<T>(A(0)));
          continue;
        }
        copy_rows(query_rows, width, q[i], q.row, rows, channels, scale);
        copy_rows(d_out_rows, width, d_o[i], d_o.row, rows, channels);
        for (int64_t r = 0; r < rows; ++r) dots[r] = dot(d_o[i + r], o[i + r]);
        tile_product<false>(weights, tile_width, query_rows, width, key_transposed, rows, seen, channels, false);
        tile_product<false>(d_scores, tile_width, d_out_rows, width, value_transposed, rows, seen, channels, false);
        for (int64_t r = 0; r < rows; ++r)
          backward_row(weights + r * tile_width, d_scores + r * tile_width,
                       std::min(seen, mask.visible(item, i + r) - first_key), round_up(seen, tile_rows),
                       log_sum_exp(item, head, i + r), dots[r]);
        if (d_value)
          tile_product<true>(d_value_rows, width, weights, tile_width, {d_out_rows, width}, seen, width, rows, true);
        if (d_key)
          tile_product<true>(d_key_rows, width, d_scores, tile_width, {query_rows, width}, seen, width, rows, true);
        if (!d_query) continue;
        A* d_rows = sum ? sum + i * width : d_query_rows;
        if (sum && rows < block) {  // a product may write rows beyond the last
          tile_product<false>(d_query_rows, width, d_scores, tile_width, {key_rows, width}, rows, width, seen, false);
          for (int64_t j = 0; j < rows * width; ++j) d_rows[j] += d_query_rows[j];
        } else {
          tile_product<false>(d_rows, width, d_scores, tile_width, {key_rows, width}, rows, width, seen,
                              sum != nullptr);
        }
        if (!sum) write(d_q, i, rows, d_rows, scale);
      }
      if (d_key) write(d_k, first_key, tile_keys, d_key_rows, A(1));  // the queries were scaled
      if (d_value) write(d_v, first_key, tile_keys, d_value_rows, A(1));
      first_key += tile;
    } while (first_key < last_key);
  }

  A dot(const T* a, const T* b) const {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < channels; ++c) sum += widen(a[c]) * widen(b[c]);
    return sum;
  }

  // Scores become weights, and gradients of weights gradients of scores; those of unseen keys up to `last` become 0.
  static void backward_row(A* weights, A* d_scores, int64_t seen_by_row, int64_t last, A log_sum_exp, A dot) {
    const int64_t first = std::max<int64_t>(0, seen_by_row), padded = round_up(first, lanes);
    std::fill(weights + first, weights + padded, -std::numeric_limits<A>::infinity());
    std::fill(d_scores + first, d_scores + padded, A(0));
    for (int64_t j = 0; j < padded; j += lanes)
#pragma omp simd
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const A weight = exp_nonpositive(weights[j + lane] - log_sum_exp);
        weights[j + lane] = weight;
        d_scores[j + lane] = weight * (d_scores[j + lane] - dot);
      }
    for (int64_t j = padded; j < last; ++j) weights[j] = d_scores[j] = 0;
  }

  void write(const HeadRows<T>& to, int64_t first, int64_t rows, const A* from, A factor) const {
    for (int64_t r = 0; r < rows; ++r) {
      T* to_row = to[first + r];
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) to_row[c] = narrow<T>(factor * from[r * width + c]);
    }
  }

  void add_ranges(A* sums, int64_t items) const {
    parallel_for(items * queries, row_grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t index = i / queries;
        A* row = sums + i * width;
        for (int64_t r = 1; r < ranges; ++r) {
          const A* more = row + r * items * queries * width;
#pragma omp simd
          for (int64_t c = 0; c < width; ++c) row[c] += more[c];
        }
        write(HeadRows(d_query, index / heads, index % heads), i % queries, 1, row, scale);
      }
    });
  }
};

}  // namespace cpu

template <>
struct Backend<op::attention, Cpu> {
  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>& ctx, Out<T, 4, Cpu> out, Out<A, 3, Cpu> log_sum_exp, In<T, 4, Cpu> query,
                      In<T, 4, Cpu> key, In<T, 4, Cpu> value, In<int32_t, 1, Cpu> key_lengths,
                      const AttentionOptions& options) {
    const auto mask = checked_mask("attention_forward", key.shape[1], key_lengths, options);
    cpu::AttentionForward<T>{out, log_sum_exp, query, key, value, mask, A(options.scale_for(query.shape[3]))}(ctx);
  }
  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>& ctx, Out<T, 4, Cpu> d_query, Out<T, 4, Cpu> d_key, Out<T, 4, Cpu> d_value,
                       In<T, 4, Cpu> d_out, In<A, 3, Cpu> log_sum_exp, In<T, 4, Cpu> out, In<T, 4, Cpu> query,
                       In<T, 4, Cpu> key, In<T, 4, Cpu> value, In<int32_t, 1, Cpu> key_lengths,
                       const AttentionOptions& options) {
    const auto mask = checked_mask("attention_backward", key.shape[1], key_lengths, options);
    cpu::AttentionBackward<T>{d_query,
                              d_key,
                              d_value,
                              d_out,
                              log_sum_exp,
                              out,
                              query,
                              key,
                              value,
                              mask,
                              A(options.scale_for(query.shape[3]))}(ctx);
  }

 private:
  static cpu::AttentionMask checked_mask(const char* name, int64_t keys, In<int32_t, 1, Cpu> key_lengths,
                                         const AttentionOptions& options) {
    if (key_lengths) {
      expect_contiguous(name, "key_lengths", key_lengths);
      for (int64_t item = 0; item < key_lengths.size(); ++item)
        require(key_lengths.data[item] >= 0 && key_lengths.data[item] <= keys, name, ": key_lengths[", item, "] is ",
                key_lengths.data[item], " but must lie in [0, ", keys, "], the number of keys");
    }
    return {key_lengths.data, keys, options.causal};
  }
};

}  // namespace tessera
