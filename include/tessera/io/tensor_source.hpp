// Where parameters come from: one safetensors file, a checkpoint in several files with an index
// (model.safetensors.index.json), a folder that holds either, or tensors in memory; one interface for all. And the
// conversion of what a file holds to the type that is wanted.
#pragma once
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <tessera/core/parallel.hpp>
#include <tessera/core/tensor.hpp>
#include <tessera/io/json.hpp>
#include <tessera/io/safetensors.hpp>

namespace tessera::io {

inline bool is_floating(Dtype dtype) {
  return dtype == Dtype::f32 || dtype == Dtype::f64 || dtype == Dtype::bf16 || dtype == Dtype::f16;
}

namespace detail {

/// Calls body with a null pointer of the type that `dtype` stands for.
template <class Body>
decltype(auto) visit_dtype(Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::f32:
      return body(static_cast<const float*>(nullptr));
    case Dtype::f64:
      return body(static_cast<const double*>(nullptr));
    case Dtype::bf16:
      return body(static_cast<const bfloat16*>(nullptr));
    case Dtype::f16:
      return body(static_cast<const float16*>(nullptr));
    case Dtype::i64:
      return body(static_cast<const int64_t*>(nullptr));
    case Dtype::i32:
      return body(static_cast<const int32_t*>(nullptr));
    case Dtype::i16:
      return body(static_cast<const int16_t*>(nullptr));
    case Dtype::i8:
      return body(static_cast<const int8_t*>(nullptr));
    case Dtype::u64:
      return body(static_cast<const uint64_t*>(nullptr));
    case Dtype::u32:
      return body(static_cast<const uint32_t*>(nullptr));
    case Dtype::u16:
      return body(static_cast<const uint16_t*>(nullptr));
    case Dtype::u8:
      return body(static_cast<const uint8_t*>(nullptr));
    case Dtype::boolean:
      return body(static_cast<const bool*>(nullptr));
  }
  fail<ValueError>("dtype ", int(dtype), " is unknown");
}

/// One element: floating types into each other by way of float (double where both are double), integers and booleans
/// into integers that can hold the value.
template <class To, class From>
To convert_element(From value, int64_t index, std::string_view what) {
  if constexpr (std::is_integral_v<From>) {
    const bool fits = [&] {
      if constexpr (std::is_same_v<From, bool> || std::is_same_v<From, To>)
        return true;
      else
        return std::in_range<To>(value);
    }();
    require(fits, what, ": element ", index, " is ", value, ", out of range of ", dtype_name(dtype_of<To>));
    return To(value);
  } else {
    return narrow<To>(widen(value));
  }
}

}  // namespace detail

/// Copies `tensor`'s elements, converted, to `to` (room for tensor.size() of them). Floating types become each other
/// (rounding to nearest even where the target is narrower; too large becomes infinity), integers and booleans become
/// integers. Throws ValueError for another pair of types or for an integer that the target cannot hold.
template <class To>
void convert_elements(const AnyTensor& tensor, To* to, std::string_view what) {
  static_assert(!std::is_same_v<To, bool>, "tessera: booleans are read as uint8_t");
  detail::visit_dtype(tensor.dtype, [&](auto* type) {
    using From = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    if constexpr (std::is_integral_v<From> != std::is_integral_v<To>) {
      fail<ValueError>(what, " is stored as ", dtype_name(tensor.dtype), ", which is not converted to ",
                       dtype_name(dtype_of<To>));
    } else {
      const From* from = tensor.as<From>();
      parallel_for(tensor.size(), int64_t(1) << 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to[i] = detail::convert_element<To>(from[i], i, what);
      });
    }
  });
}

/// A tensor of T and Rank on the context's device with `tensor`'s elements, converted as by convert_elements. Throws
/// ShapeError for another rank. `what` names the tensor in errors.
template <class T, int Rank, class Device>
Tensor<T, Rank, Device> to_tensor(Context<Device>& ctx, const AnyTensor& tensor, std::string_view what) {
  require<ShapeError>(tensor.shape.size() == size_t(Rank), what, ": shape ", to_string(tensor.shape), " has rank ",
                      tensor.shape.size(), ", not ", Rank);
  Shape<Rank> shape{};
  for (size_t axis = 0; axis < shape.size(); ++axis) shape[axis] = tensor.shape[axis];
  Tensor<T, Rank, Device> result(ctx, shape);
  if constexpr (std::is_same_v<Device, Cpu>) {
    convert_elements(tensor, result.data, what);
  } else {
    std::vector<T> values(size_t(tensor.size()));
    convert_elements(tensor, values.data(), what);
    Memory<Device>::from_host(result.data, values.data(), values.size() * sizeof(T));
  }
  return result;
}

/// The elements as a vector of T, converted as by convert_elements.
template <class T>
std::vector<T> to_vector(const AnyTensor& tensor, std::string_view what) {
  std::vector<T> values(size_t(tensor.size()));
  convert_elements(tensor, values.data(), what);
  return values;
}

