// safetensors files: 8 bytes of header length (little endian), a JSON header, and the tensors' bytes. The header maps
// names to {"dtype", "shape", "data_offsets": [begin, end)}, offsets counted from the header's end, and may hold
// "__metadata__", an object of strings. Format: https://huggingface.co/docs/safetensors
//
// A file is mapped, not read: opening costs its header, and a tensor is read from the disk where it is used. Everything
// is checked before anything is believed. Bytes that belong to no tensor are tolerated (files in use have them) and
// noted; tensors that overlap are not.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <tessera/core/tensor.hpp>
#include <tessera/io/files.hpp>
#include <tessera/io/json.hpp>

namespace tessera::io {

static_assert(std::endian::native == std::endian::little, "tessera: safetensors are mapped as they are, little endian");

/// A name and its host tensor.
struct NamedTensor {
  std::string name;
  AnyTensor tensor;
};

/// Limits of files read and written. They bound the memory that a header can ask for to less than 64 MiB.
struct SafetensorsLimits {
  static constexpr size_t header_bytes = 100'000'000;
  static constexpr size_t tensors = 50'000;
  static constexpr size_t text_bytes = size_t(8) << 20;  ///< of all names and metadata together
  static constexpr size_t string_bytes = size_t(8) << 20;
  static constexpr size_t metadata_entries = 10'000;
  static constexpr size_t rank = 16;
};

/// What a header says about one tensor.
struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  ///< bytes, from the end of the header
};

namespace detail {

inline std::optional<Dtype> dtype_from_name(std::string_view name) {
  for (int value = 0; value <= int(Dtype::boolean); ++value)
    if (dtype_name(Dtype(value)) == name) return Dtype(value);
  return std::nullopt;
}

inline JsonLimits header_limits() {
  JsonLimits limits;
  limits.bytes = SafetensorsLimits::header_bytes;
  limits.values = SafetensorsLimits::tensors * (8 + SafetensorsLimits::rank);
  limits.string_bytes = SafetensorsLimits::string_bytes;
  return limits;
}

/// A name from a file as errors show it: not too long, and without characters that a terminal would obey.
inline std::string shown(std::string_view name) {
  std::string text(name.substr(0, 200));
  for (char& c : text)
    if ((unsigned char)(c) < 0x20 || c == 0x7f) c = '?';
  return name.size() <= 200 ? text : text + "…";
}

/// Bytes of a tensor; nothing where the product leaves int64, in whichever order the extents are multiplied (an extent
/// of 0 does not excuse the others).
inline std::optional<uint64_t> checked_bytes(const std::vector<int64_t>& shape, Dtype dtype) {
  uint64_t product = dtype_size(dtype);
  bool empty = false;
  for (int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    empty |= extent == 0;
    if (extent == 0) continue;
    if (product > uint64_t(std::numeric_limits<int64_t>::max()) / uint64_t(extent)) return std::nullopt;
    product *= uint64_t(extent);
  }
  return empty ? 0 : product;
}

/// Memory for a tensor's bytes, aligned as all of tessera's.
inline std::shared_ptr<std::byte> allocate_host(size_t bytes) {
  return {static_cast<std::byte*>(Memory<Cpu>::allocate(std::max<size_t>(bytes, 1))),
          [](std::byte* data) { Memory<Cpu>::release(data); }};
}

/// Receives the events of the JSON parser and builds the list of tensors, so that no document is held in memory.
class HeaderReader {
 public:
  explicit HeaderReader(std::string file) : file_(std::move(file)) {}

  std::vector<TensorInfo> tensors;
  std::map<std::string, std::string> metadata;

