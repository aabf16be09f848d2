// methods/transforms/osfp4.h - OSFP4's diagonal: moves each channel to where the element's relative error is
// least, for weights and activations at once.
//   phi(x) = x^-2 E[(x - 2^U Q(2^-U x))^2], U uniform in [0, 1): the relative error of a value x (in units of
//   its scale) when the scale's phase is random; for power-of-two scales under a uniform phase it is exact.
//   With X -> X A, W -> W A^-1, A = diag(a) and one scale per group of a row, g for W and c for X, the loss
//   is
//     L_W = T sum_r u_r^2 sum_i W_ir^2 phi(W_ir / (g_i a_r)),
//     L_X =   sum_r (sum_i W_ir^2) sum_t X_tr^2 phi(a_r X_tr / c_t)
//   over T rows of the sample. Groups are independent: log a, log g, log c of each are found by Adam (lr
//   0.12, betas 0.9, 0.999, last iterate) from a = 1 and absmax / Qmax; then g's geometric mean moves into a,
//   so that groups share a tensor scale well, and a is rounded to BF16. g and c are dropped. scale = 1 / a.
//   L_W alone when activations stay in full precision, L_X alone when the weights do.
//   cost     K^3 / 3 flops in double; `steps` (N + T) K table look-ups
//   source   arXiv 2610.08231 ("W-SIC"); the phi of other elements is the same formula
//   Differs:
//     - u_r^2 is what GPTQ cannot pass on from channel r. The paper rounds the last channel first, hence U of
//       E[x x^T] = U^T U; our GPTQ rounds the first one first: R, upper, of E[x x^T] = R R^T. Damped by
//       damping * mean(diag).
//     - an element whose grid is not symmetric has the mean phi of both signs.
//     - Adam's epsilon (1e-8) is in units of the energy that a parameter moves: the paper's, absolute, would
//       make the result depend on the units of W and X.
//     - at most 512 rows of the sample, evenly spread.
#pragma once
#include <vector>

#include "methods/transforms/transform.h"

namespace fp4lab {

/// phi of an element, tabled over log2 |x| in steps of 2^-12 from well below its smallest value to well above
/// its largest ([-4, 8] for e2m1), linear between, constant beyond.
class PhaseError {
 public:
  explicit PhaseError(const Element& element);
  double at(double x) const;
  /// d phi / d log2 |x| at log2 |x| = t.
  float slope(float t) const {
    const float place = (t - lowest_) * kPerOctave + 1;  // 1 at the first entry: slope_[0] is what lies below
    const float inside = place > 0 ? place : 0;
    return slope_[size_t(int32_t(inside < last_ ? inside : last_))];
  }

 private:
  static constexpr int kPerOctave = 4096;
  float lowest_, last_;
  std::vector<double> phi_;
  std::vector<float> slope_;  // of the piece before each entry; 0 at both ends
};

/// u_r^2 of every channel (K): the squared diagonal of R, upper, R R^T = H / tokens damped; 1 when all inputs
/// are 0. DataError when H is not positive definite.
std::vector<double> kept_energies(const SiteStats& stats, double damping);

TransformSpec read_osfp4(Params& p);
void write_osfp4(const TransformSpec& spec, Json& object);
/// Needs formats whose groups have a scale of their own and no zero points; the same groups for both sides.
std::string osfp4_problem(const TransformSpec& spec, const TransformFit& fit);
/// One DiagonalFactor. Looks at W, stats.H, stats.tokens and, for quantized activations, stats.sample.
/// DataError when H is not positive definite. Math libraries may differ in its last bits, hence rarely in a
/// BF16 step.
void fit_osfp4(const TransformSpec& spec, const TransformInput& input, LinearMap& map);

}  // namespace fp4lab
