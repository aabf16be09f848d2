#include "experiments/model/plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "experiments/sources/file_source.h"
#include "formats/registry.h"
#include "methods/rotation/rotated_model.h"
#include "methods/site.h"
#include "methods/transforms/transform.h"

namespace fp4lab {

namespace {

const std::vector<std::string> kActivationScales = {"per_token", "dynamic", "static"};

/// The cell's activations: the same format as the weights, another, or none.
struct Activations {
  bool same = false;
  std::optional<FormatSpec> format;
  bool own_scale = false;  // its JSON says how its tensor scale is made
};

/// A weight format's own tensor scale is one per tensor; activations have it as `activation_scale` says.
FormatSpec for_activations(FormatSpec f, const std::string& scale) {
  if (f.tensor_scale.mode == TensorScale::none) return f;
  f.tensor_scale = {scale == "per_token" ? TensorScale::per_token : TensorScale::dynamic, 0};
  return f;
}

std::string activation_rule_problem(const FormatSpec& f) {
  const ScaleRuleEntry& rule = entry_of(f.rule.kind);
  if (rule.for_activations) return "";
  return str("rule ", rule.name,
             " searches offline and serves weights only; activations need a rule that runs on line, or "
             "null: full precision");
}

/// What an override or the cell itself asks for, for one linear.
LinearPlan linear_plan(const std::optional<FormatSpec>& weights, const Activations& a,
                       const std::string& scale) {
  LinearPlan plan{weights, {}};
  if (a.same) {
    if (weights) plan.activations = for_activations(*weights, scale);
  } else if (a.format) {
    plan.activations = a.own_scale ? *a.format : for_activations(*a.format, scale);
  }
  return plan;
}

/// "same", null, or a format.
Activations read_activations(const Params& p, const Json& value) {
  if (value.is_null()) return {};
  if (value.is_string() && value.get<std::string>() == "same") return {true, {}, false};
  return {false, parse_format(value, p.place("activations")).spec,
          value.is_object() && value.contains("tensor_scale")};
}

/// The cell's format "stored": every linear as the quantized checkpoint has it.
void plan_stored(const Params& p, ModelPlan& plan, const std::shared_ptr<const StoredModel>& stored,
                 const Activations* activations, const std::string& scale) {
  if (!stored)
    p.fail("format",
           "\"stored\" is what a quantized checkpoint holds; \"model\" has none: {\"path\": folder}, or "
           "{\"path\": original, \"quantized\": folder}");
  for (const char* key : {"method", "overrides"})
    if (p.has(key)) p.fail(key, "the weights are quantized already, as they are stored");
  plan.stored = stored;
  for (size_t layer = 0; layer < plan.layers.size(); ++layer)
    for (int i = 0; i < kLinears; ++i) {
      if (!stored->is_stored(int64_t(layer), Linear(i))) continue;
      const FormatSpec& weights = stored->scheme().weights;
      plan.layers[layer][size_t(i)] =
          activations ? linear_plan(weights, *activations, scale)
                      : LinearPlan{weights, stored->activations(int64_t(layer), Linear(i))};
    }
}

Json format_or_null(const std::optional<FormatSpec>& f) { return f ? format_json(*f) : Json(); }

/// Every linear's name, as patterns see it.
std::string full_name(int64_t layer, Linear l) { return "model." + linear_name(layer, l) + ".weight"; }

/// No linear has this plan of itself.
const LinearPlan kMarked{FormatSpec{kE2M1, 3, kUE8M0}, {}};

/// Calls `apply` for each linear, the head and the embedding that the pattern means; false when none is.
template <class F>
bool for_matches(const std::string& pattern, ModelPlan& plan, const F& apply) {
  bool any = false;
  for (size_t layer = 0; layer < plan.layers.size(); ++layer)
    for (int l = 0; l < kLinears; ++l)
      if (pattern_matches(pattern, full_name(int64_t(layer), Linear(l))))
        apply(plan.layers[layer][size_t(l)]), any = true;
  if (pattern_matches(pattern, "lm_head.weight")) apply(plan.head), any = true;
  if (pattern_matches(pattern, "model.embed_tokens.weight")) {
    LinearPlan table{plan.embedding, {}};
    apply(table);
    plan.embedding = table.weights;
    any = true;
  }
  return any;
}

std::string no_match(const std::string& pattern, const ModelPlan& plan) {
  return str("\"", pattern, "\" matches no linear of the model; they are ", linear_name(0, Linear::q), " to ",
             linear_name(int64_t(plan.layers.size()) - 1, Linear::down), ", lm_head and embed_tokens");
}

int64_t inputs_of(const ModelConfig& c, Linear l) { return linear_shape(c, l)[1]; }

/// What is wrong with one linear: the key of the cell that asked for it, and why. No key: nothing is.
std::pair<std::string_view, std::string> linear_problem(const Params& p, const ModelPlan& plan,
                                                        const LinearPlan& f, Linear l,
                                                        const ModelConfig& config) {
  const int64_t inputs = inputs_of(config, l);
  const std::string_view activations = p.has("activations") ? "activations" : "format";
  if (f.weights)
    if (std::string problem = shape_problem(*f.weights, inputs); !problem.empty()) return {"format", problem};
  if (f.activations) {
    if (std::string problem = shape_problem(*f.activations, inputs); !problem.empty())
      return {activations, problem};
    if (std::string problem = activation_rule_problem(*f.activations); !problem.empty())
      return {activations, problem};
  }
  std::string problem =
      site_problem(plan.method, {site_of(l), config.head_dim}, f.weights ? &*f.weights : nullptr,
                   f.activations ? &*f.activations : nullptr, inputs);
  if (!problem.empty()) return {"method", problem};
  return {};
}

/// `own`: what linears get that no override names.
void check_plan(const Params& p, const ModelPlan& plan, const LinearPlan& own, const ModelConfig& config) {
  if (plan.method.rotation.kind != RotationSpec::none)
    if (const std::string problem = rotation_problem(plan.method.rotation, config); !problem.empty())
      p.fail("method", problem);
  for (size_t layer = 0; layer < plan.layers.size(); ++layer)
    for (int i = 0; i < kLinears; ++i) {
      const auto l = Linear(i);
      const LinearPlan& f = plan.layers[layer][size_t(i)];
      const auto [key, problem] = linear_problem(p, plan, f, l, config);
      if (!key.empty())
        p.fail(f == own ? key : "overrides",
               str(linear_name(int64_t(layer), l), " has ", inputs_of(config, l), " inputs: ", problem));
    }
  const auto head_key = [&](const char* key) { return plan.head == own ? key : "overrides"; };
  if ((plan.head.weights || plan.embedding) && plan.method.weight_scales.needs_hessian())
    p.fail(head_key("method"), "lm_head and embeddings have no Hessian to weigh their scales with");
  for (const auto& f : {plan.head.weights, plan.embedding})
    if (f)
      if (const std::string problem = weight_scales_problem(plan.method.weight_scales, *f); !problem.empty())
        p.fail(head_key("method"), "lm_head and embeddings: " + problem);
  if (plan.head.activations)
    if (const std::string problem = activation_rule_problem(*plan.head.activations); !problem.empty())
      p.fail(head_key("activations"), "lm_head: " + problem);
  for (const auto& f : {plan.head.weights, plan.head.activations, plan.embedding})
    if (f)
      if (const std::string problem = shape_problem(*f, config.hidden_size); !problem.empty())
        p.fail(head_key("format"),
               str("lm_head and embeddings have ", config.hidden_size, " inputs: ", problem));
}

}  // namespace

bool ModelPlan::quantizes() const {
  for (const auto& layer : layers)
    for (const LinearPlan& l : layer)
      if (l != LinearPlan{}) return true;
  return quantizes_head() || embedding;
}

SitePlace site_place(const ModelPlan& plan, const ModelConfig& config, int64_t layer, SiteKind site) {
  return {site, config.head_dim, plan.seed, uint64_t(layer * kSites + int(site))};
}

bool ModelPlan::draws_random_numbers() const {
  if (method.rotation.kind != RotationSpec::none) return true;
  for (const auto& site : method.transform)
    for (const TransformSpec& t : site)
      if (fp4lab::draws_random_numbers(t)) return true;
  return false;
}

ModelPlan read_model_plan(Params& p, const ModelConfig* config, uint64_t seed,
                          const std::shared_ptr<const StoredModel>& stored) {
  ModelPlan plan;
  plan.seed = seed;
  const Json& format = p.raw(
      "format", {"of the weights: a named format, an object, null (full precision), or \"stored\": as a "
                 "quantized checkpoint has them"});
  const Json& activations =
      p.raw("activations", {"of what flows into the linears: \"same\" as the weights, null "
                            "(full precision, W4A16), or a format; default same"});
  const std::string scale =
      p.choice("activation_scale", "per_token", kActivationScales,
               {"the activations' tensor scale, for formats that have one: one per token, one per window, or "
                "fixed by the calibration"});
  const Json& method = p.raw("method", {"a named method, or an object; default rtn"});
  plan.fuse = p.boolean("fuse", true, {"q/k/v and gate/up are quantized as one stacked matrix each"});
  const std::vector<std::string> skip = p.texts(
      "skip", {"lm_head", "embed_tokens"},
      {"patterns of linears that stay in full precision; a list of your own replaces the default, [] skips "
       "nothing"},
      true);
  const Json& overrides =
      p.raw("overrides", {"list of {\"match\": pattern, \"format\": format, \"activations\": format}: other "
                          "formats for some linears; the last match counts"});
  if (p.is_declaring()) return plan;
  if (!p.has("format")) p.fail("format", "missing key \"format\"; null is full precision");
  std::optional<FormatSpec> weights;
  const bool as_stored = format.is_string() && format.get<std::string>() == "stored";
  if (!format.is_null() && !as_stored) weights = parse_format(format, p.place("format")).spec;
  const Activations own = p.has("activations") ? read_activations(p, activations)
                                               : Activations{.same = true, .format = {}, .own_scale = false};
  if (own.own_scale && scale == "static")
    p.fail("activation_scale", "the activations say their own tensor_scale, which static would replace");
  if (!method.is_null()) plan.method = parse_method(method, p.place("method")).spec;

  const LinearPlan all = linear_plan(weights, own, scale);
  plan.layers.assign(size_t(config->layers), {});
  if (as_stored) {
    plan_stored(p, plan, stored, own.same ? nullptr : &own, scale);
  } else {
    for (auto& layer : plan.layers) layer.fill(all);
    plan.head = all;
    plan.embedding = weights;
  }

  Json resolved = Json::array();
  if (!overrides.is_null() && !overrides.is_array())
    p.fail("overrides", "expected a list of {\"match\", \"format\"}, found " + describe(overrides));
  for (size_t k = 0; k < overrides.size(); ++k) {
    Params o(overrides[k], p.place("overrides").child(k), "an override");
    const std::string match = o.text("match", {"pattern of linears' names"});
    const Json& f = o.raw("format", {"the format of their weights, or null"});
    const Json& a = o.raw("activations", {"as the cell's key; default as the cell has it"});
    o.done();
    std::optional<FormatSpec> other;
    if (!o.has("format")) o.fail("format", "missing key \"format\"; null is full precision");
    if (!f.is_null()) other = parse_format(f, o.place("format")).spec;
    const LinearPlan entry = linear_plan(other, o.has("activations") ? read_activations(o, a) : own, scale);
    if (!for_matches(match, plan, [&](LinearPlan& l) { l = entry; })) o.fail("match", no_match(match, plan));
    ModelPlan open = plan;  // what it means and `skip` does not
    for_matches(match, open, [&](LinearPlan& l) { l = kMarked; });
    for (const std::string& pattern : skip) for_matches(pattern, open, [](LinearPlan& l) { l = {}; });
    bool any = open.head == kMarked || open.embedding == kMarked.weights;
    for (const auto& layer : open.layers)
      any = any || std::find(layer.begin(), layer.end(), kMarked) != layer.end();
    if (!any) o.fail("match", str("every linear that \"", match, "\" means is left out by \"skip\""));
    resolved.push_back({{"match", match},
                        {"format", format_or_null(entry.weights)},
                        {"activations", format_or_null(entry.activations)}});
  }
  for (size_t i = 0; i < skip.size(); ++i)
    if (!for_matches(skip[i], plan, [](LinearPlan& l) { l = {}; }))
      throw ConfigError(p.place("skip").child(i).text() + ": " + no_match(skip[i], plan));

  // `static` is a matter of formats that have a tensor scale and leave it open.
  for (const auto& layer : plan.layers)
    for (const LinearPlan& l : layer)
      if (l.activations && l.activations->tensor_scale.mode == TensorScale::dynamic)
        plan.static_activations = true;
  if (plan.head.activations && plan.head.activations->tensor_scale.mode == TensorScale::dynamic)
    plan.static_activations = true;
  plan.static_activations = plan.static_activations && scale == "static";
  if (!plan.quantizes()) plan.method = {};  // nothing that a method could change
  check_plan(p, plan, all, *config);

  p.set_resolved("format", as_stored ? Json("stored") : format_or_null(weights));
  p.set_resolved("activations", as_stored && own.same ? Json("stored") : format_or_null(all.activations));
  p.set_resolved("activation_scale", plan.static_activations ? "static" : "open");
  p.set_resolved("method", method_json(plan.method));
  p.set_resolved("overrides", resolved);
  return plan;
}

QuantizedWeights make_part(Ops& ops, const ModelPlan& plan, const ModelWeights& model, int64_t layer,
                           SiteKind site, const PartPlan& part, SiteStats* stats) {
  const auto pointer = [](const std::optional<FormatSpec>& f) { return f ? &*f : nullptr; };
  try {
    if (plan.stored && part.formats.weights) {
      QuantizedWeights out;
      out.q = plan.stored->quantized(layer, part.linears);
      out.W = ops.allocate(out.q->rows(), out.q->cols());
      ops.dequantize(*out.q, out.W.view());
      out.map = plan.stored->map();
      out.digest = out.q->digest();
      return out;
    }
    return quantize_site(ops, plan.method, site_place(plan, model.config(), layer, site),
                         pointer(part.formats.weights), pointer(part.formats.activations),
                         load_linears(ops, model, layer, part.linears), stats);
  } catch (const DataError& e) {
    throw DataError(str(site_name(layer, site), ": ", e.what()));
  }
}

std::vector<PartPlan> parts_of(const ModelPlan& plan, int64_t layer, SiteKind site) {
  // Linears of different formats share nothing: then each is a site of its own.
  const auto linears = linears_of(site);
  const auto formats = [&](Linear l) { return plan.layers[size_t(layer)][size_t(l)]; };
  const bool shared =
      !plan.stored || !formats(linears[0]).weights || plan.stored->share_scale(layer, linears);
  const bool stacked = plan.fuse && shared && std::all_of(linears.begin(), linears.end(), [&](Linear l) {
                         return formats(l) == formats(linears[0]);
                       });
  if (stacked) return {{{linears.begin(), linears.end()}, formats(linears[0])}};
  std::vector<PartPlan> parts;
  for (const Linear l : linears) parts.push_back({{l}, formats(l)});
  return parts;
}

}  // namespace fp4lab
