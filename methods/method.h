// methods/method.h - a method as a value: model rotation x transform x weight scales x rounding.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/params.h"
#include "formats/quantize.h"
#include "methods/rotation/rotation_spec.h"
#include "methods/rounding/rounding.h"
#include "methods/transforms/site_transforms.h"

namespace fp4lab {

/// Which inputs the statistics of a site are taken from.
enum class HessianInputs : uint8_t {
  quantized,      // as the already quantized prefix of the model produces them
  full_precision  // as the original model does
};

struct MethodSpec {
  RotationSpec rotation{};     // of the model's residual stream
  SiteTransforms transform{};  // of each site; all empty: the weights as they are
  WeightScales weight_scales{};
  Rounding rounding{};
  HessianInputs hessian_inputs = HessianInputs::quantized;

  bool operator==(const MethodSpec&) const = default;
};

/// What the method looks at to quantize a site, for weights in `weights` (null: full precision).
StatsNeeds needs_of(const MethodSpec& method, SiteKind site, const FormatSpec* weights);

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
/// "rtn", or {"base": "gptq", "transform": {"type": "hadamard", "k": 128}, "order": "static_activation",
/// "label": "gptq+ht128"}. What an object names replaces what its base has, `"transform": []` too.
/// ConfigError with the place.
NamedMethod parse_method(const Json& value, const Place& place);
/// The canonical JSON: every key that matters, no label; what has its default of no effect (no rotation, no
/// transform, rtn) is left out, so that the keys of cells stored before an axis existed still hold.
/// parse_method reads it back.
Json method_json(const MethodSpec& spec);
/// The factory behind parse_method, for `fp4lab list methods` and the schema.
void declare_method(Params& p);

}  // namespace fp4lab
