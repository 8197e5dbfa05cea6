// Captioned pictures for training: one interface over shards, a folder with a table, and rendered scenes. A source
// gives pictures and captions, nothing else; labels, where a data set has them, are asked for elsewhere, by evaluation.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <tessera/core/error.hpp>
#include <tessera/core/random.hpp>
#include <tessera/data/draws.hpp>
#include <tessera/data/image.hpp>
#include <tessera/io/files.hpp>

namespace tessera::data {

/// One captioned picture.
struct Sample {
  std::string key;  ///< its name in the data set
  Image image;      ///< RGB
  std::string caption;
};

/// A list of captioned pictures. All functions may be called from several threads at once.
class CaptionSource {
 public:
  virtual ~CaptionSource() = default;
  /// The number of samples.
  virtual int64_t size() const = 0;
  /// Sample 0 <= index < size(). Throws IoError for a picture that cannot be decoded.
  virtual Sample get(int64_t index) const = 0;
  /// The caption alone, cheaper than get() where the source can do without the picture.
  virtual std::string caption(int64_t index) const { return get(index).caption; }

 protected:
  void check_index(const char* source, int64_t index) const {
    require(index >= 0 && index < size(), source, ": sample ", index, " of ", size());
  }
};

/// 0 … size - 1 in the random order of one epoch: the same for the same seed and epoch.
inline std::vector<int64_t> epoch_order(int64_t size, uint64_t seed, uint32_t epoch) {
  require(size >= 0 && size <= INT32_MAX, "epoch_order: ", size, " samples; at most ", INT32_MAX, " can be shuffled");
  std::vector<int64_t> order(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) order[size_t(i)] = i;
  constexpr uint32_t shuffle_operation = 0x73687566;  // apart from the streams of a model's own random numbers
  Draws(RandomStream{seed, epoch, shuffle_operation}).shuffle(order);
  return order;
}

/// Pictures in files, listed in a table of tab-separated lines "path<TAB>caption". Paths are relative to the table's
/// folder; a first line "filepath<TAB>title" or "path<TAB>caption" is a heading and skipped; so are empty lines.
class TableSource : public CaptionSource {
 public:
  /// Reads the table, not the pictures. Throws IoError naming the line that has no tab, path or caption.
  explicit TableSource(const std::filesystem::path& table) : table_(table) {
    const std::string text = io::read_text(table, size_t(4) << 30);
    std::string_view rest = text;
    for (int64_t number = 1; !rest.empty(); ++number) {
      std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
      if (line.empty()) continue;
      if (number == 1 && (line == "filepath\ttitle" || line == "path\tcaption")) continue;
      const size_t tab = line.find('\t');
      require<IoError>(tab != std::string_view::npos && tab > 0 && tab + 1 < line.size(), table.string(), ": line ",
                       number, " should read path, tab, caption");
      require<IoError>(line.find('\t', tab + 1) == std::string_view::npos && line.find('\0') == std::string_view::npos,
                       table.string(), ": line ", number, " has more than one tab or a zero byte");
      rows_.push_back({std::string(line.substr(0, tab)), std::string(line.substr(tab + 1)), number});
    }
    require<IoError>(!rows_.empty(), table.string(), ": lists no pictures; lines of path, tab, caption are expected");
  }

  int64_t size() const override { return int64_t(rows_.size()); }
  Sample get(int64_t index) const override {
    check_index("TableSource", index);
    const Row& row = rows_[size_t(index)];
    try {
      return {row.path, read_image(table_.parent_path() / row.path), row.caption};
    } catch (const Error& error) {
      fail<IoError>(table_.string(), ": line ", row.line, ": ", error.what());
    }
  }
  std::string caption(int64_t index) const override {
    check_index("TableSource", index);
    return rows_[size_t(index)].caption;
  }

 private:
  struct Row {
    std::string path, caption;
    int64_t line;
  };
  std::filesystem::path table_;
  std::vector<Row> rows_;
};

}  // namespace tessera::data
