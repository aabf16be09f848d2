// Kills, full disks, damaged files and other processes: what the store promises when things go wrong.
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <thread>

#include "core/io/files.h"
#include "core/io/hdf5.h"
#include "experiments/store.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"
#include "tests/experiments/store_cells.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

void limit_file_size(rlim_t bytes) {
  const rlimit limit{bytes, bytes};
  setrlimit(RLIMIT_FSIZE, &limit);
}

/// Waits until `path` exists, at most ten seconds.
bool appears(const std::string& path) {
  for (int i = 0; i < 10000 && !std::filesystem::exists(path); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return std::filesystem::exists(path);
}

int count_files(const std::string& folder, const std::string& ending) {
  int n = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    n += entry.path().string().ends_with(ending);
  return n;
}

/// A number of a process that has lived and died.
pid_t dead_process() {
  const pid_t child = in_child([] { return 0; });
  wait_for(child);
  return child;
}

}  // namespace

TEST_CASE("store: killed at twenty random moments, what is there is whole", "[experiments][store][faults]") {
  const TempFolder folder;
  const std::vector<StoredCell> cells = cells_of(400);
  std::mt19937 random(1);
  Store(folder.path().string(), "s").put(cells[0], record_of(0, 20000), 0, host("a"));
  int64_t done_before = 1;
  for (int kill_number = 0; kill_number < 20; ++kill_number) {
    const pid_t child = in_child([&] {
      Store store(folder.path().string(), "s");
      put(folder / str("ready", kill_number), "");
      for (int i = kill_number * 20;; i = (i + 1) % 400)
        store.put(cells[size_t(i)], record_of(i, 20000), i, host("a"));
      return 0;
    });
    REQUIRE(appears(folder / str("ready", kill_number)));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60000));  // a put takes 5 to 40 ms here
    // A busy machine may not have finished one put in all that time: the last child is given a minute for
    // one.
    for (int ms = 0; kill_number == 19 && done_before < 2 && ms < 60000; ++ms) {
      done_before = count_files(Store(folder.path().string(), "s").parts_dir(), ".h5");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    kill(child, SIGKILL);
    REQUIRE(wait_for(child) == -SIGKILL);

    Store store(folder.path().string(), "s");
    CHECK(count_files(store.parts_dir(), ".tmp") == 0);  // the opening swept
    const Store::Summary summary = store.consolidate(header_of("s"), cells);
    CHECK(summary.done == count_files(store.parts_dir(), ".h5"));  // no part is half a part
    CHECK(summary.done >= done_before);
    CHECK(summary.failed == 0);
    done_before = summary.done;
    const h5::File f = h5::File::open_readonly(store.file());
    const std::vector<std::string> status = f.read_strings("/table/status");
    const std::vector<double> mse = f.read_doubles("/table/mse");
    for (int i = 0; i < int(status.size()); ++i) {
      const StoredCell& cell = cells[size_t(i)];
      CAPTURE(kill_number, i);
      REQUIRE((status[size_t(i)] == "done") == (store.state(cell.key) == CellState::done));
      if (status[size_t(i)] != "done") continue;
      REQUIRE(mse[size_t(i)] == i + 0.5);
      REQUIRE(f.read_doubles("/cells/" + cell.key + "/error") == record_of(i, 20000).arrays[0].values);
    }
  }
  CHECK(done_before > 1);
}

TEST_CASE("store: a claim is held by one process, and dies with it", "[experiments][store][faults]") {
  const TempFolder folder;
  Store store(folder.path().string(), "s");
  const std::string key = cell_of(0).key;
  const pid_t holder = in_child([&] {
    Store other(folder.path().string(), "s");
    const auto claim = other.try_claim(key);
    write_file_atomic(folder / "held", claim ? "yes" : "no");
    pause();
    return 0;
  });
  REQUIRE(appears(folder / "held"));
  CHECK(get(folder / "held") == "yes");
  CHECK(store.try_claim(key) == nullptr);
  CHECK(store.try_claim(cell_of(1).key) != nullptr);  // other cells are free
  kill(holder, SIGKILL);
  REQUIRE(wait_for(holder) == -SIGKILL);
  auto mine = store.try_claim(key);
  REQUIRE(mine != nullptr);
  CHECK(store.try_claim(key) == nullptr);  // also within one process
  CHECK(wait_for(in_child([&] { return Store(folder.path().string(), "s").try_claim(key) ? 1 : 0; })) == 0);
  mine.reset();
  CHECK(wait_for(in_child([&] { return Store(folder.path().string(), "s").try_claim(key) ? 1 : 0; })) == 1);
  // Keys that differ in one of their first 15 digits never meet, the first and the last byte included.
  const std::string low(64, '0'), high(64, 'f');
  const auto first = store.try_claim(low), last = store.try_claim(high);
  CHECK(first != nullptr);
  CHECK(last != nullptr);
  for (size_t digit = 0; digit < 15; ++digit) {
    std::string near = low;
    near[digit] = '1';
    CAPTURE(digit);
    CHECK(store.try_claim(near) != nullptr);
  }
  CHECK(store.try_claim(low) == nullptr);
}

