// Attention's kernels for heads that fit into one block: at most 256 keys (ViT-B/16 at 224 has 197, CLIP's texts 77),
// bfloat16, up to 64 channels. All keys and values of a head are read once and stay in shared memory.
//
// Forward, all scores of 16 queries lie in the registers of a warp: one maximum, one sum, no rescaling.
// Backward, a warp owns 16 keys, and the block goes through the queries 16 at a time; since all keys are at hand, 16
// rows of d_query are complete at once. Every score is computed once, each tensor is read once, nothing is written but
// the results: no dots in memory, no d_query in float.
#pragma once
#include <tessera/kernels/attention_backward.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct attention_resident_traits {
  using E = bfloat16;
  static constexpr int width = 64, stride = tile_stride<E, width>, most_rows = 256;
};
struct attention_resident_forward_traits : attention_resident_traits {
  static constexpr int warps = 4, threads = warps * warp_size;
  // Keys and values, and for each warp 16 queries and 16 results.
  static constexpr size_t shared_bytes(int key_steps) {
    return sizeof(E) * size_t((2 * 16 * key_steps + 2 * 16 * warps) * stride);
  }
};
/// A step is 16 queries. For KeySteps times 16 keys.
template <int KeySteps>
struct attention_resident_backward_traits : attention_resident_traits {
  static constexpr int warps = KeySteps, threads = warps * warp_size, keys = 16 * KeySteps;
  static constexpr int stages = 3;  // of queries: this step's and the next two
  // A warp's values stay in registers, its keys only up to 12 warps: from 13 on, a quarter of the SM has four warps of
  // at most 128 registers a thread.
  static constexpr bool keys_held = warps <= 12;
  static constexpr int scores_size = tile_size<E, keys, 16>;
  static constexpr size_t shared_bytes =
      sizeof(E) * size_t((2 * keys + 2 * 16 * stages + 2 * 16) * stride + 2 * scores_size) +
      sizeof(float) * 2 * most_rows;
};

/// out [B, Nq, H, D] and log_sum_exp [B, H, Nq] (may be null), with at most 16 KeySteps keys. One block a head.
template <int KeySteps>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(attention_resident_forward_traits::threads)
    attention_resident_forward_kernel(AttentionView<bfloat16> out, float* log_sum_exp,
                                      AttentionView<const bfloat16> query, AttentionView<const bfloat16> key,
                                      AttentionView<const bfloat16> value, AttentionProblem problem) {
  using Traits = attention_resident_forward_traits;
  using E = bfloat16;
  constexpr int Width = Traits::width, stride = Traits::stride, keys = 16 * KeySteps;
  SharedArena arena;
  E* key_rows = arena.array<E>(keys * stride);
  E* value_rows = arena.array<E>(keys * stride);
  E* query_rows = arena.array<E>(16 * Traits::warps * stride);
  E* out_rows = arena.array<E>(16 * Traits::warps * stride);

  const AttentionBlock block(problem.heads, 1, 1);
  const int thread = int(threadIdx.x), warp = thread / warp_size, lane = thread % warp_size;
  const int length = problem.length(block.item);
  E *own_queries = query_rows + warp * 16 * stride, *own_results = out_rows + warp * 16 * stride;
  const bfloat16* query_from = query.head_at(block.item, block.head);
  const auto load_queries = [&](int first) {
    load_tile<16, Width, warp_size>(own_queries, query_from + first * query.row, query.row, query.packs,
                                    problem.queries - first, problem.channels, lane);
  };
  load_tile<keys, Width, Traits::threads>(key_rows, key.head_at(block.item, block.head), key.row, key.packs, length,
                                          problem.channels, thread);
  load_tile<keys, Width, Traits::threads>(value_rows, value.head_at(block.item, block.head), value.row, value.packs,
                                          length, problem.channels, thread);
  load_queries(warp * 16);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();

  constexpr int step = 16 * Traits::warps;
  for (int first_row = warp * 16; first_row < problem.queries; first_row += step) {
    const LeftRows<E, Width, true> left(own_queries);
    __syncwarp();  // all lanes have read: the next queries may come
    if (first_row + step < problem.queries) load_queries(first_row + step);

    const int seen = problem.visible(length, min(first_row + 16, problem.queries) - 1);
    float scores[2 * KeySteps][4], sums[Width / 8][4], kept[2];
    RowSoftmax softmax;
    multiply_rows<E, Width>(scores, left, key_rows, seen);
    scale_and_mask(scores, problem.scale * log2_of_e, keys > problem.visible(length, first_row), 0,
                   problem.visible(length, first_row + lane / 4), problem.visible(length, first_row + lane / 4 + 8));
    softmax.update(scores, kept);
    softmax.finish();
    set_zero(sums);
    add_weighted_rows<E, Width>(sums, scores, value_rows, seen);
    write_attended_rows<Width>(out, log_sum_exp, own_results, sums, softmax, block.item, block.head, first_row,
                               problem);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
  }
}

