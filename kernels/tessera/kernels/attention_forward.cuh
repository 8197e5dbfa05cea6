// Attention's forward kernel for any number of keys: a block takes 64 queries of a head (16 where there are few), four
// warps of 16; tiles of 64 keys and values pass through shared memory, the next one on its way (cp.async) while one is
// computed with. The softmax is the online one: maximum and sum are carried from tile to tile, and results so far
// shrink where the maximum grows (Milakov and Gimelshein, 2018; Dao et al., 2022).
#pragma once
#include <tessera/kernels/attention_tiles.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

/// Of all kernels that pass tiles through shared memory.
struct attention_traits {
  static constexpr int warps = 4, threads = warps * warp_size;
  static constexpr int few_queries = 32;  // up to here, the warps of a block share queries and part the keys

  // Rows of a tile. Wide floats have smaller ones, so that sm_80's shared memory holds a block.
  template <class E, int Width>
  static constexpr int tile_rows = Width* int(sizeof(E)) > 256 ? 32 : 64;
  // Where queries are few, a warp takes 16 keys of each tile.
  template <class E, int Width>
  static constexpr int most_key_groups = tile_rows<E, Width> / 16;
  TESSERA_HOST_DEVICE static constexpr int block_queries(int key_groups) { return 16 * warps / key_groups; }
  // What warps leave for others to add: one pack a lane for each 8 channels and one more.
  TESSERA_HOST_DEVICE static constexpr int part_floats(int width, int key_groups) {
    return (key_groups - 1) * warps / key_groups * (width / 8 + 1) * warp_size * 4;
  }
};
struct attention_forward_traits : attention_traits {
  // What the groups leave for each other would not fit beside the tiles of the widest floats.
  template <class E, int Width>
  static constexpr int most_key_groups = Width* int(sizeof(E)) > 256 ? 1 : attention_traits::most_key_groups<E, Width>;
  template <class E, int Width>
  static constexpr size_t shared_bytes(int key_groups) {
    return sizeof(E) * size_t((block_queries(key_groups) + 4 * tile_rows<E, Width>)*tile_stride<E, Width>) +
           sizeof(float) * size_t(part_floats(Width, key_groups));
  }
};

/// scores times `factor`. Where `masked`, the keys that a row does not see get -infinity: those from upper_seen on in
/// rows 0-7, from lower_seen on in rows 8-15. Tile n's first key is first_key + 8n.
template <int Tiles>
TESSERA_DEVICE void scale_and_mask(float (&scores)[Tiles][4], float factor, bool masked, int first_key, int upper_seen,
                                   int lower_seen) {
  TESSERA_UNROLL
  for (int n = 0; n < Tiles; ++n) {
    TESSERA_UNROLL
    for (int i = 0; i < 4; ++i) scores[n][i] *= factor;
  }
  if (!masked) return;
  TESSERA_UNROLL
  for (int n = 0; n < Tiles; ++n) {
    TESSERA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int key = first_key + n * 8 + int(threadIdx.x % 4) * 2 + i % 2;
      if (key >= (i < 2 ? upper_seen : lower_seen)) scores[n][i] = minus_infinity();
    }
  }
}

/// Maximum and sum of the two rows whose scores a lane holds parts of, [0] of rows 0-7 and [1] of rows 8-15. Scores are
/// in units of log 2. The sum is the lane's own part of it until finish().
struct RowSoftmax {
  float maximum[2] = {minus_infinity(), minus_infinity()};
  float sum[2] = {0, 0};

