// tests/experiments/store_cells.h - cells, records and child processes for the tests of the store.
#pragma once
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <limits>

#include "core/errors.h"
#include "core/hash.h"
#include "experiments/store.h"

namespace fp4lab::test {

inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Cell i of a sweep over format (text) and seed (a number).
inline StoredCell cell_of(int i) {
  return {.key = sha256_hex(str("cell ", i)),
          .resolved = str("{\"cell\": ", i, "}"),
          .axes = {{"format", i % 2 ? "mxfp4" : "nvfp4", {}}, {"seed", str(i), double(i)}}};
}

inline std::vector<StoredCell> cells_of(int n) {
  std::vector<StoredCell> cells;
  for (int i = 0; i < n; ++i) cells.push_back(cell_of(i));
  return cells;
}

/// A record with one of each kind of value; `big` numbers in its array.
inline Record record_of(int i, int64_t big = 6) {
  Record r;
  r.scalars = {{"mse", i + 0.5, {"1", "mean (x-x^)^2"}}, {"time", i * 2.0, {"s", ""}}};
  r.texts = {{"digest", str("digest ", i)}};
  std::vector<double> values;
  for (int64_t k = 0; k < big; ++k) values.push_back(double(i) + 0.1 * double(k * 7919 % 1000));
  r.arrays = {{"error", values, {2, big / 2}, "(tensors, bins)", {"1", "eq. 3"}}};
  r.text_arrays = {{"tensor", {"q", "k"}, "(tensors)"}};
  r.bytes = {{"codes", {1, 2, 3, 250, 0, uint8_t(i)}, {2, 3}, "(rows, bytes)"}};
  return r;
}

inline Provenance host(const std::string& name) { return {{"host", name}, {"cpu", "one"}}; }

inline SweepHeader header_of(const std::string& name) {
  return {.name = name,
          .written = "{ // as written\n}",
          .resolved = "{\"task\": \"none\"}",
          .created_utc = "2025-01-02T03:04:05Z",
          .fp4lab_version = "0.1.0",
          .git_commit = "abc",
          .git_dirty = true};
}

/// Runs `work` in a child, which ends with its result and without the parent's clean-up.
template <class Work>
pid_t in_child(Work work) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child != 0) return child;
  int result = 99;  // an exception that escaped
  try {
    result = work();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "child: %s\n", e.what());
  }
  _exit(result);
}

/// The child's result, or minus the signal that killed it.
inline int wait_for(pid_t child) {
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return -1000;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace fp4lab::test
