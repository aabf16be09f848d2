// experiments/store_consolidate.cpp - from parts to the one file; its layout is in results/README.md.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <limits>
#include <map>
#include <new>
#include <optional>
#include <set>
#include <system_error>

#include "core/errors.h"
#include "core/io/files.h"
#include "experiments/store_part.h"
#include "experiments/store_state.h"

namespace fp4lab {

namespace {

constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

/// One dataset of /table: numbers or texts, one per cell.
struct Column {
  std::string name, role;  // cell | axis | metric | text
  Meaning meaning;
  bool is_text;
  std::vector<double> numbers;
  std::vector<std::string> texts;
};

/// Columns in the order they are written; a name is given once.
class Table {
 public:
  explicit Table(size_t rows) : rows_(rows) {}

  /// A column of NaN or "". A name that is taken gets `suffix`, so an axis keeps its name against a metric.
  Column& add(const std::string& wanted, const char* suffix, const char* role, Meaning meaning,
              bool is_text) {
    std::string name = dataset_name(wanted);
    while (!names_.insert(name).second) name += suffix;
    columns_.push_back({name, role, std::move(meaning), is_text, {}, {}});
    if (is_text)
      columns_.back().texts.resize(rows_);
    else
      columns_.back().numbers.assign(rows_, kNotMeasured);
    return columns_.back();
  }

  void write(h5::File& file, const std::string& group) const {
    file.group(group);
    int64_t position = 0;
    for (const Column& c : columns_) {
      const std::string path = group + "/" + c.name;
      if (c.is_text)
        file.write(path, std::span<const std::string>(c.texts));
      else
        file.write(path, std::span<const double>(c.numbers));
      write_meaning(file, path, c.meaning, "(cells)");
      file.attribute(path, "role", c.role);
      file.attribute(path, "position", position++);
    }
  }

 private:
  size_t rows_;
  std::set<std::string> names_;
  std::deque<Column> columns_;  // a deque: add() gives references that stay
};

struct Axis {
  std::string name;
  bool is_text;
};

/// All axes in sweep order: text unless every value of every cell is a number.
std::vector<Axis> axes_of(const std::vector<StoredCell>& cells) {
  std::vector<Axis> axes;
  for (const StoredCell& cell : cells)
    for (const AxisValue& a : cell.axes) {
      const auto known =
          std::find_if(axes.begin(), axes.end(), [&](const Axis& x) { return x.name == a.axis; });
      if (known == axes.end())
        axes.push_back({a.axis, !a.number});
      else
        known->is_text |= !a.number;
    }
  return axes;
}

/// Adds a column for each axis; returns them by the axis' name.
std::map<std::string, Column*> add_axes(Table& table, const std::vector<Axis>& axes,
                                        const std::vector<StoredCell>& cells) {
  std::map<std::string, Column*> columns;
  for (const Axis& a : axes)
    columns[a.name] =
        &table.add(a.name, "_axis", "axis", {a.is_text ? "text" : "1", "axis of the sweep"}, a.is_text);
  for (size_t row = 0; row < cells.size(); ++row)
    for (const AxisValue& a : cells[row].axes)
      if (Column& c = *columns.at(a.axis); c.is_text)
        c.texts[row] = a.text;
      else
        c.numbers[row] = *a.number;
  return columns;
}

/// What was found for one row.
struct Row {
  CellState state = CellState::absent;
  Part part;
};

void add_measurements(Table& table, const std::vector<Row>& rows) {
  std::map<std::string, Column*> scalars, texts;
  for (size_t i = 0; i < rows.size(); ++i)
    for (const Record::Scalar& s : rows[i].part.scalars) {
      auto [at, added] = scalars.try_emplace(s.name);
      if (added) at->second = &table.add(s.name, "_measured", "metric", s.meaning, false);
      at->second->numbers[i] = s.value;
    }
  for (size_t i = 0; i < rows.size(); ++i)
    for (const Record::Text& t : rows[i].part.texts) {
      auto [at, added] = texts.try_emplace(t.name);
      if (added) at->second = &table.add(t.name, "_text", "text", {"text", ""}, true);
      at->second->texts[i] = t.value;
    }
}

/// Every different process once, in the order of the first cell it ran; returns each row's index (NaN:
/// absent).
std::vector<double> write_provenance(h5::File& file, const std::vector<Row>& rows) {
  std::map<Provenance, double> index;
  std::map<std::string, std::vector<std::string>> fields;
  std::vector<double> of_row;
  for (const Row& row : rows) {
    if (row.state == CellState::absent) {
      of_row.push_back(kNotMeasured);
      continue;
    }
    const auto [at, added] = index.try_emplace(row.part.who, double(index.size()));
    of_row.push_back(at->second);
    if (added)
      for (const auto& [name, value] : row.part.who) {
        std::vector<std::string>& column = fields[dataset_name(name)];
        column.resize(index.size());
        column.back() = value;
      }
  }
  file.group("/provenance");
  for (auto& [name, column] : fields) {
    column.resize(index.size());
    file.write("/provenance/" + name, std::span<const std::string>(column));
    write_meaning(file, "/provenance/" + name, {"text", ""}, "(processes)");
  }
  return of_row;
}

void write_errors(h5::File& file, const std::vector<StoredCell>& cells, const std::vector<Row>& rows,
                  const std::vector<Axis>& axes) {
  std::vector<StoredCell> failed;
  std::vector<std::string> keys, messages;
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i].state == CellState::failed) {
      failed.push_back(cells[i]);
      keys.push_back(cells[i].key), messages.push_back(rows[i].part.message);
    }
  Table table(failed.size());
  table.add("key", "", "cell", {"text", "SHA-256 of the resolved cell"}, true).texts = keys;
  table.add("message", "", "cell", {"text", ""}, true).texts = messages;
  add_axes(table, axes, failed);
  table.write(file, "/errors");
}

