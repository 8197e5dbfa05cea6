// What attention's kernels are made of: tiles of rows in shared memory, and products of such tiles by the tensor cores
// (mma.sync). A warp multiplies 16 rows. For bfloat16 an operand is read by ldmatrix; float is split into two tf32
// numbers, so that three products give nearly all of its 24 bits (Ootomo and Yokota, 2022).
//
// The same three reads serve all products of attention, forward and backward, and no score ever leaves its registers:
//   left()     16 rows of a tile as the left operand, rows x channels
//   right()    16 rows of a tile, transposed, as the right operand: scores = left right
//   right_t()  rows of a tile as they lie as the right operand: result = weights right_t
//   left_of()  accumulated scores as the left operand of a second product
#pragma once
#include <tessera/device/launch.cuh>
#include <tessera/device/reduce.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

/// A view [B, N, H, D] as kernels take it; strides in elements. `packs`: all rows can be read in packs of 16 bytes.
template <class T>
struct AttentionView {
  T* data;
  int64_t item, row, head;
  bool packs;

  TESSERA_DEVICE T* head_at(int64_t item_index, int64_t head_index) const {
    return data + item_index * item + head_index * head;
  }
};

/// Extents, mask and scale of one attention.
struct AttentionProblem {
  const int32_t* key_lengths;  // [B] or null
  int queries, keys, heads, channels;
  bool causal;
  float scale;

  /// How many keys of an item any query may see.
  TESSERA_DEVICE int length(int64_t item) const {
    return key_lengths ? max(0, min(keys, int(key_lengths[item]))) : keys;
  }
  /// How many keys a query sees: always the first few.
  TESSERA_DEVICE int visible(int item_length, int query) const {
    return causal ? min(item_length, query + 1) : item_length;
  }
};

/// The part of the work that a block takes: `rows` rows (of queries or keys) of one head, from `first` on. The parts of
/// a head are neighbours, so that they find its other rows in L2.
struct AttentionBlock {
  int64_t item;
  int head, first;
  TESSERA_DEVICE AttentionBlock(int heads, int length, int rows) {
    const unsigned parts = unsigned((length + rows - 1) / rows);
    first = int(blockIdx.x % parts) * rows;
    head = int(blockIdx.x / parts % unsigned(heads));
    item = int64_t(blockIdx.x / parts / unsigned(heads));
  }
};

inline constexpr float log2_of_e = 1.4426950408889634f, log_of_2 = 0.6931471805599453f;
TESSERA_DEVICE float minus_infinity() { return __uint_as_float(0xff800000u); }
TESSERA_DEVICE float plus_infinity() { return __uint_as_float(0x7f800000u); }

// ---- tiles: rows of `Width` elements in shared memory ----

/// What a tile holds of a tensor of T: bfloat16 as it is, all else as float.
template <class T>
using tile_element = std::conditional_t<std::is_same_v<T, bfloat16>, bfloat16, float>;

/// Elements from row to row. The 16 bytes behind each row spread the rows over the banks: ldmatrix has no conflicts.
template <class E, int Width>
inline constexpr int tile_stride = Width + int(16 / sizeof(E));
/// Elements of a tile.
template <class E, int Rows, int Width>
inline constexpr int tile_size = Rows* tile_stride<E, Width>;

/// Fills a tile with the rows [0, rows) and channels [0, channels) of `from` and with zeros beyond. To be called by
/// `Threads` threads, `thread` of them each; complete after cp_async_wait and a barrier.
template <int Rows, int Width, int Threads, class E, class T>
TESSERA_DEVICE void load_tile(E* tile, const T* from, int64_t row_stride, bool packs, int rows, int channels,
                              int thread) {
  constexpr int count = Pack<E>::count, packs_of_row = Width / count;
  for (int i = thread; i < Rows * packs_of_row; i += Threads) {
    const int row = i / packs_of_row, channel = i % packs_of_row * count;
    E* to = tile + row * tile_stride<E, Width> + channel;
    const T* source = from + row * row_stride + channel;
    if constexpr (std::is_same_v<T, E>) {
      if (packs) {
        const bool valid = row < rows && channel < channels;
        cp_async16(to, valid ? source : from, valid);
        continue;
      }
    }
    Pack<E> pack;
    TESSERA_UNROLL
    for (int c = 0; c < count; ++c) pack[c] = narrow<E>(row < rows && channel + c < channels ? widen(source[c]) : 0.0f);
    store_pack(to, pack);
  }
}

