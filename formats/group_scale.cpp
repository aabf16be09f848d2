#include "formats/group_scale.h"

#include <algorithm>
#include <cmath>

namespace fp4lab {

GroupRule group_rule(const FormatSpec& format, WeightScales::Kind search, const ScaleRule& replacement) {
  GroupRule r{};
  r.scale = format.scale;
  r.scale_max = format.element.scale_max;
  r.rule = search == WeightScales::replace ? replacement : format.rule;
  const bool exponent = format.scale.kind == ScaleKind::exponent;
  // The paper's search looks at the whole neighbourhood of the absmax code once s_T is found.
  // The bounds of `sweep` hold for E4M3; for other scale types that means every code.
  if (search == WeightScales::alternate) {
    r.rule = ScaleRule{.kind = ScaleRule::sweep};
    r.all_codes = !(format.scale == kE4M3);
  }
  if (search == WeightScales::local_hessian) {
    r.rule = exponent ? ScaleRule{.kind = ScaleRule::search, .k = 4} : ScaleRule{.kind = ScaleRule::sweep};
    r.all_codes = true;
  }
  if (exponent && r.rule.kind != ScaleRule::fitted) r.power = power_of_two_rule(r.rule, format.element);
  r.least = format.scale_floor == ScaleFloor::min_subnormal ? 1u
            : format.scale_floor == ScaleFloor::min_normal  ? 1u << format.scale.mini.man_bits
                                                            : 0u;
  r.by_reciprocal = format.element.kind == ElementKind::int_full && format.scale.bytes > 1 &&
                    format.tensor_scale.mode == TensorScale::none;
  r.top = format.scale.kind == ScaleKind::minifloat ? int(format.scale.mini.max_code) : 127;
  return r;
}

FittedScales fitted_scales(float a, float b) {
  FittedScales f;
  for (int q = 0; q < 256; ++q) f.table[q] = float(std::exp2(double(a) * q + double(b)));
  for (int q = 0; q < 255; ++q) f.thresholds[q] = std::exp2(double(a) * (q + 0.5) + double(b));
  return f;
}

std::vector<float> fitted_factors(const FormatSpec& format, float smallest, float largest) {
  if (largest == 0) return {0.0f, 0.0f};
  // A denormal m / Qmax may round to 0, which has no logarithm: the smallest float stands in.
  const double bottom = std::log2(double(std::max(smallest / format.element.scale_max, 0x1p-149f)));
  const double top = std::log2(double(std::max(largest / format.element.scale_max, 0x1p-149f)));
  return {float((top - bottom) / 255), float(bottom)};
}

}  // namespace fp4lab
