// analysis/table.h - result tables: what /table of a result file holds, turned into rows and columns for
// people.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/io/hdf5.h"

namespace fp4lab {

/// The columns of /table. Numeric columns hold NaN where nothing was measured.
struct ResultTable {
  struct Column {
    std::string name, role, units;  // role: cell, axis, metric, text
    bool is_text;
    std::vector<double> numbers;
    std::vector<std::string> texts;
    /// The cell as text; numbers in `digits` significant digits (17: the fewest that read back exactly).
    std::string at(size_t row, int digits) const;
  };
  std::string name;  // of the sweep
  std::vector<Column> columns;
  size_t rows = 0;

  const Column* find(const std::string& column) const;
  /// DataError when it is not a result file of ours.
  static ResultTable read(const std::string& path);
};

struct TableLayout {
  std::vector<std::string> rows, cols, values;  // empty rows: every axis that is not a column, but not seed
  std::vector<std::pair<std::string, std::string>> where;  // only cells whose axis reads so
  std::string format = "markdown";                         // markdown, csv, latex, text
};

/// Rows and columns are axes, values are metrics. Cells that differ only in the axis `seed` become mean and
/// standard deviation; any other axis that is not named splits the table in several, each under its heading.
/// Numbers: 5 significant digits (csv: as many as read back exactly). ConfigError for names the table does
/// not have, listing those it has.
std::string format_table(const ResultTable& table, const TableLayout& layout);

/// A printed table: what every row is a list of, and how many leading columns name the row.
struct TextGrid {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  // each as long as the header
  size_t labels = 0;
};
/// In `format` (markdown, csv, latex), escaped and aligned.
std::string format_grid(const TextGrid& grid, const std::string& format);
/// What stands above one of several tables: bold in markdown, a comment in csv and latex.
std::string format_heading(const std::string& text, const std::string& format);

/// Mean and standard deviation (n - 1) of what was measured: NaN is left out. NaN of none, of one.
struct MeanDeviation {
  size_t count;
  double mean, deviation;
};
MeanDeviation mean_deviation(std::span<const double> values);
/// "0.0132 ± 0.00012"; the mean alone of one value, "" of none.
std::string format_mean(const MeanDeviation& m, int digits = 5);

/// 5 significant digits, no exponent between 1e-4 and 1e6: "0.013224", "18.787".
/// From 17 digits on: the fewest that read back as the same double.
std::string format_number(double value, int digits = 5);

}  // namespace fp4lab
