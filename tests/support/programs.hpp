// The example programs, run as a user runs them, in a folder of their own.
#pragma once
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/skip.hpp>
#include <tessera/data/image.hpp>
#include <tessera/io/files.hpp>

namespace tessera_test {

struct Outcome {
  int status = -1;  ///< the exit status; -1: ended by a signal
  std::string out, error;
};

/// A folder in which programs run; it goes with the object.
struct ProgramFolder {
  std::filesystem::path root;

  ProgramFolder()
      : root(std::filesystem::temp_directory_path() / tessera::sentence("tessera-programs-", int64_t(::getpid()))) {
    std::filesystem::remove_all(root);
    std::filesystem::create_directories(root);
    for (const char* name : {"out.txt", "error.txt"}) tessera::io::write_text(root / name, "");
  }
  ProgramFolder(const ProgramFolder&) = delete;
  ~ProgramFolder() { std::filesystem::remove_all(root); }

  /// "program arguments", in the folder. `before` stands before the program's name ("timeout 5 ").
  Outcome run(const std::string& arguments, const std::string& before = "") const {
    const std::string command = "cd '" + root.string() + "' && " + before + "'" + TESSERA_PROGRAM_DIR + "/'" +
                                arguments + (arguments.find("--threads") == std::string::npos ? " --threads 2" : "") +
                                " >out.txt 2>error.txt </dev/null";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, tessera::io::read_text(root / "out.txt"),
            tessera::io::read_text(root / "error.txt")};
  }
  Outcome succeed(const std::string& arguments) const {
    Outcome outcome = run(arguments);
    INFO(arguments << "\n" << outcome.error);
    REQUIRE(outcome.status == 0);
    return outcome;
  }
  /// Exit status 1 and one sentence with `words`; nothing is written.
  void refuse(const std::string& arguments, const std::string& words) const {
    const size_t before = files();
    const Outcome outcome = run(arguments);
    INFO(arguments << "\n" << outcome.error);
    CHECK(outcome.status == 1);
    CHECK(outcome.error.find(words) != std::string::npos);
    CHECK(std::count(outcome.error.begin(), outcome.error.end(), '\n') == 1);
    CHECK(files() == before);
  }
  size_t files() const {
    namespace fs = std::filesystem;
    return size_t(std::distance(fs::recursive_directory_iterator(root), fs::recursive_directory_iterator()));
  }
};

/// With so many small pictures in a table of captions, and a list of nouns.
struct CaptionFolder : ProgramFolder {
  explicit CaptionFolder(int pictures) {
    std::string table;
    const std::vector<std::string> colours = {"red", "green", "blue"};
    for (int i = 0; i < pictures; ++i) {
      tessera::data::Image image(16, 16, 3, 30);
      for (int y = 0; y < 16; ++y)
        for (int x = i; x < 16; ++x) image.at(x, y)[i % 3] = uint8_t(200 + i);
      const std::string name = tessera::sentence("p", i, ".png");
      tessera::data::write_image(root / name, image);
      table += name + "\ta photo of a " + colours[size_t(i % 3)] + " wall\n";
    }
    tessera::io::write_text(root / "captions.tsv", table);
    tessera::io::write_text(root / "nouns.txt", "red wall\ngreen wall\nblue wall\n");
  }
};

/// Whether the programs are built; says so where one is not.
inline bool programs_are_there(const std::vector<std::string>& names) {
  for (const auto& name : names)
    if (!std::filesystem::exists(std::filesystem::path(TESSERA_PROGRAM_DIR) / name)) {
      skip(tessera::sentence("the example program ", name, " is not built"));
      return false;
    }
  ran();
  return true;
}

}  // namespace tessera_test
