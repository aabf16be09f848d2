// methods/rounding/hessian_factor.h - the factor of a damped Hessian that GPTQ and its kin work with
// (SPEC section 5).
//   H = R R^T with R upper triangular is U^-1 of the paper's H^-1 = U^T U; R comes from one Cholesky of H
//   with its indices flipped, so that H is never inverted. The loop then reads
//     v_k = t_k + sum over i < k of (t_i - q_i) R_ik / R_kk,   q_k = Q(v_k)
//   with t the targets (GPTQ: the weights): the codes of the paper's recursion, up to near-ties.
#pragma once
#include <vector>

#include "core/matrix.h"
#include "methods/rounding/rounding.h"

namespace fp4lab {

struct HessianFactor {
  bool ok = false;             // false: not positive definite after every rise of the damping
  double damping = 0;          // fraction of mean(diag H) that was used
  double added = 0;            // what was added to the diagonal
  double condition = 0;        // estimate for the damped H in the 1-norm
  int64_t dead_channels = 0;   // H_ii = 0: their weights become 0, H_ii = 1
  std::vector<int32_t> order;  // (K) loop position -> channel; everything below is in loop order
  std::vector<uint8_t> dead;   // (K) by channel
  MatrixD R;                   // (K, K) lower: row k holds R_ik for i <= k; kept for gptaq and qronos alone
  Matrix coefficients;         // (K, K) R_ik / R_kk in row k, column i < k; 0 elsewhere
  std::vector<float> weight;   // (K) R_kk^2 over their mean: what an error of v_k costs
  double weight_unit = 1;      // that mean
};

/// H (K, K), upper triangle, X^T X of any number of tokens; DataError for NaN and Inf. While there is no
/// factor, or H has a condition above 1e12, raises the damping tenfold up to three times, from 0 to 0.001
/// first. Cost K^3 / 3 multiply-adds in double on one thread (Eigen), 12 K^2 bytes.
HessianFactor factor_hessian(const MatrixD& H, const Rounding& rounding);

/// DataError naming row and column for a NaN or Inf in the upper triangle: of such a Hessian every method
/// would make something, and nothing that means anything.
void require_finite(const MatrixD& H);

/// Channels by descending diag(H), ties by index.
std::vector<int32_t> descending_diagonal(const MatrixD& H);

/// GPTAQ (arXiv 2504.02692): row k, column i < k holds P_ik of P = alpha triu(D U^T, 1) U, which moves v_i
/// onto the targets of later columns. D (K, K) = (X_fp - X)^T X by channel, DataError for NaN and Inf. (K,
/// K), lower.
Matrix asymmetric_coefficients(const HessianFactor& factor, const MatrixD& D, double alpha);

/// Qronos (arXiv 2505.11695): the targets W* = W + W D H^-1 that minimise ||W X_fp - W* X||^2 (H damped), and
/// what the first column is rounded from, w_1 + (w D)_1 / H_11 (the others still at W). W (N, K) and the
/// result in loop order. DataError for NaN and Inf in D.
struct QronosTargets {
  Matrix W;
  std::vector<float> first;  // (N)
};
QronosTargets qronos_targets(const HessianFactor& factor, const MatrixD& D, MatrixView<const float> W);

}  // namespace fp4lab
