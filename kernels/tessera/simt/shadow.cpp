// The race detector. Every byte has a cell that names its last writer and its readers since. An access is compared with
// the cell: is the earlier access ordered before this one? Within a block, by program order, by a __syncthreads between
// (a later epoch), or by a __syncwarp between (the warp's clocks); shuffles, votes and mma order no memory. Between the
// blocks of a launch nothing is ordered. Launches are ordered as their streams and events say.
#include <tessera/simt/shadow.hpp>

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <map>
#include <new>
#include <tuple>
#include <unordered_map>

#include <tessera/simt/heap.hpp>
#include <tessera/simt/machine.hpp>
#include <tessera/simt/streams.hpp>

extern "C" {
extern char __executable_start;  // of the program's image, by the linker
__attribute__((weak)) void __sanitizer_symbolize_pc(void* pc, const char* format, char* out, size_t out_bytes);
}

namespace tessera::simt {
namespace {

enum Flag : uint8_t {
  accessible = 1,
  initialised = 2,
  in_flight = 4,         // the destination of a cp.async that was not waited for
  atomic_write = 8,      // the last write was atomic
  several_atomics = 16,  // and so were earlier ones of other threads, unordered with it
  several_warps = 32,    // read by more than one warp in read_epoch
  several_blocks = 64,   // read by more than one block of this launch
  clock_table = 128,     // read_clock is an index into read_clocks
};

// In write_thread, beside the thread's number: blocks of this launch, or launches that are not ordered, have changed it
// atomically; launches that the last reader is not ordered after have read it (earlier_reads below).
constexpr uint16_t several_changing_blocks = 0x8000, read_by_unordered_launches = 0x4000, thread_bits = 0x3ff;

struct Cell {
  uint32_t write_epoch, write_clock, write_place;
  uint32_t read_epoch, read_clock, read_place, read_lanes;
  uint16_t write_thread;
  uint8_t read_warp;
  uint8_t flags;
};
static_assert(sizeof(Cell) == 32);

constinit struct Shadow {
  bool enabled = false;
  Cell* global = nullptr;  // one a byte of the heap's reservation; pages are taken when touched
  Cell* shared = nullptr;
  bool concurrent = false;  // launches that this one is not ordered after may have touched the same memory
  // Lanes of one warp whose reads of one byte lie between different partial __syncwarps: rare, so kept aside.
  std::vector<std::array<uint32_t, lanes>> read_clocks;
} shadow;  // constant-initialised: it is switched on before main, in no order with this file

// Reads by concurrent launches, of which a cell names only the last: rare, too.
struct EarlierRead {
  uint32_t epoch, place;
};
std::unordered_map<const Cell*, std::vector<EarlierRead>>& earlier_reads() {
  static auto* the_reads = new std::unordered_map<const Cell*, std::vector<EarlierRead>>;
  return *the_reads;
}

Cell* reserve(size_t bytes) {
  void* data =
      mmap(nullptr, bytes * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) fail<Error>("simt: no address space for the shadow of ", bytes, " bytes of memory");
  return static_cast<Cell*>(data);
}

Cell* shared_cell(const void* at) { return shadow.shared + (static_cast<const char*>(at) - machine.arena); }
Cell* global_cell(const void* at) {
  if (!shadow.global) shadow.global = reserve(heap_bytes);
  return shadow.global + (static_cast<const char*>(at) - heap_base());
}

// ---- places: an instruction of the program, or a call site given by the vocabulary ----
constexpr uint32_t by_site = 0x80000000u;

struct Sites {
  std::vector<Site> list;
  std::map<std::tuple<const char*, unsigned, unsigned>, uint32_t> numbers;
} sites;

uint32_t place_of(const Site& site) {
  static uint32_t latest = 0;  // calls repeat
  if (latest < sites.list.size()) {
    const Site& last = sites.list[latest];
    if (last.file == site.file && last.at == site.at && last.caller_at == site.caller_at) return by_site | latest;
  }
  const auto [found, added] =
      sites.numbers.try_emplace({site.file, site.at, site.caller_at}, uint32_t(sites.list.size()));
  if (added) sites.list.push_back(site);
  latest = found->second;
  return by_site | latest;
}

uint32_t place_of(const void* return_address) {
  return uint32_t(static_cast<const char*>(return_address) - &__executable_start);
}

std::string words(uint32_t place_number) {
  if (place_number & by_site) return place(sites.list[place_number & ~by_site]);
  const std::string text = symbolised(uintptr_t(&__executable_start) + place_number - 1);
  return text.empty() ? sentence("instruction ", place_number) : text;
}

// ---- one access ----
struct Attempt {
  Thread& thread;
  const char* address;
  size_t bytes;
  Access access;
  uint32_t place;
  bool shared;

