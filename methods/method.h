// methods/method.h - a method as a value: model rotation x transform x weight scales x rounding. Today:
// weight scales with round-to-nearest; the other axes join with their methods.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/params.h"
#include "formats/quantize.h"

namespace fp4lab {

struct MethodSpec {
  WeightScales weight_scales{};
};

struct MethodEntry {
  std::string_view name, description;
  MethodSpec spec;
};
/// Every named method, in the order the docs show them.
std::span<const MethodEntry> methods();
std::vector<std::string> method_names();

struct NamedMethod {
  MethodSpec spec;
  std::string label;
};
/// "rtn", or {"base": "rtn", "weight_scales": "alternate", "label": "rtn+alternate"}. ConfigError with the
/// place.
NamedMethod parse_method(const Json& value, const Place& place);
/// The canonical JSON: every key, no label.
Json method_json(const MethodSpec& spec);
/// The factory behind parse_method, for `fp4lab list methods` and the schema.
void declare_method(Params& p);

}  // namespace fp4lab
