// Attention's backward kernels for any number of keys: two passes, each of which computes the weights again, so that
// every sum stays in the registers of one warp: no atomics, the same bits on every run. One pass holds queries and
// meets all keys (d_query), the other holds keys and meets all queries (d_key, d_value); in the second all scores are
// transposed, so that its sums, too, have accumulated scores as left operands. With P the weights, and dots the dot
// products of d_out and out:
//
//     d_scores = P (d_out value^T - dots)     d_query = scale d_scores key
//     d_value  = P^T d_out                    d_key   = scale d_scores^T query
#pragma once
#include <tessera/kernels/attention_forward.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct attention_dots_traits {
  static constexpr int threads = 128;
  static constexpr int lanes = 8, rows_of_block = threads / lanes;  // lanes of a row
};
struct attention_backward_traits : attention_traits {
  // Smaller tiles than the forward pass has: they stand beside two blocks of rows.
  template <class E, int Width>
  static constexpr int tile_rows = Width* int(sizeof(E)) >= 256 ? 32 : 64;
};
struct attention_d_query_traits : attention_backward_traits {
  // Where warps share the queries, the blocks of rows are small. (Smaller tiles would also spill there.)
  template <class E, int Width>
  static constexpr int most_key_groups =
      Width <= 64 ? attention_traits::most_key_groups<E, Width> : tile_rows<E, Width> / 16;
  template <class E, int Width>
  TESSERA_HOST_DEVICE static constexpr int key_tile(int key_groups) {
    return Width <= 64 && key_groups > 1 ? attention_traits::tile_rows<E, Width> : tile_rows<E, Width>;
  }
  template <class E, int Width>
  static constexpr size_t shared_bytes(int key_groups) {
    return sizeof(E) *
               size_t((2 * block_queries(key_groups) + 4 * key_tile<E, Width>(key_groups)) * tile_stride<E, Width>) +
           sizeof(float) * size_t(part_floats(Width, key_groups));
  }
};
struct attention_d_key_value_traits : attention_backward_traits {
  static constexpr int block_keys = 16 * warps;
  // Wide floats: the sums of both outputs would not fit into registers, so each has blocks of its own (blockIdx.y).
  template <class E, int Width>
  static constexpr int outputs_of_block = Width* int(sizeof(E)) > 256 ? 1 : 2;
  template <class E, int Width>
  static constexpr size_t shared_bytes() {
    return sizeof(E) * size_t((2 * block_keys + 4 * tile_rows<E, Width>)*tile_stride<E, Width>) +
           sizeof(float) * size_t(4 * tile_rows<E, Width>);
  }
};

/// Log-sum-exp in units of log 2, as the weights are computed from it: exp2(score - it). +infinity, which makes the
/// weight 0, for a query that saw no key.
TESSERA_DEVICE float subtracted_from_scores(float log_sum_exp) {
  return log_sum_exp == minus_infinity() ? plus_infinity() : log_sum_exp * log2_of_e;
}

