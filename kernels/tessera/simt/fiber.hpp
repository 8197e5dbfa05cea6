// Fibers: call stacks of their own, between which one thread of the system switches. Every CUDA thread of the block
// that runs has one. A switch saves the registers that the calling convention asks a function to keep, and changes the
// stack.
#pragma once
#include <cstddef>

#if !defined(__x86_64__) && !defined(__aarch64__) && !defined(TESSERA_SIMT_UCONTEXT)
#define TESSERA_SIMT_UCONTEXT 1  // also by hand, to try it elsewhere
#endif
#if defined(TESSERA_SIMT_UCONTEXT)
#include <ucontext.h>
#endif

namespace tessera::simt {

struct Fiber {
  void* stack_pointer = nullptr;  // while suspended
  char* stack_low = nullptr;      // the stack's lowest usable byte; the guard page lies below
  size_t stack_bytes = 0;
  void* sanitizer_stack = nullptr;  // what the address sanitizer keeps of a suspended fiber
#if defined(TESSERA_SIMT_UCONTEXT)
  ucontext_t context;
#endif
};

inline constexpr size_t fiber_stack_bytes = 256 * 1024;

/// Stacks for `count` fibers in one reservation, a forbidden page below each; made once. Pages are taken when touched.
class StackReservation {
 public:
  explicit StackReservation(size_t count);
  void assign(Fiber& fiber, size_t number) const;
  /// The number of the fiber on whose guard page the address lies, or -1.
  ptrdiff_t guard_at(const void* address) const;

 private:
  char* base_;
  size_t count_;
};

/// Lets `fiber` begin at `entry`, which must never return, with `reserved` bytes kept free at the top of its stack.
/// Returns where those bytes lie.
void* prepare_fiber(Fiber& fiber, void (*entry)(), size_t reserved);

/// Suspends `from` and resumes `to`. `from_ends`: it will never be resumed.
void switch_fiber(Fiber& from, Fiber& to, bool from_ends);
/// The first thing that a fiber does; `main` is the one that began the first of them.
void fiber_entered(Fiber& main);
/// Forgets what the address sanitizer knows of an abandoned stack.
void forget_stack(const Fiber& fiber);

}  // namespace tessera::simt
