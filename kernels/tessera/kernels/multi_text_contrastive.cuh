// The contrastive loss over a matrix of scores [B, K] in which images own several texts: images by rows of the matrix,
// texts by columns. An owner out of range, which the host cannot see, makes the loss NaN.
#pragma once
#include <tessera/device/launch.cuh>
#include <tessera/kernels/log_sum.cuh>
#include <tessera/ops/contrastive.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct multi_text_traits {
  static constexpr int threads = 256;
  static constexpr int columns = warp_size;  // of a block of the texts' kernel: neighbours in memory
};

/// The logits and which of them count.
template <class T>
struct MultiTextPairs {
  const T* scores;
  const uint8_t* excluded;  // may be null
  const int32_t* owner;
  int64_t images, texts;
  const float* logit_scale;
  float largest_scale;

  TESSERA_DEVICE float scale() const { return logit_factor_of(logit_scale, largest_scale); }
  TESSERA_DEVICE float score(int64_t i, int64_t j) const { return widen(scores[i * texts + j]); }
  TESSERA_DEVICE bool excluded_pair(int64_t i, int64_t j) const { return excluded && excluded[i * texts + j]; }
};

/// log(1 + exp(x)) without overflow; 0 at -infinity.
TESSERA_DEVICE float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
TESSERA_DEVICE float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

/// The log-sum over a block's threads, in every thread; `scratch` is shared memory for threads / 32.
template <int threads>
TESSERA_DEVICE LogSum block_log_sum(LogSum value, LogSum* scratch TESSERA_CALLER) {
  TESSERA_UNROLL
  for (int distance = warp_size / 2; distance > 0; distance /= 2)
    value = value.with(
        {__shfl_xor_sync(full_mask, value.largest, distance), __shfl_xor_sync(full_mask, value.sum, distance)});
  if (threadIdx.x % warp_size == 0) scratch[threadIdx.x / warp_size] = value;
  __syncthreads(TESSERA_CALLED);
  LogSum sum;
  for (int warp = 0; warp < threads / warp_size; ++warp) sum = sum.with(scratch[warp]);
  __syncthreads(TESSERA_CALLED);
  return sum;
}

/// owned [images]: how many texts each image owns. A block an image.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(multi_text_traits::threads)
    multi_text_owned_kernel(int32_t* owned, const int32_t* owner, int64_t texts) {
  int count = 0;
  for (int64_t first = 0; first < texts; first += multi_text_traits::threads) {
    const int64_t j = first + threadIdx.x;
    count += __syncthreads_count(j < texts && owner[j] == int32_t(blockIdx.x));
  }
  if (threadIdx.x == 0) owned[blockIdx.x] = count;
}

/// One block: how many images own texts.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(multi_text_traits::threads)
    multi_text_images_kernel(int32_t* images_with_texts, const int32_t* owned, int64_t images) {
  int count = 0;
  for (int64_t first = 0; first < images; first += multi_text_traits::threads) {
    const int64_t i = first + threadIdx.x;
    count += __syncthreads_count(i < images && owned[i] > 0);
  }
  if (threadIdx.x == 0) *images_with_texts = count;
}

/// text_log_sum_exp [texts] and each block's sum of log-sum-exp - own logit. A warp takes 32 columns and every eighth
/// row.
template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(multi_text_traits::threads)
    multi_text_columns_kernel(float* text_log_sum_exp, double* sums, MultiTextPairs<T> pairs) {
  constexpr int warps = multi_text_traits::threads / warp_size, columns = multi_text_traits::columns;
  TESSERA_SHARED(LogSum, of_warp, warps * columns);
  const int lane = int(threadIdx.x) % warp_size, warp = int(threadIdx.x) / warp_size;
  const int64_t j = int64_t(blockIdx.x) * columns + lane;
  const float scale = pairs.scale();
  LogSum sum;
  const int64_t owner = j < pairs.texts ? pairs.owner[j] : -1;
  if (j < pairs.texts)
    for (int64_t i = warp; i < pairs.images; i += warps)
      if (owner == i || !pairs.excluded_pair(i, j)) sum.add(scale * pairs.score(i, j));
  of_warp[warp * columns + lane] = sum;
  __syncthreads();
  if (warp != 0) return;
  for (int other = 1; other < warps; ++other) sum = sum.with(of_warp[other * columns + lane]);
  double term = 0;
  if (j < pairs.texts) {
    const float value = sum.value();
    const bool valid = owner >= 0 && owner < pairs.images;
    text_log_sum_exp[j] = value;
    term = valid ? double(value) - double(scale * pairs.score(owner, j)) : double(not_a_number());
  }
  TESSERA_UNROLL
  for (int distance = warp_size / 2; distance > 0; distance /= 2) term += __shfl_xor_sync(full_mask, term, distance);
  if (lane == 0) sums[blockIdx.x] = term;
}

