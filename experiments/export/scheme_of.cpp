// What a cell's plan is in a layout, or why its readers would compute something else.
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "experiments/export/exporter.h"
#include "methods/transforms/site_transforms.h"

namespace fp4lab {

namespace {

[[noreturn]] void refuse(Layout layout, const std::string& where, const std::string& why) {
  throw ConfigError(str(name(layout), where.empty() ? "" : ": ", where, ": ", why));
}

/// The width of the Hadamard blocks of a site's map; 1: the identity.
int64_t hadamard_of(const ModelPlan& plan, const ModelConfig& config, int64_t layer, SiteKind site,
                    const PartPlan& part, Layout layout) {
  const std::string where = site_name(layer, site);
  constexpr const char* kNearest =
      "the nearest is {\"type\": \"hadamard\", \"k\": 32, 64 or 128} in fp_quant";
  if (plan.stored) {
    const auto& factors = plan.stored->map().factors;
    return factors.empty() ? 1 : std::get<HadamardFactor>(factors[0]).k;
  }
  if (plan.method.rounding.kind != Rounding::rtn &&
      plan.method.rounding.order == Rounding::dynamic_activation)
    refuse(layout, where,
           "its columns are in the order of the Hessian's diagonal, which no reader undoes; the nearest is "
           "\"order\": \"static_activation\"");
  for (const TransformSpec& t : plan.method.transform[size_t(site)])
    if (needs_of({t}).any())
      refuse(layout, where,
             str("its transform is fitted to data and differs from linear to linear; ", kNearest));
  const auto pointer = [](const std::optional<FormatSpec>& f) { return f ? &*f : nullptr; };
  const LinearMap map =
      map_without_data(plan.method, site_place(plan, config, layer, site), pointer(part.formats.weights),
                       pointer(part.formats.activations), linear_shape(config, part.linears[0])[1]);
  if (map.identity()) return 1;
  const auto* h = std::get_if<HadamardFactor>(&map.factors[0]);
  if (map.factors.size() != 1 || !h || !h->signs.empty() || h->stride != 1)
    refuse(layout, where, str("its transform is more than Hadamard blocks without signs; ", kNearest));
  return h->k;
}

}  // namespace

Scheme scheme_of(const ModelPlan& plan, const ModelConfig& config, Layout layout) {
  Scheme scheme;
  scheme.layout = layout;
  if (!plan.quantizes()) refuse(layout, "", "nothing is quantized; the original checkpoint is this model");
  if (plan.quantizes_head() || plan.embedding)
    refuse(layout, plan.quantizes_head() ? "lm_head" : "embed_tokens",
           "its readers keep lm_head and embeddings in full precision; leave \"skip\" at its default");
  std::optional<PartPlan> first;
  std::string first_name;
  int64_t hadamard = 1;
  for (int64_t layer = 0; layer < int64_t(plan.layers.size()); ++layer)
    for (int s = 0; s < kSites; ++s) {
      const auto site = SiteKind(s);
      const std::vector<PartPlan> parts = parts_of(plan, layer, site);
      const std::string where = site_name(layer, site);
      for (const PartPlan& part : parts) {
        if (!part.formats.weights) {
          if (part.formats.activations)
            refuse(layout, where, "inputs alone are quantized; its readers have quantized weights");
          for (const Linear l : part.linears)
            scheme.in_full_precision.push_back("model." + linear_name(layer, l));
          if (parts.size() > 1)
            refuse(
                layout, where,
                "its linears are fused by vLLM and have to be quantized all or none; \"skip\" all of them");
          continue;
        }
        if (parts.size() > 1 && part.formats.weights->tensor_scale.mode != TensorScale::none)
          refuse(layout, where,
                 "its linears are fused by vLLM and need one tensor scale, fixed before the group scales are "
                 "rounded: \"fuse\": true, and one format for all of them");
        const int64_t k = hadamard_of(plan, config, layer, site, part, layout);
        auto activations = part.formats.activations;
        if (activations && (plan.static_activations || activations->tensor_scale.mode == TensorScale::fixed))
          if (activations->tensor_scale.mode == TensorScale::dynamic ||
              activations->tensor_scale.mode == TensorScale::fixed)
            activations->tensor_scale = {TensorScale::fixed, 0};
        if (!first) {
          first = part, first->formats.activations = activations, first_name = where, hadamard = k;
        } else if (first->formats.weights != part.formats.weights ||
                   first->formats.activations != activations) {
          refuse(layout, where,
                 str("other formats than ", first_name, "; one format for all quantized linears is written"));
        } else if (hadamard != k) {
          refuse(layout, where,
                 str("another transform than ", first_name, "; one for all linears is written"));
        }
        if (const std::string problem =
                layout_problem(layout, *part.formats.weights, linear_shape(config, part.linears[0])[1]);
            !problem.empty())
          refuse(layout, where, problem);
      }
    }
  if (!first) refuse(layout, "", "no linear is quantized");
  scheme.weights = *first->formats.weights;
  scheme.activations = first->formats.activations;
  scheme.hadamard = hadamard;
  if (const std::string problem = scheme_problem(scheme); !problem.empty()) refuse(layout, "", problem);
  for (int64_t layer = 0; layer < int64_t(plan.layers.size()) && layout == Layout::fp_quant; ++layer)
    for (int l = 0; l < kLinears; ++l)
      if (const int64_t in = linear_shape(config, Linear(l))[1]; in % matrix_width(scheme) != 0)
        refuse(layout, linear_name(layer, Linear(l)),
               str("K = ", in, " is not a multiple of ", matrix_width(scheme)));
  return scheme;
}

}  // namespace fp4lab
