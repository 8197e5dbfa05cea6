// Resampling of maps on kernels' devices. Maps are [outer, H, W, inner]: inner is 1 for [B, C, H, W] and C for channels
// last. Forward, a thread makes a pack of outputs from their taps. Backward, nothing is scattered: every input cell
// gathers from the outputs that it was part of, first down the columns, then along the rows; which outputs these are
// follows from the taps, since positions grow with the output's number.
#pragma once
#include <tessera/device/launch.cuh>
#include <tessera/kernels/row_groups.cuh>
#include <tessera/ops/interpolate.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct interpolate_traits {
  static constexpr int threads = 256;
};

/// How one axis is sampled.
struct SampledAxis {
  int64_t input, output;
  float step;
  AxisSampling sampling;
  bool align_corners;

  template <Interpolation mode>
  TESSERA_DEVICE Taps<float> taps(int64_t o) const {
    return sampling_taps<float>(o, input, output, step, mode, sampling, align_corners);
  }
};

inline constexpr int tap_count(Interpolation mode) {
  return mode == Interpolation::nearest ? 1 : mode == Interpolation::bilinear ? 2 : 4;
}

/// The values at an axis' taps, weighted. Bilinear is one fused step, written out so that every kernel rounds alike:
/// upsample_argmax agrees with interpolate bit for bit.
TESSERA_DEVICE float blend(float a, float b, float fraction) { return fmaf(fraction, b - a, a); }
template <Interpolation mode>
TESSERA_DEVICE float weigh(const float* values, const Taps<float>& taps) {
  if constexpr (mode == Interpolation::nearest) return values[0];
  if constexpr (mode == Interpolation::bilinear) return blend(values[0], values[1], taps.weight[1]);
  return taps.weight[0] * values[0] + taps.weight[1] * values[1] + taps.weight[2] * values[2] +
         taps.weight[3] * values[3];
}

/// A thread's place among `outer` times `inner` items; I is 32 bits wide where it can be, since division is slow.
template <class I>
TESSERA_DEVICE I flat_thread() {
  return I(blockIdx.x) * I(interpolate_traits::threads) + I(threadIdx.x);
}

// ---- forward ----

/// y from x. `Count` outputs a thread: neighbouring columns where inner is 1 (`along_row`), else neighbouring channels.
template <class T, Interpolation mode, int Count, bool along_row, class I>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(interpolate_traits::threads)
    interpolate_forward_kernel(T* y, const T* x, SampledAxis rows, SampledAxis columns, int64_t outer, int64_t inner) {
  constexpr int taps = tap_count(mode);
  const I packs = I(along_row ? columns.output / Count : inner / Count), item = flat_thread<I>();
  const I width = along_row ? I(1) : I(columns.output), height = I(rows.output);
  if (item >= I(outer) * height * width * packs) return;
  const I cell = item / packs, row = cell / width;
  const int64_t at = int64_t(item % packs) * Count;  // along the row, or in the channels
  const int64_t plane = int64_t(row / height);
  const Taps<float> row_taps = rows.taps<mode>(int64_t(row % height));
  const T* image = x + plane * rows.input * columns.input * inner;
  float result[Count];
  if constexpr (along_row) {
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) {
      const Taps<float> column_taps = columns.taps<mode>(at + i);
      float lines[taps], values[taps];
      TESSERA_UNROLL
      for (int r = 0; r < taps; ++r) {
        TESSERA_UNROLL
        for (int c = 0; c < taps; ++c)
          values[c] = widen(image[row_taps.index[r] * columns.input + column_taps.index[c]]);
        lines[r] = weigh<mode>(values, column_taps);
      }
      result[i] = weigh<mode>(lines, row_taps);
    }
  } else {
    const Taps<float> column_taps = columns.taps<mode>(int64_t(cell % width));
    float lines[Count][taps];
    TESSERA_UNROLL
    for (int r = 0; r < taps; ++r) {
      float values[Count][taps];
      TESSERA_UNROLL
      for (int c = 0; c < taps; ++c) {
        const auto pack =
            load_pack<T, Count>(image + (row_taps.index[r] * columns.input + column_taps.index[c]) * inner + at);
        TESSERA_UNROLL
        for (int i = 0; i < Count; ++i) values[i][c] = widen(pack[i]);
      }
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) lines[i][r] = weigh<mode>(values[i], column_taps);
    }
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) result[i] = weigh<mode>(lines[i], row_taps);
  }
  store_narrow(y + int64_t(item) * Count, result);
}

