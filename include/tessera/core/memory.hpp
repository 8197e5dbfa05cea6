// Memory of a device and the caching pool that tensors come from.
//
// Ownership: a tensor's buffer holds its pool alive, and a pool holds what it needs to free memory (for Cuda: its
// stream). A context may therefore be destroyed before the tensors made from it. A freed block goes back to the pool,
// to be handed out again in stream order.
#pragma once
#include <algorithm>
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

/// What a pool does with freed blocks and with new ones.
struct PoolOptions {
  /// Keep freed blocks for later allocations of the same size class.
  bool cache = true;
  /// Bytes of freed blocks that are always kept. More are kept only up to as many as were ever in use at once
  /// (peak_bytes), so that a training step finds the blocks of the step before it.
  size_t cached_bytes = size_t(256) << 20;
  /// Set every new buffer to 0xff bytes (NaN in all floating types): finds unwritten outputs.
  bool fill_with_nan = false;
};

/// A thread-safe caching allocator with counters. Of freed blocks it keeps at most
/// max(PoolOptions::cached_bytes, peak_bytes()); what goes first are the sizes that were longest not asked for.
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
  /// Gives cached blocks back to the system until at most `keep` bytes of them are left.
  void trim(size_t keep = 0) noexcept {
    std::lock_guard lock(mutex_);
    release_cached(keep);
  }
  /// Bytes of all blocks that somebody holds, rounded up to size classes.
  size_t bytes_in_use() const { return locked(bytes_in_use_); }
  /// Bytes of freed blocks that are kept.
  size_t bytes_cached() const { return locked(bytes_cached_); }
  /// The largest bytes_in_use() so far, or since reset_peak().
  size_t peak_bytes() const { return locked(peak_bytes_); }
  /// Forgets the peak; the bound of the cache, which follows it, becomes smaller too.
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
    if (auto found = cached_.find(size); found != cached_.end() && !found->second.blocks.empty()) {
      data = found->second.blocks.back();
      found->second.blocks.pop_back();
      found->second.last_used = ++uses_;
      bytes_cached_ -= size;
    } else {
      data = allocate_or_trim(size);
    }
    bytes_in_use_ += size;
    if (bytes_in_use_ > peak_bytes_) peak_bytes_ = bytes_in_use_;
    return data;
  }
  // With the lock held: frees blocks of the size that was longest not used, and so on. There are a few hundred sizes at
  // most.
  void release_cached(size_t keep) noexcept {
    while (bytes_cached_ > keep) {
      const auto oldest = std::min_element(cached_.begin(), cached_.end(), [](const auto& a, const auto& b) {
        return a.second.last_used < b.second.last_used;
      });
      auto& [size, cached] = *oldest;
      for (; bytes_cached_ > keep && !cached.blocks.empty(); cached.blocks.pop_back()) {
        Memory<Device>::release(cached.blocks.back());
        bytes_cached_ -= size;
      }
      if (cached.blocks.empty()) cached_.erase(oldest);
    }
  }
  void* allocate_or_trim(size_t size) {
    try {
      return Memory<Device>::allocate(size);
    } catch (const std::bad_alloc&) {
    }
    release_cached(0);
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
        CachedBlocks& cached = cached_[size];
        cached.blocks.push_back(data);
        cached.last_used = ++uses_;
        bytes_cached_ += size;
        release_cached(std::max(options_.cached_bytes, peak_bytes_));
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

  /// Freed blocks of one size, and when the last of them came or went.
  struct CachedBlocks {
    std::vector<void*> blocks;
    uint64_t last_used = 0;
  };

  PoolOptions options_;
  mutable std::mutex mutex_;
  std::map<size_t, CachedBlocks> cached_;
  size_t bytes_in_use_ = 0, bytes_cached_ = 0, peak_bytes_ = 0;
  uint64_t uses_ = 0;  // a clock that counts cached blocks coming and going
};

}  // namespace tessera
