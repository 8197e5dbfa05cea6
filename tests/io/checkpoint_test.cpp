// Parameters into a model, all mismatches at once; training checkpoints that survive a full disk.
#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include <sys/resource.h>

#include <support/catch.hpp>
#include <tessera/io/checkpoint.hpp>

#include "io/folder.hpp"

using namespace tessera;
using namespace tessera::io;
using tessera_test::Folder;

namespace {

std::vector<NamedTensor> three_tensors() {
  return {{"weight", make_any<float>({2, 3}, {1, 2, 3, 4, 5, 6})},
          {"bias", make_any<float>({2}, {7, 8})},
          {"embeddings.position_ids", make_any<int64_t>({1, 2}, {0, 1})}};
}

}  // namespace

TEST_CASE("checkpoint: parameters that fit are set, ignored names are returned", "[io]") {
  const auto source = TensorSource::from_tensors(three_tensors());
  std::vector<float> weight, bias;
  const std::vector<WantedParameter> wanted = {
      {"weight", {2, 3}, [&](const AnyTensor& t) { weight = to_vector<float>(t, "weight"); }},
      {"bias", {2}, [&](const AnyTensor& t) { bias = to_vector<float>(t, "bias"); }}};
  LoadOptions options;
  options.ignore = {"*.position_ids"};
  REQUIRE(load_parameters(source, wanted, options) == std::vector<std::string>{"embeddings.position_ids"});
  REQUIRE(weight == std::vector<float>{1, 2, 3, 4, 5, 6});
  REQUIRE(bias == std::vector<float>{7, 8});
}

TEST_CASE("checkpoint: all that does not fit is listed at once and nothing is set", "[io]") {
  const auto source = TensorSource::from_tensors(three_tensors(), "model.safetensors");
  int set = 0;
  const auto count = [&](const AnyTensor&) { ++set; };
  const std::vector<WantedParameter> wanted = {
      {"weight", {3, 2}, count}, {"bias", {2}, count, false}, {"gain", {2}, count}, {"scale", {}, count}};
  std::string message;
  try {
    load_parameters(source, wanted);
  } catch (const IoError& error) {
    message = error.what();
  }
  REQUIRE(message ==
          "model.safetensors does not fit the model; 2 missing: gain, scale; 1 of another shape: weight is [2, 3] but "
          "must be [3, 2]; 1 of another type: bias is F32 but must be integer; 1 unknown to the model: "
          "embeddings.position_ids");
  REQUIRE(set == 0);

  LoadOptions some;
  some.allow_unknown = true;
  REQUIRE_NOTHROW(load_parameters(source, {{"bias", {2}, count}}, some));
  REQUIRE(set == 1);
  REQUIRE_ERROR(load_parameters(source, {{"bias", {2}, count}, {"bias", {2}, count}}), ValueError, "asked for twice");
  REQUIRE_ERROR(TensorSource::from_tensors({three_tensors()[0], three_tensors()[0]}), ValueError, "given twice");
}

TEST_CASE("checkpoint: patterns", "[io]") {
  REQUIRE(matches_pattern("a.b.position_ids", "*.position_ids"));
  REQUIRE(matches_pattern("abc", "abc"));
  REQUIRE(matches_pattern("abc", "a*"));
  REQUIRE(matches_pattern("abc", "*b*"));
  REQUIRE(matches_pattern("", "*"));
  REQUIRE(matches_pattern("aXbXbc", "a*b*bc"));
  REQUIRE_FALSE(matches_pattern("abc", "ab"));
  REQUIRE_FALSE(matches_pattern("abc", "*b"));
  REQUIRE_FALSE(matches_pattern("abc", ""));
  REQUIRE_FALSE(matches_pattern("a.position_idsx", "*.position_ids"));
}

TEST_CASE("checkpoint: tensors and state come back exactly", "[io]") {
  const Folder folder;
  const Json state = {{"step", 123}, {"seed", 18446744073709551615u}, {"rate", 0.1}, {"config", {{"width", 64}}}};
  save_checkpoint(folder / "last.safetensors", three_tensors(), state);
  const Checkpoint loaded = load_checkpoint(folder / "last.safetensors");
  REQUIRE(loaded.state == state);
  REQUIRE(JsonView(loaded.state, loaded.path).get<uint64_t>("seed") == 18446744073709551615u);
  REQUIRE(loaded.tensors.size() == 3);
  REQUIRE(loaded.tensors.read_vector<float>("weight") == std::vector<float>{1, 2, 3, 4, 5, 6});

  const std::string first = tessera_test::read_bytes(folder / "last.safetensors");
  save_checkpoint(folder / "again.safetensors", three_tensors(), state);
  REQUIRE(tessera_test::read_bytes(folder / "again.safetensors") == first);

  write_safetensors(folder / "plain.safetensors", three_tensors());
  REQUIRE_ERROR(load_checkpoint(folder / "plain.safetensors"), IoError, "is not a training checkpoint");
  REQUIRE_ERROR(save_checkpoint(folder / "x", three_tensors(), Json::array()), ValueError, "must be a JSON object");
}

TEST_CASE("checkpoint: a full disk loses nothing that was saved, and saving works again afterwards", "[io]") {
  const Folder folder;
  const auto path = folder / "last.safetensors";
  save_checkpoint(path, three_tensors(), {{"step", 1}});
  const Checkpoint before = load_checkpoint(path);
  std::vector<NamedTensor> large = {{"weight", make_any<float>({100'000}, std::vector<float>(100'000, 1.0f))}};

  rlimit old{};
  ::getrlimit(RLIMIT_FSIZE, &old);
  rlimit small = old;
  small.rlim_cur = 200'000;
  auto* handler = std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  std::string message;
  try {
    save_checkpoint(path, large, {{"step", 2}});
  } catch (const IoError& error) {
    message = error.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);

  REQUIRE(message.find("what was there before is unchanged") != std::string::npos);
  REQUIRE(load_checkpoint(path).state == Json{{"step", 1}});
  REQUIRE(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
  save_checkpoint(path, large, {{"step", 2}});
  REQUIRE(load_checkpoint(path).state == Json{{"step", 2}});
  REQUIRE(before.tensors.read_vector<float>("bias") == std::vector<float>{7, 8});  // the replaced file's mapping
}