/// Writes the first `rows` rows and `channels` channels of a tile.
template <int Rows, int Width, int Threads, class E, class T>
TESSERA_DEVICE void store_tile(T* to, int64_t row_stride, bool packs, const E* tile, int rows, int channels,
                               int thread) {
  constexpr int count = Pack<E>::count, packs_of_row = Width / count;
  for (int i = thread; i < Rows * packs_of_row; i += Threads) {
    const int row = i / packs_of_row, channel = i % packs_of_row * count;
    if (row >= rows || channel >= channels) continue;
    const auto pack = load_pack<E>(tile + row * tile_stride<E, Width> + channel);
    T* target = to + row * row_stride + channel;
    if constexpr (std::is_same_v<T, E>) {
      if (packs) {
        store_pack(target, pack);
        continue;
      }
    }
    TESSERA_UNROLL
    for (int c = 0; c < count; ++c)
      if (channel + c < channels) target[c] = narrow<T>(widen(pack[c]));
  }
}

// ---- products of tiles ----

/// One lane's part of an operand: for bfloat16 16 x 16 elements, two a word; for float 16 x 8, one a word.
struct Fragment {
  uint32_t words[4];
};

template <class E>
struct TileProduct;

/// bfloat16 by mma.m16n8k16.
template <>
struct TileProduct<bfloat16> {
  using E = bfloat16;
  static constexpr int depth = 16;  // of one product

  template <int Width>
  TESSERA_DEVICE static Fragment left(const E* tile, int channel) {
    const int lane = int(threadIdx.x % warp_size);
    Fragment f;
    ldmatrix_x4(f.words, tile + lane % 16 * tile_stride<E, Width> + channel + lane / 16 * 8);
    return f;
  }
  template <int Width>
  TESSERA_DEVICE static Fragment right(const E* tile, int channel) {
    const int lane = int(threadIdx.x % warp_size);
    Fragment f;
    ldmatrix_x4(f.words, tile + (lane / 16 * 8 + lane % 8) * tile_stride<E, Width> + channel + lane / 8 % 2 * 8);
    return f;
  }
  template <int Width>
  TESSERA_DEVICE static Fragment right_t(const E* tile, int channel) {
    const int lane = int(threadIdx.x % warp_size);
    Fragment f;
    ldmatrix_x4_trans(f.words, tile + lane % 16 * tile_stride<E, Width> + channel + lane / 16 * 8);
    return f;
  }
  /// Of scores[2k] and scores[2k + 1]: 16 rows x 16 columns.
  template <int Tiles>
  TESSERA_DEVICE static Fragment left_of(const float (&scores)[Tiles][4], int k) {
    const auto &first = scores[2 * k], &second = scores[2 * k + 1];
    return {{pack_bf16(first[0], first[1]), pack_bf16(first[2], first[3]), pack_bf16(second[0], second[1]),
             pack_bf16(second[2], second[3])}};
  }
  /// 16 rows x 16 columns of results: first and second, 8 columns each.
  TESSERA_DEVICE static void multiply(float (&first)[4], float (&second)[4], const Fragment& a, const Fragment& b) {
    mma_bf16_m16n8k16(first, a.words, b.words[0], b.words[1]);
    mma_bf16_m16n8k16(second, a.words, b.words[2], b.words[3]);
  }
  TESSERA_DEVICE static void store_pair(E* to, float low, float high) {
    store_pack(reinterpret_cast<uint32_t*>(to), Pack<uint32_t, 1>{{pack_bf16(low, high)}});
  }
};

/// float by three mma.m16n8k8 of tf32. A product's sum over k may run in any order, so k = t and k = t + 4 of the
/// instruction stand for columns 2t and 2t + 1: accumulated scores, which lie so, become an operand as they are.
template <>
struct TileProduct<float> {
  using E = float;
  static constexpr int depth = 8;

