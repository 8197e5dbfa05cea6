// The matrix product of a program that links tessera::tessera: by Eigen.
#include <tessera/cpu/eigen.hpp>
