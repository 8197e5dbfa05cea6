// Blocks, warps and threads taking turns. A thread runs until it waits for others; it then switches straight to the
// next thread that is ready: of its own warp first, else of the next warp. When none is ready and not all have exited,
// the block is deadlocked, and who waits where is the message.
#include <algorithm>
#include <cstring>
#include <map>

#include <tessera/simt/heap.hpp>
#include <tessera/simt/machine.hpp>
#include <tessera/simt/shadow.hpp>

namespace tessera::kernels {
inline namespace simt_provider {
constinit thread_local uint3 threadIdx{}, blockIdx{};
constinit thread_local dim3 blockDim{}, gridDim{};
}  // namespace simt_provider
}  // namespace tessera::kernels

namespace tessera::simt {
namespace words = kernels::simt_provider;

Machine machine;

namespace {

uint32_t first_bits(int count) { return count == lanes ? ~0u : (1u << count) - 1; }

/// The next thread that is ready, after the current one in the order of turns; null where there is none.
Thread* next_ready() {
  Machine& m = machine;
  if (m.current) {
    const Warp& warp = *m.current->warp;
    if (warp.ready) {
      const uint32_t later = m.current->position == lanes - 1 ? 0 : warp.ready & ~first_bits(m.current->position + 1);
      return warp.lane[warp.lane_at[__builtin_ctz(later ? later : warp.ready)]];
    }
  }
  for (int step = 0; step < m.warp_count; ++step) {
    m.turn = (m.turn + 1) % m.warp_count;
    const Warp& warp = m.warps[size_t(m.warp_order[size_t(m.turn)])];
    if (warp.ready) return warp.lane[warp.lane_at[__builtin_ctz(warp.ready)]];
  }
  return nullptr;
}

void run_thread(Fiber& from, Thread& to, bool from_ends = false) {
  machine.current = &to;
  words::threadIdx = to.index;
  switch_fiber(from, to.fiber, from_ends);
}

[[noreturn]] void return_to_host(Fiber& from) {
  machine.current = nullptr;
  machine.in_kernel = false;
  switch_fiber(from, machine.main, true);
  __builtin_unreachable();
}

// Where every fiber begins.
void thread_main() {
  Machine& m = machine;
  fiber_entered(m.main);
  m.in_kernel = true;
  m.launch->start(m.current->arguments);
  m.in_kernel = false;
  Thread& me = *m.current;
  if (!me.copies.empty())
    fault(sentence("a thread exits while a cp.async that it issued at ", place(me.copies.front().caller),
                   " is still on its way: cp_async_commit() and cp_async_wait<0>() must follow"));
  me.state = ThreadState::exited;
  me.warp->live &= ~(1u << me.lane);
  me.warp->ready &= ~(1u << me.position);
  ++m.exited;
  if (Thread* next = next_ready()) {
    run_thread(me.fiber, *next, true);
    __builtin_unreachable();
  }
  if (m.exited != m.thread_count) {
    m.failed = true;
    m.message = "deadlock: " + waiting_threads();
  }
  return_to_host(me.fiber);
}

void set_turns(std::vector<int>& order, int count) {
  order.resize(size_t(count));
  for (int i = 0; i < count; ++i) order[size_t(i)] = settings().order == Order::descending ? count - 1 - i : i;
  if (settings().order == Order::random) std::shuffle(order.begin(), order.end(), machine.random);
}

void set_turns(Warp& warp) {
  for (int i = 0; i < warp.count; ++i)
    warp.lane_at[i] = uint8_t(settings().order == Order::descending ? warp.count - 1 - i : i);
  if (settings().order == Order::random) std::shuffle(warp.lane_at, warp.lane_at + warp.count, machine.random);
  for (int i = 0; i < warp.count; ++i) warp.lane[warp.lane_at[i]]->position = i;
}

void begin_block(uint64_t number) {
  Machine& m = machine;
  const auto& [grid, block, shared_bytes] = m.launch->shape;
  words::blockIdx = {unsigned(number % grid[0]), unsigned(number / grid[0] % grid[1]),
                     unsigned(number / (uint64_t(grid[0]) * grid[1]))};
  m.block_epoch = ++m.epoch;
  m.block_epochs.push_back(m.block_epoch);
  m.block_numbers.push_back(number);
  m.at_barrier = m.exited = 0;
  begin_shared_memory();
  for (int i = 0; i < m.thread_count; ++i) {
    Thread& thread = m.threads[size_t(i)];
    const unsigned n = unsigned(i);
    thread.index = {n % block[0], n / block[0] % block[1], n / (block[0] * block[1])};
    thread.number = i;
    thread.lane = i % lanes;
    thread.warp = &m.warps[size_t(i / lanes)];
    thread.warp->lane[thread.lane] = &thread;
    thread.state = ThreadState::ready;
    thread.copies.clear();
    thread.committed_groups = 0;
    void* arguments = prepare_fiber(thread.fiber, thread_main, m.launch->arguments.size());
    std::memcpy(arguments, m.launch->arguments.data(), m.launch->arguments.size());
    thread.arguments = arguments;
  }
  for (int w = 0; w < m.warp_count; ++w) {
    Warp& warp = m.warps[size_t(w)];
    warp.number = w;
    warp.count = std::min(lanes, m.thread_count - w * lanes);
    warp.live = warp.ready = first_bits(warp.count);
    warp.arrived = 0;
    warp.clock = 1;
    std::memset(warp.seen, 0, sizeof warp.seen);
    set_turns(warp);
  }
  set_turns(m.warp_order, m.warp_count);
  m.turn = m.warp_count - 1;
}

}  // namespace

void shuffle_turns() {
  if (settings().order != Order::random) return;
  set_turns(machine.warp_order, machine.warp_count);
  for (int w = 0; w < machine.warp_count; ++w) set_turns(machine.warps[size_t(w)]);
}

void run_launch(const Launch& launch) {
  Machine& m = machine;
  static const StackReservation stacks(most_threads);
  if (m.threads.empty()) {
    m.threads.resize(most_threads);
    m.warps.resize(most_threads / lanes);
    for (size_t i = 0; i < most_threads; ++i) stacks.assign(m.threads[i].fiber, i);
  }
  watch_signals(&stacks);
  m.launch = &launch;
  m.random.seed(settings().seed);
  const auto& [grid, block, shared_bytes] = launch.shape;
  m.thread_count = int(block[0] * block[1] * block[2]);
  m.warp_count = (m.thread_count + lanes - 1) / lanes;
  words::gridDim = {grid[0], grid[1], grid[2]};
  words::blockDim = {block[0], block[1], block[2]};
  m.launch_epoch = m.epoch + 1;
  m.block_epochs.clear();
  m.block_numbers.clear();
  m.failed = false;

  const uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
  std::vector<uint64_t> order(blocks);
  for (uint64_t i = 0; i < blocks; ++i) order[i] = settings().order == Order::descending ? blocks - 1 - i : i;
  if (settings().order == Order::random) std::shuffle(order.begin(), order.end(), m.random);
  for (uint64_t number : order) {
    begin_block(number);
    run_thread(m.main, *next_ready());
    if (!m.failed) {
      end_shared_memory();
      end_requests();
    }
    if (m.failed) {
      for (int i = 0; i < m.thread_count; ++i) forget_stack(m.threads[size_t(i)].fiber);
      m.current = nullptr;
      throw Fault(m.message);
    }
  }
}

void wait_for_others() {
  Thread& me = *machine.current;
  me.warp->ready &= ~(1u << me.position);
  Thread* next = next_ready();
  if (!next) fault("deadlock: " + waiting_threads());
  if (next != &me) run_thread(me.fiber, *next);
}

int block_sync(BlockOperation operation, int predicate, Site caller) {
  const Entered entered;
  Machine& m = machine;
  Thread& me = *m.current;
  me.block_operation = operation;
  me.site = caller;
  me.value = uint64_t(predicate != 0);
  me.state = ThreadState::at_barrier;
  if (++m.at_barrier < m.thread_count) {
    wait_for_others();
    return int(me.result);
  }
  // The last thread to come: all must be at the same place.
  for (int i = 0; i < m.thread_count; ++i) {
    const Thread& other = m.threads[size_t(i)];
    if (!same_place(other.site, caller))
      fault("the threads of a block wait at different barriers: " + waiting_threads());
  }
  int count = 0;
  for (int i = 0; i < m.thread_count; ++i) count += int(m.threads[size_t(i)].value);
  const int result = operation == BlockOperation::sync_or    ? count > 0
                     : operation == BlockOperation::sync_and ? count == m.thread_count
                                                             : count;
  for (int i = 0; i < m.thread_count; ++i) {
    m.threads[size_t(i)].result = uint64_t(result);
    m.threads[size_t(i)].state = ThreadState::ready;
  }
  m.at_barrier = 0;
  ++m.epoch;
  shuffle_turns();
  for (int w = 0; w < m.warp_count; ++w) m.warps[size_t(w)].ready = first_bits(m.warps[size_t(w)].count);
  return result;
}

void fault(const std::string& what) {
  Machine& m = machine;
  if (!m.current) throw Fault(what);
  const Thread& thread = *m.current;
  leave_block(what + " [" + thread_name(thread) + "]");
}

void leave_block(const std::string& what) {
  Machine& m = machine;
  m.failed = true;
  m.message = what;
  return_to_host(m.current->fiber);
}

void trap(Site caller) {
  const Entered entered;
  fault("the kernel called __trap at " + place(caller));
}

// ---- words for messages ----

std::string place(const Site& site) {
  const char* slash = std::strrchr(site.file, '/');
  const std::string called = site.caller_at ? sentence(", called at line ", site.caller_line()) : "";
  return sentence(slash ? slash + 1 : site.file, ":", site.line(), ":", site.column(), called);
}

bool same_place(const Site& a, const Site& b) {
  return a.at == b.at && a.caller_at == b.caller_at && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

std::string thread_name(const Thread& thread) {
  const auto& b = words::blockIdx;
  return sentence("block (", b.x, ", ", b.y, ", ", b.z, "), thread (", thread.index.x, ", ", thread.index.y, ", ",
                  thread.index.z, ")");
}

const char* name_of(WarpOperation operation) {
  switch (operation) {
    case WarpOperation::shuffle:
      return "__shfl_sync";
    case WarpOperation::shuffle_up:
      return "__shfl_up_sync";
    case WarpOperation::shuffle_down:
      return "__shfl_down_sync";
    case WarpOperation::shuffle_xor:
      return "__shfl_xor_sync";
    case WarpOperation::ballot:
      return "__ballot_sync";
    case WarpOperation::any:
      return "__any_sync";
    case WarpOperation::all:
      return "__all_sync";
    case WarpOperation::sync:
      return "__syncwarp";
    case WarpOperation::load_matrices:
      return "ldmatrix";
    case WarpOperation::multiply:
      return "mma";
  }
  return "";
}

const char* name_of(BlockOperation operation) {
  switch (operation) {
    case BlockOperation::sync:
      return "__syncthreads";
    case BlockOperation::sync_or:
      return "__syncthreads_or";
    case BlockOperation::sync_and:
      return "__syncthreads_and";
    case BlockOperation::sync_count:
      return "__syncthreads_count";
  }
  return "";
}

/// "96 threads wait at __syncthreads (layernorm.cuh:33:3), 32 have exited".
std::string waiting_threads() {
  std::map<std::string, int> groups;
  int exited = 0;
  for (int i = 0; i < machine.thread_count; ++i) {
    const Thread& thread = machine.threads[size_t(i)];
    if (thread.state == ThreadState::exited) {
      ++exited;
    } else if (thread.state == ThreadState::at_barrier) {
      ++groups[sentence(name_of(thread.block_operation), " (", place(thread.site), ")")];
    } else if (thread.state == ThreadState::at_warp_operation) {
      char mask[16];
      std::snprintf(mask, sizeof mask, "%08x", thread.mask);
      ++groups[sentence(name_of(thread.operation), " with mask ", mask, " (", place(thread.site), ")")];
    }
  }
  std::string text;
  for (const auto& [where, count] : groups)
    text += (text.empty() ? "" : ", ") + sentence(count, count == 1 ? " thread waits at " : " threads wait at ", where);
  if (exited) text += sentence(text.empty() ? "" : ", ", exited, exited == 1 ? " has exited" : " have exited");
  return text;
}

}  // namespace tessera::simt
