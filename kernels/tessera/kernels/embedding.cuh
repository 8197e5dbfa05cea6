// Rows chosen by number on kernels' devices. The gradient of a table needs the positions of each id in their order: ids
// are sorted, stably, 8 bits at a time (a radix sort), then every row of the table is one block's, which adds the rows
// of its segment. Segments longer than 64 are summed 64 at a time by other blocks before. No atomics on floats, and one
// order of additions: that of the positions, cut by the sorted places alone.
//
// An id outside the table stops the kernel (__trap): the values are the device's, and looking at them from the host
// would make it wait.
#pragma once
#include <tessera/kernels/strided.cuh>
#include <tessera/ops/embedding.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct gather_traits {
  static constexpr int threads = 256;
};
struct sort_traits {
  static constexpr int threads = 256;
  static constexpr int warps = threads / warp_size;
  static constexpr int digits = 256;  // of a pass; one thread each
  static constexpr int rounds = 8;    // of one key a thread: 2,048 keys a block
  static constexpr int64_t keys_of_block = int64_t(threads) * rounds;
};
struct segment_traits {
  static constexpr int threads = 128;
  static constexpr int64_t part = 64;  // sorted places that one block sums where they all have one id
};

/// Stops the kernel unless 0 <= number < limit.
TESSERA_DEVICE void expect_number(int32_t number, int64_t limit) {
  if (number < 0 || number >= limit) __trap();
}

// ---- forward ----

/// out [count, channels]: row numbers[i] of the table for each i. Rows are row_stride apart and number `limit`; i's
/// table begins at table + i * table_stride (0: one table for all; gather_tokens has one each). One thread a pack.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(gather_traits::threads)
    gather_rows_kernel(T* out, const T* table, const int32_t* numbers, int64_t count, int64_t channels, int64_t limit,
                       int64_t table_stride, int64_t row_stride) {
  const int64_t packs_of_row = channels / Count;
  const int64_t pack = int64_t(blockIdx.x) * gather_traits::threads + threadIdx.x;
  if (pack >= count * packs_of_row) return;
  const int64_t i = pack / packs_of_row, c = (pack - i * packs_of_row) * Count;
  const int32_t number = numbers[i];
  expect_number(number, limit);
  store_elements<Count>(out + i * channels + c,
                        load_elements<Count>(table + i * table_stride + number * row_stride + c));
}

/// d_x [items, count, channels] = d_y [items] at the chosen tokens, zero at all others. One thread a pack.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(gather_traits::threads)
    scatter_tokens_kernel(T* d_x, const T* d_y, const int32_t* index, int64_t items, int64_t count, int64_t channels,
                          int64_t d_y_row) {
  const int64_t packs_of_token = channels / Count;
  const int64_t pack = int64_t(blockIdx.x) * gather_traits::threads + threadIdx.x;
  if (pack >= items * count * packs_of_token) return;
  const int64_t token = pack / packs_of_token, c = (pack - token * packs_of_token) * Count;
  const int64_t item = token / count, n = token - item * count;
  const int32_t chosen = index[item];
  expect_number(chosen, count);
  Elements<T, Count> values;
  if (n == chosen) {
    values = load_elements<Count>(d_y + item * d_y_row + c);
  } else {
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) values[i] = narrow<T>(0.0f);
  }
  store_elements<Count>(d_x + token * channels + c, values);
}

// ---- the stable sort of positions by id ----

/// Ids with their positions, of which one pass of the sort reads one pair of arrays and writes another.
struct Keys {
  int32_t* ids;
  int32_t* positions;  // null in the first pass: position i is i
};

/// counts [digits, blocks]: how often each digit (8 bits from `shift` on) occurs in each block's keys.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(sort_traits::threads)
    count_digits_kernel(int32_t* counts, const int32_t* ids, int64_t n, int shift, int64_t limit) {
  TESSERA_SHARED(int32_t, count, sort_traits::digits);
  count[threadIdx.x] = 0;
  __syncthreads();
  const int64_t begin = int64_t(blockIdx.x) * sort_traits::keys_of_block;
  for (int round = 0; round < sort_traits::rounds; ++round) {
    const int64_t i = begin + int64_t(round) * sort_traits::threads + threadIdx.x;
    if (i >= n) break;
    expect_number(ids[i], limit);
    atomicAdd(&count[ids[i] >> shift & (sort_traits::digits - 1)], 1);  // integers: any order gives the same
  }
  __syncthreads();
  counts[int64_t(threadIdx.x) * gridDim.x + blockIdx.x] = count[threadIdx.x];
}

