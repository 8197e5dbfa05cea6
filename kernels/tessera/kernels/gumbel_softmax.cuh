// Gumbel-softmax on kernels' devices. A row of up to 16 entries is one thread's, of up to 512 a warp's, a longer one
// a block's; 16 entries a thread stay in registers between the passes (maximum, sum, argmax, result). The noise is
// drawn where it is added, four numbers of the generator at once, and never stored, unless rows are not made of whole
// packs.
#pragma once
#include <tessera/kernels/softmax.cuh>
#include <tessera/ops/gumbel_softmax.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct gumbel_softmax_traits {
  static constexpr int threads = 256;
  static constexpr int held = 16;  // entries of a row that a thread keeps in registers
  static constexpr int64_t longest_of_thread = held;
  static constexpr int64_t longest_of_warp = int64_t(warp_size) * held;
};

/// A row's entry that is the largest so far; of equals the first.
struct LargestEntry {
  float value;
  int32_t place;
  TESSERA_DEVICE void offer(float other, int32_t at) {
    if (other > value || (other == value && at < place)) {
      value = other;
      place = at;
    }
  }
};

/// `group` threads to a row: one, a warp, or the block.
template <int group>
struct AssignmentRow {
  static constexpr int threads = gumbel_softmax_traits::threads, warps = threads / warp_size;
  using Wide = RowGroup<threads, group == 1 ? warp_size : group>;
  static constexpr int rows_of_block = threads / group;

  TESSERA_DEVICE static int64_t row() {
    return group == 1 ? int64_t(blockIdx.x) * threads + threadIdx.x : Wide::first_row();
  }
  TESSERA_DEVICE static int lane() { return group == 1 ? 0 : Wide::lane(); }
  TESSERA_DEVICE static float sum(float value, float* scratch TESSERA_CALLER) {
    if constexpr (group == 1)
      return value;
    else
      return Wide::sum(value, scratch TESSERA_PASS_CALLER);
  }
  TESSERA_DEVICE static float max(float value, float* scratch TESSERA_CALLER) {
    if constexpr (group == 1)
      return value;
    else
      return Wide::max(value, scratch TESSERA_PASS_CALLER);
  }
  /// The place of the row's largest entry, in every thread. `scratch` and `places`: shared, warps each.
  TESSERA_DEVICE static int32_t place(LargestEntry entry, float* scratch, int32_t* places TESSERA_CALLER) {
    if constexpr (group != 1) {
      TESSERA_UNROLL
      for (int distance = warp_size / 2; distance > 0; distance /= 2) {
        const float value = __shfl_xor_sync(full_mask, entry.value, distance);
        const int32_t at = __shfl_xor_sync(full_mask, entry.place, distance);
        entry.offer(value, at);
      }
    }
    if constexpr (group == threads) {
      if (threadIdx.x % warp_size == 0) {
        scratch[threadIdx.x / warp_size] = entry.value;
        places[threadIdx.x / warp_size] = entry.place;
      }
      __syncthreads(TESSERA_CALLED);
      for (int warp = 0; warp < warps; ++warp) entry.offer(scratch[warp], places[warp]);
      __syncthreads(TESSERA_CALLED);
    }
    return entry.place;
  }
};

TESSERA_DEVICE float gumbel(float uniform) { return -logf(-logf(uniform)); }

/// What is added to the logits: a tensor's values, or in packs of four or more numbers of a stream, or nothing.
struct GumbelNoise {
  const float* given;
  RandomStream stream;
  bool draws;

  /// values += noise of the elements from `first` on.
  template <int Count>
  TESSERA_DEVICE void add_to(float (&values)[Count], int64_t first) const {
    if (given) {
      const auto noise = load_elements<Count>(given + first);
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) values[i] += noise[i];
    } else if (draws) {
      static_assert(Count % 4 == 0 || Count == 1);
      TESSERA_UNROLL
      for (int i = 0; i + 4 <= Count; i += 4) {  // packs begin at a multiple of four
        const auto uniform = detail::four_uniforms(stream, uint64_t(first + i) / 4);
        TESSERA_UNROLL
        for (int j = 0; j < 4; ++j) values[i + j] += gumbel(uniform[size_t(j)]);
      }
    }
  }
};

