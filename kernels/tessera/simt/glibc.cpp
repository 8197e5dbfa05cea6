// CUDA's fast functions whose names glibc's <math.h> declares as its own inner ones, without giving them to programs.
// The vocabulary uses those declarations (a second function of one name would be ambiguous after a using-directive), so
// here is what they name. Correctly rounded to the C library's measure; a GPU is a few units off.
#include <cmath>

#if defined(__GLIBC__)
extern "C" {
float __expf(float x) noexcept { return std::exp(x); }
float __logf(float x) noexcept { return std::log(x); }
float __log2f(float x) noexcept { return std::log2(x); }
float __powf(float x, float y) noexcept { return std::pow(x, y); }
float __sinf(float x) noexcept { return std::sin(x); }
float __cosf(float x) noexcept { return std::cos(x); }
}
#endif
