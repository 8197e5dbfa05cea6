// The symmetric Kullback-Leibler divergence on kernels' devices. A warp takes a row, or a block where there are many
// classes: one pass finds both maxima, one both sums of exponentials, one both divergences. The loss is summed in
// double, over a fixed number of blocks and then over the blocks in order.
#pragma once
#include <algorithm>

#include <tessera/device/launch.cuh>
#include <tessera/kernels/row_groups.cuh>
#include <tessera/kernels/strided.cuh>
#include <tessera/ops/symmetric_kl.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct symmetric_kl_traits {
  static constexpr int threads = 256;
  static constexpr int64_t most_blocks = 1024;      // of the forward pass: parts of the sum
  static constexpr int64_t classes_of_warp = 2048;  // beyond, a block takes a row
};

/// p - q; 0 where they are equal, also where both are -infinity.
TESSERA_DEVICE float logit_difference(float p, float q) { return p == q ? 0.0f : p - q; }

/// parts [blocks] and statistics [rows, 4], either may be null.
template <class T, int Count, int group>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(symmetric_kl_traits::threads)
    symmetric_kl_forward_kernel(double* parts, float* statistics, const T* p, const T* q, int64_t rows,
                                int64_t classes) {
  constexpr int threads = symmetric_kl_traits::threads, warps = threads / warp_size;
  using Rows = RowGroup<threads, group>;
  TESSERA_SHARED(float, scratch, warps);
  TESSERA_SHARED(double, of_warp, warps);
  double total = 0;
  for (int64_t row = Rows::first_row(); row < rows; row += Rows::rows_of_grid()) {
    const T *p_row = p + row * classes, *q_row = q + row * classes;
    // Calls visit(p, q) for each of this thread's classes.
    const auto for_each_class = [&](auto&& visit) {
      Rows::template for_each_pack<Count>(classes, [&](int64_t c) {
        float of_p[Count], of_q[Count];
        load_wide(of_p, p_row + c);
        load_wide(of_q, q_row + c);
        TESSERA_UNROLL
        for (int i = 0; i < Count; ++i) visit(of_p[i], of_q[i]);
      });
    };
    float largest_p = negative_infinity(), largest_q = largest_p;  // NaN is passed over; it comes out of the sums
    for_each_class([&](float of_p, float of_q) {
      largest_p = fmaxf(largest_p, of_p);
      largest_q = fmaxf(largest_q, of_q);
    });
    largest_p = Rows::max(largest_p, scratch);
    largest_q = Rows::max(largest_q, scratch);
    float sum_p = 0, sum_q = 0;
    for_each_class([&](float of_p, float of_q) {
      sum_p += expf(of_p - largest_p);
      sum_q += expf(of_q - largest_q);
    });
    sum_p = Rows::sum(sum_p, scratch);
    sum_q = Rows::sum(sum_q, scratch);
    const float log_p = logf(sum_p), log_q = logf(sum_q), scale_p = 1 / sum_p, scale_q = 1 / sum_q;
    // log P - log Q in parts, so that large logits cost no digits
    const float shift = largest_q - largest_p, log = log_q - log_p;
    float p_q = 0, q_p = 0;
    for_each_class([&](float of_p, float of_q) {
      const float delta = (logit_difference(of_p, of_q) + shift) + log;
      p_q += expf(of_p - largest_p) * scale_p * delta;
      q_p -= expf(of_q - largest_q) * scale_q * delta;
    });
    p_q = Rows::sum(p_q, scratch);
    q_p = Rows::sum(q_p, scratch);
    if (Rows::lane() != 0) continue;
    if (statistics) {
      float* saved = statistics + row * detail::symmetric_kl_statistics;
      saved[0] = largest_p + log_p;
      saved[1] = largest_q + log_q;
      saved[2] = p_q;
      saved[3] = q_p;
    }
    total += double(p_q) + double(q_p);
  }
  // Groups are added up in their order; the lanes of a warp's group other than the first have added nothing.
  if (threadIdx.x % warp_size == 0) of_warp[threadIdx.x / warp_size] = total;
  __syncthreads();
  if (threadIdx.x != 0 || !parts) return;
  double sum = 0;
  for (int warp = 0; warp < warps; ++warp) sum += of_warp[warp];
  parts[blockIdx.x] = sum;
}

/// One block: loss = weight * the parts' sum.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(symmetric_kl_traits::threads)
    symmetric_kl_finish_kernel(float* loss, const double* parts, int64_t count, double weight) {
  constexpr int threads = symmetric_kl_traits::threads;
  TESSERA_SHARED(double, scratch, threads / warp_size);
  double sum = 0;
  for (int64_t part = threadIdx.x; part < count; part += threads) sum += parts[part];
  sum = block_sum_double<threads>(sum, scratch);
  if (threadIdx.x == 0) *loss = float(sum * weight);
}

