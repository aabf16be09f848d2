// The commands that work on a sweep: run, plan, check, merge, table.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <optional>

#include "analysis/table.h"
#include "experiments/cli/cli.h"
#include "experiments/cli/options.h"
#include "experiments/cli/report.h"

namespace fp4lab {

namespace po = boost::program_options;

namespace {

std::string quantity(double value, const std::vector<std::pair<double, const char*>>& units) {
  for (const auto& [size, unit] : units)
    if (value >= size) return format_number(value / size, 3) + " " + unit;
  return format_number(value, 3);
}
std::string bytes_text(double bytes) {
  return quantity(bytes, {{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}, {1, "B"}});
}
std::string time_text(double s) {
  return s < 1 ? "under 1 s" : quantity(s, {{3600, "h"}, {60, "min"}, {1, "s"}});
}

/// The first failed cells of a result file, and what they say.
void print_errors(const std::string& path) {
  const h5::File file = h5::File::open_readonly(path);
  if (!file.exists("/errors/message")) return;
  const std::vector<std::string> messages = file.read_strings("/errors/message"),
                                 keys = file.read_strings("/errors/key");
  for (size_t i = 0; i < messages.size() && i < 5; ++i)
    std::fprintf(stderr, "  cell %.12s: %s\n", keys[i].c_str(), messages[i].c_str());
  if (messages.size() > 5)
    std::fprintf(stderr, "  and %zu more, in /errors of %s\n", messages.size() - 5, path.c_str());
}

/// Says so when a result file was made by another version of its sweep.
void warn_if_other(const Sweep& sweep, const ResultTable& table, const std::string& path) {
  std::vector<std::string> keys;
  for (const Cell& c : sweep.cells) keys.push_back(c.stored.key);
  if (const auto* stored = table.find("key"); stored && stored->texts != keys)
    std::fprintf(
        stderr,
        "note: %s holds other cells than the sweep has now; `fp4lab run` or `merge` brings it up to date\n",
        path.c_str());
}

/// Below a table: the paper's numbers, if the sweep asks for them.
void print_comparison(const PaperComparison& compare, const ResultTable& table, const std::string& format) {
  if (!compare.paper.empty()) std::cout << "\n" << format_comparison(compare, table, format);
}

void print_table(const Sweep& sweep, const std::string& file) {
  TableLayout layout;
  layout.values = sweep.metrics;
  layout.rows = sweep.table_rows, layout.cols = sweep.table_cols;
  const ResultTable table = ResultTable::read(file);
  std::cout << format_table(table, layout);
  print_comparison(sweep.compare, table, layout.format);
  std::cout << std::flush;
}

}  // namespace

int command_run(const std::vector<std::string>& arguments) {
  po::options_description options("options");
  add_sweep_options(options);
  add_spill_option(options);
  options.add_options()("shard", po::value<std::string>()->value_name("i/n"),
                        "only every n-th cell, from the i-th (from 0)")(
      "jobs", po::value<int>()->default_value(1)->value_name("N"), "processes that share the cells")(
      "threads", po::value<int>()->default_value(0)->value_name("N"),
      "threads of all jobs together; 0: all processors")("fresh", "computes stored cells again")(
      "device", po::value<std::string>()->value_name("NAME"), "short for --set device=NAME")(
      "no-table", "prints no table at the end")(
      "report", po::value<std::string>()->value_name("PAGE.html"),
      "writes a page of all sweeps of the file at the end, also when cells failed");
  po::variables_map values;
  if (!parse_options("run", "computes the cells that are not stored yet and prints the table", arguments,
                     options, "file", values))
    return kExitOk;
  RunOptions run;
  run.results = values["results"].as<std::string>();
  run.jobs = values["jobs"].as<int>();
  run.threads = values["threads"].as<int>();
  run.fresh = values.count("fresh") > 0;
  if (run.jobs < 1 || run.jobs > 256) throw ConfigError("--jobs: expected 1 to 256");
  if (run.threads < 0 || run.threads > 4096) throw ConfigError("--threads: expected 0 to 4096");
  if (values.count("shard")) std::tie(run.shard, run.shards) = parse_shard(values["shard"].as<std::string>());
  if (values.count("device")) {
    std::vector<std::string> settings;
    if (values.count("set")) settings = values["set"].as<std::vector<std::string>>();
    settings.push_back("device=\"" + values["device"].as<std::string>() + "\"");
    values.erase("set");
    values.insert({"set", po::variable_value(settings, false)});
  }
  std::vector<Sweep> sweeps = sweeps_from(values);
  std::optional<ReportPage> page;
  if (values.count("report")) page.emplace(values["report"].as<std::string>());
  std::vector<std::string> files;
  install_interrupt_handler();
  int code = kExitOk;
  for (Sweep& sweep : sweeps) {
    const RunSummary s = run_sweep(sweep, run);
    files.push_back(s.file);
    const long long done = s.cells - s.missing - s.failed;
    std::fprintf(stderr, "%s: %lld of %lld cells done", sweep.name.c_str(), done,
                 static_cast<long long>(s.cells));
    if (s.skipped) std::fprintf(stderr, " (%lld from earlier runs)", static_cast<long long>(s.skipped));
    if (s.failed) std::fprintf(stderr, ", %lld failed", static_cast<long long>(s.failed));
    if (s.kept)
      std::fprintf(stderr, ", %lld failed when computed again and keep their older results",
                   static_cast<long long>(s.kept));
    if (s.missing) std::fprintf(stderr, ", %lld not computed yet", static_cast<long long>(s.missing));
    std::fprintf(stderr, "; results in %s\n", s.file.c_str());
    if (s.failed) print_errors(s.file);
    if (s.failed || s.kept) code = kExitCellsFailed;
    if (s.interrupted) {
      if (run.fresh)
        std::fprintf(stderr, "interrupted; cells that were not computed again keep their older results\n");
      else
        std::fprintf(stderr,
                     "interrupted; finished cells are stored, the same command goes on with the other %lld\n",
                     static_cast<long long>(s.missing));
      return kExitInterrupted;
    }
    if (!values.count("no-table") && done > 0) {
      if (sweeps.size() > 1)
        std::cout << "\n"
                  << sweep.name << (sweep.description.empty() ? "" : ": " + sweep.description) << "\n\n";
      print_table(sweep, s.file);
    }
  }
  if (page) {
    std::vector<std::string> words = {"fp4lab", "run"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    if (const int written = page->write(files, shell_line(words)); written != kExitOk) return written;
  }
  return code;
}

int command_plan(const std::vector<std::string>& arguments) {
  po::options_description options("options");
  add_sweep_options(options);
  add_spill_option(options);
  po::variables_map values;
  if (!parse_options("plan", "prints the cells with an estimate of time and memory", arguments, options,
                     "file", values))
    return kExitOk;
  for (const Sweep& sweep : sweeps_from(values)) {
    double seconds = 0, bytes = 0;
    std::printf("%s: task %s, %zu cells\n", sweep.name.c_str(), sweep.task.c_str(), sweep.cells.size());
    const std::string results = values["results"].as<std::string>();
    // A Store makes its folders; a plan makes nothing.
    std::optional<Store> store;
    if (std::filesystem::is_directory(results + "/" + sweep.name)) store.emplace(results, sweep.name);
    for (const Cell& cell : sweep.cells) {
      const Estimate e = cell.task->estimate();
      const CellState state = store ? store->state(cell.stored.key) : CellState::absent;
      std::printf("  %.12s  %-8s %9s %9s  %s\n", cell.stored.key.c_str(),
                  state == CellState::done     ? "stored"
                  : state == CellState::failed ? "failed"
                                               : "to do",
                  state == CellState::done ? "" : time_text(e.seconds).c_str(), bytes_text(e.bytes).c_str(),
                  cell.name.c_str());
      if (state != CellState::done) seconds += e.seconds;
      bytes = std::max(bytes, e.bytes);
    }
    std::printf("about %s on one core, at most %s of memory at a time\n", time_text(seconds).c_str(),
                bytes_text(bytes).c_str());
  }
  return kExitOk;
}

int command_check(const std::vector<std::string>& arguments) {
  po::options_description options("options");
  add_sweep_options(options);
  po::variables_map values;
  if (!parse_options("check", "only validates a sweep", arguments, options, "file", values)) return kExitOk;
  for (const Sweep& sweep : sweeps_from(values))
    std::printf("%s: %zu cells, no errors\n", sweep.name.c_str(), sweep.cells.size());
  return kExitOk;
}

int command_merge(const std::vector<std::string>& arguments) {
  po::options_description options("options");
  add_sweep_options(options);
  po::variables_map values;
  if (!parse_options("merge", "writes results/<name>.h5 from the parts that are there", arguments, options,
                     "file", values))
    return kExitOk;
  int code = kExitOk;
  for (const Sweep& sweep : sweeps_from(values)) {
    const RunSummary s = merge_sweep(sweep, values["results"].as<std::string>());
    std::printf("%s: %lld of %lld cells done, %lld failed, %lld missing; results in %s\n", sweep.name.c_str(),
                static_cast<long long>(s.cells - s.missing - s.failed), static_cast<long long>(s.cells),
                static_cast<long long>(s.failed), static_cast<long long>(s.missing), s.file.c_str());
    if (s.failed) code = kExitCellsFailed;
  }
  return code;
}

int command_table(const std::vector<std::string>& arguments) {
  po::options_description options("options");
  add_sweep_options(options);
  using Names = std::vector<std::string>;
  options.add_options()("rows", po::value<Names>()->multitoken()->value_name("AXIS..."),
                        "axes that make the rows; default: all but the columns and seed")(
      "cols", po::value<Names>()->multitoken()->value_name("AXIS..."), "axes that make the columns")(
      "value", po::value<Names>()->multitoken()->value_name("METRIC..."),
      "what to show; default: the sweep's metrics")(
      "where", po::value<Names>()->multitoken()->value_name("AXIS=VALUE..."), "only these cells")(
      "format", po::value<std::string>()->default_value("markdown"), "markdown, csv or latex");
  po::variables_map values;
  if (!parse_options("table", "prints results", arguments, options, "file", values)) return kExitOk;
  if (!values.count("file"))
    throw ConfigError("which results? Name a sweep or a .h5 file, before --rows and the other lists");
  const std::string file = values["file"].as<std::string>();
  // Several names may stand in one argument: --value mse_rel,qsnr_db
  auto names = [&](const char* option) {
    Names out;
    if (values.count(option))
      for (const std::string& part : values[option].as<Names>())
        for (size_t at = 0; at <= part.size();) {
          const size_t comma = std::min(part.find(',', at), part.size());
          if (comma > at) out.push_back(part.substr(at, comma - at));
          at = comma + 1;
        }
    return out;
  };
  TableLayout layout{names("rows"), names("cols"), names("value"), {}, values["format"].as<std::string>()};
  if (values.count("where"))  // not split: a value may be an object's JSON
    for (const std::string& w : values["where"].as<Names>()) {
      const size_t equals = w.find('=');
      if (equals == std::string::npos || equals == 0)
        throw ConfigError("--where " + w + ": expected axis=value, as in --where seed=1");
      layout.where.emplace_back(w.substr(0, equals), w.substr(equals + 1));
    }
  // A pivot of one's own is printed alone.
  const bool plain =
      layout.rows.empty() && layout.cols.empty() && layout.values.empty() && layout.where.empty();
  if (std::filesystem::path(file).extension() == ".h5") {
    const ResultTable table = ResultTable::read(file);
    if (layout.values.empty())
      for (const auto& c : table.columns)
        if (c.role == "metric") layout.values.push_back(c.name);
    std::cout << format_table(table, layout);
    if (plain) print_comparison(stored_comparison(file), table, layout.format);
    return kExitOk;
  }
  for (const Sweep& sweep : sweeps_from(values)) {
    const std::string results = values["results"].as<std::string>() + "/" + sweep.name + ".h5";
    if (!std::filesystem::exists(results))
      throw DataError(results + ": not there yet; `fp4lab run " + file + "` makes it");
    TableLayout own = layout;
    if (own.values.empty()) own.values = sweep.metrics;
    if (own.rows.empty() && own.cols.empty()) own.rows = sweep.table_rows, own.cols = sweep.table_cols;
    const ResultTable table = ResultTable::read(results);
    warn_if_other(sweep, table, results);
    std::cout << format_table(table, own);
    if (plain) print_comparison(sweep.compare, table, layout.format);
  }
  return kExitOk;
}

}  // namespace fp4lab
