// Streams: queues of launches, copies and releases. Work runs when the host synchronises, one piece after another, in
// an order that the streams and events allow: the order of the host's calls, from the newest stream backwards, or
// random.
//
// Every piece of work has a clock: how much of each stream it comes after. Copies and fills that name no stream come
// after all earlier work and before all later work, like those of CUDA's legacy default stream.
#include <tessera/simt/streams.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <random>

#include <unistd.h>

#include <tessera/simt/heap.hpp>
#include <tessera/simt/machine.hpp>
#include <tessera/simt/shadow.hpp>

namespace tessera::simt {
using detail::Clock;

namespace {

struct Work {
  uint32_t stream = 0;
  uint64_t number = 0;  // of this stream's work, from 1
  uint64_t ticket = 0;  // the order of the host's calls
  Clock after;          // includes what this stream did before
  std::function<void()> run;
  bool is_release = false;  // done even where a fault has thrown the rest away
};

struct StreamState {
  std::deque<Work> queue;
  uint64_t queued = 0, done = 0;  // counts of work
  Clock after;                    // what the next piece of work comes after
};

/// A launch that ran, as far as later ones may not be ordered after it.
struct Ran {
  uint32_t first_epoch;
  uint32_t stream;
  uint64_t number;
  std::string name;
};

struct Queues {
  std::vector<StreamState> streams = std::vector<StreamState>(1);
  uint64_t tickets = 0;
  Clock host;  // what the host has waited for, and what the default stream has put before everything
  std::vector<Ran> ran;
  uint32_t settled_epoch = 0;  // launches before it are ordered before all that can still come
  const Work* running = nullptr;
  std::mt19937_64 random;
  std::optional<uint64_t> seed;      // that it was seeded with
  std::optional<std::string> found;  // where nothing may be thrown: the next synchronisation throws it
  size_t allocated = 0;              // bytes, since work last ran
};

void finish_at_exit();

Queues& queues() {
  static Queues* the_queues = [] {
    std::atexit(finish_at_exit);
    return new Queues;  // memory may be released after static objects are gone
  }();
  return *the_queues;
}

uint64_t entry(const Clock& clock, size_t i) { return i < clock.size() ? clock[i] : 0; }

void merge(Clock& into, const Clock& other) {
  if (into.size() < other.size()) into.resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) into[i] = std::max(into[i], other[i]);
}

void set_entry(Clock& clock, size_t i, uint64_t value) {
  if (clock.size() <= i) clock.resize(i + 1);
  clock[i] = std::max(clock[i], value);
}

void queue_work(uint32_t stream, std::function<void()> run, bool is_release = false) {
  Queues& q = queues();
  StreamState& s = q.streams[stream];
  merge(s.after, q.host);
  s.queue.push_back({stream, ++s.queued, ++q.tickets, s.after, std::move(run), is_release});
  set_entry(s.after, stream, s.queued);
}

/// Queues work that comes after all earlier and before all later work of all streams.
void queue_barrier(std::function<void()> run) {
  Queues& q = queues();
  Clock all;
  for (size_t i = 0; i < q.streams.size(); ++i) set_entry(all, i, q.streams[i].queued);
  merge(q.host, all);
  queue_work(0, std::move(run));
  set_entry(q.host, 0, q.streams[0].queued);
}

bool may_run(const Work& work) {
  const Queues& q = queues();
  for (size_t i = 0; i < work.after.size(); ++i)
    if (q.streams[i].done < work.after[i]) return false;
  return true;
}

/// The stream whose first piece of work runs next; some piece can always run.
StreamState* next_stream() {
  Queues& q = queues();
  std::vector<StreamState*> able;
  for (StreamState& s : q.streams)
    if (!s.queue.empty() && may_run(s.queue.front())) able.push_back(&s);
  if (able.empty()) return nullptr;
  switch (settings().order) {
    case Order::ascending:
      return *std::min_element(able.begin(), able.end(), [](const StreamState* a, const StreamState* b) {
        return a->queue.front().ticket < b->queue.front().ticket;
      });
    case Order::descending:
      return able.back();
    case Order::random:
      break;
  }
  if (q.seed != settings().seed) {
    q.seed = settings().seed;
    q.random.seed(*q.seed);
  }
  return able[q.random() % able.size()];
}

/// After this many epochs they begin anew, long before they would be used up.
constexpr uint32_t many_epochs = 0x80000000u, most_epochs = 0xf0000000u;

void settle() {
  Queues& q = queues();
  for (size_t i = 0; i < q.streams.size(); ++i)
    if (!q.streams[i].queue.empty() || entry(q.host, i) < q.streams[i].queued) return;
  q.ran.clear();
  q.allocated = 0;
  shadow_settled();
  if (machine.epoch > many_epochs) {
    heap_for_each(shadow_forget_order);
    shadow_forget_shared();
    machine.epoch = 0;
  }
  q.settled_epoch = machine.epoch + 1;
}

/// After a fault: what is queued is gone, but memory is released; all that ran is over.
void throw_away() {
  Queues& q = queues();
  for (StreamState& s : q.streams) {
    for (const Work& work : s.queue)
      if (work.is_release) work.run();
    s.done = s.queued;
    s.queue.clear();
    merge(q.host, s.after);
  }
  q.found.reset();
  settle();
}

void throw_what_was_found() {
  Queues& q = queues();
  if (!q.found) return;
  const std::string what = std::move(*q.found);
  throw_away();
  throw Fault(what);
}

const Ran* find_ran(uint32_t epoch) {
  const auto& ran = queues().ran;
  const auto after = std::upper_bound(ran.begin(), ran.end(), epoch,
                                      [](uint32_t value, const Ran& launch) { return value < launch.first_epoch; });
  return after == ran.begin() ? nullptr : &*std::prev(after);
}

bool is_ordered_before(uint32_t epoch, const Clock& after) {
  if (epoch < queues().settled_epoch) return true;
  const Ran* launch = find_ran(epoch);
  return !launch || entry(after, launch->stream) >= launch->number;
}

/// Frees a buffer, in the order that `after` tells.
void release_now(void* data, const Clock& after) {
  Queues& q = queues();
  const bool unordered =
      std::any_of(q.ran.begin(), q.ran.end(), [&](const Ran& ran) { return entry(after, ran.stream) < ran.number; });
  try {
    if (unordered && !q.found)
      shadow_expect_unused(data, heap_size_of(data), [&](uint32_t epoch) { return is_ordered_before(epoch, after); });
  } catch (const Fault& found) {
    q.found = found.what();
  }
  heap_release(data);
}

/// Runs work until stream `number` has done `count` pieces.
void run_until(uint32_t number, uint64_t count) {
  Queues& q = queues();
  if (q.streams[number].done >= count) return;
  require<Fault>(machine.current == nullptr, "simt: a kernel cannot synchronise");
  const HeapAccess access;
  while (q.streams[number].done < count) {
    StreamState* s = next_stream();
    Work work = std::move(s->queue.front());
    s->queue.pop_front();
    q.running = &work;
    try {
      work.run();
    } catch (...) {
      q.running = nullptr;
      throw_away();
      throw;
    }
    q.running = nullptr;
    s->done = work.number;
  }
}

/// A GPU may run what is queued at any time; here that frees memory, which a whole step of a model would fill.
void run_early() {
  Queues& q = queues();
  q.allocated = 0;
  try {
    for (uint32_t i = 0; i < q.streams.size(); ++i) run_until(i, q.streams[i].queued);
  } catch (const Fault& fault) {
    q.found = fault.what();
  }
}

void finish_at_exit() {
  try {
    synchronize();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tessera simt: work that nobody waited for failed: %s\n", error.what());
    std::fflush(nullptr);
    _exit(1);
  }
}

/// Notes that the work that now runs begins, and names it in what goes wrong.
template <class F>
void run_named(const std::string& name, const std::string& kind, F&& run) {
  Queues& q = queues();
  require<Fault>(
      machine.epoch < most_epochs, kind, name,
      ": so much ran since the host last waited for all streams that the race detector cannot count on; call "
      "simt::synchronize() now and then");
  // Ordered after all that ran before? Then the detector need not ask again and again.
  bool concurrent = false;
  for (const Ran& earlier : q.ran) concurrent |= entry(q.running->after, earlier.stream) < earlier.number;
  q.ran.push_back({machine.epoch + 1, q.running->stream, q.running->number, name});
  shadow_begin_launch(concurrent);
  try {
    run();
  } catch (const Fault& found) {
    std::string how = sentence("; order ", order_name(settings().order));
    if (settings().order == Order::random)
      how += sentence(", seed ", settings().seed,
                      " (again with TESSERA_SIMT_ORDER=random TESSERA_SIMT_SEED=", settings().seed, ")");
    throw Fault(sentence(kind, name, ": ", found.what(), how));
  }
}

void expect_pieces(const std::vector<detail::LibraryAccess>& pieces) {
  for (const auto& piece : pieces) heap_expect(piece.data, piece.bytes, piece.written ? "a write" : "a read");
}

/// The call is a launch of one block of one thread in the race detector's eyes.
void start_library_call(const char* name, const std::vector<detail::LibraryAccess>& pieces,
                        const std::function<void()>& work) {
  run_named(name, "", [&] {
    expect_pieces(pieces);
    static const Launch launch{"", {{1, 1, 1}, {1, 1, 1}, 0}, nullptr, {}};
    machine.launch = &launch;
    machine.launch_epoch = machine.block_epoch = ++machine.epoch;
    for (const auto& piece : pieces)
      check_library_access(piece.data, piece.bytes, piece.written ? Access::write : Access::read, piece.caller);
    work();
  });
}

Settings settings_from_environment() {
  Settings chosen;
  if (const char* order = std::getenv("TESSERA_SIMT_ORDER")) {
    bool known = false;
    for (Order o : all_orders)
      if (order_name(o) == order) {
        chosen.order = o;
        known = true;
      }
    require(known, "TESSERA_SIMT_ORDER is \"", order, "\" but must be ascending, descending or random");
  }
  if (const char* seed = std::getenv("TESSERA_SIMT_SEED")) chosen.seed = std::strtoull(seed, nullptr, 10);
  if (const char* count = std::getenv("TESSERA_SIMT_COUNTERS")) chosen.counters = std::strcmp(count, "1") == 0;
  if (const char* bytes = std::getenv("TESSERA_SIMT_SHARED_BYTES"))
    chosen.shared_bytes = size_t(std::strtoull(bytes, nullptr, 10));
  return chosen;
}

}  // namespace

