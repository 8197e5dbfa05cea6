# The libraries behind the headers of ops/ and cpu/, found once. Shared by the project and, installed, by its package.
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)
if(TESSERA_ONEDNN AND NOT TARGET tessera_dnnl)
  # Not find_package: Debian's dnnl-config.cmake demands OpenCL, which the CPU engine does not use.
  find_path(TESSERA_DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
  find_library(TESSERA_DNNL_LIBRARY dnnl)
  if(NOT TESSERA_DNNL_INCLUDE_DIR OR NOT TESSERA_DNNL_LIBRARY)
    message(FATAL_ERROR "tessera: TESSERA_ONEDNN is ON but oneDNN was not found (Debian: apt-get install libdnnl-dev)")
  endif()
  add_library(tessera_dnnl UNKNOWN IMPORTED GLOBAL)
  set_target_properties(tessera_dnnl PROPERTIES IMPORTED_LOCATION "${TESSERA_DNNL_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${TESSERA_DNNL_INCLUDE_DIR}")
endif()
