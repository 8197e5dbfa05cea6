// The matrix product of a program that links tessera::tessera: by oneDNN.
#include <tessera/cpu/onednn.hpp>