  bool null() { return unexpected("null"); }
  bool boolean(bool) { return unexpected("a boolean"); }
  bool number_integer(int64_t) { return unexpected("a negative number"); }
  bool number_float(double, const std::string&) { return unexpected("a number that is no 64-bit integer"); }
  bool binary(Json::binary_t&) { return unexpected("binary data"); }
  bool number_unsigned(uint64_t number) {
    if (place_ == Place::shape) {
      require<IoError>(std::in_range<int64_t>(number), where(), "shape has the extent ", number, ", out of range");
      require<IoError>(tensors.back().shape.size() < SafetensorsLimits::rank, where(), "shape has more than ",
                       SafetensorsLimits::rank, " axes");
      tensors.back().shape.push_back(int64_t(number));
    } else if (place_ == Place::offsets) {
      require<IoError>(offsets_ < 2, where(), "data_offsets has more than two numbers");
      (offsets_++ == 0 ? tensors.back().begin : tensors.back().end) = number;
    } else {
      return unexpected("a number");
    }
    return true;
  }
  bool string(std::string& text) {
    if (place_ == Place::metadata) {
      require<IoError>(metadata.size() < SafetensorsLimits::metadata_entries, file_, ": more than ",
                       SafetensorsLimits::metadata_entries, " entries in __metadata__");
      count_text(text);
      require<IoError>(metadata.emplace(key_, text).second, file_, ": __metadata__ has the key ", shown(key_),
                       " twice");
    } else if (place_ == Place::tensor && key_ == "dtype") {
      const auto dtype = dtype_from_name(text);
      require<IoError>(dtype.has_value(), where(), "the dtype ", shown(text), " is not one that tessera reads ",
                       "(F64, F32, F16, BF16, I8 to I64, U8 to U64, BOOL)");
      tensors.back().dtype = *dtype;
      see(seen_dtype);
    } else {
      return unexpected("a string");
    }
    return true;
  }
  bool start_object(size_t) {
    if (place_ == Place::outside) {
      place_ = Place::header;
    } else if (place_ == Place::header && key_ == "__metadata__") {
      require<IoError>(!has_metadata_, file_, ": the header has __metadata__ twice");
      has_metadata_ = true;
      place_ = Place::metadata;
    } else if (place_ == Place::header) {
      require<IoError>(tensors.size() < SafetensorsLimits::tensors, file_, ": more than ", SafetensorsLimits::tensors,
                       " tensors");
      count_text(key_);
      tensors.emplace_back();
      tensors.back().name = key_;
      seen_ = 0;
      place_ = Place::tensor;
    } else {
      return unexpected("an object");
    }
    return true;
  }
  bool key(std::string& text) {
    key_.swap(text);
    if (place_ == Place::metadata) count_text(key_);
    return true;
  }
  bool end_object() {
    if (place_ == Place::tensor) {
      require<IoError>(seen_ == (seen_dtype | seen_shape | seen_offsets), where(), "the header gives ",
                       seen_ & seen_dtype ? "" : "no dtype", seen_ & seen_shape ? "" : " no shape",
                       seen_ & seen_offsets ? "" : " no data_offsets");
    }
    place_ = place_ == Place::header ? Place::outside : Place::header;
    return true;
  }
  bool start_array(size_t) {
    if (place_ == Place::tensor && key_ == "shape") {
      see(seen_shape);
      place_ = Place::shape;
    } else if (place_ == Place::tensor && key_ == "data_offsets") {
      see(seen_offsets);
      offsets_ = 0;
      place_ = Place::offsets;
    } else {
      return unexpected("an array");
    }
    return true;
  }
  bool end_array() {
    require<IoError>(place_ != Place::offsets || offsets_ == 2, where(), "data_offsets must be two numbers");
    place_ = Place::tensor;
    return true;
  }
  bool parse_error(size_t, const std::string&, const Json::exception& error) {
    fail<IoError>(file_, ": the header is not JSON: ", short_json_error(error));
  }

 private:
  enum class Place { outside, header, metadata, tensor, shape, offsets };
  static constexpr int seen_dtype = 1, seen_shape = 2, seen_offsets = 4;

  std::string where() const { return sentence(file_, ": tensor ", shown(tensors.back().name), ": "); }
  bool unexpected(std::string_view kind) const {
    if (place_ == Place::outside) fail<IoError>(file_, ": the header is ", kind, " instead of an object");
    if (place_ == Place::header || place_ == Place::metadata)
      fail<IoError>(file_, place_ == Place::header ? ": the header's entry " : ": __metadata__: ", shown(key_), " is ",
                    kind);
    fail<IoError>(where(), "the header's field ", shown(key_), " is ", kind, ", or not part of the format");
  }
  void see(int field) {
    require<IoError>(!(seen_ & field), where(), "the header gives ", key_, " twice");
    seen_ |= field;
  }
  void count_text(std::string_view text) {
    text_bytes_ += text.size();
    require<IoError>(text_bytes_ <= SafetensorsLimits::text_bytes, file_, ": names and metadata of more than ",
                     SafetensorsLimits::text_bytes, " bytes");
  }

  std::string file_, key_;
  Place place_ = Place::outside;
  int seen_ = 0, offsets_ = 0;
  size_t text_bytes_ = 0;
  bool has_metadata_ = false;
};

}  // namespace detail

/// A safetensors file, mapped and checked. Copies share the mapping.
class SafetensorsFile {
 public:
  /// Throws IoError, naming the tensor, for a file that is damaged, hostile or of a kind that tessera does not read.
  static SafetensorsFile open(const std::filesystem::path& path) {
    SafetensorsFile result;
    result.file_ = MappedFile::open(path);
    result.read_header();
    return result;
  }

