// Hostile files may not make the readers allocate: at most 64 MiB beyond the file, counted in operator new.
#include <cstdlib>
#include <new>
#include <string>

#include <malloc.h>

#include <support/catch.hpp>
#include <tessera/io/checkpoint.hpp>

#include "io/folder.hpp"

namespace {

size_t live_bytes = 0, peak_bytes = 0;

void* counted(size_t bytes, size_t alignment) {
  void* data = alignment <= alignof(std::max_align_t)
                   ? std::malloc(bytes ? bytes : 1)
                   : std::aligned_alloc(alignment, (bytes / alignment + 1) * alignment);
  if (!data) throw std::bad_alloc();
  live_bytes += ::malloc_usable_size(data);
  if (live_bytes > peak_bytes) peak_bytes = live_bytes;
  return data;
}

void give_back(void* data) noexcept {
  if (data) live_bytes -= ::malloc_usable_size(data);
  std::free(data);
}

}  // namespace

void* operator new(size_t bytes) { return counted(bytes, 0); }
void* operator new[](size_t bytes) { return counted(bytes, 0); }
void* operator new(size_t bytes, std::align_val_t alignment) { return counted(bytes, size_t(alignment)); }
void operator delete(void* data) noexcept { give_back(data); }
void operator delete[](void* data) noexcept { give_back(data); }
void operator delete(void* data, size_t) noexcept { give_back(data); }
void operator delete[](void* data, size_t) noexcept { give_back(data); }
void operator delete(void* data, std::align_val_t) noexcept { give_back(data); }
void operator delete(void* data, size_t, std::align_val_t) noexcept { give_back(data); }

using namespace tessera;
using namespace tessera::io;

namespace {

/// Bytes allocated at the peak of `action`, beyond what was live before; whether it throws does not matter here.
template <class Action>
size_t peak_of(Action&& action) {
  const size_t before = live_bytes;
  peak_bytes = live_bytes;
  try {
    action();
  } catch (const Error&) {
  }
  return peak_bytes - before;
}

constexpr size_t mebibyte = size_t(1) << 20, most = 64 * mebibyte;

std::string repeated(const std::string& text, size_t times) {
  std::string all;
  all.reserve(text.size() * times);
  for (size_t i = 0; i < times; ++i) all += text;
  return all;
}

}  // namespace

TEST_CASE("memory: the counter counts", "[io]") {
  REQUIRE(peak_of([] { std::string text(10 * mebibyte, 'x'); }) >= 10 * mebibyte);
}

TEST_CASE("memory: hostile safetensors headers stay below 64 MiB", "[io]") {
  const tessera_test::Folder folder;
  const auto path = folder / "f.safetensors";
  const auto open_peak = [&](const std::string& header) {
    tessera_test::write_bytes(path, tessera_test::safetensors_bytes(header, ""));
    return peak_of([&] { SafetensorsFile::open(path); });
  };
  const auto tensors = [](size_t count, size_t name_bytes, const std::string& shape) {
    std::string header = "{";
    for (size_t i = 0; i < count; ++i) {
      std::string name = std::to_string(i);
      name.resize(std::max(name.size(), name_bytes), '_');
      header += (i ? ",\"" : "\"") + name + "\":{\"dtype\":\"U8\",\"shape\":[" + shape + "],\"data_offsets\":[0,0]}";
    }
    return header + "}";
  };
  const std::string rank_16 = "0" + repeated(",1", 15);
  // The most that is accepted: the number of tensors, their rank and their names, each at its limit.
  const std::string largest = tensors(50'000, 120, rank_16);
  const size_t accepted = open_peak(largest);
  REQUIRE(accepted < most);
  REQUIRE(SafetensorsFile::open(path).tensors().size() == 50'000);
  // A model that knows none of these names.
  REQUIRE(peak_of([&] {
            load_parameters(TensorSource::open(path), {{"weight", {1}, [](const AnyTensor&) {}}});
          }) < most);
  std::string index = "{\"weight_map\":{\"0\":\"f.safetensors\"";
  for (size_t i = 1; i < 50'000; ++i) {
    std::string name = std::to_string(i);
    name.resize(120, '_');
    index += ",\"" + name + "\":\"f.safetensors\"";
  }
  tessera_test::write_bytes(folder / "index.json", index + "}}");
  const size_t sharded = peak_of([&] { TensorSource::open(folder / "index.json"); });
  REQUIRE(sharded < most + index.size() + largest.size());

  REQUIRE(open_peak(tensors(50'001, 0, rank_16)) < most);
  REQUIRE(open_peak(tensors(2000, 40'000, "0")) < most);
  REQUIRE(open_peak("{\"" + std::string(90'000'000, 'x') + "\":1}") < most);
  REQUIRE(open_peak("{\"a\":" + std::string(90'000'000, '1') + "}") < most);
  REQUIRE(open_peak("{\"a\":{\"shape\":[" + repeated("1,", 40'000'000) + "1]}}") < most);
  REQUIRE(open_peak(std::string(90'000'000, '{')) < most);
  REQUIRE(open_peak("{\"a\":" + std::string(90'000'000, '[')) < most);
  std::string metadata = "{\"__metadata__\":{\"0\":\"\"";
  for (int i = 1; i < 1'500'000; ++i) metadata += ",\"" + std::to_string(i) + "\":\"\"";
  REQUIRE(open_peak(metadata + "}}") < most);
  REQUIRE(open_peak("{\"__metadata__\":{\"a\":\"" + std::string(8'000'000, 'x') + "\"}}") < most);
}

TEST_CASE("memory: hostile JSON stays below 64 MiB beyond its text", "[io]") {
  const auto parse_peak = [](const std::string& text) { return peak_of([&] { parse_json(text, "f"); }); };
  REQUIRE(parse_peak(std::string(60 * mebibyte, '[')) < most);
  REQUIRE(parse_peak("[" + repeated("0,", 30'000'000) + "0]") < most);
  REQUIRE(parse_peak("[" + repeated("0,", 399'990) + "0]") < most);
  REQUIRE(parse_peak("[" + repeated("[],", 199'990) + "0]") < most);
  REQUIRE(parse_peak("[" + repeated("{},", 199'990) + "0]") < most);
  REQUIRE(parse_peak("[" + repeated("{\"\":0},", 199'990) + "0]") < most);
  REQUIRE(parse_peak("[" + repeated("{\"\":\"\"},", 199'990) + "0]") < most);
  for (const size_t length : {1, 16, 31, 64}) {
    const std::string value(length, 'x');
    std::string text = "{\"0\":0";
    for (int i = 0; i < 399'990; ++i) {
      std::string key = std::to_string(i);
      key.resize(std::max(key.size(), length), 'x');
      text += ",\"" + key + "\":\"" + value + "\"";
    }
    INFO(length);
    REQUIRE(parse_peak(text + "}") < most + text.size());
  }
}
