// Devices are types: Cpu, Simt (CUDA kernels on the CPU) and Cuda. `Backend` is the one seam between an operation and
// the code that computes it on a device; it is found when the operation is instantiated, so headers may come in any
// order.
#pragma once
#include <tessera/core/config.hpp>

namespace tessera {

/// The processor: the reference that every operation has.
struct Cpu {};
/// CUDA kernels run on the processor, one fiber a thread.
struct Simt {};
/// An NVIDIA GPU.
struct Cuda {};

namespace detail {
template <class...>
inline constexpr bool always_false = false;
}

/// Specialised for each operation's tag (`op::layernorm`, …) and device.
template <class Op, class Device>
struct Backend {
  static_assert(detail::always_false<Op>,
                "tessera: this operation has no implementation for this device here. Cpu needs the operation's header; "
                "Simt needs #include <tessera/simt.hpp>; Cuda needs #include <tessera/cuda.hpp> in a file for nvcc");
};

/// Raw memory of a device: allocate, release, copy.
template <class Device>
struct Memory {
  static_assert(detail::always_false<Device>,
                "tessera: this device's memory is unknown here: #include <tessera/cuda.hpp> (Cuda) or "
                "<tessera/simt.hpp> (Simt)");
};

}  // namespace tessera
