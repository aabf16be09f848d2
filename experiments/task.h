// experiments/task.h - a task turns one cell into one record.
//   `make` runs at resolve: it reads the cell's keys, opens what they name, checks what can be checked, and
//   leaves the canonical form (which is hashed) in the Params. `run` does the work, possibly in another
//   process.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/spill.h"
#include "core/params.h"
#include "experiments/record.h"
#include "experiments/sources/source.h"

namespace fp4lab {

/// Thrown by a task that was asked to stop (Ctrl-C) at its next step; the cell counts as not done.
struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("interrupted") {}
};
/// Set by the first Ctrl-C. Tasks call `check_interrupt` between steps of about a second.
bool interrupt_requested();
void request_interrupt();
void check_interrupt();

struct Estimate {
  double seconds = 0;  // on this machine's threads, from nominal rates: an order of magnitude
  double bytes = 0;    // peak memory
};

class CellTask {
 public:
  virtual ~CellTask() = default;
  /// Throws DataError for what is wrong with the data, std::bad_alloc when memory is short, Interrupted.
  virtual Record run() = 0;
  virtual Estimate estimate() const = 0;
  /// Scalars beyond the task's own metrics: "perplexity@wikitext2_test".
  virtual std::vector<std::string> extra_columns() const { return {}; }
};

/// Opens each source once for all the cells that name it.
class SourceCache {
 public:
  struct Opened {
    std::shared_ptr<const Source> source;
    Json* resolved;  // owned by the cache
  };
  Opened open(const Json& object, const Place& place, const SourceContext& context);
  SourceCache();
  ~SourceCache();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class ModelCache;

struct TaskContext {
  std::string base_dir;
  std::function<std::string(const std::string&)> content_hash;
  SourceCache* sources;
  ModelCache* models;
  std::string cache_dir;  // for what is gathered from models
  SpillPolicy spill{};    // of the hidden states of calibration windows
};

struct TaskKind {
  std::string_view name, description;
  std::unique_ptr<CellTask> (*make)(Params& p, const TaskContext& context);
  /// Names of the scalars its records hold, in table order; the first few are the default columns.
  std::vector<std::string> (*metrics)();
  std::vector<std::string> default_columns;
};
const std::vector<TaskKind>& task_kinds();

}  // namespace fp4lab
