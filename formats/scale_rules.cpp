#include "formats/scale_rules.h"

#include <cmath>

#include "core/errors.h"

#include "core/text.h"

namespace fp4lab {

namespace {
constexpr ScaleRuleEntry kRules[] = {
    {ScaleRule::absmax, "absmax", "amax / (Qmax s_T), rounded to the scale type", false, true},
    {ScaleRule::four_over_six, "four_over_six", "the better of amax/6 and amax/4 by MSE; s_T = amax/(256*6)",
     false, true},
    {ScaleRule::sweep, "sweep", "the code lo..hi around the absmax code with the least MSE", false, true},
    {ScaleRule::floor, "floor", "OCP MX: 2^(floor(log2 amax) - emax); clips above Qmax", true, true},
    {ScaleRule::even, "even", "floor, one octave up when amax would round up past the top binade", true,
     true},
    {ScaleRule::ceil, "ceil", "2^ceil(log2(amax/Qmax)); never clips", true, true},
    {ScaleRule::ceil_pow2, "ceil_pow2", "2^(ceil(log2 amax) - emax)", true, true},
    {ScaleRule::map, "map", "the power of two that puts amax/scale in [c, 2c)", true, true},
    {ScaleRule::nearest, "nearest", "2^round(log2(amax/Qmax))", true, true},
    {ScaleRule::fpq, "fpq", "the paper's (2^(emax+1)/Qmax) 2^(floor(log2 amax) - emax)", true, true},
    {ScaleRule::fitted, "fitted", "2^(a q + b) with a, b fitted to the tensor's range of scales", true, true},
    {ScaleRule::quest, "quest", "2^floor(log2(2.9225/6 std + 1e-8)); for rotated data", true, true},
    {ScaleRule::search, "search", "the best of k powers of two by MSE: f = floor, 2f, f/2, ...", true, false},
    {ScaleRule::grid, "grid",
     "the best by MSE of `steps` scales from `lowest` to 1 times absmax, each rounded", false, false},
};

/// Splits x > 0 into exponent and stored mantissa bits: x = 2^e (1 + bits/2^23), x normal.
struct Split {
  int e;
  uint32_t mantissa;
};
Split split(float x) { return {int(float_bits(x) >> 23) - 127, float_bits(x) & 0x7fffffu}; }
constexpr uint32_t kNever = 1u << 23;

/// The rule that puts m / 2^k in [c, 2c), for the smallest float m with m/2^k >= c: up by one where
/// mantissa(m) >= mantissa(c).
PowerOfTwoRule map_rule(double c) {
  float f = float(c);
  if (double(f) < c) f = element_detail::next_up(f);  // the smallest float at or above c
  const Split s = split(f);
  return {-s.e - 1, s.mantissa};
}
}  // namespace

std::span<const ScaleRuleEntry> scale_rules() { return kRules; }

const ScaleRuleEntry* find_scale_rule(std::string_view name) { return find_named(kRules, name); }

const ScaleRuleEntry& entry_of(ScaleRule::Kind kind) {
  for (const ScaleRuleEntry& r : kRules)
    if (r.kind == kind) return r;
  FP4LAB_CHECK(false, "no such scale rule: ", int(kind));
  return kRules[0];
}

std::vector<std::string> scale_rule_names() { return names_of(kRules); }

PowerOfTwoRule power_of_two_rule(const ScaleRule& rule, const Element& element) {
  const Split q = split(element.scale_max);
  switch (rule.kind) {
    case ScaleRule::floor:
    case ScaleRule::search:
    case ScaleRule::quest: return {-element.emax, kNever};
    case ScaleRule::even: return {-element.emax, kNever - (1u << (22 - element.man_bits))};  // 2 - 2^-(M+1)
    case ScaleRule::ceil: return {-q.e, q.mantissa + 1};  // up when m > Qmax 2^k
    case ScaleRule::ceil_pow2: return {-element.emax, 1};
    case ScaleRule::map: return map_rule(rule.c);
    case ScaleRule::nearest: return map_rule(double(element.scale_max) / std::sqrt(2.0));
    case ScaleRule::fpq: return {0, kNever};
    default: break;
  }
  FP4LAB_CHECK(false, entry_of(rule.kind).name, " is not a rule on amax alone");
  return {};
}

}  // namespace fp4lab
