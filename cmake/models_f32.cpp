// The dense models of all systems with elements of type float, compiled once for the programs of this build.
#include <tessera/systems/dense_models.hpp>

template std::unique_ptr<tessera::segmentation::DenseModel> tessera::systems::detail::load_dense<float, tessera::Cpu>(
    tessera::Context<tessera::Cpu>&, const std::filesystem::path&, const std::string&,
    const tessera::systems::DenseModelOptions&);
