// Checks of single accesses. In the checked flavour every byte of shared and global memory has a shadow that remembers
// who wrote and read it last; in the plain flavour only the words of the vocabulary are checked, against the bounds of
// shared arrays.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include <tessera/simt/calls.hpp>

namespace tessera::simt {

struct Thread;
struct Launch;

enum class Count : bool { no, yes };

/// Checks an access by a word of the vocabulary, and counts it where that is wanted. Throws Fault out of the launch.
void check_access(Thread& thread, const void* address, size_t bytes, Access access, Site caller,
                  Count count = Count::yes);
/// The same for a load or store in compiled code, which returns to `return_address`.
void check_compiled_access(const void* address, size_t bytes, Access access, const void* return_address);
/// The same for bytes of device memory that the library's call that runs touches. Throws Fault.
void check_library_access(const void* data, size_t bytes, Access access, Site caller);

// ---- what the shadow must be told; nothing happens in the plain flavour ----
void shadow_open_shared(const void* data, size_t bytes);   // uninitialised, accessible
void shadow_close_shared(const void* data, size_t bytes);  // forbidden
void shadow_open_global(const void* data, size_t bytes);
void shadow_close_global(const void* pages, size_t bytes);
void shadow_set_initialised(const void* data, size_t bytes);
void shadow_set_in_flight(const void* shared, size_t bytes, bool in_flight);
/// A launch is about to run; `ordered_before(epoch)` of streams.cpp tells which earlier ones it comes after.
void shadow_begin_launch(bool concurrent_launches);

/// Throws Fault where one of these bytes, which are to be freed, was touched in an epoch that is not ordered before.
void shadow_expect_unused(const void* data, size_t bytes, const std::function<bool(uint32_t epoch)>& is_ordered);
/// All that ran is ordered before all that can still come.
void shadow_settled();
/// The same, and epochs begin anew: what is initialised stays so.
void shadow_forget_order(const void* data, size_t bytes);
void shadow_forget_shared();

/// Called by the checked flavour's callbacks before main: from now on there is a shadow.
void enable_shadow();
/// "file:line" of an instruction, where the program can be asked; else empty.
std::string symbolised(uintptr_t program_counter);

// ---- counters.cpp ----
/// Notes that one lane takes part in a request at `place` (an identifier of shadow.cpp).
void count_request(const Thread& thread, const void* address, size_t bytes, uint32_t place, bool shared);
/// Adds the block's requests to the totals of its kernel.
void end_requests();
/// file and line of an identifier.
struct SourceLine {
  std::string file;
  unsigned line;
};
SourceLine source_line(uint32_t place);

}  // namespace tessera::simt