/// assignment, soft and index (both may be null) of rows of `columns` logits. Outputs may be inputs: a thread writes
/// what it alone has read.
template <class T, int Count, int group>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(gumbel_softmax_traits::threads)
    gumbel_softmax_forward_kernel(T* assignment, T* soft, int32_t* index, const T* logits, GumbelNoise noise,
                                  float inverse_temperature, bool hard, int64_t rows, int64_t columns) {
  using Row = AssignmentRow<group>;
  TESSERA_SHARED(float, scratch, Row::warps);
  TESSERA_SHARED(int32_t, places, Row::warps);
  const int64_t row = Row::row();
  if (row >= rows) return;  // the whole group
  HeldRow<T, Count, group, gumbel_softmax_traits::held> held(logits + row * columns, columns, Row::lane());
  // What the registers hold goes from stage to stage there; visit sees it after `stage`.
  const auto for_each_held = [&](auto&& stage, auto&& visit) {
    TESSERA_UNROLL
    for (int p = 0; p < held.packs; ++p) {
      if (held.column(p) >= columns) continue;
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) held.values[p][i] = stage(held.values[p][i]);
      visit(held.column(p), held.values[p]);
    }
  };
  // The rest of a block's row is loaded and drawn again for every pass, and goes through all stages so far.
  const auto for_each_else = [&](auto&& stages, auto&& visit) {
    if constexpr (group == Row::threads) {
      for (int64_t c = held.column(held.packs); c < columns; c += int64_t(group) * Count) {
        float values[Count];
        held.load(values, c);
        noise.add_to(values, row * columns + c);
        TESSERA_UNROLL
        for (int i = 0; i < Count; ++i) values[i] = stages(values[i] * inverse_temperature);
        visit(c, values);
      }
    }
  };
  const auto same = [](float z) { return z; };

  TESSERA_UNROLL
  for (int p = 0; p < held.packs; ++p)
    if (held.column(p) < columns) noise.add_to(held.values[p], row * columns + held.column(p));
  float largest = negative_infinity();  // NaN is passed over here; it comes out of the sum
  const auto compare = [&](int64_t, const float(&z)[Count]) {
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) largest = fmaxf(largest, z[i]);
  };
  for_each_held([&](float x) { return x * inverse_temperature; }, compare);
  for_each_else(same, compare);
  largest = Row::max(largest, scratch);

  const float shift = largest == negative_infinity() ? 0.0f : largest;
  float sum = 0;
  const auto exponential = [&](float z) { return exp_approximate(z - shift); };
  const auto add = [&](int64_t, const float(&e)[Count]) {
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) sum += e[i];
  };
  for_each_held(exponential, add);
  for_each_else(exponential, add);
  sum = Row::sum(sum, scratch);

  // y is a quotient, not a product with 1 / sum, which nvcc would fuse with the subtraction from the one-hot row.
  const float divisor = sum == 0.0f ? 1.0f : sum;
  const auto quotient = [&](float e) { return __fdividef(e, divisor); };
  LargestEntry entry{negative_infinity(), int32_t(columns)};
  const auto offer = [&](int64_t c, const float(&y)[Count]) {
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) entry.offer(y[i], int32_t(c + i));
  };
  for_each_held(quotient, offer);
  for_each_else([&](float z) { return quotient(exponential(z)); }, offer);
  int32_t chosen = Row::place(entry, scratch, places);
  if (chosen == columns) chosen = 0;  // a row of NaN
  if (index && Row::lane() == 0) index[row] = chosen;

  const auto write = [&](int64_t c, const float(&y)[Count]) {
    if (soft) store_rounded<Count>(soft + row * columns + c, y);
    float out[Count];
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) out[i] = hard ? ((c + i == chosen ? 1.0f : 0.0f) - y[i]) + y[i] : y[i];
    store_rounded<Count>(assignment + row * columns + c, out);
  };
  for_each_held(same, write);
  for_each_else([&](float z) { return quotient(exponential(z)); }, write);
}

/// d_logits = factor y (d - sum(y d)). d_logits may be d.
template <class T, int Count, int group>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(gumbel_softmax_traits::threads)
    gumbel_softmax_backward_kernel(T* d_logits, const T* d_assignment, const T* soft, float factor, int64_t rows,
                                   int64_t columns) {
  using Row = AssignmentRow<group>;
  TESSERA_SHARED(float, scratch, Row::warps);
  const int64_t row = Row::row();
  if (row >= rows) return;
  const HeldRow<T, Count, group, gumbel_softmax_traits::held> held(soft + row * columns, columns, Row::lane());
  const auto gradients = [&](float(&to)[Count], int64_t c) {
    const auto elements = load_elements<Count>(d_assignment + row * columns + c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) to[i] = widen(elements[i]);
  };
  float sum = 0;
  held.for_each([&](int64_t c, const float(&y)[Count]) {
    float d[Count];
    gradients(d, c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) sum += y[i] * d[i];
  });
  sum = Row::sum(sum, scratch);
  held.for_each([&](int64_t c, const float(&y)[Count]) {
    float d[Count];
    gradients(d, c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) d[i] = factor * (y[i] * (d[i] - sum));
    store_rounded<Count>(d_logits + row * columns + c, d);
  });
}

