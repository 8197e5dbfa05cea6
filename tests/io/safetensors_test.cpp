// safetensors: round trips, agreement with files of the reference library, refusal of damaged and hostile files.
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <tessera/io/safetensors.hpp>
#include <tessera/io/tensor_source.hpp>

#include "io/folder.hpp"

using namespace tessera;
using namespace tessera::io;
using tessera_test::Folder;
using tessera_test::safetensors_bytes;

namespace {

const std::vector<Dtype> all_dtypes = {Dtype::f32, Dtype::f64, Dtype::bf16,   Dtype::f16, Dtype::i64,
                                       Dtype::i32, Dtype::i16, Dtype::i8,     Dtype::u64, Dtype::u32,
                                       Dtype::u16, Dtype::u8,  Dtype::boolean};

/// A tensor whose bytes count up (booleans alternate).
AnyTensor counting(Dtype dtype, std::vector<int64_t> shape) {
  AnyTensor tensor{dtype, shape, nullptr};
  auto bytes = std::make_shared<std::vector<unsigned char>>(tensor.bytes() + 8);
  for (size_t i = 0; i < bytes->size(); ++i) (*bytes)[i] = (unsigned char)(dtype == Dtype::boolean ? i % 2 : i * 7 + 1);
  tensor.storage = {bytes, bytes->data()};
  return tensor;
}

void require_equal(const AnyTensor& a, const AnyTensor& b) {
  REQUIRE(a.dtype == b.dtype);
  REQUIRE(a.shape == b.shape);
  REQUIRE((a.bytes() == 0 || std::memcmp(a.storage.get(), b.storage.get(), a.bytes()) == 0));
}

}  // namespace

TEST_CASE("safetensors: every dtype, rank 0 and empty tensors survive a round trip", "[io]") {
  const Folder folder;
  std::vector<NamedTensor> tensors;
  for (Dtype dtype : all_dtypes) {
    const std::string name(dtype_name(dtype));
    tensors.push_back({name + ".scalar", counting(dtype, {})});
    tensors.push_back({name + ".odd", counting(dtype, {3})});
    tensors.push_back({name + ".empty", counting(dtype, {2, 0, 5})});
    tensors.push_back({name + ".\"quoted\" ü\n", counting(dtype, {1, 2, 3, 5})});
  }
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"note", "line\nbreak \"quote\" ü"}};
  write_safetensors(folder / "all.safetensors", tensors, metadata);

  const auto file = SafetensorsFile::open(folder / "all.safetensors");
  REQUIRE(file.tensors().size() == tensors.size());
  REQUIRE(file.metadata() == metadata);
  REQUIRE(file.notes().empty());
  for (const NamedTensor& named : tensors) {
    REQUIRE(file.contains(named.name));
    require_equal(file.get(named.name), named.tensor);
  }
}

TEST_CASE("safetensors: a tensor is a view into the mapping and outlives the file object", "[io]") {
  const Folder folder;
  write_safetensors(folder / "a.safetensors", {{"a", make_any<float>({2, 2}, {1, 2, 3, 4})}});
  AnyTensor tensor;
  {
    const auto file = SafetensorsFile::open(folder / "a.safetensors");
    tensor = file.get("a");
    REQUIRE(tensor.storage.get() == file.get("a").storage.get());
  }
  std::filesystem::remove(folder / "a.safetensors");
  REQUIRE(tensor.as<float>()[3] == 4.0f);
}
