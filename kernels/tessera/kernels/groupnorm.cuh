// Group normalisation on kernels' devices. A group (some channels of one item, one behind the other) is cut into parts
// that a block holds in registers: the forward pass takes each part's mean and squares about it, then, in a second
// kernel, puts them together and normalises. The backward pass sums over planes (one channel of one item) first; all
// three gradients are made of these sums. Every order depends on the shape alone: the same bits on every run.
#pragma once
#include <tessera/device/launch.cuh>
#include <tessera/kernels/row_groups.cuh>
#include <tessera/kernels/sums.cuh>
#include <tessera/ops/groupnorm.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct groupnorm_traits {
  static constexpr int threads = 256;
  static constexpr int packs_of_thread = 8;        // of a part
  static constexpr int64_t plane_of_block = 1024;  // a plane of more positions is summed by a block, else by a warp
};

/// Sizes of a launch over parts of groups. A block's part begins at element `part * length_of_part` of its group.
struct GroupParts {
  int64_t groups;    // of an item
  int64_t channels;  // of a group
  int64_t positions;
  int64_t parts;  // of a group

  TESSERA_HOST_DEVICE int64_t length() const { return channels * positions; }
};

/// One thread's packs of a part: visit(number, offset in the group, channel in the group) for each. The channel moves
/// on by a quotient and a remainder that are computed once, not by a division a pack.
template <int Count, class F>
TESSERA_DEVICE void for_each_pack_of_part(const GroupParts& sizes, int64_t part, F&& visit) {
  constexpr int64_t step = int64_t(groupnorm_traits::threads) * Count;
  const int64_t begin = part * step * groupnorm_traits::packs_of_thread + int64_t(threadIdx.x) * Count;
  const int64_t channels_of_step = step / sizes.positions,
                positions_of_step = step - channels_of_step * sizes.positions;
  int64_t channel = begin / sizes.positions, position = begin - channel * sizes.positions;
  TESSERA_UNROLL
  for (int number = 0; number < groupnorm_traits::packs_of_thread; ++number) {
    const int64_t at = begin + number * step;
    if (at < sizes.length()) visit(number, at, channel);
    channel += channels_of_step;
    position += positions_of_step;
    if (position >= sizes.positions) {
      position -= sizes.positions;
      ++channel;
    }
  }
}

/// Elements of part number `part`.
template <int Count>
TESSERA_DEVICE float part_size(const GroupParts& sizes, int64_t part) {
  constexpr int64_t most = int64_t(groupnorm_traits::threads) * Count * groupnorm_traits::packs_of_thread;
  return float(min(most, sizes.length() - part * most));
}

// ---- forward ----

/// statistics [B * groups, parts, 2]: each part's mean, and the sum of its squares about that mean. One block a part.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(groupnorm_traits::threads)
    groupnorm_statistics_kernel(float* statistics, const T* x, GroupParts sizes) {
  TESSERA_SHARED(float, scratch, groupnorm_traits::threads / warp_size);
  const int64_t group = blockIdx.x / sizes.parts, part = blockIdx.x - group * sizes.parts;
  const T* from = x + group * sizes.length();
  Pack<T, Count> held[groupnorm_traits::packs_of_thread] = {};

  float sum = 0;
  for_each_pack_of_part<Count>(sizes, part, [&](int number, int64_t at, int64_t) {
    held[number] = load_pack<T, Count>(from + at);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) sum += widen(held[number][i]);
  });
  const float m = block_sum<groupnorm_traits::threads>(sum, scratch) / part_size<Count>(sizes, part);

  float squares = 0;  // about the mean: E[x^2] - m^2 would cancel
  for_each_pack_of_part<Count>(sizes, part, [&](int number, int64_t, int64_t) {
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) squares += (widen(held[number][i]) - m) * (widen(held[number][i]) - m);
  });
  squares = block_sum<groupnorm_traits::threads>(squares, scratch);
  if (threadIdx.x == 0) {
    statistics[2 * int64_t(blockIdx.x)] = m;
    statistics[2 * int64_t(blockIdx.x) + 1] = squares;
  }
}

