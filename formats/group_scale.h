// formats/group_scale.h - which stored scales come into question for a group of this amax: a format's rule as
// plain numbers, for the CPU's runs of groups and for a GPU's threads.
#pragma once
#include "formats/format.h"

namespace fp4lab {

struct GroupRule {
  ScaleType scale;
  float scale_max;       // the element's Qmax
  PowerOfTwoRule power;  // ue8m0 with a rule on amax alone, search, quest
  ScaleRule rule;
  uint32_t least;      // smallest code of a non-zero group
  bool by_reciprocal;  // m * (1 / Qmax) instead of m / Qmax, see elements.h
  bool all_codes;      // a sweep over every code, not only around absmax
  int top;             // the largest code of an 8-bit scale

  /// m / Qmax; for a full integer grid under a wide float scale m * (1 / Qmax).
  FP4LAB_HD float unrounded_scale(float amax) const {
    return by_reciprocal ? amax * (1.0f / scale_max) : amax / scale_max;
  }
  /// The format's own scale for this amax (absmax, floor): what a search starts from. s_t: the tensor scale.
  FP4LAB_HD uint32_t base_code(float amax, float s_t) const {
    if (scale.kind == ScaleKind::exponent) return power.byte(amax);
    const uint32_t code =
        encode_scale(scale, by_reciprocal ? unrounded_scale(amax) : amax / (scale_max * s_t));
    return code < least ? least : code;
  }
  FP4LAB_HD int candidates() const {
    switch (rule.kind) {
      case ScaleRule::four_over_six: return 2;
      case ScaleRule::sweep: return all_codes ? top : rule.hi - rule.lo + 1;
      case ScaleRule::search: return rule.k;
      case ScaleRule::grid: return rule.steps;
      default: return 1;
    }
  }
  /// Candidate j of a group with amax > 0; they ascend but for four_over_six and grid.
  FP4LAB_HD uint32_t candidate(int j, float amax, float s_t) const {
    const auto between = [](int x, int low, int high) {
      return uint32_t(x < low ? low : x > high ? high : x);
    };
    const int lowest = least > 1 ? int(least) : 1;
    switch (rule.kind) {
      case ScaleRule::search:  // f = floor, then 2f, f/2, 4f, f/4...
        return between(int(base_code(amax, s_t)) - (rule.k - 1) / 2 + j, 0, 254);
      case ScaleRule::four_over_six: {
        if (j == 0) return base_code(amax, s_t);
        const uint32_t code = scale.mini.encode(amax / (4.0f * s_t));
        return code < least ? least : code;
      }
      case ScaleRule::sweep:
        return between((all_codes ? lowest : int(base_code(amax, s_t)) + rule.lo) + j, lowest, top);
      case ScaleRule::grid:
        return base_code(amax * float(rule.lowest + (1 - rule.lowest) * j / (rule.steps - 1)), s_t);
      default: return base_code(amax, s_t);
    }
  }
  FP4LAB_HD float effective(uint32_t code, float s_t) const { return s_t * decode_scale(scale, code); }
};

/// The rule of a format under a search for weights.
GroupRule group_rule(const FormatSpec& format, WeightScales::Kind search, const ScaleRule& replacement);

/// QuTLASS' scale of rotated data: 2^floor(log2(2.9225/6 std + 1e-8)).
FP4LAB_HD uint32_t quest_byte(float deviation) {
  return PowerOfTwoRule{0, 1u << 23}.byte((2.92247856f / 6.0f) * deviation + 1e-8f);
}

/// "fitted": the 256 effective scales 2^(a q + b), and where one gives way to the next.
struct FittedScales {
  float table[256];
  double thresholds[255];  // table[q] is the scale from thresholds[q - 1] on
};
FittedScales fitted_scales(float a, float b);
/// a and b from the smallest (Inf: none) and the largest positive amax of a tensor's groups.
std::vector<float> fitted_factors(const FormatSpec& format, float smallest, float largest);

}  // namespace fp4lab
