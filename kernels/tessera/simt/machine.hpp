// The emulated processor's state: the block that runs, its warps and threads, and its shared memory. There is one; it
// runs one block at a time.
#pragma once
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <tessera/device/emulated.cuh>
#include <tessera/simt/calls.hpp>
#include <tessera/simt/emulator.hpp>
#include <tessera/simt/fiber.hpp>

namespace tessera::simt {

inline constexpr int lanes = 32;
inline constexpr size_t most_threads = 1024;             // of a block
inline constexpr size_t most_static_shared = 48 * 1024;  // bytes of TESSERA_SHARED arrays

/// A launch as it waits in a stream.
struct Launch {
  std::string name;
  detail::LaunchShape shape;
  void (*start)(const void*);
  std::vector<unsigned char> arguments;
};

enum class ThreadState : uint8_t { ready, at_warp_operation, at_barrier, exited };

/// Sixteen bytes on their way from global to shared memory.
struct PendingCopy {
  char* to;
  const char* from;  // null: zeros
  uint64_t group;
  std::array<char, 16> source;  // as it was when the copy was issued
  Site caller;
};

struct Warp;

struct Thread {
  Fiber fiber;
  kernels::simt_provider::uint3 index;
  int number;    // within the block
  int lane;      // number % 32
  int position;  // in the order in which the warp's lanes take turns
  Warp* warp;
  const void* arguments;
  ThreadState state;
  // What it waits for, while it waits. Registers lie on the thread's own stack.
  WarpOperation operation;
  BlockOperation block_operation;
  uint32_t mask;
  Site site;
  uint64_t value, result;
  int argument, width;
  uint32_t* registers;
  const void* row;
  float* accumulator;
  const uint32_t *a, *b;
  // Asynchronous copies.
  std::vector<PendingCopy> copies;
  uint64_t committed_groups;
};

struct Warp {
  int number;
  int count;               // of threads: 32 but for the last warp
  uint32_t live, arrived;  // masks of lanes: not exited; waiting at a warp operation
  uint32_t ready;          // mask of positions
  Thread* lane[lanes];
  uint8_t lane_at[lanes];  // position -> lane
  // Order made by __syncwarp. The warp's clock counts its __syncwarps; seen[i][j] is the clock of the last one of lane
  // j that lane i knows of: what j did before it, happened before what i does now.
  uint32_t clock;
  uint32_t seen[lanes][lanes];
};

/// An array in shared memory, with forbidden bytes before and behind it.
struct SharedChunk {
  const void* key;  // of a TESSERA_SHARED array; null for a part of the launch's memory
  unsigned index;   // of such a part
  char* data;
  size_t bytes;
  Site site;
};

struct Machine {
  // The launch.
  const Launch* launch = nullptr;
  std::mt19937_64 random;
  // The block.
  int thread_count = 0, warp_count = 0, at_barrier = 0, exited = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<int> warp_order;
  int turn = 0;  // index into warp_order of the warp that runs
  // Every block and every barrier begins a new epoch. Epochs only grow: they order all accesses of a launch's blocks.
  uint32_t epoch = 0, block_epoch = 0, launch_epoch = 0;
  std::vector<uint32_t> block_epochs;  // of this launch, ascending, with the blocks' numbers beside them
  std::vector<uint64_t> block_numbers;
  // Shared memory.
  char* arena = nullptr;
  size_t arena_used = 0, static_bytes = 0;
  std::vector<SharedChunk> chunks;
  // Whoever runs. `current` is null while the host does.
  Fiber main;
  Thread* current = nullptr;
  bool in_kernel = false;  // a kernel's own code runs, not the emulator's
  bool failed = false;
  std::string message;
};
extern Machine machine;

/// Stands in every function that kernels call: until it returns, the emulator's own code runs. Accesses of that code
/// are nobody's; they do reach the callbacks, since a template such as std::string's may have been compiled with a
/// kernel.
struct Entered {
  Entered() { machine.in_kernel = false; }
  ~Entered() { machine.in_kernel = true; }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;
};

// ---- running ----
/// Runs a launch to its end. Throws Fault.
void run_launch(const Launch& launch);
/// Throws Fault out of the launch that runs, whose unfinished threads are abandoned; on the host, throws it at once.
[[noreturn]] void fault(const std::string& what);
/// The same, when the current thread has just exited or stands on a signal's stack.
[[noreturn]] void leave_block(const std::string& what);
/// Marks the current thread as waiting and runs the others until it is ready again.
void wait_for_others();
/// Draws new orders of turns, where the order is random.
void shuffle_turns();

// ---- words for messages ----
std::string place(const Site& site);
bool same_place(const Site& a, const Site& b);
std::string thread_name(const Thread& thread);
std::string waiting_threads();
const char* name_of(WarpOperation operation);
const char* name_of(BlockOperation operation);

// ---- shared memory (shared.cpp) ----
void begin_shared_memory();
/// Throws where bytes between arrays were changed.
void end_shared_memory();
inline constexpr size_t arena_bytes = 512 * 1024;
bool in_arena(const void* address, size_t bytes);

}  // namespace tessera::simt
