#include "core/progress.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "tests/catch.h"

using namespace fp4lab;

namespace {
/// A stream in memory and a clock set by hand.
struct Screen {
  char* buffer = nullptr;
  size_t size = 0, taken = 0;
  std::FILE* file = ::open_memstream(&buffer, &size);
  double time = 100;  // any zero
  Progress::Clock clock = [this] { return time; };
  ~Screen() {
    std::fclose(file);
    std::free(buffer);
  }
  /// What was written since the last call.
  std::string take() {
    std::fflush(file);
    std::string out(buffer + taken, size - taken);
    taken = size;
    return out;
  }
};
std::string drawn(const std::string& line) { return "\r" + line + "\x1b[K"; }
}  // namespace

TEST_CASE("progress on a terminal: one line, redrawn in place", "[core][progress]") {
  Screen s;
  Progress p(12, s.file, true, s.clock);
  p.start(2);
  CHECK(s.take() == drawn("[#.........] 2/12 cells  00:00 elapsed"));
  s.time += 0.125;
  p.cell_started("mxfp4");
  CHECK(s.take() == drawn("[#.........] 2/12 cells  00:00 elapsed  mxfp4"));
  s.time = 110;
  p.cell_done("mxfp4", 9.875, true);  // one cell in 10 s, 9 to do: the two from before do not count
  CHECK(s.take() == drawn("[##........] 3/12 cells  00:10 elapsed, about 01:30 left  mxfp4"));
  s.time = 125;
  p.tick();
  CHECK(s.take() == drawn("[##........] 3/12 cells  00:25 elapsed, about 01:15 left  mxfp4"));
  s.time = 1000;  // a long cell: the estimate stops at zero
  p.cell_started("nvfp4");
  CHECK(s.take() == drawn("[##........] 3/12 cells  15:00 elapsed, about 00:00 left  nvfp4"));
  s.time = 100 + 7200;
  p.cell_done("nvfp4", 6300, true);
  CHECK(s.take() == drawn("[###.......] 4/12 cells  2:00:00 elapsed, about 8:00:00 left  nvfp4"));
  p.finish();
  CHECK(s.take() == drawn("[###.......] 4/12 cells  2:00:00 elapsed, about 8:00:00 left") + "\n");
  p.finish();
  p.tick();
  CHECK(s.take().empty());
}

TEST_CASE("progress on a terminal: at most ten redraws a second, none without change", "[core][progress]") {
  Screen s;
  Progress p(1000, s.file, true, s.clock);
  p.start(0);
  s.take();
  for (int i = 0; i < 1000; ++i) {  // 1024 cells a second
    s.time += 1.0 / 1024;
    p.cell_started("a");
    p.cell_done("a", 0, true);
  }
  const std::string out = s.take();
  const auto redraws = std::count(out.begin(), out.end(), '\r');
  CHECK(redraws >= 8);
  CHECK(redraws <= 10);
  s.time += 0.125;
  p.tick();
  CHECK(s.take() == drawn("[##########] 1000/1000 cells  00:01 elapsed  a"));
  s.time += 0.125;
  p.tick();
  CHECK(s.take().empty());
}

TEST_CASE("progress on a terminal: a failed cell keeps a line of its own", "[core][progress]") {
  Screen s;
  Progress p(4, s.file, true, s.clock);
  p.start(0);
  s.take();
  s.time += 2;
  p.cell_done("layers.0 nvfp4", 1.54, false);
  CHECK(s.take() ==
        "\r\x1b[K"
        "failed after 1.5 s: layers.0 nvfp4\n" +
            drawn("[##........] 1/4 cells, 1 failed  00:02 elapsed, about 00:06 left"));
  p.cell_done("b", 0, false);  // at once again: the line is due, the bar follows with the next tick
  CHECK(s.take() ==
        "\r\x1b[K"
        "failed after 0.0 s: b\n");
  s.time += 0.125;
  p.tick();
  CHECK(s.take() == drawn("[#####.....] 2/4 cells, 2 failed  00:02 elapsed, about 00:02 left"));
}

