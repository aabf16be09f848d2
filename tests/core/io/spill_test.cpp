#include "core/io/spill.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <utility>

#include "core/io/files.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

void fill(MatrixView<float> m) {
  for (int64_t r = 0; r < m.rows; ++r)
    for (int64_t c = 0; c < m.cols; ++c) m(r, c) = float(r * m.cols + c);
}
bool filled(MatrixView<const float> m) {
  for (int64_t r = 0; r < m.rows; ++r)
    for (int64_t c = 0; c < m.cols; ++c)
      if (m(r, c) != float(r * m.cols + c)) return false;
  return true;
}

size_t open_files() {
  size_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++n;
  return n;
}
/// Whether a file of this folder is mapped here, under a name it no longer has.
bool mapped_from(const TempFolder& folder) {
  const std::string maps = get("/proc/self/maps"), line = folder.path().string() + "/.spill.";
  const size_t at = maps.find(line);
  return at != std::string::npos && has(maps.substr(at, maps.find('\n', at) - at), "(deleted)");
}

constexpr int kCannotPrepare = 77;
/// The message of the DataError that `f` throws in a child process that `prepare` (false: cannot) has made
/// short of disk; "cannot prepare" or "(nothing thrown)".
template <class Prepare, class F>
std::string message_in_child(Prepare prepare, F f) {
  int ends[2];
  if (::pipe(ends) != 0) return "no pipe";
  const pid_t child = ::fork();
  if (child == 0) {
    if (!prepare()) ::_exit(kCannotPrepare);
    const std::string message = message_of<DataError>(f);
    ::_exit(::write(ends[1], message.data(), message.size()) == ssize_t(message.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  std::string message;
  char part[256];
  for (ssize_t n; (n = ::read(ends[0], part, sizeof part)) > 0;) message.append(part, size_t(n));
  ::close(ends[0]);
  int status = -1;
  ::waitpid(child, &status, 0);
  if (!WIFEXITED(status)) return "killed by signal " + std::to_string(WTERMSIG(status));
  return WEXITSTATUS(status) == kCannotPrepare ? "cannot prepare" : message;
}

}  // namespace

TEST_CASE("SpilledMatrix: the same matrix in memory and in a file", "[core][io][spill]") {
  const TempFolder folder;
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {3, 341}, {1024, 1}, {700, 1000}}) {
    const int64_t bytes = rows * cols * 4;
    for (const int64_t limit : {int64_t(0), bytes - 1, bytes, int64_t(1) << 40}) {
      CAPTURE(rows, cols, limit);
      SpilledMatrix m(rows, cols, limit, folder.path().string());
      CHECK(m.in_file() == (bytes > limit));
      CHECK(mapped_from(folder) == (bytes > limit));
      CHECK(folder.names().empty());
      CHECK((m.view().rows == rows && m.view().cols == cols && m.view().stride == cols));
      CHECK(reinterpret_cast<uintptr_t>(m.view().data) % 64 == 0);
      fill(m.view());
      CHECK(filled(std::as_const(m).view()));
    }
    CHECK_FALSE(mapped_from(folder));  // gone with the matrix
  }
}

TEST_CASE("SpilledMatrix: several at a time are different files; moves carry them", "[core][io][spill]") {
  const TempFolder folder;
  const size_t before = open_files();
  {
    SpilledMatrix a(50, 100, 0, folder.path().string()), b(60, 100, 0, folder.path().string());
    SpilledMatrix c(70, 100, 1 << 20, folder.path().string());
    fill(a.view()), fill(b.view()), fill(c.view());
    for (int64_t i = 0; i < 6000; ++i) b.view().data[i] += 1;
    CHECK(filled(a.view()));
    const float *in_file = a.view().data, *in_memory = c.view().data;
    SpilledMatrix moved = std::move(a);
    CHECK((moved.view().data == in_file && filled(moved.view()) && moved.view().rows == 50));
    b = std::move(moved);  // b's own file goes
    CHECK((b.view().data == in_file && filled(b.view()) && b.view().rows == 50));
    b = std::move(c);
    CHECK((b.view().data == in_memory && filled(b.view()) && !b.in_file()));
    CHECK_FALSE(mapped_from(folder));
    CHECK(open_files() == before);  // no descriptor is kept
  }
  CHECK(folder.names().empty());
}

TEST_CASE("SpilledMatrix: an empty one needs no file", "[core][io][spill]") {
  SpilledMatrix none(0, 8, 0, "/nowhere/at/all"), width(8, 0, -1, "/nowhere/at/all");
  CHECK((none.view().rows == 0 && none.view().cols == 8 && !none.in_file()));
  CHECK((width.view().rows == 8 && width.view().cols == 0 && !width.in_file()));
  CHECK(SpilledMatrix().view().rows == 0);
}

