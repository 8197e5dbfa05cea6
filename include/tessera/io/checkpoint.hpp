// Parameters into a model, and training checkpoints.
//
// A model asks for its parameters by name; what a source has too many, too few or in another shape is reported in one
// error, all of it, before any parameter is touched. A training checkpoint is one safetensors file: the tensors (of
// model and optimiser) and, in its metadata, a JSON object (step, seed, configuration). It replaces the file before it
// only when it is complete on the disk, so whatever interrupts a run, the last checkpoint can be loaded.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tessera/core/tensor.hpp>
#include <tessera/io/json.hpp>
#include <tessera/io/safetensors.hpp>
#include <tessera/io/tensor_source.hpp>

namespace tessera::io {

/// One parameter that a model asks for.
struct WantedParameter {
  std::string name;
  std::vector<int64_t> shape;
  /// Takes the values (in the file's dtype; convert_elements converts). Called only when all parameters fit.
  std::function<void(const AnyTensor&)> set;
  /// False for integer buffers.
  bool floating = true;
};

/// What a source may hold besides, or lack.
struct LoadOptions {
  /// Names that the source may have and the model need not: "*" stands for any characters ("*.position_ids").
  std::vector<std::string> ignore = {};
  /// Whether further names in the source are no error (to load one tower of two).
  bool allow_unknown = false;
};

/// Whether `name` matches `pattern`, in which each "*" stands for any number of any characters.
inline bool matches_pattern(std::string_view name, std::string_view pattern) {
  size_t n = 0, p = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++n;
      ++p;
    } else if (star != std::string_view::npos) {  // let the last star take one character more
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

namespace detail {

/// "; 2 missing: a, b" for each kind of mismatch; long lists are cut, with the number of the rest.
inline std::string listed(std::string_view kind, const std::vector<std::string>& entries) {
  constexpr size_t most = 1000;
  if (entries.empty()) return "";
  std::string text = sentence("; ", entries.size(), " ", kind, ": ");
  for (size_t i = 0; i < entries.size() && i < most; ++i) text += (i ? ", " : "") + entries[i];
  if (entries.size() > most) text += sentence(" and ", entries.size() - most, " more");
  return text;
}

}  // namespace detail

/// Hands every wanted parameter its tensor from `source`. Throws IoError, before any is set, that lists all missing,
/// mis-shaped, wrongly typed and unknown names. Returns the names that were in the source and not used.
inline std::vector<std::string> load_parameters(const TensorSource& source, const std::vector<WantedParameter>& wanted,
                                                const LoadOptions& options = {}) {
  std::vector<std::string> missing, misshapen, mistyped, unknown, unused;
  std::set<std::string_view> known;
  for (const WantedParameter& parameter : wanted) {
    require(known.insert(parameter.name).second, "load_parameters: ", parameter.name, " is asked for twice");
    if (!source.contains(parameter.name)) {
      missing.push_back(parameter.name);
      continue;
    }
    const std::vector<int64_t>& shape = source.shape(parameter.name);
    const Dtype dtype = source.dtype(parameter.name);
    if (shape != parameter.shape)
      misshapen.push_back(
          sentence(parameter.name, " is ", to_string(shape), " but must be ", to_string(parameter.shape)));
    if (is_floating(dtype) != parameter.floating)
      mistyped.push_back(sentence(parameter.name, " is ", dtype_name(dtype), " but must be ",
                                  parameter.floating ? "floating" : "integer"));
  }
  for (const std::string& name : source.names()) {
    if (known.contains(name)) continue;
    bool ignored = options.allow_unknown;
    for (const std::string& pattern : options.ignore) ignored = ignored || matches_pattern(name, pattern);
    (ignored ? unused : unknown).push_back(detail::shown(name));
  }
  const size_t problems = missing.size() + misshapen.size() + mistyped.size() + unknown.size();
  if (problems > 0)
    fail<IoError>(source.description(), " does not fit the model", detail::listed("missing", missing),
                  detail::listed("of another shape", misshapen), detail::listed("of another type", mistyped),
                  detail::listed("unknown to the model", unknown));
  for (const WantedParameter& parameter : wanted) parameter.set(source.get(parameter.name));
  return unused;
}

/// A loaded training checkpoint. The tensors are views into the file's mapping and stay valid when a later save
/// replaces the file.
struct Checkpoint {
  TensorSource tensors;
  Json state;        ///< an object
  std::string path;  ///< for JsonView's errors
};

namespace detail {
inline constexpr const char* checkpoint_format_key = "tessera.checkpoint";
inline constexpr const char* checkpoint_state_key = "tessera.state";
}  // namespace detail

/// Writes a training checkpoint to `path`, atomically. `state` is an object of whatever a resumed run needs; integers
/// of 64 bits and doubles come back exactly, numbers that are not finite come back as null. Throws IoError where the
/// disk is full, and the checkpoint that was there stays.
inline void save_checkpoint(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                            const Json& state) {
  require(state.is_object(), "save_checkpoint: the state must be a JSON object, but is a JSON ", state.type_name());
  const std::string text = json_text(state, -1);
  detail::check_json_limits(text, path.string() + ": state", {});
  write_safetensors(path, tensors, {{detail::checkpoint_format_key, "1"}, {detail::checkpoint_state_key, text}});
}

/// Reads what save_checkpoint wrote. Throws IoError for a damaged file, or for one that is no training checkpoint.
inline Checkpoint load_checkpoint(const std::filesystem::path& path) {
  TensorSource tensors = TensorSource::open(path);
  const auto& metadata = tensors.metadata();
  const auto format = metadata.find(detail::checkpoint_format_key);
  const auto state = metadata.find(detail::checkpoint_state_key);
  require<IoError>(format != metadata.end() && state != metadata.end(), path.string(),
                   " is not a training checkpoint (it has parameters but no training state)");
  require<IoError>(format->second == "1", path.string(), ": a training checkpoint of format ",
                   detail::shown(format->second), "; this version reads format 1");
  Json parsed = parse_json(state->second, path.string() + ": state");
  require<IoError>(parsed.is_object(), path.string(), ": state must be a JSON object");
  return {std::move(tensors), std::move(parsed), path.string()};
}

}  // namespace tessera::io
