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

TEST_CASE("safetensors: files of the reference library are read, and written byte for byte", "[io]") {
  const auto path = std::filesystem::path(TESSERA_TEST_DIR) / "golden/safetensors/all_dtypes.safetensors";
  const auto file = SafetensorsFile::open(path);
  REQUIRE(file.tensors().size() == 3 * all_dtypes.size());
  REQUIRE(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  for (Dtype dtype : all_dtypes) {
    const std::string name(dtype_name(dtype));
    const AnyTensor matrix = file.get(name + ".matrix"), scalar = file.get(name + ".scalar");
    REQUIRE(matrix.shape == std::vector<int64_t>{2, 3});
    REQUIRE(scalar.shape.empty());
    REQUIRE(file.get(name + ".empty").shape == std::vector<int64_t>{0, 4});
    if (is_floating(dtype)) {
      REQUIRE(to_vector<double>(matrix, name) == std::vector<double>{-2.5, -1.5, -0.5, 0.5, 1.5, 2.5});
      REQUIRE(to_vector<double>(scalar, name) == std::vector<double>{2.5});
    } else if (dtype == Dtype::boolean) {
      REQUIRE(to_vector<int64_t>(matrix, name) == std::vector<int64_t>{0, 1, 0, 1, 0, 1});
      REQUIRE(to_vector<int64_t>(scalar, name) == std::vector<int64_t>{1});
    } else {
      const int64_t first = name[0] == 'I' ? -3 : 0;
      REQUIRE(to_vector<int64_t>(matrix, name) ==
              std::vector<int64_t>{first, first + 1, first + 2, first + 3, first + 4, first + 5});
      REQUIRE(to_vector<int64_t>(scalar, name) == std::vector<int64_t>{first + 5});
    }
  }

  std::vector<TensorInfo> order = file.tensors();
  std::sort(order.begin(), order.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::vector<NamedTensor> tensors;
  for (const TensorInfo& info : order) tensors.push_back({info.name, file.get(info.name)});
  const Folder folder;
  write_safetensors(folder / "again.safetensors", tensors, file.metadata());
  REQUIRE(tessera_test::read_bytes(folder / "again.safetensors") == tessera_test::read_bytes(path));
}

TEST_CASE("safetensors: a tensor at an address that its dtype does not allow is given as a copy", "[io]") {
  const Folder folder;
  const float values[2] = {1.5f, -2.0f};
  const std::string data(reinterpret_cast<const char*>(values), 8);
  const std::string header = R"({"byte":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("f":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  tessera_test::write_bytes(folder / "odd.safetensors", safetensors_bytes(header, "x" + data));
  const AnyTensor tensor = SafetensorsFile::open(folder / "odd.safetensors").get("f");
  REQUIRE(reinterpret_cast<uintptr_t>(tensor.storage.get()) % 4 == 0);
  REQUIRE(tensor.as<float>()[0] == 1.5f);
  REQUIRE(tensor.as<float>()[1] == -2.0f);
}

TEST_CASE("safetensors: bytes that belong to no tensor are tolerated and noted", "[io]") {
  const Folder folder;
  const std::string header = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                             R"("b":{"dtype":"U8","shape":[2],"data_offsets":[5,7]}}   )";
  tessera_test::write_bytes(folder / "gaps.safetensors", safetensors_bytes(header, "0123456789"));
  const auto file = SafetensorsFile::open(folder / "gaps.safetensors");
  REQUIRE(file.notes() == std::vector<std::string>{"3 bytes between tensors belong to none",
                                                   "3 bytes after the last tensor belong to none"});
  REQUIRE(file.get("b").as<uint8_t>()[1] == '6');
}

TEST_CASE("safetensors: damaged and hostile files give a sentence", "[io]") {
  const Folder folder;
  const auto path = folder / "bad.safetensors";
  const auto expect = [&](const std::string& bytes, const std::string& text) {
    INFO(text);
    tessera_test::write_bytes(path, bytes);
    REQUIRE_ERROR(SafetensorsFile::open(path), IoError, text);
  };
  const auto with_header = [&](const std::string& header, const std::string& text) {
    expect(safetensors_bytes(header, std::string(16, '\0')), text);
  };
  const auto with_tensor = [&](const std::string& fields, const std::string& text) {
    with_header("{\"t\":{" + fields + "}}", text);
  };

  SECTION("length of the header") {
    expect("", "has 0 bytes");
    expect("1234567", "has 7 bytes");
    expect(std::string(8, '\xff'), "a header of 18446744073709551615 bytes");
    const auto with_length = [](uint64_t length) {
      return std::string(reinterpret_cast<const char*>(&length), 8) + "{}";
    };
    expect(with_length(100'000'001), "a header of 100000001 bytes");
    expect(with_length(3), "a header of 3 bytes in a file of 10: truncated");
    expect(with_length(0), "does not begin with '{'");
    expect(with_length(uint64_t(0) - 8), "a header of 18446744073709551608 bytes");
  }
  SECTION("JSON") {
    with_header("[]", "does not begin with '{'");
    with_header(" {}", "does not begin with '{'");
    with_header("{", "not JSON");
    with_header("{}{}", "not JSON");
    with_header(std::string("{}\0\0", 4), "a zero byte");
    with_header("{\"t\":\"\xff\"}", "not JSON");
    with_header("{\"t\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}", "nested deeper than 64");
    with_header("{\"t\":" + std::string(60, '[') + std::string(60, ']') + "}", "the header's entry t is an array");
    with_header("{\"t\":3}", "the header's entry t is a number");
    with_header("{\"" + std::string(9'000'000, 'x') + "\":{}}", "a string or number of more than");
  }
  SECTION("fields") {
    with_tensor("", "no dtype no shape no data_offsets");
    with_tensor(R"("shape":[1],"data_offsets":[0,4])", "the header gives no dtype");
    with_tensor(R"("dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4])", "tensor t: the dtype F8_E4M3 is not one");
    with_tensor(R"("dtype":7,"shape":[4],"data_offsets":[0,4])", "field dtype is a number");
    with_tensor(R"("dtype":"U8","shape":4,"data_offsets":[0,4])", "field shape is a number");
    with_tensor(R"("dtype":"U8","shape":[[4]],"data_offsets":[0,4])", "field shape is an array");
    with_tensor(R"("dtype":"U8","shape":[4.0],"data_offsets":[0,4])", "number that is no 64-bit integer");
    with_tensor(R"("dtype":"U8","shape":[-4],"data_offsets":[0,4])", "a negative number");
    with_tensor(R"("dtype":"U8","shape":[null],"data_offsets":[0,4])", "is null");
    with_tensor(R"("dtype":"U8","shape":[4],"data_offsets":[0])", "must be two numbers");
    with_tensor(R"("dtype":"U8","shape":[4],"data_offsets":[0,4,8])", "more than two numbers");
    with_tensor(R"("dtype":"U8","shape":[4],"data_offsets":[0,4],"extra":true)", "field extra");
    with_tensor(R"("dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4])", "gives dtype twice");
    with_tensor(R"("dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4])", "gives shape twice");
    with_tensor(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])",
                "more than 16 axes");
    with_header(R"({"__metadata__":{"a":1}})", "__metadata__: a is a number");
    with_header(R"({"__metadata__":{"a":"1","a":"2"}})", "has the key a twice");
    with_header(R"({"__metadata__":{},"__metadata__":{}})", "has __metadata__ twice");
  }
  SECTION("numbers that do not fit") {
    with_tensor(R"("dtype":"U8","shape":[4],"data_offsets":[4,0])", "run backwards");
    with_tensor(R"("dtype":"U8","shape":[4],"data_offsets":[14,18])", "only 16 bytes follow the header");
    with_tensor(R"("dtype":"U8","shape":[4],"data_offsets":[0,18446744073709551615])", "only 16 bytes follow");
    with_tensor(R"("dtype":"U8","shape":[4],"data_offsets":[0,5])", "needs 4 bytes, data_offsets give 5");
    with_tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])", "needs 8 bytes, data_offsets give 4");
    with_tensor(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0])", "more elements than fit");
    with_tensor(R"("dtype":"U8","shape":[0,9223372036854775807,2],"data_offsets":[0,0])", "more elements than fit");
    with_tensor(R"("dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,4])", "out of range");
    with_tensor(R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0])", "more elements than fit");
  }
  SECTION("two tensors") {
    const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
    with_header("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})", "the tensors a and b overlap");
    with_header("{" + a + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "overlap");
    with_header("{" + a + R"(,"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", "has the tensor a twice");
  }
  SECTION("values") {
    tessera_test::write_bytes(
        path, safetensors_bytes(R"({"t":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", "\x01\x02"));
    REQUIRE_ERROR(SafetensorsFile::open(path).get("t"), IoError, "a boolean that is neither 0 nor 1");
    REQUIRE_ERROR(SafetensorsFile::open(path).get("u"), IoError, "there is no tensor u");
  }
  SECTION("no file") {
    REQUIRE_ERROR(SafetensorsFile::open(folder / "absent"), IoError, "No such file or directory");
    REQUIRE_ERROR(SafetensorsFile::open(folder.path()), IoError, "it is a folder");
    REQUIRE_ERROR(SafetensorsFile::open("/dev/zero"), IoError, "not a regular file");
  }
}

