// JSON from outside: read with limits on size, depth and number of values before anything is built from it, and asked
// for by key with errors that say which key of which file is wrong.
#pragma once
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <nlohmann/json.hpp>

#include <tessera/core/error.hpp>
#include <tessera/io/files.hpp>

namespace tessera::io {

using Json = nlohmann::json;

/// What a document may ask for. The defaults keep the memory of a parsed document below 64 MiB beyond its own text.
struct JsonLimits {
  size_t bytes = size_t(64) << 20;        ///< of the whole text
  int depth = 64;                         ///< nested objects and arrays
  size_t values = 400'000;                ///< of all objects and arrays together
  size_t string_bytes = size_t(8) << 20;  ///< of one string or number, as written
};

namespace detail {

/// Throws IoError where `text` goes over the limits. Looks at brackets, commas and quotes only; whether the text is
/// JSON is for the parser to say.
inline void check_json_limits(std::string_view text, const std::string& what, const JsonLimits& limits) {
  require<IoError>(text.size() <= limits.bytes, what, ": ", text.size(), " bytes of JSON; at most ", limits.bytes,
                   " are read");
  int depth = 0;
  size_t values = 1, token_begin = 0;
  bool quoted = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted && c == '\\') {
      ++at;
      continue;
    }
    if (c == '"') {
      quoted = !quoted;
      if (quoted) token_begin = at;
    }
    require<IoError>(at - token_begin <= limits.string_bytes, what, ": a string or number of more than ",
                     limits.string_bytes, " bytes at byte ", token_begin);
    if (quoted) continue;
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (c == '{' || c == '[' || c == ',') ++values;
    if (std::string_view("{}[],: \t\r\n").find(c) != std::string_view::npos) token_begin = at;
    // The parser takes a zero byte for the end and would not look at what follows.
    require<IoError>(c != '\0', what, ": a zero byte at byte ", at, ", which JSON does not have");
    require<IoError>(depth <= limits.depth, what, ": JSON nested deeper than ", limits.depth, " levels");
    require<IoError>(values <= limits.values, what, ": JSON with more than ", limits.values, " values");
  }
}

/// The parser's message without its number, of a length that can be shown.
inline std::string short_json_error(const std::exception& error) {
  std::string text = error.what();
  if (const size_t bracket = text.find("] "); bracket != std::string::npos) text.erase(0, bracket + 2);
  if (text.size() > 240) text = text.substr(0, 240) + "…";
  return text;
}

}  // namespace detail

/// Parses `text`; `what` (a file's name) begins every error. Of a key that occurs twice the last counts. Throws
/// IoError for text that is not JSON or goes over the limits.
inline Json parse_json(std::string_view text, const std::string& what, const JsonLimits& limits = {}) {
  detail::check_json_limits(text, what, limits);
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::exception& error) {
    fail<IoError>(what, ": not JSON: ", detail::short_json_error(error));
  }
}

/// Reads and parses a file.
inline Json read_json(const std::filesystem::path& path, const JsonLimits& limits = {}) {
  return parse_json(MappedFile::open(path)->text(), path.string(), limits);
}

/// `value` as text; `indent` < 0 for one line. Throws ValueError for strings that are not UTF-8.
inline std::string json_text(const Json& value, int indent = 2) {
  try {
    return value.dump(indent);
  } catch (const Json::exception& error) {
    fail<ValueError>("cannot write JSON: ", detail::short_json_error(error));
  }
}

/// Writes `value` to `path`, indented, atomically.
inline void write_json(const std::filesystem::path& path, const Json& value) {
  write_text(path, json_text(value) + "\n");
}

/// A place in a parsed document that knows its name, for reading configurations:
///   JsonView config(document, "config.json");
///   int64_t width = config["vision_config"].get<int64_t>("hidden_size");
/// The document must outlive the view. All errors are IoError.
class JsonView {
 public:
  JsonView(const Json& value, std::string file) : JsonView(value, std::move(file), "") {}
  JsonView(Json&&, std::string) = delete;