/// Named tensors from files or memory. Cheap to copy: the files' mappings are shared.
class TensorSource {
 public:
  /// A .safetensors file, an index (.json), or a folder with model.safetensors.index.json or model.safetensors. Throws
  /// IoError for a file that is missing or damaged, a shard included.
  static TensorSource open(const std::filesystem::path& path) {
    namespace fs = std::filesystem;
    std::error_code ignored;
    if (fs::is_directory(path, ignored)) {
      const fs::path index = path / "model.safetensors.index.json", single = path / "model.safetensors";
      if (fs::exists(single, ignored)) return open_file(single);
      if (fs::exists(index, ignored)) return open_index(index);
      fail<IoError>(path.string(), " holds neither model.safetensors nor model.safetensors.index.json");
    }
    return path.extension() == ".json" ? open_index(path) : open_file(path);
  }
  /// Tensors in memory; `description` stands for the file's name in errors. Throws ValueError for a name given twice.
  static TensorSource from_tensors(std::vector<NamedTensor> tensors, std::string description = "tensors in memory") {
    TensorSource source(std::move(description));
    for (NamedTensor& named : tensors)
      require(source.places_.emplace(named.name, Place{-1, std::move(named.tensor)}).second, source.description_,
              ": tensor ", named.name, " is given twice");
    return source;
  }

  /// Sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& [name, place] : places_) result.push_back(name);
    return result;
  }
  size_t size() const { return places_.size(); }
  bool contains(const std::string& name) const { return places_.contains(name); }
  Dtype dtype(const std::string& name) const {
    const Place& place = find(name);
    return place.file < 0 ? place.tensor.dtype : info(name, place).dtype;
  }
  const std::vector<int64_t>& shape(const std::string& name) const {
    const Place& place = find(name);
    return place.file < 0 ? place.tensor.shape : info(name, place).shape;
  }
  /// The tensor without a copy, as SafetensorsFile::get.
  AnyTensor get(const std::string& name) const {
    const Place& place = find(name);
    return place.file < 0 ? place.tensor : files_[size_t(place.file)].get(name);
  }
  /// The tensor as T and Rank on the context's device, converted as by convert_elements.
  template <class T, int Rank, class Device>
  Tensor<T, Rank, Device> read(Context<Device>& ctx, const std::string& name) const {
    return to_tensor<T, Rank>(ctx, get(name), sentence(description_, ": tensor ", name));
  }
  template <class T>
  std::vector<T> read_vector(const std::string& name) const {
    return to_vector<T>(get(name), sentence(description_, ": tensor ", name));
  }
  /// The metadata of the files; where several have a key, the first file's.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// What begins errors: the path that was opened.
  const std::string& description() const { return description_; }

 private:
  struct Place {
    int file = -1;     // -1: `tensor`
    AnyTensor tensor;  // of a source in memory
  };

  explicit TensorSource(std::string description) : description_(std::move(description)) {}

  static TensorSource open_file(const std::filesystem::path& path) {
    TensorSource source(path.string());
    source.files_.push_back(SafetensorsFile::open(path));
    source.metadata_ = source.files_[0].metadata();
    for (const TensorInfo& info : source.files_[0].tensors()) source.places_.emplace(info.name, Place{0, {}});
    return source;
  }
  /// {"weight_map": {tensor name: file name, …}, …}; the files lie beside the index.
  static TensorSource open_index(const std::filesystem::path& path) {
    TensorSource source(path.string());
    JsonLimits limits;
    limits.values = SafetensorsLimits::tensors + 1000;
    const Json document = read_json(path, limits);
    const JsonView weight_map = JsonView(document, path.string())["weight_map"];
    require<IoError>(weight_map.is_object(), weight_map.name(), " must be an object");
    std::map<std::string, int> shards;
    size_t tensors = 0;
    for (const auto& [name, value] : weight_map.json().items()) {
      require<IoError>(value.is_string(), path.string(), ": weight_map: the file of ", detail::shown(name),
                       " must be a string");
      const std::string shard = value.template get<std::string>();
      const auto known = shards.try_emplace(shard, int(source.files_.size()));
      if (known.second) {
        require<IoError>(is_plain_name(shard), path.string(), ": weight_map: ", detail::shown(shard),
                         " is not the plain name of a file beside the index");
        require<IoError>(shards.size() <= max_shards, path.string(), ": more than ", max_shards, " files");
        source.files_.push_back(SafetensorsFile::open(path.parent_path() / shard));
        tensors += source.files_.back().tensors().size();
        require<IoError>(tensors <= SafetensorsLimits::tensors, path.string(), ": more than ",
                         SafetensorsLimits::tensors, " tensors in its files");
        const auto& metadata = source.files_.back().metadata();
        source.metadata_.insert(metadata.begin(), metadata.end());
      }
      const int file = known.first->second;
      require<IoError>(source.files_[size_t(file)].contains(name), path.string(), ": tensor ", detail::shown(name),
                       " should be in ", shard, " but is not");
      source.places_.emplace(name, Place{file, {}});
    }
    return source;
  }
  static bool is_plain_name(const std::string& name) {
    return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
           name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
  }
  const Place& find(const std::string& name) const {
    const auto found = places_.find(name);
    require<IoError>(found != places_.end(), description_, ": there is no tensor ", name);
    return found->second;
  }
  const TensorInfo& info(const std::string& name, const Place& place) const {
    return *files_[size_t(place.file)].find(name);
  }

  static constexpr size_t max_shards = 4096;
  std::string description_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Place> places_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace tessera::io
