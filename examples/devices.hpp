// --device: where a program computes. The file of a program is compiled once for each device of the build, cpu always,
// simt and cuda where CMake was asked for them (CMakeLists.txt); each time it enters what it computes under the name of
// its device.
#pragma once
#include <map>
#include <string>

#include <CLI/CLI.hpp>

#include <tessera/core/context.hpp>
#include <tessera/core/error.hpp>

#if defined(__CUDACC__)
#include <tessera/cuda.hpp>
#elif defined(EXAMPLES_ON_SIMT)
#include <tessera/simt.hpp>
#endif

namespace examples {

#if defined(__CUDACC__)
using ThisDevice = tessera::Cuda;
#elif defined(EXAMPLES_ON_SIMT)
using ThisDevice = tessera::Simt;
#else
using ThisDevice = tessera::Cpu;
#endif

template <class Device>
inline constexpr const char* device_name = std::is_same_v<Device, tessera::Cuda>   ? "cuda"
                                           : std::is_same_v<Device, tessera::Simt> ? "simt"
                                                                                   : "cpu";

/// What a program with these options does on each device of its build.
template <class Options>
class Devices {
 public:
  using Run = void (*)(const Options&);

  /// An object of a program's file: enters `run` for the device that the file is compiled for.
  template <class Device>
  Devices(Device, Run run) {
    all()[device_name<Device>] = run;
  }
  /// Throws ValueError for a device that the program was built without.
  static void run(const std::string& device, const Options& options) {
    const auto found = all().find(device);
    tessera::require(found != all().end(), "this program was built without the device ", device, "; configure with -D",
                     device == "cuda" ? "TESSERA_CUDA=ON (nvcc 13)" : "TESSERA_SIMT=ON", " to have it");
    found->second(options);
  }

 private:
  static std::map<std::string, Run>& all() {
    static std::map<std::string, Run> of_devices;
    return of_devices;
  }
};

/// --device
inline void add_device(CLI::App& app, std::string& device) {
  app.add_option("--device", device,
                 "where the model computes: cpu, cuda (an NVIDIA GPU), or simt (the GPU's kernels on the processor, "
                 "checked and slow: to try kernels)")
      ->check(CLI::IsMember({"cpu", "simt", "cuda"}))
      ->capture_default_str();
}

}  // namespace examples