/// The sum of `value` over this thread and those before it in a block of `threads`. `scratch`: threads / 32.
template <int threads>
TESSERA_DEVICE int32_t block_inclusive_sum(int32_t value, int32_t* scratch TESSERA_CALLER) {
  const int lane = int(threadIdx.x) % warp_size, warp = int(threadIdx.x) / warp_size;
  TESSERA_UNROLL
  for (int distance = 1; distance < warp_size; distance *= 2) {
    const int32_t before = __shfl_up_sync(full_mask, value, unsigned(distance), warp_size TESSERA_PASS_CALLER);
    if (lane >= distance) value += before;
  }
  if (lane == warp_size - 1) scratch[warp] = value;
  __syncthreads(TESSERA_CALLED);
  for (int earlier = 0; earlier < warp; ++earlier) value += scratch[earlier];
  __syncthreads(TESSERA_CALLED);
  return value;
}

/// Replaces counts by the sums of all before them. One block.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(sort_traits::threads) scan_counts_kernel(int32_t* counts, int64_t size) {
  TESSERA_SHARED(int32_t, scratch, sort_traits::warps);
  TESSERA_SHARED(int32_t, total, 1);
  int32_t before = 0;
  for (int64_t begin = 0; begin < size; begin += sort_traits::threads) {
    const int64_t i = begin + threadIdx.x;
    const int32_t value = i < size ? counts[i] : 0;
    const int32_t sum = block_inclusive_sum<sort_traits::threads>(value, scratch);
    if (i < size) counts[i] = before + sum - value;
    if (threadIdx.x == sort_traits::threads - 1) total[0] = sum;
    __syncthreads();
    before += total[0];  // written anew behind the next sum's barriers
  }
}

/// Moves every key to its place: after all keys of smaller digits, of this digit in earlier blocks, and before it here.
/// `starts` is what scan_counts_kernel made.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(sort_traits::threads)
    place_keys_kernel(Keys to, Keys from, const int32_t* starts, int64_t n, int shift) {
  constexpr int digits = sort_traits::digits, warps = sort_traits::warps;
  TESSERA_SHARED(int32_t, next, digits);             // where this block's next key of a digit goes
  TESSERA_SHARED(int32_t, of_warp, warps * digits);  // keys of a digit in each warp, this round
  const int thread = int(threadIdx.x), lane = thread % warp_size, warp = thread / warp_size;
  next[thread] = starts[int64_t(thread) * gridDim.x + blockIdx.x];
  const int64_t begin = int64_t(blockIdx.x) * sort_traits::keys_of_block;
  for (int round = 0; round < sort_traits::rounds; ++round) {
    for (int w = 0; w < warps; ++w) of_warp[w * digits + thread] = 0;
    __syncthreads();
    const int64_t i = begin + int64_t(round) * sort_traits::threads + thread;
    const bool valid = i < n;
    const int32_t id = valid ? from.ids[i] : 0;
    const int digit = id >> shift & (digits - 1);
    // The lanes whose key has the same digit: one vote a bit.
    unsigned same = __ballot_sync(full_mask, valid);
    TESSERA_UNROLL
    for (int bit = 0; bit < 8; ++bit) {
      const unsigned set = __ballot_sync(full_mask, digit >> bit & 1);
      same &= digit >> bit & 1 ? set : ~set;
    }
    const int rank = __popc(same & ((1u << lane) - 1));
    if (valid && rank == 0) of_warp[warp * digits + digit] = __popc(same);
    __syncthreads();
    if (valid) {
      int32_t place = next[digit] + rank;
      for (int w = 0; w < warp; ++w) place += of_warp[w * digits + digit];
      to.ids[place] = id;
      to.positions[place] = from.positions ? from.positions[i] : int32_t(i);
    }
    __syncthreads();
    int32_t placed = 0;
    for (int w = 0; w < warps; ++w) placed += of_warp[w * digits + thread];
    next[thread] += placed;  // read by others behind the next round's first barrier
  }
}

/// starts [limit + 1]: how many sorted ids are below each number.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(gather_traits::threads)
    segment_starts_kernel(int32_t* starts, const int32_t* ids, int64_t n, int64_t limit) {
  const int64_t number = int64_t(blockIdx.x) * gather_traits::threads + threadIdx.x;
  if (number > limit) return;
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (ids[middle] < number)
      low = middle + 1;
    else
      high = middle;
  }
  starts[number] = int32_t(low);
}

// ---- sums of segments ----

