#include "experiments/sweep.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/hash.h"
#include "core/io/files.h"
#include "core/text.h"
#include "experiments/axes.h"
#include "experiments/content_hash.h"
#include "experiments/model/shared_model.h"
#include "experiments/sweep_file.h"

namespace fp4lab {

namespace {

constexpr int64_t kMaxCells = 1000000;

const TaskKind& find_task(const std::string& name, const Params& p) {
  std::vector<std::string> known;
  for (const TaskKind& t : task_kinds()) known.emplace_back(t.name);
  for (const TaskKind& t : task_kinds())
    if (t.name == name) return t;
  p.fail("task", unknown_name("task", name, known));
}

void check_name(const Params& p, const std::string& name) {
  const bool plain =
      !name.empty() && name.size() <= 100 && name[0] != '.' &&
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+") ==
          std::string::npos;
  if (!plain)
    p.fail("name", "a sweep's name is a file name: letters, digits and . _ - +, not starting with a dot");
}

/// The keys that belong to the sweep itself; everything else in the object belongs to its cells.
struct SweepKeys {
  std::string name, description, task;
  const Json* axes;
  const Json* exclude;
  std::vector<std::string> metrics;
  const Json* table;
};
SweepKeys read_sweep_keys(Params& p) {
  SweepKeys k;
  k.name = p.text("name", {"names the result file: results/<name>.h5"});
  k.description = p.text("description", "", {"what is asked, for people"});
  k.task = p.text("task", {"what a cell does (fp4lab list tasks)"});
  k.axes = &p.raw("axes", {"{key path: [values]}: the cells are all combinations, in the order written"});
  k.exclude = &p.raw("exclude", {"list of {axis: value or values}: combinations left out"});
  k.metrics = p.texts("metrics", {"default"}, {"columns that its table shows"});
  k.table = &p.raw("table", {"{\"rows\": axes, \"cols\": axes}: how its table is laid out"});
  p.raw("compare", {"{\"paper\": \"table1\"}: a table of the paper to print beside its own"});
  return k;
}
const std::set<std::string> kSweepKeys = {"name",    "description", "task",  "axes",
                                          "exclude", "metrics",     "table", "compare"};

/// The layout that the sweep asks for; both lists name axes.
void read_table(const Json& value, const Place& place, Sweep& sweep) {
  if (value.is_null()) return;
  Params p(value, place, "a table");
  const std::vector<std::string> all = {"*"};
  for (const auto& [key, axes] :
       {std::pair{"rows", &sweep.table_rows}, std::pair{"cols", &sweep.table_cols}}) {
    *axes = p.texts(key, all, {"axes"});
    if (*axes == all) axes->clear();
    for (const std::string& a : *axes)
      if (std::find(sweep.axes.begin(), sweep.axes.end(), a) == sweep.axes.end())
        p.fail(key, unknown_name("axis", a, sweep.axes));
  }
  p.done();
}

std::string compact_resolved(const SweepKeys& keys, const std::vector<Cell>& cells) {
  Json list = Json::array();
  for (const Cell& c : cells) list.push_back(Json::parse(c.stored.resolved));
  return Json{{"name", keys.name}, {"task", keys.task}, {"cells", std::move(list)}}.dump(1);
}

Sweep resolve(const WrittenSweep& written, TaskContext& context) {
  const Json& object = *written.object;
  const Place& place = written.place;
  Params p(object, place, "a sweep");
  const SweepKeys keys = read_sweep_keys(p);
  check_name(p, keys.name);
  const TaskKind& task = find_task(keys.task, p);
  const std::vector<Axis> axes = read_axes(*keys.axes, place.child("axes"), written.axes);
  std::vector<Exclude> excludes = read_excludes(*keys.exclude, place.child("exclude"), axes);

  Sweep sweep{keys.name, keys.description, keys.task, written.text, "", {}, keys.metrics, {}, {}, {}, {}};
  if (sweep.metrics == std::vector<std::string>{"default"}) sweep.metrics = task.default_columns;
  int64_t combinations = 1;
  for (const Axis& a : axes) {
    sweep.axes.push_back(a.path);
    if (split_path(a.path).front().empty() || kSweepKeys.contains(split_path(a.path).front()))
      throw ConfigError(place.child("axes").text() + ": \"" + a.path + "\" is not a key of the task's cells");
    combinations *= int64_t(a.values.size());
    if (combinations > kMaxCells) p.fail("axes", str("more than ", kMaxCells, " cells"));
  }
  read_table(*keys.table, place.child("table"), sweep);
  sweep.compare = read_comparison(object, place);
  Json base = Json::object();
  for (const auto& [key, value] : object.items())
    if (!kSweepKeys.contains(key)) base[key] = value;

  for (int64_t n = 0; n < combinations; ++n) {
    std::vector<size_t> pick(axes.size());
    int64_t rest = n;
    for (size_t a = axes.size(); a-- > 0;) {
      pick[a] = size_t(rest % int64_t(axes[a].values.size()));
      rest /= int64_t(axes[a].values.size());
    }
    bool excluded = false;
    for (Exclude& e : excludes)
      if (std::all_of(e.wanted.begin(), e.wanted.end(), [&](const auto& w) {
            return w.second.contains(axes[w.first].shown[pick[w.first]].text);
          }))
        excluded = e.used = true;
    if (excluded) continue;

    Cell cell;
    Json json = base;
    auto moved = std::make_shared<std::map<std::string, std::string>>();
    for (size_t a = 0; a < axes.size(); ++a) {
      const Place from = place.child("axes").child(axes[a].path);
      if (!put_at(json, axes[a].path, axes[a].values[pick[a]]))
        throw ConfigError(from.text() + ": \"" + axes[a].path +
                          "\" leads through something that is not an object");
      (*moved)[place.pointer + pointer_of(axes[a].path)] = from.child(pick[a]).pointer;
      cell.stored.axes.push_back(axes[a].shown[pick[a]]);
      cell.name += (cell.name.empty() ? "" : ", ") + axes[a].shown[pick[a]].text;
    }
    if (cell.name.empty()) cell.name = keys.name;
    Params cell_params(json, {place.file, place.pointer, moved}, "task " + keys.task);
    cell.task = task.make(cell_params, context);
    Json resolved = cell_params.resolved();
    resolved["task"] = keys.task;
    resolved["numerics"] = kNumericsVersion;
    cell.stored.resolved = resolved.dump();
    cell.stored.key = sha256_hex(cell.stored.resolved);
    sweep.cells.push_back(std::move(cell));
  }
  for (size_t i = 0; i < excludes.size(); ++i)
    if (!excludes[i].used)
      throw ConfigError(place.child("exclude").child(i).text() + ": matches no combination of the axes");
  std::vector<std::string> known_metrics = task.metrics();
  for (const Cell& c : sweep.cells)
    for (std::string& extra : c.task->extra_columns())
      if (std::find(known_metrics.begin(), known_metrics.end(), extra) == known_metrics.end())
        known_metrics.push_back(std::move(extra));
  for (const std::string& m : sweep.metrics)
    if (std::find(known_metrics.begin(), known_metrics.end(), m) == known_metrics.end())
      p.fail("metrics", unknown_name("metric", m, known_metrics));
  if (sweep.cells.empty()) p.fail("exclude", "every combination of the axes is excluded; no cell is left");
  sweep.resolved = compact_resolved(keys, sweep.cells);
  return sweep;
}

}  // namespace

std::vector<Sweep> load_sweeps(const std::string& path, const std::vector<Setting>& settings,
                               const std::string& hash_cache, std::optional<int64_t> spill_above) {
  const std::vector<WrittenSweep> written = read_sweep_file(path, settings);
  const std::filesystem::path beside = std::filesystem::path(hash_cache).parent_path();
  const std::string cache =
      (beside.empty() ? std::filesystem::temp_directory_path() / "fp4lab" : beside) / "cache";
  ContentHashes hashes(hash_cache);
  SourceCache sources;
  ModelCache models;
  TaskContext context{"",    [&](const std::string& p) { return hashes.of(p); }, &sources, &models,
                      cache, {spill_above.value_or(machine_memory() / 4), cache}};
  std::vector<Sweep> sweeps;
  for (const WrittenSweep& w : written) {
    context.base_dir = std::filesystem::path(w.place.file).parent_path().string();
    Sweep sweep = resolve(w, context);
    for (const Sweep& other : sweeps)
      if (other.name == sweep.name)
        throw ConfigError(w.place.text() + ": two sweeps of this list are named \"" + sweep.name + "\"");
    sweeps.push_back(std::move(sweep));
  }
  hashes.save();
  return sweeps;
}

}  // namespace fp4lab
