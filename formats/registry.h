// formats/registry.h - every format fp4lab knows by name, and how one is composed in JSON.
//   "nvfp4"
//   {"base": "nvfp4", "group_size": 32, "label": "nvfp4-g32"}
//   {"element": "e2m1", "group_size": 32, "scale": "ue8m0", "rule": {"type": "map", "c": 3.6}}
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/params.h"
#include "formats/format.h"

namespace fp4lab {

struct FormatEntry {
  std::string_view name, description;
  FormatSpec spec;
};
/// All of them, in the order the docs show them.
std::span<const FormatEntry> formats();
const FormatEntry* find_format(std::string_view name);
std::vector<std::string> format_names();

/// A format as a sweep writes it, and the name its rows carry: `label`, the plain name, or the compact JSON.
struct NamedFormat {
  FormatSpec spec;
  std::string label;
};

/// Reads a name or an object. ConfigError with the place for unknown names and keys, and for combinations
/// that cannot work (format_problem).
NamedFormat parse_format(const Json& value, const Place& place);

/// The canonical JSON of a format: every key, no label; equal formats give equal JSON. parse_format reads it
/// back.
Json format_json(const FormatSpec& spec);

/// Reads `weight_scales`: "rule", "alternate", "mse_shrink", or a rule that searches ("sweep", {"type":
/// "sweep", "lo": -8, "hi": 7, "metric": "hessian_diagonal"}, "four_over_six", "search", "grid"),
/// "local_hessian".
WeightScales parse_weight_scales(const Json& value, const Place& place);
Json weight_scales_json(const WeightScales& w);

/// The factory behind parse_format, for `fp4lab list formats` and the schema.
void declare_format(Params& p);
void declare_rule(Params& p);

}  // namespace fp4lab
