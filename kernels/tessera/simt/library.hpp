// Calls of a GPU's libraries (products, convolutions) on the Simt device: the host's own implementation does the work,
// when the stream comes to it, and the race detector sees what it reads and writes as if a kernel had done it.
//
//   simt::LibraryCall call("matmul");
//   call.reads(a);
//   call.writes(c);
//   call.queue(ctx, [=] {
//     Context<Cpu> host;
//     auto result = ...(host, simt::fetch(host, a));
//     simt::put(c, result);
//   });
//
// Like a launch's arguments, the views are copied and the buffers behind them must live until a later piece of the
// stream's work frees them, as tensors of the same context do.
#pragma once
#include <cstring>
#include <functional>
#include <utility>

#include <tessera/core/tensor.hpp>
#include <tessera/simt/calls.hpp>
#include <tessera/simt/device.hpp>

namespace tessera::simt {

/// Calls visit(first element, its place in a dense copy, count) for the contiguous pieces of a view.
template <class T, int Rank, class Visit>
void for_each_piece(const TensorView<T, Rank, Simt>& view, Visit&& visit) {
  if (view.size() == 0) return;
  int axis = Rank;  // from here on the view is contiguous
  int64_t piece = 1;
  while (axis > 0 && (view.shape[size_t(axis - 1)] == 1 || view.strides[size_t(axis - 1)] == piece))
    piece *= view.shape[size_t(--axis)];
  for (int64_t offset = 0; offset < view.size(); offset += piece) {
    int64_t rest = offset / piece;
    T* at = view.data;
    for (int outer = axis - 1; outer >= 0; rest /= view.shape[size_t(outer--)])
      at += rest % view.shape[size_t(outer)] * view.strides[size_t(outer)];
    visit(at, offset, piece);
  }
}

/// A call while it is put together. What lies between the rows of a strided view is not touched.
class LibraryCall {
 public:
  /// The name stands in errors, as a kernel's does.
  explicit LibraryCall(const char* name) : name_(name) {}

  /// The call will read, or write, the elements of `view`; of an absent one, nothing.
  template <class T, int Rank>
  void reads(const TensorView<T, Rank, Simt>& view, Site caller = Site::here()) {
    add(view, false, caller);
  }
  template <class T, int Rank>
  void writes(const TensorView<T, Rank, Simt>& view, Site caller = Site::here()) {
    add(view, true, caller);
  }
  /// Queues it on the context's stream. `work` may use the device's memory, by fetch() and put(). Throws Fault where a
  /// view goes out of bounds; a race or a read of uninitialised memory is thrown by the next synchronisation.
  void queue(Context<Simt>& ctx, std::function<void()> work) {
    detail::queue_library_call(*ctx.stream, name_, std::move(pieces_), std::move(work));
  }

 private:
  template <class T, int Rank>
  void add(const TensorView<T, Rank, Simt>& view, bool written, Site caller) {
    if (!view) return;
    for_each_piece(view, [&](const T* from, int64_t, int64_t count) {
      pieces_.push_back({from, size_t(count) * sizeof(T), written, caller});
    });
  }
  const char* name_;
  std::vector<detail::LibraryAccess> pieces_;
};

/// Within a call's work: a dense copy of a view in the host's memory. An absent view gives an absent tensor.
template <class T, int Rank>
Tensor<std::remove_const_t<T>, Rank> fetch(Context<Cpu>& host, const TensorView<T, Rank, Simt>& view) {
  if (!view) return {};
  Tensor<std::remove_const_t<T>, Rank> copy(host, view.shape);
  for_each_piece(view, [&](const T* from, int64_t offset, int64_t count) {
    std::memcpy(copy.data + offset, from, size_t(count) * sizeof(T));
  });
  return copy;
}
/// Within a call's work: the elements of `result`, which is contiguous, into a view of its shape.
template <class T, int Rank>
void put(const TensorView<T, Rank, Simt>& view, const std::type_identity_t<TensorView<const T, Rank, Cpu>>& result) {
  for_each_piece(view, [&](T* to, int64_t offset, int64_t count) {
    std::memcpy(to, result.data + offset, size_t(count) * sizeof(T));
  });
}

}  // namespace tessera::simt
