#include <tessera/simt/heap.hpp>

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <new>

#include <tessera/simt/machine.hpp>
#include <tessera/simt/shadow.hpp>

namespace tessera::simt {
namespace {

constexpr size_t least_guard = size_t(1) << 20;  // a stray row lands in it
constexpr size_t alignment = 16;                 // of a buffer: the widest load of a kernel
// Addresses are taken in a circle, so that old pointers stay forbidden for long. It has this many bytes, since the page
// tables of all addresses that were ever touched stay in memory, and more where they do not suffice.
constexpr size_t least_circle = size_t(1) << 35;

struct Buffer {
  char* pages;
  size_t page_bytes;
  char* data;  // ends with the pages, but for up to 15 bytes
  size_t bytes;
  size_t guard;
  char* span;  // all addresses taken for it
  size_t span_bytes;
  bool fresh = true;  // not yet filled
};

struct Heap {
  char* base = nullptr;
  size_t circle = 0;                      // bytes of the reservation that are in use or free
  std::map<char*, size_t> free_spans;     // by address; no two touch
  char* next = nullptr;                   // where the search for a free span begins
  std::map<const char*, Buffer> buffers;  // by data
  int open = 0;
};
Heap& heap() {
  static Heap* the_heap = new Heap;  // buffers may be released after static objects are gone
  return *the_heap;
}

void set_access(const Buffer& buffer, bool allowed) {
  mprotect(buffer.pages, buffer.page_bytes, allowed ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void make_accessible(Buffer& buffer) {
  set_access(buffer, true);
  if (!buffer.fresh) return;
  std::memset(buffer.pages, 0xff, buffer.page_bytes);  // NaN in every floating type, also around the buffer
  buffer.fresh = false;
}

/// Joins the span with the free ones that touch it.
void give_span(Heap& h, char* at, size_t bytes) {
  auto after = h.free_spans.lower_bound(at);
  if (after != h.free_spans.end() && at + bytes == after->first) {
    bytes += after->second;
    after = h.free_spans.erase(after);
  }
  if (after != h.free_spans.begin()) {
    auto& [before, before_bytes] = *std::prev(after);
    if (before + before_bytes == at) {
      before_bytes += bytes;
      return;
    }
  }
  h.free_spans.emplace_hint(after, at, bytes);
}

/// Takes part of a free span.
char* take_part(Heap& h, std::map<char*, size_t>::iterator span, char* at, size_t bytes) {
  const auto [first, available] = *span;
  h.free_spans.erase(span);
  if (at > first) h.free_spans.emplace(first, size_t(at - first));
  if (at + bytes < first + available) h.free_spans.emplace(at + bytes, size_t(first + available - (at + bytes)));
  h.next = at + bytes;
  return at;
}

/// The next addresses of the circle that are free and suffice.
char* take_span(Heap& h, size_t bytes) {
  if (!h.base) {
    void* data = mmap(nullptr, heap_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) throw std::bad_alloc();
    h.next = h.base = static_cast<char*>(data);
  }
  for (;;) {
    const auto later = h.free_spans.lower_bound(h.next);
    if (later != h.free_spans.begin()) {  // the next addresses may have been joined with free ones before them
      const auto around = std::prev(later);
      if (h.next + bytes <= around->first + around->second) return take_part(h, around, h.next, bytes);
    }
    for (auto span = later; span != h.free_spans.end(); ++span)
      if (span->second >= bytes) return take_part(h, span, span->first, bytes);
    for (auto span = h.free_spans.begin(); span != later; ++span)
      if (span->second >= bytes) return take_part(h, span, span->first, bytes);
    const size_t more = h.circle == 0 ? least_circle : h.circle;
    if (h.circle + more > heap_bytes) fail<Error>("simt: ", bytes, " bytes of device memory are more than is left");
    give_span(h, h.base + h.circle, more);
    h.circle += more;
  }
}

/// The buffer that holds the address or lies nearest to it; null where there is none.
const Buffer* nearest(const char* at) {
  const auto& buffers = heap().buffers;
  const auto after = buffers.upper_bound(at);
  const Buffer* best = nullptr;
  if (after != buffers.begin()) best = &std::prev(after)->second;
  if (after != buffers.end()) {
    const bool inside_best = best && at < best->data + best->bytes;
    if (!best || (!inside_best && after->first - at < at - (best->data + best->bytes))) best = &after->second;
  }
  return best;
}

}  // namespace

char* heap_base() { return heap().base; }

void* heap_allocate(size_t bytes) {
  Heap& h = heap();
  watch_signals(nullptr);
  require<Error>(bytes <= heap_bytes / 4, "simt: ", bytes, " bytes of device memory are more than there is");
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  const size_t page_bytes = std::max(page, (bytes + page - 1) / page * page), guard = std::max(least_guard, page_bytes);
  Buffer buffer;
  buffer.span_bytes = page_bytes + 2 * guard;
  buffer.span = take_span(h, buffer.span_bytes);
  buffer.pages = buffer.span + guard;
  buffer.page_bytes = page_bytes;
  buffer.data = buffer.pages + page_bytes - (bytes + alignment - 1) / alignment * alignment;
  if (bytes == 0) buffer.data -= alignment;  // an address of its own
  buffer.bytes = bytes;
  buffer.guard = guard;
  if (h.open) make_accessible(buffer);
  h.buffers.emplace(buffer.data, buffer);
  shadow_open_global(buffer.data, bytes);
  return buffer.data;
}

void heap_release(void* data) {
  Heap& h = heap();
  const auto found = h.buffers.find(static_cast<char*>(data));
  require<Error>(found != h.buffers.end(), "simt: memory is released that was not allocated, or twice");
  const Buffer buffer = found->second;
  h.buffers.erase(found);
  shadow_close_global(buffer.pages, buffer.page_bytes);
  // Mapped anew, the pages join the forbidden ones around them.
  if (!buffer.fresh)
    mmap(buffer.pages, buffer.page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  give_span(h, buffer.span, buffer.span_bytes);
}

size_t heap_size_of(const void* data) { return heap().buffers.at(static_cast<const char*>(data)).bytes; }

void heap_for_each(const std::function<void(const void*, size_t)>& visit) {
  for (const auto& [data, buffer] : heap().buffers) visit(data, buffer.bytes);
}

void heap_expect(const void* data, size_t bytes, const char* what) {
  const char* at = static_cast<const char*>(data);
  const Buffer* buffer = in_heap(data) ? nearest(at) : nullptr;
  if (!buffer) fail<Fault>("simt: ", what, ": the address is not device memory");
  if (at < buffer->data || at + bytes > buffer->data + buffer->bytes)
    fail<Fault>("simt: ", what, " of ", bytes, " bytes from ", heap_describe(data), " on goes out of bounds");
}

std::string heap_describe(const void* address) {
  const char* at = static_cast<const char*>(address);
  const Buffer* buffer = nearest(at);
  if (!buffer) return "device memory that is not allocated";
  if (at < buffer->pages - buffer->guard || at >= buffer->pages + buffer->page_bytes + buffer->guard)
    return "device memory that is not, or no longer, allocated";
  if (at < buffer->data) return sentence(buffer->data - at, " bytes below a buffer of ", buffer->bytes, " bytes");
  return sentence("byte ", at - buffer->data, " of a buffer of ", buffer->bytes, " bytes");
}

HeapAccess::HeapAccess() {
  if (heap().open++) return;
  for (auto& [data, buffer] : heap().buffers) make_accessible(buffer);
}

HeapAccess::~HeapAccess() {
  if (--heap().open) return;
  for (const auto& [data, buffer] : heap().buffers) set_access(buffer, false);
}

// ---- faults of the memory protection ----
namespace {

const StackReservation* watched_stacks = nullptr;
struct sigaction previous_action;

uintptr_t program_counter(const void* context) {
#if defined(__x86_64__)
  return uintptr_t(static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
  return uintptr_t(static_cast<const ucontext_t*>(context)->uc_mcontext.pc);
#else
  (void)context;
  return 0;
#endif
}

// Memory faults come from the instruction that runs, in a kernel's code or in a copy made for it: no lock is held and
// no other code is half way, so leaving for the host's stack is safe.
void on_fault(int signal_number, siginfo_t* info, void* context) {
  const void* address = info->si_addr;
  if (machine.current) {
    machine.in_kernel = false;
    const ptrdiff_t stack = watched_stacks ? watched_stacks->guard_at(address) : -1;
    std::string what =
        stack >= 0         ? sentence("the stack of thread ", stack, " overflowed its ", fiber_stack_bytes, " bytes")
        : in_heap(address) ? "access out of bounds: " + heap_describe(address)
                           : sentence("access to address ", uintptr_t(address), ", which is no memory of the device");
    if (const std::string where = symbolised(program_counter(context)); !where.empty()) what += " at " + where;
    leave_block(what + " [" + thread_name(*machine.current) + "]");
  }
  if (in_heap(address)) {
    std::fprintf(stderr,
                 "tessera simt: the host touches device memory (%s); copy it with to_host, which synchronises\n",
                 heap_describe(address).c_str());
    _exit(1);
  }
  sigaction(signal_number, &previous_action, nullptr);  // not ours: the instruction faults again
}

}  // namespace

void watch_signals(const StackReservation* stacks) {
  if (stacks) watched_stacks = stacks;
  // Others, such as the frameworks of tests, set these too: look again every time.
  static constexpr size_t bytes = 256 * 1024;
  static char* const stack = new char[bytes];  // an overflowed stack has no room for the handler
  stack_t alternate{};
  sigaltstack(nullptr, &alternate);
  if (alternate.ss_sp != stack) {
    alternate.ss_sp = stack;
    alternate.ss_size = bytes;
    alternate.ss_flags = 0;
    sigaltstack(&alternate, nullptr);
  }
  struct sigaction action {};
  sigaction(SIGSEGV, nullptr, &action);
  if (action.sa_sigaction == on_fault) return;
  previous_action = action;
  action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // the handler may leave without returning
  sigaction(SIGSEGV, &action, nullptr);
}

}  // namespace tessera::simt
