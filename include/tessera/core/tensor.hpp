// Tensors. `Tensor` owns contiguous row-major memory (shared, from a context's pool) and is a `TensorView`, which
// borrows memory, with strides. The rank is static: signatures document shapes and wrong ranks do not compile. The last
// axis is always contiguous; an operation that needs all of a view contiguous says so by name (expect_contiguous).
//
// Signatures: exactly the context and the first output deduce; all other arguments are In<…>/Out<…>, to which tensors,
// views and `{}` (absent) convert.
#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <tessera/core/context.hpp>
#include <tessera/core/dtype.hpp>
#include <tessera/core/shape.hpp>

namespace tessera {

/// Borrowed elements of a fixed number of axes; copies are shallow. Default-made it is absent: the `{}` of signatures.
template <class T, int Rank, class Device = Cpu>
struct TensorView {
  using value_type = std::remove_const_t<T>;
  using device_type = Device;
  static constexpr int rank = Rank;

  T* data = nullptr;      ///< element 0; null: absent
  Shape<Rank> shape{};    ///< extents, outermost axis first
  Shape<Rank> strides{};  ///< in elements; the last is 1

  TensorView() = default;
  TensorView(T* values, const Shape<Rank>& extents)
      : data(values), shape(extents), strides(contiguous_strides(extents)) {}
  TensorView(T* values, const Shape<Rank>& extents, const Shape<Rank>& steps)
      : data(values), shape(extents), strides(steps) {}
  template <class U>
  requires(std::is_same_v<const U, T>) TensorView(const TensorView<U, Rank, Device>& other)
      : data(other.data), shape(other.shape), strides(other.strides) {}

  /// Whether the argument is present.
  explicit operator bool() const { return data != nullptr; }
  /// The number of elements.
  int64_t size() const { return element_count(shape); }
  /// Whether the elements lie one behind the other, in the order of the axes.
  bool is_contiguous() const {
    if (size() == 0) return true;
    int64_t step = 1;
    for (int axis = Rank - 1; axis >= 0; --axis) {
      if (shape[size_t(axis)] != 1 && strides[size_t(axis)] != step) return false;
      step *= shape[size_t(axis)];
    }
    return true;
  }
  /// One element, for host code on Cpu tensors.
  template <class... Index>
  T& operator()(Index... index) const {
    static_assert(sizeof...(Index) == size_t(Rank), "tessera: one index an axis");
    int64_t offset = 0;
    size_t axis = 0;
    ((offset += int64_t(index) * strides[axis++]), ...);
    return data[offset];
  }
  /// The view at `index` of `axis`, one rank lower. Not the last axis: it must stay contiguous.
  auto select(int axis, int64_t index) const {
    require<ShapeError>(axis >= 0 && axis < Rank - 1 && index >= 0 && index < shape[size_t(axis)],
                        "TensorView::select: index ", index, " on axis ", axis, " of ", to_string(shape));
    TensorView<T, Rank - 1, Device> view;
    for (int from = 0, to = 0; from < Rank; ++from)
      if (from != axis) {
        view.shape[size_t(to)] = shape[size_t(from)];
        view.strides[size_t(to++)] = strides[size_t(from)];
      }
    view.data = data + index * strides[size_t(axis)];
    return view;
  }
  /// The view of [begin, end) of `axis`.
  TensorView slice(int axis, int64_t begin, int64_t end) const {
    require<ShapeError>(axis >= 0 && axis < Rank && 0 <= begin && begin <= end && end <= shape[size_t(axis)],
                        "TensorView::slice: [", begin, ", ", end, ") on axis ", axis, " of ", to_string(shape));
    TensorView view = *this;
    view.shape[size_t(axis)] = end - begin;
    view.data = data + begin * strides[size_t(axis)];
    return view;
  }
  /// The same elements under another shape; contiguous views only.
  template <size_t NewRank>
  TensorView<T, int(NewRank), Device> reshape(const std::array<int64_t, NewRank>& extents) const {
    const bool fits =
        element_count(extents) == size() && std::ranges::all_of(extents, [](int64_t n) { return n >= 0; });
    require<ShapeError>(fits && is_contiguous(), "TensorView::reshape: ", to_string(shape),
                        is_contiguous() ? "" : " (not contiguous)", " to ", to_string(extents));
    return {data, extents};
  }
  /// [rows, last axis]; contiguous views only.
  TensorView<T, 2, Device> rows() const {
    static_assert(Rank >= 1);
    const int64_t columns = shape[size_t(Rank - 1)];
    return reshape(Shape<2>{columns ? size() / columns : 0, columns});
  }
  /// All elements along one axis; contiguous views only.
  TensorView<T, 1, Device> flat() const { return reshape(Shape<1>{size()}); }
};

/// Parameters of operations: views that no template argument is deduced from, so that tensors, views and {} (absent)
/// all fit. In is read, Out is written.
template <class T, int Rank, class Device>
using In = std::type_identity_t<TensorView<const T, Rank, Device>>;
template <class T, int Rank, class Device>
using Out = std::type_identity_t<TensorView<T, Rank, Device>>;

/// Owned, contiguous, row-major elements. Copies share the memory; it goes back to its pool with the last of them.
template <class T, int Rank, class Device = Cpu>
struct Tensor : TensorView<T, Rank, Device> {
  static_assert(!std::is_const_v<T>);
  std::shared_ptr<void> buffer;

