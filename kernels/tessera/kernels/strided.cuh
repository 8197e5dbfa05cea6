// Arrays of one shape, each with strides of its own, walked together: y = f(x…) at every element. What elementwise
// operations, broadcasting, copies and slices share. A thread takes a pack of 16 bytes of y where all arrays allow it,
// else one element. Neighbouring axes are merged first, so that contiguous arrays of any rank are one long row.
#pragma once
#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include <tessera/core/shape.hpp>
#include <tessera/device/launch.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct elementwise_traits {
  static constexpr int threads = 256;
};

// ---- a few elements at once ----

/// `Count` consecutive elements in registers.
template <class T, int Count>
struct Elements {
  T values[Count];
  TESSERA_DEVICE T& operator[](int i) { return values[i]; }
  TESSERA_DEVICE const T& operator[](int i) const { return values[i]; }
};

/// The address that loads of `Count` elements ask for is a multiple of this many bytes.
template <class T, int Count>
inline constexpr int64_t pack_alignment = std::min<int64_t>(16, int64_t(sizeof(T)) * Count);

/// Elements from `from` on, in loads of up to 16 bytes; `from` is a multiple of pack_alignment.
template <int Count, class T>
TESSERA_DEVICE Elements<T, Count> load_elements(const T* from TESSERA_CALLER) {
  constexpr int step = int(pack_alignment<T, Count> / int64_t(sizeof(T)));
  Elements<T, Count> elements;
  TESSERA_UNROLL
  for (int first = 0; first < Count; first += step) {
    const auto pack = load_pack<T, step>(from + first TESSERA_PASS_CALLER);
    TESSERA_UNROLL
    for (int i = 0; i < step; ++i) elements[first + i] = pack[i];
  }
  return elements;
}
template <int Count, class T>
TESSERA_DEVICE void store_elements(T* to, const Elements<T, Count>& elements TESSERA_CALLER) {
  constexpr int step = int(pack_alignment<T, Count> / int64_t(sizeof(T)));
  TESSERA_UNROLL
  for (int first = 0; first < Count; first += step) {
    Pack<T, step> pack;
    TESSERA_UNROLL
    for (int i = 0; i < step; ++i) pack[i] = elements[first + i];
    store_pack(to + first, pack TESSERA_PASS_CALLER);
  }
}

/// Division of numbers below 2^31 by one that the host knows: a multiplication, an addition and a shift (Granlund &
/// Montgomery, "Division by invariant integers using multiplication", 1994).
struct Divisor {
  uint32_t divisor = 1, multiplier = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t d) : divisor(uint32_t(d)) {
    while ((uint64_t(1) << shift) < divisor) ++shift;
    multiplier = uint32_t((uint64_t(1) << 32) * ((uint64_t(1) << shift) - divisor) / divisor + 1);
  }
  TESSERA_DEVICE uint32_t quotient(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
};

// ---- shapes and strides ----

/// Host: the shape and the strides of `Arrays` arrays, axes of extent 1 left out and neighbours merged.
template <int Arrays>
struct StridedAxes {
  static constexpr int most_axes = 8;
  int axes = 0;
  std::array<int64_t, most_axes> extents{};
  std::array<std::array<int64_t, size_t(Arrays)>, most_axes> strides{};
  int64_t most_elements = int64_t(1) << 30;  ///< of one launch, which counts in 32 bits

