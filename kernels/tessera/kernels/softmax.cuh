// Softmax and log-softmax over the last axis on kernels' devices. A row is a warp's or, where it is long, a block's;
// its first 32 elements a thread stay in registers between the passes, so that rows of up to 1,024 (a warp) or 8,192 (a
// block) elements are read once.
#pragma once
#include <tessera/kernels/activation.cuh>
#include <tessera/kernels/row_groups.cuh>
#include <tessera/kernels/strided.cuh>
#include <tessera/ops/softmax.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct softmax_traits {
  static constexpr int threads = 256;
  static constexpr int held = 32;  // elements of a row that a thread keeps in registers
  static constexpr int64_t longest_of_warp = int64_t(warp_size) * held;
};

/// A row as the threads of a group see it: `held` values a thread in registers, and the rest of a long row still in
/// memory.
template <class T, int Count, int group, int held = softmax_traits::held>
struct HeldRow {
  static constexpr int packs = held / Count;
  const T* row;
  int64_t columns;
  int lane;
  float values[packs][Count];

  TESSERA_DEVICE HeldRow(const T* from, int64_t n, int number) : row(from), columns(n), lane(number) {
    TESSERA_UNROLL
    for (int p = 0; p < packs; ++p)
      if (column(p) < columns) load(values[p], column(p));
  }
  TESSERA_DEVICE int64_t column(int pack) const { return (int64_t(pack) * group + lane) * Count; }
  TESSERA_DEVICE void load(float (&to)[Count], int64_t c) const {
    const auto elements = load_elements<Count>(row + c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) to[i] = widen(elements[i]);
  }
  /// Calls visit(column of the first, values) for each of this thread's packs.
  template <class F>
  TESSERA_DEVICE void for_each(F&& visit) const {
    TESSERA_UNROLL
    for (int p = 0; p < packs; ++p)
      if (column(p) < columns) visit(column(p), values[p]);
    for (int64_t c = column(packs); c < columns; c += int64_t(group) * Count) {
      float loaded[Count];
      load(loaded, c);
      visit(c, loaded);
    }
  }
};

template <int Count, class T>
TESSERA_DEVICE void store_rounded(T* to, const float (&values)[Count]) {
  Elements<T, Count> elements;
  TESSERA_UNROLL
  for (int i = 0; i < Count; ++i) elements[i] = narrow<T>(values[i]);
  store_elements<Count>(to, elements);
}

/// y = softmax(x), or its logarithm; rows of `columns`. y may be x.
template <class T, int Count, int group, bool logarithm>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(softmax_traits::threads)
    softmax_forward_kernel(T* y, const T* x, int64_t rows, int64_t columns) {
  using Group = RowGroup<softmax_traits::threads, group>;
  TESSERA_SHARED(float, scratch, softmax_traits::threads / warp_size);
  const int64_t row = Group::first_row();
  if (row >= rows) return;  // the whole group
  const HeldRow<T, Count, group> held(x + row * columns, columns, Group::lane());

  float largest = negative_infinity();  // NaN is passed over here; it comes out of the sum
  held.for_each([&](int64_t, const float(&values)[Count]) {
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) largest = fmaxf(largest, values[i]);
  });
  largest = Group::max(largest, scratch);
  // A row of nothing but -infinity: exponentials are 0, not NaN.
  const float shift = largest == negative_infinity() ? 0.0f : largest;
  float sum = 0;
  held.for_each([&](int64_t, const float(&values)[Count]) {
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) sum += exp_approximate(values[i] - shift);
  });
  sum = Group::sum(sum, scratch);
  const float factor = sum == 0.0f ? 0.0f : 1.0f / sum, log_sum = sum == 0.0f ? 0.0f : logf(sum);
  held.for_each([&](int64_t c, const float(&values)[Count]) {
    float out[Count];
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i)  // in two steps: shift + log_sum would round log_sum away where logits are large
      out[i] = logarithm ? (values[i] - shift) - log_sum : exp_approximate(values[i] - shift) * factor;
    store_rounded<Count>(y + row * columns + c, out);
  });
}

