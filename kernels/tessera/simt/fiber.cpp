#include <tessera/simt/fiber.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

// The address sanitizer must be told of every switch. The library is the same with and without it: the symbols are null
// where the program was built without.
extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* save, const void** bottom_old, size_t* size_old);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* address, size_t size);
}

// void tessera_simt_switch(void** save, void* resume): pushes the registers that a callee keeps, stores the stack
// pointer in *save, takes `resume` as the stack pointer, pops the same registers and returns to where that stack had
// called from. The return instruction (not a jump) keeps the processor's prediction of returns in step.
#if defined(__x86_64__)
asm(R"(
.text
.globl tessera_simt_switch
.type tessera_simt_switch,@function
tessera_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tessera_simt_switch,.-tessera_simt_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl tessera_simt_switch
.type tessera_simt_switch,@function
tessera_simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size tessera_simt_switch,.-tessera_simt_switch
)");
#endif
extern "C" void tessera_simt_switch(void** save, void* resume);

namespace tessera::simt {
namespace {
size_t page_bytes() {
  static const size_t bytes = size_t(sysconf(_SC_PAGESIZE));
  return bytes;
}
}  // namespace

StackReservation::StackReservation(size_t count) : count_(count) {
  void* data = mmap(nullptr, count * fiber_stack_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<char*>(data);
  for (size_t i = 0; i < count; ++i) mprotect(base_ + i * fiber_stack_bytes, page_bytes(), PROT_NONE);
}

void StackReservation::assign(Fiber& fiber, size_t number) const {
  fiber.stack_low = base_ + number * fiber_stack_bytes + page_bytes();
  fiber.stack_bytes = fiber_stack_bytes - page_bytes();
}

ptrdiff_t StackReservation::guard_at(const void* address) const {
  const char* at = static_cast<const char*>(address);
  if (at < base_ || at >= base_ + count_ * fiber_stack_bytes) return -1;
  const size_t offset = size_t(at - base_);
  return offset % fiber_stack_bytes < page_bytes() ? ptrdiff_t(offset / fiber_stack_bytes) : -1;
}

void* prepare_fiber(Fiber& fiber, void (*entry)(), size_t reserved) {
  const uintptr_t high = uintptr_t(fiber.stack_low) + fiber.stack_bytes;
  const uintptr_t kept = (high - reserved) & ~uintptr_t(63);
  fiber.sanitizer_stack = nullptr;
#if defined(TESSERA_SIMT_UCONTEXT)
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack_low;
  fiber.context.uc_stack.ss_size = kept - uintptr_t(fiber.stack_low);
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#elif defined(__x86_64__)
  // As if entry had been called (the stack is 8 off a multiple of 16 then) by a function without a caller.
  void** top = reinterpret_cast<void**>(kept);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.stack_pointer = top;
#else
  void** top = reinterpret_cast<void**>(kept) - 20;  // the frame that the switch pops: 20 registers
  for (int saved = 0; saved < 20; ++saved) top[saved] = nullptr;
  top[11] = reinterpret_cast<void*>(entry);  // x30, the return address
  fiber.stack_pointer = top;
#endif
  return reinterpret_cast<void*>(kept);
}

void switch_fiber(Fiber& from, Fiber& to, bool from_ends) {
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(from_ends ? nullptr : &from.sanitizer_stack, to.stack_low, to.stack_bytes);
#if defined(TESSERA_SIMT_UCONTEXT)
  swapcontext(&from.context, &to.context);
#else
  tessera_simt_switch(&from.stack_pointer, to.stack_pointer);
#endif
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(from.sanitizer_stack, nullptr, nullptr);
}

void fiber_entered(Fiber& main) {
  if (!__sanitizer_finish_switch_fiber) return;
  const void* low = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &low, &bytes);
  if (main.stack_low == nullptr) {
    main.stack_low = static_cast<char*>(const_cast<void*>(low));
    main.stack_bytes = bytes;
  }
}

void forget_stack(const Fiber& fiber) {
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(fiber.stack_low, fiber.stack_bytes);
}

}  // namespace tessera::simt
