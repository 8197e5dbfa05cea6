// Kernels of one name for both devices in one program: each half calls its own.
#include "both.hpp"

#include <cmath>
#include <cstdio>

int main() {
  std::vector<float> values(3 * 65);
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(i * i % 17);
  const auto simt = normalised_by_simt(values);
  double sum = 0, squares = 0;  // of the first row: mean 0, variance 4
  for (size_t i = 0; i < 65; ++i) {
    sum += double(simt[i]);
    squares += double(simt[i]) * double(simt[i]);
  }
  if (!(std::abs(sum) < 1e-3 && std::abs(squares / 65 - 4) < 1e-3)) {
    std::printf("the emulated device gave a row of mean %g and variance %g\n", sum / 65, squares / 65);
    return 1;
  }
  std::string reason;
  const auto cuda = normalised_by_cuda(values, reason);
  if (!reason.empty()) {
    std::printf("the GPU's half was not run: %s\n", reason.c_str());
    return 0;
  }
  for (size_t i = 0; i < simt.size(); ++i)
    if (!(std::abs(simt[i] - cuda[i]) < 1e-5f)) {
      std::printf("element %zu is %g on the GPU but %g on the emulated device\n", i, double(cuda[i]), double(simt[i]));
      return 1;
    }
  return 0;
}
