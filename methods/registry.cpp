// methods/registry.cpp - every method fp4lab knows by name. To add one that combines known parts, add a row.
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "formats/registry.h"
#include "methods/method.h"

namespace fp4lab {

namespace {
constexpr MethodEntry kMethods[] = {
    {"rtn", "round to nearest on the scales that weight_scales chooses", {}},
};

MethodSpec read_object(Params& p) {
  const std::string base = p.choice("base", "rtn", method_names(), {"a named method to start from"});
  const Json& scales = p.raw(
      "weight_scales", {"how the weights' scales are chosen: rule (the format's own), alternate, mse_shrink, "
                        "four_over_six, sweep, search; default rule"});
  p.text("label", "", {"the name its rows carry"});
  MethodSpec spec = find_named(kMethods, base)->spec;
  if (p.is_declaring()) return spec;
  p.done();
  if (!scales.is_null()) spec.weight_scales = parse_weight_scales(scales, p.place("weight_scales"));
  return spec;
}
}  // namespace

std::span<const MethodEntry> methods() { return kMethods; }

std::vector<std::string> method_names() { return names_of(kMethods); }

NamedMethod parse_method(const Json& value, const Place& place) {
  if (value.is_string()) {
    const std::string name = value.get<std::string>();
    if (const MethodEntry* m = find_named(kMethods, name)) return {m->spec, name};
    throw ConfigError(place.text() + ": " + unknown_name("method", name, method_names()));
  }
  if (!value.is_object())
    throw ConfigError(place.text() + ": expected a method (a name or an object), found " + describe(value));
  Params p(value, place, "a method");
  const MethodSpec spec = read_object(p);
  return {spec, label_of(value)};
}

void declare_method(Params& p) { read_object(p); }

Json method_json(const MethodSpec& spec) {
  return {{"weight_scales", weight_scales_json(spec.weight_scales)}};
}

}  // namespace fp4lab
