// Shards: tar files in the manner of WebDataset. The files of one sample stand next to each other and share a key, the
// name up to its first dot: 000017.png, 000017.txt, 000017.seg.png, 000017.json. Tar by libarchive.
#pragma once
#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <tessera/core/error.hpp>
#include <tessera/data/dataset.hpp>
#include <tessera/data/image.hpp>
#include <tessera/io/files.hpp>

namespace tessera::data {

/// One file of a sample: its ending after the key ("png", "txt", "seg.png") and its bytes.
struct ShardFile {
  std::string ending, bytes;
};

/// Writes samples to <folder>/000000.tar, 000001.tar, …, each shard atomically. Call finish() at the end: samples of a
/// shard that is not full are kept in memory until then.
class ShardWriter {
 public:
  /// Makes the folder; writes shards from number `first_shard` on. Throws IoError when the folder cannot be made or
  /// holds other shards than those before it.
  explicit ShardWriter(std::filesystem::path folder, int64_t samples_per_shard = 1000, int64_t first_shard = 0)
      : folder_(std::move(folder)), samples_per_shard_(samples_per_shard), shards_(first_shard) {
    require(samples_per_shard > 0 && first_shard >= 0, "ShardWriter: ", samples_per_shard, " samples per shard, from ",
            first_shard);
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    require<IoError>(!error, "cannot make the folder ", folder_.string(), ": ", error.message());
    for (const auto& entry : std::filesystem::directory_iterator(folder_))
      require<IoError>(entry.path().extension() != ".tar" || entry.path().filename() < shard_name(first_shard),
                       folder_.string(), " already holds ", entry.path().filename().string(),
                       "; name an empty folder, or remove its shards first");
  }

  /// `key` must not be empty nor hold a dot, slash or zero byte, and must differ from the sample's before.
  void add(const std::string& key, std::vector<ShardFile> files) {
    require(!key.empty() && key.find_first_of(std::string_view("./\0", 3)) == std::string::npos, "ShardWriter: key \"",
            key, "\" is empty or holds a dot, a slash or a zero byte");
    require(pending_.empty() || pending_.back().key != key, "ShardWriter: key \"", key, "\" twice in a row");
    pending_.push_back({key, std::move(files)});
    if (int64_t(pending_.size()) == samples_per_shard_) write_shard();
  }

  /// The file name of a shard.
  static std::string shard_name(int64_t number) {
    char name[32];
    std::snprintf(name, sizeof name, "%06lld.tar", static_cast<long long>(number));
    return name;
  }

  /// Writes what is left; returns the number of shards, those before first_shard included.
  int64_t finish() {
    if (!pending_.empty()) write_shard();
    return shards_;
  }

 private:
  struct Pending {
    std::string key;
    std::vector<ShardFile> files;
  };
  using Archive = std::unique_ptr<archive, decltype(&archive_write_free)>;

  /// Where libarchive's output goes, and the exception that stopped it (it may not pass through C).
  struct Sink {
    io::FileWriter& file;
    std::exception_ptr error;
  };

  static la_ssize_t on_write(archive*, void* data, const void* bytes, size_t count) {
    auto& sink = *static_cast<Sink*>(data);
    try {
      sink.file.write(bytes, count);
      return la_ssize_t(count);
    } catch (...) {
      sink.error = std::current_exception();
      return -1;
    }
  }

  void write_shard() {
    const auto path = folder_ / shard_name(shards_);
    io::write_atomically(path, [&](io::FileWriter& file) {
      Sink sink{file, nullptr};
      const Archive out(archive_write_new(), archive_write_free);
      const auto check = [&](la_ssize_t status) {
        if (sink.error) std::rethrow_exception(sink.error);
        require<IoError>(status >= ARCHIVE_WARN, "cannot write ", path.string(), ": ", archive_text(out.get()));
      };
      check(archive_write_set_format_pax_restricted(out.get()));
      check(archive_write_open(out.get(), &sink, nullptr, on_write, nullptr));
      for (const Pending& sample : pending_)
        for (const ShardFile& one : sample.files) {
          const std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(),
                                                                                    archive_entry_free);
          archive_entry_set_pathname(entry.get(), (sample.key + "." + one.ending).c_str());
          archive_entry_set_filetype(entry.get(), AE_IFREG);
          archive_entry_set_perm(entry.get(), 0644);
          archive_entry_set_size(entry.get(), la_int64_t(one.bytes.size()));
          archive_entry_set_mtime(entry.get(), 0, 0);  // the same samples give the same bytes
          check(archive_write_header(out.get(), entry.get()));
          check(archive_write_data(out.get(), one.bytes.data(), one.bytes.size()));
        }
      check(archive_write_close(out.get()));
    });
    pending_.clear();
    ++shards_;
  }