TEST_CASE("store: processes that share a sweep compute each cell once", "[experiments][store][faults]") {
  const TempFolder folder;
  const std::vector<StoredCell> cells = cells_of(30);
  std::vector<pid_t> children;
  for (int p = 0; p < 4; ++p)
    children.push_back(in_child([&] {
      Store store(folder.path().string(), "s");
      for (const StoredCell& cell : cells) {
        if (store.state(cell.key) == CellState::done) continue;
        const auto claim = store.try_claim(cell.key);
        if (!claim || store.state(cell.key) == CellState::done) continue;
        // Who else is in here would find the mark.
        const std::string mark = folder / ("mark-" + cell.key);
        if (mkdir(mark.c_str(), 0700) != 0) return 1;
        std::this_thread::sleep_for(std::chrono::microseconds(500));
        store.put(cell, record_of(0), 1, host(str("p", p)));
      }
      return 0;
    }));
  for (pid_t child : children) CHECK(wait_for(child) == 0);
  Store store(folder.path().string(), "s");
  CHECK(store.consolidate(header_of("s"), cells).done == 30);
}

TEST_CASE("store: a full disk is a DataError, the old files stay and nothing is left over",
          "[experiments][store][faults]") {
  const TempFolder folder;
  const std::vector<StoredCell> cells = cells_of(3);
  Store store(folder.path().string(), "s");
  store.put(cells[0], record_of(0), 1, host("a"));
  store.consolidate(header_of("s"), cells);
  const std::string old_file = get(store.file()),
                    old_part = get(store.parts_dir() + "/" + cells[0].key + ".h5");
  store.put(cells[1], record_of(1, 50000), 1, host("a"));
  const pid_t child = in_child([&] {
    limit_file_size(20000);
    Store full(folder.path().string(), "s");
    const std::string put_failure =
        message_of<DataError>([&] { full.put(cells[0], record_of(0, 50000), 2, host("b")); });
    const std::string failure = message_of<DataError>([&] { full.consolidate(header_of("s"), cells); });
    limit_file_size(0);  // to an error record there is no room either
    const std::string error_failure =
        message_of<DataError>([&] { full.put_error(cells[2], "m", 1, host("b")); });
    int wrong = 0;
    wrong |= has(put_failure, cells[0].key) && has(put_failure, "File too large") ? 0 : 1;
    wrong |= has(failure, "s.h5: cannot consolidate") && has(failure, "File too large") ? 0 : 2;
    wrong |= has(failure, "parts are safe in " + full.parts_dir()) && has(failure, "fp4lab merge") ? 0 : 4;
    wrong |= has(error_failure, "File too large") ? 0 : 8;
    if (wrong)
      std::fprintf(stderr, "%s\n%s\n%s\n", put_failure.c_str(), failure.c_str(), error_failure.c_str());
    return wrong;
  });
  CHECK(wait_for(child) == 0);
  CHECK(get(store.file()) == old_file);
  CHECK(get(store.parts_dir() + "/" + cells[0].key + ".h5") == old_part);
  CHECK(store.state(cells[2].key) == CellState::absent);
  CHECK(count_files(folder.path().string(), ".tmp") == 0);
  CHECK(count_files(store.parts_dir(), ".tmp") == 0);
  CHECK(store.consolidate(header_of("s"), cells).done == 2);  // with room again
}

TEST_CASE("store: a folder that cannot be made is a DataError", "[experiments][store][faults]") {
  const TempFolder folder;
  put(folder / "file", "not a folder");
  const std::string message = message_of<DataError>([&] { Store(folder / "file", "s"); });
  CHECK(has(message, folder / "file/s/parts: cannot create"));
}

TEST_CASE("store: two processes consolidate at once, and a third reads", "[experiments][store][faults]") {
  const TempFolder folder;
  const std::vector<StoredCell> cells = cells_of(10);
  Store store(folder.path().string(), "s");
  for (int i = 0; i < 10; ++i) store.put(cells[size_t(i)], record_of(i, 5000), i, host("a"));
  store.consolidate(header_of("s"), cells);
  std::vector<pid_t> children;
  for (int p = 0; p < 2; ++p)
    children.push_back(in_child([&] {
      Store other(folder.path().string(), "s");
      for (int i = 0; i < 15; ++i)
        if (other.consolidate(header_of("s"), cells).done != 10) return 1;
      return 0;
    }));
  for (int i = 0; i < 50; ++i) {
    const h5::File f = h5::File::open_readonly(store.file());
    REQUIRE(f.read_strings("/table/status") == std::vector<std::string>(10, "done"));
    REQUIRE(f.read_doubles("/cells/" + cells[9].key + "/error").size() == 5000);
  }
  for (pid_t child : children) CHECK(wait_for(child) == 0);
  CHECK(count_files(folder.path().string(), ".tmp") == 0);
}