TEST_CASE("SpilledMatrix: what an earlier life left is no obstacle and is swept", "[core][io][spill]") {
  const TempFolder folder;
  const std::string prefix(SpilledMatrix::kPrefix);
  put(folder / (prefix + std::to_string(::getpid()) + ".tmp"), "the same process number");
  put(folder / (prefix + "1999999999.tmp"), "a number above every process");
  SpilledMatrix m(10, 10, 0, folder.path().string());
  fill(m.view());
  CHECK(filled(m.view()));
  CHECK(folder.names() == std::vector<std::string>{prefix + "1999999999.tmp"});
  sweep_temporaries(folder.path().string(), prefix, true);
  CHECK(folder.names().empty());
}

TEST_CASE("SpilledMatrix: a folder that is not one is named, with the reason", "[core][io][spill]") {
  const TempFolder folder;
  const std::string name = "/.spill." + std::to_string(::getpid()) + ".tmp";
  const std::string none = folder / "none", file = put(folder / "file", "x");
  CHECK(message_of<DataError>([&] { SpilledMatrix(10, 10, 0, none); }) ==
        none + name + ": cannot open: No such file or directory");
  CHECK(message_of<DataError>([&] { SpilledMatrix(10, 10, 0, file); }) ==
        file + name + ": cannot open: Not a directory");
  CHECK(SpilledMatrix(10, 10, 400, none).view().rows == 10);  // not asked for
  CHECK_THROWS_AS(SpilledMatrix(INT64_MAX / 8, 8, 0, none), Fault);
  CHECK_THROWS_AS(SpilledMatrix(-1, 8, 0, none), Fault);
}

TEST_CASE("make_spilled: the folder is made when a file is needed, and swept", "[core][io][spill]") {
  const TempFolder folder;
  const std::string deep = folder / "a/b", leftover = std::string(SpilledMatrix::kPrefix) + "1999999999.tmp";
  CHECK_FALSE(make_spilled(10, 10, {400, deep}).in_file());
  CHECK(folder.names().empty());
  {
    SpilledMatrix m = make_spilled(10, 10, {399, deep});
    CHECK((m.in_file() && m.view().rows == 10 && m.view().cols == 10));
    fill(m.view());
    CHECK(filled(m.view()));
  }
  CHECK(std::filesystem::is_empty(deep));
  put(deep + "/" + leftover, "x"), put(deep + "/kept.tmp", "x");
  SpilledMatrix a = make_spilled(5, 5, {0, deep}), b = make_spilled(6, 6, {0, deep});
  fill(a.view()), fill(b.view());
  CHECK((filled(a.view()) && filled(b.view())));
  CHECK_FALSE(std::filesystem::exists(deep + "/" + leftover));
  CHECK(std::filesystem::exists(deep + "/kept.tmp"));
  const std::string file = put(folder / "file", "x");
  CHECK(has(message_of<DataError>([&] {
              make_spilled(10, 10, {0, file});
            }),
            file + ": cannot make this folder: Not a directory"));
  CHECK(has(message_of<DataError>([&] {
              make_spilled(10, 10, {0, file + "/c"});
            }),
            file + "/c: cannot make this folder: "));
  CHECK(make_spilled(10, 10, {}).view().rows == 10);  // without a limit
  CHECK(machine_memory() > (int64_t(1) << 26));
}

TEST_CASE("SpilledMatrix: a full disk is an error before the first element", "[core][io][spill]") {
  const TempFolder folder;
  const std::string where = folder.path().string();
  const size_t before = open_files();
  const auto limited = [] {
    const rlimit limit{65536, 65536};
    std::signal(SIGXFSZ, SIG_IGN);
    return ::setrlimit(RLIMIT_FSIZE, &limit) == 0;
  };
  const auto large = [&] { SpilledMatrix(1024, 256, 0, where); };
  const auto fits = [&] {
    SpilledMatrix m(64, 256, 0, where);
    fill(m.view());
    if (!filled(m.view())) throw DataError("other contents");
  };
  CHECK(has(message_in_child(limited, large), ".tmp: cannot reserve 1048576 bytes: File too large"));
  CHECK(message_in_child(limited, fits) == "(nothing thrown)");

  // A disk of 64 kB that only the child sees.
  const auto small_disk = [&] {
    return (::unshare(CLONE_NEWNS) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) &&
           ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
           ::mount("tmpfs", where.c_str(), "tmpfs", 0, "size=64k") == 0;
  };
  const std::string full = message_in_child(small_disk, large);
  CHECK(folder.names().empty());
  CHECK(open_files() == before);
  if (full == "cannot prepare") FP4LAB_SKIP("mounting a small tmpfs is not allowed here");
  CHECK(has(full, where + "/.spill."));
  CHECK(has(full, ".tmp: cannot reserve 1048576 bytes: No space left on device"));
  CHECK(message_in_child(small_disk, fits) == "(nothing thrown)");
}