/// 16 columns, from `column` on, of 16 rows of d_query: d_scores, which lie as [keys, 16], times keys, times `scale`.
/// Only the first `seen` keys count. A warp writes them to `rows`.
TESSERA_DEVICE void put_d_query(bfloat16* rows, const bfloat16* d_scores, const bfloat16* key_rows, int column,
                                int seen, float scale) {
  using Product = TileProduct<bfloat16>;
  constexpr int stride = attention_resident_traits::stride, scores_stride = tile_stride<bfloat16, 16>;
  const int lane = int(threadIdx.x % warp_size);
  float sums[2][4];
  set_zero(sums);
  for (int first = 0; first < seen; first += 16) {
    Fragment d_scores_of_keys;  // transposed on the way into registers
    ldmatrix_x4_trans(d_scores_of_keys.words,
                      d_scores + (first + lane / 16 * 8 + lane % 8) * scores_stride + lane / 8 % 2 * 8);
    Product::multiply(sums[0], sums[1], d_scores_of_keys,
                      Product::right_t<attention_resident_traits::width>(key_rows + first * stride, column));
  }
  put_rows<bfloat16, 16, stride>(rows + column, sums, scale, scale);
}

/// d_query, d_key and d_value, the data of each of which may be null, with at most 16 KeySteps keys and 256 queries.
/// One block a head. A pipeline of three stages with one barrier a step: scores of step i, d_query of step i - 1 from
/// the scores that all warps have left in shared memory, and the writing of d_query of step i - 2.
template <int KeySteps>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(attention_resident_backward_traits<KeySteps>::threads)
    attention_resident_backward_kernel(AttentionView<bfloat16> d_query, AttentionView<bfloat16> d_key,
                                       AttentionView<bfloat16> d_value, AttentionView<const bfloat16> d_out,
                                       const float* log_sum_exp, AttentionView<const bfloat16> out,
                                       AttentionView<const bfloat16> query, AttentionView<const bfloat16> key,
                                       AttentionView<const bfloat16> value, AttentionProblem problem) {
  using Traits = attention_resident_backward_traits<KeySteps>;
  using E = bfloat16;
  constexpr int Width = Traits::width, stride = Traits::stride, keys = Traits::keys, threads = Traits::threads;
  SharedArena arena;
  E* key_rows = arena.array<E>(keys * stride);
  E* value_rows = arena.array<E>(keys * stride);
  const auto query_rows = arena.stages<E, Traits::stages, 16 * stride>();
  const auto d_out_rows = arena.stages<E, Traits::stages, 16 * stride>();
  const auto d_query_rows = arena.stages<E, 2, 16 * stride>();
  const auto d_score_rows = arena.stages<E, 2, Traits::scores_size>();  // [keys, 16 queries]
  float* subtracted = arena.array<float>(Traits::most_rows);
  float* dots = arena.array<float>(Traits::most_rows);

  const AttentionBlock block(problem.heads, 1, 1);
  const int thread = int(threadIdx.x), warp = thread / warp_size, lane = thread % warp_size;
  const int length = problem.length(block.item), first_key = warp * 16;
  const int steps = (problem.queries + 15) / 16;
  const bfloat16 *query_from = query.head_at(block.item, block.head),
                 *d_out_from = d_out.head_at(block.item, block.head);
  const auto load_queries = [&](int step) {
    if (step < steps) {
      const int first = step * 16, rows = problem.queries - first;
      load_tile<16, Width, threads>(query_rows[step % Traits::stages], query_from + first * query.row, query.row,
                                    query.packs, rows, problem.channels, thread);
      load_tile<16, Width, threads>(d_out_rows[step % Traits::stages], d_out_from + first * d_out.row, d_out.row,
                                    d_out.packs, rows, problem.channels, thread);
    }
    cp_async_commit();
  };
  load_tile<keys, Width, threads>(key_rows, key.head_at(block.item, block.head), key.row, key.packs, length,
                                  problem.channels, thread);
  load_tile<keys, Width, threads>(value_rows, value.head_at(block.item, block.head), value.row, value.packs, length,
                                  problem.channels, thread);
  load_queries(0);
  load_queries(1);
  for (int row = thread; row < steps * 16; row += threads) {
    const int64_t index = (block.item * problem.heads + block.head) * problem.queries + row;
    subtracted[row] = row < problem.queries ? subtracted_from_scores(log_sum_exp[index]) : plus_infinity();
  }
  for (int row = thread / attention_dots_traits::lanes; row < steps * 16;
       row += threads / attention_dots_traits::lanes) {
    const bool valid = row < problem.queries;
    const bfloat16 *d_out_row = d_out_from + row * d_out.row,
                   *out_row = out.head_at(block.item, block.head) + row * out.row;
    const int channels = valid ? problem.channels : 0;
    const float dot = d_out.packs && out.packs ? row_dot<Pack<E>::count>(d_out_row, out_row, channels)
                                               : row_dot<1>(d_out_row, out_row, channels);
    if (thread % attention_dots_traits::lanes == 0) dots[row] = dot;
  }
  cp_async_wait<1>();
  __syncthreads();
  const LeftRows<E, Width, Traits::keys_held> left_key(key_rows + first_key * stride);
  const LeftRows<E, Width, true> left_value(value_rows + first_key * stride);

  const float factor = problem.scale * log2_of_e;
  const auto seen_in = [&](int step) { return problem.visible(length, min(step * 16 + 16, problem.queries) - 1); };
  float d_key_sums[Width / 8][4], d_value_sums[Width / 8][4];
  set_zero(d_key_sums);
  set_zero(d_value_sums);
  for (int step = 0; step < steps + 2; ++step) {
    cp_async_wait<1>();
    __syncthreads();
    load_queries(step + 2);

    if (step >= 2 && d_query.data && thread >= threads - 128) {
      const int first = (step - 2) * 16;
      store_tile<16, Width, 128>(d_query.head_at(block.item, block.head) + first * d_query.row, d_query.row,
                                 d_query.packs, d_query_rows[step % 2], problem.queries - first, problem.channels,
                                 thread - (threads - 128));
    }
    if (step >= 1 && step <= steps && d_query.data)
      for (int column = warp * 16; column < Width; column += Traits::warps * 16)
        put_d_query(d_query_rows[(step - 1) % 2], d_score_rows[(step - 1) % 2], key_rows, column, seen_in(step - 1),
                    problem.scale);
    if (step < steps && first_key < seen_in(step)) {  // the whole warp
      const E *query_part = query_rows[step % Traits::stages], *d_out_part = d_out_rows[step % Traits::stages];
      float weights[2][4], d_scores[2][4];  // [16 keys, 16 queries]
      multiply_rows<E, Width>(weights, left_key, query_part);
      multiply_rows<E, Width>(d_scores, left_value, d_out_part);
      TESSERA_UNROLL
      for (int n = 0; n < 2; ++n) {
        const int column = step * 16 + n * 8 + lane % 4 * 2;
        const auto shift = load_pack<float, 2>(subtracted + column);
        const auto mean = load_pack<float, 2>(dots + column);
        TESSERA_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int row = first_key + lane / 4 + i / 2 * 8;
          const bool sees = row < problem.visible(length, column + i % 2);
          weights[n][i] = sees ? exp2_approximate(weights[n][i] * factor - shift[i % 2]) : 0.0f;
          d_scores[n][i] = weights[n][i] * (d_scores[n][i] - mean[i % 2]);
        }
      }
      add_weighted_rows<E, Width>(d_value_sums, weights, d_out_part);
      add_weighted_rows<E, Width>(d_key_sums, d_scores, query_part);
      put_rows<E, 16>(d_score_rows[step % 2] + first_key * tile_stride<E, 16>, d_scores, 1.0f, 1.0f);
    }
  }
  // A warp's own rows of the keys and values, which nobody reads any more, carry its results out.
  const int rows = problem.keys - first_key;
  if (rows <= 0) return;
  const auto write = [&](const AttentionView<bfloat16>& to, E* own_rows, const float(&sums)[Width / 8][4],
                         float scale) {
    if (!to.data) return;
    put_rows<E, Width>(own_rows, sums, scale, scale);
    __syncwarp();
    store_tile<16, Width, warp_size>(to.head_at(block.item, block.head) + first_key * to.row, to.row, to.packs,
                                     own_rows, rows, problem.channels, lane);
  };
  write(d_key, key_rows + first_key * stride, d_key_sums, problem.scale);
  write(d_value, value_rows + first_key * stride, d_value_sums, 1.0f);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