TEST_CASE("store: damaged and foreign parts count as absent", "[experiments][store][faults]") {
  const TempFolder folder;
  const std::vector<StoredCell> cells = cells_of(2);
  Store store(folder.path().string(), "s");
  store.put(cells[0], record_of(0), 1, host("a"));
  store.put(cells[1], record_of(1), 1, host("a"));
  const std::string path = store.parts_dir() + "/" + cells[0].key + ".h5", whole = get(path);
  const auto check_absent = [&] {
    CHECK(store.state(cells[0].key) == CellState::absent);
    const Store::Summary summary = store.consolidate(header_of("s"), cells);
    CHECK(summary.done == 1);
    const h5::File f = h5::File::open_readonly(store.file());
    CHECK(f.read_strings("/table/status") == std::vector<std::string>{"absent", "done"});
    CHECK(f.children("/cells") == std::vector<std::string>{cells[1].key});
  };
  for (size_t size = 0; size < whole.size(); size += 1 + whole.size() / 40) {
    CAPTURE(size);
    put(path, std::string_view(whole).substr(0, size));
    check_absent();
  }
  put(path, "a letter to the editor");
  check_absent();
  put(path, get(store.parts_dir() + "/" + cells[1].key + ".h5"));  // the part of another cell
  check_absent();
  h5::File foreign = h5::File::in_memory();
  foreign.write_text("/x", "y");
  put(path, foreign.image());
  check_absent();
  // Any damage, also where HDF5 would notice nothing or crash: 200 bytes spread over the file, the last
  // included.
  for (size_t k = 0; k < 200; ++k) {
    std::string damaged = whole;
    const size_t at = damaged.size() - 1 - k * (damaged.size() / 200);
    damaged[at] = char(damaged[at] ^ (1 << k % 8));
    put(path, damaged);
    CAPTURE(at);
    REQUIRE(store.state(cells[0].key) == CellState::absent);
    if (k % 10 == 0) check_absent();
  }
  // A part of the next schema.
  std::string next = whole;
  const size_t line = next.rfind("fp4lab part 1 ");
  REQUIRE(line != std::string::npos);
  next.replace(line, 14, "fp4lab part 2 ");
  put(path, next);
  check_absent();
  put(path, whole);
  CHECK(store.state(cells[0].key) == CellState::done);  // the checks above failed for their own reasons
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  check_absent();
  std::filesystem::remove(path);
  put(path, "damaged");
  store.put_error(cells[0], "failed before", 1, host("a"));  // then the failure is what is known
  CHECK(store.state(cells[0].key) == CellState::failed);
  CHECK(store.consolidate(header_of("s"), cells).failed == 1);
  store.put(cells[0], record_of(0), 1, host("a"));
  CHECK(store.consolidate(header_of("s"), cells).done == 2);
}

TEST_CASE("store: temporary files go when their process is dead, and only then",
          "[experiments][store][faults]") {
  const TempFolder folder;
  const std::string dir = folder.path().string(), key = cell_of(0).key;
  { Store store(dir, "s"); }
  const std::string parts = folder / "s/parts/";
  const pid_t dead = dead_process();
  const auto temporary = [&](pid_t pid, const std::string& name) {
    return str(".", name, ".h5.", pid, ".tmp");
  };
  const std::string of_dead = parts + temporary(dead, key),
                    of_error = parts + temporary(dead, key + ".error"),
                    of_live = parts + temporary(getppid(), key),
                    of_consolidation = folder / temporary(dead, "s"),
                    of_other_sweep = folder / temporary(dead, "other"), user_file = parts + "notes.tmp",
                    odd = parts + ".x.tmp", part = parts + key + ".h5";
  for (const std::string& path :
       {of_dead, of_error, of_live, of_consolidation, of_other_sweep, user_file, odd, part})
    put(path, "x");
  const auto exists = [](const std::string& path) { return std::filesystem::exists(path); };
  SECTION("nobody else has the store open") {
    Store store(dir, "s");
    for (const std::string& path : {of_dead, of_error, of_consolidation}) CHECK_FALSE(exists(path));
  }
  SECTION("somebody has it open, perhaps on a host where this number is alive: young files stay") {
    for (const std::string& path : {of_dead, of_error, of_consolidation}) std::filesystem::remove(path);
    const pid_t holder = in_child([&] {
      Store store(dir, "s");
      put(folder / "open", "x");
      pause();
      return 0;
    });
    REQUIRE(appears(folder / "open"));
    put(of_dead, "x"), put(of_error, "x");
    std::filesystem::last_write_time(
        of_error, std::filesystem::file_time_type::clock::now() - std::chrono::minutes(61));
    {
      Store store(dir, "s");
      CHECK(exists(of_dead));
      CHECK_FALSE(exists(of_error));  // older than an hour
    }
    kill(holder, SIGKILL);
    REQUIRE(wait_for(holder) == -SIGKILL);
    Store store(dir, "s");
    CHECK_FALSE(exists(of_dead));
  }
  for (const std::string& path : {of_live, of_other_sweep, user_file, odd, part}) {
    CAPTURE(path);
    CHECK(exists(path));
  }
}
