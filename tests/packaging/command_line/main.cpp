// A program without CMake that brings its own matrix product. other.cpp uses the same templates and inline functions;
// what both compute from one seed must be equal.
#include <tessera/cpu/eigen.hpp>
#include <tessera/tessera.hpp>

#include "same.hpp"

double product_elsewhere();

int main() {
  const double here = product(), there = product_elsewhere();
  std::printf("tessera %d.%d.%d: %.9g here, %.9g in the other file\n", TESSERA_VERSION_MAJOR, TESSERA_VERSION_MINOR,
              TESSERA_VERSION_PATCH, here, there);
  return here == there && here != 0 ? 0 : 1;
}
