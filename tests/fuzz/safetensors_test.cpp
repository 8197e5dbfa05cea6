// Thousands of damaged safetensors files: each either loads with data that is consistent, every byte of which can be
// read, or throws an Error. Run it with sanitizers to find what gets past the checks.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <tessera/io/checkpoint.hpp>

#include "fuzz/mutate.hpp"
#include "io/folder.hpp"

using namespace tessera;
using namespace tessera::io;
using tessera_test::Choices;
using tessera_test::Folder;
using tessera_test::safetensors_bytes;

namespace {

/// One entry of a header, as the texts of its fields, so that each can be damaged by itself.
struct Entry {
  std::string name, dtype;
  std::vector<std::string> shape, offsets;
};

std::vector<Entry> good_entries() {
  return {{"\"logit_scale\"", "\"F32\"", {}, {"0", "4"}},     {"\"visual.proj\"", "\"F16\"", {"3", "4"}, {"4", "28"}},
          {"\"ids\"", "\"I64\"", {"1", "2"}, {"28", "44"}},   {"\"none\"", "\"BF16\"", {"0", "7"}, {"44", "44"}},
          {"\"mask\"", "\"BOOL\"", {"2", "2"}, {"44", "48"}}, {"\"d\"", "\"F64\"", {"2"}, {"48", "64"}}};
}
constexpr size_t good_data_bytes = 64;

std::string joined(const std::vector<std::string>& parts) {
  std::string text = "[";
  for (size_t i = 0; i < parts.size(); ++i) text += (i ? "," : "") + parts[i];
  return text + "]";
}

std::string header_of(const std::vector<Entry>& entries) {
  std::string header = R"({"__metadata__":{"format":"pt"})";
  for (const Entry& entry : entries)
    header += "," + entry.name + ":{\"dtype\":" + entry.dtype + ",\"shape\":" + joined(entry.shape) +
              ",\"data_offsets\":" + joined(entry.offsets) + "}";
  return header + "}";
}

/// Changes one thing that the format's rules speak about.
void damage(std::vector<Entry>& entries, Choices& choices) {
  static const std::vector<std::string> numbers = {"0",
                                                   "1",
                                                   "2",
                                                   "3",
                                                   "4",
                                                   "7",
                                                   "8",
                                                   "16",
                                                   "63",
                                                   "64",
                                                   "65",
                                                   "1000",
                                                   "4294967295",
                                                   "4294967296",
                                                   "2305843009213693952",
                                                   "4611686018427387904",
                                                   "9223372036854775807",
                                                   "9223372036854775808",
                                                   "18446744073709551615",
                                                   "18446744073709551616",
                                                   "-1",
                                                   "1.0",
                                                   "1e3",
                                                   "null",
                                                   "\"4\"",
                                                   "[1]"};
  static const std::vector<std::string> dtypes = {"\"F32\"",     "\"F64\"", "\"U8\"", "\"BOOL\"", "\"I16\"",
                                                  "\"F8_E4M3\"", "\"\"",    "null",   "32",       "\"f32\""};
  Entry& entry = entries[choices.below(entries.size())];
  switch (choices.below(9)) {
    case 0:
      entry.offsets[choices.below(2)] = choices.of(numbers);
      break;
    case 1:
      std::swap(entry.offsets[0], entry.offsets[1]);
      break;
    case 2:
      entry.offsets = entries[choices.below(entries.size())].offsets;
      break;
    case 3:
      if (!entry.shape.empty()) entry.shape[choices.below(entry.shape.size())] = choices.of(numbers);
      break;
    case 4:
      entry.shape.insert(entry.shape.begin(), choices.below(20), choices.of(numbers));
      break;
    case 5:
      entry.dtype = choices.of(dtypes);
      break;
    case 6:
      entry.name = entries[choices.below(entries.size())].name;
      break;
    case 7:
      entries.push_back(entry);
      break;
    case 8:
      if (entries.size() > 1) entries.erase(entries.begin() + long(choices.below(entries.size())));
      break;
  }
}

struct Outcome {
  int loaded = 0, refused = 0;
};

/// Opens the file and, where that succeeds, checks that what it says holds together and touches every byte.
void check_file(const std::filesystem::path& path, size_t file_bytes, Outcome& outcome) {
  try {
    const auto file = SafetensorsFile::open(path);
    std::vector<std::pair<uint64_t, uint64_t>> ranges;
    unsigned sum = 0;
    for (const TensorInfo& info : file.tensors()) {
      uint64_t count = dtype_size(info.dtype);
      for (int64_t extent : info.shape) count *= uint64_t(extent);
      if (count != info.end - info.begin || info.end > file_bytes) FAIL("inconsistent entry " << info.name);
      if (count > 0) ranges.emplace_back(info.begin, info.end);
    }
    std::sort(ranges.begin(), ranges.end());
    for (size_t i = 1; i < ranges.size(); ++i)
      if (ranges[i].first < ranges[i - 1].second) FAIL("overlapping entries");
    ++outcome.loaded;
    for (const TensorInfo& info : file.tensors()) {
      const AnyTensor tensor = file.get(info.name);  // may refuse a boolean
      if (reinterpret_cast<uintptr_t>(tensor.storage.get()) % dtype_size(info.dtype) != 0) FAIL("not aligned");
      const auto* bytes = static_cast<const unsigned char*>(tensor.storage.get());
      sum = std::accumulate(bytes, bytes + tensor.bytes(), sum);
      if (is_floating(info.dtype))
        sum += unsigned(to_vector<float>(tensor, info.name).size());
      else
        sum += unsigned(to_vector<int64_t>(tensor, info.name).size());
    }
    if (sum == 0xffffffffu) FAIL("keeps the sum from being optimised away");
  } catch (const Error&) {
    ++outcome.refused;
  }
}

}  // namespace

