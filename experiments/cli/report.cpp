#include "experiments/cli/report.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>

#include "analysis/table.h"
#include "core/io/files.h"
#include "experiments/cli/cli.h"
#include "experiments/cli/options.h"
#include "experiments/cli/python.h"
#include "experiments/compare.h"
#include "experiments/provenance.h"
#include "experiments/task.h"

namespace fp4lab {

namespace fs = std::filesystem;
namespace po = boost::program_options;

namespace {

constexpr const char* kScript = "analysis/report/__main__.py";

/// What the page's Python cannot find in the result file: the rows beside the paper's, as `fp4lab table`
/// prints them.
Json comparison_of(const std::string& file) {
  const ResultTable table = ResultTable::read(file);  // refuses what is no result file
  Json out = {{"csv", ""}, {"problem", ""}};
  try {
    const PaperComparison compare = stored_comparison(file);
    if (!compare.paper.empty()) out["csv"] = format_comparison(compare, table, "csv");
  } catch (const Error& e) {  // every cell failed, or a table of the paper that this version does not know
    out["problem"] = e.what();
  }
  return out;
}

}  // namespace

std::string default_page(const std::vector<std::string>& files) {
  const fs::path first(files.at(0));
  return files.size() == 1 ? fs::path(first).replace_extension(".html").string()
                           : (first.parent_path() / "report.html").string();
}

std::string shell_line(const std::vector<std::string>& words) {
  constexpr std::string_view plain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:=,+@%";
  std::string line;
  for (const std::string& word : words) {
    if (!line.empty()) line += ' ';
    if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) {
      line += word;
      continue;
    }
    line += '\'';
    for (char c : word) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += '\'';
  }
  return line;
}

ReportPage::ReportPage(const std::string& page) : page_(page) {
  const fs::path path(page);
  if (path.extension() != ".html" && path.extension() != ".htm")
    throw ConfigError(page + ": a page's name ends in .html");
  if (std::error_code ignored; fs::is_directory(path, ignored))
    throw DataError(page + ": is a folder, not a page");
  const std::string folder = path.has_parent_path() ? path.parent_path().string() : ".";
  if (std::error_code ignored; !fs::is_directory(folder, ignored))
    throw DataError(str(page, ": there is no folder ", folder));
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    throw DataError(str(page, ": cannot write in ", folder, ": ", std::generic_category().message(errno)));
  root_ = source_root(kScript);
  python_ = find_python((fs::path(root_) / kScript).string());
}

int ReportPage::write(const std::vector<std::string>& files, const std::string& command) const {
  Json request = {{"command", command},
                  {"version", version_text()},
                  {"comparisons", Json::array()},
                  {"default_columns", Json::object()}};
  for (const TaskKind& t : task_kinds()) request["default_columns"][std::string(t.name)] = t.default_columns;
  for (const std::string& f : files) request["comparisons"].push_back(comparison_of(f));
  // Paths travel as arguments: they need not be UTF-8.
  std::vector<std::string> line = {python_, (fs::path(root_) / kScript).string(), "--"};
  line.insert(line.end(), files.begin(), files.end());
  const ProcessResult done = run_process(line, request.dump(-1, ' ', false, Json::error_handler_t::replace));
  if (done.interrupted) return kExitInterrupted;
  if (done.code == kExitData) throw DataError(page_ + ": not written");            // it has said why
  if (done.code == kExitFault) throw std::runtime_error(page_ + ": not written");  // above is a traceback
  if (done.code != kExitOk || done.output.empty())
    throw DataError(str(page_, ": not written: ", python_,
                        done.code > 128 ? str(" was ended by signal ", done.code - 128)
                                        : str(" ended with exit code ", done.code)));
  write_file_atomic(page_, done.output);
  std::fprintf(stderr, "report in %s\n", page_.c_str());
  return kExitOk;
}

int command_report(const std::vector<std::string>& arguments) {
  po::options_description options("options");
  using Names = std::vector<std::string>;
  options.add_options()("file", po::value<Names>()->value_name("RESULTS.h5"),
                        "result files, in the order of the page (also without --file)")(
      "to", po::value<std::string>()->value_name("PAGE.html"),
      "the page; default: beside the result file, with its name, or report.html for several. A page that is "
      "there is replaced");
  po::variables_map values;
  if (!parse_options("report", "writes an HTML page of result files: tables, figures, provenance", arguments,
                     options, "file", values, -1))
    return kExitOk;
  if (!values.count("file")) throw ConfigError("which results? Name .h5 files, as results/quickstart.h5");
  Names files;
  for (const std::string& f : values["file"].as<Names>()) {
    if (const fs::path path(f); path.extension() == ".json")
      throw ConfigError(str(f, ": a sweep; its results are in results/NAME.h5, and `fp4lab run ", f,
                            " --report PAGE.html` writes the page of all of its sweeps"));
    if (std::find(files.begin(), files.end(), f) == files.end()) files.push_back(f);
  }
  for (const std::string& f : files) ResultTable::read(f);  // before Python is looked for
  const std::string page = values.count("to") ? values["to"].as<std::string>() : default_page(files);
  Names words = {"fp4lab", "report"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  return ReportPage(page).write(files, shell_line(words));
}

}  // namespace fp4lab
