// Memory of a device and the caching pool that tensors come from.
//
// Ownership: a tensor's buffer holds its pool alive, and a pool holds what it needs to free memory (for Cuda: its
// stream). A context may therefore be destroyed before the tensors made from it. A freed block goes back to the pool,
// to be handed out again in stream order.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include <tessera/core/device.hpp>
#include <tessera/core/error.hpp>

namespace tessera {

/// Host memory, aligned to 64 bytes.
template <>
struct Memory<Cpu> {
  static constexpr size_t alignment = 64;  // one cache line, one AVX-512 register
  static void* allocate(size_t bytes) { return ::operator new(bytes, std::align_val_t(alignment)); }
  static void release(void* data) noexcept { ::operator delete(data, std::align_val_t(alignment)); }
  // memset and memcpy take no null pointer, not even for 0 bytes.
  static void fill(void* to, int byte, size_t bytes) {
    if (bytes > 0) std::memset(to, byte, bytes);
  }
  static void to_host(void* to, const void* from, size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  static void from_host(void* to, const void* from, size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
};

struct PoolOptions {
  bool cache = true;  ///< keep freed blocks for later allocations of the same size class
  bool fill_with_nan =
      false;  ///< set every new buffer to 0xff bytes (NaN in all floating types): finds unwritten outputs
};

/// A thread-safe caching allocator with counters.
template <class Device>
class Pool : public std::enable_shared_from_this<Pool<Device>> {
 public:
  explicit Pool(PoolOptions options = {}) : options_(options) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() { trim(); }

  /// At least `bytes` bytes, uninitialised; freed when the last copy of the result goes. Throws Error where memory has
  /// run out, after giving the cached blocks back.
  std::shared_ptr<void> allocate(size_t bytes) {
    require<Error>(bytes <= size_t(-1) / 4, "Pool: ", bytes, " bytes are more than memory can hold");
    const size_t size = size_class(bytes);
    void* data = take(size);
    if (options_.fill_with_nan) Memory<Device>::fill(data, 0xff, size);
    return std::shared_ptr<void>(data, [pool = this->shared_from_this(), size](void* p) { pool->give(p, size); });
  }
  /// Gives all cached blocks back to the system.
  void trim() noexcept {
    std::lock_guard lock(mutex_);
    release_cached();
  }
  size_t bytes_in_use() const { return locked(bytes_in_use_); }
  size_t bytes_cached() const { return locked(bytes_cached_); }
  size_t peak_bytes() const { return locked(peak_bytes_); }
  void reset_peak() {
    std::lock_guard lock(mutex_);
    peak_bytes_ = bytes_in_use_;
  }

 private:
  // Steps of one eighth of the power of two below: at most 12.5 % is lost, and sizes that wander still hit the cache.
  static size_t size_class(size_t bytes) {
    size_t step = 64;
    while (bytes / step >= 16) step *= 2;
    return bytes == 0 ? step : (bytes + step - 1) / step * step;
  }
  void* take(size_t size) {
    std::lock_guard lock(mutex_);
    void* data = nullptr;
    if (auto found = cached_.find(size); found != cached_.end() && !found->second.empty()) {
      data = found->second.back();
      found->second.pop_back();
      bytes_cached_ -= size;
    } else {
      data = allocate_or_trim(size);
    }
    bytes_in_use_ += size;
    if (bytes_in_use_ > peak_bytes_) peak_bytes_ = bytes_in_use_;
    return data;
  }
  // With the lock held.
  void release_cached() noexcept {
    for (auto& [size, blocks] : cached_)
      for (void* block : blocks) Memory<Device>::release(block);
    cached_.clear();
    bytes_cached_ = 0;
  }
  void* allocate_or_trim(size_t size) {
    try {
      return Memory<Device>::allocate(size);
    } catch (const std::bad_alloc&) {
    }
    release_cached();
    try {
      return Memory<Device>::allocate(size);
    } catch (const std::bad_alloc&) {
      fail<Error>("Pool: out of memory: ", size, " bytes asked for while ", bytes_in_use_, " are in use");
    }
  }
  void give(void* data, size_t size) noexcept {
    std::lock_guard lock(mutex_);
    bytes_in_use_ -= size;
    if (options_.cache) {
      try {
        cached_[size].push_back(data);
        bytes_cached_ += size;
        return;
      } catch (const std::bad_alloc&) {  // no room to remember the block: free it instead
      }
    }
    Memory<Device>::release(data);
  }
  size_t locked(const size_t& counter) const {
    std::lock_guard lock(mutex_);
    return counter;
  }

  PoolOptions options_;
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<void*>> cached_;
  size_t bytes_in_use_ = 0, bytes_cached_ = 0, peak_bytes_ = 0;
};

}  // namespace tessera
