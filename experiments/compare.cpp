#include "experiments/compare.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "analysis/paper.h"
#include "core/text.h"

namespace fp4lab {

namespace {

/// A method in one format: what each side has of it.
struct Entry {
  std::string method;
  std::map<std::string, double> kl;  // seed -> value, of the cells that are done
  std::vector<double> kls, recoveries;
  std::optional<PaperRow> paper;

  bool on_both_sides() const { return paper && !kl.empty(); }
};

struct Group {
  std::string format;
  std::vector<Entry> entries;

  /// Whether we have measured any of it.
  bool ours() const {
    return std::any_of(entries.begin(), entries.end(), [](const Entry& e) { return !e.kl.empty(); });
  }

  Entry& at(const std::string& method) {
    for (Entry& e : entries)
      if (e.method == method) return e;
    entries.push_back({method, {}, {}, {}, {}});
    return entries.back();
  }
};

/// The cells that agree in all axes but format, method, activations and seed.
struct Section {
  std::string title, ours;  // "calibration.windows = 16"; "tiny-llama, selfgen"
  std::vector<Group> groups;

  Group& at(const std::string& format) {
    for (Group& g : groups)
      if (g.format == format) return g;
    groups.push_back({format, {}});
    return groups.back();
  }
};

/// How pairs of methods are ordered on the two sides.
struct Pairs {
  int same = 0, opposite = 0, undecided = 0;
  int all() const { return same + opposite + undecided; }
  std::string text() const {
    return str("pairs in the same order: ", same, " of ", all(), " (", opposite, " opposite, ", undecided,
               " undecided)");
  }
};

/// 1 when a's kl is lower, -1 when it is higher, 0 when that is not sure.
int our_order(const Entry& a, const Entry& b) {
  std::vector<double> differences;
  for (const auto& [seed, kl] : a.kl)
    if (const auto other = b.kl.find(seed); other != b.kl.end()) differences.push_back(other->second - kl);
  const MeanDeviation d = mean_deviation(differences);
  if (d.count == 0) return 0;
  const double error = d.count == 1 ? 0 : d.deviation / std::sqrt(double(d.count));
  return d.mean > 2 * error ? 1 : d.mean < -2 * error ? -1 : 0;
}

/// 1: the same order on both sides, -1: the opposite one, 0: undecided.
int agreement(const Entry& a, const Entry& b) { return our_order(a, b) * paper_order(*a.paper, *b.paper); }

Pairs count_pairs(const Group& g) {
  Pairs pairs;
  for (size_t i = 0; i < g.entries.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (g.entries[i].on_both_sides() && g.entries[j].on_both_sides()) {
        const int a = agreement(g.entries[i], g.entries[j]);
        (a > 0 ? pairs.same : a < 0 ? pairs.opposite : pairs.undecided) += 1;
      }
  return pairs;
}

/// 1 + how many methods on both sides do better; `score`: higher is better.
template <class Score>
std::string rank(const Group& g, const Entry& e, const Score& score) {
  int better = 0;
  for (const Entry& other : g.entries) better += other.on_both_sides() && score(other) > score(e);
  return std::to_string(1 + better);
}

/// Reads the cells of a result file: its axes, and what the sweep says once.
class Cells {
 public:
  Cells(const PaperComparison& c, const ResultTable& t) : comparison_(c), table_(t) {}

  /// The text of an axis or of a key in one row; "" when neither is there.
  std::string text(const std::string& key, size_t row) const {
    if (const auto* axis = table_.find(key); axis && axis->role == "axis") return axis->at(row, 17);
    const auto fixed = comparison_.fixed.find(key);
    return fixed == comparison_.fixed.end() ? "" : fixed->second;
  }
  /// Whether the row's cell is weight-only; nothing when it belongs to neither kind of table.
  std::optional<bool> weight_only(size_t row) const {
    const std::string format = text("format", row), activations = text("activations", row);
    if (format == "null") return {};
    if (activations == "null") return true;
    if (activations == "same" || activations == format) return false;
    return {};
  }
  std::string title(size_t row) const {
    std::string out;
    for (const ResultTable::Column& c : table_.columns)
      if (c.role == "axis" && c.name != "format" && c.name != "method" && c.name != "activations" &&
          c.name != "seed")
        out += (out.empty() ? "" : ", ") + c.name + " = " + c.at(row, 17);
    return out;
  }
  /// "tiny-llama, selfgen": the model's folder and the corpus that the plain columns are of.
  std::string ours(size_t row) const {
    namespace fs = std::filesystem;
    fs::path model = fs::path(text("model.path", row)).lexically_normal();
    if (!model.has_filename()) model = model.parent_path();  // written with a '/' at its end
    std::string corpus = text("evaluate.corpora", row);
    if (const Json list = Json::parse(corpus, nullptr, false); list.is_array() && !list.empty())
      corpus = label_of(list[0]);
    std::string name = model.filename().string();
    if (name.empty()) name = "ours";
    return name + (corpus.empty() ? "" : ", " + fs::path(corpus).stem().string());
  }

 private:
  const PaperComparison& comparison_;
  const ResultTable& table_;
};

std::vector<Section> read_sections(const PaperComparison& c, const ResultTable& t, const PaperTable& paper) {
  const auto *kl = t.find("kl"), *recovery = t.find("recovery_percent");
  if (!kl || !recovery || kl->is_text || recovery->is_text)
    throw DataError(t.name + ": no columns kl and recovery_percent to compare with the paper's " +
                    std::string(paper.name));
  const Cells cells(c, t);
  std::vector<Section> sections;
  for (size_t row = 0; row < t.rows; ++row) {
    if (cells.weight_only(row) != paper.weight_only) continue;
    const std::string title = cells.title(row);
    auto section =
        std::find_if(sections.begin(), sections.end(), [&](const Section& s) { return s.title == title; });
    if (section == sections.end())
      section = sections.insert(sections.end(), Section{title, cells.ours(row), {}});
    Entry& e = section->at(cells.text("format", row)).at(cells.text("method", row));
    // "same" and the format's own name mean one cell: it counts once.
    if (std::isnan(kl->numbers[row]) || !e.kl.emplace(cells.text("seed", row), kl->numbers[row]).second)
      continue;
    e.kls.push_back(kl->numbers[row]);
    e.recoveries.push_back(recovery->numbers[row]);
  }
  for (Section& s : sections)
    for (const PaperRow& r : paper_rows(paper.name)) {
      bool taken = false;  // our formats that are this one; without any, a group of the paper's own
      for (Group& g : s.groups)
        if (paper_format(g.format) == r.format) g.at(std::string(r.method)).paper = r, taken = true;
      if (!taken) s.at(std::string(r.format)).at(std::string(r.method)).paper = r;
    }
  return sections;
}

/// Numbers as texts: in csv they stay numbers, elsewhere the deviation goes with the mean.
struct Numbers {
  bool csv, our_seeds, paper_seeds;  // seeds: there are deviations to show

  std::string none() const { return csv ? "" : "-"; }
  void add_header(TextGrid& g, const std::string& name, bool deviation) const {
    g.header.push_back(name);
    if (csv && deviation) g.header.push_back(name + " sd");
  }
  void add(std::vector<std::string>& line, const MeanDeviation& m, bool deviation, int digits) const {
    const bool with_mean = !csv && m.count > 1;
    line.push_back(m.count == 0 ? none()
                   : with_mean  ? format_mean(m, digits)
                                : format_number(m.mean, digits));
    if (csv && deviation) line.push_back(format_number(m.deviation, digits));
  }
};

void add_row(TextGrid& grid, const Numbers& n, const Group& g, const Entry& e) {
  std::vector<std::string> line = {g.format, e.method};
  const int digits = n.csv ? 17 : 5;
  n.add(line, mean_deviation(e.recoveries), n.our_seeds, digits);
  n.add(line, mean_deviation(e.kls), n.our_seeds, digits);
  // As the paper prints them: the fewest digits.
  const double average = e.paper ? e.paper->average : std::nan("");
  line.push_back(std::isnan(average) ? n.none() : format_number(average, 17));
  const double deviation = e.paper ? e.paper->deviation : std::nan("");
  std::string recovery = e.paper ? format_number(e.paper->recovery, 17) : n.none();
  if (!n.csv && !std::isnan(deviation)) recovery += " ± " + format_number(deviation, 17);
  line.push_back(std::move(recovery));
  if (n.csv && n.paper_seeds) line.push_back(format_number(deviation, 17));
  if (e.on_both_sides()) {
    line.push_back(rank(g, e, [](const Entry& x) { return -mean_deviation(x.kls).mean; }));
    line.push_back(rank(g, e, [](const Entry& x) { return x.paper->recovery; }));
    std::vector<std::string> others;
    for (const Entry& o : g.entries)
      if (o.on_both_sides() && agreement(e, o) < 0) others.push_back(o.method);
    line.push_back(join(others));
  } else {
    line.insert(line.end(), 3, n.none());
  }
  grid.rows.push_back(std::move(line));
}

}  // namespace

PaperComparison read_comparison(const Json& sweep, const Place& place) {
  PaperComparison c;
  if (!sweep.is_object() || !sweep.contains("compare") || sweep["compare"].is_null()) return c;
  Params p(sweep["compare"], place.child("compare"), "a comparison");
  c.paper = p.text("paper", {"a table of arXiv 2509.23202"});
  if (!find_named(paper_tables(), c.paper))
    p.fail("paper", unknown_name("table of the paper", c.paper, names_of(paper_tables())));
  p.done();
  if (sweep.value("task", Json()) != "model")
    throw ConfigError(place.child("compare").text() +
                      ": the paper's tables are compared by kl and recovery_percent, which only the task "
                      "model measures");
  c.fixed = {{"activations", "same"}, {"method", "rtn"}};
  for (const char* key : {"format", "method", "activations"})
    if (sweep.contains(key)) c.fixed[key] = label_of(sweep[key]);
  for (const auto& [object, key] : {std::pair{"model", "path"}, std::pair{"evaluate", "corpora"}})
    if (sweep.contains(object) && sweep[object].is_object() && sweep[object].contains(key))
      c.fixed[str(object, ".", key)] = label_of(sweep[object][key]);
  return c;
}

PaperComparison stored_comparison(const std::string& file) {
  const std::string written = h5::File::open_readonly(file).read_strings("/experiment/written").front();
  return read_comparison(parse_json(written, file), {file, "", nullptr});
}

std::string format_comparison(const PaperComparison& c, const ResultTable& t, const std::string& format) {
  const PaperTable& paper = *find_named(paper_tables(), c.paper);
  const std::vector<Section> sections = read_sections(c, t, paper);
  const std::string note = format == "markdown" ? "" : format == "latex" ? "% " : "# ";
  if (sections.empty())
    return str(note, "no cell of ", t.name, " is ", paper.weight_only ? "weight-only (W4A16)" : "W4A4",
               ", as the paper's ", paper.name, " is\n");
  std::string out;
  for (const Section& s : sections) {
    Numbers n{format == "csv", false, false};
    for (const Group& g : s.groups)
      for (const Entry& e : g.entries) {
        n.our_seeds |= e.kl.size() > 1;
        n.paper_seeds |= e.paper && !std::isnan(e.paper->deviation);
      }
    TextGrid grid{{"format", "method"}, {}, 2};
    n.add_header(grid, s.ours + ": recovery_percent", n.our_seeds);
    n.add_header(grid, s.ours + ": kl", n.our_seeds);
    n.add_header(grid, "paper: average", false);
    n.add_header(grid, "paper: recovery_percent", n.paper_seeds);
    for (const char* name : {"our rank (kl, lower is better)", "paper's rank (recovery)", "disagrees with"})
      grid.header.emplace_back(name);
    Pairs total;
    std::string counts;
    for (const Group& g : s.groups) {
      for (const Entry& e : g.entries) add_row(grid, n, g, e);
      const Pairs pairs = count_pairs(g);
      total.same += pairs.same, total.opposite += pairs.opposite, total.undecided += pairs.undecided;
      if (pairs.all()) counts += note + g.format + ": " + pairs.text() + "\n";
    }
    out += (out.empty() ? "" : "\n") +
           format_heading(str(s.ours, " beside ", paper.name, ", ", paper.what, ", of paper: ", paper.label,
                              s.title.empty() ? "" : "; ", s.title),
                          format);
    out += format_grid(grid, format) + (format == "markdown" ? "\n" : "");
    out += note +
           "Ranks are among a format's methods that both sides have. Our recovery is of perplexity, the "
           "paper's of accuracies: not to be subtracted.\n";
    out += note + "A pair counts when our kl differs by more than " +
           (n.our_seeds ? "twice the standard error of the paired difference over seeds"
                        : "0 (one seed: no error of its own)") +
           " and the paper's recovery by more than " + format_number(kPaperNoise, 17) + " points" +
           (n.paper_seeds ? " and twice the standard error of its difference over 5 seeds" : "") + ".\n";
    if (std::any_of(s.groups.begin(), s.groups.end(),
                    [](const Group& g) { return g.format == "mxfp4" && g.ours(); }))
      out += note + "The scale rule of the paper's mxfp4 is that of our mxfp4-paper.\n";
    if (format == "markdown") out += "\n";
    out += counts + note + "all: " + total.text() + "\n";
  }
  return out;
}

}  // namespace fp4lab
