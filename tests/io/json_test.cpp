// JSON: limits that hold before anything is built, and errors that name the key.
#include <string>

#include <support/catch.hpp>
#include <tessera/io/json.hpp>

#include "io/folder.hpp"

using namespace tessera;
using namespace tessera::io;

TEST_CASE("json: limits on depth, values and sizes", "[io]") {
  const auto nested = [](int depth) { return std::string(size_t(depth), '[') + std::string(size_t(depth), ']'); };
  REQUIRE_NOTHROW(parse_json(nested(64), "f"));
  REQUIRE_ERROR(parse_json(nested(65), "f"), IoError, "f: JSON nested deeper than 64 levels");
  REQUIRE_ERROR(parse_json(std::string(10'000'000, '['), "f"), IoError, "nested deeper");
  REQUIRE_NOTHROW(parse_json("[\"" + nested(500) + "\\\"[[[\"]", "f"));  // brackets in a string do not nest

  JsonLimits limits;
  limits.values = 4;
  REQUIRE_NOTHROW(parse_json("[1,2,3]", "f", limits));
  REQUIRE_ERROR(parse_json("[1,2,3,4]", "f", limits), IoError, "more than 4 values");
  limits = {};
  limits.string_bytes = 10;
  REQUIRE_NOTHROW(parse_json("[\"12345678\"]", "f", limits));
  REQUIRE_ERROR(parse_json("[\"123456789\"]", "f", limits), IoError, "of more than 10 bytes at byte 1");
  REQUIRE_ERROR(parse_json("[12345678901]", "f", limits), IoError, "of more than 10 bytes");
  limits = {};
  limits.bytes = 5;
  REQUIRE_ERROR(parse_json("[1,2,3]", "f", limits), IoError, "7 bytes of JSON; at most 5");
}

TEST_CASE("json: text that is not JSON is an IoError that names the file", "[io]") {
  for (const char* text : {"", "{", "{\"a\":}", "[1,]", "nul", "{\"a\" 1}", "\"\\ud800\"", "\"\xff\"", "1e999", "01"}) {
    INFO(text);
    REQUIRE_ERROR(parse_json(text, "config.json"), IoError, "config.json: not JSON: ");
  }
  REQUIRE_ERROR(parse_json(std::string("1\0", 2), "f"), IoError, "a zero byte");
  const tessera_test::Folder folder;
  tessera_test::write_bytes(folder / "c.json", "{");
  REQUIRE_ERROR(read_json(folder / "c.json"), IoError, "c.json: not JSON: ");
}

TEST_CASE("json: typed reading with sentences", "[io]") {
  const Json document = parse_json(
      R"({"vision": {"hidden": 64, "eps": 1e-5, "act": "gelu", "on": true, "sizes": [1, -2, 3.0, 3.5],
          "large": 18446744073709551615, "huge": 1e300, "nothing": null}})",
      "config.json");
  const JsonView config(document, "config.json");
  const JsonView vision = config["vision"];
  REQUIRE(vision.get<int>("hidden") == 64);
  REQUIRE(vision.get<double>("hidden") == 64.0);
  REQUIRE(vision.get<float>("eps") == 1e-5f);
  REQUIRE(vision.get<std::string>("act") == "gelu");
  REQUIRE(vision.get<bool>("on"));
  REQUIRE(vision.get<uint64_t>("large") == 18446744073709551615u);
  REQUIRE(vision["sizes"][2].as<int>() == 3);
  REQUIRE(vision.get_or("absent", 7) == 7);
  REQUIRE(vision.get_or("nothing", 7) == 7);
  REQUIRE(vision.get_or("absent", "x") == "x");
  REQUIRE(vision.get<int>("hidden", 1, 64) == 64);

  REQUIRE_ERROR(vision.get<int>("width"), IoError, "config.json: vision.width is missing");
  REQUIRE_ERROR(vision.get<int>("act"), IoError, "config.json: vision.act must be an integer, but is a string");
  REQUIRE_ERROR(vision.get<int>("eps"), IoError, "vision.eps must be an integer, but is 1e-05");
  REQUIRE_ERROR(vision.get<int>("huge"), IoError, "must be an integer");
  REQUIRE_ERROR(vision.get<float>("huge"), IoError, "out of range");
  REQUIRE_ERROR(vision.get<int64_t>("large"), IoError, "vision.large is 18446744073709551615, out of range");
  REQUIRE_ERROR(vision.get<int>("hidden", 1, 63), IoError, "vision.hidden is 64; it must lie in [1, 63]");
  REQUIRE_ERROR(vision.get<bool>("hidden"), IoError, "must be true or false, but is a number");
  REQUIRE_ERROR(vision.get<std::string>("hidden"), IoError, "must be a string");
  REQUIRE_ERROR(vision.get<int>("nothing"), IoError, "must be an integer, but is null");
  REQUIRE_ERROR(vision["sizes"][1].as<uint8_t>(), IoError, "vision.sizes[1] is -2, out of range");
  REQUIRE_ERROR(vision["sizes"][3].as<int>(), IoError, "vision.sizes[3] must be an integer, but is 3.5");
  REQUIRE_ERROR(vision["sizes"][4], IoError, "vision.sizes has 4 elements; element 4 is missing");
  REQUIRE_ERROR(vision["sizes"]["x"], IoError, "vision.sizes must be an object, but is an array");
  REQUIRE_ERROR(vision["act"][0], IoError, "vision.act must be an array, but is a string");
}

TEST_CASE("json: written text is read back", "[io]") {
  const tessera_test::Folder folder;
  const Json value = {{"seed", 18446744073709551615u}, {"lr", 0.1}, {"name", "ü \"quoted\"\n"}};
  write_json(folder / "v.json", value);
  REQUIRE(read_json(folder / "v.json") == value);
  REQUIRE_ERROR(write_json(folder / "v.json", Json("\xff")), ValueError, "cannot write JSON");
  REQUIRE(read_json(folder / "v.json") == value);
}