/// to = from, converted.
template <class To, class From>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(interpolate_traits::threads)
    interpolate_copy_kernel(To* to, const From* from, int64_t count) {
  const int64_t i = flat_thread<int64_t>();
  if (i < count) to[i] = narrow<To>(widen(from[i]));
}

// ---- backward ----

/// Outputs [begin, end) that an input cell may be part of.
struct SourceRange {
  int32_t begin, end;
};

/// The sources of every input cell of the rows (blockIdx.y 0) and of the columns (1).
template <Interpolation mode>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(interpolate_traits::threads)
    interpolate_sources_kernel(SourceRange* of_rows, SourceRange* of_columns, SampledAxis rows, SampledAxis columns) {
  if (blockIdx.y == 1) rows = columns;  // a copy: a reference to either would put both into slow local memory
  const SampledAxis& axis = rows;
  const int64_t i = flat_thread<int64_t>();
  if (i >= axis.input) return;
  // Taps grow with o: the first output whose last tap reaches i, and the first whose first tap is past it.
  const auto first_where = [&](auto&& holds) {
    int64_t low = 0, high = axis.output;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (holds(axis.taps<mode>(middle)))
        high = middle;
      else
        low = middle + 1;
    }
    return int32_t(low);
  };
  const int32_t begin = first_where([&](const Taps<float>& taps) { return taps.index[tap_count(mode) - 1] >= i; });
  const int32_t end = first_where([&](const Taps<float>& taps) { return taps.index[0] > i; });
  (blockIdx.y == 0 ? of_rows : of_columns)[i] = {begin, end};
}

/// The weight of input cell i in output o.
template <Interpolation mode>
TESSERA_DEVICE float weight_of(const SampledAxis& axis, int64_t i, int64_t o) {
  const Taps<float> taps = axis.taps<mode>(o);
  const auto share = [&](int k) { return taps.index[k] == i ? taps.weight[k] : 0.0f; };
  float weight = share(0);
  if constexpr (mode != Interpolation::nearest) weight += share(1);
  if constexpr (mode == Interpolation::bicubic) weight += share(2) + share(3);
  return weight;
}

/// gathered [outer, rows in, line] from d_y [outer, rows out, line], line = columns out * inner.
template <class T, Interpolation mode, int Count, class I>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(interpolate_traits::threads)
    interpolate_gather_rows_kernel(float* gathered, const T* d_y, const SourceRange* sources, SampledAxis rows,
                                   int64_t outer, int64_t line) {
  const I packs = I(line / Count), item = flat_thread<I>();
  if (item >= I(outer) * I(rows.input) * packs) return;
  const I row = item / packs;
  const int64_t at = int64_t(item % packs) * Count, i = int64_t(row % I(rows.input));
  const T* plane = d_y + int64_t(row / I(rows.input)) * rows.output * line + at;
  const SourceRange range = sources[i];
  float sum[Count] = {};
  for (int64_t o = range.begin; o < range.end; ++o) {
    const float weight = weight_of<mode>(rows, i, o);
    const auto pack = load_pack<T, Count>(plane + o * line);
    TESSERA_UNROLL
    for (int k = 0; k < Count; ++k) sum[k] += weight * widen(pack[k]);
  }
  float* to = gathered + int64_t(item) * Count;
  constexpr int step = Count < 4 ? Count : 4;
  TESSERA_UNROLL
  for (int first = 0; first < Count; first += step) {
    Pack<float, step> pack;
    TESSERA_UNROLL
    for (int k = 0; k < step; ++k) pack[k] = sum[first + k];
    store_pack(to + first, pack);
  }
}

