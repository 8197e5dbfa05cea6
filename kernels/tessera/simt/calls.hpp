// What a kernel's words call in the emulator: the boundary between the vocabulary (compiled with the kernels, perhaps
// instrumented) and the emulator's library (never instrumented). Kernels do not include this; device/emulated.cuh does.
#pragma once
#include <cstddef>
#include <cstdint>
#if !defined(__clang__)
#include <source_location>
#endif

namespace tessera::simt {

/// A place in a kernel's source, with the place from which its function was called where that is told: two calls of one
/// function are not the same barrier. Two calls on one line differ in the column.
struct Site {
  const char* file = "";
  uint32_t at = 0, caller_at = 0;  // line and column in one; 16 bytes go by register, more would not

  static constexpr unsigned column_bits = 9, most_column = (1u << column_bits) - 1;
  static constexpr Site of(const char* file, unsigned line, unsigned column) {
    return {file, line << column_bits | (column < most_column ? column : most_column), 0};
  }
  constexpr unsigned line() const { return at >> column_bits; }
  constexpr unsigned column() const { return at & most_column; }
  constexpr unsigned caller_line() const { return caller_at >> column_bits; }
  /// This place, in a function called at `caller`.
  constexpr Site called_at(Site caller) const { return {file, at, caller.at}; }

  /// As a default argument: the place of the call.
#if defined(__clang__)  // clang 14 has the builtins but not <source_location>, g++ 12 the other way round
  static constexpr Site here(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE(),
                             unsigned column = __builtin_COLUMN()) {
    return of(file, line, column);
  }
#else
  static constexpr Site here(std::source_location place = std::source_location::current()) {
    return of(place.file_name(), place.line(), place.column());
  }
#endif
};

enum class WarpOperation : uint8_t {
  shuffle,
  shuffle_up,
  shuffle_down,
  shuffle_xor,
  ballot,
  any,
  all,
  sync,
  load_matrices,
  multiply
};
enum class BlockOperation : uint8_t { sync, sync_or, sync_and, sync_count };
enum class Multiply : uint8_t { bf16_m16n8k16, tf32_m16n8k8 };
enum class Access : uint8_t { read, write, atomic };

// ---- warp and block ----
/// The value of the lane that `operation`, `argument` and `width` name, for a value of at most 8 bytes.
uint64_t warp_shuffle(WarpOperation operation, uint32_t mask, uint64_t value, int argument, int width, Site caller);
/// Lanes of `mask` whose predicate holds (`operation` tells the word for messages).
uint32_t warp_vote(WarpOperation operation, uint32_t mask, bool predicate, Site caller);
void warp_sync(uint32_t mask, Site caller);
/// ldmatrix: `count` matrices of 8 rows of 16 bytes; lane 8 i + r holds the address of row r of matrix i.
void warp_load_matrices(uint32_t* registers, const void* row, int count, bool transposed, Site caller);
/// mma.sync: d += a b on the fragments of the warp.
void warp_multiply(Multiply kind, float* d, const uint32_t* a, const uint32_t* b, Site caller);
/// __syncthreads and its relatives; the result is that of the predicate over the block.
int block_sync(BlockOperation operation, int predicate, Site caller);

// ---- memory ----
/// The array that TESSERA_SHARED declares: one for each `key`, whichever thread comes first.
void* shared_array(const void* key, size_t bytes, size_t alignment, Site caller);
/// The `index`-th part of the launch's shared memory, whose offset on a GPU would be `offset`.
void* shared_part(unsigned index, size_t offset, size_t bytes, Site caller);
/// Checked copies between registers (a kernel's local) and memory.
void load(void* to_local, const void* from, size_t bytes, Site caller);
void store(void* to, const void* from_local, size_t bytes, Site caller);
/// An atomic operation: the operand's checked bits, and the store of the changed ones (one thread runs at a time).
uint64_t atomic_begin(const void* operand, size_t bytes, Site caller);
void atomic_end(void* operand, size_t bytes, uint64_t bits);
void copy_async(void* shared, const void* global, bool valid, Site caller);
void copy_async_commit();
void copy_async_wait(int pending_groups, Site caller);

/// __trap and failed assertions of a kernel.
[[noreturn]] void trap(Site caller);

}  // namespace tessera::simt
