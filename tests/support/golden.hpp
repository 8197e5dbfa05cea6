// Reference tensors made by other implementations, found at run time. A folder with case.json and case.safetensors is a
// case of the item that its json names; a folder with config.json and expected.safetensors is a tiny model. All sizes
// come from these files. They lie under $TESSERA_GOLDEN, by default in shared/golden beside the checkout; where there
// are none, find_cases and find_models note a skip with its reason and return nothing.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/skip.hpp>
#include <tessera/io/json.hpp>
#include <tessera/io/tensor_source.hpp>

namespace tessera_test {

inline std::filesystem::path golden_root() {
  if (const char* given = std::getenv("TESSERA_GOLDEN")) return given;
  return std::filesystem::path(TESSERA_SOURCE_DIR).parent_path() / "shared" / "golden";
}

/// One case: its description and its tensors.
struct Case {
  std::filesystem::path folder;
  tessera::io::Json json;
  tessera::io::TensorSource tensors;

  std::string name() const { return folder.filename().string(); }
  tessera::io::JsonView description() const { return {json, (folder / "case.json").string()}; }
  tessera::io::JsonView config() const { return description()["config"]; }
  bool has_variant(const std::string& variant) const {
    return description().has("variants") && description()["variants"].has(variant);
  }
  bool has(const std::string& tensor) const { return tensors.contains(tensor); }
  std::vector<int64_t> shape(const std::string& tensor) const { return tensors.shape(tensor); }
  template <class T>
  std::vector<T> values(const std::string& tensor) const {
    return tensors.read_vector<T>(tensor);
  }
  template <class T, int Rank, class Device>
  tessera::Tensor<T, Rank, Device> read(tessera::Context<Device>& ctx, const std::string& tensor) const {
    return tensors.read<T, Rank>(ctx, tensor);
  }
  /// How far the reference itself moved between float32 and float64: of the tensor, else of the case.
  double noise(const std::string& tensor) const {
    const auto view = description();
    if (view.has("fp64_vs_fp32_maxdiff_per_tensor") && view["fp64_vs_fp32_maxdiff_per_tensor"].has(tensor))
      return view["fp64_vs_fp32_maxdiff_per_tensor"].get<double>(tensor);
    return view.get_or<double>("fp64_vs_fp32_maxdiff", 0.0);
  }
};

/// Folders under the root, and under the committed goldens, that hold both files.
inline std::vector<std::filesystem::path> folders_with(const std::string& first, const std::string& second) {
  std::vector<std::filesystem::path> folders;
  for (const auto& root : {golden_root(), std::filesystem::path(TESSERA_TEST_DIR) / "golden"}) {
    std::error_code error;
    for (std::filesystem::recursive_directory_iterator at(root, error), end; !error && at != end; at.increment(error)) {
      if (at.depth() > 4) at.disable_recursion_pending();
      if (at->path().filename() == first && std::filesystem::exists(at->path().parent_path() / second))
        folders.push_back(at->path().parent_path());
    }
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

/// All cases of `item`.
inline std::vector<Case> find_cases(const std::string& item) {
  std::vector<Case> cases;
  for (const auto& folder : folders_with("case.json", "case.safetensors")) {
    tessera::io::Json json = tessera::io::read_json(folder / "case.json");
    if (!json.is_object() || json.value("item", "") != item) continue;
    cases.push_back({folder, std::move(json), tessera::io::TensorSource::open(folder / "case.safetensors")});
  }
  cases.empty() ? skip("no case of " + item + " under " + golden_root().string()) : ran();
  return cases;
}

/// All folders of tiny models of `model_type`, each with config.json, model.safetensors and expected.safetensors.
inline std::vector<std::filesystem::path> find_models(const std::string& model_type) {
  std::vector<std::filesystem::path> models;
  for (const auto& folder : folders_with("config.json", "expected.safetensors")) {
    const tessera::io::Json json = tessera::io::read_json(folder / "config.json");
    if (json.is_object() && json.value("model_type", "") == model_type) models.push_back(folder);
  }
  models.empty() ? skip("no model of type " + model_type + " under " + golden_root().string()) : ran();
  return models;
}

/// The greatest difference that is accepted for a tensor whose reference has this noise and greatest magnitude.
inline double golden_tolerance(double noise, double magnitude) {
  return std::max(20.0 * noise + 1e-6 * magnitude, 1e-5 * magnitude);
}

/// Checks `ours` against the case's tensor `name`, element by element, within golden_tolerance.
template <class T>
void compare(const Case& which, const std::string& name, std::span<const T> ours) {
  const std::vector<double> reference = which.values<double>(name);
  REQUIRE(ours.size() == reference.size());
  double magnitude = 0, worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    magnitude = std::max(magnitude, std::abs(reference[i]));
    const double difference = std::abs(double(ours[i]) - reference[i]);
    if (!(difference <= worst)) {  // also a NaN
      worst = difference;
      at = i;
    }
  }
  const double allowed = golden_tolerance(which.noise(name), magnitude);
  INFO(which.name() << ": " << name << ": element " << at << " is " << double(ours[at]) << ", the reference "
                    << reference[at] << "; allowed " << allowed);
  CHECK(worst <= allowed);
}
template <class T, int Rank>
void compare(const Case& which, const std::string& name, const tessera::TensorView<T, Rank>& ours) {
  INFO(which.name() << ": " << name);
  REQUIRE(which.shape(name) == std::vector<int64_t>(ours.shape.begin(), ours.shape.end()));
  const auto values = tessera::to_host(ours);
  compare(which, name, std::span<const std::remove_const_t<T>>(values));
}

/// Checks integers against the case's tensor `name`: all must be equal.
template <class T>
void compare_exactly(const Case& which, const std::string& name, std::span<const T> ours) {
  const std::vector<int64_t> reference = which.values<int64_t>(name);
  REQUIRE(ours.size() == reference.size());
  size_t different = 0, first = 0;
  for (size_t i = ours.size(); i-- > 0;)
    if (int64_t(ours[i]) != reference[i]) {
      ++different;
      first = i;
    }
  INFO(which.name() << ": " << name << ": " << different << " of " << ours.size() << " differ, first at " << first);
  CHECK(different == 0);
}

}  // namespace tessera_test
