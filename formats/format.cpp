#include "formats/format.h"

#include <numeric>

#include "core/errors.h"

namespace fp4lab {

namespace {
std::string rules_for(bool e8m0) {
  std::string out;
  for (const ScaleRuleEntry& r : scale_rules())
    if (r.for_e8m0 == e8m0) out += (out.empty() ? "" : ", ") + std::string(r.name);
  return out;
}
}  // namespace

std::string format_problem(const FormatSpec& f) {
  const ScaleRuleEntry& rule = entry_of(f.rule.kind);
  const bool e8m0 = f.scale == kUE8M0;
  if (f.group_size != kWholeRow && (f.group_size < 2 || f.group_size > 4096))
    return str("group_size ", f.group_size, " is not in 2..4096 (or \"row\")");
  if (rule.for_e8m0 != e8m0)
    return str("rule \"", rule.name, "\" does not choose ", f.scale.name,
               " scales; rules that do: ", rules_for(e8m0));
  if (f.has_zero_points() && (f.scale.two_level() || e8m0))
    return str("element ", f.element.name, " has zero points and needs an fp16, bf16 or fp32 scale, not ",
               f.scale.name);
  if (f.has_zero_points() && f.rule.kind != ScaleRule::absmax)
    return str("element ", f.element.name, " takes its scale from the range: only rule \"absmax\"");
  if (f.rule.kind == ScaleRule::even && f.element.man_bits < 0)
    return str("rule \"even\" needs an element with mantissa bits; ", f.element.name, " has none");
  if (f.rule.kind == ScaleRule::quest && !(f.element == kE2M1))
    return "rule \"quest\" is defined for e2m1 only";
  if (f.rule.kind == ScaleRule::map && !(f.rule.c > 0x1p-20 && f.rule.c < 0x1p20))
    return "rule \"map\" needs 2^-20 < c < 2^20";
  if (f.rule.kind == ScaleRule::search && (f.rule.k < 1 || f.rule.k > 9))
    return "rule \"search\" needs k in 1..9";
  if (f.rule.kind == ScaleRule::four_over_six && !(f.element == kE2M1 && f.scale == kE4M3))
    return "rule \"four_over_six\" is defined for e2m1 with e4m3 scales only";
  if (f.rule.kind == ScaleRule::sweep) {
    if (!f.scale.two_level()) return str("rule \"sweep\" needs 8-bit scale codes, not ", f.scale.name);
    if (f.rule.lo > 0 || f.rule.hi < 0 || f.rule.hi - f.rule.lo >= 128)
      return "rule \"sweep\" needs lo <= 0 <= hi and fewer than 128 codes after the first";
  }
  if (f.rule.kind == ScaleRule::grid &&
      !(f.rule.steps >= 2 && f.rule.steps <= 128 && f.rule.lowest > 0 && f.rule.lowest < 1))
    return "rule \"grid\" needs 2 to 128 steps and 0 < lowest < 1";
  if (e8m0 && f.tensor_scale.mode != TensorScale::none)
    return "e8m0 scales span every exponent and take no tensor scale (rule \"fpq\" brings its own constant)";
  if ((f.scale == kFP32 || f.scale == kBF16) &&
      (f.tensor_scale.mode == TensorScale::dynamic || f.tensor_scale.mode == TensorScale::per_token))
    return str(f.scale.name, " scales span every exponent and take no tensor scale");
  if (f.has_zero_points() && f.tensor_scale.mode != TensorScale::none)
    return "zero points and a tensor scale do not go together";
  if (f.tensor_scale.mode == TensorScale::fixed &&
      !(f.tensor_scale.value > 0 && f.tensor_scale.value <= 0x1p100f))
    return "a static tensor scale must be positive and at most 2^100";
  if (f.scale_floor != ScaleFloor::none && f.scale.kind != ScaleKind::minifloat)
    return str("scale_floor is for minifloat scales (e4m3 and its kin), not ", f.scale.name);
  return "";
}

std::string shape_problem(const FormatSpec& f, int64_t cols) {
  if (cols < 1) return "K = 0: no columns to quantize";
  if (f.group_size == kWholeRow || cols % f.group_size == 0) return "";
  // Powers of two first: they have the fast kernels. Tiny ones help nobody.
  int64_t divisor = std::gcd(cols, int64_t(4096));
  while (divisor > f.group_size) divisor /= 2;
  for (int64_t g = f.group_size; divisor < 8; --g)
    if (cols % g == 0) {
      divisor = g;
      break;
    }
  const std::string advice = divisor > 1 ? str(divisor, " divides it (\"group_size\": ", divisor, ")")
                                         : std::string("only \"group_size\": \"row\" fits");
  return str("K = ", cols, " is not a multiple of the group size ", f.group_size, "; ", advice);
}

WeightScales weight_scales_for(const WeightScales& w, const FormatSpec& f) {
  const bool e8m0 = f.scale == kUE8M0;
  if (w.kind == WeightScales::paper) {
    if (e8m0 || f.has_zero_points()) return {};
    if (f.scale.two_level() && f.tensor_scale.mode == TensorScale::dynamic)
      return {.kind = WeightScales::alternate};
    return {.kind = WeightScales::mse_shrink};
  }
  if (w.kind != WeightScales::nearby) return w;
  WeightScales out{.kind = WeightScales::replace, .metric = w.metric};
  if (e8m0)
    out.replacement = {.kind = ScaleRule::search, .k = 4};
  else if (f.scale.two_level())
    out.replacement = {.kind = ScaleRule::sweep, .lo = -8, .hi = 7};
  else
    out.replacement = {.kind = ScaleRule::grid};
  return out;
}

std::string weight_scales_problem(const WeightScales& w, const FormatSpec& f) {
  const std::string kGroups = "a search weighted by the Hessian needs groups of columns, not whole rows";
  if (w.needs_hessian() && f.has_zero_points()) return "zero points have no scale search";
  if (w.kind == WeightScales::paper || w.kind == WeightScales::nearby)
    return weight_scales_problem(weight_scales_for(w, f), f);
  if (w.metric != WeightScales::mse && w.kind != WeightScales::replace)
    return "\"metric\" goes with sweep, four_over_six, search and grid";
  if (w.metric != WeightScales::mse && f.group_size == kWholeRow) return kGroups;
  switch (w.kind) {
    case WeightScales::rule: return "";
    case WeightScales::replace: {
      const ScaleRule::Kind kind = w.replacement.kind;
      if (kind != ScaleRule::sweep && kind != ScaleRule::four_over_six && kind != ScaleRule::search &&
          kind != ScaleRule::grid)
        return str("weight_scales takes a search (sweep, four_over_six, search, grid), not the rule \"",
                   entry_of(kind).name, "\"; that belongs to the format");
      FormatSpec changed = f;
      changed.rule = w.replacement;
      return format_problem(changed);
    }
    case WeightScales::alternate:
      if (f.scale.two_level() && f.tensor_scale.mode == TensorScale::dynamic) return "";
      return str("\"alternate\" needs 8-bit group scales under one dynamic tensor scale, not ", f.scale.name,
                 " scales");
    case WeightScales::local_hessian:
      if (f.scale.two_level() || f.scale == kUE8M0) return f.group_size == kWholeRow ? kGroups : "";
      return str("\"local_hessian\" tries the codes of 8-bit scales, not ", f.scale.name, " scales");
    case WeightScales::mse_shrink:
      if (f.has_zero_points())
        return "\"mse_shrink\" shrinks a symmetric range; this element has zero points";
      if (f.rule.kind == ScaleRule::absmax ||
          (f.scale == kUE8M0 && f.rule.kind <= ScaleRule::fpq && f.rule.kind >= ScaleRule::floor))
        return "";
      return str("\"mse_shrink\" rounds with the format's rule, which must look at amax alone, not \"",
                 entry_of(f.rule.kind).name, "\"");
    case WeightScales::paper:
    case WeightScales::nearby: break;
  }
  return "";
}

}  // namespace fp4lab
