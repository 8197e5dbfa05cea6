// The emulator seen from the host: its faults, its settings, streams and events, and the counters.
//
// A launch is queued on a stream and runs when the host synchronises, on one processor, one fiber a CUDA thread. Blocks
// run one after another; within a block, threads switch where they wait for each other.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <tessera/core/error.hpp>
#include <tessera/simt/calls.hpp>

namespace tessera::simt {

/// What the emulator found in a kernel, a launch or a copy. After it, queued launches are gone and new ones run.
struct Fault : Error {
  using Error::Error;
};

/// In which order lanes, warps, blocks and independent streams take turns. All are legal on a GPU.
enum class Order : uint8_t { ascending, descending, random };
inline constexpr std::array<Order, 3> all_orders = {Order::ascending, Order::descending, Order::random};

/// The emulator's settings, for the whole process. They start from the environment: TESSERA_SIMT_ORDER (ascending,
/// descending, random), TESSERA_SIMT_SEED (a number), TESSERA_SIMT_COUNTERS (1), TESSERA_SIMT_SHARED_BYTES (a number).
struct Settings {
  Order order = Order::ascending;
  uint64_t seed = 1;      ///< of the random order; stands in the message of every fault
  bool counters = false;  ///< count memory requests (counters())
  /// Shared memory that a block may have, declared and launched together: an A100's (sm_80). An H100 has 227 KiB, GPUs
  /// of compute capability 8.6, 8.9 and 12.0 have 99.
  size_t shared_bytes = 163 * 1024;
};
Settings& settings();
std::string_view order_name(Order order);

/// Whether this program was built so that every load and store of its kernels is checked (the flavour
/// tessera::simt_checked), or only barriers, warps, the words of the vocabulary and the guards around buffers.
bool checked();

// ---- streams ----
namespace detail {
/// How much of each stream's work must be done: entry i counts the operations of stream i.
using Clock = std::vector<uint64_t>;
}  // namespace detail

class Event;

/// A queue of launches and copies that run in order. Work of two streams is unordered but for events.
class Stream {
 public:
  Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();
  /// Runs this stream's work, and what it waits for, now. Throws Fault.
  void synchronize();
  /// Work queued here from now on waits for what the event recorded.
  void wait(const Event& event);
  uint32_t number() const { return number_; }

 private:
  friend std::shared_ptr<Stream> default_stream();
  explicit Stream(uint32_t number) : number_(number) {}
  uint32_t number_;
};

/// A point in a stream's work.
class Event {
 public:
  void record(const Stream& stream);
  /// Runs what it recorded. An event that recorded nothing is done. Throws Fault.
  void synchronize() const;
  const detail::Clock& clock() const { return clock_; }

 private:
  detail::Clock clock_;
};

/// Runs all queued work of all streams. Throws Fault.
void synchronize();

/// The stream of contexts that name none, number 0.
std::shared_ptr<Stream> default_stream();

// ---- memory requests, counted where settings().counters is set ----
/// What one source line of one kernel asked of memory. A request is one instruction of one warp.
struct LineCounter {
  std::string kernel, file;
  unsigned line = 0;
  bool shared = false;
  uint64_t requests = 0;
  uint64_t transactions = 0;  ///< 32-byte sectors (global) or wavefronts (shared: 1 + bank conflicts)
  uint64_t ideal = 0;         ///< the fewest transactions that could move these bytes
};
/// All counts since the last reset. Plain loads and stores are counted in the checked flavour alone; the vocabulary's
/// words (packs, ldmatrix, cp.async, atomics) always.
std::vector<LineCounter> counters();
void reset_counters();
/// counters() as a table.
std::string counter_table();

// ---- what the headers of the device use ----
namespace detail {
struct LaunchShape {
  unsigned grid[3], block[3];
  size_t shared_bytes;
};
/// Queues a kernel: `start(arguments)` runs one thread, with its own copy of the `bytes` of arguments. Throws Fault
/// where CUDA would refuse the launch.
void queue_launch(Stream& stream, const char* name, const LaunchShape& shape, void (*start)(const void*),
                  const void* arguments, size_t bytes);

/// Bytes that a call of a library touches, and where that is said.
struct LibraryAccess {
  const void* data;
  size_t bytes;
  bool written;
  Site caller;
};
/// Queues work of the host's that stands for a library's call on the GPU (simt/library.hpp).
void queue_library_call(Stream& stream, const char* name, std::vector<LibraryAccess> pieces,
                        std::function<void()> work);

void* allocate(size_t bytes);
void release(void* data, Stream& stream) noexcept;
// In the order of the host's calls, before and after the work of all streams.
void fill(void* to, int byte, size_t bytes);
void copy_from_host(void* to, const void* from, size_t bytes);
void copy_to_host(void* to, const void* from, size_t bytes);
}  // namespace detail

}  // namespace tessera::simt
