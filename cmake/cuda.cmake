# The Cuda device: tessera::cuda, for programs with files that nvcc compiles. Sets TESSERA_HAS_CUDA. Read by tessera itself and
# by its installed package. Wants tessera::headers and tessera_kernel_headers, the folder that holds tessera/cuda.hpp.
#   TESSERA_CUDA               OFF, ON, or AUTO: where nvcc is found
#   CMAKE_CUDA_ARCHITECTURES   else the architecture of the GPU of this machine, else 80 and 90
set(TESSERA_CUDA OFF CACHE STRING "Kernels for NVIDIA GPUs: OFF, ON, or AUTO (where nvcc is found)")
set_property(CACHE TESSERA_CUDA PROPERTY STRINGS OFF AUTO ON)
if(NOT TESSERA_CUDA MATCHES "^(OFF|AUTO|ON)$")
  message(FATAL_ERROR "tessera: TESSERA_CUDA is ${TESSERA_CUDA} but must be OFF, AUTO or ON")
endif()

set(TESSERA_HAS_CUDA OFF)
if(NOT TESSERA_CUDA STREQUAL "OFF")
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(TESSERA_NVCC nvcc HINTS /usr/local/cuda/bin)
    if(TESSERA_NVCC)
      set(CMAKE_CUDA_COMPILER ${TESSERA_NVCC} CACHE FILEPATH "nvcc")
    endif()
  endif()
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    if(TESSERA_CUDA STREQUAL "ON")
      message(FATAL_ERROR "tessera: TESSERA_CUDA is ON but nvcc was not found (put it on PATH, or set CMAKE_CUDA_COMPILER)")
    endif()
    message(STATUS "tessera: no nvcc, so no Cuda device")
  else()
    # Before the language is enabled: CMake would try an architecture that nvcc 13 no longer knows.
    if(NOT CMAKE_CUDA_ARCHITECTURES)
      execute_process(COMMAND nvidia-smi -L RESULT_VARIABLE no_gpu OUTPUT_VARIABLE gpus ERROR_QUIET)
      if(no_gpu EQUAL 0 AND gpus MATCHES "GPU 0")
        set(CMAKE_CUDA_ARCHITECTURES native CACHE STRING "GPU architectures")
      else()
        set(CMAKE_CUDA_ARCHITECTURES 80 90 CACHE STRING "GPU architectures")
      endif()
    endif()
    if(NOT CMAKE_CUDA_HOST_COMPILER)
      set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER} CACHE FILEPATH "nvcc's host compiler")
    endif()
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13)
      message(FATAL_ERROR "tessera: nvcc ${CMAKE_CUDA_COMPILER_VERSION} was found but 13.0 is needed")
    endif()
    find_package(CUDAToolkit REQUIRED)
    set(TESSERA_HAS_CUDA ON)

    add_library(tessera_cuda INTERFACE)
    add_library(tessera::cuda ALIAS tessera_cuda)
    target_include_directories(tessera_cuda INTERFACE ${tessera_kernel_headers})
    # Shapes are std::array and read in kernels. OpenMP's target speaks to the C++ compiler alone. CMake before 3.31 does
    # not know nvcc 13's language levels (cuda_std_20). Warning 186 is about loops over the no axes of a scalar,
    # 3189 about variables named module.
    target_compile_options(tessera_cuda INTERFACE
      $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--expt-relaxed-constexpr;--diag-suppress=186,3189;-Xcompiler=-fopenmp>)
    target_link_libraries(tessera_cuda INTERFACE tessera::headers CUDA::cudart CUDA::cublasLt)
    message(STATUS "tessera: Cuda device by nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
  endif()
endif()
