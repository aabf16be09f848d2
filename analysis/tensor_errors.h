// analysis/tensor_errors.h - how far a quantized tensor is from the original: the per-tensor metrics of SPEC
// section 7, from one pass over the groups.
//   All sums are in double, in a fixed order: within a row 8 lanes (element i of a group adds to lane i mod
//   8, lanes added by halves), groups and outliers of a row left to right, rows top to bottom. The same bits
//   for any number of threads.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/quantize.h"

namespace fp4lab {

/// Sums over elements and groups; those of several tensors add up (a cell over a whole checkpoint is one such
/// sum).
struct ErrorSums {
  int64_t elements = 0, groups = 0;
  int64_t zero_groups = 0;       // groups with no energy: skipped in the relative means, counted here
  double energy = 0, error = 0;  // sum x^2, sum (x - x^)^2
  double group_relative = 0;     // sum over groups with energy of sum (x-x^)^2 / sum x^2
  double top = 0,
         top_relative = 0;   // sum over groups with energy of (x-x^)^2, (x-x^)^2 / x^2 at the argmax of |x|
  double crest = 0;          // sum over groups with energy of max|x| / rms
  int64_t crest_groups = 0;  // those groups; in rotated coordinates others have energy
  int64_t nonzero = 0, dead = 0;                // x != 0, and of those x^ == 0
  int64_t clipped = 0, overflowing_groups = 0;  // |x| > Qmax s; groups that hold one
  int64_t outliers = 0;                         // the top `outlier_share` magnitudes
  double outlier_ape = 0, outlier_se = 0;       // sums over outliers of |x-x^|/|x|, (x-x^)^2/x^2
  double bits = 0;                              // bits_per_element * elements
  std::vector<int64_t> scale_histogram;  // of log2(effective scale): bin b counts [b - 160, b - 159), b
                                         // 0..319; groups without energy and zero scales are not counted

  ErrorSums& operator+=(const ErrorSums& o);
};

/// The sums for one tensor. X (rows, cols) is what q was made from, finite. `outlier_share` p in (0, 1]: the
/// ceil(p n) largest magnitudes, ties at the threshold taken in row-major order; zeros never are outliers.
/// int_asym: clipped means outside the representable range. Memory: a few rows and 512 KB per thread, and the
/// sums of some thousand rows.
ErrorSums measure_errors(MatrixView<const float> X, const QuantizedMatrix& q, double outlier_share = 0.001);

/// The same for a reconstruction that is no QuantizedMatrix of X (a rotated one, rotated back): `format`
/// gives the groups; clipped and histogram stay 0.
ErrorSums measure_errors(MatrixView<const float> X, MatrixView<const float> reconstructed,
                         const FormatSpec& format, double outlier_share = 0.001);

/// One metric: its name in tables and files, what it is, and how it follows from the sums.
struct ErrorMetric {
  std::string_view name, units, source_equation, description;
  double (*value)(const ErrorSums&);  // NaN where undefined (no group with energy, ...)
};
/// mse, mse_rel, mse_rel_tensor, mse_top, mse_top_rel, outlier_mape, outlier_mse_rel, qsnr_db,
/// dead_zone_share, clipped_share, overflow_share, crest_factor, zero_group_share, bits_per_element.
const std::vector<ErrorMetric>& error_metrics();

}  // namespace fp4lab
