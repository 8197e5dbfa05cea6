// Named ranges for NVIDIA's profilers. Costs nothing where none is attached. Include it where it is wanted: nothing
// else of tessera does.
#pragma once
#include <nvtx3/nvToolsExt.h>

namespace tessera::cuda {

/// From here to the end of the scope: `const cuda::Range range("step");`.
class Range {
 public:
  explicit Range(const char* name) { nvtxRangePushA(name); }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
  ~Range() { nvtxRangePop(); }
};

}  // namespace tessera::cuda