/// The part of a cell, its arrays copied to /cells/<key> when it is done; absent when no part can be read.
Row take_part(h5::File& file, const StoredCell& cell, const std::string& done, const std::string& error) {
  const auto attempt = [&](const std::string& path, CellState state) -> std::optional<Row> {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) return std::nullopt;
    try {
      const h5::File part = open_part(path, cell.key);
      Row row{state, read_part(part)};
      const std::string group = "/cells/" + cell.key;
      if (state == CellState::done && !file.exists(group)) file.copy_from(part, "/cell", group);
      return row;
    } catch (const DataError&) {  // truncated, foreign, damaged: as good as absent, and computed again
      return std::nullopt;
    }
  };
  if (auto row = attempt(done, CellState::done)) return *row;
  return attempt(error, CellState::failed).value_or(Row{});
}

const char* text_of(CellState state) {
  return state == CellState::done ? "done" : state == CellState::failed ? "failed" : "absent";
}

}  // namespace

Store::Summary Store::State::write_consolidated(const std::string& path, const SweepHeader& header,
                                                const std::vector<StoredCell>& cells) const {
  h5::File file = h5::File::create(path);
  std::vector<Row> rows;
  Summary summary;
  file.group("/cells");
  for (const StoredCell& cell : cells) {
    rows.push_back(take_part(file, cell, done_path(cell.key), error_path(cell.key)));
    ++summary.cells;
    summary.done += rows.back().state == CellState::done;
    summary.failed += rows.back().state == CellState::failed;
  }

  file.attribute("/", "schema_version", kStoreSchemaVersion);
  file.attribute("/", "name", header.name);
  file.attribute("/", "created_utc", header.created_utc);
  file.attribute("/", "fp4lab_version", header.fp4lab_version);
  file.attribute("/", "git_commit", header.git_commit);
  file.attribute("/", "git_dirty", int64_t(header.git_dirty));
  file.attribute("/", "cells", summary.cells);
  file.attribute("/", "cells_done", summary.done);
  file.write_text("/experiment/written", header.written);
  file.write_text("/experiment/resolved", header.resolved);

  Table table(cells.size());
  Column& key = table.add("key", "", "cell", {"text", "SHA-256 of the resolved cell"}, true);
  Column& status = table.add("status", "", "cell", {"text", "done, failed or absent"}, true);
  Column& seconds = table.add("seconds", "", "cell", {"s", "wall time of the cell"}, false);
  table.add("provenance", "", "cell", {"1", "element of the datasets in /provenance"}, false).numbers =
      write_provenance(file, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    key.texts[i] = cells[i].key;
    status.texts[i] = text_of(rows[i].state);
    if (rows[i].state != CellState::absent) seconds.numbers[i] = rows[i].part.seconds;
  }
  const std::vector<Axis> axes = axes_of(cells);
  const std::map<std::string, Column*> axis_columns = add_axes(table, axes, cells);
  add_measurements(table, rows);
  table.write(file, "/table");

  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].state != CellState::done) continue;
    for (const AxisValue& a : cells[i].axes) {
      const Column& column = *axis_columns.at(a.axis);
      if (column.is_text)
        file.attribute("/cells/" + cells[i].key, column.name, a.text);
      else
        file.attribute("/cells/" + cells[i].key, column.name, *a.number);
    }
  }
  write_errors(file, cells, rows, axes);
  file.close();
  return summary;
}

Store::Summary Store::consolidate(const SweepHeader& header, const std::vector<StoredCell>& cells) {
  // One at a time: the last file to be renamed into place is then the one that saw most parts. Where the file
  // system cannot lock, two at once are still whole files.
  const int lock = open_lock_file(parts_dir());
  const Claim release(lock);
  lock_byte(lock, kConsolidating, F_WRLCK, true);
  const std::string temporary =
      (std::filesystem::path(state_->dir) / str(".", state_->name, ".h5.", ::getpid(), ".tmp")).string();
  std::string reason;
  try {
    const Summary summary = state_->write_consolidated(temporary, header, cells);
    publish_file(temporary, file());
    return summary;
  } catch (const DataError& e) {
    reason = e.what();
  } catch (const std::bad_alloc&) {
    reason = "not enough memory to build the file";
  }
  ::unlink(temporary.c_str());
  throw DataError(str(file(), ": cannot consolidate: ", reason, "; the parts are safe in ", parts_dir(),
                      "; make room, then `fp4lab merge` consolidates again"));
}

}  // namespace fp4lab
