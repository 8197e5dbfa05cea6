# The Simt device: CUDA kernels run on the processor.
#   tessera::simt          the emulator's library, with the headers of kernels/
#   tessera::simt_checked  the same for programs in which every load and store of the kernels is checked (clang only):
#                          its users are compiled with the sanitizers and with callbacks at loads and stores
set(simt_sources callbacks counters fiber heap matrices scheduler shadow shared streams warp)
list(REMOVE_ITEM simt_sources callbacks)
list(TRANSFORM simt_sources REPLACE "(.+)" "${CMAKE_CURRENT_SOURCE_DIR}/kernels/tessera/simt/\\1.cpp")

add_library(tessera_simt STATIC EXCLUDE_FROM_ALL ${simt_sources})
add_library(tessera::simt ALIAS tessera_simt)
set_target_properties(tessera_simt PROPERTIES EXPORT_NAME simt)
target_include_directories(tessera_simt PUBLIC
  $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/kernels> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(tessera_simt PUBLIC tessera_headers)
# Debug builds would make the emulator itself slow; it is no place to look for a kernel's fault.
target_compile_options(tessera_simt PRIVATE -Wall -Wextra -O2)