/// The dot product of two rows, in all of the eight lanes that share them. Whole warps call it.
template <int Count, class T>
TESSERA_DEVICE float row_dot(const T* a, const T* b, int channels) {
  constexpr int lanes = attention_dots_traits::lanes;
  float sum = 0;
  for (int channel = int(threadIdx.x) % lanes * Count; channel < channels; channel += lanes * Count) {
    const auto first = load_pack<T, Count>(a + channel), second = load_pack<T, Count>(b + channel);
    TESSERA_UNROLL
    for (int c = 0; c < Count; ++c) sum += widen(first[c]) * widen(second[c]);
  }
  TESSERA_UNROLL
  for (int distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(full_mask, sum, distance);
  return sum;
}

/// dots [B, H, Nq] = d_out . out, rows in the order in which they usually lie in memory.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(attention_dots_traits::threads)
    attention_dots_kernel(float* dots, AttentionView<const T> d_out, AttentionView<const T> out,
                          AttentionProblem problem, int64_t rows) {
  using Traits = attention_dots_traits;
  const int64_t row = int64_t(blockIdx.x) * Traits::rows_of_block + int(threadIdx.x) / Traits::lanes;
  const int64_t head = row % problem.heads, query = row / problem.heads % problem.queries,
                item = row / problem.heads / problem.queries;
  const float dot = row_dot<Count>(d_out.head_at(item, head) + query * d_out.row,
                                   out.head_at(item, head) + query * out.row, row < rows ? problem.channels : 0);
  if (row < rows && int(threadIdx.x) % Traits::lanes == 0)
    dots[(item * problem.heads + head) * problem.queries + query] = dot;
}

/// Adds up what the warps of all groups of keys have of the same rows, in their order, in the first group's registers.
/// `parts`: shared memory. All threads of the block call it.
template <int Width, int KeyGroups, int RowGroups>
TESSERA_DEVICE void add_key_groups(float (&sums)[Width / 8][4], float* parts, int key_group,
                                   int row_group TESSERA_CALLER) {
  const int lane = int(threadIdx.x % warp_size);
  const auto part = [&](int group, int n) {
    return parts + ((((group - 1) * RowGroups + row_group) * (Width / 8) + n) * warp_size + lane) * 4;
  };
  if (key_group > 0) {
    TESSERA_UNROLL
    for (int n = 0; n < Width / 8; ++n)
      store_pack(part(key_group, n), Pack<float>{{sums[n][0], sums[n][1], sums[n][2], sums[n][3]}});
  }
  __syncthreads(TESSERA_CALLED);
  if (key_group > 0) return;
  for (int group = 1; group < KeyGroups; ++group) {
    TESSERA_UNROLL
    for (int n = 0; n < Width / 8; ++n) {
      const auto more = load_pack<float>(part(group, n));
      TESSERA_UNROLL
      for (int i = 0; i < 4; ++i) sums[n][i] += more[i];
    }
  }
}

/// d_query [B, Nq, H, D]. Blocks, warps and tiles as in the forward kernel.
template <class T, int Width, int KeyGroups>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(attention_d_query_traits::threads)
    attention_d_query_kernel(AttentionView<T> d_query, AttentionView<const T> d_out, const float* log_sum_exp,
                             const float* dots, AttentionView<const T> query, AttentionView<const T> key,
                             AttentionView<const T> value, AttentionProblem problem) {
  using Traits = attention_d_query_traits;
  using E = tile_element<T>;
  constexpr int stride = tile_stride<E, Width>, key_tile = Traits::key_tile<E, Width>(KeyGroups);
  constexpr int group_keys = key_tile / KeyGroups, step_keys = 16;  // at a time: all of a tile would need registers
  constexpr int block_queries = Traits::block_queries(KeyGroups), row_groups = block_queries / 16;
  constexpr bool held = std::is_same_v<E, bfloat16> && Width <= 64;
  SharedArena arena;
  E* query_rows = arena.array<E>(block_queries * stride);
  E* d_out_rows = arena.array<E>(block_queries * stride);
  const auto key_rows = arena.stages<E, 2, key_tile * stride>();
  const auto value_rows = arena.stages<E, 2, key_tile * stride>();
  float* parts = KeyGroups > 1 ? arena.array<float>(Traits::part_floats(Width, KeyGroups)) : nullptr;

  const AttentionBlock block(problem.heads, problem.queries, block_queries);
  const int thread = int(threadIdx.x), warp = thread / warp_size, lane = thread % warp_size;
  const int row_group = warp % row_groups, key_group = warp / row_groups;
  const int length = problem.length(block.item);
  const int block_seen = problem.visible(length, min(block.first + block_queries, problem.queries) - 1);
  const int first_row = block.first + row_group * 16;
  const int warp_seen =
      first_row < problem.queries ? problem.visible(length, min(first_row + 16, problem.queries) - 1) : 0;
  const int seen_by_all = problem.visible(length, first_row);
  const float factor = problem.scale * log2_of_e;
  const int tiles = (block_seen + key_tile - 1) / key_tile;

  int seen[2];
  float subtracted[2], dot[2];
  TESSERA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + lane / 4 + 8 * half;
    const int64_t index = (block.item * problem.heads + block.head) * problem.queries + row;
    seen[half] = problem.visible(length, row);
    subtracted[half] = row < problem.queries ? subtracted_from_scores(log_sum_exp[index]) : plus_infinity();
    dot[half] = row < problem.queries ? dots[index] : 0.0f;
  }

  const T* key_from = key.head_at(block.item, block.head);
  const T* value_from = value.head_at(block.item, block.head);
  const auto load_keys = [&](int tile) {
    const int first = tile * key_tile, rows = length - first;
    load_tile<key_tile, Width, Traits::threads>(key_rows[tile % 2], key_from + first * key.row, key.row, key.packs,
                                                rows, problem.channels, thread);
    load_tile<key_tile, Width, Traits::threads>(value_rows[tile % 2], value_from + first * value.row, value.row,
                                                value.packs, rows, problem.channels, thread);
  };

  float sums[Width / 8][4];
  set_zero(sums);
  if (tiles > 0) {
    const int rows = problem.queries - block.first;
    load_tile<block_queries, Width, Traits::threads>(query_rows,
                                                     query.head_at(block.item, block.head) + block.first * query.row,
                                                     query.row, query.packs, rows, problem.channels, thread);
    load_tile<block_queries, Width, Traits::threads>(d_out_rows,
                                                     d_out.head_at(block.item, block.head) + block.first * d_out.row,
                                                     d_out.row, d_out.packs, rows, problem.channels, thread);
    cp_async_commit();
    load_keys(0);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const LeftRows<E, Width, held> left_query(query_rows + row_group * 16 * stride);
    const LeftRows<E, Width, held> left_d_out(d_out_rows + row_group * 16 * stride);
    for (int tile = 0; tile < tiles; ++tile) {
      if (tile + 1 < tiles) load_keys(tile + 1);
      cp_async_commit();
      cp_async_wait<1>();
      __syncthreads();
      for (int step = 0; step < group_keys; step += step_keys) {
        const int in_tile = key_group * group_keys + step, first_key = tile * key_tile + in_tile;
        if (first_key >= warp_seen) break;  // the whole warp
        const E* key_part = key_rows[tile % 2] + in_tile * stride;
        float scores[step_keys / 8][4], d_scores[step_keys / 8][4];
        multiply_rows<E, Width>(scores, left_query, key_part);
        multiply_rows<E, Width>(d_scores, left_d_out, value_rows[tile % 2] + in_tile * stride);
        scale_and_mask(scores, factor, first_key + step_keys > seen_by_all, first_key, seen[0], seen[1]);
        TESSERA_UNROLL
        for (int n = 0; n < step_keys / 8; ++n) {
          TESSERA_UNROLL
          for (int i = 0; i < 4; ++i)
            d_scores[n][i] = exp2_approximate(scores[n][i] - subtracted[i / 2]) * (d_scores[n][i] - dot[i / 2]);
        }
        add_weighted_rows<E, Width>(sums, d_scores, key_part);
      }
      __syncthreads();  // before the next tile but one overwrites these keys
    }
  }
  if constexpr (KeyGroups > 1) add_key_groups<Width, KeyGroups, row_groups>(sums, parts, key_group, row_group);
  if (key_group > 0 || first_row >= problem.queries) return;
  E* own_rows = query_rows + row_group * 16 * stride;
  put_rows<E, Width>(own_rows, sums, problem.scale, problem.scale);
  __syncwarp();
  store_tile<16, Width, warp_size>(d_query.head_at(block.item, block.head) + first_row * d_query.row, d_query.row,
                                   d_query.packs, own_rows, problem.queries - first_row, problem.channels, lane);
}

