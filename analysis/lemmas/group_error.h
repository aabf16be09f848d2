// analysis/lemmas/group_error.h - the error of an element whose magnitude is t times its group's largest.
//   psi(t) = E (x - x^)^2 / x^2, |x| = t m, over the phase of m: where m lies between two neighbouring
//   scales.
//     a scale that is not rounded   no phase: m / s = Qmax
//     rounded to a power of two     m / s = v in [c, 2c), with density 1 / (v ln 2): psi(t) = phi(2 c t)
//     a minifloat of Y mantissa bits  m / (Qmax s_T) = v in [1, 2), with the same density, rounded to 1 + k
//     2^-Y
//   That density is the limit for a smooth and wide distribution of m (Lemma 4). Integrals are closed forms.
#pragma once
#include <string>
#include <vector>

#include "formats/format.h"

namespace fp4lab {

/// Magnitudes from `threshold` up to the next level's are rounded to `value`; the first is {0, 0}.
struct GridLevel {
  double threshold, value;
};
/// The non-negative half of a symmetric element's grid.
std::vector<GridLevel> grid_levels(const Element& element);

/// m / s = v / divisor for v in [low, high).
struct ScalePhase {
  double low, high, divisor;
};

class GroupError {
 public:
  explicit GroupError(const FormatSpec& format);  // group_error_problem(format) must be ""
  double operator()(double t) const;              // psi, 0 <= t <= 1; 1 at 0
  double top() const { return (*this)(1); }
  /// Ascending in [0, 1], 0 and 1 among them: psi is smooth between neighbours.
  std::vector<double> kinks() const;
  bool exact_scale() const { return phases_.empty(); }
  const std::vector<GridLevel>& levels() const { return levels_; }
  double largest() const { return largest_; }  // Qmax

 private:
  std::vector<GridLevel> levels_;
  std::vector<ScalePhase> phases_;
  double largest_;
};

/// Why nothing is predicted for this format, or "": it takes symmetric elements, and a scale that follows
/// from the group's largest magnitude alone.
std::string group_error_problem(const FormatSpec& format);

/// phi(2^u) = integral_{u-1}^{u} (1 - 2^-w Q(2^w))^2 dw, x = 2^u: the relative error of a magnitude that a
/// random power of two puts in (x/2, x].
double phi(const Element& element, double x);

}  // namespace fp4lab