  template <int Width>
  TESSERA_DEVICE static Fragment left(const E* tile, int channel) {
    const int group = int(threadIdx.x % warp_size / 4), t = int(threadIdx.x % 4);
    const E* row = tile + group * tile_stride<E, Width> + channel + 2 * t;
    const auto upper = load_pack<float, 2>(row), lower = load_pack<float, 2>(row + 8 * tile_stride<E, Width>);
    return {
        {__float_as_uint(upper[0]), __float_as_uint(lower[0]), __float_as_uint(upper[1]), __float_as_uint(lower[1])}};
  }
  template <int Width>
  TESSERA_DEVICE static Fragment right(const E* tile, int channel) {
    const int group = int(threadIdx.x % warp_size / 4), t = int(threadIdx.x % 4);
    const E* row = tile + group * tile_stride<E, Width> + channel + 2 * t;
    const auto first = load_pack<float, 2>(row), second = load_pack<float, 2>(row + 8 * tile_stride<E, Width>);
    return {
        {__float_as_uint(first[0]), __float_as_uint(first[1]), __float_as_uint(second[0]), __float_as_uint(second[1])}};
  }
  template <int Width>
  TESSERA_DEVICE static Fragment right_t(const E* tile, int channel) {
    const int group = int(threadIdx.x % warp_size / 4), t = int(threadIdx.x % 4);
    const E *row = tile + 2 * t * tile_stride<E, Width> + channel + group, *next = row + tile_stride<E, Width>;
    return {{__float_as_uint(row[0]), __float_as_uint(next[0]), __float_as_uint(row[8]), __float_as_uint(next[8])}};
  }
  template <int Tiles>
  TESSERA_DEVICE static Fragment left_of(const float (&scores)[Tiles][4], int k) {
    return {{__float_as_uint(scores[k][0]), __float_as_uint(scores[k][2]), __float_as_uint(scores[k][1]),
             __float_as_uint(scores[k][3])}};
  }
  TESSERA_DEVICE static void multiply(float (&first)[4], float (&second)[4], const Fragment& a, const Fragment& b) {
    const Split left = split(a), right = split(b);
    add_product(first, left, right.high.words[0], right.high.words[1], right.low.words[0], right.low.words[1]);
    add_product(second, left, right.high.words[2], right.high.words[3], right.low.words[2], right.low.words[3]);
  }
  TESSERA_DEVICE static void store_pair(E* to, float low, float high) { store_pack(to, Pack<float, 2>{{low, high}}); }

 private:
  struct Split {
    Fragment high, low;
  };
  TESSERA_DEVICE static Split split(const Fragment& f) {
    Split s;
    TESSERA_UNROLL
    for (int i = 0; i < 4; ++i) {
      s.high.words[i] = to_tf32(__uint_as_float(f.words[i]));
      s.low.words[i] = to_tf32(__uint_as_float(f.words[i]) - __uint_as_float(s.high.words[i]));
    }
    return s;
  }
  // The smallest first, and added outside the tensor core, which rounds its sums towards zero.
  TESSERA_DEVICE static void add_product(float (&sum)[4], const Split& left, uint32_t high0, uint32_t high1,
                                         uint32_t low0, uint32_t low1) {
    float part[4] = {0, 0, 0, 0};
    mma_tf32_m16n8k8(part, left.low.words, high0, high1);
    mma_tf32_m16n8k8(part, left.high.words, low0, low1);
    mma_tf32_m16n8k8(part, left.high.words, high0, high1);
    TESSERA_UNROLL
    for (int i = 0; i < 4; ++i) sum[i] += part[i];
  }
};

/// 16 rows of a tile as left operand of many products: kept in registers (`Held`), or read again for each.
template <class E, int Width, bool Held>
struct LeftRows {
  static constexpr bool held = true;
  Fragment fragments[Width / TileProduct<E>::depth];
  TESSERA_DEVICE explicit LeftRows(const E* rows) {
    TESSERA_UNROLL
    for (int k = 0; k < Width / TileProduct<E>::depth; ++k)
      fragments[k] = TileProduct<E>::template left<Width>(rows, k * TileProduct<E>::depth);
  }
  TESSERA_DEVICE Fragment operator[](int k) const { return fragments[k]; }
};
template <class E, int Width>
struct LeftRows<E, Width, false> {
  static constexpr bool held = false;
  const E* rows;
  TESSERA_DEVICE explicit LeftRows(const E* first_row) : rows(first_row) {}
  TESSERA_DEVICE Fragment operator[](int k) const {
    return TileProduct<E>::template left<Width>(rows, k * TileProduct<E>::depth);
  }
};

