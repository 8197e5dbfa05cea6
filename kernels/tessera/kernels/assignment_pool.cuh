// Pooling by assignment on kernels' devices. There are few groups (8 to 64) and many channels, so the values decide the
// time: each pass reads them from memory once. Products of matrices this thin leave tensor cores idle; each thread
// keeps a block of 8 groups, or 4 tokens, by one pack of channels in registers.
#pragma once
#include <algorithm>

#include <tessera/device/launch.cuh>
#include <tessera/kernels/sums.cuh>
#include <tessera/ops/assignment_pool.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct pool_traits {
  static constexpr int threads = 256;
  static constexpr int warps = threads / warp_size;
  static constexpr int groups = 8;  // of a warp
  static constexpr int tokens = 4;  // of a warp in the backward pass
  static constexpr int most_shared_tiles = 4;
  static constexpr int64_t tokens_of_way = 16;   // of a part in the forward pass, at least
  static constexpr int64_t enough_blocks = 528;  // as in sums.cuh: a constant, so that the order is the same everywhere
};

struct PoolShape {
  int64_t tokens, groups, channels;
};

/// How the forward pass is cut: a block takes 32 packs of channels, and of a part of the tokens some tiles of 8 groups
/// (a power of two); warps of one tile share the part's tokens.
struct PoolLayout {
  int64_t column_blocks, group_blocks, parts, tokens_of_part;
  int log_tiles;

  PoolLayout(int64_t items, const PoolShape& shape, int count) {
    column_blocks = ceil_div(shape.channels, int64_t(warp_size) * count);
    const int64_t octets = ceil_div(shape.groups, pool_traits::groups);
    log_tiles = 0;
    while ((1 << log_tiles) < pool_traits::warps && (int64_t(1) << log_tiles) < octets) ++log_tiles;
    group_blocks = ceil_div(octets, int64_t(1) << log_tiles);
    const int64_t ways = pool_traits::warps >> log_tiles, blocks = items * column_blocks * group_blocks;
    const int64_t useful = ceil_div(shape.tokens, ways * pool_traits::tokens_of_way);
    const int64_t wanted =
        std::max<int64_t>(1, std::min(useful, ceil_div(pool_traits::enough_blocks, std::max<int64_t>(1, blocks))));
    tokens_of_part = ceil_div(shape.tokens, wanted);
    parts = ceil_div(shape.tokens, tokens_of_part);
  }
};

/// Eight assignments of one token, zero beyond the last group. `packed`: rows are whole octets, aligned.
template <class T>
TESSERA_DEVICE void load_octet(float (&to)[pool_traits::groups], const T* row, int64_t left, bool packed) {
  if (packed) {
    const auto elements = load_elements<pool_traits::groups>(row);
    TESSERA_UNROLL
    for (int i = 0; i < pool_traits::groups; ++i) to[i] = widen(elements[i]);
  } else {
    TESSERA_UNROLL
    for (int i = 0; i < pool_traits::groups; ++i) to[i] = i < left ? widen(row[i]) : 0.0f;
  }
}

/// sums [B, parts, G, D]: of a part's tokens, assignment times value.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(pool_traits::threads)
    pool_sums_kernel(float* sums, const T* value, const T* assignment, PoolShape shape, PoolLayout layout,
                     bool packed) {
  constexpr int groups = pool_traits::groups, held = groups * Count;
  TESSERA_SHARED(float, of_way, pool_traits::most_shared_tiles* held* warp_size);
  const int warp = int(threadIdx.x) / warp_size, lane = int(threadIdx.x) % warp_size;
  const int tiles = 1 << layout.log_tiles, ways = pool_traits::warps >> layout.log_tiles;
  const int tile = warp & (tiles - 1), way = warp >> layout.log_tiles;
  int64_t number = blockIdx.x;
  const int64_t column_block = number % layout.column_blocks;
  number /= layout.column_blocks;
  const int64_t group_block = number % layout.group_blocks;
  number /= layout.group_blocks;  // item * parts + part
  const int64_t item = number / layout.parts, part = number - item * layout.parts;
  const int64_t c = (column_block * warp_size + lane) * Count, g = (group_block * tiles + tile) * groups;
  const bool inside = c < shape.channels && g < shape.groups;

  float sum[groups][Count] = {};
  if (inside) {
    const int64_t end = min((part + 1) * layout.tokens_of_part, shape.tokens);
    for (int64_t n = part * layout.tokens_of_part + way; n < end; n += ways) {
      const int64_t token = item * shape.tokens + n;
      float weight[groups];
      load_octet(weight, assignment + token * shape.groups + g, shape.groups - g, packed);
      const auto v = load_elements<Count>(value + token * shape.channels + c);
      TESSERA_UNROLL
      for (int j = 0; j < Count; ++j) {
        const float wide = widen(v[j]);
        TESSERA_UNROLL
        for (int i = 0; i < groups; ++i) sum[i][j] += weight[i] * wide;
      }
    }
  }
  // The ways' sums are added to the first's, one after the other. (With one way there are more tiles than places.)
  for (int other = 1; other < ways; ++other) {
    float* mine = of_way + tile * held * warp_size + lane;
    if (way == other) {
      TESSERA_UNROLL
      for (int k = 0; k < held; ++k) mine[k * warp_size] = sum[k / Count][k % Count];
    }
    __syncthreads();
    if (way == 0) {
      TESSERA_UNROLL
      for (int k = 0; k < held; ++k) sum[k / Count][k % Count] += mine[k * warp_size];
    }
    __syncthreads();
  }
  if (!inside || way != 0) return;
  TESSERA_UNROLL
  for (int i = 0; i < groups; ++i) {
    if (g + i >= shape.groups) break;
    Elements<float, Count> out;
    TESSERA_UNROLL
    for (int j = 0; j < Count; ++j) out[j] = sum[i][j];
    store_elements<Count>(sums + (number * shape.groups + g + i) * shape.channels + c, out);
  }
}

