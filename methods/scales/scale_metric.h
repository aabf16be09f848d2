// methods/scales/scale_metric.h - what the candidate scales of a group are compared by (SPEC section 2): a
// quadratic form of the group's rounding errors d, written as sum over k of weight_k (d_k + sum over i < k of
// d_i coefficients[k][i])^2.
//   mse               weights 1, no coefficients
//   hessian_diagonal  weights diag(H)
//   local_hessian     d^T H_b d with the group's diagonal block H_b = R R^T: weights R_kk^2, coefficients
//                     R_ik / R_kk
//   the GPTQ loop     R of the whole H, with the loop replayed inside the group: what the group's errors cost
//                     once all later columns have made up for what they can (its Schur complement)
#pragma once
#include <vector>

#include "formats/column_kernels.h"
#include "formats/quantize.h"
#include "methods/rounding/hessian_factor.h"

namespace fp4lab {

class ScaleMetric {
 public:
  /// H (K, K), upper triangle, not damped; read where the search asks for it (may be empty otherwise).
  /// DataError for NaN and Inf in it.
  static ScaleMetric offline(const WeightScales& search, const MatrixD& H, int64_t group);
  /// The factor must outlive it and be in natural order.
  static ScaleMetric in_loop(const HessianFactor& factor, int64_t group);

  /// Fills in the weights and coefficients of one group.
  void apply(int64_t group, GroupLoss& loss) const;

 private:
  int64_t g_ = 0;
  bool compensated_ = false;
  std::vector<float> weight_;        // (K), or empty
  std::vector<float> coefficients_;  // (groups, g, g), or empty
  const Matrix* shared_ = nullptr;   // the loop's (K, K)
};

class GroupCoder;

/// Chooses the scales of one group for many rows at once, by a metric, among the candidates of a search.
class GroupSearch {
 public:
  GroupSearch(const GroupCoder& coder, const ScaleMetric& metric) : coder_(coder), metric_(metric) {}

  /// value: column panel of the group (g columns of `padded` rows, a multiple of kColumnLanes, `stride`
  /// apart); the first `rows` rows are the matrix' rows from `row` on. codes and effective get one per row.
  /// Equal losses keep the smaller scale. False when a NaN or Inf is among the values.
  bool choose(int64_t group, int64_t row, int64_t rows, const float* value, int64_t stride, uint32_t* codes,
              float* effective);

 private:
  const GroupCoder& coder_;
  const ScaleMetric& metric_;
  std::vector<uint32_t> listed_, tried_;
  std::vector<float> effective_, scale_, loss_, least_;
};

/// Offline scales of W by a weighted search (search.needs_hessian()). DataError for NaN and Inf.
Scales choose_weighted_scales(const FormatSpec& format, const WeightScales& search, MatrixView<const float> W,
                              const MatrixD& H);

}  // namespace fp4lab