/// sum += rows of d_out at the positions of sorted places [begin, end), columns [c, c + Count).
template <int Count, class T>
TESSERA_DEVICE void add_places(float (&sum)[Count], const T* d_out, const int32_t* positions, int64_t begin,
                               int64_t end, int64_t channels, int64_t c) {
  for (int64_t k = begin; k < end; ++k) {
    const auto elements = load_elements<Count>(d_out + int64_t(positions[k]) * channels + c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) sum[i] += widen(elements[i]);
  }
}

/// sums [parts, channels]: of each 64 sorted places that have one id. Others are left alone. A block a part.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(segment_traits::threads)
    segment_parts_kernel(float* sums, const T* d_out, Keys sorted, int64_t channels) {
  const int64_t begin = int64_t(blockIdx.x) * segment_traits::part, end = begin + segment_traits::part;
  if (sorted.ids[begin] != sorted.ids[end - 1]) return;
  for (int64_t c = int64_t(threadIdx.x) * Count; c < channels; c += segment_traits::threads * Count) {
    float sum[Count] = {};
    add_places<Count>(sum, d_out, sorted.positions, begin, end, channels, c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) sums[blockIdx.x * channels + c + i] = sum[i];
  }
}

/// d_table [limit, channels]: a block a row of the table; zero where its id does not occur.
template <class G, class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(segment_traits::threads)
    segment_sums_kernel(G* d_table, const T* d_out, const int32_t* positions, const int32_t* starts, const float* sums,
                        int64_t channels) {
  constexpr int64_t part = segment_traits::part;
  const int64_t row = blockIdx.x, begin = starts[row], end = starts[row + 1];
  // Whole parts between the places before the first border and those after the last one.
  const int64_t first = min(end, round_up(begin, part)), last = max(first, end / part * part);
  for (int64_t c = int64_t(threadIdx.x) * Count; c < channels; c += segment_traits::threads * Count) {
    float sum[Count] = {};
    add_places<Count>(sum, d_out, positions, begin, first, channels, c);
    for (int64_t p = first / part; p < last / part; ++p) {
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) sum[i] += sums[p * channels + c + i];
    }
    add_places<Count>(sum, d_out, positions, last, end, channels, c);
    Elements<G, Count> result;
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) result[i] = narrow<G>(sum[i]);
    store_elements<Count>(d_table + row * channels + c, result);
  }
}

