// L2 normalisation on kernels' devices: a warp takes a row. Cosine similarity is this and matmul, as everywhere.
#pragma once
#include <tessera/device/launch.cuh>
#include <tessera/kernels/row_groups.cuh>
#include <tessera/ops/similarity.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct l2_normalise_traits {
  static constexpr int threads = 128;
  using Rows = RowGroup<threads, warp_size>;
};

/// y [rows, channels] and norm [rows] (may be null) from x; y may be x, since a lane writes what it alone has read.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(l2_normalise_traits::threads)
    l2_normalise_forward_kernel(T* y, float* norm, const T* x, int64_t rows, int64_t channels, float epsilon) {
  using Rows = l2_normalise_traits::Rows;
  const int64_t row = Rows::first_row();
  if (row >= rows) return;  // the whole warp: no other waits for it
  const T* x_row = x + row * channels;
  T* y_row = y + row * channels;

  float squares = 0;
  Rows::for_each_pack<Count>(channels, [&](int64_t c) {
    float values[Count];
    load_wide(values, x_row + c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) squares += values[i] * values[i];
  });
  const float length = sqrtf(warp_sum(squares)), divisor = length > epsilon ? length : epsilon;
  // A zero vector has no direction; NaN lengths must not pass for one.
  const float factor = length == 0 && divisor == 0 ? 0.0f : 1.0f / (length != length ? length : divisor);

  Rows::for_each_pack<Count>(channels, [&](int64_t c) {  // the second read finds the row in the first-level cache
    float values[Count];
    load_wide(values, x_row + c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) values[i] *= factor;
    store_narrow(y_row + c, values);
  });
  if (norm && Rows::lane() == 0) norm[row] = length;
}

/// d_x [rows, channels]; may be d_y.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(l2_normalise_traits::threads)
    l2_normalise_backward_kernel(T* d_x, const T* d_y, const float* norm, const T* y, int64_t rows, int64_t channels,
                                 float epsilon) {
  using Rows = l2_normalise_traits::Rows;
  const int64_t row = Rows::first_row();
  if (row >= rows) return;
  const T *d_y_row = d_y + row * channels, *y_row = y + row * channels;
  T* d_x_row = d_x + row * channels;
  const float length = norm[row];
  const bool bounded = length <= epsilon;  // then y is x / epsilon, or 0 without epsilon
  const float factor = !bounded ? 1.0f / length : epsilon > 0 ? 1.0f / epsilon : 0.0f;

  float dot = 0;
  if (!bounded)
    Rows::for_each_pack<Count>(channels, [&](int64_t c) {
      float d[Count], unit[Count];
      load_wide(d, d_y_row + c);
      load_wide(unit, y_row + c);
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) dot += d[i] * unit[i];
    });
  dot = warp_sum(dot);

  Rows::for_each_pack<Count>(channels, [&](int64_t c) {
    float d[Count], unit[Count];
    load_wide(d, d_y_row + c);
    load_wide(unit, y_row + c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) d[i] = (d[i] - unit[i] * dot) * factor;
    store_narrow(d_x_row + c, d);
  });
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::l2_normalise, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::l2_normalise_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 2, Device> y, Out<float, 1, Device> norm, In<T, 2, Device> x,
                      L2NormaliseOptions options) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    const int64_t rows = x.shape[0], channels = x.shape[1];
    if (rows == 0) return;
    const auto start = [&](auto* kernel) {
      kernels::launch("l2_normalise_forward", kernel, blocks(rows), unsigned(Traits::threads), 0, ctx, y.data,
                      norm.data, x.data, rows, channels, float(options.epsilon));
    };
    if (kernels::fits_packs<T>(channels, {y.data, x.data}))
      start(kernels::l2_normalise_forward_kernel<T, kernels::Pack<T>::count>);
    else
      start(kernels::l2_normalise_forward_kernel<T, 1>);
  }

  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 2, Device> d_x, In<T, 2, Device> d_y, In<float, 1, Device> norm,
                       In<T, 2, Device> y, L2NormaliseOptions options) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    const int64_t rows = y.shape[0], channels = y.shape[1];
    if (rows == 0) return;
    const auto start = [&](auto* kernel) {
      kernels::launch("l2_normalise_backward", kernel, blocks(rows), unsigned(Traits::threads), 0, ctx, d_x.data,
                      d_y.data, norm.data, y.data, rows, channels, float(options.epsilon));
    };
    if (kernels::fits_packs<T>(channels, {d_x.data, d_y.data, y.data}))
      start(kernels::l2_normalise_backward_kernel<T, kernels::Pack<T>::count>);
    else
      start(kernels::l2_normalise_backward_kernel<T, 1>);
  }

 private:
  static unsigned blocks(int64_t rows) { return kernels::blocks_for(rows, Traits::Rows::rows_of_block); }
};

}  // namespace tessera