  /// Sorted by name.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  /// Sorted, as tensors().
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const TensorInfo& info : tensors_) result.push_back(info.name);
    return result;
  }
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// Null where there is no such tensor.
  const TensorInfo* find(std::string_view name) const {
    const auto at = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                     [](const TensorInfo& info, std::string_view other) { return info.name < other; });
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
  }
  /// The tensor, without a copy (the mapping lives as long as it does); where its bytes are not aligned to its dtype,
  /// an aligned copy. Throws IoError where there is no such tensor, or a boolean is neither 0 nor 1.
  AnyTensor get(std::string_view name) const {
    const TensorInfo* info = find(name);
    require<IoError>(info != nullptr, path().string(), ": there is no tensor ", name);
    const std::byte* data = file_->data() + data_begin_ + info->begin;
    const size_t bytes = size_t(info->end - info->begin);
    if (info->dtype == Dtype::boolean)
      require<IoError>(std::all_of(data, data + bytes, [](std::byte b) { return b <= std::byte(1); }), path().string(),
                       ": tensor ", name, ": a boolean that is neither 0 nor 1");
    AnyTensor tensor{info->dtype, info->shape, {file_, data}};
    if (reinterpret_cast<uintptr_t>(data) % dtype_size(info->dtype) != 0) {
      auto copy = detail::allocate_host(bytes);
      if (bytes > 0) std::memcpy(copy.get(), data, bytes);
      tensor.storage = std::move(copy);
    }
    return tensor;
  }
  /// The header's "__metadata__".
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// What is odd about the file and harmless: bytes that belong to no tensor.
  const std::vector<std::string>& notes() const { return notes_; }
  const std::filesystem::path& path() const { return file_->path(); }

 private:
  SafetensorsFile() = default;

  void read_header() {
    const std::string what = path().string();
    const size_t size = file_->size();
    require<IoError>(size >= 8, what, " has ", size, " bytes; a safetensors file has at least 8");
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, file_->data(), 8);
    require<IoError>(header_bytes <= SafetensorsLimits::header_bytes, what, ": a header of ", header_bytes,
                     " bytes (at most ", SafetensorsLimits::header_bytes,
                     " are read): damaged, or not a safetensors file");
    require<IoError>(header_bytes <= size - 8, what, ": a header of ", header_bytes, " bytes in a file of ", size,
                     ": truncated, or not a safetensors file");
    data_begin_ = 8 + size_t(header_bytes);
    const std::string_view header = file_->text().substr(8, header_bytes);
    require<IoError>(header.starts_with('{'), what, ": the header does not begin with '{': not a safetensors file");

    detail::check_json_limits(header, what, detail::header_limits());
    detail::HeaderReader reader(what);
    Json::sax_parse(header.begin(), header.end(), &reader);
    tensors_ = std::move(reader.tensors);
    metadata_ = std::move(reader.metadata);

    for (const TensorInfo& info : tensors_) check(info, size - data_begin_);
    check_overlaps(size - data_begin_);
    std::sort(tensors_.begin(), tensors_.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    for (size_t i = 1; i < tensors_.size(); ++i)
      require<IoError>(tensors_[i - 1].name != tensors_[i].name, what, ": the header has the tensor ",
                       detail::shown(tensors_[i].name), " twice");
  }
  void check(const TensorInfo& info, uint64_t data_bytes) const {
    const std::string where = sentence(path().string(), ": tensor ", detail::shown(info.name), ": ");
    require<IoError>(info.begin <= info.end, where, "data_offsets [", info.begin, ", ", info.end, "] run backwards");
    require<IoError>(info.end <= data_bytes, where, "data_offsets [", info.begin, ", ", info.end, "] but only ",
                     data_bytes, " bytes follow the header: truncated?");
    const auto bytes = detail::checked_bytes(info.shape, info.dtype);
    require<IoError>(bytes.has_value(), where, "shape ", to_string(info.shape), " has more elements than fit");
    require<IoError>(*bytes == info.end - info.begin, where, "shape ", to_string(info.shape), " of ",
                     dtype_name(info.dtype), " needs ", *bytes, " bytes, data_offsets give ", info.end - info.begin);
  }
  void check_overlaps(uint64_t data_bytes) {
    std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    uint64_t used = 0, unused = 0;
    const TensorInfo* last = nullptr;
    for (const TensorInfo& info : tensors_) {
      if (info.begin == info.end) continue;  // empty: no bytes to share
      require<IoError>(info.begin >= used, path().string(), ": the tensors ", last ? detail::shown(last->name) : "",
                       " and ", detail::shown(info.name), " overlap");
      unused += info.begin - used;
      used = info.end;
      last = &info;
    }
    if (unused > 0) notes_.push_back(sentence(unused, " bytes between tensors belong to none"));
    if (used < data_bytes) notes_.push_back(sentence(data_bytes - used, " bytes after the last tensor belong to none"));
  }

  std::shared_ptr<const MappedFile> file_;
  size_t data_begin_ = 0;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> notes_;
};