/// Host: rows of x that a thread may take in packs.
template <class T>
bool rows_fit(int64_t channels, std::initializer_list<int64_t> strides, std::initializer_list<const void*> addresses) {
  for (const int64_t stride : strides)
    if (stride % Pack<T>::count != 0) return false;
  return fits_packs<T>(channels, addresses);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::embedding, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;

  template <class T>
  static void forward(Context<Device>& ctx, T* out, In<T, 2, Device> table, In<int32_t, 1, Device> ids) {
    using Traits = kernels::gather_traits;
    const int64_t channels = table.shape[1], size = ids.size() * channels;
    if (size == 0) return;
    const auto start = [&](auto* kernel, int64_t packs) {
      kernels::launch("embedding_forward", kernel, kernels::blocks_for(packs, Traits::threads),
                      unsigned(Traits::threads), 0, ctx, out, table.data, ids.data, ids.size(), channels,
                      table.shape[0], 0, channels);
    };
    constexpr int most = kernels::Pack<T>::count;
    if (kernels::fits_packs<T>(channels, {out, table.data}))
      start(kernels::gather_rows_kernel<T, most>, size / most);
    else
      start(kernels::gather_rows_kernel<T, 1>, size);
  }

  template <class G, class T>
  static void backward(Context<Device>& ctx, TensorView<G, 2, Device> d_table, const T* d_out,
                       In<int32_t, 1, Device> ids) {
    using Value = std::remove_const_t<T>;
    using Traits = kernels::segment_traits;
    const int64_t limit = d_table.shape[0], channels = d_table.shape[1], n = ids.size();
    if (d_table.size() == 0) return;
    require<ShapeError>(n < int64_t(1) << 31, "embedding: ", n, " ids; the gradient takes less than 2^31 at once");
    Tensor<int32_t, 2, Device> sorted(ctx, {2, n}), spare(ctx, {2, n});
    const kernels::Keys keys = sort(ctx, sorted, spare, ids, limit);
    Tensor<int32_t, 1, Device> starts(ctx, {limit + 1});
    kernels::launch("embedding_segments", kernels::segment_starts_kernel,
                    kernels::blocks_for(limit + 1, kernels::gather_traits::threads),
                    unsigned(kernels::gather_traits::threads), 0, ctx, starts.data, keys.ids, n, limit);
    const int64_t parts = n / Traits::part;
    Tensor<float, 2, Device> sums(ctx, {parts, channels});
    const auto sum = [&](auto* parts_kernel, auto* sums_kernel) {
      if (parts > 0)
        kernels::launch("embedding_parts", parts_kernel, kernels::blocks_for(parts, 1), unsigned(Traits::threads), 0,
                        ctx, sums.data, d_out, keys, channels);
      kernels::launch("embedding_backward", sums_kernel, kernels::blocks_for(limit, 1), unsigned(Traits::threads), 0,
                      ctx, d_table.data, d_out, keys.positions, starts.data, sums.data, channels);
    };
    constexpr int most = 4;  // columns of a thread: with 128 threads, 512 channels at once
    if (channels % most == 0 && aligned(d_out, most) && aligned(d_table.data, most))
      sum(kernels::segment_parts_kernel<Value, most>, kernels::segment_sums_kernel<G, Value, most>);
    else
      sum(kernels::segment_parts_kernel<Value, 1>, kernels::segment_sums_kernel<G, Value, 1>);
  }

 private:
  template <class T>
  static bool aligned(const T* data, int count) {
    return reinterpret_cast<uintptr_t>(data) % (sizeof(T) * size_t(count)) == 0;
  }

  /// Ids sorted, with their positions, in one of the two buffers [2, n].
  static kernels::Keys sort(Context<Device>& ctx, const Tensor<int32_t, 2, Device>& sorted,
                            const Tensor<int32_t, 2, Device>& spare, In<int32_t, 1, Device> ids, int64_t limit) {
    using Traits = kernels::sort_traits;
    const int64_t n = ids.size();
    const unsigned blocks = kernels::blocks_for(n, Traits::keys_of_block), threads = Traits::threads;
    kernels::Keys from{const_cast<int32_t*>(ids.data), nullptr}, to{sorted.data, sorted.data + n},
        other{spare.data, spare.data + n};
    if (n == 0) return to;
    Tensor<int32_t, 1, Device> counts(ctx, {int64_t(Traits::digits) * blocks});
    for (int shift = 0; shift == 0 || (limit - 1) >> shift > 0; shift += 8) {
      kernels::launch("embedding_count", kernels::count_digits_kernel, blocks, threads, 0, ctx, counts.data, from.ids,
                      n, shift, limit);
      kernels::launch("embedding_scan", kernels::scan_counts_kernel, 1u, threads, 0, ctx, counts.data, counts.size());
      kernels::launch("embedding_place", kernels::place_keys_kernel, blocks, threads, 0, ctx, to, from, counts.data, n,
                      shift);
      from = to;
      std::swap(to, other);
    }
    return from;
  }
};

template <>
struct Backend<op::gather_tokens, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::gather_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 2, Device> y, In<T, 3, Device> x, In<int32_t, 1, Device> index) {
    const int64_t channels = x.shape[2];
    if (y.size() == 0) return;
    const auto start = [&](auto* kernel, int64_t packs) {
      kernels::launch("gather_tokens_forward", kernel, kernels::blocks_for(packs, Traits::threads),
                      unsigned(Traits::threads), 0, ctx, y.data, x.data, index.data, y.shape[0], channels, x.shape[1],
                      x.strides[0], x.strides[1]);
    };
    constexpr int most = kernels::Pack<T>::count;
    if (kernels::rows_fit<T>(channels, {x.strides[0], x.strides[1]}, {y.data, x.data}))
      start(kernels::gather_rows_kernel<T, most>, y.size() / most);
    else
      start(kernels::gather_rows_kernel<T, 1>, y.size());
  }
  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 3, Device> d_x, In<T, 2, Device> d_y,
                       In<int32_t, 1, Device> index) {
    const auto [items, count, channels] = d_x.shape;
    if (d_x.size() == 0) return;
    const auto start = [&, items = items, count = count, channels = channels](auto* kernel, int64_t packs) {
      kernels::launch("gather_tokens_backward", kernel, kernels::blocks_for(packs, Traits::threads),
                      unsigned(Traits::threads), 0, ctx, d_x.data, d_y.data, index.data, items, count, channels,
                      d_y.strides[0]);
    };
    constexpr int most = kernels::Pack<T>::count;
    if (kernels::rows_fit<T>(channels, {d_y.strides[0]}, {d_x.data, d_y.data}))
      start(kernels::scatter_tokens_kernel<T, most>, d_x.size() / most);
    else
      start(kernels::scatter_tokens_kernel<T, 1>, d_x.size());
  }
};

}  // namespace tessera