  static std::string archive_text(archive* from) {
    const char* text = archive_error_string(from);
    return text ? text : "unknown error";
  }

  std::filesystem::path folder_;
  int64_t samples_per_shard_, shards_;
  std::vector<Pending> pending_;
};

namespace detail {

/// Walks the regular files of a tar that lies in memory, beginning at a header.
class TarReader {
 public:
  TarReader(const io::MappedFile& file, size_t begin)
      : file_(file), begin_(begin), in_(archive_read_new(), archive_read_free) {
    require<IoError>(in_ != nullptr, "libarchive could not be started");
    check(archive_read_support_format_tar(in_.get()));
    if (file.size() == 0) fail<IoError>(file.path().string(), ": an empty file is no tar");
    check(archive_read_open_memory(in_.get(), file.data() + begin, file.size() - begin));
  }

  /// Goes to the next regular file; false at the end of the archive.
  bool next() {
    archive_entry* entry = nullptr;
    do {
      const int status = archive_read_next_header(in_.get(), &entry);
      if (status == ARCHIVE_EOF) return false;
      check(status);
    } while (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) != nullptr);
    const char* name = archive_entry_pathname(entry);
    if (!name) name = archive_entry_pathname_utf8(entry);
    require<IoError>(name != nullptr, where(), ": a file without a readable name");
    name_ = name;
    size_ = archive_entry_size(entry);
    require<IoError>(size_ >= 0 && uint64_t(size_) <= file_.size() - position(), where(), ": ", name_, " declares ",
                     size_, " bytes, more than the shard has: it was cut short or is damaged");
    return true;
  }

  /// Of the current file's header in the shard.
  size_t position() const {
    const auto header = archive_read_header_position(in_.get());  // below 0 where the first one is damaged
    return begin_ + size_t(std::max<la_int64_t>(0, header));
  }
  const std::string& name() const { return name_; }
  /// The name up to the first dot after the last slash.
  std::string key() const { return name_.substr(0, ending_begin()); }
  /// What follows that dot, in lower case.
  std::string ending() const {
    std::string text = name_.substr(std::min(name_.size(), ending_begin() + 1));
    for (char& c : text)
      if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
    return text;
  }
  int64_t size() const { return size_; }

  std::string read() {
    std::string bytes(size_t(size_), '\0');
    size_t have = 0;
    while (have < bytes.size()) {
      const la_ssize_t got = archive_read_data(in_.get(), bytes.data() + have, bytes.size() - have);
      if (got < 0) check(int(got));
      require<IoError>(got > 0, where(), ": ", name_, " ends after ", have, " of ", size_, " bytes");
      have += size_t(got);
    }
    return bytes;
  }

 private:
  size_t ending_begin() const {
    const size_t slash = name_.rfind('/');
    return std::min(name_.size(), name_.find('.', slash == std::string::npos ? 0 : slash + 1));
  }
  std::string where() const { return sentence(file_.path().string(), ", byte ", position()); }
  void check(int status) const {
    if (status >= ARCHIVE_WARN) return;
    const char* text = archive_error_string(in_.get());
    fail<IoError>(where(), name_.empty() ? "" : ", after ", name_,
                  ": no readable tar: ", text ? text : "unknown error");
  }

  const io::MappedFile& file_;
  size_t begin_;
  std::unique_ptr<archive, decltype(&archive_read_free)> in_;
  std::string name_;
  int64_t size_ = 0;
};

inline bool is_picture_ending(std::string_view ending) {
  return ending == "png" || ending == "jpg" || ending == "jpeg";
}

}  // namespace detail

/// The *.tar files of a folder, sorted by name, or the one file that `path` names.
inline std::vector<std::filesystem::path> shard_paths(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return {path};
  std::vector<std::filesystem::path> shards;
  for (const auto& entry : std::filesystem::directory_iterator(path))
    if (entry.path().extension() == ".tar") shards.push_back(entry.path());
  std::sort(shards.begin(), shards.end());
  require<IoError>(!shards.empty(), path.string(), " holds no .tar shards");
  return shards;
}

/// Captioned pictures in shards: a picture (.png, .jpg, .jpeg) and a .txt a sample; other files are left alone, but
/// labels() reads .seg.png. Opening reads the tar headers once; samples are then read where they lie.
class ShardSource : public CaptionSource {
 public:
  static constexpr int64_t max_entry_bytes = int64_t(256) << 20;

