#include "experiments/cli/python.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/errors.h"

namespace fp4lab {

namespace fs = std::filesystem;

namespace {

/// Closes on every way out.
struct Descriptor {
  int fd = -1;
  ~Descriptor() { close(); }
  void close() {
    if (fd >= 0) ::close(std::exchange(fd, -1));
  }
};

[[noreturn]] void fail(const std::string& program, const char* what, int error) {
  throw DataError(str(program, ": ", what, ": ", std::generic_category().message(error)));
}

std::atomic<pid_t> child{0};
std::atomic<bool> stopped{false};

extern "C" void pass_on(int) {
  stopped = true;
  // From a terminal Ctrl-C reached the child too; SIGTERM is then one signal more, and does no harm.
  if (const pid_t pid = child; pid > 0) ::kill(pid, SIGTERM);
}

/// While it lives, SIGINT and SIGTERM end the child and not us.
class PassingOn {
 public:
  PassingOn() {
    stopped = false;
    struct sigaction action {};
    action.sa_handler = pass_on;
    ::sigaction(SIGINT, &action, &interrupt_);
    ::sigaction(SIGTERM, &action, &terminate_);
  }
  ~PassingOn() {
    ::sigaction(SIGINT, &interrupt_, nullptr);
    ::sigaction(SIGTERM, &terminate_, nullptr);
  }
  PassingOn(const PassingOn&) = delete;
  PassingOn& operator=(const PassingOn&) = delete;

 private:
  struct sigaction interrupt_ {
  }, terminate_{};
};

/// A file in memory, ready to be read from its start. A process that ends without reading it hurts nobody,
/// as the end of a pipe would.
Descriptor file_of(std::string_view bytes, const std::string& program) {
  Descriptor file{::memfd_create("fp4lab-input", MFD_CLOEXEC)};
  if (file.fd < 0) fail(program, "no memory for its input", errno);
  while (!bytes.empty()) {
    const ssize_t n = ::write(file.fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(program, "no memory for its input", errno);
    bytes.remove_prefix(size_t(n));
  }
  ::lseek(file.fd, 0, SEEK_SET);
  return Descriptor{std::exchange(file.fd, -1)};
}

struct SpawnSettings {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;

  SpawnSettings(int in, int out, bool with_errors) {
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawnattr_init(&attributes);
    ::posix_spawn_file_actions_adddup2(&files, in, 0);
    ::posix_spawn_file_actions_adddup2(&files, out, 1);
    if (with_errors) ::posix_spawn_file_actions_adddup2(&files, out, 2);
    // What we handle or ignore is ours: the child starts with the defaults.
    sigset_t usual;
    ::sigemptyset(&usual);
    for (int s : {SIGINT, SIGTERM, SIGXFSZ, SIGPIPE}) ::sigaddset(&usual, s);
    ::posix_spawnattr_setsigdefault(&attributes, &usual);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSettings() {
    ::posix_spawn_file_actions_destroy(&files);
    ::posix_spawnattr_destroy(&attributes);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;
};

bool runnable(const fs::path& p) {
  std::error_code ignored;
  return fs::is_regular_file(p, ignored) && ::access(p.c_str(), X_OK) == 0;
}

/// "ModuleNotFoundError: No module named 'h5py'" of a traceback.
std::string last_line(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  const size_t newline = text.rfind('\n');
  return newline == std::string::npos ? text : text.substr(newline + 1);
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& command, std::string_view input,
                          bool collect_errors) {
  FP4LAB_CHECK(!command.empty());
  const std::string& program = command.front();
  const Descriptor in = file_of(input, program);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail(program, "cannot start", errno);
  Descriptor from{ends[0]}, to{ends[1]};
  std::vector<char*> arguments;
  for (const std::string& a : command) arguments.push_back(const_cast<char*>(a.c_str()));
  arguments.push_back(nullptr);

  const PassingOn signals;
  const SpawnSettings settings(in.fd, to.fd, collect_errors);
  pid_t pid = 0;
  const int error =
      ::posix_spawn(&pid, program.c_str(), &settings.files, &settings.attributes, arguments.data(), environ);
  if (error != 0) fail(program, "cannot start", error);
  child = pid;
  if (stopped) ::kill(pid, SIGTERM);  // it came between the handler and the child
  to.close();
  ProcessResult result;
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::read(from.fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    result.output.append(buffer, size_t(n));
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  child = 0;
  result.code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  result.interrupted = stopped;
  return result;
}

std::vector<std::string> find_programs(const std::string& name) {
  if (name.find('/') != std::string::npos) return {name};
  std::vector<std::string> found;
  const char* path = std::getenv("PATH");
  const std::string folders = path ? path : "";
  for (size_t at = 0; at <= folders.size();) {
    const size_t colon = std::min(folders.find(':', at), folders.size());
    // An empty entry means the folder one happens to be in: nothing to run programs from.
    if (const std::string folder = folders.substr(at, colon - at); !folder.empty())
      if (const fs::path p = fs::path(folder) / name;
          runnable(p) && std::find(found.begin(), found.end(), p.string()) == found.end())
        found.push_back(p.string());
    at = colon + 1;
  }
  return found;
}

std::string source_root(const std::string& wanted) {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  for (fs::path folder = program.parent_path(); !folder.empty(); folder = folder.parent_path()) {
    if (fs::exists(folder / wanted, error)) return folder.string();
    if (folder == folder.root_path()) break;
  }
  if (fs::exists(fs::path(FP4LAB_SOURCE_DIR) / wanted, error)) return FP4LAB_SOURCE_DIR;
  throw DataError(str(wanted, " is neither in a folder above ", program.string(), " nor in ",
                      FP4LAB_SOURCE_DIR,
                      ", where this program was built; build it again in its source tree"));
}

std::string find_python(const std::string& script) {
  const char* named = std::getenv("FP4LAB_PYTHON");
  const bool chosen = named && *named;
  std::string tried;
  for (const std::string& python : find_programs(chosen ? named : "python3")) {
    std::string reason;
    try {
      const ProcessResult check = run_process({python, script, "--check"}, "", true);
      if (check.interrupted) ::raise(SIGINT);  // nothing was begun: as if it had come a moment earlier
      if (check.code == 0) return python;
      reason = last_line(check.output);
      if (reason.empty()) reason = str("exit code ", check.code);
    } catch (const DataError& e) {
      reason = e.what();
    }
    tried += str(tried.empty() ? "" : "; ", python, " (", reason, ")");
  }
  if (tried.empty()) tried = chosen ? str("no program ", named) : "no python3";
  throw DataError(str("a report needs a Python 3 with h5py, NumPy and matplotlib; found ", tried,
                      chosen ? " from FP4LAB_PYTHON" : " in PATH",
                      ". Install python3-h5py and python3-matplotlib (Debian, Ubuntu), or name a Python that "
                      "has them in FP4LAB_PYTHON"));
}

}  // namespace fp4lab
