#include "analysis/table.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <set>

#include "core/errors.h"
#include "core/text.h"

namespace fp4lab {

std::string format_number(double v, int digits) {
  if (std::isnan(v)) return "";
  if (std::isinf(v)) return v > 0 ? "inf" : "-inf";
  char text[64];
  if (v == std::floor(v) && std::fabs(v) < 1e15) {  // counts
    std::snprintf(text, sizeof text, "%.0f", v);
    return text;
  }
  if (digits >= 17) return {text, std::to_chars(text, text + sizeof text, v).ptr};  // reads back exactly
  if (v == 0 || std::fabs(v) < 1e-4 || std::fabs(v) >= 1e6) {
    std::snprintf(text, sizeof text, "%.*g", digits, v);
    return text;
  }
  const int before = int(std::floor(std::log10(std::fabs(v)))) + 1;
  std::snprintf(text, sizeof text, "%.*f", std::max(0, digits - before), v);
  return text;
}

std::string ResultTable::Column::at(size_t row, int digits) const {
  return is_text ? texts[row] : format_number(numbers[row], digits);
}

const ResultTable::Column* ResultTable::find(const std::string& column) const {
  for (const Column& c : columns)
    if (c.name == column) return &c;
  return nullptr;
}

ResultTable ResultTable::read(const std::string& path) {
  const h5::File file = h5::File::open_readonly(path);
  if (!file.exists("/table/key") || !file.has_attribute("/", "name"))
    throw DataError(path + ": not a result file of fp4lab");
  ResultTable t;
  t.name = file.attribute_text("/", "name");
  std::vector<std::string> names = file.children("/table");
  std::sort(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
    return file.attribute_number("/table/" + a, "position") <
           file.attribute_number("/table/" + b, "position");
  });
  for (const std::string& name : names) {
    const std::string at = "/table/" + name;
    Column c{name, file.attribute_text(at, "role"), file.attribute_text(at, "units"), file.is_text(at), {},
             {}};
    if (c.is_text)
      c.texts = file.read_strings(at);
    else
      c.numbers = file.read_doubles(at);
    t.rows = c.is_text ? c.texts.size() : c.numbers.size();
    t.columns.push_back(std::move(c));
  }
  return t;
}

namespace {

using Column = ResultTable::Column;

std::vector<std::string> names_of(const ResultTable& t, const std::set<std::string>& roles) {
  std::vector<std::string> names;
  for (const Column& c : t.columns)
    if (roles.contains(c.role)) names.push_back(c.name);
  return names;
}

const Column& need(const ResultTable& t, const std::string& name, const std::set<std::string>& roles,
                   const char* what) {
  const Column* c = t.find(name);
  if (!c || !roles.contains(c->role))
    throw ConfigError(t.name + ": " + unknown_name(what, name, names_of(t, roles)));
  return *c;
}

/// The texts of some axes for one row of the file.
std::vector<std::string> key_of(const std::vector<const Column*>& axes, size_t row) {
  std::vector<std::string> key;
  for (const Column* a : axes) key.push_back(a->at(row, 17));
  return key;
}

std::vector<double> numbers_of(const Column& c, const std::vector<size_t>& rows) {
  std::vector<double> v;
  for (size_t r : rows) v.push_back(c.numbers[r]);
  return v;
}

/// One text per printed cell: the value, or "mean ± deviation" over the rows that fall on it.
std::string value_text(const Column& c, const std::vector<size_t>& rows, int digits) {
  if (c.is_text) return rows.empty() ? "" : c.texts[rows[0]];
  return format_mean(mean_deviation(numbers_of(c, rows)), digits);
}

std::string escape(const std::string& text, const std::string& format) {
  std::string out;
  for (char c : text) {
    if (format == "latex" && (c == '\\' || c == '^' || c == '~')) {  // commands, not characters, after a '\'
      out += c == '\\' ? "\\textbackslash{}" : c == '^' ? "\\textasciicircum{}" : "\\textasciitilde{}";
      continue;
    }
    if (format == "latex" && std::string("_%&#${}").find(c) != std::string::npos) out += '\\';
    if (format == "markdown" && c == '|') out += '\\';
    if (format == "csv" && c == '"') out += '"';
    out += c;
  }
  if (format == "csv" && out.find_first_of(",\"\n") != std::string::npos) return "\"" + out + "\"";
  return out;
}

/// Width on a terminal: code points, not bytes.
size_t width(const std::string& s) {
  size_t n = 0;
  for (char c : s) n += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return n;
}

}  // namespace