  /// Scores become weights; `kept` is the factor by which earlier results shrink.
  template <int Tiles>
  TESSERA_DEVICE void update(float (&scores)[Tiles][4], float (&kept)[2]) {
    TESSERA_UNROLL
    for (int half = 0; half < 2; ++half) {
      float largest = maximum[half];
      TESSERA_UNROLL
      for (int n = 0; n < Tiles; ++n) largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      largest = row_max(largest);
      const float subtracted = largest == minus_infinity() ? 0.0f : largest;  // where nothing is seen: weights 0
      kept[half] = exp2_approximate(maximum[half] - subtracted);
      maximum[half] = largest;
      float part = 0;
      TESSERA_UNROLL
      for (int n = 0; n < Tiles; ++n) {
        TESSERA_UNROLL
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[n][i] = exp2_approximate(scores[n][i] - subtracted);
          part += scores[n][i];
        }
      }
      sum[half] = sum[half] * kept[half] + part;
    }
  }
  TESSERA_DEVICE void finish() {
    sum[0] = row_sum(sum[0]);
    sum[1] = row_sum(sum[1]);
  }
  /// What the results are to be multiplied with in the end. A row that saw nothing has sum 0; NaN stays NaN.
  TESSERA_DEVICE float factor(int half) const { return sum[half] == 0.0f ? 0.0f : 1.0f / sum[half]; }
  TESSERA_DEVICE float log_sum_exp(int half) const {
    return sum[half] == 0.0f ? minus_infinity() : maximum[half] * log_of_2 + logf(sum[half]);
  }
};

/// Adds up what the warps of all groups of keys have of the same rows, in their order, in the first group's registers.
/// `parts`: shared memory. All threads of the block call it.
template <int Width, int KeyGroups, int RowGroups>
TESSERA_DEVICE void combine_key_groups(float (&sums)[Width / 8][4], RowSoftmax& softmax, float* parts, int key_group,
                                       int row_group TESSERA_CALLER) {
  const int lane = int(threadIdx.x % warp_size);
  const auto part = [&](int group, int n) {
    return parts + ((((group - 1) * RowGroups + row_group) * (Width / 8 + 1) + n) * warp_size + lane) * 4;
  };
  if (key_group > 0) {
    TESSERA_UNROLL
    for (int n = 0; n < Width / 8; ++n)
      store_pack(part(key_group, n), Pack<float>{{sums[n][0], sums[n][1], sums[n][2], sums[n][3]}});
    store_pack(part(key_group, Width / 8),
               Pack<float>{{softmax.maximum[0], softmax.maximum[1], softmax.sum[0], softmax.sum[1]}});
  }
  __syncthreads(TESSERA_CALLED);
  if (key_group > 0) return;
  for (int group = 1; group < KeyGroups; ++group) {
    const auto state = load_pack<float>(part(group, Width / 8));
    float kept[2], added[2];
    TESSERA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float largest = fmaxf(softmax.maximum[half], state[half]);
      const float subtracted = largest == minus_infinity() ? 0.0f : largest;
      kept[half] = exp2_approximate(softmax.maximum[half] - subtracted);
      added[half] = exp2_approximate(state[half] - subtracted);
      softmax.maximum[half] = largest;
      softmax.sum[half] = softmax.sum[half] * kept[half] + state[2 + half] * added[half];
    }
    TESSERA_UNROLL
    for (int n = 0; n < Width / 8; ++n) {
      const auto more = load_pack<float>(part(group, n));
      TESSERA_UNROLL
      for (int i = 0; i < 4; ++i) sums[n][i] = sums[n][i] * kept[i / 2] + more[i] * added[i / 2];
    }
  }
}

/// Writes a warp's 16 rows: out by way of `rows`, 16 rows of a tile that belong to this warp alone, and log_sum_exp of
/// this head where it is not null.
template <int Width, class E, class T>
TESSERA_DEVICE void write_attended_rows(const AttentionView<T>& out, float* log_sum_exp, E* rows,
                                        const float (&sums)[Width / 8][4], const RowSoftmax& softmax, int64_t item,
                                        int head, int first_row, const AttentionProblem& problem) {
  const int lane = int(threadIdx.x % warp_size);
  put_rows<E, Width>(rows, sums, softmax.factor(0), softmax.factor(1));
  __syncwarp();
  const int count = min(16, problem.queries - first_row);
  store_tile<16, Width, warp_size>(out.head_at(item, head) + first_row * out.row, out.row, out.packs, rows, count,
                                   problem.channels, lane);
  if (!log_sum_exp || lane % 4 != 0) return;
  float* to = log_sum_exp + (item * problem.heads + head) * problem.queries + first_row;
  TESSERA_UNROLL
  for (int half = 0; half < 2; ++half)
    if (lane / 4 + 8 * half < count) to[lane / 4 + 8 * half] = softmax.log_sum_exp(half);
}

