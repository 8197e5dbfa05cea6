// What every header needs first: the checks of the compiler and the host/device macro. Includes nothing of tessera.
#pragma once
#if !defined(_OPENMP)
#error "tessera: compile with OpenMP (-fopenmp): a program with and without it would hold two versions of one function"
#endif
#if __cplusplus < 202002L
#error "tessera: C++20 is needed (-std=c++20)"
#endif
#if defined(__CUDACC__)
#define TESSERA_HOST_DEVICE __host__ __device__
#else
#define TESSERA_HOST_DEVICE
#endif
