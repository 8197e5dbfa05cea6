// Files: mapped into memory, read whole up to a limit, and written so that a full disk or an interruption leaves
// either the old file or the new one, never half of one. POSIX.
#pragma once
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <tessera/core/error.hpp>

namespace tessera::io {

namespace detail {

inline std::string errno_text(int code) { return std::generic_category().message(code); }

/// Closes a file descriptor when it goes out of scope.
class FileDescriptor {
 public:
  explicit FileDescriptor(int number) : number_(number) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int number() const { return number_; }
  /// Closes now; returns 0 or the error's number (a network file system reports failed writes here).
  int close() { return ::close(std::exchange(number_, -1)) == 0 ? 0 : errno; }

 private:
  int number_;
};

/// Opens a regular file for reading and gives its size. Not blocking, so that a pipe is refused instead of waited for.
inline int open_regular(const std::filesystem::path& path, size_t& size) {
  const int number = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (number < 0) fail<IoError>("cannot open ", path.string(), ": ", errno_text(errno));
  struct stat status {};
  if (::fstat(number, &status) != 0 || !S_ISREG(status.st_mode)) {
    const bool folder = S_ISDIR(status.st_mode);
    ::close(number);
    fail<IoError>("cannot read ", path.string(), ": it is ", folder ? "a folder" : "not a regular file");
  }
  size = size_t(status.st_size);
  return number;
}

}  // namespace detail

/// Holds a folder for one writer as long as it lives; the system lets go of it however the process ends. Throws IoError
/// where another process keeps it for longer than a second.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder)
      : descriptor_(::open(folder.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY)) {
    require<IoError>(descriptor_.number() >= 0, "cannot open the folder ", folder.string(), ": ",
                     detail::errno_text(errno));
    // A process that was killed a moment ago may still be on its way out: it is waited for, up to a second.
    bool held = true;
    for (int tries = 0; tries < 100 && held; ++tries) {
      if (tries > 0) ::usleep(10'000);
      held = ::flock(descriptor_.number(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    }
    require<IoError>(!held, "another process is writing to ", folder.string(), "; wait for it, or name another folder");
  }

 private:
  detail::FileDescriptor descriptor_;
};

/// A file mapped read-only; unmapped when the last owner goes. Replacing the file by `write_atomically` leaves the
/// mapping valid; truncating it in place while it is mapped does not (the system then stops the program on access).
class MappedFile {
 public:
  /// Throws IoError when the file cannot be opened or mapped.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path) {
    size_t size = 0;
    const detail::FileDescriptor file(detail::open_regular(path, size));
    void* data = nullptr;
    if (size > 0) {
      data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number(), 0);
      if (data == MAP_FAILED)
        fail<IoError>("cannot map the ", size, " bytes of ", path.string(), ": ", detail::errno_text(errno));
    }
    try {
      return std::shared_ptr<const MappedFile>(new MappedFile(path, data, size));
    } catch (...) {
      if (data) ::munmap(data, size);
      throw;
    }
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (data_) ::munmap(data_, size_);
  }
  const std::byte* data() const { return static_cast<const std::byte*>(data_); }
  size_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  MappedFile(const std::filesystem::path& path, void* data, size_t size) : path_(path), data_(data), size_(size) {}

  std::filesystem::path path_;
  void* data_;
  size_t size_;
};

/// The whole file as text (or bytes); throws IoError when it is larger than `limit` bytes or cannot be read.
inline std::string read_text(const std::filesystem::path& path, size_t limit = size_t(64) << 20) {
  size_t size = 0;
  const detail::FileDescriptor file(detail::open_regular(path, size));
  require<IoError>(size <= limit, path.string(), " has ", size, " bytes; at most ", limit, " are read here");
  std::string text(size, '\0');
  size_t have = 0;
  while (have < size) {
    const ssize_t got = ::read(file.number(), text.data() + have, size - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail<IoError>("cannot read ", path.string(), ": ", detail::errno_text(errno));
    if (got == 0) break;  // the file became shorter meanwhile
    have += size_t(got);
  }
  text.resize(have);
  return text;
}

/// What `write_atomically` hands to its callback: a buffered stream of bytes into the temporary file.
class FileWriter {
 public:
  /// Appends; throws IoError (disk full, size limit, …).
  void write(const void* data, size_t bytes) {
    const char* from = static_cast<const char*>(data);
    if (bytes >= buffer_capacity) {
      flush();
      write_through(from, bytes);
      return;
    }
    if (buffer_.size() + bytes > buffer_capacity) flush();
    buffer_.append(from, bytes);
  }
  void write(std::string_view text) { write(text.data(), text.size()); }

 private:
  template <class Writer>
  friend void write_atomically(const std::filesystem::path& path, Writer&& writer);
  static constexpr size_t buffer_capacity = size_t(1) << 16;

  FileWriter(int file, const std::filesystem::path& target) : file_(file), target_(target) {
    buffer_.reserve(buffer_capacity);
  }
  void flush() {
    write_through(buffer_.data(), buffer_.size());
    buffer_.clear();
  }
  void write_through(const char* from, size_t bytes) {
    while (bytes > 0) {
      const ssize_t put = ::write(file_, from, std::min(bytes, size_t(1) << 30));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0)
        fail<IoError>("cannot write ", target_.string(), ": ", detail::errno_text(errno),
                      "; what was there before is unchanged");
      from += put;
      bytes -= size_t(put);
    }
  }

  int file_;
  const std::filesystem::path& target_;
  std::string buffer_;
};

namespace detail {

/// A new, uniquely named file in the folder of `target`; removed again unless it was renamed to the target.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::filesystem::path& target) {
    static std::atomic<uint64_t> counter{0};
    for (int attempt = 0; attempt < 1000; ++attempt) {
      path_ = target;
      path_ += sentence(".", int64_t(::getpid()), "-", counter++, ".tmp");
      number_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (number_ >= 0) return;
      if (errno != EEXIST) break;
    }
    fail<IoError>("cannot write ", target.string(), ": no file can be made in its folder: ", errno_text(errno));
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (!renamed_) ::unlink(path_.c_str());
  }
  int number() const { return number_; }
  const std::filesystem::path& path() const { return path_; }
  void rename_to(const std::filesystem::path& target) {
    if (::rename(path_.c_str(), target.c_str()) != 0)
      fail<IoError>("cannot write ", target.string(), ": ", errno_text(errno), "; what was there before is unchanged");
    renamed_ = true;
  }

