// flags: -std=c++17 -fopenmp
// says: tessera: C++20 is needed (-std=c++20)
#include <tessera/core/config.hpp>