/// to[i] = Gumbel noise of number i; a thread draws four.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(gumbel_softmax_traits::threads)
    gumbel_noise_kernel(float* to, RandomStream stream, int64_t count) {
  const int64_t block = int64_t(blockIdx.x) * gumbel_softmax_traits::threads + threadIdx.x, first = 4 * block;
  if (first >= count) return;
  const auto uniform = detail::four_uniforms(stream, uint64_t(block));
  TESSERA_UNROLL
  for (int i = 0; i < 4; ++i)
    if (first + i < count) to[first + i] = gumbel(uniform[size_t(i)]);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::gumbel_softmax, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::gumbel_softmax_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 2, Device> assignment, Out<T, 2, Device> soft,
                      Out<int32_t, 1, Device> index, In<T, 2, Device> logits, In<float, 2, Device> gumbel,
                      const GumbelSoftmaxOptions& options) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    const auto [rows, columns] = logits.shape;
    if (rows == 0) return;
    kernels::GumbelNoise noise{gumbel.data, options.noise.value_or(RandomStream{}), options.noise.has_value()};
    Tensor<float, 1, Device> drawn;
    if (!gumbel && options.noise && !kernels::fits_packs<T>(columns, {assignment.data, soft.data, logits.data})) {
      drawn = Tensor<float, 1, Device>(ctx, {rows * columns});
      Backend::noise<float>(ctx, drawn, *options.noise);
      noise.given = drawn.data;
    }
    choose<T>(columns, {assignment.data, soft.data, logits.data, noise.given},
              [&, rows = rows, columns = columns](auto count, auto group) {
                kernels::launch(
                    "gumbel_softmax_forward", kernels::gumbel_softmax_forward_kernel<T, count.value, group.value>,
                    blocks(rows, group.value), unsigned(Traits::threads), 0, ctx, assignment.data, soft.data,
                    index.data, logits.data, noise, float(1 / options.temperature), options.hard, rows, columns);
              });
  }
  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 2, Device> d_logits, In<T, 2, Device> d_assignment,
                       In<T, 2, Device> soft, const GumbelSoftmaxOptions& options) {
    const auto [rows, columns] = soft.shape;
    if (rows == 0) return;
    choose<T>(columns, {d_logits.data, d_assignment.data, soft.data},
              [&, rows = rows, columns = columns](auto count, auto group) {
                kernels::launch("gumbel_softmax_backward",
                                kernels::gumbel_softmax_backward_kernel<T, count.value, group.value>,
                                blocks(rows, group.value), unsigned(Traits::threads), 0, ctx, d_logits.data,
                                d_assignment.data, soft.data, float(1 / options.temperature), rows, columns);
              });
  }
  template <class A>
  static void noise(Context<Device>& ctx, Out<A, 1, Device> to, const RandomStream& stream) {
    static_assert(std::is_same_v<A, float>, "tessera: kernels draw noise in float");
    if (to.size() == 0) return;
    kernels::launch("gumbel_noise", kernels::gumbel_noise_kernel, kernels::blocks_for(to.size(), 4 * Traits::threads),
                    unsigned(Traits::threads), 0, ctx, to.data, stream, to.size());
  }

 private:
  static unsigned blocks(int64_t rows, int group) { return kernels::blocks_for(rows, Traits::threads / group); }

  /// Calls start with the packs' width and the row's group as constants.
  template <class T, class Start>
  static void choose(int64_t columns, std::initializer_list<const void*> addresses, Start&& start) {
    const auto with_group = [&](auto count) {
      if (columns <= Traits::longest_of_thread)
        start(count, std::integral_constant<int, 1>{});
      else if (columns <= Traits::longest_of_warp)
        start(count, std::integral_constant<int, kernels::warp_size>{});
      else
        start(count, std::integral_constant<int, Traits::threads>{});
    };
    if (kernels::fits_packs<T>(columns, addresses))
      with_group(std::integral_constant<int, kernels::Pack<T>::count>{});
    else
      with_group(std::integral_constant<int, 1>{});
  }
};

}  // namespace tessera
