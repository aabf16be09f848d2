// experiments/sweep.h - a sweep file, from text to cells: parse, then resolve. Nothing runs here.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/compare.h"
#include "experiments/store.h"
#include "experiments/task.h"

namespace fp4lab {

/// Raised by a commit that changes numbers; part of every key, so that old cells are not taken for new ones.
inline constexpr int kNumericsVersion = 2;

struct Cell {
  StoredCell stored;  // key, resolved JSON, axis values
  std::string name;   // "mxfp4, rtn": its axis values
  std::unique_ptr<CellTask> task;
};

struct Sweep {
  std::string name, description;
  std::string task;
  std::string written;               // the file's text; with settings, or from a list, the sweep they came to
  std::string resolved;              // name, task and the resolved form of every cell, as JSON
  std::vector<std::string> axes;     // in the order written
  std::vector<std::string> metrics;  // columns its tables show
  std::vector<std::string> table_rows,
      table_cols;           // axes that make its table's rows and columns; empty: see TableLayout
  PaperComparison compare;  // what is printed below its table
  std::vector<Cell> cells;
};

/// "key.path" and the JSON value (or plain text) to put there.
using Setting = std::pair<std::string, std::string>;
/// Splits "axes.seed=[1,2]". ConfigError without '='.
Setting parse_setting(const std::string& text);

/// Reads a sweep file (read_sweep_file), multiplies the axes, and resolves every cell; paths in a sweep are
/// relative to the file it stands in.
/// `hash_cache` is a file where content hashes are remembered ("" for none); what is gathered from models
/// goes into the folder "cache" beside it, and so do hidden states of calibration windows above `spill_above`
/// bytes (default: a quarter of the machine's memory).
std::vector<Sweep> load_sweeps(const std::string& path, const std::vector<Setting>& settings,
                               const std::string& hash_cache, std::optional<int64_t> spill_above = {});

/// The JSON Schema of sweep files, from the keys that the factories declare.
std::string sweep_schema();

}  // namespace fp4lab
