// The masked mean squared error on kernels' devices. A warp takes a row; rows that do not count are not read. The
// forward pass sums in double over a fixed number of blocks, then over the blocks in order.
#pragma once
#include <algorithm>

#include <tessera/device/launch.cuh>
#include <tessera/kernels/row_groups.cuh>
#include <tessera/kernels/strided.cuh>
#include <tessera/ops/masked_mse.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct masked_mse_traits {
  static constexpr int threads = 256;
  using Rows = RowGroup<threads, warp_size>;
  static constexpr int64_t most_blocks = 1024;  // of the forward pass: parts of the sums
};

/// A part of the sums over rows.
struct MaskedMsePart {
  double squares;
  int64_t counted;
};

template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(masked_mse_traits::threads)
    masked_mse_forward_kernel(MaskedMsePart* parts, const T* prediction, const T* target, const uint8_t* mask,
                              int64_t rows, int64_t channels) {
  using Rows = masked_mse_traits::Rows;
  constexpr int warps = masked_mse_traits::threads / warp_size;
  TESSERA_SHARED(MaskedMsePart, of_warp, warps);
  double squares = 0;
  int64_t counted = 0;
  for (int64_t row = Rows::first_row(); row < rows; row += Rows::rows_of_grid()) {
    if (mask[row] == 0) continue;  // the whole warp
    float of_row = 0;
    Rows::template for_each_pack<Count>(channels, [&](int64_t c) {
      const auto p = load_elements<Count>(prediction + row * channels + c);
      const auto t = load_elements<Count>(target + row * channels + c);
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) {
        const float difference = widen(p[i]) - widen(t[i]);
        of_row += difference * difference;
      }
    });
    squares += double(warp_sum(of_row));
    ++counted;
  }
  if (Rows::lane() == 0) of_warp[threadIdx.x / warp_size] = {squares, counted};
  __syncthreads();
  if (threadIdx.x != 0) return;
  MaskedMsePart sum{0, 0};
  for (int warp = 0; warp < warps; ++warp) {
    sum.squares += of_warp[warp].squares;
    sum.counted += of_warp[warp].counted;
  }
  parts[blockIdx.x] = sum;
}

/// One block: the loss and, where it is wanted, the number of rows that count.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(masked_mse_traits::threads)
    masked_mse_finish_kernel(float* loss, float* count, const MaskedMsePart* parts, int64_t number, int64_t channels) {
  constexpr int threads = masked_mse_traits::threads;
  TESSERA_SHARED(double, scratch, threads / warp_size);
  double squares = 0, counted = 0;  // whole numbers below 2^53 are exact
  for (int64_t part = threadIdx.x; part < number; part += threads) {
    squares += parts[part].squares;
    counted += double(parts[part].counted);
  }
  squares = block_sum_double<threads>(squares, scratch);
  counted = block_sum_double<threads>(counted, scratch);
  if (threadIdx.x != 0) return;
  *loss = counted > 0 ? float(squares / (counted * double(channels))) : 0.0f;
  if (count) *count = float(counted);
}

/// d_prediction and d_target, either may be null and may be the input of its name where the other is.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(masked_mse_traits::threads)
    masked_mse_backward_kernel(T* d_prediction, T* d_target, const float* d_loss, const float* count,
                               const T* prediction, const T* target, const uint8_t* mask, int64_t rows,
                               int64_t channels) {
  using Rows = masked_mse_traits::Rows;
  const int64_t row = Rows::first_row();
  if (row >= rows) return;
  const float counted = *count, factor = counted > 0 ? 2.0f * *d_loss / (counted * float(channels)) : 0.0f;
  const bool counts = mask[row] != 0;
  Rows::template for_each_pack<Count>(channels, [&](int64_t c) {
    const int64_t at = row * channels + c;
    Elements<T, Count> d, minus_d;
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) d[i] = minus_d[i] = narrow<T>(0.0f);
    if (counts) {
      const auto p = load_elements<Count>(prediction + at), t = load_elements<Count>(target + at);
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) {
        const float gradient = factor * (widen(p[i]) - widen(t[i]));
        d[i] = narrow<T>(gradient);
        minus_d[i] = narrow<T>(-gradient);
      }
    }
    if (d_prediction) store_elements<Count>(d_prediction + at, d);
    if (d_target) store_elements<Count>(d_target + at, minus_d);
  });
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::masked_mse, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::masked_mse_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<float, 0, Device> loss, Out<float, 0, Device> count,
                      In<T, 2, Device> prediction, In<T, 2, Device> target, In<uint8_t, 1, Device> mask) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    const auto [rows, channels] = prediction.shape;
    const int64_t parts = std::min(Traits::most_blocks, kernels::ceil_div(rows, Traits::Rows::rows_of_block));
    Tensor<kernels::MaskedMsePart, 1, Device> sums(ctx, {parts});
    const auto start = [&, rows = rows, channels = channels](auto* kernel) {
      kernels::launch("masked_mse_forward", kernel, unsigned(parts), unsigned(Traits::threads), 0, ctx, sums.data,
                      prediction.data, target.data, mask.data, rows, channels);
    };
    if (parts > 0) {
      if (kernels::fits_packs<T>(channels, {prediction.data, target.data}))
        start(kernels::masked_mse_forward_kernel<T, kernels::Pack<T>::count>);
      else
        start(kernels::masked_mse_forward_kernel<T, 1>);
    }
    finish(ctx, loss.data, count.data, sums.data, parts, channels);
  }

  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 2, Device> d_prediction, Out<T, 2, Device> d_target,
                       In<float, 0, Device> d_loss, In<float, 0, Device> count, In<T, 2, Device> prediction,
                       In<T, 2, Device> target, In<uint8_t, 1, Device> mask) {
    const auto [rows, channels] = prediction.shape;
    if (rows == 0 || (!d_prediction && !d_target)) return;
    const auto start = [&, rows = rows, channels = channels](auto* kernel) {
      kernels::launch("masked_mse_backward", kernel, kernels::blocks_for(rows, Traits::Rows::rows_of_block),
                      unsigned(Traits::threads), 0, ctx, d_prediction.data, d_target.data, d_loss.data, count.data,
                      prediction.data, target.data, mask.data, rows, channels);
    };
    if (kernels::fits_packs<T>(channels, {d_prediction.data, d_target.data, prediction.data, target.data}))
      start(kernels::masked_mse_backward_kernel<T, kernels::Pack<T>::count>);
    else
      start(kernels::masked_mse_backward_kernel<T, 1>);
  }

 private:
  template <class AnyContext>  // a template, so that it may come before the device's context is defined
  static void finish(AnyContext& ctx, float* loss, float* count, const kernels::MaskedMsePart* sums, int64_t parts,
                     int64_t channels) {
    kernels::launch("masked_mse_finish", kernels::masked_mse_finish_kernel, 1u, unsigned(Traits::threads), 0, ctx, loss,
                    count, sums, parts, channels);
  }
};

}  // namespace tessera