/// A warp's place in the backward pass: an item, four tokens of it, and what else it is cut along.
struct PoolPlace {
  int64_t item, first_token, rest;
  TESSERA_DEVICE PoolPlace(int64_t tokens, int64_t cuts) {
    const int64_t number = int64_t(blockIdx.x) * pool_traits::warps + threadIdx.x / warp_size;
    rest = number % cuts;
    const int64_t quads = ceil_div(tokens, pool_traits::tokens), quad = number / cuts;
    item = quad / quads;
    first_token = (quad - item * quads) * pool_traits::tokens;
  }
};

/// d_value [B, N, D] = assignment times d_pooled / divisor; inverse [B, G] is 1 / divisor. A warp takes 4 tokens by 32
/// packs of channels.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(pool_traits::threads)
    pool_d_value_kernel(T* d_value, const T* d_pooled, const T* assignment, const float* inverse, int64_t items,
                        PoolShape shape, int64_t column_blocks, bool packed) {
  constexpr int groups = pool_traits::groups, tokens = pool_traits::tokens;
  const PoolPlace place(shape.tokens, column_blocks);
  const int64_t c = (place.rest * warp_size + threadIdx.x % warp_size) * Count;
  if (place.item >= items || c >= shape.channels) return;
  const int64_t first = place.item * shape.tokens + place.first_token;
  const int64_t count = min(int64_t(tokens), shape.tokens - place.first_token);
  float sum[tokens][Count] = {};
  for (int64_t g = 0; g < shape.groups; g += groups) {
    float weight[tokens][groups] = {};
    TESSERA_UNROLL
    for (int t = 0; t < tokens; ++t)
      if (t < count) load_octet(weight[t], assignment + (first + t) * shape.groups + g, shape.groups - g, packed);
    TESSERA_UNROLL
    for (int i = 0; i < groups; ++i) {
      if (g + i >= shape.groups) break;
      const int64_t row = place.item * shape.groups + g + i;
      const auto d = load_elements<Count>(d_pooled + row * shape.channels + c);
      const float scale = inverse[row];
      TESSERA_UNROLL
      for (int j = 0; j < Count; ++j) {
        const float of_sum = widen(d[j]) * scale;
        TESSERA_UNROLL
        for (int t = 0; t < tokens; ++t) sum[t][j] += weight[t][i] * of_sum;
      }
    }
  }
  TESSERA_UNROLL
  for (int t = 0; t < tokens; ++t) {
    if (t >= count) break;
    Elements<T, Count> out;
    TESSERA_UNROLL
    for (int j = 0; j < Count; ++j) out[j] = narrow<T>(sum[t][j]);
    store_elements<Count>(d_value + (first + t) * shape.channels + c, out);
  }
}

/// sum[0] of each lane becomes the warp's total of sum[lane]. Each step halves the sums of a lane: the other half goes
/// to the lane that keeps it.
template <int half>
TESSERA_DEVICE void scatter_sums(float (&sum)[warp_size], int lane) {
  const bool upper = (lane & half) != 0;
  TESSERA_UNROLL
  for (int k = 0; k < half; ++k) {
    const float given = upper ? sum[k] : sum[k + half], kept = upper ? sum[k + half] : sum[k];
    sum[k] = kept + __shfl_xor_sync(full_mask, given, half);
  }
  if constexpr (half > 1) scatter_sums<half / 2>(sum, lane);
}