/// d_x = y (d_y - sum(y d_y)), or for the logarithm d_y - e^y sum(d_y), 0 where the row is all -infinity. d_x may be
/// d_y.
template <class T, int Count, int group, bool logarithm>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(softmax_traits::threads)
    softmax_backward_kernel(T* d_x, const T* d_y, const T* y, int64_t rows, int64_t columns) {
  using Group = RowGroup<softmax_traits::threads, group>;
  TESSERA_SHARED(float, scratch, softmax_traits::threads / warp_size);
  const int64_t row = Group::first_row();
  if (row >= rows) return;
  const HeldRow<T, Count, group> held(y + row * columns, columns, Group::lane());
  const T* d_y_row = d_y + row * columns;
  const auto gradients = [&](float(&to)[Count], int64_t c) {
    const auto elements = load_elements<Count>(d_y_row + c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) to[i] = widen(elements[i]);
  };

  float sum = 0, probabilities = 0;  // y d_y, or d_y and e^y
  held.for_each([&](int64_t c, const float(&values)[Count]) {
    float d[Count];
    gradients(d, c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) {
      sum += logarithm ? d[i] : values[i] * d[i];
      if (logarithm) probabilities += exp_approximate(values[i]);
    }
  });
  sum = Group::sum(sum, scratch);
  float passes = 1;
  if (logarithm) passes = Group::sum(probabilities, scratch) == 0.0f ? 0.0f : 1.0f;
  held.for_each([&](int64_t c, const float(&values)[Count]) {
    float d[Count];
    gradients(d, c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i)
      d[i] = logarithm ? passes * (d[i] - exp_approximate(values[i]) * sum) : values[i] * (d[i] - sum);
    store_rounded<Count>(d_x + row * columns + c, d);
  });
}

template <class T, bool logarithm>
struct SoftmaxLaunches {
  using Device = KernelDevice;
  using Traits = softmax_traits;

  static void forward(Context<Device>& ctx, Out<T, 2, Device> y, In<T, 2, Device> x) {
    constexpr int count = Pack<T>::count;
    const auto [rows, columns] = x.shape;
    if (rows * columns == 0) return;
    const bool warps = columns <= Traits::longest_of_warp;
    const auto start = [&, rows = rows, columns = columns](auto* kernel) {
      launch(logarithm ? "log_softmax_forward" : "softmax_forward", kernel, blocks(rows, warps),
             unsigned(Traits::threads), 0, ctx, y.data, x.data, rows, columns);
    };
    if (fits_packs<T>(columns, {y.data, x.data}))
      start(warps ? softmax_forward_kernel<T, count, warp_size, logarithm>
                  : softmax_forward_kernel<T, count, Traits::threads, logarithm>);
    else
      start(warps ? softmax_forward_kernel<T, 1, warp_size, logarithm>
                  : softmax_forward_kernel<T, 1, Traits::threads, logarithm>);
  }
  static void backward(Context<Device>& ctx, Out<T, 2, Device> d_x, In<T, 2, Device> d_y, In<T, 2, Device> y) {
    constexpr int count = Pack<T>::count;
    const auto [rows, columns] = y.shape;
    if (rows * columns == 0) return;
    const bool warps = columns <= Traits::longest_of_warp;
    const auto start = [&, rows = rows, columns = columns](auto* kernel) {
      launch(logarithm ? "log_softmax_backward" : "softmax_backward", kernel, blocks(rows, warps),
             unsigned(Traits::threads), 0, ctx, d_x.data, d_y.data, y.data, rows, columns);
    };
    if (fits_packs<T>(columns, {d_x.data, d_y.data, y.data}))
      start(warps ? softmax_backward_kernel<T, count, warp_size, logarithm>
                  : softmax_backward_kernel<T, count, Traits::threads, logarithm>);
    else
      start(warps ? softmax_backward_kernel<T, 1, warp_size, logarithm>
                  : softmax_backward_kernel<T, 1, Traits::threads, logarithm>);
  }

 private:
  static unsigned blocks(int64_t rows, bool warps) { return blocks_for(rows, warps ? Traits::threads / warp_size : 1); }
};

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::softmax, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 2, Device> y, In<T, 2, Device> x) {
    kernels::SoftmaxLaunches<T, false>::forward(ctx, y, x);
  }
  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 2, Device> d_x, In<T, 2, Device> d_y, In<T, 2, Device> y) {
    kernels::SoftmaxLaunches<T, false>::backward(ctx, d_x, d_y, y);
  }
};

template <>
struct Backend<op::log_softmax, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 2, Device> y, In<T, 2, Device> x) {
    kernels::SoftmaxLaunches<T, true>::forward(ctx, y, x);
  }
  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 2, Device> d_x, In<T, 2, Device> d_y, In<T, 2, Device> y) {
    kernels::SoftmaxLaunches<T, true>::backward(ctx, d_x, d_y, y);
  }
};

}  // namespace tessera
