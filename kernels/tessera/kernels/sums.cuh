// Sums over one axis of arrays seen as [outer, n, inner], in an order that the sizes alone decide: the same bits on
// every run. Where the axis is the last one (inner is 1) a warp sums a part of a row; else a block sums a part of the
// axis for up to 32 packs of neighbouring columns. Sums of several parts are summed again.
#pragma once
#include <algorithm>
#include <array>

#include <tessera/core/tensor.hpp>
#include <tessera/device/launch.cuh>
#include <tessera/device/reduce.cuh>
#include <tessera/kernels/strided.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct sums_traits {
  static constexpr int threads = 256;
  static constexpr int warps = threads / warp_size;
  static constexpr int64_t packs_of_lane = 16;   // of a part of a row
  static constexpr int64_t rows_of_lane = 16;    // of a part of an axis before the last, at least
  static constexpr int64_t enough_blocks = 528;  // four for each multiprocessor of a large GPU; a constant, so that the
                                                 // order is the same on all of them
};

/// Sizes of a sum out[outer, inner] = factor * sum over j < n of in[o * outer_stride + j * stride + i].
struct SumShape {
  int64_t outer = 1, n = 0, inner = 1;
  int64_t outer_stride = 0, stride = 0;
  float factor = 1;
};

/// Numbers to be summed, by their place in an array. A source may compute them (matmul.cuh).
template <class T>
struct ArraySource {
  const T* x;
  template <int Count>
  TESSERA_DEVICE void read(float (&values)[Count], int64_t at) const {
    const auto elements = load_elements<Count>(x + at);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) values[i] = widen(elements[i]);
  }
  /// Host: whether packs of `Count` may be read.
  template <int Count>
  bool fits() const {
    return reinterpret_cast<uintptr_t>(x) % uintptr_t(pack_alignment<T, Count>) == 0;
  }
  static constexpr int pack = int(16 / sizeof(T));
};

/// Sums of the parts of rows: out [outer, parts]; inner is 1 and rows are contiguous. One warp a part.
template <class C, class Source, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(sums_traits::threads)
    row_sums_kernel(C* out, Source source, SumShape shape, int64_t parts) {
  const int64_t number = int64_t(blockIdx.x) * sums_traits::warps + threadIdx.x / warp_size;
  if (number >= shape.outer * parts) return;  // the whole warp
  const int64_t outer = number / parts, part = number - outer * parts;
  constexpr int64_t length = warp_size * Count * sums_traits::packs_of_lane;
  const int64_t begin = part * length, end = min(begin + length, shape.n);
  float sum = 0;
  for (int64_t j = begin + int64_t(threadIdx.x % warp_size) * Count; j < end; j += warp_size * Count) {
    float values[Count];
    source.template read<Count>(values, outer * shape.outer_stride + j);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) sum += values[i];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % warp_size == 0) out[number] = narrow<C>(shape.factor * sum);
}

/// Sums of parts of an axis before the last: out [outer, parts, inner]. A block has 2^log_width packs of columns side
/// by side; its other threads take every so many-th row of the part each, and are added in a tree.
template <class C, class Source, int Count>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(sums_traits::threads)
    column_sums_kernel(C* out, Source source, SumShape shape, int64_t parts, int64_t rows_of_part, int log_width,
                       int64_t column_blocks) {
  constexpr int threads = sums_traits::threads;
  TESSERA_SHARED(float, sums, threads* Count);
  const int thread = int(threadIdx.x), lanes = threads >> log_width, lane = thread >> log_width;
  const int64_t number = int64_t(blockIdx.x) / column_blocks, outer = number / parts, part = number - outer * parts;
  const int64_t pack = (int64_t(blockIdx.x) - number * column_blocks) << log_width | (thread & ((1 << log_width) - 1));
  const int64_t column = pack * Count;
  const bool inside = column < shape.inner;

  float sum[Count] = {};
  if (inside) {
    const int64_t end = min((part + 1) * rows_of_part, shape.n);
    for (int64_t j = part * rows_of_part + lane; j < end; j += lanes) {
      float values[Count];
      source.template read<Count>(values, outer * shape.outer_stride + j * shape.stride + column);
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) sum[i] += values[i];
    }
  }
  TESSERA_UNROLL
  for (int i = 0; i < Count; ++i) sums[i * threads + thread] = sum[i];
  for (int half = lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) {
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) sums[i * threads + thread] += sums[i * threads + thread + (half << log_width)];
    }
  }
  if (!inside || lane != 0) return;  // what is left is this thread's own
  C* to = out + number * shape.inner + column;
  TESSERA_UNROLL
  for (int i = 0; i < Count; ++i) to[i] = narrow<C>(shape.factor * sums[i * threads + thread]);
}

template <class C, class Source>
void sum_axis(const char* name, Context<KernelDevice>& ctx, C* out, const Source& source, const SumShape& shape);

/// Sums of the sums of parts.
template <class C>
void sum_parts(const char* name, Context<KernelDevice>& ctx, C* out, const Tensor<float, 3, KernelDevice>& sums,
               float factor) {
  const auto [outer, parts, inner] = sums.shape;
  sum_axis(name, ctx, out, ArraySource<float>{sums.data}, {outer, parts, inner, parts * inner, inner, factor});
}