  const char* who() const { return machine.current ? "a thread " : "the library's call "; }
  const char* verb() const {
    return access == Access::read ? "reads" : access == Access::write ? "writes" : "changes atomically";
  }
  std::string where() const {
    if (!shared) return heap_describe(address);
    for (const SharedChunk& chunk : machine.chunks)
      if (address >= chunk.data && address < chunk.data + chunk.bytes)
        return sentence("byte ", address - chunk.data, " of the shared array of ", chunk.bytes, " bytes declared at ",
                        simt::place(chunk.site));
    const SharedChunk* before = nullptr;
    for (const SharedChunk& chunk : machine.chunks)
      if (chunk.data <= address) before = &chunk;
    if (!before) return "shared memory below the first array";
    return sentence("shared memory ", address - (before->data + before->bytes), " bytes past the end of the array of ",
                    before->bytes, " bytes declared at ", simt::place(before->site));
  }
  [[noreturn]] void thread_fault(const std::string& what) const {
    leave_block(what + " at " + words(place) + " [" + thread_name(thread) + "]");
  }
  [[noreturn]] void refuse(const std::string& kind, const std::string& more = "") const {
    const std::string what = kind + ": " + who() + verb() +
                             sentence(" ", bytes, bytes == 1 ? " byte at " : " bytes at ") + words(place) + ", " +
                             where() + more;
    if (!machine.current) throw Fault(what);
    leave_block(what + " [" + thread_name(thread) + "]");
  }
};

std::string thread_of_block(unsigned number) {
  const auto& block = machine.launch->shape.block;
  return sentence("thread (", number % block[0], ", ", number / block[0] % block[1], ", ",
                  number / (block[0] * block[1]), ")");
}

/// ", which thread (1, 0, 0) of block (0, 0, 0) wrote at layernorm.cuh:31, with no barrier between"
std::string other_side(uint32_t epoch, const std::string& thread, const char* did, uint32_t other_place) {
  const Machine& m = machine;
  std::string who = thread, why = ", with no barrier between";
  if (epoch < m.launch_epoch) {
    who = "the unordered launch of " + launch_at(epoch);
    why = ", with no event or synchronisation between";
  } else if (epoch < m.block_epoch) {
    const auto after = std::upper_bound(m.block_epochs.begin(), m.block_epochs.end(), epoch);
    const uint64_t number = m.block_numbers[size_t(after - m.block_epochs.begin()) - 1];
    const auto& grid = m.launch->shape.grid;
    who += sentence(" of block (", number % grid[0], ", ", number / grid[0] % grid[1], ", ",
                    number / (uint64_t(grid[0]) * grid[1]), ")");
    why = ", and blocks are not ordered";
  }
  return ", which " + who + " " + did + " at " + words(other_place) + why;
}

/// Whether something that `lane` of my warp did at `clock` of the warp is ordered before me by a __syncwarp.
bool seen_by(const Thread& me, int lane, uint32_t clock) { return me.warp->seen[me.lane][lane] > clock; }

/// Whether an access of `epoch` by another block or launch is ordered before the block that runs.
bool ordered_from_elsewhere(const Attempt& attempt, uint32_t epoch) {
  if (attempt.shared) return true;  // left over from a block that is gone
  if (epoch >= machine.launch_epoch) return false;
  return !shadow.concurrent || launch_is_ordered(epoch);
}

int writer(const Cell& cell) { return cell.write_thread & thread_bits; }

/// A barrier orders an atomic operation of this block, not those of others before it.
bool changed_by_several_blocks(const Attempt& attempt, const Cell& cell) {
  return cell.write_thread & several_changing_blocks && cell.write_epoch >= machine.launch_epoch && !attempt.shared;
}

bool write_is_ordered(const Attempt& attempt, const Cell& cell) {
  const Thread& me = attempt.thread;
  if (cell.write_epoch == 0) return true;
  if (changed_by_several_blocks(attempt, cell)) return false;
  if (cell.write_epoch < machine.block_epoch) return ordered_from_elsewhere(attempt, cell.write_epoch);
  if (cell.write_epoch < machine.epoch) return true;
  if (cell.flags & several_atomics) return false;
  if (writer(cell) == me.number) return true;
  return writer(cell) / lanes == me.warp->number && seen_by(me, writer(cell) % lanes, cell.write_clock);
}

uint32_t clock_of_reader(const Cell& cell, int lane) {
  return cell.flags & clock_table ? shadow.read_clocks[cell.read_clock][size_t(lane)] : cell.read_clock;
}

bool reads_are_ordered(const Attempt& attempt, const Cell& cell) {
  const Thread& me = attempt.thread;
  if (cell.read_epoch == 0) return true;
  if ((cell.flags & several_blocks) && cell.read_epoch >= machine.launch_epoch && !attempt.shared) return false;
  if (cell.read_epoch < machine.block_epoch) return ordered_from_elsewhere(attempt, cell.read_epoch);
  if (cell.read_epoch < machine.epoch) return true;
  if (cell.flags & several_warps) return false;
  for (uint32_t rest = cell.read_lanes; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (lane == me.lane && cell.read_warp == me.warp->number) continue;
    if (cell.read_warp != me.warp->number || !seen_by(me, lane, clock_of_reader(cell, lane))) return false;
  }
  return true;
}

/// A read by a launch that the one that runs is not ordered after, other than the last read; null where there is none.
const EarlierRead* unordered_earlier_read(const Cell& cell) {
  if (!(cell.write_thread & read_by_unordered_launches)) return nullptr;
  const auto found = earlier_reads().find(&cell);
  if (found == earlier_reads().end()) return nullptr;
  for (const EarlierRead& read : found->second)
    if (!launch_is_ordered(read.epoch)) return &read;
  return nullptr;
}

void keep_unordered_read(Cell& cell) {
  auto& reads = earlier_reads()[&cell];
  if (!(cell.write_thread & read_by_unordered_launches)) reads.clear();  // of a buffer that lay here before
  reads.push_back({cell.read_epoch, cell.read_place});
  cell.write_thread |= read_by_unordered_launches;
}

void remember_read(const Attempt& attempt, Cell& cell) {
  const Thread& me = attempt.thread;
  const Machine& m = machine;
  if (shadow.concurrent && cell.read_epoch && cell.read_epoch < m.launch_epoch && !attempt.shared &&
      !launch_is_ordered(cell.read_epoch))
    keep_unordered_read(cell);
  const bool this_launch = cell.read_epoch >= m.launch_epoch && !attempt.shared;
  bool alone = true;
  if (cell.read_epoch < m.block_epoch) {
    if (this_launch)
      cell.flags |= several_blocks;
    else
      cell.flags &= uint8_t(~several_blocks);
  } else if (cell.read_epoch == m.epoch) {
    if (cell.read_warp != me.warp->number) {
      cell.flags |= several_warps;
      return;
    }
    alone = false;
  }
  if (alone) {
    cell.flags &= uint8_t(~(several_warps | clock_table));
    cell.read_lanes = 0;
  }
  // Readers that I come after need not be remembered: who comes after me comes after them.
  uint32_t others = cell.read_lanes & ~(1u << me.lane);
  for (uint32_t rest = others; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (seen_by(me, lane, clock_of_reader(cell, lane))) others &= ~(1u << lane);
  }
  if (others && (cell.flags & clock_table || cell.read_clock != me.warp->clock)) {
    if (!(cell.flags & clock_table)) {
      shadow.read_clocks.emplace_back().fill(cell.read_clock);
      cell.read_clock = uint32_t(shadow.read_clocks.size() - 1);
      cell.flags |= clock_table;
    }
    shadow.read_clocks[cell.read_clock][size_t(me.lane)] = me.warp->clock;
  } else {
    cell.flags &= uint8_t(~clock_table);
    cell.read_clock = me.warp->clock;
  }
  cell.read_lanes = others | 1u << me.lane;
  cell.read_epoch = m.epoch;
  cell.read_warp = uint8_t(me.warp->number);
  cell.read_place = attempt.place;
}

void remember_write(const Attempt& attempt, Cell& cell, bool earlier_atomic_is_unordered) {
  const Thread& me = attempt.thread;
  const bool unordered_atomic = attempt.access == Access::atomic && earlier_atomic_is_unordered;
  const bool other_blocks = unordered_atomic && !attempt.shared &&
                            (cell.write_epoch < machine.block_epoch || changed_by_several_blocks(attempt, cell));
  cell.write_epoch = machine.epoch;
  cell.write_clock = me.warp->clock;
  cell.write_thread = uint16_t(me.number | (other_blocks ? several_changing_blocks : 0));
  cell.write_place = attempt.place;
  cell.read_epoch = 0;  // who comes after this write comes after those reads
  cell.flags &= uint8_t(~(atomic_write | several_atomics | several_warps | several_blocks | clock_table));
  cell.flags |= initialised;
  if (attempt.access == Access::atomic) cell.flags |= atomic_write | (unordered_atomic ? several_atomics : 0);
}

void check_cell(const Attempt& attempt, Cell& cell) {
  if (!(cell.flags & accessible)) attempt.refuse("access out of bounds");
  if (cell.flags & in_flight)
    attempt.refuse("a copy is not waited for",
                   ", to which the cp.async issued at " + words(cell.write_place) + " is still on its way");
  if (attempt.access != Access::write) {
    const bool written = cell.flags & initialised && (!attempt.shared || cell.write_epoch >= machine.block_epoch);
    if (!written) attempt.refuse("read of uninitialised memory");
  }
  const bool after_write = write_is_ordered(attempt, cell);
  if (!after_write && !(attempt.access == Access::atomic && cell.flags & atomic_write)) {
    if (changed_by_several_blocks(attempt, cell))
      attempt.refuse("race", ", which several blocks changed atomically, the last at " + words(cell.write_place) +
                                 ", and blocks are not ordered");
    attempt.refuse("race", other_side(cell.write_epoch, thread_of_block(unsigned(writer(cell))),
                                      cell.flags & atomic_write ? "changed atomically" : "wrote", cell.write_place));
  }
  if (attempt.access == Access::read) {
    remember_read(attempt, cell);
    return;
  }
  if (!reads_are_ordered(attempt, cell)) {
    const unsigned reader = cell.read_warp * lanes + unsigned(__builtin_ctz(cell.read_lanes));
    attempt.refuse("race", other_side(cell.read_epoch, thread_of_block(reader), "read", cell.read_place));
  }
  if (const EarlierRead* read = unordered_earlier_read(cell))
    attempt.refuse("race", other_side(read->epoch, "", "read", read->place));
  remember_write(attempt, cell, !after_write);
}

void check(const Attempt& attempt) {
  Cell* cells = attempt.shared ? shared_cell(attempt.address) : global_cell(attempt.address);
  for (size_t i = 0; i < attempt.bytes; ++i) check_cell(attempt, cells[i]);
}

/// The plain flavour's check: of shared arrays alone, since pages guard the others.
void check_bounds(const Attempt& attempt) {
  if (!attempt.shared) return;
  for (const SharedChunk& chunk : machine.chunks)
    if (attempt.address >= chunk.data && attempt.address + attempt.bytes <= chunk.data + chunk.bytes) return;
  attempt.refuse("access out of bounds");
}

bool on_stack(const Thread& thread, const char* address) {
  return address >= thread.fiber.stack_low && address < thread.fiber.stack_low + thread.fiber.stack_bytes;
}

/// The parts of the program's image that can be written, without those that are constant once the program has started.
struct Image {
  const char *low = nullptr, *high = nullptr;  // all of it
  std::vector<std::pair<const char*, const char*>> variables,
      fixed;  // segments that can be written; fixed parts of them
};
const Image& image() {
  static const Image the_image = [] {
    Image found;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* to) {
          Image& i = *static_cast<Image*>(to);
          for (int n = 0; n < info->dlpi_phnum; ++n) {
            const auto& part = info->dlpi_phdr[n];
            const char* first = reinterpret_cast<const char*>(info->dlpi_addr + part.p_vaddr);
            const char* last = first + part.p_memsz;
            if (part.p_type == PT_GNU_RELRO) i.fixed.push_back({first, last});
            if (part.p_type != PT_LOAD) continue;
            if (!i.low || first < i.low) i.low = first;
            if (last > i.high) i.high = last;
            if (part.p_flags & PF_W) i.variables.push_back({first, last});
          }
          return 1;  // the program is the first object
        },
        &found);
    return found;
  }();
  return the_image;
}
bool within(const std::vector<std::pair<const char*, const char*>>& parts, const char* at) {
  return std::any_of(parts.begin(), parts.end(),
                     [=](const auto& part) { return at >= part.first && at < part.second; });
}
bool is_constant(const char* at) {
  const Image& i = image();
  return at >= i.low && at < i.high && (!within(i.variables, at) || within(i.fixed, at));
}

