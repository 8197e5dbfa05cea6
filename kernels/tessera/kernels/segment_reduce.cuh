// Segments' sums, means and maxima on kernels' devices, and rows gathered back. A warp takes a segment of an item and
// 32 packs of columns: it reads the segments of 32 tokens at a time, votes which are its own, and adds their rows in
// ascending order, up to four on their way at once. Where an item has many tokens, a block's warps share a segment, a
// part of the tokens each, and the parts are added in order. Sorting tokens by segment would read fewer numbers, but
// these stay in the cache, and it would take launches of its own. No atomics: the order of additions depends on the
// sizes alone.
//
// A segment out of range stops the kernel (__trap): the host cannot look at the device's values without waiting.
#pragma once
#include <algorithm>

#include <tessera/kernels/strided.cuh>
#include <tessera/ops/segment_reduce.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct segment_reduce_traits {
  static constexpr int threads = 256;
  static constexpr int warps = threads / warp_size;
  static constexpr int64_t tokens_of_warp = 256;  // beyond, a block's warps share a segment
  static constexpr int held = 4;                  // rows that a lane has on their way at once
};

/// What a lane knows of a segment: its columns' sums, or their largest values so far and whose they are.
template <int Count, bool largest>
struct SegmentColumns {
  float values[Count];
  int32_t index[largest ? Count : 1];

  TESSERA_DEVICE SegmentColumns() {
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) {
      values[i] = 0;
      if constexpr (largest) index[i] = -1;
    }
  }
  /// One token's value, or the result of several tokens, the first of them with this number; -1: of none.
  TESSERA_DEVICE void take(int i, float value, int32_t token) {
    if constexpr (largest) {
      // the first of all; else what is larger, or the first NaN
      const bool takes = token >= 0 && (index[i] < 0 || (!(value <= values[i]) && values[i] == values[i]));
      values[i] = takes ? value : values[i];
      index[i] = takes ? token : index[i];
    } else {
      values[i] += value;
    }
  }
};

/// Sizes of the tokens x [items, tokens, channels], and of the result, [items, count, channels].
struct SegmentShape {
  int64_t items, tokens, channels, count;
  int64_t item_stride, token_stride;  // of x
};

/// y, counts [items, count] and index, the last two may be null. `sharing` warps work on one segment: 1, or all of a
/// block.
template <class T, int Count, bool largest, int sharing>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(segment_reduce_traits::threads)
    segment_reduce_kernel(T* y, int32_t* counts, int32_t* index, const T* x, const int32_t* segments,
                          SegmentShape shape, int64_t tiles, bool mean) {
  using Traits = segment_reduce_traits;
  static_assert(sharing == 1 || sharing == Traits::warps, "tessera: a segment is a warp's or a block's");
  const int lane = int(threadIdx.x) % warp_size, warp = int(threadIdx.x) / warp_size;
  const int part = sharing == 1 ? 0 : warp;
  const int64_t number = sharing == 1 ? int64_t(blockIdx.x) * Traits::warps + warp : int64_t(blockIdx.x);
  const int64_t row = number / tiles, tile = number - row * tiles;  // row: of y
  if (row >= shape.items * shape.count) return;                     // the whole warp, or the whole block
  const int64_t item = row / shape.count, c = (tile * warp_size + lane) * Count;
  const int32_t wanted = int32_t(row - item * shape.count);
  const bool inside = c < shape.channels;

  SegmentColumns<Count, largest> columns;
  const int32_t* of_token = segments + item * shape.tokens;
  const T* tokens = x + item * shape.item_stride + c;
  const int64_t length = ceil_div(shape.tokens, sharing), begin = part * length,
                end = min(begin + length, shape.tokens);
  int members_of_part = 0;
  for (int64_t first = begin; first < end; first += warp_size) {
    const int32_t segment = first + lane < end ? of_token[first + lane] : -1;
    if (segment >= shape.count) __trap();
    unsigned members = __ballot_sync(full_mask, segment == wanted);
    members_of_part += __popc(members);
    if (!inside) continue;
    while (members != 0) {
      Elements<T, Count> rows[Traits::held];
      int64_t token[Traits::held];
      TESSERA_UNROLL
      for (int k = 0; k < Traits::held; ++k) {
        token[k] = members != 0 ? first + __ffs(int(members)) - 1 : -1;
        members &= members - 1;  // without its lowest bit; 0 stays
        if (token[k] >= 0) rows[k] = load_elements<Count>(tokens + token[k] * shape.token_stride);
      }
      TESSERA_UNROLL
      for (int k = 0; k < Traits::held; ++k)
        if (token[k] >= 0) {
          TESSERA_UNROLL
          for (int i = 0; i < Count; ++i) columns.take(i, widen(rows[k][i]), int32_t(token[k]));
        }
    }
  }

  if constexpr (sharing > 1) {
    constexpr int width = warp_size * Count;
    TESSERA_SHARED(float, values, (Traits::warps - 1) * width);
    TESSERA_SHARED(int32_t, tokens_of_values, largest ? (Traits::warps - 1) * width : 1);
    TESSERA_SHARED(int, members_of, Traits::warps);
    if (lane == 0) members_of[warp] = members_of_part;
    if (warp > 0) {
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) {  // lanes side by side, so that they meet no bank twice
        const int at = (warp - 1) * width + i * warp_size + lane;
        values[at] = columns.values[i];
        if constexpr (largest) tokens_of_values[at] = columns.index[i];
      }
    }
    __syncthreads();
    if (warp > 0) return;
    for (int other = 1; other < Traits::warps; ++other) {
      members_of_part += members_of[other];
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) {
        const int at = (other - 1) * width + i * warp_size + lane;
        columns.take(i, values[at], largest ? tokens_of_values[largest ? at : 0] : 0);
      }
    }
  }
  if (counts && tile == 0 && lane == 0) counts[row] = members_of_part;
  if (!inside) return;
  const float factor = mean && members_of_part > 1 ? 1.0f / float(members_of_part) : 1.0f;
  Elements<T, Count> result;
  TESSERA_UNROLL
  for (int i = 0; i < Count; ++i) result[i] = narrow<T>(factor * columns.values[i]);
  store_elements<Count>(y + row * shape.channels + c, result);
  if constexpr (largest) {
    if (!index) return;
    Elements<int32_t, Count> whose;
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) whose[i] = columns.index[i];
    store_elements<Count>(index + row * shape.channels + c, whose);
  }
}

