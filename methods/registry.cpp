// methods/registry.cpp - every method fp4lab knows by name. To add one that combines known parts, add a row.
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "formats/registry.h"
#include "methods/method.h"

namespace fp4lab {

namespace {
/// The same transforms at every site.
SiteTransforms at_every_site(std::vector<TransformSpec> transforms) {
  SiteTransforms all;
  all.fill(transforms);
  return all;
}
constexpr TransformSpec kGroupHadamard{TransformSpec::hadamard};

MethodSpec read_object(Params& p) {
  const std::string base = p.choice("base", "rtn", method_names(), {"a named method to start from"});
  const Json& transform = p.raw(
      "transform", {"change of coordinates before quantizing: a name, an object with \"type\" (fp4lab list "
                    "transforms), a list, or an object by site (qkv, o, gate_up, down); default the base's"});
  const Json& scales = p.raw(
      "weight_scales", {"how the weights' scales are chosen: rule (the format's own), alternate, mse_shrink, "
                        "four_over_six, sweep, search; default rule"});
  p.text("label", "", {"the name its rows carry"});
  MethodSpec spec = find_named(methods(), base)->spec;
  if (p.is_declaring()) return spec;
  p.done();
  if (p.has("transform")) spec.transform = parse_site_transforms(transform, p.place("transform"));
  if (!scales.is_null()) spec.weight_scales = parse_weight_scales(scales, p.place("weight_scales"));
  return spec;
}
}  // namespace

std::span<const MethodEntry> methods() {
  static const MethodEntry list[] = {
      {"rtn", "round to nearest on the scales that weight_scales chooses", {}},
      {"rtn+ht",
       "rtn after a block Hadamard of the format's group size",
       {.transform = at_every_site({kGroupHadamard}), .weight_scales = {}}},
  };
  return list;
}

std::vector<std::string> method_names() { return names_of(methods()); }

NamedMethod parse_method(const Json& value, const Place& place) {
  if (value.is_string()) {
    const std::string name = value.get<std::string>();
    if (const MethodEntry* m = find_named(methods(), name)) return {m->spec, name};
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
  Json json = {{"weight_scales", weight_scales_json(spec.weight_scales)}};
  if (spec.transform != SiteTransforms{}) json["transform"] = site_transforms_json(spec.transform);
  return json;
}

}  // namespace fp4lab
