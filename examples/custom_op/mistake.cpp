// A kernel with a mistake, and what each flavour of the emulator makes of it. The row's maximum goes to the other lanes
// through shared memory, and the __syncwarp() that should stand between is forgotten. On a GPU this works almost
// always.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <tessera/core/tensor.hpp>
#include <tessera/device/launch.cuh>
#include <tessera/simt/device.hpp>

using namespace tessera;

namespace undecided {
using namespace tessera::kernels;

struct mistake_traits {
  static constexpr int threads = 32;
};

TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(mistake_traits::threads) shift_by_maximum_kernel(float* y, const float* x) {
  TESSERA_SHARED(float, largest, 1);
  const int lane = int(threadIdx.x);
  if (lane == 0) {
    float found = x[0];
    for (int k = 1; k < mistake_traits::threads; ++k) found = fmaxf(found, x[k]);
    *largest = found;
  }
  y[lane] = x[lane] - *largest;  // the mistake: lane 0 may not have written yet
}
}  // namespace undecided

int main() {
  std::vector<float> values(32);
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(i);
  bool found = false;
  for (const simt::Order order : simt::all_orders) {
    simt::settings().order = order;
    const std::string name(simt::order_name(order));
    try {
      Context<Simt> ctx;
      const auto x = Tensor<float, 1, Simt>::from_host(ctx, {32}, values);
      Tensor<float, 1, Simt> y(ctx, {32});
      kernels::launch("shift_by_maximum", undecided::shift_by_maximum_kernel, 1u,
                      unsigned(undecided::mistake_traits::threads), 0, ctx, y.data, x.data);
      const auto result = to_host(y);
      size_t wrong = 0;
      for (size_t i = 0; i < result.size(); ++i) wrong += !(result[i] == values[i] - 31);
      std::printf("%s: %zu of 32 numbers are wrong\n", name.c_str(), wrong);
      found = found || wrong > 0;
    } catch (const simt::Fault& fault) {
      std::printf("%s: %s\n", name.c_str(), fault.what());
      found = std::strstr(fault.what(), "race") || std::strstr(fault.what(), "uninitialised");
    }
  }
  std::printf(simt::checked() ? "(every load and store was checked)\n" : "(loads and stores were not checked)\n");
  return found ? 0 : 1;  // the mistake must show
}