template <class T>
bool within(const T& object, const char* at) {
  const char* first = reinterpret_cast<const char*>(&object);
  return at >= first && at < first + sizeof object;
}
bool is_built_in_variable(const char* at) {
  namespace words = kernels::simt_provider;
  return within(words::threadIdx, at) || within(words::blockIdx, at) || within(words::blockDim, at) ||
         within(words::gridDim, at);
}

/// An address that is neither shared nor global memory nor on the thread's own stack.
void check_other(const Attempt& attempt) {
  if (attempt.access == Access::read && (is_constant(attempt.address) || is_built_in_variable(attempt.address))) return;
  const char* own = attempt.thread.fiber.stack_low;
  if (attempt.address < own && attempt.address + attempt.bytes > own)
    attempt.thread_fault("the stack of a thread overflowed its " + std::to_string(fiber_stack_bytes) + " bytes");
  const char* first = machine.threads.front().fiber.stack_low;
  const Fiber& last = machine.threads.back().fiber;
  const bool of_other_thread = attempt.address >= first && attempt.address < last.stack_low + last.stack_bytes;
  attempt.thread_fault(std::string("access out of bounds: a thread ") + attempt.verb() +
                       sentence(" ", attempt.bytes, " bytes of ") +
                       (of_other_thread                              ? "a local variable of another thread"
                        : is_constant(attempt.address)               ? "a constant of the program"
                        : within(image().variables, attempt.address) ? "a variable of the host's program"
                                                                     : "memory of the host"));
}

}  // namespace

