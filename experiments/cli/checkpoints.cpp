// The commands that work on checkpoints: export, import, convert.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "analysis/table.h"
#include "experiments/cli/cli.h"
#include "experiments/cli/options.h"
#include "experiments/content_hash.h"
#include "experiments/export/exporter.h"
#include "experiments/provenance.h"
#include "experiments/runner.h"
#include "experiments/task.h"
#include "formats/registry.h"

namespace fp4lab {

namespace po = boost::program_options;

namespace {

void add_folder_options(po::options_description& options) {
  options.add_options()("to", po::value<std::string>()->value_name("FOLDER"), "the new folder")(
      "force", "replaces a checkpoint that is there")(
      "max-shard-size", po::value<std::string>()->default_value("5G")->value_name("SIZE"),
      "of one safetensors file, as 500M or 5G; about that much memory is needed");
}

Layout layout_option(const po::variables_map& values) {
  if (!values.count("layout"))
    throw ConfigError(str("which layout? --layout ", join(names_of(layouts()), ", --layout ")));
  const std::string text = values["layout"].as<std::string>();
  if (const LayoutEntry* entry = find_layout(text)) return entry->layout;
  throw ConfigError(unknown_name("layout", text, names_of(layouts())));
}

CheckpointFolder open_folder(const po::variables_map& values) {
  if (!values.count("to")) throw ConfigError("where to? --to FOLDER");
  install_interrupt_handler();
  const int64_t size = parse_size(values["max-shard-size"].as<std::string>(), "--max-shard-size");
  if (size < 1) throw ConfigError("--max-shard-size: expected at least 1 byte");
  return {values["to"].as<std::string>(), values.count("force") > 0, size};
}

Json about(const char* what) {
  Json by = Json::object();
  for (const auto& [key, value] : provenance(0)) by[key] = value;
  return {{"made_by", {{"fp4lab", version_text()}, {"commit", git_commit()}, {"modified", git_dirty()}}},
          {"created_utc", utc_now()},
          {"what", what},
          {"on", by}};
}

struct Choice {
  const Sweep* sweep;
  const Cell* cell;
};

std::string cell_line(const Cell& c) { return str("  ", c.stored.key.substr(0, 12), "  ", c.name, "\n"); }

/// By a prefix of the key, or by the name that `plan` prints.
Choice chosen_cell(const std::vector<Sweep>& sweeps, const std::string& text) {
  std::vector<Choice> all, by_key, by_name;
  for (const Sweep& sweep : sweeps)
    for (const Cell& cell : sweep.cells) {
      all.push_back({&sweep, &cell});
      if (text.size() >= 4 && cell.stored.key.starts_with(text)) by_key.push_back(all.back());
      if (cell.name == text) by_name.push_back(all.back());
    }
  if (text.empty() && all.size() == 1) return all[0];
  const std::vector<Choice>& found = by_name.empty() ? by_key : by_name;
  if (found.size() == 1) return found[0];
  std::string lines;
  const std::vector<Choice>& shown = found.empty() ? all : found;
  for (size_t i = 0; i < shown.size() && i < 20; ++i) lines += cell_line(*shown[i].cell);
  if (shown.size() > 20) lines += str("  and ", shown.size() - 20, " more; `fp4lab plan` prints them\n");
  throw ConfigError(str(
      text.empty()    ? str("which of the ", all.size(), " cells? --cell KEY or NAME:")
      : found.empty() ? "--cell " + text +
                            ": no cell has this name, or a key that begins so (4 digits or more); there are"
                      : "--cell " + text + ": more than one cell:",
      "\n", lines.substr(0, lines.size() - 1)));
}

/// What the stored cell says its bytes are, or "" when it was not run.
std::string stored_digest(const std::string& results, const Choice& choice) {
  const std::string file = results + "/" + choice.sweep->name + ".h5";
  if (std::error_code ignored; !std::filesystem::exists(file, ignored)) return "";
  const ResultTable table = ResultTable::read(file);
  const auto *keys = table.find("key"), *digests = table.find("digest");
  if (!keys || !digests) return "";
  for (size_t row = 0; row < table.rows; ++row)
    if (keys->texts[row] == choice.cell->stored.key) return digests->texts[row];
  return "";
}

std::string bytes_text(int64_t bytes) {
  return bytes >= 1000000000 ? format_number(double(bytes) / 1e9, 3) + " GB"
                             : format_number(double(bytes) / 1e6, 3) + " MB";
}

void print_written(const po::variables_map& values, const Written& w, std::string_view what) {
  std::printf("%s: %lld linears as %s, %s in %lld file%s; read back and compared\n",
              values["to"].as<std::string>().c_str(), static_cast<long long>(w.linears),
              std::string(what).c_str(), bytes_text(w.bytes).c_str(), static_cast<long long>(w.shards),
              w.shards == 1 ? "" : "s");
}

/// A named format with this grid, or its JSON.
std::string format_text(FormatSpec f) {
  if (f.tensor_scale.mode == TensorScale::fixed) f.tensor_scale = {TensorScale::dynamic, 0};
  for (const FormatEntry& e : formats())
    if (e.spec == f) return std::string(e.name);
  return format_json(f).dump();
}

StoredModel open_stored(const po::variables_map& values) {
  if (!values.count("folder")) throw ConfigError("which checkpoint? Name a folder");
  return StoredModel::open(values["folder"].as<std::string>());
}

/// Reads every linear, so that what is wrong with one is said now.
void print_checked(const StoredModel& model) {
  const Scheme& s = model.scheme();
  float low = INFINITY, high = 0;
  for (int64_t layer = 0; layer < model.config().layers; ++layer)
    for (int i = 0; i < kLinears; ++i) {
      const auto l = Linear(i);
      if (!model.is_stored(layer, l)) continue;
      check_interrupt();
      model.quantized(layer, {&l, 1});
      if (const auto a = model.activations(layer, l); a && a->tensor_scale.mode == TensorScale::fixed)
        low = std::min(low, a->tensor_scale.value), high = std::max(high, a->tensor_scale.value);
    }
  std::printf("%s: %s, %lld blocks\n", model.path().c_str(), model.config().architecture.c_str(),
              static_cast<long long>(model.config().layers));
  std::printf("  layout          %s\n", std::string(name(s.layout)).c_str());
  std::printf("  weights         %s, %lld of %lld linears, %s bits each\n", format_text(s.weights).c_str(),
              static_cast<long long>(model.stored_linears()),
              static_cast<long long>(model.config().layers * kLinears),
              format_number(bits_per_element(s.weights, model.config().hidden_size), 4).c_str());
  std::printf("  inputs          %s%s\n",
              s.activations ? format_text(*s.activations).c_str() : "full precision",
              high > 0 ? str(", static tensor scales ", low, " to ", high).c_str() : "");
  std::printf("  rotation        %s\n",
              s.hadamard > 1 ? str("Hadamard of every ", s.hadamard, " inputs").c_str() : "none");
  for (const std::string& key : s.passed_over) std::printf("  passed over     %s\n", key.c_str());
  std::printf(
      "every code and scale was read; evaluate it with {\"task\": \"model\", \"model\": {\"path\": "
      "FOLDER}, \"format\": \"stored\", ...}\n");
}

}  // namespace

int command_export(const std::vector<std::string>& arguments) {
  po::options_description options("options");
  add_sweep_options(options);
  add_spill_option(options);
  options.add_options()("cell", po::value<std::string>()->default_value("", "")->value_name("KEY"),
                        "the cell: the beginning of its key, or its name, as `fp4lab plan` prints them")(
      "layout", po::value<std::string>()->value_name("NAME"), join(names_of(layouts())).c_str());
  add_folder_options(options);
  po::variables_map values;
  if (!parse_options("export", "quantizes the model of a cell and writes it as a checkpoint for other tools",
                     arguments, options, "file", values))
    return kExitOk;
  const std::vector<Sweep> sweeps = sweeps_from(values);
  const Choice choice = chosen_cell(sweeps, values["cell"].as<std::string>());
  auto* const cell = dynamic_cast<ModelCell*>(choice.cell->task.get());
  if (!cell)
    throw ConfigError(
        str("a cell of the task ", choice.sweep->task, " makes no model; export needs task model"));
  const Scheme scheme = scheme_of(cell->plan(), cell->model().weights->config(), layout_option(values));
  CheckpointFolder folder = open_folder(values);
  const std::string expected = stored_digest(values["results"].as<std::string>(), choice);

  Json what = about("export");
  what["layout"] = name(scheme.layout);
  what["source"] = {{"path", cell->model().weights->path()}, {"sha256", cell->model().hash}};
  what["sweep"] = choice.sweep->name;
  what["cell"] = {{"key", choice.cell->stored.key},
                  {"name", choice.cell->name},
                  {"resolved", Json::parse(choice.cell->stored.resolved)}};
  what["equals_stored_cell"] = !expected.empty();
  const Written w = export_cell(*cell, scheme, folder, what);
  if (!expected.empty() && expected != w.digest)
    throw DataError(
        str("the cell stored in ", values["results"].as<std::string>(), "/", choice.sweep->name,
            ".h5 has digest ", expected.substr(0, 12), ", what was made now ", w.digest.substr(0, 12),
            ": not the same bytes; nothing is written. `fp4lab run --fresh` computes the cell again"));
  folder.publish();
  print_written(values, w, name(scheme.layout));
  std::printf(expected.empty()
                  ? "the cell is not in the results, so its digest %.12s was compared with none\n"
                  : "digest %.12s: the bytes that the stored cell was measured with\n",
              w.digest.c_str());
  return kExitOk;
}

int command_import(const std::vector<std::string>& arguments) {
  po::options_description options("options");
  options.add_options()("folder", po::value<std::string>()->value_name("FOLDER"),
                        "the quantized checkpoint (also without --folder)");
  add_folder_options(options);
  po::variables_map values;
  if (!parse_options("import",
                     "checks a quantized checkpoint and says what it holds; with --to, writes it in F32",
                     arguments, options, "folder", values))
    return kExitOk;
  const StoredModel model = open_stored(values);
  print_checked(model);
  if (!values.count("to")) return kExitOk;
  CheckpointFolder folder = open_folder(values);
  Json what = about("import");
  what["source"] = {{"path", model.path()}, {"sha256", ContentHashes("").of(model.path())}};
  const Written w = write_plain(model, folder, what);
  folder.publish();
  std::printf("%s: %lld linears dequantized to F32, %s\n", values["to"].as<std::string>().c_str(),
              static_cast<long long>(w.linears), bytes_text(w.bytes).c_str());
  return kExitOk;
}

int command_convert(const std::vector<std::string>& arguments) {
  po::options_description options("options");
  options.add_options()("folder", po::value<std::string>()->value_name("FOLDER"),
                        "the quantized checkpoint (also without --folder)")(
      "layout", po::value<std::string>()->value_name("NAME"), join(names_of(layouts())).c_str());
  add_folder_options(options);
  po::variables_map values;
  if (!parse_options("convert", "writes a quantized checkpoint in another layout, when nothing is lost",
                     arguments, options, "folder", values))
    return kExitOk;
  const Layout layout = layout_option(values);
  const StoredModel model = open_stored(values);
  converted_scheme(model, layout);
  CheckpointFolder folder = open_folder(values);
  Json what = about("convert");
  what["layout"] = name(layout);
  what["source"] = {{"path", model.path()},
                    {"sha256", ContentHashes("").of(model.path())},
                    {"layout", name(model.scheme().layout)}};
  const Written w = convert_checkpoint(model, layout, folder, what);
  folder.publish();
  print_written(values, w, name(layout));
  return kExitOk;
}

}  // namespace fp4lab