TEST_CASE("fuzz: safetensors headers with damaged names, types, shapes and offsets", "[fuzz]") {
  const Folder folder;
  const auto path = folder / "f.safetensors";
  const std::string data(good_data_bytes, '\x01');
  Outcome outcome;
  for (uint64_t seed = 0; seed < 8000; ++seed) {
    INFO("seed " << seed);
    Choices choices(seed);
    std::vector<Entry> entries = good_entries();
    for (size_t changes = choices.below(3); changes-- > 0;) damage(entries, choices);
    std::string file = safetensors_bytes(header_of(entries), data);
    if (choices.one_in(8)) {
      static const std::vector<uint64_t> lengths = {
          0, 1, 7, 8, 1u << 31, uint64_t(1) << 32, uint64_t(1) << 63, ~uint64_t(0), 99'999'999, 100'000'001};
      const uint64_t length = choices.one_in(2) ? choices.of(lengths) : choices.below(2 * file.size());
      std::memcpy(file.data(), &length, 8);
    }
    if (choices.one_in(8)) file.resize(choices.below(file.size()));
    tessera_test::write_bytes(path, file);
    check_file(path, file.size(), outcome);
  }
  // Both happen, or the mutations are too weak or too strong to say anything.
  REQUIRE(outcome.loaded > 1500);
  REQUIRE(outcome.refused > 1500);
}

TEST_CASE("fuzz: safetensors files with damaged bytes and JSON", "[fuzz]") {
  const Folder folder;
  const auto path = folder / "f.safetensors";
  const std::string header = header_of(good_entries()), data(good_data_bytes, '\x01');
  const std::string good = safetensors_bytes(header, data);
  Outcome outcome;
  for (uint64_t seed = 0; seed < 8000; ++seed) {
    INFO("seed " << seed);
    Choices choices(seed + 1'000'000);
    const std::string file = seed % 2 ? tessera_test::mutate_bytes(good, choices)
                                      : safetensors_bytes(tessera_test::mutate_json(header, choices), data);
    tessera_test::write_bytes(path, file);
    check_file(path, file.size(), outcome);
  }
  REQUIRE(outcome.loaded > 300);
  REQUIRE(outcome.refused > 3000);
}

TEST_CASE("fuzz: damaged indices of sharded checkpoints", "[fuzz]") {
  const Folder folder;
  write_safetensors(folder / "model-1.safetensors", {{"a", make_any<float>({2}, {1, 2})}});
  write_safetensors(folder / "model-2.safetensors", {{"b", make_any<float>({1, 1}, {3})}});
  const std::string index =
      R"({"metadata":{"total_size":12},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}})";
  int loaded = 0;
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    INFO("seed " << seed);
    Choices choices(seed + 2'000'000);
    tessera_test::write_bytes(folder / "index.json", seed % 2 ? tessera_test::mutate_bytes(index, choices)
                                                              : tessera_test::mutate_json(index, choices));
    try {
      const auto source = TensorSource::open(folder / "index.json");
      for (const std::string& name : source.names())
        if (source.read_vector<float>(name).size() != (name == "a" ? 2u : 1u)) FAIL("wrong tensor for " << name);
      ++loaded;
    } catch (const Error&) {
    }
  }
  REQUIRE(loaded > 100);
  REQUIRE(loaded < 3900);
}

TEST_CASE("fuzz: damaged training checkpoints", "[fuzz]") {
  const Folder folder;
  const auto path = folder / "last.safetensors";
  save_checkpoint(path, {{"weight", make_any<float>({3}, {1, 2, 3})}, {"step", make_any<int64_t>({}, {7})}},
                  {{"step", 7}, {"seed", 1}, {"config", {{"width", 64}, {"layers", {1, 2, 3}}}}});
  const std::string good = tessera_test::read_bytes(path);
  int loaded = 0;
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    INFO("seed " << seed);
    Choices choices(seed + 3'000'000);
    tessera_test::write_bytes(path, tessera_test::mutate_bytes(good, choices));
    try {
      const Checkpoint checkpoint = load_checkpoint(path);
      const std::vector<WantedParameter> wanted = {
          {"weight", {3}, [](const AnyTensor& t) { REQUIRE(to_vector<float>(t, "weight").size() == 3); }},
          {"step", {}, [](const AnyTensor& t) { REQUIRE(to_vector<int64_t>(t, "step").size() == 1); }, false}};
      load_parameters(checkpoint.tensors, wanted);
      JsonView(checkpoint.state, checkpoint.path)["config"].get<int>("width");
      ++loaded;
    } catch (const Error&) {
    }
  }
  REQUIRE(loaded > 100);
  REQUIRE(loaded < 3900);
}