/// d_key and d_value [B, Nk, H, D]; the data of either may be null. A block holds 64 keys of a head.
template <class T, int Width>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(attention_d_key_value_traits::threads)
    attention_d_key_value_kernel(AttentionView<T> d_key, AttentionView<T> d_value, AttentionView<const T> d_out,
                                 const float* log_sum_exp, const float* dots, AttentionView<const T> query,
                                 AttentionView<const T> key, AttentionView<const T> value, AttentionProblem problem) {
  using Traits = attention_d_key_value_traits;
  using E = tile_element<T>;
  constexpr int stride = tile_stride<E, Width>, query_tile = Traits::tile_rows<E, Width>, step_queries = 16;
  constexpr bool held = std::is_same_v<E, bfloat16> && Width <= 64;
  SharedArena arena;
  E* key_rows = arena.array<E>(Traits::block_keys * stride);
  E* value_rows = arena.array<E>(Traits::block_keys * stride);
  const auto query_rows = arena.stages<E, 2, query_tile * stride>();
  const auto d_out_rows = arena.stages<E, 2, query_tile * stride>();
  const auto subtracted = arena.stages<float, 2, query_tile>();
  const auto dot = arena.stages<float, 2, query_tile>();

  const AttentionBlock block(problem.heads, problem.keys, Traits::block_keys);
  const int thread = int(threadIdx.x), warp = thread / warp_size, lane = thread % warp_size;
  const int length = problem.length(block.item);
  const int first_key = block.first + warp * 16;  // of this warp
  const int64_t head_rows = (block.item * problem.heads + block.head) * problem.queries;
  // Queries before the first one that sees a key of this block have no part in it.
  const int first_tile = problem.causal ? block.first / query_tile : 0;
  const int end_tile = block.first < length ? (problem.queries + query_tile - 1) / query_tile : 0;

  const T* query_from = query.head_at(block.item, block.head);
  const T* d_out_from = d_out.head_at(block.item, block.head);
  const auto load_queries = [&](int tile) {
    const int first = tile * query_tile, rows = problem.queries - first;
    load_tile<query_tile, Width, Traits::threads>(query_rows[tile % 2], query_from + first * query.row, query.row,
                                                  query.packs, rows, problem.channels, thread);
    load_tile<query_tile, Width, Traits::threads>(d_out_rows[tile % 2], d_out_from + first * d_out.row, d_out.row,
                                                  d_out.packs, rows, problem.channels, thread);
    if (thread < query_tile) {
      const bool valid = thread < rows;
      subtracted[tile % 2][thread] =
          valid ? subtracted_from_scores(log_sum_exp[head_rows + first + thread]) : plus_infinity();
      dot[tile % 2][thread] = valid ? dots[head_rows + first + thread] : 0.0f;
    }
  };

  constexpr int outputs = Traits::outputs_of_block<E, Width>;
  const bool wants_value = d_value.data && (outputs == 2 || blockIdx.y == 0);
  const bool wants_key = d_key.data && (outputs == 2 || blockIdx.y == 1);
  float sums[outputs][Width / 8][4];
  auto &d_value_sums = sums[0], &d_key_sums = sums[outputs - 1];
  set_zero(d_value_sums);
  set_zero(d_key_sums);
  const float factor = problem.scale * log2_of_e;
  if (first_tile < end_tile) {
    load_tile<Traits::block_keys, Width, Traits::threads>(
        key_rows, key.head_at(block.item, block.head) + block.first * key.row, key.row, key.packs, length - block.first,
        problem.channels, thread);
    load_tile<Traits::block_keys, Width, Traits::threads>(
        value_rows, value.head_at(block.item, block.head) + block.first * value.row, value.row, value.packs,
        length - block.first, problem.channels, thread);
    cp_async_commit();
    load_queries(first_tile);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const LeftRows<E, Width, held> left_key(key_rows + warp * 16 * stride);
    const LeftRows<E, Width, held> left_value(value_rows + warp * 16 * stride);
    for (int tile = first_tile; tile < end_tile; ++tile) {
      if (tile + 1 < end_tile) load_queries(tile + 1);
      cp_async_commit();
      cp_async_wait<1>();
      __syncthreads();
      const int queries = min(query_tile, problem.queries - tile * query_tile);
      for (int step = 0; step < queries && first_key < length; step += step_queries) {
        const int first_query = tile * query_tile + step;
        if (problem.causal && first_query + step_queries <= first_key) continue;  // none sees a key of this warp
        const E* query_part = query_rows[tile % 2] + step * stride;
        const E* d_out_part = d_out_rows[tile % 2] + step * stride;
        float weights[step_queries / 8][4], d_scores[step_queries / 8][4];  // [16 keys, queries]
        multiply_rows<E, Width>(weights, left_key, query_part);
        TESSERA_UNROLL
        for (int n = 0; n < step_queries / 8; ++n) {
          const int column = step + n * 8 + lane % 4 * 2;
          const auto shift = load_pack<float, 2>(subtracted[tile % 2] + column);
          TESSERA_UNROLL
          for (int i = 0; i < 4; ++i) {
            const int row = first_key + lane / 4 + i / 2 * 8, of_query = tile * query_tile + column + i % 2;
            const bool sees = row < length && (!problem.causal || row <= of_query);
            weights[n][i] = sees ? exp2_approximate(weights[n][i] * factor - shift[i % 2]) : 0.0f;
          }
        }
        if (wants_value) add_weighted_rows<E, Width>(d_value_sums, weights, d_out_part);
        if (!wants_key) continue;
        multiply_rows<E, Width>(d_scores, left_value, d_out_part);
        TESSERA_UNROLL
        for (int n = 0; n < step_queries / 8; ++n) {
          const auto mean = load_pack<float, 2>(dot[tile % 2] + step + n * 8 + lane % 4 * 2);
          TESSERA_UNROLL
          for (int i = 0; i < 4; ++i) d_scores[n][i] = weights[n][i] * (d_scores[n][i] - mean[i % 2]);
        }
        add_weighted_rows<E, Width>(d_key_sums, d_scores, query_part);
      }
      __syncthreads();  // before the next tile but one overwrites these queries
    }
  }
  // A warp's own rows of the keys and values, which nobody reads any more, carry its results out.
  const int rows = problem.keys - first_key;
  if (rows <= 0) return;
  const auto write = [&](const AttentionView<T>& to, E* own_rows, const float(&results)[Width / 8][4], float scale) {
    put_rows<E, Width>(own_rows, results, scale, scale);
    __syncwarp();
    store_tile<16, Width, warp_size>(to.head_at(block.item, block.head) + first_key * to.row, to.row, to.packs,
                                     own_rows, rows, problem.channels, lane);
  };
  if (wants_key) write(d_key, key_rows + warp * 16 * stride, d_key_sums, problem.scale);
  if (wants_value) write(d_value, value_rows + warp * 16 * stride, d_value_sums, 1.0f);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
