// Layer normalisation on kernels' devices: y = (x - mean) * rstd * weight + bias over the last axis. A warp takes a
// row; rows are read in packs of 16 bytes where they are aligned, else element by element. The parameters' gradients
// are sums over all rows, taken in two stages whose order depends on the shape alone: the same bits on every run.
#pragma once
#include <tessera/device/launch.cuh>
#include <tessera/device/reduce.cuh>
#include <tessera/ops/layernorm.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct layernorm_traits {
  static constexpr int threads = 128;
  static constexpr int rows_of_block = threads / warp_size;
};
struct layernorm_parameters_traits {
  static constexpr int threads = 128;         // columns of a block
  static constexpr int64_t most_parts = 256;  // of the rows; each part is summed by one thread a column
  static constexpr int64_t least_rows = 16;   // of a part
};

/// A row's elements as one lane sees them: packs of `Count`, 32 packs apart.
template <int Count, class F>
TESSERA_DEVICE void for_each_pack(int64_t channels, F&& visit) {
  for (int64_t c = int64_t(threadIdx.x % warp_size) * Count; c < channels; c += warp_size * Count) visit(c);
}

/// Floats from c on; two loads where `Count` is 8.
template <int Count>
TESSERA_DEVICE void load_floats(float (&to)[Count], const float* from) {
  constexpr int step = Count < 4 ? Count : 4;
  TESSERA_UNROLL
  for (int first = 0; first < Count; first += step) {
    const auto pack = load_pack<float, step>(from + first);
    TESSERA_UNROLL
    for (int i = 0; i < step; ++i) to[first + i] = pack[i];
  }
}

// ---- forward ----

/// y, mean, rstd [rows…] from x [rows, channels]; mean and rstd may be null. One warp a row.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(layernorm_traits::threads)
    layernorm_forward_kernel(T* y, float* mean, float* rstd, const T* x, const float* weight, const float* bias,
                             int64_t rows, int64_t channels, float epsilon) {
  const int64_t row = int64_t(blockIdx.x) * layernorm_traits::rows_of_block + threadIdx.x / warp_size;
  if (row >= rows) return;  // the whole warp: no other waits for it
  const T* x_row = x + row * channels;
  T* y_row = y + row * channels;

  float sum = 0;
  for_each_pack<Count>(channels, [&](int64_t c) {
    const auto pack = load_pack<T, Count>(x_row + c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) sum += widen(pack[i]);
  });
  const float m = warp_sum(sum) / float(channels);

  float squares = 0;  // about the mean: E[x^2] - m^2 would cancel
  for_each_pack<Count>(channels, [&](int64_t c) {
    const auto pack = load_pack<T, Count>(x_row + c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) squares += (widen(pack[i]) - m) * (widen(pack[i]) - m);
  });
  const float scale = 1.0f / sqrtf(warp_sum(squares) / float(channels) + epsilon);

  for_each_pack<Count>(channels, [&](int64_t c) {
    const auto pack = load_pack<T, Count>(x_row + c);
    float gain[Count], shift[Count];
    load_floats(gain, weight + c);
    load_floats(shift, bias + c);
    Pack<T, Count> out;
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) out[i] = narrow<T>((widen(pack[i]) - m) * scale * gain[i] + shift[i]);
    store_pack(y_row + c, out);
  });
  if (threadIdx.x % warp_size == 0) {
    if (mean) mean[row] = m;
    if (rstd) rstd[row] = scale;
  }
}

// ---- backward ----

/// d_x [rows, channels]; may be d_y itself, since a lane writes only what it alone has read, after reading it.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(layernorm_traits::threads)
    layernorm_input_gradient_kernel(T* d_x, const T* d_y, const float* mean, const float* rstd, const T* x,
                                    const float* weight, int64_t rows, int64_t channels) {
  const int64_t row = int64_t(blockIdx.x) * layernorm_traits::rows_of_block + threadIdx.x / warp_size;
  if (row >= rows) return;
  const T *d_y_row = d_y + row * channels, *x_row = x + row * channels;
  T* d_x_row = d_x + row * channels;
  const float m = mean[row], scale = rstd[row];

  float sum = 0, dot = 0;
  for_each_pack<Count>(channels, [&](int64_t c) {
    const auto dy = load_pack<T, Count>(d_y_row + c), value = load_pack<T, Count>(x_row + c);
    float gain[Count];
    load_floats(gain, weight + c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) {
      const float d = widen(dy[i]) * gain[i];
      sum += d;
      dot += d * (widen(value[i]) - m) * scale;
    }
  });
  const float mean_d = warp_sum(sum) / float(channels), mean_dot = warp_sum(dot) / float(channels);

  for_each_pack<Count>(channels, [&](int64_t c) {
    const auto dy = load_pack<T, Count>(d_y_row + c), value = load_pack<T, Count>(x_row + c);
    float gain[Count];
    load_floats(gain, weight + c);
    Pack<T, Count> out;
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) {
      const float normalised = (widen(value[i]) - m) * scale;
      out[i] = narrow<T>(scale * (widen(dy[i]) * gain[i] - mean_d - normalised * mean_dot));
    }
    store_pack(d_x_row + c, out);
  });
}

