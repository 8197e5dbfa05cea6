// Atomic writing: whatever goes wrong, the old file stays and no temporary file is left.
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <sys/resource.h>
#include <sys/stat.h>

#include <support/catch.hpp>
#include <support/skip.hpp>
#include <tessera/io/files.hpp>

#include "io/folder.hpp"

using namespace tessera;
using namespace tessera::io;
using tessera_test::Folder;

namespace {

int files_in(const Folder& folder) {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path())) ++count;
  return count;
}

/// Writes beyond `bytes` fail in this scope, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    rlimit limit = old_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_;
  void (*handler_)(int);
};

}  // namespace

TEST_CASE("files: an atomic write makes and replaces a file", "[io]") {
  const Folder folder;
  write_text(folder / "a.txt", "first");
  REQUIRE(read_text(folder / "a.txt") == "first");
  ::chmod((folder / "a.txt").c_str(), 0640);
  std::string large(300'000, 'x');
  large[123'456] = 'y';
  write_atomically(folder / "a.txt", [&](FileWriter& file) {
    for (size_t at = 0; at < large.size(); at += 7000) file.write(std::string_view(large).substr(at, 7000));
    file.write(large);
  });
  REQUIRE(read_text(folder / "a.txt") == large + large);
  REQUIRE(std::filesystem::status(folder / "a.txt").permissions() == std::filesystem::perms(0640));
  REQUIRE(files_in(folder) == 1);
}

TEST_CASE("files: a write through a symbolic link keeps the link", "[io]") {
  const Folder folder;
  write_text(folder / "real", "old");
  std::filesystem::create_symlink(folder / "real", folder / "link");
  write_text(folder / "link", "new");
  REQUIRE(std::filesystem::is_symlink(folder / "link"));
  REQUIRE(read_text(folder / "real") == "new");
}

TEST_CASE("files: a writer that throws leaves the old file and nothing else", "[io]") {
  const Folder folder;
  write_text(folder / "a.txt", "old");
  REQUIRE_ERROR(write_atomically(folder / "a.txt",
                                 [](FileWriter& file) {
                                   file.write("half of the new te");
                                   fail<ValueError>("interrupted");
                                 }),
                ValueError, "interrupted");
  REQUIRE(read_text(folder / "a.txt") == "old");
  REQUIRE(files_in(folder) == 1);
}

TEST_CASE("files: a disk that fills up leaves the old file and nothing else", "[io]") {
  const Folder folder;
  write_text(folder / "a.txt", "old");
  {
    const FileSizeLimit limit(100'000);
    REQUIRE_ERROR(write_text(folder / "a.txt", std::string(200'000, 'x')), IoError, "File too large");
    REQUIRE_ERROR(write_text(folder / "a.txt", std::string(200'000, 'x')), IoError, (folder / "a.txt").string());
  }
  REQUIRE(read_text(folder / "a.txt") == "old");
  REQUIRE(files_in(folder) == 1);
}

TEST_CASE("files: targets that cannot be written are named", "[io]") {
  const Folder folder;
  REQUIRE_ERROR(write_text(folder / "absent" / "a.txt", "x"), IoError, "No such file or directory");
  REQUIRE_ERROR(write_text(folder.path(), "x"), IoError, "it is a folder");
  REQUIRE_ERROR(write_text("/dev/full", "x"), IoError, "/dev/full: it is not a regular file");
  REQUIRE_ERROR(write_text("", "x"), IoError, "cannot write");
  REQUIRE(files_in(folder) == 0);
}

TEST_CASE("files: reading has a limit and refuses what is no file", "[io]") {
  const Folder folder;
  write_text(folder / "a.txt", "12345");
  REQUIRE(read_text(folder / "a.txt", 5) == "12345");
  REQUIRE_ERROR(read_text(folder / "a.txt", 4), IoError, "has 5 bytes; at most 4");
  REQUIRE_ERROR(read_text(folder / "b.txt"), IoError, "No such file or directory");
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  REQUIRE_ERROR(read_text(folder / "pipe"), IoError, "not a regular file");
  REQUIRE_ERROR(MappedFile::open(folder / "pipe"), IoError, "not a regular file");
}

TEST_CASE("files: a mapping outlives the file's replacement", "[io]") {
  const Folder folder;
  write_text(folder / "a.txt", "old");
  write_text(folder / "empty", "");
  const auto mapped = MappedFile::open(folder / "a.txt");
  write_text(folder / "a.txt", "new and longer");
  REQUIRE(mapped->text() == "old");
  REQUIRE(MappedFile::open(folder / "a.txt")->text() == "new and longer");
  REQUIRE(MappedFile::open(folder / "empty")->text().empty());
}
