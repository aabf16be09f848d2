// core/progress.h - how far a sweep is, for a person at a terminal or for a log.
//   terminal    one line, redrawn in place at most 10 times a second and cut to the width:
//               [#.........] 12/100 cells  00:42 elapsed, about 05:08 left  mxfp4
//   elsewhere   a line per finished cell, at most one a second, and always the last:
//               12/100 cells, 42 s, about 308 s left: mxfp4
//   A failed cell always gets a line of its own: failed after 1.5 s: mxfp4
#pragma once
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

namespace fp4lab {

/// `cell_started`, `cell_done` and `tick` may be called from several threads.
class Progress {
 public:
  using Clock = std::function<double()>;  // seconds, from any zero, never backwards

  /// `total` counts the cells of the sweep, those done by earlier runs too. `terminal` is isatty(out) unless
  /// given. With the default clock, a thread redraws the terminal's line while a long cell runs (from `start`
  /// to `finish`; a process forks before `start`); with a clock of the caller's, the caller calls `tick`.
  /// `out` must outlive the Progress.
  explicit Progress(int64_t total, std::FILE* out = stderr, std::optional<bool> terminal = {},
                    Clock clock = {});
  /// As `finish`.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// The clock starts; `done_before` cells are in the store already and do not count for the estimate.
  void start(int64_t done_before);
  void cell_started(std::string_view name);
  /// A failed cell (`ok` false) counts as finished: the sweep is past it.
  void cell_done(std::string_view name, double seconds, bool ok);
  /// Redraws the terminal's line if it has changed and a tenth of a second has passed.
  void tick();
  /// The last state, whatever the rate, and on a terminal the end of the line. Once; later calls do nothing.
  void finish();

 private:
  void draw(bool now);
  void print_plain(double time);
  void clear_line();
  double seconds_left(double time) const;
  std::string counts() const;

  const int64_t total_;
  std::FILE* const out_;
  const bool terminal_, own_clock_;
  const Clock clock_;

  std::mutex mutex_;
  bool running_ = false;
  double started_ = 0, last_done_ = 0, last_output_ = 0;
  int64_t done_before_ = 0, finished_ = 0, failed_ = 0;
  std::string running_name_, finished_name_;
  std::string drawn_;    // what stands on the terminal's line
  bool unsaid_ = false;  // a cell finished that no plain line has told yet
  std::condition_variable stopped_;
  std::thread ticker_;
};

}  // namespace fp4lab