Settings& settings() {
  static Settings the_settings = settings_from_environment();
  return the_settings;
}

std::string_view order_name(Order order) {
  return order == Order::ascending ? "ascending" : order == Order::descending ? "descending" : "random";
}

bool launch_is_ordered(uint32_t epoch) { return is_ordered_before(epoch, queues().running->after); }

std::string launch_at(uint32_t epoch) {
  const Ran* launch = find_ran(epoch);
  return launch ? launch->name : "an earlier kernel";
}

Stream::Stream() : number_(uint32_t(queues().streams.size())) { queues().streams.emplace_back(); }
Stream::~Stream() = default;

void Stream::synchronize() {
  Queues& q = queues();
  throw_what_was_found();
  run_until(number_, q.streams[number_].queued);
  merge(q.host, q.streams[number_].after);
  settle();
  throw_what_was_found();
}

void Stream::wait(const Event& event) { merge(queues().streams[number_].after, event.clock()); }

void Event::record(const Stream& stream) { clock_ = queues().streams[stream.number()].after; }

void Event::synchronize() const {
  Queues& q = queues();
  throw_what_was_found();
  for (size_t i = 0; i < clock_.size(); ++i) run_until(uint32_t(i), clock_[i]);
  merge(q.host, clock_);
  settle();
  throw_what_was_found();
}

