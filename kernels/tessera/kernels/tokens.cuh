// Assembling tokens on kernels' devices: class token, patch embeddings and positions in one pass; backward a copy and
// two sums over the batch.
#pragma once
#include <tessera/kernels/strided.cuh>
#include <tessera/kernels/sums.cuh>
#include <tessera/ops/tokens.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

/// tokens [items, count, channels]; class_embedding may be null. One thread a pack.
template <class T, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(elementwise_traits::threads)
    assemble_tokens_kernel(T* tokens, const T* class_embedding, const T* patches, const T* positions, int64_t items,
                           int64_t count, int64_t channels) {
  const int64_t packs_of_token = channels / Count;
  const int64_t pack = int64_t(blockIdx.x) * elementwise_traits::threads + threadIdx.x;
  if (pack >= items * count * packs_of_token) return;
  const int64_t token = pack / packs_of_token, c = (pack - token * packs_of_token) * Count;
  const int64_t item = token / count, n = token - item * count, first = class_embedding ? 1 : 0;
  const T* from = n < first ? class_embedding : patches + (item * (count - first) + n - first) * channels;
  const auto value = load_elements<Count>(from + c);
  const auto position = load_elements<Count>(positions + n * channels + c);
  Elements<T, Count> sum;
  TESSERA_UNROLL
  for (int i = 0; i < Count; ++i) sum[i] = narrow<T>(widen(value[i]) + widen(position[i]));
  store_elements<Count>(tokens + token * channels + c, sum);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::tokens, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::elementwise_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 3, Device> tokens, In<T, 1, Device> class_embedding,
                      In<T, 3, Device> patches, In<T, 2, Device> positional_embedding) {
    const auto [items, count, channels] = tokens.shape;
    if (tokens.size() == 0) return;
    const auto start = [&, items = items, count = count, channels = channels](auto* kernel, int64_t packs) {
      kernels::launch("assemble_tokens_forward", kernel, kernels::blocks_for(packs, Traits::threads),
                      unsigned(Traits::threads), 0, ctx, tokens.data, class_embedding.data, patches.data,
                      positional_embedding.data, items, count, channels);
    };
    constexpr int most = kernels::Pack<T>::count;
    if (kernels::fits_packs<T>(channels, {tokens.data, class_embedding.data, patches.data, positional_embedding.data}))
      start(kernels::assemble_tokens_kernel<T, most>, tokens.size() / most);
    else
      start(kernels::assemble_tokens_kernel<T, 1>, tokens.size());
  }

  template <class T, class G>
  static void backward(Context<Device>& ctx, Out<T, 3, Device> d_patches, Out<float, 1, Device> d_class_embedding,
                       Out<G, 2, Device> d_positional_embedding, In<T, 3, Device> d_tokens, bool has_class) {
    constexpr auto name = "assemble_tokens_backward";
    const auto [items, count, channels] = d_tokens.shape;
    const int64_t row = count * channels, first = has_class ? 1 : 0;
    if (d_patches)
      kernels::elementwise(name, ctx, kernels::Scale<T>{1.0f},
                           {d_patches.shape, {d_patches.strides, Shape<3>{row, channels, 1}}}, d_patches.data,
                           static_cast<const T*>(d_tokens.data + first * channels));
    const kernels::ArraySource<T> source{d_tokens.data};
    if (d_class_embedding) kernels::sum_axis(name, ctx, d_class_embedding.data, source, {1, items, channels, 0, row});
    if (d_positional_embedding)
      kernels::sum_axis(name, ctx, d_positional_embedding.data, source, {1, items, row, 0, row});
  }
};

}  // namespace tessera