namespace detail {

/// The tensors in the order of the file: large elements first, so that each begins at a multiple of its element's size
/// without gaps; the caller's order among equals.
inline std::vector<const NamedTensor*> file_order(const std::vector<NamedTensor>& tensors, const std::string& what) {
  std::vector<const NamedTensor*> order;
  std::unordered_set<std::string_view> names;
  require(tensors.size() <= SafetensorsLimits::tensors, what, ": ", tensors.size(), " tensors; at most ",
          SafetensorsLimits::tensors, " fit");
  for (const NamedTensor& named : tensors) {
    const auto bytes = checked_bytes(named.tensor.shape, named.tensor.dtype);
    const std::string where = sentence(what, ": tensor ", shown(named.name), ": ");
    require(named.name != "__metadata__", what, ": a tensor cannot be called __metadata__");
    require(names.insert(named.name).second, where, "given twice");
    require(bytes.has_value() && named.tensor.shape.size() <= SafetensorsLimits::rank, where, "shape ",
            to_string(named.tensor.shape), " cannot be stored");
    require(*bytes == 0 || named.tensor.storage, where, "has no values");
    order.push_back(&named);
  }
  std::stable_sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    return dtype_size(a->tensor.dtype) > dtype_size(b->tensor.dtype);
  });
  return order;
}

inline std::string make_header(const std::vector<const NamedTensor*>& order,
                               const std::map<std::string, std::string>& metadata, const std::string& what) {
  std::string header = "{";
  size_t text_bytes = 0;
  if (!metadata.empty()) {
    header += "\"__metadata__\":" + json_text(Json(metadata), -1) + ",";
    for (const auto& [key, value] : metadata) text_bytes += key.size() + value.size();
  }
  uint64_t offset = 0;
  for (const NamedTensor* named : order) {
    const AnyTensor& tensor = named->tensor;
    text_bytes += named->name.size();
    header += json_text(Json(named->name), -1);
    header += sentence(":{\"dtype\":\"", dtype_name(tensor.dtype), "\",\"shape\":[");
    for (size_t axis = 0; axis < tensor.shape.size(); ++axis) header += sentence(axis ? "," : "", tensor.shape[axis]);
    header += sentence("],\"data_offsets\":[", offset, ",", offset + tensor.bytes(), "]},");
    offset += tensor.bytes();
  }
  if (header.back() == ',') header.pop_back();
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  require(metadata.size() <= SafetensorsLimits::metadata_entries, what, ": ", metadata.size(),
          " entries of metadata; at most ", SafetensorsLimits::metadata_entries, " fit");
  require(text_bytes <= SafetensorsLimits::text_bytes, what, ": names and metadata of ", text_bytes,
          " bytes; a header with more than ", SafetensorsLimits::text_bytes, " could not be read again");
  check_json_limits(header, what, header_limits());
  return header;
}

}  // namespace detail

/// Writes the tensors to `path`, atomically. The same arguments give the same bytes. Throws ValueError for names that
/// occur twice or are not UTF-8, IoError where the file cannot be written.
inline void write_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
  const auto order = detail::file_order(tensors, path.string());
  const std::string header = detail::make_header(order, metadata, path.string());
  write_atomically(path, [&](FileWriter& file) {
    const uint64_t header_bytes = header.size();
    file.write(&header_bytes, sizeof header_bytes);
    file.write(header);
    for (const NamedTensor* named : order) file.write(named->tensor.storage.get(), named->tensor.bytes());
  });
}

/// A view of the tensor's memory as AnyTensor: no copy, and the buffer lives as long as the result.
template <class T, int Rank>
AnyTensor to_any(const Tensor<T, Rank>& tensor) {
  require<ShapeError>(tensor.is_contiguous(), "to_any: a tensor of shape ", to_string(tensor.shape),
                      " is not contiguous");
  return {dtype_of<T>, {tensor.shape.begin(), tensor.shape.end()}, {tensor.buffer, tensor.data}};
}

/// A copy of `values` as a tensor of the given shape.
template <class T>
AnyTensor make_any(const std::vector<int64_t>& shape, const T* values) {
  const auto bytes = detail::checked_bytes(shape, dtype_of<T>);
  require<ShapeError>(bytes.has_value(), "make_any: shape ", to_string(shape), " cannot be held");
  auto storage = detail::allocate_host(size_t(*bytes));
  if (*bytes > 0) std::memcpy(storage.get(), values, size_t(*bytes));
  return {dtype_of<T>, shape, std::move(storage)};
}
template <class T>
AnyTensor make_any(const std::vector<int64_t>& shape, const std::vector<T>& values) {
  const auto bytes = detail::checked_bytes(shape, dtype_of<T>);
  require<ShapeError>(bytes.has_value() && *bytes == values.size() * sizeof(T), "make_any: ", values.size(),
                      " values for shape ", to_string(shape));
  return make_any(shape, values.data());
}

}  // namespace tessera::io