  Tensor() = default;
  /// Uninitialised. Throws ShapeError for a negative extent or a size beyond memory's addresses, and Error where memory
  /// has run out.
  Tensor(Context<Device>& ctx, const Shape<Rank>& extents) {
    constexpr int64_t most = int64_t(1) << 47;  // bytes; also keeps the products below from overflowing
    int64_t bytes = int64_t(sizeof(T));
    for (int64_t extent : extents) {
      require<ShapeError>(extent >= 0, "Tensor: negative extent in ", to_string(extents));
      require<ShapeError>(extent == 0 || bytes <= most / extent, "Tensor: ", to_string(extents), " elements of ",
                          sizeof(T), " bytes are more than memory can hold");
      bytes *= extent;
    }
    buffer = ctx.pool->allocate(size_t(bytes));
    static_cast<TensorView<T, Rank, Device>&>(*this) = {static_cast<T*>(buffer.get()), extents};
  }
  static Tensor zeros(Context<Device>& ctx, const Shape<Rank>& extents) {
    Tensor t(ctx, extents);
    t.set_zero();
    return t;
  }
  /// From values in host memory, row-major.
  static Tensor from_host(Context<Device>& ctx, const Shape<Rank>& extents, const T* values) {
    Tensor t(ctx, extents);
    Memory<Device>::from_host(t.data, values, size_t(t.size()) * sizeof(T));
    return t;
  }
  static Tensor from_host(Context<Device>& ctx, const Shape<Rank>& extents, const std::vector<T>& values) {
    require<ShapeError>(int64_t(values.size()) == element_count(extents), "Tensor::from_host: ", values.size(),
                        " values for shape ", to_string(extents));
    return from_host(ctx, extents, values.data());
  }
  void set_zero() { Memory<Device>::fill(this->data, 0, size_t(this->size()) * sizeof(T)); }
  /// The same memory under another shape, owned as before.
  template <size_t NewRank>
  Tensor<T, int(NewRank), Device> reshaped(const std::array<int64_t, NewRank>& extents) const {
    Tensor<T, int(NewRank), Device> t;
    static_cast<TensorView<T, int(NewRank), Device>&>(t) = this->reshape(extents);
    t.buffer = buffer;
    return t;
  }
};

/// A tensor as the view that it is: for arguments whose type is deduced from a view.
template <class T, int Rank, class Device>
TensorView<T, Rank, Device> view(const TensorView<T, Rank, Device>& tensor) {
  return tensor;
}

/// A contiguous view's values in host memory.
template <class T, int Rank, class Device>
std::vector<std::remove_const_t<T>> to_host(const TensorView<T, Rank, Device>& view) {
  require<ShapeError>(view.is_contiguous(), "to_host: a view of shape ", to_string(view.shape), " is not contiguous");
  std::vector<std::remove_const_t<T>> values(size_t(view.size()));
  if (!values.empty()) Memory<Device>::to_host(values.data(), view.data, values.size() * sizeof(T));
  return values;
}

/// Throws unless the argument is contiguous, or absent.
template <class T, int Rank, class Device>
void expect_contiguous(std::string_view op, std::string_view name, const TensorView<T, Rank, Device>& view) {
  if (view && !view.is_contiguous()) [[unlikely]]
    fail<ShapeError>(op, ": ", name, " ", to_string(view.shape), " is a view with strides ", to_string(view.strides),
                     "; this operation needs it contiguous (copy it first)");
}
/// Throws unless an argument that must be there is there.
template <class T, int Rank, class Device>
void expect_present(std::string_view op, std::string_view name, const TensorView<T, Rank, Device>& view) {
  if (!view) [[unlikely]]
    fail<ValueError>(op, ": ", name, " is absent but needed here");
}

/// A host tensor whose type is known at run time: what files and optimisers hold.
struct AnyTensor {
  Dtype dtype = Dtype::f32;
  std::vector<int64_t> shape;
  std::shared_ptr<const void> storage;

  int64_t size() const {
    int64_t n = 1;
    for (int64_t extent : shape) n *= extent;
    return n;
  }
  /// Of all elements together.
  size_t bytes() const { return size_t(size()) * dtype_size(dtype); }
  template <class T>
  const T* as() const {
    require(dtype == dtype_of<T>, "AnyTensor: holds ", dtype_name(dtype), ", asked for as ", dtype_name(dtype_of<T>));
    return static_cast<const T*>(storage.get());
  }
};

}  // namespace tessera