/// d_p and d_q, either may be null. d_p may be p, and d_q q: a thread writes what it alone has read, after reading it.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(symmetric_kl_traits::threads)
    symmetric_kl_backward_kernel(T* d_p, T* d_q, const float* d_loss, const float* statistics, const T* p, const T* q,
                                 int64_t packs, int64_t packs_of_row, double weight) {
  const int64_t pack = int64_t(blockIdx.x) * symmetric_kl_traits::threads + threadIdx.x;
  if (pack >= packs) return;
  const float* saved = statistics + pack / packs_of_row * detail::symmetric_kl_statistics;
  const float d = float(double(*d_loss) * weight), log_p = saved[0], log_q = saved[1], p_q = saved[2], q_p = saved[3];
  float of_p[Count], of_q[Count];
  load_wide(of_p, p + pack * Count);
  load_wide(of_q, q + pack * Count);
  TESSERA_UNROLL
  for (int i = 0; i < Count; ++i) {
    const float prob_p = expf(of_p[i] - log_p), prob_q = expf(of_q[i] - log_q);
    const float delta = logit_difference(of_p[i], of_q[i]) + (log_q - log_p), apart = prob_p - prob_q;
    of_p[i] = d * (prob_p * (delta - p_q) + apart);
    of_q[i] = -d * (prob_q * (delta + q_p) + apart);
  }
  if (d_p) store_narrow(d_p + pack * Count, of_p);
  if (d_q) store_narrow(d_q + pack * Count, of_q);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::symmetric_kl, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::symmetric_kl_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<float, 0, Device> loss, Out<float, 2, Device> statistics,
                      In<T, 2, Device> p, In<T, 2, Device> q, double weight) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    const auto start = [&](auto count) {
      if (p.shape[1] <= Traits::classes_of_warp)
        sum_rows<T, count.value, kernels::warp_size>(ctx, loss, statistics, p, q, weight);
      else
        sum_rows<T, count.value, Traits::threads>(ctx, loss, statistics, p, q, weight);
    };
    if (kernels::fits_packs<T>(p.shape[1], {p.data, q.data}))
      start(std::integral_constant<int, kernels::Pack<T>::count>{});
    else
      start(std::integral_constant<int, 1>{});
  }

  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 2, Device> d_p, Out<T, 2, Device> d_q, In<float, 0, Device> d_loss,
                       In<float, 2, Device> statistics, In<T, 2, Device> p, In<T, 2, Device> q, double weight) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    if (p.size() == 0) return;
    const auto start = [&](auto* kernel, int64_t count) {
      const int64_t packs = p.size() / count;
      kernels::launch("symmetric_kl_backward", kernel, kernels::blocks_for(packs, Traits::threads),
                      unsigned(Traits::threads), 0, ctx, d_p.data, d_q.data, d_loss.data, statistics.data, p.data,
                      q.data, packs, p.shape[1] / count, weight);
    };
    constexpr int most = kernels::Pack<T>::count;
    if (kernels::fits_packs<T>(p.shape[1], {d_p.data, d_q.data, p.data, q.data}))
      start(kernels::symmetric_kl_backward_kernel<T, most>, most);
    else
      start(kernels::symmetric_kl_backward_kernel<T, 1>, 1);
  }

 private:
  template <class T, int Count, int group>
  static void sum_rows(Context<Device>& ctx, Out<float, 0, Device> loss, Out<float, 2, Device> statistics,
                       In<T, 2, Device> p, In<T, 2, Device> q, double weight) {
    const auto [rows, classes] = p.shape;
    const int64_t parts = std::min(Traits::most_blocks,
                                   kernels::ceil_div(rows, kernels::RowGroup<Traits::threads, group>::rows_of_block));
    const Tensor<double, 1, Device> sums(ctx, {loss ? parts : 0});
    if (parts > 0)
      kernels::launch("symmetric_kl_forward", kernels::symmetric_kl_forward_kernel<T, Count, group>, unsigned(parts),
                      unsigned(Traits::threads), 0, ctx, loss ? sums.data : nullptr, statistics.data, p.data, q.data,
                      rows, classes);
    if (loss)
      kernels::launch("symmetric_kl_finish", kernels::symmetric_kl_finish_kernel, 1u, unsigned(Traits::threads), 0, ctx,
                      loss.data, sums.data, parts, weight);
  }
};

}  // namespace tessera
