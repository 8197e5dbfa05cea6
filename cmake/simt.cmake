# The Simt device: CUDA kernels run on the processor. Read by tessera itself and by its installed package, where the library
# is compiled within the project that asks for it, by that project's compiler.
#   tessera::simt          the emulator's library, with the headers of kernels/
#   tessera::simt_checked  the same for programs in which every load and store of the kernels is checked: what links it is
#                          compiled with the sanitizers and with callbacks at loads and stores. clang alone can do that.
# Wants tessera::headers; tessera_kernel_headers, the folder that holds tessera/simt.hpp; tessera_simt_sources.
set(simt_sources counters fiber glibc heap matrices scheduler shadow shared streams warp)
list(TRANSFORM simt_sources REPLACE "(.+)" "${tessera_simt_sources}/\\1.cpp")
add_library(tessera_simt STATIC EXCLUDE_FROM_ALL ${simt_sources})
add_library(tessera::simt ALIAS tessera_simt)
target_include_directories(tessera_simt PUBLIC ${tessera_kernel_headers})
target_link_libraries(tessera_simt PUBLIC tessera::headers)
# Optimised whatever the build type, and never under sanitizers: it is their runtime.
target_compile_options(tessera_simt PRIVATE -Wall -Wextra -O2)

if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  add_library(tessera_simt_callbacks OBJECT EXCLUDE_FROM_ALL ${tessera_simt_sources}/callbacks.cpp)
  target_link_libraries(tessera_simt_callbacks PUBLIC tessera_simt)
  target_compile_options(tessera_simt_callbacks PRIVATE -Wall -Wextra -O2)

  add_library(tessera_simt_checked INTERFACE)
  add_library(tessera::simt_checked ALIAS tessera_simt_checked)
  set(sanitizers -fsanitize=address,undefined -fno-sanitize-recover=all -fno-sanitize=vptr)
  # -O1: more would make vector loads that clang does not report. The pattern for locals is NaN in clang's hands.
  target_compile_options(tessera_simt_checked INTERFACE -O1 -g1 ${sanitizers} -fno-omit-frame-pointer
    -fsanitize-coverage=inline-8bit-counters,trace-loads,trace-stores -ftrivial-auto-var-init=pattern
    -Wno-pass-failed)
  target_link_options(tessera_simt_checked INTERFACE ${sanitizers}
    -Wl,--wrap=__asan_memcpy,--wrap=__asan_memmove,--wrap=__asan_memset)
  target_sources(tessera_simt_checked INTERFACE $<TARGET_OBJECTS:tessera_simt_callbacks>)
  target_link_libraries(tessera_simt_checked INTERFACE tessera_simt)
endif()
