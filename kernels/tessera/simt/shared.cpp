// Shared memory of the block that runs, and copies into it. Arrays lie apart, with forbidden bytes between them whose
// pattern is verified when the block ends; fresh memory is NaN.
#include <algorithm>
#include <cstring>

#include <tessera/simt/heap.hpp>
#include <tessera/simt/machine.hpp>
#include <tessera/simt/shadow.hpp>

#include <sys/mman.h>

namespace tessera::simt {
namespace {
constexpr size_t gap = 128;              // forbidden bytes around every array, at least
constexpr size_t shared_alignment = 16;  // of a TESSERA_SHARED array: no kernel may rely on more
constexpr unsigned char gap_pattern = 0xa5;
constexpr unsigned char fresh_pattern = 0xff;  // NaN in every floating type

size_t round_up(size_t n, size_t step) { return (n + step - 1) / step * step; }

/// `offset`: where the array lies on a GPU, to the multiple of `gap`; so it is aligned as there, and no better.
void* add_chunk(const void* key, unsigned index, size_t offset, size_t bytes, Site caller) {
  Machine& m = machine;
  const size_t begin = m.arena_used + offset % gap, end = round_up(begin + bytes, gap) + gap;
  if (end > arena_bytes) fault(sentence("the shared arrays of a block take more than ", arena_bytes, " bytes"));
  char* data = m.arena + begin;
  std::memset(m.arena + m.arena_used, gap_pattern, begin - m.arena_used);
  std::memset(data, fresh_pattern, bytes);
  std::memset(data + bytes, gap_pattern, end - begin - bytes);
  m.arena_used = end;
  m.chunks.push_back({key, index, data, bytes, caller});
  shadow_open_shared(data, bytes);
  return data;
}

void complete(const PendingCopy& copy) {
  if (copy.from && std::memcmp(copy.from, copy.source.data(), 16) != 0)
    fault(sentence("the source of the cp.async issued at ", place(copy.caller), ", ", heap_describe(copy.from),
                   ", was changed before the copy was waited for: on a GPU either value may arrive"));
  std::memcpy(copy.to, copy.source.data(), 16);
}
}  // namespace

bool in_arena(const void* address, size_t bytes) {
  const char* at = static_cast<const char*>(address);
  return machine.arena && at >= machine.arena && at + bytes <= machine.arena + arena_bytes;
}

void begin_shared_memory() {
  Machine& m = machine;
  if (!m.arena) {
    void* data = mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) throw std::bad_alloc();
    m.arena = static_cast<char*>(data);
  }
  for (const SharedChunk& chunk : m.chunks) shadow_close_shared(chunk.data, chunk.bytes);
  m.chunks.clear();
  std::memset(m.arena, gap_pattern, gap);
  m.arena_used = gap;
  m.static_bytes = 0;
}

void end_shared_memory() {
  Machine& m = machine;
  const char* at = m.arena;
  const auto verify = [&](const char* end, const SharedChunk* before) {
    for (; at < end; ++at)
      if (static_cast<unsigned char>(*at) != gap_pattern) {
        m.failed = true;
        m.message = before
                        ? sentence("a write went ", at - (before->data + before->bytes), " bytes past the end of the ",
                                   before->bytes, " bytes of shared memory declared at ", place(before->site))
                        : "a write went below the first array in shared memory";
        return;
      }
  };
  const SharedChunk* before = nullptr;
  for (const SharedChunk& chunk : m.chunks) {
    verify(chunk.data, before);
    at = chunk.data + chunk.bytes;
    before = &chunk;
  }
  verify(m.arena + m.arena_used, before);
}

void* shared_array(const void* key, size_t bytes, size_t, Site caller) {
  const Entered entered;
  Machine& m = machine;
  for (const SharedChunk& chunk : m.chunks)
    if (chunk.key == key) return chunk.data;
  m.static_bytes += bytes;
  if (m.static_bytes > most_static_shared)
    fault(sentence("TESSERA_SHARED at ", place(caller), ": the kernel's arrays take ", m.static_bytes,
                   " bytes, but at most ", most_static_shared, " may be declared (ask the launch for more)"));
  const size_t given = m.launch->shape.shared_bytes;
  if (m.static_bytes + given > settings().shared_bytes)
    fault(sentence("TESSERA_SHARED at ", place(caller), ": the kernel's arrays take ", m.static_bytes,
                   " bytes beside the ", given, " that the launch asks for, but a block can have at most ",
                   settings().shared_bytes, " (settings().shared_bytes)"));
  return add_chunk(key, 0, shared_alignment, bytes, caller);
}

