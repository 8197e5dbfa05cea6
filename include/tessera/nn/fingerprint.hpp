// A number that tells two modules apart by their values and settings: whether a trained model is still the one that it
// was.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include <tessera/nn/module.hpp>

namespace tessera::nn {

/// Of all values, bit by bit, and their names; the same on every device. `settings`: what else decides what the module
/// computes (activation, heads, epsilon), as text. FNV-1a's numbers, eight bytes at a time: it tells of mistakes, not
/// of attacks.
template <class Module>
uint64_t fingerprint(Module& module, const std::string& settings = "") {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto mix = [&](uint64_t word) {
    hash = (hash ^ word) * 0x100000001b3u;
    hash ^= hash >> 32;
  };
  for (const char letter : settings) mix(uint8_t(letter));
  for_each_parameter(module, [&](const std::string& name, auto& p) {
    for (const char letter : name) mix(uint8_t(letter));
    const auto values = to_host(p.value().flat());
    const size_t bytes = values.size() * sizeof(values[0]);
    for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
      uint64_t word = 0;
      std::memcpy(&word, reinterpret_cast<const char*>(values.data()) + at, std::min(sizeof word, bytes - at));
      mix(word);
    }
  });
  return hash;
}

}  // namespace tessera::nn
