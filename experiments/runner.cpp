#include "experiments/runner.h"

#include <omp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

#include "core/progress.h"
#include "experiments/provenance.h"
#include "kernels/ops.h"

namespace fp4lab {

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// The number a file holds; 0 when it is not there or holds a word ("max").
double number_in(const char* path) {
  std::FILE* f = std::fopen(path, "r");
  double value = 0;
  if (f && std::fscanf(f, "%lf", &value) != 1) value = 0;
  if (f) std::fclose(f);
  return value;
}

/// Free memory in bytes, by the kernel's own estimate; 0 when unknown.
double free_memory() {
  std::FILE* f = std::fopen("/proc/meminfo", "r");
  if (!f) return 0;
  char line[256];
  double kilobytes = 0;
  while (std::fgets(line, sizeof line, f))
    if (std::sscanf(line, "MemAvailable: %lf kB", &kilobytes) == 1) break;
  std::fclose(f);
  // A container may be allowed less than the machine has.
  const double limit = number_in("/sys/fs/cgroup/memory.max"),
               used = number_in("/sys/fs/cgroup/memory.current");
  const double free = kilobytes * 1024;
  return limit > 0 ? std::min(free, std::max(limit - used, 1.0)) : free;
}

std::vector<StoredCell> stored_cells(const Sweep& sweep) {
  std::vector<StoredCell> cells;
  for (const Cell& c : sweep.cells) cells.push_back(c.stored);
  return cells;
}

SweepHeader header_of(const Sweep& sweep) {
  return {sweep.name, sweep.written, sweep.resolved, utc_now(), version_text(), git_commit(), git_dirty()};
}

/// What the workers tell the one that shows progress.
struct Listener {
  virtual ~Listener() = default;
  virtual void started(size_t cell) = 0;
  virtual void finished(size_t cell, double seconds, bool ok, const std::string& message) = 0;
};

/// A cell of this run, and how it had failed before: that failure is tried again, a newer one (of another
/// worker, or of a run beside this one) is not.
struct Work {
  size_t cell;
  std::string stamp;  // Store::stamp when the run began
};

enum class Outcome { computed, failed, busy, already, interrupted };

/// Claims one cell and computes it, unless another process has it or has had it.
Outcome attempt(Store& store, Cell& cell, const Work& work, const Provenance& who, Listener& listener) {
  const std::unique_ptr<Store::Claim> claim = store.try_claim(cell.stored.key);
  if (!claim) return Outcome::busy;
  const CellState state = store.state(cell.stored.key);  // another process may have finished it just now
  if (state != CellState::absent && store.stamp(cell.stored.key) != work.stamp) return Outcome::already;
  listener.started(work.cell);
  const double start = now();
  std::string error;
  std::optional<Record> record;
  try {
    const double needed = cell.task->estimate().bytes, available = free_memory();
    if (available > 0 && needed > available)
      throw DataError(
          str("needs about ", int64_t(needed / 1e6), " MB and ", int64_t(available / 1e6), " MB are free"));
    record = cell.task->run();
  } catch (const Interrupted&) {
    return Outcome::interrupted;
  } catch (const Error& e) {
    error = e.what();
  } catch (const std::bad_alloc&) {
    error = "out of memory";
  }
  // A store that cannot be written is not this cell's fault: its DataError ends the run.
  const double seconds = now() - start;
  if (record)
    store.put(cell.stored, *record, seconds, who);
  else
    store.put_error(cell.stored, error, seconds, who);
  listener.finished(work.cell, seconds, record.has_value(), error);
  return record ? Outcome::computed : Outcome::failed;
}

/// One worker: goes through its cells until all of them are in the store. Returns when interrupted.
void work(Store& store, Sweep& sweep, const std::vector<Work>& mine, const Provenance& who,
          Listener& listener) {
  std::vector<Work> open = mine;
  while (!open.empty() && !interrupt_requested()) {
    std::vector<Work> busy;
    for (const Work& w : open) {
      if (interrupt_requested()) return;
      const Outcome o = attempt(store, sweep.cells[w.cell], w, who, listener);
      if (o == Outcome::busy) busy.push_back(w);
      if (o == Outcome::interrupted) return;
    }
    open = std::move(busy);
    if (!open.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

struct ProgressListener : Listener {
  Progress& progress;
  const Sweep& sweep;
  RunSummary& summary;
  ProgressListener(Progress& p, const Sweep& s, RunSummary& r) : progress(p), sweep(s), summary(r) {}
  void started(size_t cell) override { progress.cell_started(sweep.cells[cell].name); }
  void finished(size_t cell, double seconds, bool ok, const std::string& message) override {
    ++summary.computed;
    summary.kept += ok ? 0 : 1;  // all that failed now; finish() takes off those that have no other result
    progress.cell_done(sweep.cells[cell].name + (ok ? "" : ": " + message), seconds, ok);
  }
};

/// A worker in a process of its own tells its parent through a pipe, one line per event.
struct PipeListener : Listener {
  int fd;
  explicit PipeListener(int f) : fd(f) {}
  void say(std::string line) {
    for (char& c : line)
      if (c == '\n') c = ' ';
    line = line.substr(0, 2000) + "\n";  // below PIPE_BUF: lines of several workers do not mix
    if (::write(fd, line.data(), line.size()) < 0) return;
  }
  void started(size_t cell) override { say(str("started ", cell)); }
  void finished(size_t cell, double seconds, bool ok, const std::string& message) override {
    say(str(ok ? "done " : "failed ", cell, " ", seconds, " ", message));
  }
};

extern "C" void on_asked_to_stop(int) { request_interrupt(); }

[[noreturn]] void child(int fd, Sweep& sweep, const RunOptions& options, const std::vector<Work>& mine,
                        int threads) {
  ::signal(SIGUSR1, on_asked_to_stop);
  int code = kExitOk;
  PipeListener listener(fd);
  try {
    omp_set_num_threads(threads);
    Store store(options.results, sweep.name);
    work(store, sweep, mine, provenance(threads), listener);
  } catch (const std::exception& e) {
    listener.say(str("broken ", e.what()));
    code = kExitFault;
  }
  ::_exit(code);
}

/// N workers share the cells through the store's claims; this process only listens. Returns what broke a
/// worker, or "". `started` is called when they run: a thread of this process that holds a lock at the fork
/// would hold it in them for ever.
std::string run_jobs(Sweep& sweep, const RunOptions& options, const std::vector<Work>& mine, int threads,
                     Listener& listener, const std::function<void()>& started) {
  int ends[2];
  if (::pipe(ends) != 0) throw DataError(str("cannot make a pipe: ", std::strerror(errno)));
  std::vector<pid_t> workers;
  const int gpus = visible_gpus();
  for (int j = 0; j < options.jobs; ++j) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::close(ends[0]);
      if (gpus > 0) give_gpu(j % gpus);
      child(ends[1], sweep, options, mine, std::max(1, threads / options.jobs));
    }
    if (pid < 0) break;
    workers.push_back(pid);
  }
  ::close(ends[1]);
  started();
  std::string pending, broken;
  char buffer[4096];
  for (bool asked = false;;) {
    const ssize_t n = ::read(ends[0], buffer, sizeof buffer);
    // Ctrl-C reaches the workers too; `kill`, `timeout` and schedulers may have told this process alone. Not
    // passed on as it is, since a worker that has it already would take it for the second one, the final one.
    if (!asked && interrupt_requested()) {
      asked = true;
      for (const pid_t pid : workers) ::kill(pid, SIGUSR1);
    }
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    pending.append(buffer, size_t(n));
    for (size_t end; (end = pending.find('\n')) != std::string::npos; pending.erase(0, end + 1)) {
      std::istringstream line(pending.substr(0, end));
      std::string event, message;
      size_t cell = 0;
      double seconds = 0;
      line >> event;
      if (event == "broken") {
        std::getline(line >> std::ws, broken);
      } else if (line >> cell; event == "started") {
        listener.started(cell);
      } else {
        line >> seconds;
        std::getline(line >> std::ws, message);
        listener.finished(cell, seconds, event == "done", message);
      }
    }
  }
  ::close(ends[0]);
  for (const pid_t pid : workers) {
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status) && !interrupt_requested())
      broken = str("a worker was killed by signal ", WTERMSIG(status));
  }
  if (workers.empty()) throw DataError("cannot start a worker process");
  return broken;
}