/// Accumulators of a warp: 16 rows of 8 columns a tile. Lane l holds of row l / 4 the columns 2 (l % 4) and the next,
/// and of row l / 4 + 8 the same.
template <int Tiles>
TESSERA_DEVICE void set_zero(float (&tiles)[Tiles][4]) {
  TESSERA_UNROLL
  for (int n = 0; n < Tiles; ++n) {
    TESSERA_UNROLL
    for (int i = 0; i < 4; ++i) tiles[n][i] = 0;
  }
}

/// scores [16, 8 Tiles] = rows of `left` times the 8 Tiles rows of `tile`, 0 for those from `rows` (rounded up) on.
template <class E, int Width, class Left, int Tiles>
TESSERA_DEVICE void multiply_rows(float (&scores)[Tiles][4], const Left& left, const E* tile, int rows = 8 * Tiles) {
  using Product = TileProduct<E>;
  constexpr int steps = Width / Product::depth;
  set_zero(scores);
  const auto step = [&](int k) {
    const Fragment a = left[k];
    TESSERA_UNROLL
    for (int n = 0; n < Tiles; n += 2)
      if (n * 8 < rows)
        Product::multiply(scores[n], scores[n + 1], a,
                          Product::template right<Width>(tile + n * 8 * tile_stride<E, Width>, k * Product::depth));
  };
  if constexpr (Left::held) {
    TESSERA_UNROLL
    for (int k = 0; k < steps; ++k) step(k);
  } else {  // unrolled, the reads ahead would take more registers than there are
    TESSERA_NO_UNROLL
    for (int k = 0; k < steps; ++k) step(k);
  }
}

/// sums [16, Width] += weights [16, 8 Tiles] times the 8 Tiles rows of `tile`; those from `rows` (rounded up) on are
/// left out.
template <class E, int Width, int Tiles>
TESSERA_DEVICE void add_weighted_rows(float (&sums)[Width / 8][4], const float (&weights)[Tiles][4], const E* tile,
                                      int rows = 8 * Tiles) {
  using Product = TileProduct<E>;
  TESSERA_UNROLL
  for (int k = 0; k < Tiles * 8 / Product::depth; ++k) {
    if (k * Product::depth >= rows) continue;
    const Fragment a = Product::left_of(weights, k);
    const E* rows = tile + k * Product::depth * tile_stride<E, Width>;
    TESSERA_UNROLL
    for (int n = 0; n < Width / 8; n += 2)
      Product::multiply(sums[n], sums[n + 1], a, Product::template right_t<Width>(rows, n * 8));
  }
}

/// Puts a warp's results into 16 rows of a tile; a row's numbers times upper_factor (rows 0-7) or lower_factor (8-15).
template <class E, int Width, int Stride = tile_stride<E, Width>>
TESSERA_DEVICE void put_rows(E* tile, const float (&sums)[Width / 8][4], float upper_factor, float lower_factor) {
  const int group = int(threadIdx.x % warp_size / 4), t = int(threadIdx.x % 4);
  TESSERA_UNROLL
  for (int n = 0; n < Width / 8; ++n) {
    E* to = tile + group * Stride + n * 8 + 2 * t;
    TileProduct<E>::store_pair(to, sums[n][0] * upper_factor, sums[n][1] * upper_factor);
    TileProduct<E>::store_pair(to + 8 * Stride, sums[n][2] * lower_factor, sums[n][3] * lower_factor);
  }
}

/// The sum, and the largest value, over the four lanes that hold a row of accumulators.
TESSERA_DEVICE float row_sum(float value TESSERA_CALLER) {
  value += __shfl_xor_sync(full_mask, value, 1, warp_size TESSERA_PASS_CALLER);
  return value + __shfl_xor_sync(full_mask, value, 2, warp_size TESSERA_PASS_CALLER);
}
TESSERA_DEVICE float row_max(float value TESSERA_CALLER) {
  value = fmaxf(value, __shfl_xor_sync(full_mask, value, 1, warp_size TESSERA_PASS_CALLER));
  return fmaxf(value, __shfl_xor_sync(full_mask, value, 2, warp_size TESSERA_PASS_CALLER));
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