  template <size_t Rank>
  StridedAxes(const std::array<int64_t, Rank>& shape,
              const std::type_identity_t<std::array<std::array<int64_t, Rank>, size_t(Arrays)>>& steps) {
    static_assert(Rank <= most_axes, "tessera: more axes than kernels take");
    for (size_t axis = 0; axis < Rank; ++axis) {
      if (shape[axis] == 1) continue;
      bool merges = axes > 0;
      for (size_t array = 0; array < size_t(Arrays); ++array)
        merges = merges && strides[size_t(axes - 1)][array] == steps[array][axis] * shape[axis];
      if (!merges) extents[size_t(axes++)] = 1;
      extents[size_t(axes - 1)] *= shape[axis];
      for (size_t array = 0; array < size_t(Arrays); ++array) strides[size_t(axes - 1)][array] = steps[array][axis];
    }
    if (axes == 0) {  // one element
      axes = 1;
      extents[0] = 1;
      strides[0].fill(1);
    }
  }
  int64_t size() const {
    int64_t n = 1;
    for (int axis = 0; axis < axes; ++axis) n *= extents[size_t(axis)];
    return n;
  }
  const std::array<int64_t, size_t(Arrays)>& inner_strides() const { return strides[size_t(axes - 1)]; }

  /// Whether array number `array` can be read in loads of `Count` elements along the last axis, or is constant there.
  template <int Count, class T>
  bool fits(int array, const T* data) const {
    const int64_t inner = inner_strides()[size_t(array)];
    if (inner == 0 && array > 0) return true;
    constexpr int64_t alignment = pack_alignment<T, Count>;
    bool fits = inner == 1 && int64_t(reinterpret_cast<uintptr_t>(data) % uintptr_t(alignment)) == 0;
    for (int axis = 0; axis + 1 < axes; ++axis)
      fits = fits && strides[size_t(axis)][size_t(array)] * int64_t(sizeof(T)) % alignment == 0;
    return fits;
  }
};

/// The same as a kernel's argument, in packs of the last axis.
template <int Arrays>
struct StridedPacks {
  uint32_t packs;  // of all rows
  int64_t length;  // of a row, in elements
  Divisor packs_of_row;
  int outer_axes;
  Divisor extents[StridedAxes<Arrays>::most_axes];
  int64_t strides[StridedAxes<Arrays>::most_axes][Arrays];  // the last axis' at outer_axes

  StridedPacks(const StridedAxes<Arrays>& from, int count) {
    outer_axes = from.axes - 1;
    length = from.extents[size_t(outer_axes)];
    packs_of_row = Divisor(ceil_div(length, count));
    packs = packs_of_row.divisor;
    for (int axis = 0; axis < from.axes; ++axis) {
      extents[axis] = Divisor(from.extents[size_t(axis)]);
      if (axis < outer_axes) packs *= uint32_t(from.extents[size_t(axis)]);
      std::copy_n(from.strides[size_t(axis)].begin(), Arrays, strides[axis]);
    }
  }
};

// ---- y = f(x…) ----

/// An operand's elements of a pack: loaded, or one value for all.
template <int Count, class T>
TESSERA_DEVICE Elements<T, Count> load_operand(const T* from, int64_t stride) {
  if (Count > 1 && stride == 1) return load_elements<Count>(from);
  Elements<T, Count> elements;
  const T value = *from;
  TESSERA_UNROLL
  for (int i = 0; i < Count; ++i) elements[i] = value;
  return elements;
}
template <int Count, class F, class Y, class... X>
TESSERA_DEVICE void store_results(F f, Y* y, const Elements<X, Count>&... x) {
  Elements<Y, Count> results;
  TESSERA_UNROLL
  for (int i = 0; i < Count; ++i) results[i] = f(x[i]...);
  store_elements<Count>(y, results);
}
/// One pack; offsets and strides are those of y and of each x.
template <int Count, size_t... Index, class F, class Y, class... X>
TESSERA_DEVICE void apply_to_pack(F f, std::index_sequence<Index...>, int count, const int64_t* offsets,
                                  const int64_t* strides, Y* y, const X*... x) {
  if (count == Count) {
    store_results<Count>(f, y + offsets[0], load_operand<Count>(x + offsets[1 + Index], strides[1 + Index])...);
  } else {
    for (int i = 0; i < count; ++i)
      y[offsets[0] + i * strides[0]] = f(x[offsets[1 + Index] + i * strides[1 + Index]]...);
  }
}