/// y [B, C, positions]; mean and rstd [B * groups] may be null. Every block puts its group's parts together anew (Chan,
/// Golub & LeVeque, 1979): a few numbers, in one order.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(groupnorm_traits::threads)
    groupnorm_forward_kernel(T* y, float* mean, float* rstd, const float* statistics, const T* x, const float* weight,
                             const float* bias, GroupParts sizes, float epsilon) {
  constexpr int threads = groupnorm_traits::threads;
  TESSERA_SHARED(float, scratch, threads / warp_size);
  const int64_t group = blockIdx.x / sizes.parts, part = blockIdx.x - group * sizes.parts;
  const float* of_parts = statistics + 2 * group * sizes.parts;
  float sum = 0, squares = 0;
  for (int64_t p = threadIdx.x; p < sizes.parts; p += threads) sum += part_size<Count>(sizes, p) * of_parts[2 * p];
  const float length = float(sizes.length()), m = block_sum<threads>(sum, scratch) / length;
  for (int64_t p = threadIdx.x; p < sizes.parts; p += threads) {
    const float apart = of_parts[2 * p] - m;
    squares += of_parts[2 * p + 1] + part_size<Count>(sizes, p) * apart * apart;
  }
  const float scale = 1.0f / sqrtf(block_sum<threads>(squares, scratch) / length + epsilon);

  const int64_t first_channel = group % sizes.groups * sizes.channels;
  const T* from = x + group * sizes.length();
  T* to = y + group * sizes.length();
  for_each_pack_of_part<Count>(sizes, part, [&](int, int64_t at, int64_t channel) {
    const float gain = weight[first_channel + channel], shift = bias[first_channel + channel];
    float values[Count];
    load_wide<T>(values, from + at);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) values[i] = (values[i] - m) * scale * gain + shift;
    store_narrow(to + at, values);
  });
  if (part == 0 && threadIdx.x == 0) {
    if (mean) mean[group] = m;
    if (rstd) rstd[group] = scale;
  }
}

// ---- backward ----

/// sums and dots [B, C]: of each plane's d_y, and of d_y times the normalised x. A warp or a block takes a plane.
template <class T, int Count, int group>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(groupnorm_traits::threads)
    groupnorm_plane_sums_kernel(float* sums, float* dots, const T* d_y, const float* mean, const float* rstd,
                                const T* x, int64_t planes, GroupParts sizes) {
  using Group = RowGroup<groupnorm_traits::threads, group>;
  TESSERA_SHARED(float, scratch, groupnorm_traits::threads / warp_size);
  const int64_t plane = Group::first_row();
  if (plane >= planes) return;  // the whole warp, or the whole block
  const int64_t of_group = plane / sizes.channels;
  const float m = mean[of_group], scale = rstd[of_group];
  float sum = 0, dot = 0;
  Group::template for_each_pack<Count>(sizes.positions, [&](int64_t i) {
    float d[Count], value[Count];
    load_wide<T>(d, d_y + plane * sizes.positions + i);
    load_wide<T>(value, x + plane * sizes.positions + i);
    TESSERA_UNROLL
    for (int k = 0; k < Count; ++k) {
      sum += d[k];
      dot += d[k] * (value[k] - m);
    }
  });
  sum = Group::sum(sum, scratch);
  dot = Group::sum(dot, scratch);
  if (Group::lane() != 0) return;
  sums[plane] = sum;
  dots[plane] = dot * scale;
}

