// experiments/compare.h - `"compare": {"paper": "table1"}` of a sweep: a table of its cells beside the
// paper's.
#pragma once
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "analysis/table.h"
#include "core/params.h"

namespace fp4lab {

/// What to compare with. It is no part of any cell, so it may be added to a sweep that has run.
struct PaperComparison {
  std::string paper;                         // a table of analysis/paper.h; "": no comparison
  std::map<std::string, std::string> fixed;  // key path -> text, of what the sweep says once for all cells
};

/// Reads the key `compare` of a sweep, as it is written. ConfigError for unknown tables and keys, and for a
/// task that does not measure `kl` and `recovery_percent`.
PaperComparison read_comparison(const Json& sweep, const Place& place);
/// The same of the sweep that a result file holds.
PaperComparison stored_comparison(const std::string& result_file);

/// One row per (format, method) that either side has. Cells with activations in the format of the weights
/// belong to the W4A4 tables, those with null to the weight-only one; others, and those in full precision,
/// are left out. Seeds become mean and deviation; any axis but format, method, activations and seed splits
/// the table.
///   ranks          within a format, among the methods that both sides have: ours by kl (lower is better),
///   the
///                  paper's by recovery
///   disagrees with the methods whose order to this one is the opposite in the paper. A pair counts when both
///                  sides are sure of it: ours when the paired difference of kl is above twice its standard
///                  error over the common seeds (with one seed: when it is not 0), the paper as in
///                  paper_order()
/// `format`: markdown, csv (as many digits as read back exactly; deviations in columns of their own; "" for
/// "-") or latex. DataError when the file has no `kl` and `recovery_percent`.
std::string format_comparison(const PaperComparison& comparison, const ResultTable& table,
                              const std::string& format);

}  // namespace fp4lab
