// Formats and rules between JSON and values.
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "formats/registry.h"

namespace fp4lab {

namespace {

const std::vector<std::string> kScaleFloors = {"none", "min_subnormal", "min_normal"};

/// {"type": "map", "c": 3.6} or "map". The fallback's parameters are kept when its own name is repeated.
ScaleRule read_rule(const Json& value, const Place& place) {
  if (value.is_string()) {
    const ScaleRuleEntry* found = find_scale_rule(value.get<std::string>());
    if (!found)
      throw ConfigError(place.text() + ": " +
                        unknown_name("rule", value.get<std::string>(), scale_rule_names()));
    return {.kind = found->kind};
  }
  if (!value.is_object())
    throw ConfigError(place.text() + ": expected a rule (a name or an object), found " + describe(value));
  Params p(value, place, "a rule");
  const ScaleRule::Kind kind =
      find_scale_rule(p.choice("type", scale_rule_names(), {"the rule's name"}))->kind;
  ScaleRule rule{.kind = kind};
  if (kind == ScaleRule::map)
    rule.c = p.number("c", rule.c, {"amax/scale lands in [c, 2c)", 0x1p-19, 0x1p19});
  if (kind == ScaleRule::search)
    rule.k = int(p.integer("k", rule.k, {"powers of two tried: floor, 2 floor, floor/2, ...", 1, 9}));
  if (kind == ScaleRule::sweep) {
    rule.lo = int(p.integer("lo", rule.lo, {"first code, relative to the absmax code", -126, 0}));
    rule.hi = int(p.integer("hi", rule.hi, {"last code, relative to the absmax code", 0, 126}));
  }
  if (kind == ScaleRule::grid) {
    rule.steps = int(p.integer("steps", rule.steps, {"scales tried", 2, 128}));
    rule.lowest = p.number("lowest", rule.lowest, {"the smallest, of the absmax scale", 0.01, 0.99});
  }
  p.done();
  return rule;
}

Json rule_json(const ScaleRule& rule) {
  const std::string name(entry_of(rule.kind).name);
  switch (rule.kind) {
    case ScaleRule::map: return {{"type", name}, {"c", rule.c}};
    case ScaleRule::search: return {{"type", name}, {"k", rule.k}};
    case ScaleRule::sweep: return {{"type", name}, {"lo", rule.lo}, {"hi", rule.hi}};
    case ScaleRule::grid: return {{"type", name}, {"steps", rule.steps}, {"lowest", rule.lowest}};
    default: return name;
  }
}

TensorScale read_tensor_scale(const Json& value, const Place& place) {
  const std::vector<std::string> known = {"none", "dynamic", "per_token"};
  if (value.is_string()) {
    const std::string text = value.get<std::string>();
    if (text == "none") return {TensorScale::none, 0};
    if (text == "dynamic") return {TensorScale::dynamic, 0};
    if (text == "per_token") return {TensorScale::per_token, 0};
    throw ConfigError(place.text() + ": " + unknown_name("tensor scale", text, known) +
                      ", {\"static\": s_T}");
  }
  if (!value.is_object())
    throw ConfigError(place.text() + ": expected none, dynamic, per_token or {\"static\": s_T}, found " +
                      describe(value));
  Params p(value, place, "a tensor scale");
  const float s_t = float(p.number("static", {"s_T, fixed beforehand", 0x1p-126, 0x1p100}));
  p.done();
  return {TensorScale::fixed, s_t};
}

Json tensor_scale_json(const TensorScale& t) {
  switch (t.mode) {
    case TensorScale::dynamic: return "dynamic";
    case TensorScale::per_token: return "per_token";
    case TensorScale::fixed: return {{"static", double(t.value)}};
    case TensorScale::none: break;
  }
  return "none";
}

int read_group_size(const Json& value, const Place& place) {
  if (value.is_string() && value.get<std::string>() == "row") return kWholeRow;
  const bool integral = value.is_number() && std::floor(value.get<double>()) == value.get<double>();
  if (!integral || value.get<double>() < 2 || value.get<double>() > 4096)
    throw ConfigError(place.text() + ": expected a group size in 2..4096 or \"row\", found " +
                      describe(value));
  return int(value.get<double>());
}

FormatSpec read_object(Params& p) {
  // Without a base the three that make a format must be given; the rest follows from them.
  const std::string base = p.text("base", "", {"a named format to start from"});
  const FormatEntry* start = base.empty() ? nullptr : find_format(base);
  if (!base.empty() && !start) p.fail("base", unknown_name("format", base, format_names()));
  p.text("label", "", {"the name its rows carry"});
  const KeyDoc element_doc{"what a code stands for (fp4lab list elements)"},
      scale_doc{"how a group's scale is stored (fp4lab list scale_types)"};
  std::vector<std::string> scales = scale_type_names();
  scales.insert(scales.end(), {"ue4m3", "e8m0"});
  FormatSpec f = start ? start->spec : kNvfp4;
  const std::string element_name = start ? p.choice("element", f.element.name, element_names(), element_doc)
                                         : p.choice("element", element_names(), element_doc);
  const Json& group = p.raw("group_size", {"elements per scale: 2 to 4096, or \"row\""});
  const std::string scale_name =
      start ? p.choice("scale", f.scale.name, scales, scale_doc) : p.choice("scale", scales, scale_doc);
  const Json& rule = p.raw("rule", {"how amax becomes a scale: a name, or an object with \"type\" (fp4lab "
                                    "list rules); default floor for ue8m0, else absmax"});
  const Json& tensor_scale = p.raw(
      "tensor_scale",
      {"none, dynamic, per_token, or {\"static\": s_T}; default dynamic under 8-bit scales, else none"});
  const std::string floor = p.choice("scale_floor", kScaleFloors[size_t(f.scale_floor)], kScaleFloors,
                                     {"least scale of a group that is not all zeros"});
  if (p.is_declaring()) return f;
  p.done();

  f.element = *find_element(element_name);
  const bool same_scale = start && *find_scale_type(scale_name) == start->spec.scale;
  f.scale = *find_scale_type(scale_name);
  if (!group.is_null())
    f.group_size = read_group_size(group, p.place("group_size"));
  else if (!start)
    p.fail("group_size", "missing key \"group_size\": elements per scale, 2 to 4096, or \"row\"");
  if (!rule.is_null())
    f.rule = read_rule(rule, p.place("rule"));
  else if (!start ||
           entry_of(f.rule.kind).for_e8m0 != (f.scale == kUE8M0))  // the base's rule is for other scales
    f.rule = {.kind = f.scale == kUE8M0 ? ScaleRule::floor : ScaleRule::absmax};
  if (!tensor_scale.is_null())
    f.tensor_scale = read_tensor_scale(tensor_scale, p.place("tensor_scale"));
  else if (!same_scale)
    f.tensor_scale = {f.scale.two_level() ? TensorScale::dynamic : TensorScale::none, 0};
  for (size_t i = 0; i < kScaleFloors.size(); ++i)
    if (kScaleFloors[i] == floor) f.scale_floor = ScaleFloor(i);
  if (const std::string problem = format_problem(f); !problem.empty())
    throw ConfigError(p.place().text() + ": " + problem);
  return f;
}

}  // namespace

NamedFormat parse_format(const Json& value, const Place& place) {
  if (value.is_string()) {
    const std::string name = value.get<std::string>();
    if (const FormatEntry* f = find_format(name)) return {f->spec, name};
    throw ConfigError(place.text() + ": " + unknown_name("format", name, format_names()));
  }
  if (!value.is_object())
    throw ConfigError(place.text() + ": expected a format (a name or an object), found " + describe(value));
  Params p(value, place, "a format");
  const FormatSpec spec = read_object(p);
  return {spec, label_of(value)};
}

void declare_format(Params& p) { read_object(p); }

void declare_rule(Params& p) {
  p.choice("type", scale_rule_names(), {"the rule's name"});
  p.number("c", ScaleRule{}.c, {"map: amax/scale lands in [c, 2c)", 0x1p-19, 0x1p19});
  p.integer("k", ScaleRule{}.k, {"search: powers of two tried: floor, 2 floor, floor/2, ...", 1, 9});
  p.integer("lo", ScaleRule{}.lo, {"sweep: first code, relative to the absmax code", -126, 0});
  p.integer("hi", ScaleRule{}.hi, {"sweep: last code, relative to the absmax code", 0, 126});
  p.integer("steps", ScaleRule{}.steps, {"grid: scales tried", 2, 128});
  p.number("lowest", ScaleRule{}.lowest, {"grid: the smallest, of the absmax scale", 0.01, 0.99});
}

Json format_json(const FormatSpec& f) {
  return {{"element", std::string(f.element.name)},
          {"group_size", f.group_size == kWholeRow ? Json("row") : Json(f.group_size)},
          {"scale", std::string(f.scale.name)},
          {"rule", rule_json(f.rule)},
          {"tensor_scale", tensor_scale_json(f.tensor_scale)},
          {"scale_floor", kScaleFloors[size_t(f.scale_floor)]}};
}

WeightScales parse_weight_scales(const Json& value, const Place& place) {
  std::vector<std::string> known = {"rule", "alternate", "mse_shrink", "local_hessian", "paper", "nearby"};
  if (value.is_string()) {
    const std::string name = value.get<std::string>();
    if (name == "rule" || name == "absmax") return {};
    if (name == "alternate") return {WeightScales::alternate, {}};
    if (name == "mse_shrink") return {WeightScales::mse_shrink, {}};
    if (name == "local_hessian") return {WeightScales::local_hessian, {}};
    if (name == "paper") return {WeightScales::paper, {}};
    if (name == "nearby") return {WeightScales::nearby, {}};
    for (const std::string& r : scale_rule_names()) known.push_back(r);
    if (!find_scale_rule(name))
      throw ConfigError(place.text() + ": " + unknown_name("weight_scales", name, known));
  }
  WeightScales scales{WeightScales::replace, {}};
  if (value.is_object() && value.contains("metric")) {
    Json rule = value;  // the metric is the search's own key; the rest is a rule
    rule.erase("metric");
    const Json& metric = value["metric"];
    if (metric != "mse" && metric != "hessian_diagonal")
      throw ConfigError(place.child("metric").text() + ": expected mse or hessian_diagonal, found " +
                        describe(metric));
    if (metric == "hessian_diagonal") scales.metric = WeightScales::hessian_diagonal;
    if (rule.contains("type") && rule["type"] == "nearby" && rule.size() == 1)
      scales.kind = WeightScales::nearby;
    else
      scales.replacement = read_rule(rule, place);
  } else {
    scales.replacement = read_rule(value, place);
  }
  return scales;
}

namespace {
Json nearby_json(const WeightScales& w) {
  if (w.metric == WeightScales::mse) return "nearby";
  return {{"type", "nearby"}, {"metric", "hessian_diagonal"}};
}
}  // namespace

Json weight_scales_json(const WeightScales& w) {
  switch (w.kind) {
    case WeightScales::rule: return "rule";
    case WeightScales::alternate: return "alternate";
    case WeightScales::mse_shrink: return "mse_shrink";
    case WeightScales::local_hessian: return "local_hessian";
    case WeightScales::paper: return "paper";
    case WeightScales::nearby: return nearby_json(w);
    case WeightScales::replace: {
      Json rule = rule_json(w.replacement);
      if (w.metric == WeightScales::mse) return rule;
      if (rule.is_string()) rule = {{"type", rule}};
      rule["metric"] = "hessian_diagonal";
      return rule;
    }
  }
  return nullptr;
}

}  // namespace fp4lab