void check_access(Thread& thread, const void* address, size_t bytes, Access access, Site caller, Count count) {
  const char* at = static_cast<const char*>(address);
  const bool shared = in_arena(address, 1);
  if (!shadow.enabled && !shared && !settings().counters) return;
  if (!shared && !in_heap(address)) {
    if (shadow.enabled && !on_stack(thread, at)) check_other({thread, at, bytes, access, place_of(caller), shared});
    return;
  }
  const Attempt attempt{thread, at, bytes, access, place_of(caller), shared};
  shadow.enabled ? check(attempt) : check_bounds(attempt);
  if (settings().counters && count == Count::yes) count_request(thread, address, bytes, attempt.place, shared);
}

void check_compiled_access(const void* address, size_t bytes, Access access, const void* return_address) {
  if (!machine.in_kernel) return;
  Thread& thread = *machine.current;
  const char* at = static_cast<const char*>(address);
  if (on_stack(thread, at)) return;
  const Entered entered;
  const bool shared = in_arena(address, 1);
  const Attempt attempt{thread, at, bytes, access, place_of(return_address), shared};
  if (!shared && !in_heap(address)) {
    check_other(attempt);
    return;
  }
  check(attempt);
  if (settings().counters) count_request(thread, address, bytes, attempt.place, shared);
}

