// The Simt device: its memory, its pool and its context.
//
// Device memory may be touched by kernels and by the copies below alone: host code that follows a device pointer stops
// the program with a sentence. The pool rounds nothing up and keeps nothing: every tensor has its own pages between
// forbidden ones, right-aligned, so that the first byte past its end is out of bounds.
#pragma once
#include <memory>

#include <tessera/core/context.hpp>
#include <tessera/simt/emulator.hpp>

namespace tessera {

template <>
struct Memory<Simt> {
  static constexpr size_t alignment = 16;
  static void* allocate(size_t bytes) { return simt::detail::allocate(bytes); }
  static void release(void* data) noexcept { simt::detail::release(data, *simt::default_stream()); }
  static void fill(void* to, int byte, size_t bytes) { simt::detail::fill(to, byte, bytes); }
  static void to_host(void* to, const void* from, size_t bytes) { simt::detail::copy_to_host(to, from, bytes); }
  static void from_host(void* to, const void* from, size_t bytes) { simt::detail::copy_from_host(to, from, bytes); }
};

/// Buffers of exactly the bytes asked for; a buffer is freed in the order of the stream's work. New memory holds NaN.
template <>
class Pool<Simt> : public std::enable_shared_from_this<Pool<Simt>> {
 public:
  explicit Pool(PoolOptions = {}, std::shared_ptr<simt::Stream> stream = simt::default_stream())
      : stream_(std::move(stream)) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  /// `bytes` bytes, uninitialised; freed when the last copy of the result goes. Throws Error where memory has run out.
  std::shared_ptr<void> allocate(size_t bytes) {
    void* data = simt::detail::allocate(bytes);
    bytes_in_use_ += bytes;
    peak_bytes_ = std::max(peak_bytes_, bytes_in_use_);
    return std::shared_ptr<void>(data, [pool = this->shared_from_this(), bytes](void* p) {
      pool->bytes_in_use_ -= bytes;
      simt::detail::release(p, *pool->stream_);
    });
  }
  void trim() noexcept {}
  size_t bytes_in_use() const { return bytes_in_use_; }
  size_t bytes_cached() const { return 0; }
  size_t peak_bytes() const { return peak_bytes_; }
  void reset_peak() { peak_bytes_ = bytes_in_use_; }

 private:
  std::shared_ptr<simt::Stream> stream_;
  size_t bytes_in_use_ = 0, peak_bytes_ = 0;
};

/// Memory, random numbers and the stream that launches are queued on. One thread of the host at a time.
template <>
struct Context<Simt> {
  std::shared_ptr<simt::Stream> stream;
  std::shared_ptr<Pool<Simt>> pool;
  RandomState random;

  explicit Context(ContextOptions options = {}, std::shared_ptr<simt::Stream> own_stream = simt::default_stream())
      : stream(std::move(own_stream)),
        pool(std::make_shared<Pool<Simt>>(options.memory, stream)),
        random{options.seed} {}
  /// Runs what is queued on the stream. Throws simt::Fault for what a kernel did wrong.
  void synchronize() { stream->synchronize(); }
};

}  // namespace tessera
