// What the example programs share: errors as one sentence and exit status 1, --version, --threads, lists of pictures.
#pragma once
#include <omp.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <new>
#include <string>
#include <vector>

#include <tessera/core/error.hpp>
#include <tessera/version.hpp>

namespace examples {

namespace fs = std::filesystem;

inline std::string version_text(const std::string& program) {
  return tessera::sentence(program, " ", TESSERA_VERSION_MAJOR, ".", TESSERA_VERSION_MINOR, ".", TESSERA_VERSION_PATCH);
}

/// A message as one line.
inline std::string one_line(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

/// Parses the command line, then runs the program. Bad input of any kind: one sentence on standard error and exit
/// status 1.
template <class Run>
int run_program(CLI::App& app, int argc, char** argv, const std::string& name, Run&& run) {
  app.set_version_flag("--version", version_text(name));
  try {
    app.parse(argc, argv);
    run();
    return 0;
  } catch (const CLI::Success& done) {
    return app.exit(done);
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: memory has run out; try a smaller --size, fewer classes or --dtype bf16\n", name.c_str());
  } catch (const CLI::Error& error) {
    std::fprintf(stderr, "%s: %s (see --help)\n", name.c_str(), one_line(error.what()).c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name.c_str(), one_line(error.what()).c_str());
  }
  return 1;
}

/// Accepts numbers from `least` to `largest`. (CLI11's own range lets "nan" pass.)
inline CLI::Validator in_range(double least, double largest) {
  return CLI::Validator(
      [=](std::string& text) {
        double value = 0;
        const bool number = CLI::detail::lexical_cast(text, value);
        return number && value >= least && value <= largest
                   ? std::string()
                   : tessera::sentence("Value ", text, " not in range ", least, " to ", largest);
      },
      tessera::sentence("NUMBER in [", least, " - ", largest, "]"));
}

/// Accepts what fits uint64_t without a sign. (CLI11 takes "-1" for the largest number.)
inline CLI::Validator whole_number() {
  return CLI::Validator(
      [](std::string& text) {
        // (CLI11 reads a leading 0 as octal.)
        const bool digits =
            !text.empty() && (text.size() == 1 || text[0] != '0') && text.find_first_not_of("0123456789") == text.npos;
        const bool fits = digits && (text.size() < 20 || (text.size() == 20 && text <= "18446744073709551615"));
        return fits ? std::string() : tessera::sentence(text, " is not a whole number from 0 to 2^64 - 1");
      },
      "WHOLE NUMBER");
}

/// Looks, before long work, whether a result can be written to `path` ("" is none).
inline void require_writable(const fs::path& path) {
  if (path.empty()) return;
  std::error_code error;
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  tessera::require<tessera::IoError>(!fs::is_directory(path, error), "--output ", path.string(), " is a folder");
  tessera::require<tessera::IoError>(::access(folder.c_str(), W_OK) == 0, "--output ", path.string(),
                                     " cannot be written: the folder ", folder.string(), " is missing or read-only");
}

/// Refuses two results in one file, and a result in the place of what was read.
inline void require_distinct(const std::vector<fs::path>& results, const std::vector<fs::path>& inputs) {
  std::error_code ignored;
  const auto place = [&](const fs::path& path) { return fs::weakly_canonical(path, ignored); };
  for (size_t i = 0; i < results.size(); ++i) {
    for (size_t k = 0; k < i; ++k)
      tessera::require(place(results[i]) != place(results[k]), "two results would be written to ", results[i].string(),
                       "; name different files");
    for (const fs::path& input : inputs)
      tessera::require(place(results[i]) != place(input), "the result ", results[i].string(),
                       " would replace a picture that is read; name another file or folder");
  }
}

/// --threads
inline void add_threads(CLI::App& app, int& threads) {
  app.add_option("--threads", threads, "number of threads; default: one a processor core (results are the same)")
      ->check(CLI::Range(1, 1024));
}
inline void use_threads(int threads) {
  if (threads > 0) omp_set_num_threads(threads);
}

/// Whether the path names a JPEG or PNG by its ending.
inline bool is_picture(const fs::path& path) {
  std::string extension = path.extension().string();
  for (char& c : extension) c = char(std::tolower(static_cast<unsigned char>(c)));
  return extension == ".jpg" || extension == ".jpeg" || extension == ".png";
}

/// The picture `path`, or all pictures of the folder `path` (not of folders in it), by name.
inline std::vector<fs::path> pictures_of(const fs::path& path) {
  std::error_code error;
  tessera::require<tessera::IoError>(fs::exists(path, error), "there is no picture or folder ", path.string());
  if (!fs::is_directory(path, error)) return {path};
  std::vector<fs::path> pictures;
  fs::directory_iterator entries(path, error);
  tessera::require<tessera::IoError>(!error, "cannot list ", path.string(), ": ", error.message());
  for (const auto& entry : entries)
    if (entry.is_regular_file(error) && is_picture(entry.path())) pictures.push_back(entry.path());
  std::sort(pictures.begin(), pictures.end());
  tessera::require<tessera::IoError>(!pictures.empty(), "the folder ", path.string(),
                                     " holds no pictures that end in .jpg, .jpeg or .png");
  return pictures;
}

/// What to call the results of each picture: its name without the ending, or with it where two would be alike.
inline std::vector<std::string> result_names(const std::vector<fs::path>& pictures) {
  std::map<std::string, int> count;
  for (const auto& picture : pictures) ++count[picture.stem().string()];
  std::vector<std::string> names;
  for (const auto& picture : pictures)
    names.push_back((count[picture.stem().string()] == 1 ? picture.stem() : picture.filename()).string());
  return names;
}

inline void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  tessera::require<tessera::IoError>(fs::is_directory(folder), "cannot make the folder ", folder.string(),
                                     error ? ": " + error.message() : ": a file has that name");
}

}  // namespace examples
