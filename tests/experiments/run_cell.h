// tests/experiments/run_cell.h - one cell of a task, resolved and run without a store.
#pragma once
#include <cmath>
#include <nlohmann/json.hpp>

#include "experiments/task.h"
#include "tests/core/io/temp_folder.h"

namespace fp4lab::test {

struct CellRun {
  Record record;
  Json resolved;

  double scalar(std::string_view name) const {
    for (const Record::Scalar& s : record.scalars)
      if (s.name == name) return s.value;
    throw std::runtime_error("no scalar " + std::string(name));
  }
  const std::vector<double>& array(std::string_view name) const {
    for (const Record::Array& a : record.arrays)
      if (a.name == name) return a.values;
    throw std::runtime_error("no array " + std::string(name));
  }
  const std::vector<std::string>& texts(std::string_view name) const {
    for (const Record::TextArray& a : record.text_arrays)
      if (a.name == name) return a.values;
    throw std::runtime_error("no texts " + std::string(name));
  }
};

/// Paths are relative to `folder`. The resolved form has what the cell's key is made of.
inline CellRun run_cell(const TaskKind& task, const Json& keys, const std::string& folder = ".",
                        bool run = true) {
  SourceCache sources;
  Params p(keys, {"e.json", "", {}}, "task " + std::string(task.name));
  const TaskContext context{
      folder, [](const std::string& path) { return "hash of " + path; }, &sources, nullptr, "", {}};
  const std::unique_ptr<CellTask> cell = task.make(p, context);
  const Estimate estimate = cell->estimate();
  if (!(estimate.seconds > 0 && estimate.bytes > 0)) throw std::runtime_error("an estimate of nothing");
  return {run ? cell->run() : Record{}, p.resolved()};
}
inline Json resolved_cell(const TaskKind& task, const Json& keys, const std::string& folder = ".") {
  return run_cell(task, keys, folder, false).resolved;
}

/// A .npy file of one float32 matrix; returns its source.
inline Json npy_source(const std::string& path, int64_t rows, int64_t cols,
                       const std::vector<float>& values) {
  const std::string shape = "(" + std::to_string(rows) + ", " + std::to_string(cols) + ")";
  put(path, npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }\n", raw(values)));
  return {{"file", path}};
}

/// The record's scalars are the task's metrics, in order; every number says what it is; shapes hold.
inline std::string record_problem(const TaskKind& task, const Record& r) {
  std::vector<std::string> names;
  for (const Record::Scalar& s : r.scalars) {
    names.push_back(s.name);
    if (s.meaning.units.empty() || s.meaning.source_equation.empty()) return s.name + " has no meaning";
  }
  std::vector<std::string> metrics = task.metrics();
  std::sort(names.begin(), names.end());
  std::sort(metrics.begin(), metrics.end());
  if (names != metrics) return "the scalars are not the task's metrics";
  for (const std::string& column : task.default_columns)
    if (!std::binary_search(metrics.begin(), metrics.end(), column)) return column + " is no metric";
  for (const Record::Array& a : r.arrays) {
    if (a.meaning.units.empty() || a.meaning.source_equation.empty()) return a.name + " has no meaning";
    if (a.shape != std::vector<int64_t>{int64_t(a.values.size())}) return a.name + " has another shape";
  }
  return "";
}

}  // namespace fp4lab::test