/// d_x [B, C, positions]; may be d_y itself, since a thread writes only what it alone has read, after reading it.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(groupnorm_traits::threads)
    groupnorm_input_gradient_kernel(T* d_x, const T* d_y, const float* mean, const float* rstd, const T* x,
                                    const float* weight, const float* sums, const float* dots, GroupParts sizes) {
  constexpr int threads = groupnorm_traits::threads;
  TESSERA_SHARED(float, scratch, threads / warp_size);
  const int64_t group = blockIdx.x / sizes.parts, part = blockIdx.x - group * sizes.parts;
  const int64_t first_plane = group * sizes.channels, first_channel = group % sizes.groups * sizes.channels;
  float sum = 0, dot = 0;  // of h = d_y * weight over the group
  for (int64_t c = threadIdx.x; c < sizes.channels; c += threads) {
    const float gain = weight[first_channel + c];
    sum += gain * sums[first_plane + c];
    dot += gain * dots[first_plane + c];
  }
  const float length = float(sizes.length());
  const float mean_h = block_sum<threads>(sum, scratch) / length, mean_dot = block_sum<threads>(dot, scratch) / length;
  const float m = mean[group], scale = rstd[group];
  const int64_t begin = group * sizes.length();
  for_each_pack_of_part<Count>(sizes, part, [&](int, int64_t at, int64_t channel) {
    const float gain = weight[first_channel + channel];
    float d[Count], value[Count];
    load_wide<T>(d, d_y + begin + at);
    load_wide<T>(value, x + begin + at);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) d[i] = scale * (d[i] * gain - mean_h - (value[i] - m) * scale * mean_dot);
    store_narrow(d_x + begin + at, d);
  });
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::groupnorm, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::groupnorm_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 3, Device> y, Out<float, 2, Device> mean, Out<float, 2, Device> rstd,
                      In<T, 3, Device> x, In<float, 1, Device> weight, In<float, 1, Device> bias,
                      GroupnormOptions options) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    const auto start = [&]<int Count>(std::integral_constant<int, Count>) {
      const kernels::GroupParts sizes = parts_of<Count>(x.shape, options.groups);
      const unsigned blocks = kernels::blocks_for(x.shape[0] * options.groups * sizes.parts, 1);
      Tensor<float, 3, Device> statistics(ctx, {x.shape[0] * options.groups, sizes.parts, 2});
      kernels::launch("groupnorm_statistics", kernels::groupnorm_statistics_kernel<T, Count>, blocks,
                      unsigned(Traits::threads), 0, ctx, statistics.data, x.data, sizes);
      kernels::launch("groupnorm_forward", kernels::groupnorm_forward_kernel<T, Count>, blocks,
                      unsigned(Traits::threads), 0, ctx, y.data, mean.data, rstd.data, statistics.data, x.data,
                      weight.data, bias.data, sizes, float(options.epsilon));
    };
    in_packs<T>(x.shape[2], {y.data, x.data}, start);
  }

  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 3, Device> d_x, Out<float, 1, Device> d_weight,
                       Out<float, 1, Device> d_bias, In<T, 3, Device> d_y, In<float, 2, Device> mean,
                       In<float, 2, Device> rstd, In<T, 3, Device> x, In<float, 1, Device> weight) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    const auto [items, channels, positions] = x.shape;
    const int64_t planes = items * channels;
    Tensor<float, 2, Device> sums(ctx, {items, channels}), dots(ctx, {items, channels});
    const auto start = [&, positions = positions]<int Count>(std::integral_constant<int, Count>) {
      if (planes == 0) return;
      const kernels::GroupParts sizes = parts_of<Count>(x.shape, mean.shape[1]);
      const auto sum_planes = [&]<int group>(std::integral_constant<int, group>) {
        kernels::launch("groupnorm_plane_sums", kernels::groupnorm_plane_sums_kernel<T, Count, group>,
                        kernels::blocks_for(planes, Traits::threads / group), unsigned(Traits::threads), 0, ctx,
                        sums.data, dots.data, d_y.data, mean.data, rstd.data, x.data, planes, sizes);
      };
      if (positions > Traits::plane_of_block)
        sum_planes(std::integral_constant<int, Traits::threads>{});
      else
        sum_planes(std::integral_constant<int, kernels::warp_size>{});
      if (!d_x) return;
      kernels::launch("groupnorm_input_gradient", kernels::groupnorm_input_gradient_kernel<T, Count>,
                      kernels::blocks_for(x.shape[0] * sizes.groups * sizes.parts, 1), unsigned(Traits::threads), 0,
                      ctx, d_x.data, d_y.data, mean.data, rstd.data, x.data, weight.data, sums.data, dots.data, sizes);
    };
    in_packs<T>(positions, {d_x.data, d_y.data, x.data}, start);
    if (d_weight)
      kernels::sum_over_axis<float>("groupnorm_weight_gradient", ctx, d_weight.data, dots.data, 1, items, channels);
    if (d_bias)
      kernels::sum_over_axis<float>("groupnorm_bias_gradient", ctx, d_bias.data, sums.data, 1, items, channels);
  }

 private:
  template <int Count>
  static kernels::GroupParts parts_of(const Shape<3>& shape, int64_t groups) {
    kernels::GroupParts sizes{groups, shape[1] / groups, shape[2], 0};
    sizes.parts = kernels::ceil_div(sizes.length(), int64_t(Traits::threads) * Count * Traits::packs_of_thread);
    return sizes;
  }
  /// Packs of 16 bytes where planes and addresses allow them: a pack then lies in one channel.
  template <class T, class Start>
  static void in_packs(int64_t positions, std::initializer_list<const void*> addresses, Start&& start) {
    if (kernels::fits_packs<T>(positions, addresses))
      start(std::integral_constant<int, kernels::Pack<T>::count>{});
    else
      start(std::integral_constant<int, 1>{});
  }
};

}  // namespace tessera
