// Context<Device>: the first argument of every operation. Holds the memory pool and the random state (for Cuda, later,
// the stream and the library handles).
#pragma once
#include <memory>

#include <tessera/core/memory.hpp>
#include <tessera/core/random.hpp>

namespace tessera {

/// Specialised for each device.
template <class Device>
struct Context {
  static_assert(detail::always_false<Device>,
                "tessera: #include <tessera/cuda.hpp> for Context<Cuda> or <tessera/simt.hpp> for Context<Simt>");
};

/// The seed of all random numbers drawn from a context, and how its memory is kept.
struct ContextOptions {
  uint64_t seed = 0;
  PoolOptions memory = {};
};

/// Memory and random numbers on Cpu. Threads may share one as long as only one of them draws random numbers.
template <>
struct Context<Cpu> {
  std::shared_ptr<Pool<Cpu>> pool;
  RandomState random;

  explicit Context(ContextOptions options = {})
      : pool(std::make_shared<Pool<Cpu>>(options.memory)), random{options.seed} {}
};

}  // namespace tessera
