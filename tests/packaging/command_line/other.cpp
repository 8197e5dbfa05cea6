// The second file of the program: no provider here, it is one for the whole program.
#include <tessera/tessera.hpp>

#include "same.hpp"

double product_elsewhere() { return product(); }