std::string format_grid(const TextGrid& g, const std::string& format) {
  std::vector<std::vector<std::string>> lines = {g.header};
  lines.insert(lines.end(), g.rows.begin(), g.rows.end());
  for (auto& line : lines)
    for (std::string& cell : line) cell = escape(cell, format);
  std::vector<size_t> widths(g.header.size(), 3);
  for (const auto& line : lines)
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], width(line[i]));
  std::string out;
  if (format == "latex") {
    out += "\\begin{tabular}{" + std::string(g.labels, 'l') + std::string(g.header.size() - g.labels, 'r') +
           "}\n\\toprule\n";
  }
  for (size_t l = 0; l < lines.size(); ++l) {
    for (size_t i = 0; i < lines[l].size(); ++i) {
      const std::string pad(widths[i] - width(lines[l][i]), ' ');
      const std::string cell = i < g.labels ? lines[l][i] + pad : pad + lines[l][i];
      if (format == "csv")
        out += (i ? "," : "") + lines[l][i];
      else if (format == "latex")
        out += (i ? " & " : "") + cell;
      else
        out += (i ? " | " : "| ") + cell;
    }
    out += format == "csv" ? "\n" : format == "latex" ? " \\\\\n" : " |\n";
    if (l == 0 && format == "latex") out += "\\midrule\n";
    if (l == 0 && format == "markdown") {
      for (size_t i = 0; i < widths.size(); ++i)
        out += (i ? " | " : "| ") +
               (i < g.labels ? std::string(widths[i], '-') : std::string(widths[i] - 1, '-') + ":");
      out += " |\n";
    }
  }
  if (format == "latex") out += "\\bottomrule\n\\end{tabular}\n";
  return out;
}

std::string format_heading(const std::string& text, const std::string& format) {
  if (format == "markdown") return "**" + text + "**\n\n";
  return (format == "latex" ? "% " : "# ") + text + "\n";
}

MeanDeviation mean_deviation(std::span<const double> values) {
  constexpr double none = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> v;
  for (double x : values)
    if (!std::isnan(x)) v.push_back(x);
  if (v.empty()) return {0, none, none};
  if (v.size() == 1) return {1, v[0], none};
  // A rounded mean would let equal values deviate by 1e-16.
  if (std::all_of(v.begin(), v.end(), [&](double x) { return x == v[0]; })) return {v.size(), v[0], 0};
  double mean = 0, squares = 0;
  for (double x : v) mean += x / double(v.size());
  for (double x : v) squares += (x - mean) * (x - mean);
  return {v.size(), mean, std::sqrt(squares / double(v.size() - 1))};
}

std::string format_mean(const MeanDeviation& m, int digits) {
  if (m.count < 2) return format_number(m.mean, digits);
  return format_number(m.mean, digits) + " ± " +
         (m.deviation == 0 ? "0" : format_number(m.deviation, std::min(digits, 2)));
}

