#include "analysis/lemmas/group_error.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/errors.h"

namespace fp4lab {

namespace {

constexpr double kLn2 = 0.69314718055994530942;

/// integral of (1 - q / y)^2 dv / v with y = t v / divisor, over the part of the phase where y is rounded to
/// each level's q.
double integrate(const std::vector<GridLevel>& levels, const ScalePhase& phase, double t) {
  double sum = 0;
  for (size_t k = 0; k < levels.size(); ++k) {
    const double unit = phase.divisor / t;
    const double low = std::max(phase.low, levels[k].threshold * unit);
    const double high =
        k + 1 < levels.size() ? std::min(phase.high, levels[k + 1].threshold * unit) : phase.high;
    if (low >= high) continue;
    const double a = levels[k].value * unit;
    sum += std::log(high / low) + 2 * a * (1 / high - 1 / low) -
           a * a / 2 * (1 / (high * high) - 1 / (low * low));
  }
  return sum;
}

std::vector<ScalePhase> phases_of(const FormatSpec& f) {
  const double qmax = double(f.element.scale_max);
  if (f.scale.kind == ScaleKind::exponent) {
    // s = 2^(e + offset), one octave more for mantissas >= threshold, where m = mantissa 2^e; fpq's constant
    // tensor factor is 2 / Qmax.
    double c = qmax / 2;
    if (f.rule.kind != ScaleRule::fpq) {
      const PowerOfTwoRule rule = power_of_two_rule(f.rule, f.element);
      c = std::ldexp(1 + double(rule.threshold) / 0x1p23, -rule.offset - 1);
    }
    return {{c, 2 * c, 1}};
  }
  if (f.scale.kind != ScaleKind::minifloat) return {};
  std::vector<ScalePhase> phases;
  const int steps = 1 << f.scale.mini.man_bits;
  for (int k = 0; k <= steps; ++k) {
    const double r = 1 + double(k) / steps, half = 0.5 / steps;
    phases.push_back({std::max(1.0, r - half), std::min(2.0, r + half), r / qmax});
  }
  return phases;
}

}  // namespace

std::vector<GridLevel> grid_levels(const Element& element) {
  std::vector<GridLevel> levels;
  const uint32_t top = element.kind == ElementKind::int_sym ? uint32_t(element.highest())
                                                            : encode_element(element, element.scale_max);
  for (uint32_t code = 0; code <= top; ++code) {
    const double value = double(decode_element(element, code));
    levels.push_back({code == 0 ? 0 : (levels.back().value + value) / 2, value});
  }
  return levels;
}

GroupError::GroupError(const FormatSpec& format)
    : levels_(grid_levels(format.element)),
      phases_(phases_of(format)),
      largest_(double(format.element.scale_max)) {
  const std::string problem = group_error_problem(format);
  FP4LAB_CHECK(problem.empty(), problem);
}

double GroupError::operator()(double t) const {
  if (t <= 0) return 1;
  if (phases_.empty()) {
    const double y = t * largest_;
    double q = 0;
    for (const GridLevel& l : levels_)
      if (y >= l.threshold) q = l.value;
    return (1 - q / y) * (1 - q / y);
  }
  double sum = 0;
  for (const ScalePhase& phase : phases_) sum += integrate(levels_, phase, t);
  return sum / kLn2;
}

std::vector<double> GroupError::kinks() const {
  std::vector<double> at = {0, 1};
  for (const GridLevel& l : levels_) {
    if (phases_.empty()) at.push_back(l.threshold / largest_);
    for (const ScalePhase& p : phases_)
      for (const double v : {p.low, p.high}) at.push_back(l.threshold * p.divisor / v);
  }
  std::erase_if(at, [](double t) { return t > 1; });
  std::sort(at.begin(), at.end());
  at.erase(std::unique(at.begin(), at.end(), [](double a, double b) { return b - a < 1e-12; }), at.end());
  at.back() = 1;
  return at;
}

std::string group_error_problem(const FormatSpec& f) {
  const ElementKind kind = f.element.kind;
  if (kind != ElementKind::minifloat && kind != ElementKind::int_sym)
    return str("no prediction for the element ", f.element.name, ": its grid is not symmetric about 0");
  // e1m6 has one octave of normal numbers, an integer none: below it steps do not shrink with the group.
  if (f.scale.kind == ScaleKind::integer ||
      (f.scale.kind == ScaleKind::minifloat && f.scale.mini.man_bits > 5))
    return str("no prediction for ", f.scale.name, " scales: their relative precision depends on the group");
  switch (f.rule.kind) {
    case ScaleRule::absmax:
    case ScaleRule::floor:
    case ScaleRule::even:
    case ScaleRule::ceil:
    case ScaleRule::ceil_pow2:
    case ScaleRule::map:
    case ScaleRule::nearest:
    case ScaleRule::fpq: return "";
    default:
      return str("no prediction for the rule ", entry_of(f.rule.kind).name,
                 ": it looks at more than the group's largest magnitude; a format with one of absmax, floor, "
                 "even, ceil, ceil_pow2, map, nearest, fpq has one");
  }
}

double phi(const Element& element, double x) {
  return integrate(grid_levels(element), {x / 2, x, 1}, 1) / kLn2;
}

}  // namespace fp4lab
