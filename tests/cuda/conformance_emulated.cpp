// The half of the conformance test that the host compiler compiles: the primitives on the emulator.
#include "conformance.cuh"

#include <tessera/simt/device.hpp>

namespace conformance {
std::vector<Result> emulated_results() {
  tessera::Context<tessera::Simt> ctx;
  return all_results(ctx);
}
}  // namespace conformance