TEST_CASE("progress in a log: about a line a second, and the last", "[core][progress]") {
  Screen s;
  Progress p(100, s.file, false, s.clock);
  p.start(8);
  p.cell_started("mxfp4");
  p.tick();
  CHECK(s.take().empty());
  s.time = 142;
  p.cell_done("mxfp4", 42, true);
  CHECK(s.take() == "9/100 cells, 42 s, about 3822 s left: mxfp4\n");
  s.time = 142.875;
  p.cell_done("b", 0.5, true);
  CHECK(s.take().empty());
  p.cell_done("c", 0.25, false);  // a failure is told at once
  CHECK(s.take() == "failed after 0.2 s: c\n");
  s.time = 143;
  p.cell_done("d", 0.125, true);
  CHECK(s.take() == "12/100 cells, 1 failed, 43 s, about 946 s left: d\n");
  for (int i = 0; i < 88; ++i) {
    s.time += 1.0 / 1024;
    p.cell_done("cell " + std::to_string(i), 0, true);
  }
  CHECK(s.take().empty());
  p.finish();
  CHECK(s.take() == "100/100 cells, 1 failed, 43 s: cell 87\n");
  p.finish();
  CHECK(s.take().empty());
}

TEST_CASE("progress: nothing to do, and the last line told once", "[core][progress]") {
  Screen s;
  {
    Progress p(3, s.file, false, s.clock);
    p.start(3);
  }
  CHECK(s.take().empty());
  {
    Progress p(0, s.file, true, s.clock);
    p.start(0);
  }
  CHECK(s.take() == drawn("[##########] 0/0 cells  00:00 elapsed") + "\n");
  {
    Progress p(1, s.file, false, s.clock);
    p.start(0);
    p.cell_done("a", 0, true);
  }
  CHECK(s.take() == "1/1 cells, 0 s: a\n");
  { Progress never_started(1, s.file, true, s.clock); }
  CHECK(s.take().empty());
}

TEST_CASE("progress: a name fits 80 columns and one line", "[core][progress]") {
  Screen s;
  Progress p(10, s.file, true, s.clock);
  p.start(0);
  s.take();
  s.time += 1;
  const std::string head = "[..........] 0/10 cells  00:01 elapsed  ";
  p.cell_started("line\nbreak \x1b[31m");
  CHECK(s.take() == drawn(head + "line?break ?[31m"));
  s.time += 0.25;
  p.cell_started(std::string(79 - head.size(), 'x'));
  CHECK(s.take() == drawn(head + std::string(79 - head.size(), 'x')));
  s.time += 0.125;
  p.cell_started(std::string(80 - head.size(), 'x'));
  CHECK(s.take() == drawn(head + std::string(76 - head.size(), 'x') + "..."));
  std::string wide, cut;
  for (size_t i = 0; i < 60; ++i) {
    wide += "\xC3\xA9";
    if (i < 76 - head.size()) cut += "\xC3\xA9";
  }
  s.time += 0.25;
  p.cell_started(wide);
  CHECK(s.take() == drawn("[..........] 0/10 cells  00:02 elapsed  " + cut + "..."));
}

TEST_CASE("progress: a real terminal is recognised, its width used, its line kept alive",
          "[core][progress]") {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0 || ::grantpt(master) != 0 || ::unlockpt(master) != 0) FP4LAB_SKIP("no pseudo-terminal here");
  const int slave = ::open(::ptsname(master), O_RDWR | O_NOCTTY);
  REQUIRE(slave >= 0);
  winsize size{};
  size.ws_row = 10, size.ws_col = 45;
  REQUIRE(::ioctl(slave, TIOCSWINSZ, &size) == 0);
  std::FILE* out = ::fdopen(slave, "w");
  {
    Progress p(10, out);
    p.start(0);
    p.cell_started("mxfp4");
    // The default clock: the line is redrawn while the cell runs, when its text changes.
    std::this_thread::sleep_for(std::chrono::milliseconds(1000));
  }
  // What was written arrives in pieces, some later than the write returned: read to the line's end.
  std::string shown;
  pollfd ready{master, POLLIN, 0};
  while (shown.find('\n') == shown.npos && ::poll(&ready, 1, 5000) == 1) {
    char text[1024];
    const ssize_t n = ::read(master, text, sizeof text);
    if (n <= 0) break;
    shown.append(text, size_t(n));
  }
  std::fclose(out);
  ::close(master);
  CAPTURE(shown);
  const std::string bar = "[..........] 0/10 cells  ";
  CHECK(shown.find(drawn(bar + "00:00 elapsed")) == 0);
  CHECK(shown.find(drawn(bar + "00:00 elapsed  m...")) != shown.npos);  // 44 characters
  CHECK(shown.find(drawn(bar + "00:01 elapsed  m...")) != shown.npos);
  CHECK(shown.find('\n') != shown.npos);
}
