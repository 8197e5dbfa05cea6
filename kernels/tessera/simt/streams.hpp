// What the race detector asks about launches of other streams.
#pragma once
#include <cstdint>
#include <string>

namespace tessera::simt {
/// Whether the launch that ran in `epoch`, an earlier one, is ordered before the launch that runs.
bool launch_is_ordered(uint32_t epoch);
/// Its name.
std::string launch_at(uint32_t epoch);
}  // namespace tessera::simt
