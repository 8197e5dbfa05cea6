// The GPU's memory, page-locked host memory, and copies between them that do not hold up the host.
#pragma once
#include <algorithm>
#include <cstring>
#include <new>

#include <tessera/core/memory.hpp>
#include <tessera/cuda/stream.hpp>

namespace tessera {
namespace cuda::detail {
/// The stream whose work is being captured as a graph by this thread (cuda/graph.hpp), or null; and where buffers go
/// that are freed meanwhile: the graph's launches may use them.
inline thread_local cudaStream_t capturing = nullptr;
inline thread_local std::vector<std::shared_ptr<void>>* kept_by_graph = nullptr;
struct Blocks;  // a device for the caching pool below

inline void refuse_in_capture(const char* what) {
  require<Fault>(
      capturing == nullptr, what,
      " in a step that is captured as a graph: a graph repeats what the GPU does, not what the host does; copy "
      "before or after the graph's launch");
}
}  // namespace cuda::detail

/// Copies and fills are ordered with the work of all streams: after what was queued before, before what is queued
/// later.
template <>
struct Memory<Cuda> {
  static constexpr size_t alignment = 256;
  /// Throws std::bad_alloc where the GPU has no room, so that a pool can give its cache back and try again.
  static void* allocate(size_t bytes) {
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, std::max<size_t>(bytes, 1));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    cuda::check(status, "memory on the GPU");
    return data;
  }
  /// Waits for the work that may still use it. At the end of the process the driver may be gone: then all is free.
  static void release(void* data) noexcept { cudaFree(data); }
  static void fill(void* to, int byte, size_t bytes) {
    const cudaStream_t stream = cuda::detail::capturing ? cuda::detail::capturing : cudaStreamLegacy;
    if (bytes > 0) cuda::check(cudaMemsetAsync(to, byte, bytes, stream), "filling memory on the GPU");
  }
  static void to_host(void* to, const void* from, size_t bytes) {
    cuda::detail::refuse_in_capture("a copy to the host");
    if (bytes > 0)
      cuda::check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "a copy to the host (or work queued before it)");
  }
  static void from_host(void* to, const void* from, size_t bytes) {
    cuda::detail::refuse_in_capture("a copy from the host");
    if (bytes > 0)
      cuda::check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "a copy to the GPU (or work queued before it)");
  }
};

template <>
struct Memory<cuda::detail::Blocks> : Memory<Cuda> {};

/// Buffers for the work of one stream: freed ones are handed out again in the order of that work, without waiting for
/// it. A buffer holds its pool and its stream.
template <>
class Pool<Cuda> {
 public:
  /// `of_graph`: its buffers are for a captured step alone.
  explicit Pool(PoolOptions options, std::shared_ptr<cuda::Stream> stream, bool of_graph = false)
      : stream_(std::move(stream)), blocks_(std::make_shared<Blocks>(options)), of_graph_(of_graph) {}

  /// At least `bytes` bytes, uninitialised. Throws Error where memory has run out.
  std::shared_ptr<void> allocate(size_t bytes) {
    auto held = std::make_shared<Held>(stream_, blocks_->allocate(bytes), of_graph_);
    void* data = held->block.get();
    return {std::move(held), data};
  }
  void trim(size_t keep = 0) noexcept { blocks_->trim(keep); }
  size_t bytes_in_use() const { return blocks_->bytes_in_use(); }
  size_t bytes_cached() const { return blocks_->bytes_cached(); }
  size_t peak_bytes() const { return blocks_->peak_bytes(); }
  void reset_peak() { blocks_->reset_peak(); }

 private:
  using Blocks = Pool<cuda::detail::Blocks>;
  struct Held {
    std::shared_ptr<cuda::Stream> stream;
    std::shared_ptr<void> block;
    bool of_graph;

    Held(std::shared_ptr<cuda::Stream> s, std::shared_ptr<void> b, bool graph)
        : stream(std::move(s)), block(std::move(b)), of_graph(graph) {}
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    ~Held() {
      if (!cuda::detail::kept_by_graph || of_graph) return;
      try {
        cuda::detail::kept_by_graph->push_back(block);
      } catch (const std::bad_alloc&) {  // the host's memory is out: then the buffer is freed as usual
      }
    }
  };
  std::shared_ptr<cuda::Stream> stream_;
  std::shared_ptr<Blocks> blocks_;
  bool of_graph_;
};

namespace cuda {

/// Page-locked host memory: the GPU copies from and to it by itself.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(size_t bytes) : bytes_(bytes) {
    check(cudaMallocHost(&data_, std::max<size_t>(bytes, 1)), "page-locked host memory");
  }
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~PinnedBuffer() {
    if (data_) cudaFreeHost(data_);
  }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  size_t size() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Carries batches to the GPU while it computes: a copy goes through one of two page-locked buffers, and the host waits
/// only where the GPU has not yet fetched what the buffer held before. One thread at a time.
class Staging {
 public:
  explicit Staging(size_t bytes_of_buffer = size_t(8) << 20) : slots_{Slot(bytes_of_buffer), Slot(bytes_of_buffer)} {}

  /// Queues a copy of `bytes` bytes on `stream`; `from` may be changed as soon as this returns.
  void copy_to_device(const Stream& stream, void* to, const void* from, size_t bytes) {
    detail::refuse_in_capture("a copy from the host");
    auto* target = static_cast<std::byte*>(to);
    auto* source = static_cast<const std::byte*>(from);
    while (bytes > 0) {
      Slot& slot = slots_[next_];
      next_ ^= 1;
      const size_t piece = std::min(bytes, slot.buffer.size());
      slot.fetched.synchronize();
      std::memcpy(slot.buffer.data(), source, piece);
      check(cudaMemcpyAsync(target, slot.buffer.data(), piece, cudaMemcpyHostToDevice, stream.handle()),
            "a staged copy to the GPU");
      slot.fetched.record(stream);
      target += piece;
      source += piece;
      bytes -= piece;
    }
  }

 private:
  struct Slot {
    explicit Slot(size_t bytes) : buffer(bytes) {}
    PinnedBuffer buffer;
    Event fetched;
    ~Slot() { cudaEventSynchronize(fetched.handle()); }
  };
  Slot slots_[2];
  int next_ = 0;
};

}  // namespace cuda
}  // namespace tessera