  /// `path`: a shard or a folder of shards. Throws IoError naming shard and byte for a damaged tar, and naming the
  /// sample that lacks picture or caption.
  explicit ShardSource(const std::filesystem::path& path) {
    for (const auto& shard : shard_paths(path)) index_shard(io::MappedFile::open(shard));
    require<IoError>(!samples_.empty(), path.string(), ": the shards hold no samples");
  }

  int64_t size() const override { return int64_t(samples_.size()); }
  Sample get(int64_t index) const override {
    Sample sample;
    sample.key = key(index);
    visit(index, [&](detail::TarReader& tar) {
      if (tar.ending() == "txt") sample.caption = caption_text(tar.read());
      if (detail::is_picture_ending(tar.ending()))
        sample.image = decode(index, tar, [](std::string_view bytes) { return decode_image(bytes); });
    });
    return sample;
  }
  std::string caption(int64_t index) const override {
    std::string text;
    visit(index, [&](detail::TarReader& tar) {
      if (tar.ending() == "txt") text = caption_text(tar.read());
    });
    return text;
  }
  std::string key(int64_t index) const {
    check_index("ShardSource", index);
    return samples_[size_t(index)].key;
  }
  /// The label map of a sample, where it has one. For evaluation.
  std::optional<LabelMap> labels(int64_t index) const {
    std::optional<LabelMap> map;
    visit(index, [&](detail::TarReader& tar) {
      if (tar.ending() == "seg.png")
        map = decode(index, tar, [](std::string_view bytes) { return decode_label_map(detail::bytes_of(bytes)); });
    });
    return map;
  }

 private:
  struct Entry {
    uint32_t shard;
    size_t position;  // of the sample's first header
    std::string key;
  };

  void index_shard(std::shared_ptr<const io::MappedFile> file) {
    const auto number = uint32_t(shards_.size());
    shards_.push_back(file);
    const std::string name = file->path().string();
    bool picture = true, caption = true;
    const auto check_complete = [&] {
      require<IoError>(picture && caption, name, ": sample ", samples_.empty() ? "" : samples_.back().key, " has no ",
                       picture ? "caption (.txt)" : "picture (.png, .jpg)");
    };
    detail::TarReader tar(*file, 0);
    size_t end = 0;  // of the last file's data
    while (tar.next()) {
      require<IoError>(tar.size() <= max_entry_bytes, name, ", byte ", tar.position(), ": ", tar.name(), " has ",
                       tar.size(), " bytes; at most ", max_entry_bytes, " are read");
      end = tar.position() + 512 + size_t(tar.size());
      if (samples_.empty() || samples_.back().shard != number || samples_.back().key != tar.key()) {
        check_complete();
        samples_.push_back({number, tar.position(), tar.key()});
        picture = caption = false;
      }
      picture = picture || detail::is_picture_ending(tar.ending());
      caption = caption || tar.ending() == "txt";
    }
    check_complete();
    // A tar ends with blocks of zeros; where they are missing, samples may be missing too.
    require<IoError>(file->size() >= (end + 511) / 512 * 512 + 512, name, ", byte ", file->size(),
                     ": the tar's end mark is missing: it was cut short");
  }

  /// Calls visitor for each file of the sample.
  template <class Visitor>
  void visit(int64_t index, Visitor&& visitor) const {
    check_index("ShardSource", index);
    const Entry& entry = samples_[size_t(index)];
    detail::TarReader tar(*shards_[entry.shard], entry.position);
    while (tar.next() && tar.key() == entry.key) visitor(tar);
  }

  template <class Decoder>
  std::invoke_result_t<Decoder, std::string_view> decode(int64_t index, detail::TarReader& tar,
                                                         Decoder&& decoder) const {
    const std::string bytes = tar.read();
    try {
      return decoder(bytes);
    } catch (const IoError& error) {
      fail<IoError>(shards_[samples_[size_t(index)].shard]->path().string(), ", ", tar.name(), ": ", error.what());
    }
  }

  /// A caption file without the line ends around it.
  static std::string caption_text(std::string text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) text.pop_back();
    return text;
  }

  std::vector<std::shared_ptr<const io::MappedFile>> shards_;
  std::vector<Entry> samples_;
};

/// Opens captioned pictures by what `path` is: a folder of shards, one .tar, or a .tsv table.
inline std::unique_ptr<CaptionSource> open_captions(const std::filesystem::path& path) {
  require<IoError>(std::filesystem::exists(path), path.string(), " does not exist");
  if (std::filesystem::is_directory(path) || path.extension() == ".tar") return std::make_unique<ShardSource>(path);
  require<IoError>(path.extension() == ".tsv" || path.extension() == ".txt", path.string(),
                   ": captioned pictures are a folder of .tar shards, one .tar, or a .tsv of path, tab, caption");
  return std::make_unique<TableSource>(path);
}

}  // namespace tessera::data
