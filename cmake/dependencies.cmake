# The libraries that tessera's headers and programs use, found once. Shared by the project and, installed, by its package.
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)
if(TESSERA_ONEDNN)
  find_package(dnnl CONFIG QUIET)
  if(NOT TARGET dnnl::dnnl)  # Debian ships headers and library without a CMake package
    find_path(TESSERA_DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
    find_library(TESSERA_DNNL_LIBRARY dnnl)
    if(NOT TESSERA_DNNL_INCLUDE_DIR OR NOT TESSERA_DNNL_LIBRARY)
      message(FATAL_ERROR "tessera: TESSERA_ONEDNN is ON but oneDNN was not found (Debian: apt-get install libdnnl-dev)")
    endif()
    add_library(dnnl::dnnl UNKNOWN IMPORTED)
    set_target_properties(dnnl::dnnl PROPERTIES IMPORTED_LOCATION "${TESSERA_DNNL_LIBRARY}"
      INTERFACE_INCLUDE_DIRECTORIES "${TESSERA_DNNL_INCLUDE_DIR}")
  endif()
endif()