TEST_CASE("safetensors: every truncation of a good file is refused", "[io]") {
  const Folder folder;
  write_safetensors(folder / "good", {{"a", counting(Dtype::f32, {2, 3})}, {"b", counting(Dtype::u8, {5})}},
                    {{"k", "v"}});
  const std::string good = tessera_test::read_bytes(folder / "good");
  for (size_t length = 0; length < good.size(); ++length) {
    tessera_test::write_bytes(folder / "cut", good.substr(0, length));
    REQUIRE_THROWS_AS(SafetensorsFile::open(folder / "cut"), IoError);
  }
}

TEST_CASE("safetensors: what could not be read again is not written", "[io]") {
  const Folder folder;
  const AnyTensor one = make_any<float>({1}, {1.0f});
  const auto path = folder / "f.safetensors";
  REQUIRE_ERROR(write_safetensors(path, {{"a", one}, {"a", one}}), ValueError, "tensor a: given twice");
  REQUIRE_ERROR(write_safetensors(path, {{"__metadata__", one}}), ValueError, "__metadata__");
  REQUIRE_ERROR(write_safetensors(path, {{"\xff", one}}), ValueError, "cannot write JSON");
  REQUIRE_ERROR(write_safetensors(path, {{"a", AnyTensor{Dtype::f32, {2}, nullptr}}}), ValueError, "has no values");
  REQUIRE_ERROR(write_safetensors(path, {{"a", AnyTensor{Dtype::f32, {-1}, nullptr}}}), ValueError, "cannot be stored");
  REQUIRE_ERROR(write_safetensors(path, {{"a", one}}, {{"long", std::string(9 << 20, 'x')}}), ValueError,
                "names and metadata");
  REQUIRE(std::filesystem::is_empty(folder.path()));
}
