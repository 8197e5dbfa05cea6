// The checked flavour's ears. clang calls these functions before every load and store of the code that it instruments
// (-fsanitize-coverage=trace-loads,trace-stores); they hand the access to the shadow. Linked only into programs that
// are built so (CMake's tessera::simt_checked), and not instrumented itself.
//
// Copies of structures and memcpy become calls of the address sanitizer's functions, which the linker leads here
// (--wrap); without that a race through a float4 would be missed.
#include <cstddef>
#include <cstdint>

#include <tessera/simt/machine.hpp>
#include <tessera/simt/shadow.hpp>

namespace tessera::simt {
namespace {
// Where the sanitizers end the program themselves, say which thread of which kernel it was.
void tell_thread() {
  if (machine.current)
    std::fprintf(stderr, "tessera simt: kernel %s ends in a sanitizer's error [%s]\n", machine.launch->name.c_str(),
                 thread_name(*machine.current).c_str());
}
}  // namespace
}  // namespace tessera::simt

extern "C" {

__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

#define TESSERA_SIMT_CALLBACK(name, bytes, access)                                                                    \
  void name(void* address) {                                                                                          \
    tessera::simt::check_compiled_access(address, bytes, tessera::simt::Access::access, __builtin_return_address(0)); \
  }
TESSERA_SIMT_CALLBACK(__sanitizer_cov_load1, 1, read)
TESSERA_SIMT_CALLBACK(__sanitizer_cov_load2, 2, read)
TESSERA_SIMT_CALLBACK(__sanitizer_cov_load4, 4, read)
TESSERA_SIMT_CALLBACK(__sanitizer_cov_load8, 8, read)
TESSERA_SIMT_CALLBACK(__sanitizer_cov_load16, 16, read)
TESSERA_SIMT_CALLBACK(__sanitizer_cov_store1, 1, write)
TESSERA_SIMT_CALLBACK(__sanitizer_cov_store2, 2, write)
TESSERA_SIMT_CALLBACK(__sanitizer_cov_store4, 4, write)
TESSERA_SIMT_CALLBACK(__sanitizer_cov_store8, 8, write)
TESSERA_SIMT_CALLBACK(__sanitizer_cov_store16, 16, write)
#undef TESSERA_SIMT_CALLBACK

// clang instruments loads only together with one kind of coverage; the cheapest one's table is not used.
void __sanitizer_cov_8bit_counters_init(char*, char*) {}

void* __real___asan_memcpy(void* to, const void* from, size_t bytes);
void* __real___asan_memmove(void* to, const void* from, size_t bytes);
void* __real___asan_memset(void* to, int byte, size_t bytes);

void* __wrap___asan_memcpy(void* to, const void* from, size_t bytes) {
  tessera::simt::check_compiled_access(from, bytes, tessera::simt::Access::read, __builtin_return_address(0));
  tessera::simt::check_compiled_access(to, bytes, tessera::simt::Access::write, __builtin_return_address(0));
  return __real___asan_memcpy(to, from, bytes);
}
void* __wrap___asan_memmove(void* to, const void* from, size_t bytes) {
  tessera::simt::check_compiled_access(from, bytes, tessera::simt::Access::read, __builtin_return_address(0));
  tessera::simt::check_compiled_access(to, bytes, tessera::simt::Access::write, __builtin_return_address(0));
  return __real___asan_memmove(to, from, bytes);
}
void* __wrap___asan_memset(void* to, int byte, size_t bytes) {
  tessera::simt::check_compiled_access(to, bytes, tessera::simt::Access::write, __builtin_return_address(0));
  return __real___asan_memset(to, byte, bytes);
}

// The address sanitizer's settings of such a program; ASAN_OPTIONS overrides them. Fibers leave their stacks without
// returning, and the shadow's address space is larger than what core dumps or leak checks should walk.
const char* __asan_default_options() { return "detect_stack_use_after_return=0:detect_leaks=0"; }
const char* __ubsan_default_options() { return "print_stacktrace=0"; }

}  // extern "C"

namespace tessera::simt {
namespace {
[[maybe_unused]] const bool enabled = [] {
  enable_shadow();
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(tell_thread);
  return true;
}();
}  // namespace
}  // namespace tessera::simt
