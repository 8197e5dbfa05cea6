// The dense models and the patch encoders of all systems with elements of type float, compiled once for the programs of
// this build.
#include <tessera/systems/dense_models.hpp>
#include <tessera/systems/patch_encoder.hpp>

template std::unique_ptr<tessera::segmentation::DenseModel> tessera::systems::detail::load_dense<float, tessera::Cpu>(
    tessera::Context<tessera::Cpu>&, const std::filesystem::path&, const std::string&,
    const tessera::systems::DenseModelOptions&);
template std::unique_ptr<tessera::systems::PatchEncoder> tessera::systems::detail::load_encoder<float, tessera::Cpu>(
    tessera::Context<tessera::Cpu>&, const std::filesystem::path&, const std::string&,
    const tessera::systems::PatchEncoderOptions&);