 private:
  std::filesystem::path path_;
  int number_ = -1;
  bool renamed_ = false;
};

}  // namespace detail

/// Calls writer(FileWriter&) on a temporary file beside `path`, brings it to the disk and renames it to `path`. When
/// anything throws, the temporary file is removed and what was at `path` stays. A symbolic link is followed, the old
/// file's permissions are kept. Throws IoError, or what the writer throws.
template <class Writer>
void write_atomically(const std::filesystem::path& path, Writer&& writer) {
  std::error_code ignored;
  std::filesystem::path target = path;
  if (std::filesystem::is_symlink(path, ignored)) target = std::filesystem::weakly_canonical(path, ignored);
  if (target.empty()) target = path;
  struct stat old {};
  const bool replaces = ::stat(target.c_str(), &old) == 0;
  require<IoError>(!replaces || S_ISREG(old.st_mode), "cannot write ", path.string(), ": it is ",
                   S_ISDIR(old.st_mode) ? "a folder" : "not a regular file");

  detail::TemporaryFile temporary(target);
  detail::FileDescriptor file(temporary.number());
  FileWriter stream(file.number(), path);
  writer(stream);
  stream.flush();
  if (replaces) (void)::fchmod(file.number(), old.st_mode & 07777);
  int error = ::fsync(file.number()) == 0 ? 0 : errno;
  if (error == EINVAL || error == ENOTSUP) error = 0;  // a file system that has nothing to bring to a disk
  const int close_error = file.close();
  if (error == 0) error = close_error;
  if (error != 0)
    fail<IoError>("cannot write ", path.string(), ": ", detail::errno_text(error),
                  "; what was there before is unchanged");
  temporary.rename_to(target);

  // The new name lasts through a power cut only once the folder is on the disk too; where that is refused, the file
  // itself is complete all the same.
  const std::filesystem::path folder = target.has_parent_path() ? target.parent_path() : ".";
  const detail::FileDescriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (opened.number() >= 0) (void)::fsync(opened.number());
}

/// Writes `text` to `path`, atomically.
inline void write_text(const std::filesystem::path& path, std::string_view text) {
  write_atomically(path, [&](FileWriter& file) { file.write(text); });
}

}  // namespace tessera::io