void check_library_access(const void* data, size_t bytes, Access access, Site caller) {
  if (!shadow.enabled) return;
  static Warp warp{};
  static Thread thread{};  // a block of one
  thread.warp = &warp;
  const char* at = static_cast<const char*>(data);
  for (size_t i = 0; i < bytes; ++i) check({thread, at + i, 1, access, place_of(caller), false});
}

void shadow_open_shared(const void* data, size_t bytes) {
  if (!shadow.enabled) return;
  if (!shadow.shared) shadow.shared = reserve(arena_bytes);
  Cell* cells = shared_cell(data);
  for (size_t i = 0; i < bytes; ++i) cells[i].flags = accessible;
}

void shadow_close_shared(const void* data, size_t bytes) {
  if (!shadow.enabled) return;
  Cell* cells = shared_cell(data);
  for (size_t i = 0; i < bytes; ++i) cells[i].flags = 0;
}

void shadow_open_global(const void* data, size_t bytes) {
  if (!shadow.enabled) return;
  Cell* cells = global_cell(data);
  for (size_t i = 0; i < bytes; ++i) cells[i].flags = accessible;
}

void shadow_close_global(const void* pages, size_t bytes) {
  if (!shadow.enabled) return;
  madvise(global_cell(pages), bytes * sizeof(Cell), MADV_DONTNEED);  // all zero when next read
}