/// out [B, Nq, H, D] and log_sum_exp [B, H, Nq] (may be null). One block for each part of each head, see
/// AttentionBlock. `KeyGroups` warps share 16 queries; each takes its part of every tile of keys.
template <class T, int Width, int KeyGroups>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(attention_forward_traits::threads)
    attention_forward_kernel(AttentionView<T> out, float* log_sum_exp, AttentionView<const T> query,
                             AttentionView<const T> key, AttentionView<const T> value, AttentionProblem problem) {
  using Traits = attention_forward_traits;
  using E = tile_element<T>;
  constexpr int stride = tile_stride<E, Width>, key_tile = Traits::tile_rows<E, Width>;
  constexpr int group_keys = key_tile / KeyGroups;
  constexpr int block_queries = Traits::block_queries(KeyGroups), row_groups = block_queries / 16;
  SharedArena arena;
  E* query_rows = arena.array<E>(block_queries * stride);
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
  const int upper_seen = problem.visible(length, first_row + lane / 4);
  const int lower_seen = problem.visible(length, first_row + lane / 4 + 8);
  const float factor = problem.scale * log2_of_e;
  const int tiles = (block_seen + key_tile - 1) / key_tile;

  const T* query_from = query.head_at(block.item, block.head) + block.first * query.row;
  const T* key_from = key.head_at(block.item, block.head);
  const T* value_from = value.head_at(block.item, block.head);
  // Beyond the item's length there are zeros, whatever memory holds there: 0 * NaN would spoil the results.
  const auto load_keys = [&](int tile) {
    const int first = tile * key_tile, rows = length - first;
    load_tile<key_tile, Width, Traits::threads>(key_rows[tile % 2], key_from + first * key.row, key.row, key.packs,
                                                rows, problem.channels, thread);
    load_tile<key_tile, Width, Traits::threads>(value_rows[tile % 2], value_from + first * value.row, value.row,
                                                value.packs, rows, problem.channels, thread);
  };

  float sums[Width / 8][4];
  set_zero(sums);
  RowSoftmax softmax;
  if (tiles > 0) {
    load_tile<block_queries, Width, Traits::threads>(query_rows, query_from, query.row, query.packs,
                                                     problem.queries - block.first, problem.channels, thread);
    cp_async_commit();
    load_keys(0);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    const LeftRows<E, Width, std::is_same_v<E, bfloat16>> left(query_rows + row_group * 16 * stride);
    for (int tile = 0; tile < tiles; ++tile) {
      if (tile + 1 < tiles) load_keys(tile + 1);
      cp_async_commit();
      cp_async_wait<1>();
      __syncthreads();
      const int first_key = tile * key_tile + key_group * group_keys;
      if (first_key < warp_seen) {  // the whole warp
        const int offset = key_group * group_keys * stride;
        float scores[group_keys / 8][4], kept[2];
        multiply_rows<E, Width>(scores, left, key_rows[tile % 2] + offset);
        scale_and_mask(scores, factor, first_key + group_keys > seen_by_all, first_key, upper_seen, lower_seen);
        softmax.update(scores, kept);
        TESSERA_UNROLL
        for (int n = 0; n < Width / 8; ++n) {
          TESSERA_UNROLL
          for (int i = 0; i < 4; ++i) sums[n][i] *= kept[i / 2];
        }
        add_weighted_rows<E, Width>(sums, scores, value_rows[tile % 2] + offset);
      }
      __syncthreads();  // before the next tile but one overwrites these keys
    }
  }
  softmax.finish();
  if constexpr (KeyGroups > 1)
    combine_key_groups<Width, KeyGroups, row_groups>(sums, softmax, parts, key_group, row_group);
  if (key_group == 0 && first_row < problem.queries)
    write_attended_rows<Width>(out, log_sum_exp, query_rows + row_group * 16 * stride, sums, softmax, block.item,
                               block.head, first_row, problem);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
