// Methods between JSON and values.
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "formats/registry.h"
#include "methods/method.h"

namespace fp4lab {

namespace {

const std::vector<std::string> kHessianInputs = {"quantized", "full_precision"};

bool looks_at_inputs(const MethodSpec& m) {
  bool any = m.rounding.kind != Rounding::rtn || m.weight_scales.needs_hessian();
  for (const auto& site : m.transform) any = any || needs_of(site).any();
  return any;
}

RotationSpec read_rotation(const Json& value, const Place& place) {
  if (value.is_null() || value == "none") return {};
  if (value == "hadamard") return {.kind = RotationSpec::hadamard};
  if (!value.is_object())
    throw ConfigError(place.text() + ": expected none, hadamard or an object with \"type\", found " +
                      describe(value));
  Params p(value, place, "a rotation");
  RotationSpec spec;
  if (p.choice("type", {"none", "hadamard"}, {"of the residual stream"}) == "hadamard")
    spec.kind = RotationSpec::hadamard;
  if (spec.kind != RotationSpec::none)
    spec.heads = p.boolean("heads", true, {"rotate the heads of v_proj's outputs too"});
  p.done();
  return spec;
}

MethodSpec read_object(Params& p) {
  const std::string base = p.choice("base", "rtn", method_names(), {"a named method to start from"});
  MethodSpec spec = find_named(methods(), base)->spec;
  const Json& rotation = p.raw(
      "rotation", {"of the whole model before anything else: none, hadamard or {\"type\": \"hadamard\", "
                   "\"heads\": bool}; default the base's"});
  const Json& transform = p.raw(
      "transform", {"change of coordinates before quantizing: a name, an object with \"type\" (fp4lab list "
                    "transforms), a list, or an object by site (qkv, o, gate_up, down); default the base's"});
  const Json& scales =
      p.raw("weight_scales",
            {"how the weights' scales are chosen: rule (the format's own) or a search (fp4lab list "
             "scales); default the base's"});
  p.text("label", "", {"the name its rows carry"});
  spec.rounding = read_rounding(p, spec.rounding);
  const std::string inputs =
      p.choice("hessian_inputs", kHessianInputs[size_t(spec.hessian_inputs)], kHessianInputs,
               {"what is seen of a site's inputs: as the quantized blocks before it produce them, or as the "
                "original model does"});
  if (p.is_declaring()) return spec;
  p.done();
  spec.hessian_inputs = inputs == "quantized" ? HessianInputs::quantized : HessianInputs::full_precision;
  if (p.has("rotation")) spec.rotation = read_rotation(rotation, p.place("rotation"));
  if (p.has("transform")) spec.transform = parse_site_transforms(transform, p.place("transform"));
  if (!scales.is_null()) spec.weight_scales = parse_weight_scales(scales, p.place("weight_scales"));
  if (entry_of(spec.rounding.kind).needs.cross && spec.hessian_inputs == HessianInputs::full_precision)
    p.fail(p.has("hessian_inputs") ? "hessian_inputs" : "rounding",
           str(entry_of(spec.rounding.kind).name,
               " compares the quantized model's inputs with the original's: hessian_inputs quantized"));
  if (!looks_at_inputs(spec)) {
    if (p.has("hessian_inputs")) p.fail("hessian_inputs", "nothing in this method looks at a site's inputs");
    spec.hessian_inputs = HessianInputs::quantized;
  }
  return spec;
}

}  // namespace

StatsNeeds needs_of(const MethodSpec& method, SiteKind site, const FormatSpec* weights) {
  StatsNeeds needs = needs_of(method.transform[size_t(site)]);
  if (!weights) return needs;
  if (method.weight_scales.needs_hessian()) needs.hessian = true;
  return needs | entry_of(method.rounding.kind).needs;
}

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
  if (spec.rotation.kind != RotationSpec::none)
    json["rotation"] = {{"type", "hadamard"}, {"heads", spec.rotation.heads}};
  write_rounding(spec.rounding, json);
  if (looks_at_inputs(spec)) json["hessian_inputs"] = kHessianInputs[size_t(spec.hessian_inputs)];
  return json;
}

}  // namespace fp4lab