template <int Count, class C, class Source>
void sum_rows(const char* name, Context<KernelDevice>& ctx, C* out, const Source& source, const SumShape& shape) {
  const int64_t parts = std::max<int64_t>(1, ceil_div(shape.n, warp_size * Count * sums_traits::packs_of_lane));
  const auto start = [&](auto* to, const SumShape& sizes) {
    launch(name, row_sums_kernel<std::remove_pointer_t<decltype(to)>, Source, Count>,
           blocks_for(shape.outer * parts, sums_traits::warps), unsigned(sums_traits::threads), 0, ctx, to, source,
           sizes, parts);
  };
  if (parts == 1) return start(out, shape);
  Tensor<float, 3, KernelDevice> sums(ctx, {shape.outer, parts, 1});
  SumShape unscaled = shape;
  unscaled.factor = 1;
  start(sums.data, unscaled);
  sum_parts(name, ctx, out, sums, shape.factor);
}

template <int Count, class C, class Source>
void sum_columns(const char* name, Context<KernelDevice>& ctx, C* out, const Source& source, const SumShape& shape) {
  const int64_t packs = ceil_div(shape.inner, Count);
  int log_width = 0;
  while (log_width < 5 && (int64_t(1) << log_width) < packs) ++log_width;
  const int64_t blocks = ceil_div(packs, int64_t(1) << log_width), lanes = sums_traits::threads >> log_width;
  const int64_t useful = ceil_div(shape.n, lanes * sums_traits::rows_of_lane);
  const int64_t wanted =
      std::max<int64_t>(1, std::min(useful, ceil_div(sums_traits::enough_blocks, shape.outer * blocks)));
  const int64_t rows_of_part = std::max<int64_t>(1, ceil_div(shape.n, wanted));
  const int64_t parts = std::max<int64_t>(1, ceil_div(shape.n, rows_of_part));
  const auto start = [&](auto* to, const SumShape& sizes) {
    launch(name, column_sums_kernel<std::remove_pointer_t<decltype(to)>, Source, Count>,
           blocks_for(shape.outer * parts * blocks, 1), unsigned(sums_traits::threads), 0, ctx, to, source, sizes,
           parts, rows_of_part, log_width, blocks);
  };
  if (parts == 1) return start(out, shape);
  Tensor<float, 3, KernelDevice> sums(ctx, {shape.outer, parts, shape.inner});
  SumShape unscaled = shape;
  unscaled.factor = 1;
  start(sums.data, unscaled);
  sum_parts(name, ctx, out, sums, shape.factor);
}

/// Host: queues out [outer, inner] = factor * the sums of what `source` reads. An empty axis gives 0.
template <class C, class Source>
void sum_axis(const char* name, Context<KernelDevice>& ctx, C* out, const Source& source, const SumShape& shape) {
  if (shape.outer * shape.inner == 0) return;
  constexpr int count = Source::pack;
  const bool rows = shape.inner == 1 && shape.stride == 1;
  const bool fits = source.template fits<count>() && shape.outer_stride % count == 0 &&
                    (rows ? shape.n % count == 0 : shape.inner % count == 0 && shape.stride % count == 0);
  if (rows)
    fits ? sum_rows<count>(name, ctx, out, source, shape) : sum_rows<1>(name, ctx, out, source, shape);
  else
    fits ? sum_columns<count>(name, ctx, out, source, shape) : sum_columns<1>(name, ctx, out, source, shape);
}

/// Host: queues out[o, i] = factor * sum over j of in[o, j, i], in contiguous.
template <class C, class T>
void sum_over_axis(const char* name, Context<KernelDevice>& ctx, C* out, const T* in, int64_t outer, int64_t n,
                   int64_t inner, float factor = 1) {
  static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
  sum_axis(name, ctx, out, ArraySource<T>{in}, {outer, n, inner, n * inner, inner, factor});
}

/// Host: queues out = in summed over the axes on which out's extent is 1 and in's is not; both contiguous.
template <class C, class T, size_t Rank>
void sum_onto(Context<KernelDevice>& ctx, C* out, const std::array<int64_t, Rank>& out_shape, const T* in,
              const std::array<int64_t, Rank>& in_shape) {
  constexpr auto name = "sum_onto";
  struct Group {  // neighbouring axes of one kind
    int64_t extent;
    bool summed;
  };
  std::array<Group, Rank + 1> groups{};
  size_t count = 0;
  for (size_t axis = 0; axis < Rank; ++axis) {
    const bool summed = out_shape[axis] != in_shape[axis];
    if (in_shape[axis] == 1) continue;
    if (count > 0 && groups[count - 1].summed == summed)
      groups[count - 1].extent *= in_shape[axis];
    else
      groups[count++] = {in_shape[axis], summed};
  }
  const auto product = [&](size_t begin, size_t end) {
    int64_t n = 1;
    for (size_t g = begin; g < end; ++g) n *= groups[g].extent;
    return n;
  };
  int left = int(std::count_if(groups.begin(), groups.begin() + count, [](const Group& g) { return g.summed; }));
  if (left == 0) {
    const Shape<1> all{product(0, count)};
    return elementwise(name, ctx, Scale<C>{1.0f}, {all, {Shape<1>{1}, Shape<1>{1}}}, out, in);
  }
  Tensor<float, 1, KernelDevice> sums;  // over the groups so far
  for (size_t g = 0; g < count; ++g) {
    if (!groups[g].summed) continue;
    const int64_t outer = product(0, g), n = groups[g].extent, inner = product(g + 1, count);
    groups[g].extent = 1;
    const auto sum_to = [&](auto* to) {
      sums ? sum_over_axis(name, ctx, to, static_cast<const float*>(sums.data), outer, n, inner)
           : sum_over_axis(name, ctx, to, in, outer, n, inner);
    };
    if (--left == 0) {
      sum_to(out);
    } else {
      Tensor<float, 1, KernelDevice> next(ctx, {outer * inner});
      sum_to(next.data);
      sums = std::move(next);
    }
  }
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
