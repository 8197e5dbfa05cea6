// Device memory: buffers between forbidden pages, out of the host's reach while no kernel runs.
#pragma once
#include <cstddef>
#include <functional>
#include <string>

#include <tessera/simt/fiber.hpp>

namespace tessera::simt {

/// The addresses that buffers are taken from, reserved at once. Null where nothing was allocated yet.
char* heap_base();
inline constexpr size_t heap_bytes = size_t(1) << 38;
inline bool in_heap(const void* address) {
  const char* at = static_cast<const char*>(address);
  return heap_base() && at >= heap_base() && at < heap_base() + heap_bytes;
}

void* heap_allocate(size_t bytes);
void heap_release(void* data);
size_t heap_size_of(const void* data);
void heap_for_each(const std::function<void(const void* data, size_t bytes)>& visit);
/// Throws unless [data, data + bytes) lies in one buffer.
void heap_expect(const void* data, size_t bytes, const char* what);
/// "byte 4096 of a buffer of 4096 bytes", for any address of the heap.
std::string heap_describe(const void* address);

/// Makes all buffers accessible for as long as it lives.
class HeapAccess {
 public:
  HeapAccess();
  ~HeapAccess();
  HeapAccess(const HeapAccess&) = delete;
  HeapAccess& operator=(const HeapAccess&) = delete;
};

/// Turns a fault of the memory protection into a simt::Fault where a kernel caused it, and into a sentence and the end
/// of the program where the host did. `stacks`: those of the fibers, once they are there.
void watch_signals(const StackReservation* stacks);

}  // namespace tessera::simt