void synchronize() {
  Queues& q = queues();
  throw_what_was_found();
  for (uint32_t i = 0; i < q.streams.size(); ++i) {
    run_until(i, q.streams[i].queued);
    merge(q.host, q.streams[i].after);
  }
  settle();
  throw_what_was_found();
}

std::shared_ptr<Stream> default_stream() {
  static const std::shared_ptr<Stream> the_stream(new Stream(0));  // stream 0 exists from the start
  return the_stream;
}

namespace detail {

void queue_launch(Stream& stream, const char* name, const LaunchShape& shape, void (*start)(const void*),
                  const void* arguments, size_t bytes) {
  const auto& [grid, block, shared_bytes] = shape;
  const std::string what = sentence("kernel ", name, ": ");
  require<Fault>(machine.current == nullptr, what, "a kernel cannot launch another");
  for (int axis = 0; axis < 3; ++axis) {
    constexpr uint64_t most_blocks[] = {2147483647, 65535, 65535}, most_in_block[] = {1024, 1024, 64};
    const char name_of_axis = char('x' + axis);
    require<Fault>(grid[axis] >= 1, what, "a grid of 0 blocks (", name_of_axis,
                   "); launch nothing where nothing is to do");
    require<Fault>(grid[axis] <= most_blocks[axis], what, "a grid of ", grid[axis], " blocks (", name_of_axis,
                   "), but at most ", most_blocks[axis], " are allowed");
    require<Fault>(block[axis] >= 1 && block[axis] <= most_in_block[axis], what, "a block of ", block[axis],
                   " threads (", name_of_axis, "), but 1 to ", most_in_block[axis], " are allowed");
  }
  const uint64_t threads = uint64_t(block[0]) * block[1] * block[2];
  require<Fault>(threads <= most_threads, what, "a block of ", threads, " threads, but at most ", most_threads,
                 " are allowed");
  require<Fault>(shared_bytes <= settings().shared_bytes, what, shared_bytes,
                 " bytes of shared memory asked for, but a block can have at most ", settings().shared_bytes,
                 " (settings().shared_bytes)");
  const auto* first = static_cast<const unsigned char*>(arguments);
  queue_work(stream.number(), [launch = Launch{name, shape, start, {first, first + bytes}}] {
    run_named(launch.name, "kernel ", [&] { run_launch(launch); });
  });
}

void queue_library_call(Stream& stream, const char* name, std::vector<LibraryAccess> pieces,
                        std::function<void()> work) {
  try {
    expect_pieces(pieces);
  } catch (const Fault& found) {
    throw Fault(sentence(name, ": ", found.what()));
  }
  queue_work(stream.number(),
             [name, pieces = std::move(pieces), work = std::move(work)] { start_library_call(name, pieces, work); });
}

void* allocate(size_t bytes) {
  constexpr size_t most_waiting = size_t(32) << 20;
  Queues& q = queues();
  q.allocated += bytes;
  if (q.allocated > most_waiting) run_early();
  return heap_allocate(bytes);
}

void release(void* data, Stream& stream) noexcept {
  Queues& q = queues();
  const bool idle = std::all_of(q.streams.begin(), q.streams.end(), [](const auto& s) { return s.queue.empty(); });
  StreamState& s = q.streams[stream.number()];
  merge(s.after, q.host);
  if (idle)
    release_now(data, s.after);
  else
    queue_work(
        stream.number(), [data, after = s.after] { release_now(data, after); }, true);
}

void fill(void* to, int byte, size_t bytes) {
  if (bytes == 0) return;
  heap_expect(to, bytes, "a fill");
  queue_barrier([=] {
    std::memset(to, byte, bytes);
    shadow_set_initialised(to, bytes);
  });
}

void copy_from_host(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  heap_expect(to, bytes, "a copy from the host");
  const auto* first = static_cast<const unsigned char*>(from);
  // The values of now: the host may change them before the copy runs.
  queue_barrier([to, values = std::vector<unsigned char>(first, first + bytes)] {
    std::memcpy(to, values.data(), values.size());
    shadow_set_initialised(to, values.size());
  });
}

void copy_to_host(void* to, const void* from, size_t bytes) {
  synchronize();
  if (bytes == 0) return;
  heap_expect(from, bytes, "a copy to the host");
  const HeapAccess access;
  std::memcpy(to, from, bytes);
}

}  // namespace detail
}  // namespace tessera::simt