void* shared_part(unsigned index, size_t offset, size_t bytes, Site caller) {
  const Entered entered;
  Machine& m = machine;
  for (const SharedChunk& chunk : m.chunks) {
    if (chunk.key || chunk.index != index) continue;
    if (chunk.bytes != bytes)
      fault(sentence("SharedArena at ", place(caller), ": threads of a block ask for different parts: ", bytes,
                     " bytes here, ", chunk.bytes, " at ", place(chunk.site)));
    return chunk.data;
  }
  const size_t given = m.launch->shape.shared_bytes;
  if (offset + bytes > given)
    fault(sentence("SharedArena at ", place(caller), ": the kernel takes ", offset + bytes,
                   " bytes of shared memory, but the launch gave ", given));
  return add_chunk(nullptr, index, offset, bytes, caller);
}

// ---- cp.async: the bytes move when the thread waits for them, no sooner ----

void copy_async(void* shared, const void* global, bool valid, Site caller) {
  const Entered entered;
  Thread& me = *machine.current;
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0)
    fault(sentence("cp_async16 at ", place(caller), ": an address is no multiple of 16"));
  if (!in_arena(shared, 16)) fault(sentence("cp_async16 at ", place(caller), ": the destination is not shared memory"));
  if (valid) {
    if (in_arena(global, 16)) fault(sentence("cp_async16 at ", place(caller), ": the source is not global memory"));
    check_access(me, global, 16, Access::read, caller);
  }
  check_access(me, shared, 16, Access::write, caller);
  std::memset(shared, fresh_pattern, 16);
  shadow_set_in_flight(shared, 16, true);
  PendingCopy copy{static_cast<char*>(shared), nullptr, me.committed_groups, {}, caller};
  if (valid) {
    copy.from = static_cast<const char*>(global);
    std::memcpy(copy.source.data(), global, 16);
  }
  me.copies.push_back(copy);
}

void copy_async_commit() {
  const Entered entered;
  ++machine.current->committed_groups;
}

void copy_async_wait(int pending_groups, Site caller) {
  const Entered entered;
  Thread& me = *machine.current;
  auto done = me.copies.begin();
  for (; done != me.copies.end() && done->group + uint64_t(pending_groups) < me.committed_groups; ++done) {
    shadow_set_in_flight(done->to, 16, false);
    complete(*done);
    check_access(me, done->to, 16, Access::write, caller, Count::no);
  }
  me.copies.erase(me.copies.begin(), done);
}

// ---- packs and atomics ----
namespace {
void expect_aligned(const void* address, size_t bytes, const char* word, Site caller) {
  if (bytes > 0 && reinterpret_cast<uintptr_t>(address) % bytes != 0)
    fault(sentence(word, " at ", place(caller), ": the address is no multiple of ", bytes));
}
}  // namespace

void load(void* to_local, const void* from, size_t bytes, Site caller) {
  const Entered entered;
  expect_aligned(from, bytes, "load_pack", caller);
  check_access(*machine.current, from, bytes, Access::read, caller);
  std::memcpy(to_local, from, bytes);
}

void store(void* to, const void* from_local, size_t bytes, Site caller) {
  const Entered entered;
  expect_aligned(to, bytes, "store_pack", caller);
  check_access(*machine.current, to, bytes, Access::write, caller);
  std::memcpy(to, from_local, bytes);
}

uint64_t atomic_begin(const void* operand, size_t bytes, Site caller) {
  const Entered entered;
  expect_aligned(operand, bytes, "an atomic operation", caller);
  check_access(*machine.current, operand, bytes, Access::atomic, caller);
  uint64_t bits = 0;
  std::memcpy(&bits, operand, bytes);
  return bits;
}

void atomic_end(void* operand, size_t bytes, uint64_t bits) {
  const Entered entered;
  std::memcpy(operand, &bits, bytes);
}

}  // namespace tessera::simt
