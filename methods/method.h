// methods/method.h - a method as a value: model rotation x transform x weight scales x rounding. Today:
// transforms and weight scales with round-to-nearest; the other axes join with their methods.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/params.h"
#include "formats/quantize.h"
#include "methods/transforms/site_transforms.h"

namespace fp4lab {

struct MethodSpec {
  SiteTransforms transform{};  // of each site; all empty: the weights as they are
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
/// "rtn", or {"base": "rtn", "transform": {"type": "hadamard", "k": 128}, "weight_scales": "alternate",
/// "label": "rtn+ht128"}. What an object names replaces what its base has, `"transform": []` too.
/// ConfigError with the place.
NamedMethod parse_method(const Json& value, const Place& place);
/// The canonical JSON: every key, no label. `transform` is there only where a site has one, so that the keys
/// of cells stored before there were transforms still hold. parse_method reads it back.
Json method_json(const MethodSpec& spec);
/// The factory behind parse_method, for `fp4lab list methods` and the schema.
void declare_method(Params& p);

}  // namespace fp4lab