/// negative_log_sum_exp [images] and losses [images], the mean over an image's texts. A block an image.
template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(multi_text_traits::threads)
    multi_text_rows_kernel(float* negative_log_sum_exp, double* losses, const int32_t* owned, MultiTextPairs<T> pairs) {
  constexpr int threads = multi_text_traits::threads;
  TESSERA_SHARED(LogSum, scratch, threads / warp_size);
  TESSERA_SHARED(double, sums, threads / warp_size);
  const int64_t i = blockIdx.x;
  const float scale = pairs.scale();
  LogSum sum;
  for (int64_t j = threadIdx.x; j < pairs.texts; j += threads)
    if (pairs.owner[j] != i && !pairs.excluded_pair(i, j)) sum.add(scale * pairs.score(i, j));
  const float negatives = block_log_sum<threads>(sum, scratch).value();
  double loss = 0;
  for (int64_t j = threadIdx.x; j < pairs.texts; j += threads)
    if (pairs.owner[j] == i) loss += double(softplus(negatives - scale * pairs.score(i, j)));
  loss = block_sum_double<threads>(loss, sums);
  if (threadIdx.x != 0) return;
  negative_log_sum_exp[i] = negatives;
  losses[i] = owned[i] > 0 ? loss / double(owned[i]) : 0;
}

/// One block: half the texts' mean and half the images'.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(multi_text_traits::threads)
    multi_text_loss_kernel(float* loss, const double* text_sums, int64_t text_blocks, const double* image_losses,
                           int64_t images, int64_t texts, const int32_t* images_with_texts) {
  constexpr int threads = multi_text_traits::threads;
  TESSERA_SHARED(double, scratch, threads / warp_size);
  double of_texts = 0, of_images = 0;
  for (int64_t i = threadIdx.x; i < text_blocks; i += threads) of_texts += text_sums[i];
  for (int64_t i = threadIdx.x; i < images; i += threads) of_images += image_losses[i];
  of_texts = block_sum_double<threads>(of_texts, scratch);
  of_images = block_sum_double<threads>(of_images, scratch);
  if (threadIdx.x == 0) *loss = float(0.5 * (of_texts / double(texts) + of_images / double(*images_with_texts)));
}