/// y = f(x…); one thread a pack of `Count` elements of y. y may be one of x where their strides are the same.
template <class F, int Count, class Y, class... X>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(elementwise_traits::threads)
    elementwise_kernel(F f, StridedPacks<1 + int(sizeof...(X))> at, Y* y, const X*... x) {
  constexpr int arrays = 1 + int(sizeof...(X));
  const uint32_t pack = blockIdx.x * elementwise_traits::threads + threadIdx.x;
  if (pack >= at.packs) return;
  uint32_t row = at.packs_of_row.quotient(pack);
  const int64_t column = int64_t(pack - row * at.packs_of_row.divisor) * Count;
  int64_t offsets[arrays], strides[arrays];
  TESSERA_UNROLL
  for (int array = 0; array < arrays; ++array) {
    strides[array] = at.strides[at.outer_axes][array];
    offsets[array] = column * strides[array];
  }
  for (int axis = at.outer_axes - 1; axis >= 0; --axis) {
    const uint32_t above = at.extents[axis].quotient(row), index = row - above * at.extents[axis].divisor;
    TESSERA_UNROLL
    for (int array = 0; array < arrays; ++array) offsets[array] += index * at.strides[axis][array];
    row = above;
  }
  const int count = int(min(int64_t(Count), at.length - column));
  apply_to_pack<Count>(f, std::make_index_sequence<sizeof...(X)>{}, count, offsets, strides, y, x...);
}

template <class F, class Y, class... X, size_t... Index>
void launch_elementwise(const char* name, Context<KernelDevice>& ctx, F f,
                        const StridedAxes<1 + int(sizeof...(X))>& axes, std::index_sequence<Index...>, Y* y,
                        const X*... x) {
  constexpr int count = int(16 / sizeof(Y));
  const auto start = [&](auto* kernel, int count_of_pack) {
    const StridedPacks<1 + int(sizeof...(X))> at(axes, count_of_pack);
    launch(name, kernel, blocks_for(at.packs, elementwise_traits::threads), unsigned(elementwise_traits::threads), 0,
           ctx, f, at, y, x...);
  };
  if (axes.template fits<count>(0, y) && (axes.template fits<count>(1 + int(Index), x) && ...))
    start(elementwise_kernel<F, count, Y, X...>, count);
  else
    start(elementwise_kernel<F, 1, Y, X...>, 1);
}

/// Host: queues y = f(x…) on the context. f is a small struct whose operator() takes elements and gives an element; the
/// first of the arrays in `axes` is y.
template <class F, class Y, class... X>
void elementwise(const char* name, Context<KernelDevice>& ctx, F f,
                 const std::type_identity_t<StridedAxes<1 + int(sizeof...(X))>>& axes, Y* y, const X*... x) {
  if (axes.size() == 0) return;
  constexpr auto operands = std::index_sequence_for<X...>{};
  if (axes.size() <= axes.most_elements) return launch_elementwise(name, ctx, f, axes, operands, y, x...);
  // Too many for one launch: the outermost axis in two. Halves begin where packs begin.
  size_t axis = 0;
  while (axes.extents[axis] == 1) ++axis;  // cut down to one before
  auto low = axes, high = axes;
  low.extents[axis] = axes.extents[axis] < 32 ? axes.extents[axis] / 2 : axes.extents[axis] / 32 * 16;
  high.extents[axis] -= low.extents[axis];
  elementwise(name, ctx, f, low, y, x...);
  const auto behind = [&]<size_t... Index>(std::index_sequence<Index...>) {
    elementwise(name, ctx, f, high, y + low.extents[axis] * axes.strides[axis][0],
                (x + low.extents[axis] * axes.strides[axis][1 + Index])...);
  };
  behind(operands);
}

/// A function for elementwise(): factor * x, rounded to Y.
template <class Y>
struct Scale {
  float factor;
  template <class X>
  TESSERA_DEVICE Y operator()(X x) const {
    return narrow<Y>(factor * widen(x));
  }
};

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