/// First stage: sums [parts, 2, channels], of d_y * normalised x and of d_y, over the rows of a part. One thread a
/// column; blockIdx.y is the part.
template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(layernorm_parameters_traits::threads)
    layernorm_partial_sums_kernel(float* sums, const T* d_y, const float* mean, const float* rstd, const T* x,
                                  int64_t rows, int64_t channels, int64_t rows_of_part) {
  const int64_t c = int64_t(blockIdx.x) * layernorm_parameters_traits::threads + threadIdx.x;
  if (c >= channels) return;
  const int64_t begin = blockIdx.y * rows_of_part, end = min(begin + rows_of_part, rows);
  float d_weight = 0, d_bias = 0;
  for (int64_t row = begin; row < end; ++row) {
    const float d = widen(d_y[row * channels + c]);
    d_weight += d * (widen(x[row * channels + c]) - mean[row]) * rstd[row];
    d_bias += d;
  }
  float* part = sums + int64_t(blockIdx.y) * 2 * channels;
  part[c] = d_weight;
  part[channels + c] = d_bias;
}

/// Second stage: d_weight and d_bias [channels], either may be null, from the parts in their order.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(layernorm_parameters_traits::threads)
    layernorm_sum_parts_kernel(float* d_weight, float* d_bias, const float* sums, int64_t parts, int64_t channels) {
  const int64_t c = int64_t(blockIdx.x) * layernorm_parameters_traits::threads + threadIdx.x;
  if (c >= channels) return;
  float weight_sum = 0, bias_sum = 0;
  for (int64_t part = 0; part < parts; ++part) {
    weight_sum += sums[part * 2 * channels + c];
    bias_sum += sums[part * 2 * channels + channels + c];
  }
  if (d_weight) d_weight[c] = weight_sum;
  if (d_bias) d_bias[c] = bias_sum;
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::layernorm, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::layernorm_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 2, Device> y, Out<float, 1, Device> mean, Out<float, 1, Device> rstd,
                      In<T, 2, Device> x, In<float, 1, Device> weight, In<float, 1, Device> bias,
                      LayernormOptions options) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    const int64_t rows = x.shape[0], channels = x.shape[1];
    if (rows == 0) return;
    const auto start = [&](auto* kernel) {
      kernels::launch("layernorm_forward", kernel, kernels::blocks_for(rows, Traits::rows_of_block),
                      unsigned(Traits::threads), 0, ctx, y.data, mean.data, rstd.data, x.data, weight.data, bias.data,
                      rows, channels, float(options.epsilon));
    };
    if (kernels::fits_packs<T>(channels, {y.data, x.data, weight.data, bias.data}))
      start(kernels::layernorm_forward_kernel<T, kernels::Pack<T>::count>);
    else
      start(kernels::layernorm_forward_kernel<T, 1>);
  }

  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 2, Device> d_x, Out<float, 1, Device> d_weight,
                       Out<float, 1, Device> d_bias, In<T, 2, Device> d_y, In<float, 1, Device> mean,
                       In<float, 1, Device> rstd, In<T, 2, Device> x, In<float, 1, Device> weight) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    const int64_t rows = x.shape[0], channels = x.shape[1];
    // The parameters' gradients first: d_x may be d_y itself.
    if (d_weight || d_bias) parameter_gradients<T>(ctx, d_weight, d_bias, d_y, mean, rstd, x);
    if (!d_x || rows == 0) return;
    const auto start = [&](auto* kernel) {
      kernels::launch("layernorm_input_gradient", kernel, kernels::blocks_for(rows, Traits::rows_of_block),
                      unsigned(Traits::threads), 0, ctx, d_x.data, d_y.data, mean.data, rstd.data, x.data, weight.data,
                      rows, channels);
    };
    if (kernels::fits_packs<T>(channels, {d_x.data, d_y.data, x.data, weight.data}))
      start(kernels::layernorm_input_gradient_kernel<T, kernels::Pack<T>::count>);
    else
      start(kernels::layernorm_input_gradient_kernel<T, 1>);
  }

 private:
  template <class T>
  static void parameter_gradients(Context<Device>& ctx, Out<float, 1, Device> d_weight, Out<float, 1, Device> d_bias,
                                  In<T, 2, Device> d_y, In<float, 1, Device> mean, In<float, 1, Device> rstd,
                                  In<T, 2, Device> x) {
    using kernels::ceil_div;
    using Parameters = kernels::layernorm_parameters_traits;
    const int64_t rows = x.shape[0], channels = x.shape[1];
    const int64_t wanted = std::min(Parameters::most_parts, ceil_div(rows, Parameters::least_rows));
    const int64_t rows_of_part = wanted ? ceil_div(rows, wanted) : 0;
    const int64_t parts = wanted ? ceil_div(rows, rows_of_part) : 0;
    const unsigned blocks = kernels::blocks_for(channels, Parameters::threads);
    Tensor<float, 3, Device> sums(ctx, {parts, 2, channels});
    if (parts > 0)
      kernels::launch("layernorm_partial_sums", kernels::layernorm_partial_sums_kernel<T>, {blocks, unsigned(parts)},
                      unsigned(Parameters::threads), 0, ctx, sums.data, d_y.data, mean.data, rstd.data, x.data, rows,
                      channels, rows_of_part);
    kernels::launch("layernorm_sum_parts", kernels::layernorm_sum_parts_kernel, blocks, unsigned(Parameters::threads),
                    0, ctx, d_weight.data, d_bias.data, sums.data, parts, channels);
  }
};

}  // namespace tessera