/// d_scores [images, texts] (may be null) and dots [images], the sums of logit times its gradient. A block an image.
template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(multi_text_traits::threads)
    multi_text_backward_kernel(T* d_scores, double* dots, const float* d_loss, const float* text_log_sum_exp,
                               const float* negative_log_sum_exp, const int32_t* owned,
                               const int32_t* images_with_texts, MultiTextPairs<T> pairs) {
  constexpr int threads = multi_text_traits::threads;
  TESSERA_SHARED(float, scratch, threads / warp_size);
  TESSERA_SHARED(double, sums, threads / warp_size);
  const int64_t i = blockIdx.x;
  const float scale = pairs.scale(), negatives = negative_log_sum_exp[i];
  const float text_weight = 0.5f * *d_loss / float(pairs.texts);
  const float own_weight = 0.5f * *d_loss / float(*images_with_texts) / float(owned[i] > 1 ? owned[i] : 1);
  float d_negatives = 0;
  for (int64_t j = threadIdx.x; j < pairs.texts; j += threads)
    if (pairs.owner[j] == i) d_negatives += own_weight * logistic(negatives - scale * pairs.score(i, j));
  d_negatives = block_sum<threads>(d_negatives, scratch);
  double dot = 0;
  for (int64_t j = threadIdx.x; j < pairs.texts; j += threads) {
    const float logit = scale * pairs.score(i, j);
    const bool own = pairs.owner[j] == i;
    float d = 0;
    if (own)
      d = text_weight * (expf(logit - text_log_sum_exp[j]) - 1) - own_weight * logistic(negatives - logit);
    else if (!pairs.excluded_pair(i, j))
      d = text_weight * expf(logit - text_log_sum_exp[j]) + d_negatives * expf(logit - negatives);
    dot += double(logit * d);
    if (d_scores) d_scores[i * pairs.texts + j] = narrow<T>(scale * d);
  }
  dot = block_sum_double<threads>(dot, sums);
  if (threadIdx.x == 0) dots[i] = dot;
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::multi_text_contrastive, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::multi_text_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<float, 0, Device> loss, Out<float, 1, Device> text_log_sum_exp,
                      Out<float, 1, Device> negative_log_sum_exp, In<T, 2, Device> scores, In<int32_t, 1, Device> owner,
                      In<uint8_t, 2, Device> excluded, In<float, 0, Device> logit_scale,
                      MultiTextContrastiveOptions options) {
    using namespace kernels;
    const auto pairs = pairs_of<T>(scores, owner, excluded, logit_scale, options);
    const Owned owned(ctx, pairs);
    const int64_t text_blocks = ceil_div(pairs.texts, Traits::columns);
    Tensor<double, 1, Device> text_sums(ctx, {text_blocks}), image_losses(ctx, {pairs.images});
    const unsigned threads = Traits::threads;
    launch("multi_text_columns", multi_text_columns_kernel<T>, unsigned(text_blocks), threads, 0, ctx,
           text_log_sum_exp.data, text_sums.data, pairs);
    launch("multi_text_rows", multi_text_rows_kernel<T>, unsigned(pairs.images), threads, 0, ctx,
           negative_log_sum_exp.data, image_losses.data, owned.texts.data, pairs);
    launch("multi_text_loss", multi_text_loss_kernel, 1u, threads, 0, ctx, loss.data, text_sums.data, text_blocks,
           image_losses.data, pairs.images, pairs.texts, owned.images.data);
  }

  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 2, Device> d_scores, Out<float, 0, Device> d_logit_scale,
                       In<float, 0, Device> d_loss, In<float, 1, Device> text_log_sum_exp,
                       In<float, 1, Device> negative_log_sum_exp, In<T, 2, Device> scores, In<int32_t, 1, Device> owner,
                       In<uint8_t, 2, Device> excluded, In<float, 0, Device> logit_scale,
                       MultiTextContrastiveOptions options) {
    using namespace kernels;
    if (!d_scores && !d_logit_scale) return;
    const auto pairs = pairs_of<T>(scores, owner, excluded, logit_scale, options);
    const Owned owned(ctx, pairs);
    Tensor<double, 1, Device> dots(ctx, {pairs.images});
    const unsigned threads = Traits::threads;
    launch("multi_text_backward", multi_text_backward_kernel<T>, unsigned(pairs.images), threads, 0, ctx, d_scores.data,
           dots.data, d_loss.data, text_log_sum_exp.data, negative_log_sum_exp.data, owned.texts.data,
           owned.images.data, pairs);
    if (d_logit_scale)
      launch("contrastive_sum", contrastive_sum_kernel, 1u, unsigned(contrastive_sum_traits::threads), 0, ctx,
             d_logit_scale.data, dots.data, dots.size(), 1.0, logit_scale.data, float(options.largest_scale));
  }

 private:
  template <class T>
  static kernels::MultiTextPairs<T> pairs_of(In<T, 2, Device> scores, In<int32_t, 1, Device> owner,
                                             In<uint8_t, 2, Device> excluded, In<float, 0, Device> logit_scale,
                                             const MultiTextContrastiveOptions& options) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    return {scores.data,
            excluded.data,
            owner.data,
            scores.shape[0],
            scores.shape[1],
            logit_scale.data,
            float(options.largest_scale)};
  }

  /// How many texts each image owns, and how many images own any.
  struct Owned {
    Tensor<int32_t, 1, Device> texts;
    Tensor<int32_t, 0, Device> images;
    template <class T>
    Owned(Context<Device>& ctx, const kernels::MultiTextPairs<T>& pairs) : texts(ctx, {pairs.images}), images(ctx, {}) {
      kernels::launch("multi_text_owned", kernels::multi_text_owned_kernel, unsigned(pairs.images),
                      unsigned(Traits::threads), 0, ctx, texts.data, pairs.owner, pairs.texts);
      kernels::launch("multi_text_images", kernels::multi_text_images_kernel, 1u, unsigned(Traits::threads), 0, ctx,
                      images.data, texts.data, pairs.images);
    }
  };
};

}  // namespace tessera
