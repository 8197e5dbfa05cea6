// Progress of long work on a terminal: one line that redraws itself with bar, rate and time left; where the output is
// no terminal, a line every few seconds.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

#include <tessera/core/error.hpp>

namespace tessera::train {

/// "1:02:03", "4:05"
inline std::string clock_text(double seconds) {
  const long whole = seconds < 0 ? 0 : long(seconds + 0.5);
  char text[32];
  if (whole >= 3600)
    std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
  else
    std::snprintf(text, sizeof text, "%ld:%02ld", whole / 60, whole % 60);
  return text;
}

/// The bar: advance() as work is done, finish() (or the destructor) ends the line.
class Progress {
 public:
  /// `total` units of work (`unit`: "images"); `done` of them were done before, by a run that this one continues.
  Progress(std::string title, int64_t total, std::string unit, int64_t done = 0, std::FILE* stream = stderr)
      : title_(std::move(title)),
        unit_(std::move(unit)),
        total_(total),
        first_(done),
        done_(done),
        stream_(stream),
        terminal_(isatty(fileno(stream)) == 1),
        start_(Clock::now()),
        shown_(start_ - std::chrono::hours(1)) {}
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Adds `units` of work; `note` ("loss 1.234") is shown behind the bar.
  void advance(int64_t units, const std::string& note = {}) {
    done_ += units;
    note_ = note;
    const double since = seconds(shown_);
    if (since >= (terminal_ ? 0.2 : 10.0) || (done_ >= total_ && terminal_)) draw();
  }
  /// Ends the line; called by the destructor too.
  void finish() {
    if (finished_) return;
    finished_ = true;
    if (terminal_ || drawn_ != done_) draw();
    if (terminal_) std::fputc('\n', stream_);
    std::fflush(stream_);
  }
  /// Seconds since the beginning.
  double elapsed() const { return seconds(start_); }
  /// Units a second, of this run.
  double rate() const { return elapsed() > 0 ? double(done_ - first_) / elapsed() : 0; }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds(Clock::time_point since) { return std::chrono::duration<double>(Clock::now() - since).count(); }
  void draw() {
    shown_ = Clock::now();
    drawn_ = done_;
    constexpr int width = 24;
    const double fraction = total_ > 0 ? std::clamp(double(done_) / double(total_), 0.0, 1.0) : 1.0;
    const int full = int(fraction * width + 0.5);
    const std::string bar = std::string(size_t(full), '#') + std::string(size_t(width - full), '.');
    const double per_second = rate();
    const std::string left = done_ >= total_  ? "done in " + clock_text(elapsed())
                             : per_second > 0 ? "ETA " + clock_text(double(total_ - done_) / per_second)
                                              : "ETA ?";
    char numbers[128];
    std::snprintf(numbers, sizeof numbers, "%lld/%lld %s, %.*f/s, ", static_cast<long long>(done_),
                  static_cast<long long>(total_), unit_.c_str(), per_second < 100 ? 1 : 0, per_second);
    std::fprintf(stream_, "%s%s [%s] %s%s%s%s%s", terminal_ ? "\r" : "", title_.c_str(), bar.c_str(), numbers,
                 left.c_str(), note_.empty() ? "" : ", ", note_.c_str(), terminal_ ? "\x1b[K" : "\n");
    std::fflush(stream_);
  }

  std::string title_, unit_, note_;
  int64_t total_, first_, done_, drawn_ = -1;
  std::FILE* stream_;
  bool terminal_, finished_ = false;
  Clock::time_point start_, shown_;
};

}  // namespace tessera::train