/// products [B, N, G]: value times d_pooled / divisor, summed over the channels. A warp takes 4 tokens by 8 groups: 32
/// sums, of which each lane ends with one.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(pool_traits::threads)
    pool_products_kernel(float* products, const T* value, const T* d_pooled, const float* inverse, int64_t items,
                         PoolShape shape, int64_t octets) {
  constexpr int groups = pool_traits::groups, tokens = pool_traits::tokens;
  static_assert(tokens * groups == warp_size);
  const PoolPlace place(shape.tokens, octets);
  if (place.item >= items) return;  // the whole warp
  const int lane = int(threadIdx.x) % warp_size;
  const int64_t first = place.item * shape.tokens + place.first_token, g = place.rest * groups;
  const int64_t count = min(int64_t(tokens), shape.tokens - place.first_token);
  const T* rows = d_pooled + (place.item * shape.groups + g) * shape.channels;
  float sum[warp_size] = {};
  for (int64_t c = int64_t(lane) * Count; c < shape.channels; c += int64_t(warp_size) * Count) {
    float v[tokens][Count] = {};
    TESSERA_UNROLL
    for (int t = 0; t < tokens; ++t) {
      if (t >= count) break;
      const auto elements = load_elements<Count>(value + (first + t) * shape.channels + c);
      TESSERA_UNROLL
      for (int j = 0; j < Count; ++j) v[t][j] = widen(elements[j]);
    }
    TESSERA_UNROLL
    for (int i = 0; i < groups; ++i) {
      if (g + i >= shape.groups) break;
      const auto d = load_elements<Count>(rows + i * shape.channels + c);
      TESSERA_UNROLL
      for (int j = 0; j < Count; ++j) {
        TESSERA_UNROLL
        for (int t = 0; t < tokens; ++t) sum[t * groups + i] += v[t][j] * widen(d[j]);
      }
    }
  }
  scatter_sums<warp_size / 2>(sum, lane);
  const int t = lane / groups, i = lane % groups;
  if (t < count && g + i < shape.groups)
    products[(first + t) * shape.groups + g + i] = sum[0] * inverse[place.item * shape.groups + g + i];
}

/// Functions for elementwise(), of a group's mass: sum / divisor, 1 / divisor, and the gradient of an assignment, which
/// reaches the group's sum and, where it depends on the mass, its divisor.
template <class T>
struct DivideByMass {
  PoolDivisor divisor;
  float epsilon;
  TESSERA_DEVICE T operator()(float sum, float mass) const {
    return narrow<T>(sum / detail::pool_divisor(mass, divisor, epsilon));
  }
};
struct InverseOfMass {
  PoolDivisor divisor;
  float epsilon;
  TESSERA_DEVICE float operator()(float mass) const { return 1.0f / detail::pool_divisor(mass, divisor, epsilon); }
};
/// What the divisor of a group adds to the gradient of each of its assignments.
struct PathGradient {
  PoolDivisor divisor;
  float epsilon;
  TESSERA_DEVICE float operator()(float path, float mass) const {
    return path * detail::pool_divisor_derivative(mass, divisor) / detail::pool_divisor(mass, divisor, epsilon);
  }
};
template <class T>
struct AssignmentGradient {
  TESSERA_DEVICE T operator()(float product, float path) const { return narrow<T>(product - path); }
};