  /// The value itself.
  const Json& json() const { return *value_; }
  bool is_object() const { return value_->is_object(); }
  bool is_array() const { return value_->is_array(); }
  size_t size() const { return value_->size(); }
  /// "config.json: vision_config.hidden_size"
  std::string name() const { return key_.empty() ? file_ : file_ + ": " + key_; }
  /// Whether this object has `key` with a value other than null.
  bool has(const std::string& key) const {
    if (!value_->is_object()) return false;
    const auto found = value_->find(key);
    return found != value_->end() && !found->is_null();
  }
  /// The member `key`; it must be there.
  JsonView operator[](const std::string& key) const {
    require<IoError>(value_->is_object(), name(), " must be an object, but is ", article());
    const auto found = value_->find(key);
    const std::string inner = key_.empty() ? key : key_ + "." + key;
    require<IoError>(found != value_->end(), file_, ": ", inner, " is missing");
    return {*found, file_, inner};
  }
  JsonView operator[](const char* key) const { return (*this)[std::string(key)]; }
  /// The element `index` of an array.
  JsonView operator[](size_t index) const {
    require<IoError>(value_->is_array(), name(), " must be an array, but is ", article());
    require<IoError>(index < value_->size(), name(), " has ", value_->size(), " elements; element ", index,
                     " is missing");
    return {(*value_)[index], file_, sentence(key_, "[", index, "]")};
  }
  JsonView operator[](int index) const { return (*this)[size_t(index)]; }

  /// This value as a bool, an integer, a floating-point number or a string.
  template <class T>
  T as() const {
    if constexpr (std::is_same_v<T, bool>) {
      require<IoError>(value_->is_boolean(), name(), " must be true or false, but is ", article());
      return value_->get<bool>();
    } else if constexpr (std::is_integral_v<T>) {
      return as_integer<T>();
    } else if constexpr (std::is_floating_point_v<T>) {
      require<IoError>(value_->is_number(), name(), " must be a number, but is ", article());
      const double number = value_->get<double>();
      require<IoError>(std::abs(number) <= double(std::numeric_limits<T>::max()), name(), " is ", number,
                       ", out of range");
      return T(number);
    } else {
      static_assert(std::is_same_v<T, std::string>, "tessera: JsonView::as takes bool, numbers and std::string");
      require<IoError>(value_->is_string(), name(), " must be a string, but is ", article());
      return value_->get<std::string>();
    }
  }
  /// This value as a number in [low, high].
  template <class T>
  T as(std::type_identity_t<T> low, std::type_identity_t<T> high) const {
    const T number = as<T>();
    require<IoError>(number >= low && number <= high, name(), " is ", number, "; it must lie in [", low, ", ", high,
                     "]");
    return number;
  }
  template <class T>
  T get(const std::string& key) const {
    return (*this)[key].template as<T>();
  }
  template <class T>
  T get(const std::string& key, std::type_identity_t<T> low, std::type_identity_t<T> high) const {
    return (*this)[key].template as<T>(low, high);
  }
  /// The member `key`, or `otherwise` where it is absent or null.
  template <class T>
  T get_or(const std::string& key, T otherwise) const {
    return has(key) ? get<T>(key) : otherwise;
  }
  std::string get_or(const std::string& key, const char* otherwise) const {
    return has(key) ? get<std::string>(key) : std::string(otherwise);
  }

 private:
  JsonView(const Json& value, std::string file, std::string key)
      : value_(&value), file_(std::move(file)), key_(std::move(key)) {}

  std::string article() const {
    const std::string type = value_->type_name();
    return type == "null" ? type : (type == "object" || type == "array" ? "an " : "a ") + type;
  }
  template <class T>
  T as_integer() const {
    // 64.0 is an integer to some writers of JSON; 64.5 is not.
    const double number = value_->is_number() ? value_->get<double>() : 0.5;
    require<IoError>(value_->is_number_integer() || (std::abs(number) < 9.0e15 && number == std::floor(number)), name(),
                     " must be an integer, but is ", value_->is_number() ? sentence(number) : article());
    if (value_->is_number_float()) {
      const auto whole = int64_t(number);
      require<IoError>(std::in_range<T>(whole), name(), " is ", whole, ", out of range");
      return T(whole);
    }
    const bool fits = value_->is_number_unsigned() ? std::in_range<T>(value_->get<uint64_t>())
                                                   : std::in_range<T>(value_->get<int64_t>());
    require<IoError>(fits, name(), " is ", value_->dump(), ", out of range");
    return value_->get<T>();
  }

  const Json* value_;
  std::string file_, key_;
};

}  // namespace tessera::io