/// d_x [outer, rows in, columns in, inner] from gathered.
template <class G, Interpolation mode, int Count, class I>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(interpolate_traits::threads)
    interpolate_gather_columns_kernel(G* d_x, const float* gathered, const SourceRange* sources, SampledAxis columns,
                                      int64_t lines, int64_t inner) {
  const I packs = I(inner / Count), item = flat_thread<I>();
  if (item >= I(lines) * I(columns.input) * packs) return;
  const I cell = item / packs;
  const int64_t at = int64_t(item % packs) * Count, i = int64_t(cell % I(columns.input));
  const float* line = gathered + int64_t(cell / I(columns.input)) * columns.output * inner + at;
  const SourceRange range = sources[i];
  float sum[Count] = {};
  for (int64_t o = range.begin; o < range.end; ++o) {
    const float weight = weight_of<mode>(columns, i, o);
    const auto pack = load_pack<float, Count>(line + o * inner);
    TESSERA_UNROLL
    for (int k = 0; k < Count; ++k) sum[k] += weight * pack[k];
  }
  store_narrow(d_x + int64_t(item) * Count, sum);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::interpolate, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::interpolate_traits;
  using Axis = kernels::SampledAxis;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 4, Device> y, In<T, 4, Device> x,
                      const InterpolateOptions& options) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    if (y.size() == 0) return;
    const Axis rows = axis_of(x.shape[1], y.shape[1], options.rows, options);
    const Axis columns = axis_of(x.shape[2], y.shape[2], options.columns, options);
    if (is_identity(rows, options.mode) && is_identity(columns, options.mode))
      return copy<T, T>(ctx, y.data, x.data, y.size());
    const int64_t inner = y.shape[3];
    constexpr int wide = kernels::Pack<T>::count;
    with_mode(options.mode, [&](auto mode) {
      with_index(y.size(), [&](auto index) {
        using I = decltype(index);
        const auto start = [&](auto* kernel, int64_t count) {
          kernels::launch("interpolate_forward", kernel, blocks(y.size() / count), unsigned(Traits::threads), 0, ctx,
                          y.data, x.data, rows, columns, y.shape[0], inner);
        };
        const bool along_row = inner == 1;
        if (along_row && kernels::fits_packs<T>(y.shape[2], {y.data}))  // inputs are read one by one
          start(kernels::interpolate_forward_kernel<T, mode.value, wide, true, I>, wide);
        else if (along_row)
          start(kernels::interpolate_forward_kernel<T, mode.value, 1, true, I>, 1);
        else if (kernels::fits_packs<T>(inner, {y.data, x.data}))
          start(kernels::interpolate_forward_kernel<T, mode.value, wide, false, I>, wide);
        else
          start(kernels::interpolate_forward_kernel<T, mode.value, 1, false, I>, 1);
      });
    });
  }

  template <class T, class G>
  static void backward(Context<Device>& ctx, Out<G, 4, Device> d_x, In<T, 4, Device> d_y,
                       const InterpolateOptions& options) {
    static_assert(sizeof(T) <= 4 && sizeof(G) <= 4, "tessera: kernels store bfloat16, float16 or float");
    if (d_x.size() == 0) return;
    const Axis rows = axis_of(d_x.shape[1], d_y.shape[1], options.rows, options);
    const Axis columns = axis_of(d_x.shape[2], d_y.shape[2], options.columns, options);
    if (is_identity(rows, options.mode) && is_identity(columns, options.mode))
      return copy<G, T>(ctx, d_x.data, d_y.data, d_x.size());
    const int64_t outer = d_x.shape[0], inner = d_x.shape[3], line = columns.output * inner;
    Tensor<kernels::SourceRange, 1, Device> of_rows(ctx, {rows.input}), of_columns(ctx, {columns.input});
    Tensor<float, 3, Device> gathered(ctx, {outer, rows.input, line});
    constexpr int wide = kernels::Pack<T>::count, wide_sum = kernels::Pack<float>::count;
    with_mode(options.mode, [&](auto mode) {
      const unsigned threads = Traits::threads;
      kernels::launch("interpolate_sources", kernels::interpolate_sources_kernel<mode.value>,
                      {blocks(std::max(rows.input, columns.input)), 2}, threads, 0, ctx, of_rows.data, of_columns.data,
                      rows, columns);
      with_index(gathered.size(), [&](auto index) {
        using I = decltype(index);
        const auto start = [&](auto* kernel, int64_t count) {
          kernels::launch("interpolate_gather_rows", kernel, blocks(gathered.size() / count), threads, 0, ctx,
                          gathered.data, d_y.data, of_rows.data, rows, outer, line);
        };
        if (kernels::fits_packs<T>(line, {d_y.data, gathered.data}))
          start(kernels::interpolate_gather_rows_kernel<T, mode.value, wide, I>, wide);
        else
          start(kernels::interpolate_gather_rows_kernel<T, mode.value, 1, I>, 1);
      });
      with_index(d_x.size(), [&](auto index) {
        using I = decltype(index);
        const auto start = [&](auto* kernel, int64_t count) {
          kernels::launch("interpolate_gather_columns", kernel, blocks(d_x.size() / count), threads, 0, ctx, d_x.data,
                          gathered.data, of_columns.data, columns, outer * rows.input, inner);
        };
        if (kernels::fits_packs<float>(inner, {d_x.data, gathered.data}))
          start(kernels::interpolate_gather_columns_kernel<G, mode.value, wide_sum, I>, wide_sum);
        else
          start(kernels::interpolate_gather_columns_kernel<G, mode.value, 1, I>, 1);
      });
    });
  }

  /// The first `count` rows of `to` from those of `from`.
  template <class T, class To>
  static void copy_rows(Context<Device>& ctx, const TensorView<To, 2, Device>& to, In<T, 2, Device> from,
                        int64_t count) {
    copy<To, T>(ctx, to.data, from.data, count * to.shape[1]);
  }

 private:
  static Axis axis_of(int64_t input, int64_t output, const AxisSampling& sampling, const InterpolateOptions& options) {
    return {input, output, sampling_step<float>(input, output, sampling, options.align_corners), sampling,
            options.align_corners};
  }
  /// Whether every output is its own input: then bits are copied, those of infinities and of -0 too.
  static bool is_identity(const Axis& axis, Interpolation mode) {
    using Rule = AxisSampling::Rule;
    if (axis.input != axis.output) return false;
    if (axis.sampling.rule == Rule::extents) return true;
    if (axis.sampling.rule == Rule::scale_factor && mode != Interpolation::bicubic) return true;  // PyTorch's rule
    return axis.step == 1 && axis.sampling.offset == 0;
  }
  static unsigned blocks(int64_t threads) { return kernels::blocks_for(threads, Traits::threads); }

  template <class To, class From>
  static void copy(Context<Device>& ctx, To* to, const From* from, int64_t count) {
    if (count > 0)
      kernels::launch("interpolate_copy", kernels::interpolate_copy_kernel<To, From>, blocks(count),
                      unsigned(Traits::threads), 0, ctx, to, from, count);
  }
  template <class Start>
  static void with_mode(Interpolation mode, Start&& start) {
    switch (mode) {
      case Interpolation::nearest:
        return start(std::integral_constant<Interpolation, Interpolation::nearest>{});
      case Interpolation::bilinear:
        return start(std::integral_constant<Interpolation, Interpolation::bilinear>{});
      case Interpolation::bicubic:
        return start(std::integral_constant<Interpolation, Interpolation::bicubic>{});
    }
  }
  template <class Start>
  static void with_index(int64_t items, Start&& start) {
    if (items < (int64_t(1) << 31))
      start(uint32_t{});
    else
      start(int64_t{});
  }
};

}  // namespace tessera