/// Numbers for sum_axis(): assignment times product.
template <class T>
struct PoolPath {
  const T* assignment;
  const float* products;
  template <int Count>
  TESSERA_DEVICE void read(float (&values)[Count], int64_t at) const {
    const auto a = load_elements<Count>(assignment + at);
    const auto q = load_elements<Count>(products + at);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) values[i] = widen(a[i]) * q[i];
  }
  template <int Count>
  bool fits() const {
    return reinterpret_cast<uintptr_t>(assignment) % uintptr_t(pack_alignment<T, Count>) == 0 &&
           reinterpret_cast<uintptr_t>(products) % uintptr_t(pack_alignment<float, Count>) == 0;
  }
  static constexpr int pack = int(16 / sizeof(T));
};

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::assignment_pool, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::pool_traits;
  using PoolShape = kernels::PoolShape;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 3, Device> pooled, Out<float, 2, Device> mass,
                      In<T, 3, Device> value, In<T, 3, Device> assignment, const AssignmentPoolOptions& options) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    constexpr auto name = "assignment_pool_forward";
    const auto [items, groups, channels] = pooled.shape;
    if (items == 0) return;
    const PoolShape shape{value.shape[1], groups, channels};
    Tensor<float, 2, Device> own_mass;
    if (!mass) mass = own_mass = Tensor<float, 2, Device>(ctx, {items, groups});
    kernels::sum_over_axis(name, ctx, mass.data, assignment.data, items, shape.tokens, groups);

    const auto pool = [&, items = items, groups = groups, channels = channels](auto count) {
      const kernels::PoolLayout layout(items, shape, count.value);
      Tensor<float, 3, Device> parts(ctx, {items, layout.parts, groups * channels}), sums = parts;
      kernels::launch(name, kernels::pool_sums_kernel<T, count.value>,
                      kernels::blocks_for(items * layout.parts * layout.group_blocks * layout.column_blocks, 1),
                      unsigned(Traits::threads), 0, ctx, parts.data, value.data, assignment.data, shape, layout,
                      octets_fit<T>(assignment));
      if (layout.parts > 1) {
        sums = Tensor<float, 3, Device>(ctx, {items, 1, groups * channels});
        kernels::sum_over_axis(name, ctx, sums.data, static_cast<const float*>(parts.data), items, layout.parts,
                               groups * channels);
      }
      const Shape<2> rows{items * groups, channels}, contiguous{channels, 1}, one_a_row{1, 0};
      kernels::elementwise(name, ctx, kernels::DivideByMass<T>{options.divisor, float(options.epsilon)},
                           {rows, {contiguous, contiguous, one_a_row}}, pooled.data,
                           static_cast<const float*>(sums.data), static_cast<const float*>(mass.data));
    };
    with_packs<T>(channels, {value.data}, pool);
  }

  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 3, Device> d_value, Out<T, 3, Device> d_assignment,
                       In<T, 3, Device> d_pooled, In<float, 2, Device> mass, In<T, 3, Device> value,
                       In<T, 3, Device> assignment, const AssignmentPoolOptions& options) {
    constexpr auto name = "assignment_pool_backward";
    const auto [items, groups, channels] = d_pooled.shape;
    if (items == 0) return;
    const PoolShape shape{value.shape[1], groups, channels};
    const float epsilon = float(options.epsilon);
    const int64_t quads = items * kernels::ceil_div(shape.tokens, Traits::tokens);
    Tensor<float, 2, Device> inverse(ctx, mass.shape);
    const Shape<1> all{mass.size()}, step{1};
    kernels::elementwise(name, ctx, kernels::InverseOfMass{options.divisor, epsilon}, {all, {step, step}}, inverse.data,
                         mass.data);
    if (d_value)
      with_packs<T>(channels, {d_value.data, d_pooled.data}, [&, items = items, channels = channels](auto count) {
        const int64_t column_blocks = kernels::ceil_div(channels, int64_t(kernels::warp_size) * count.value);
        kernels::launch(name, kernels::pool_d_value_kernel<T, count.value>,
                        kernels::blocks_for(quads * column_blocks, Traits::warps), unsigned(Traits::threads), 0, ctx,
                        d_value.data, d_pooled.data, assignment.data, inverse.data, items, shape, column_blocks,
                        octets_fit<T>(assignment));
      });
    if (!d_assignment) return;
    Tensor<float, 3, Device> products(ctx, assignment.shape);
    with_packs<T>(channels, {value.data, d_pooled.data}, [&, items = items, groups = groups](auto count) {
      const int64_t octets = kernels::ceil_div(groups, Traits::groups);
      kernels::launch(name, kernels::pool_products_kernel<T, count.value>,
                      kernels::blocks_for(quads * octets, Traits::warps), unsigned(Traits::threads), 0, ctx,
                      products.data, value.data, d_pooled.data, inverse.data, items, shape, octets);
    });
    Tensor<float, 2, Device> path(ctx, mass.shape);
    const int64_t of_item = shape.tokens * groups;
    kernels::sum_axis(name, ctx, path.data, kernels::PoolPath<T>{assignment.data, products.data},
                      {items, shape.tokens, groups, of_item, groups, 1});
    kernels::elementwise(name, ctx, kernels::PathGradient{options.divisor, epsilon}, {all, {step, step, step}},
                         path.data, static_cast<const float*>(path.data), mass.data);
    const Shape<3> contiguous{of_item, groups, 1}, of_group{groups, 0, 1};
    kernels::elementwise(name, ctx, kernels::AssignmentGradient<T>{},
                         {assignment.shape, {contiguous, contiguous, of_group}}, d_assignment.data,
                         static_cast<const float*>(products.data), static_cast<const float*>(path.data));
  }

 private:
  /// Whether a token's assignments are whole octets, aligned.
  template <class T>
  static bool octets_fit(In<T, 3, Device> assignment) {
    return assignment.shape[2] % Traits::groups == 0 && kernels::fits_packs<T>(Traits::groups, {assignment.data});
  }
  /// Calls start with the width of packs of channels as a constant.
  template <class T, class Start>
  static void with_packs(int64_t channels, std::initializer_list<const void*> addresses, Start&& start) {
    if (kernels::fits_packs<T>(channels, addresses))
      start(std::integral_constant<int, kernels::Pack<T>::count>{});
    else
      start(std::integral_constant<int, 1>{});
  }
};

}  // namespace tessera