void finish(Store& store, const Sweep& sweep, RunSummary& summary) {
  const Store::Summary s = store.consolidate(header_of(sweep), stored_cells(sweep));
  summary.failed = s.failed;
  summary.kept = std::max<int64_t>(0, summary.kept - s.failed);
  summary.missing = s.cells - s.done - s.failed;
  summary.file = store.file();
}

extern "C" void on_interrupt(int signal) {
  request_interrupt();
  ::signal(signal, SIG_DFL);  // the second one is final
}

}  // namespace

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

RunSummary run_sweep(Sweep& sweep, const RunOptions& options) {
  Store store(options.results, sweep.name);
  RunSummary summary;
  summary.cells = int64_t(sweep.cells.size());
  std::vector<Work> mine;
  std::set<std::string> keys;  // cells that differ only in their labels are computed once
  for (size_t i = 0; i < sweep.cells.size(); ++i) {
    if (int64_t(i) % options.shards != options.shard) continue;
    const std::string& key = sweep.cells[i].stored.key;
    // With `fresh`, a stored cell stays until its new result replaces it.
    if (!options.fresh && store.state(key) == CellState::done)
      ++summary.skipped;
    else if (keys.insert(key).second)
      mine.push_back({i, store.stamp(key)});
  }
  const int threads = options.threads > 0 ? options.threads : omp_get_num_procs();
  std::string broken;
  {
    Progress progress(int64_t(mine.size()) + summary.skipped, stderr);
    const auto start = [&] {
      if (!options.quiet) progress.start(summary.skipped);
    };
    ProgressListener listener(progress, sweep, summary);
    // Even one cell goes to a worker: once this process has computed with threads, later ones (of the next
    // sweep of a list) could not, because OpenMP's do not survive a fork.
    if (options.jobs > 1 && !mine.empty()) {
      broken = run_jobs(sweep, options, mine, threads, listener, start);
    } else {
      start();
      omp_set_num_threads(threads);
      work(store, sweep, mine, provenance(threads), listener);
    }
    progress.finish();
  }
  summary.interrupted = interrupt_requested();
  try {
    finish(store, sweep, summary);
  } catch (const DataError&) {
    if (broken.empty()) throw;  // else what broke first is what to tell
  }
  if (!broken.empty())
    throw DataError(broken + "; finished cells are safe, the same command goes on with the rest");
  return summary;
}

RunSummary merge_sweep(const Sweep& sweep, const std::string& results) {
  Store store(results, sweep.name);
  RunSummary summary;
  summary.cells = int64_t(sweep.cells.size());
  finish(store, sweep, summary);
  return summary;
}

}  // namespace fp4lab