/// x [items, tokens, channels] = y [items, count, channels] at each token's segment; divided by counts, or only where
/// index names the token, where these are given. One thread a pack.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(segment_reduce_traits::threads)
    segment_gather_kernel(T* x, const T* y, const int32_t* counts, const int32_t* index, const int32_t* segments,
                          SegmentShape shape) {
  const int64_t packs_of_token = shape.channels / Count;
  const int64_t pack = int64_t(blockIdx.x) * segment_reduce_traits::threads + threadIdx.x;
  if (pack >= shape.items * shape.tokens * packs_of_token) return;
  const int64_t token = pack / packs_of_token, c = (pack - token * packs_of_token) * Count;
  const int64_t item = token / shape.tokens;
  const int32_t segment = segments[token], n = int32_t(token - item * shape.tokens);
  if (segment >= shape.count) __trap();
  Elements<T, Count> values;
  if (segment < 0) {
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) values[i] = narrow<T>(0.0f);
  } else {
    const int64_t row = item * shape.count + segment, at = row * shape.channels + c;
    values = load_elements<Count>(y + at);
    if (counts) {
      const float factor = 1.0f / float(counts[row]);
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) values[i] = narrow<T>(factor * widen(values[i]));
    }
    if (index) {
      const auto whose = load_elements<Count>(index + at);
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i)
        if (whose[i] != n) values[i] = narrow<T>(0.0f);
    }
  }
  store_elements<Count>(x + token * shape.channels + c, values);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::segment_reduce, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::segment_reduce_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 3, Device> y, Out<int32_t, 2, Device> counts,
                      Out<int32_t, 3, Device> index, In<T, 3, Device> x, In<int32_t, 2, Device> segments,
                      SegmentReduction kind) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    constexpr int most = kernels::Pack<T>::count;
    const kernels::SegmentShape shape{x.shape[0], x.shape[1], x.shape[2], y.shape[1], x.strides[0], x.strides[1]};
    const bool mean = kind == SegmentReduction::mean, fits = fits_rows<T>(x, {y.data, index.data});
    const bool shared = shape.tokens > Traits::tokens_of_warp;
    const auto start = [&](auto* kernel) {
      const int64_t columns = kernels::warp_size * (fits ? most : 1);
      const int64_t tiles = std::max<int64_t>(1, kernels::ceil_div(shape.channels, columns));
      const int64_t numbers = shape.items * shape.count * tiles;
      if (numbers == 0) return;
      kernels::launch("segment_reduce", kernel, kernels::blocks_for(numbers, shared ? 1 : Traits::warps),
                      unsigned(Traits::threads), 0, ctx, y.data, counts.data, index.data, x.data, segments.data, shape,
                      tiles, mean);
    };
    const auto choose = [&](auto largest) {
      constexpr bool max = largest.value;
      constexpr int all = Traits::warps;
      if (fits)
        start(shared ? kernels::segment_reduce_kernel<T, most, max, all>
                     : kernels::segment_reduce_kernel<T, most, max, 1>);
      else
        start(shared ? kernels::segment_reduce_kernel<T, 1, max, all> : kernels::segment_reduce_kernel<T, 1, max, 1>);
    };
    if (kind == SegmentReduction::max)
      choose(std::true_type{});
    else
      choose(std::false_type{});
  }

  template <class T>
  static void gather(Context<Device>& ctx, Out<T, 3, Device> x, In<T, 3, Device> y, In<int32_t, 2, Device> counts,
                     In<int32_t, 3, Device> index, In<int32_t, 2, Device> segments, SegmentReduction kind) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    if (x.size() == 0) return;
    const kernels::SegmentShape shape{x.shape[0], x.shape[1], x.shape[2], y.shape[1], x.strides[0], x.strides[1]};
    const int32_t* divisors = kind == SegmentReduction::mean ? counts.data : nullptr;
    const int32_t* chosen = kind == SegmentReduction::max ? index.data : nullptr;
    const auto start = [&](auto* kernel, int64_t packs) {
      kernels::launch("segment_gather", kernel, kernels::blocks_for(packs, Traits::threads), unsigned(Traits::threads),
                      0, ctx, x.data, y.data, divisors, chosen, segments.data, shape);
    };
    constexpr int most = kernels::Pack<T>::count;
    if (kernels::fits_packs<T>(shape.channels, {x.data, y.data, chosen}))
      start(kernels::segment_gather_kernel<T, most>, x.size() / most);
    else
      start(kernels::segment_gather_kernel<T, 1>, x.size());
  }

 private:
  template <class T>
  static bool fits_rows(In<T, 3, Device> x, std::initializer_list<const void*> others) {
    constexpr int64_t count = kernels::Pack<T>::count;
    return x.strides[0] % count == 0 && x.strides[1] % count == 0 && kernels::fits_packs<T>(x.shape[2], others) &&
           kernels::fits_packs<T>(x.shape[2], {x.data});
  }
};

}  // namespace tessera