void shadow_set_initialised(const void* data, size_t bytes) {
  if (!shadow.enabled) return;
  Cell* cells = global_cell(data);
  for (size_t i = 0; i < bytes; ++i) {
    cells[i] = Cell{};  // the copy is ordered after and before all launches
    cells[i].flags = accessible | initialised;
  }
}

void shadow_set_in_flight(const void* shared, size_t bytes, bool now_in_flight) {
  if (!shadow.enabled) return;
  Cell* cells = shared_cell(shared);
  for (size_t i = 0; i < bytes; ++i)
    cells[i].flags = uint8_t(now_in_flight ? cells[i].flags | in_flight : cells[i].flags & ~in_flight);
}

void shadow_begin_launch(bool concurrent_launches) {
  shadow.concurrent = concurrent_launches;
  shadow.read_clocks.clear();
}

void shadow_expect_unused(const void* data, size_t bytes, const std::function<bool(uint32_t)>& is_ordered) {
  if (!shadow.enabled) return;
  const Cell* cells = global_cell(data);
  const auto expect = [&](const char* did, uint32_t epoch, uint32_t place, size_t at) {
    if (epoch != 0 && !is_ordered(epoch))
      throw Fault(sentence("a buffer of ", bytes, " bytes is freed while ", launch_at(epoch),
                           " may still use it, which ", did, " its byte ", at, " at ", words(place),
                           ", with no event or synchronisation between"));
  };
  for (size_t i = 0; i < bytes; ++i) {
    expect("wrote", cells[i].write_epoch, cells[i].write_place, i);
    expect("read", cells[i].read_epoch, cells[i].read_place, i);
    if (cells[i].write_thread & read_by_unordered_launches)
      for (const EarlierRead& read : earlier_reads()[cells + i]) expect("read", read.epoch, read.place, i);
  }
}

void shadow_settled() { earlier_reads().clear(); }

void shadow_forget_order(const void* data, size_t bytes) {
  if (!shadow.enabled) return;
  Cell* cells = global_cell(data);
  for (size_t i = 0; i < bytes; ++i) {
    const uint8_t flags = cells[i].flags & (accessible | initialised);
    cells[i] = Cell{};
    cells[i].flags = flags;
  }
}

void shadow_forget_shared() {
  if (shadow.shared) madvise(shadow.shared, arena_bytes * sizeof(Cell), MADV_DONTNEED);
}

void enable_shadow() { shadow.enabled = true; }
bool checked() { return shadow.enabled; }

std::string symbolised(uintptr_t program_counter) {
  if (!__sanitizer_symbolize_pc) return {};
  char text[512] = "";
  __sanitizer_symbolize_pc(reinterpret_cast<void*>(program_counter), "%s:%l", text, sizeof text);
  if (text[0] == '<')  // "<null>": no tool that knows lines
    std::snprintf(text, sizeof text, "address %#zx (llvm-symbolizer, Debian's llvm-14, would tell the line)",
                  size_t(program_counter));
  const char* slash = std::strrchr(text, '/');
  return slash ? slash + 1 : text;
}

SourceLine source_line(uint32_t place_number) {
  std::string text = words(place_number);
  if (place_number & by_site) text.resize(text.rfind(':'));  // without the column
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return {text, 0};
  return {text.substr(0, colon), unsigned(std::strtoul(text.c_str() + colon + 1, nullptr, 10))};
}

}  // namespace tessera::simt