std::string format_table(const ResultTable& t, const TableLayout& layout) {
  static const std::vector<std::string> formats = {"markdown", "csv", "latex"};
  if (std::find(formats.begin(), formats.end(), layout.format) == formats.end())
    throw ConfigError("--format: " + unknown_name("format", layout.format, formats));
  if (names_of(t, {"metric"}).empty())
    throw DataError(t.name + ": no cell is done yet, so there is nothing to show");
  const int digits = layout.format == "csv" ? 17 : 5;
  std::vector<const Column*> row_axes, col_axes, split_axes, values;
  for (const std::string& n : layout.cols) col_axes.push_back(&need(t, n, {"axis"}, "axis"));
  for (const std::string& n : layout.rows) row_axes.push_back(&need(t, n, {"axis"}, "axis"));
  for (const std::string& n : layout.values)
    values.push_back(&need(t, n, {"metric", "text", "cell"}, "value"));
  if (values.empty()) throw ConfigError("which values? " + t.name + " has " + join(names_of(t, {"metric"})));
  for (const Column& c : t.columns) {
    const bool named = std::find(col_axes.begin(), col_axes.end(), &c) != col_axes.end() ||
                       std::find(row_axes.begin(), row_axes.end(), &c) != row_axes.end();
    if (c.role != "axis" || named || c.name == "seed") continue;
    (layout.rows.empty() ? row_axes : split_axes).push_back(&c);
  }

  // Sections, rows and columns in the order of the cells.
  using Key = std::vector<std::string>;
  std::vector<Key> sections, cols;
  std::map<Key, std::vector<Key>> rows;
  std::map<Key, std::vector<size_t>> found;  // section + row + col -> rows of the file
  auto add = [](std::vector<Key>& list, const Key& k) {
    if (std::find(list.begin(), list.end(), k) == list.end()) list.push_back(k);
  };
  for (size_t r = 0; r < t.rows; ++r) {
    bool wanted = true;
    for (const auto& [axis, value] : layout.where)
      wanted = wanted && need(t, axis, {"axis", "text", "cell"}, "axis").at(r, 17) == value;
    if (!wanted) continue;
    const Key section = key_of(split_axes, r), row = key_of(row_axes, r), col = key_of(col_axes, r);
    add(sections, section), add(rows[section], row), add(cols, col);
    Key all = section;
    all.insert(all.end(), row.begin(), row.end());
    all.insert(all.end(), col.begin(), col.end());
    found[all].push_back(r);
  }
  if (sections.empty()) throw ConfigError(t.name + ": no cell is left by --where");

  // In csv, numbers stay numbers: where seeds fall together, the deviation has a column of its own.
  const bool deviations =
      layout.format == "csv" &&
      std::any_of(found.begin(), found.end(), [](const auto& f) { return f.second.size() > 1; });
  std::string out;
  for (const Key& section : sections) {
    TextGrid g;
    g.labels = row_axes.size();
    for (const Column* a : row_axes) g.header.push_back(a->name);
    for (const Key& col : cols)
      for (const Column* v : values) {
        std::string head = join(col, ", ");
        if (col.empty() || values.size() > 1) head += (head.empty() ? "" : " ") + v->name;
        if (v->units != "1" && !v->units.empty() && v->role == "metric" &&
            v->name.find(v->units) == std::string::npos && v->units != "bits")
          head += " [" + v->units + "]";
        g.header.push_back(head);
        if (deviations && !v->is_text) g.header.push_back(head + " sd");
      }
    for (const Key& row : rows[section]) {
      std::vector<std::string> line = row;
      for (const Key& col : cols) {
        Key all = section;
        all.insert(all.end(), row.begin(), row.end());
        all.insert(all.end(), col.begin(), col.end());
        for (const Column* v : values) {
          const std::vector<size_t> none, &here = found.contains(all) ? found[all] : none;
          if (deviations && !v->is_text) {
            const MeanDeviation sum = mean_deviation(numbers_of(*v, here));
            line.push_back(format_number(sum.mean, digits));
            line.push_back(format_number(sum.deviation, digits));
          } else {
            line.push_back(here.empty() ? "" : value_text(*v, here, digits));
          }
        }
      }
      g.rows.push_back(std::move(line));
    }
    if (sections.size() > 1 || !section.empty()) {
      std::string heading;
      for (size_t i = 0; i < section.size(); ++i)
        heading += (i ? ", " : "") + split_axes[i]->name + " = " + section[i];
      out += (out.empty() ? "" : "\n") + format_heading(heading, layout.format);
    }
    out += format_grid(g, layout.format);
  }
  return out;
}

}  // namespace fp4lab
