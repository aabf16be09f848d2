// experiments/runner.h - runs the cells of a sweep that are not in the store yet.
#pragma once
#include <cstdio>
#include <string>

#include "experiments/sweep.h"

namespace fp4lab {

struct RunOptions {
  std::string results = "results";
  int shard = 0, shards = 1;  // cells with index % shards == shard
  int jobs = 1;               // processes on this host, each with threads / jobs threads
  int threads = 0;            // 0: all processors
  bool fresh = false;         // compute stored cells again; each stays until its new result replaces it
  bool quiet = false;         // no progress
};

struct RunSummary {
  int64_t cells = 0, computed = 0, skipped = 0, failed = 0, missing = 0;
  int64_t kept = 0;  // failed when computed again: their older results stay
  bool interrupted = false;
  std::string file;  // the consolidation
};

/// Every cell ends in the store, as a record or as an error; then the store is consolidated (after Ctrl-C
/// too). Cells that another process is computing are waited for; when that process dies, they are computed
/// here. DataError when the results folder cannot be written.
RunSummary run_sweep(Sweep& sweep, const RunOptions& options);

/// Ctrl-C and SIGTERM ask tasks to stop; the second one ends the process at once.
void install_interrupt_handler();

/// Consolidates what the store has of this sweep, without running anything.
RunSummary merge_sweep(const Sweep& sweep, const std::string& results);

}  // namespace fp4lab
