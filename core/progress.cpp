#include "core/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/errors.h"

namespace fp4lab {

namespace {

constexpr double kRedraw = 0.1;     // seconds between redraws of the terminal's line
constexpr double kPlainLine = 1.0;  // seconds between plain lines
constexpr int kBar = 10;            // characters

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Columns of the terminal, 80 if unknown.
size_t width_of(std::FILE* out) {
  winsize size{};
  return ::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/// "00:42", "03:10", "1:02:03".
std::string clock_text(double seconds) {
  const int64_t s = std::llround(std::max(0.0, seconds));
  char text[48];
  if (s < 3600)
    std::snprintf(text, sizeof text, "%02d:%02d", int(s / 60), int(s % 60));
  else
    std::snprintf(text, sizeof text, "%lld:%02d:%02d", static_cast<long long>(s / 3600), int(s / 60 % 60),
                  int(s % 60));
  return text;
}

/// A name on one line: a label may hold a line break or an escape sequence.
std::string printable(std::string_view name) {
  std::string out(name);
  for (char& c : out)
    if (uint8_t(c) < 0x20 || c == 0x7F) c = '?';
  return out;
}

/// The first `width` characters of UTF-8 text, the last three dots when some were cut.
std::string fit(std::string text, size_t width) {
  size_t count = 0, keep = 0;  // bytes that hold the first width - 3 characters
  for (size_t i = 0; i < text.size(); ++i) {
    if ((uint8_t(text[i]) & 0xC0) == 0x80) continue;
    if (++count == std::max<size_t>(width, 3) - 2) keep = i;
  }
  if (count > width) text = text.substr(0, keep) + std::string(std::min<size_t>(width, 3), '.');
  return text;
}

}  // namespace

Progress::Progress(int64_t total, std::FILE* out, std::optional<bool> terminal, Clock clock)
    : total_(total),
      out_(out),
      terminal_(terminal ? *terminal : ::isatty(::fileno(out)) == 1),
      own_clock_(!clock),
      clock_(clock ? std::move(clock) : steady_seconds) {}

Progress::~Progress() { finish(); }

void Progress::start(int64_t done_before) {
  const std::lock_guard lock(mutex_);
  FP4LAB_CHECK(!running_ && !ticker_.joinable());
  running_ = true;
  done_before_ = done_before;
  started_ = last_done_ = clock_();
  last_output_ = started_ - kPlainLine;  // the first line is due at once
  draw(true);
  if (terminal_ && own_clock_)
    ticker_ = std::thread([this] {
      std::unique_lock wait(mutex_);
      while (!stopped_.wait_for(wait, std::chrono::duration<double>(kRedraw), [this] { return !running_; }))
        draw(false);
    });
}

void Progress::cell_started(std::string_view name) {
  const std::lock_guard lock(mutex_);
  running_name_ = printable(name);
  draw(false);
}

void Progress::cell_done(std::string_view name, double seconds, bool ok) {
  const std::lock_guard lock(mutex_);
  const double time = last_done_ = clock_();
  ++finished_;
  finished_name_ = printable(name);
  unsaid_ = true;
  if (!ok) {
    ++failed_;
    clear_line();
    std::fprintf(out_, "failed after %.1f s: %s\n", seconds, finished_name_.c_str());
    std::fflush(out_);
  }
  if (terminal_)
    draw(false);
  else if (time - last_output_ >= kPlainLine)
    print_plain(time);
}

void Progress::tick() {
  const std::lock_guard lock(mutex_);
  draw(false);
}

void Progress::finish() {
  {
    const std::lock_guard lock(mutex_);
    if (!running_) return;
    running_name_.clear();
    if (!terminal_ && unsaid_) print_plain(clock_());
    draw(true);
    if (terminal_) std::fputc('\n', out_), std::fflush(out_);
    running_ = false;
  }
  stopped_.notify_all();
  if (ticker_.joinable()) ticker_.join();
}

/// "12/100 cells", "12/100 cells, 1 failed".
std::string Progress::counts() const {
  std::string out = str(done_before_ + finished_, "/", total_, " cells");
  return failed_ ? str(out, ", ", failed_, " failed") : out;
}

/// Wall time per cell of this run (whatever the number of jobs) times the cells to do, less the time since
/// the last one finished; negative when there is nothing to estimate or to estimate from.
double Progress::seconds_left(double time) const {
  const int64_t to_do = total_ - done_before_ - finished_;
  if (finished_ == 0 || to_do <= 0) return -1;
  const double per_cell = (last_done_ - started_) / double(finished_);
  return std::max(0.0, per_cell * double(to_do) - (time - last_done_));
}

void Progress::print_plain(double time) {
  std::string line = str(counts(), ", ", std::llround(time - started_), " s");
  if (const double left = seconds_left(time); left >= 0)
    line += str(", about ", std::llround(left), " s left");
  std::fprintf(out_, "%s: %s\n", line.c_str(), finished_name_.c_str());
  std::fflush(out_);
  last_output_ = time;
  unsaid_ = false;
}

/// Draws the terminal's line if it changed and the rate allows it, or at once.
void Progress::draw(bool now) {
  if (!terminal_ || !running_) return;
  const double time = clock_();
  if (!now && time - last_output_ < kRedraw) return;
  const double share = total_ > 0 ? double(done_before_ + finished_) / double(total_) : 1;
  const int filled = int(kBar * std::clamp(share, 0.0, 1.0));
  std::string line = "[" + std::string(size_t(filled), '#') + std::string(size_t(kBar - filled), '.') + "] ";
  line += counts() + "  " + clock_text(time - started_) + " elapsed";
  if (const double left = seconds_left(time); left >= 0) line += ", about " + clock_text(left) + " left";
  if (!running_name_.empty()) line += "  " + running_name_;
  line = fit(std::move(line), width_of(out_) - 1);  // a full line would wrap
  if (line == drawn_) return;
  std::fprintf(out_, "\r%s\x1b[K", line.c_str());
  std::fflush(out_);
  drawn_ = std::move(line);
  last_output_ = time;
}

/// Makes room for a line of its own; the next draw brings the progress line back.
void Progress::clear_line() {
  if (drawn_.empty()) return;
  std::fputs("\r\x1b[K", out_);
  drawn_.clear();
}

}  // namespace fp4lab
