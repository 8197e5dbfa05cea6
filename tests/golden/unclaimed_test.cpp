// Reference cases that no test claims yet are listed, so that they are seen.
#include <cstdio>
#include <map>
#include <string>

#include <support/golden.hpp>

using namespace tessera_test;

namespace {
/// The text of all golden tests: a case is claimed by find_cases("item"), a model by find_models("type").
std::string golden_test_sources() {
  std::string text;
  for (const auto& entry : std::filesystem::directory_iterator(TESSERA_TEST_DIR "/golden"))
    if (entry.path().extension() == ".cpp") text += tessera::io::read_text(entry.path());
  return text;
}
}  // namespace

TEST_CASE("golden: every case is readable; those that no test claims are listed", "[golden]") {
  const auto cases = folders_with("case.json", "case.safetensors");
  const auto models = folders_with("config.json", "expected.safetensors");
  if (cases.empty() && models.empty()) return skip("no reference tensors under " + golden_root().string());
  ran();
  const std::string sources = golden_test_sources();
  REQUIRE(sources.find("find_cases(\"") != std::string::npos);
  std::map<std::string, std::string> unclaimed;
  for (const auto& folder : cases) {
    INFO(folder.string());
    const tessera::io::Json json = tessera::io::read_json(folder / "case.json");
    const auto item = tessera::io::JsonView(json, folder.string()).get<std::string>("item");
    CHECK(tessera::io::TensorSource::open(folder / "case.safetensors").size() > 0);
    if (sources.find("find_cases(\"" + item + "\")") == std::string::npos) unclaimed[folder.string()] = item;
  }
  for (const auto& folder : models) {
    INFO(folder.string());
    const tessera::io::Json json = tessera::io::read_json(folder / "config.json");
    const auto type = tessera::io::JsonView(json, folder.string()).get<std::string>("model_type");
    CHECK(tessera::io::TensorSource::open(folder / "expected.safetensors").size() > 0);
    if (sources.find("find_models(\"" + type + "\")") == std::string::npos) unclaimed[folder.string()] = type;
  }
  for (const auto& [folder, item] : unclaimed) std::printf("not claimed: %s (%s)\n", folder.c_str(), item.c_str());
}
