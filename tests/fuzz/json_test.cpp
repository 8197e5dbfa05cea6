// Thousands of damaged JSON documents: each parses, and can then be asked for anything, or throws an Error.
#include <string>

#include <support/catch.hpp>
#include <tessera/io/json.hpp>

#include "fuzz/mutate.hpp"

using namespace tessera;
using namespace tessera::io;
using tessera_test::Choices;

TEST_CASE("fuzz: JSON documents", "[fuzz]") {
  const std::string good =
      R"({"model_type":"clip","projection_dim":512,"logit_scale_init_value":2.6592,"vision_config":{"hidden_size":768,)"
      R"("patch_size":16,"hidden_act":"quick_gelu","layer_norm_eps":1e-05,"sizes":[224,224],"use":true,"x":null}})";
  int parsed = 0, read = 0;
  for (uint64_t seed = 0; seed < 20'000; ++seed) {
    INFO("seed " << seed);
    Choices choices(seed);
    const std::string text =
        seed % 2 ? tessera_test::mutate_bytes(good, choices) : tessera_test::mutate_json(good, choices);
    try {
      const Json document = parse_json(text, "config.json");
      ++parsed;
      REQUIRE(parse_json(json_text(document), "again") == document);
      const JsonView config(document, "config.json");
      const JsonView vision = config["vision_config"];
      vision.get<int>("hidden_size");
      vision.get<uint8_t>("patch_size");
      vision.get<float>("layer_norm_eps");
      vision.get<std::string>("hidden_act");
      vision.get<bool>("use");
      vision["sizes"][1].as<int64_t>(1, 1000);
      vision.get_or("x", 7);
      config.get_or("logit_scale_init_value", 1.0);
      ++read;
    } catch (const Error&) {
    }
  }
  REQUIRE(parsed > 1000);
  REQUIRE(parsed < 19'000);
  REQUIRE(read > 500);
  REQUIRE(read < parsed);
}
