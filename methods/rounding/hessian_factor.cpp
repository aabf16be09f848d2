#include "methods/rounding/hessian_factor.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cpu/gemm.h"

namespace fp4lab {

namespace {

// Of the damped H: double keeps 16 digits, and a factor of fewer than 4 right ones is noise.
constexpr double kLeastReciprocalCondition = 1e-12;
constexpr double kFirstRise = 1e-3;  // of a damping of 0, which tenfold is still 0

using EigenMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>;

/// Eigen's blocks follow the caches it finds; fixed, the bits are the same on every machine.
void fix_block_sizes() {
  static const bool once = [] {
    Eigen::setCpuCacheSizes(32 << 10, 512 << 10, 4 << 20);
    return true;
  }();
  (void)once;
}

double at(const MatrixD& H, int32_t i, int32_t j) { return i <= j ? H(i, j) : H(j, i); }

/// H in loop order with its indices flipped, the lower triangle: what Eigen's Cholesky reads.
EigenMatrix flipped(const MatrixD& H, const HessianFactor& f, double unit) {
  const auto K = int64_t(f.order.size());
  EigenMatrix A(K, K);
#pragma omp parallel for schedule(static)
  for (int64_t j = 0; j < K; ++j) {  // column j of A is loop position K - 1 - j
    const int32_t c = f.order[size_t(K - 1 - j)];
    for (int64_t i = j; i < K; ++i) {
      const int32_t r = f.order[size_t(K - 1 - i)];
      A(i, j) = f.dead[size_t(r)] || f.dead[size_t(c)] ? 0.0 : at(H, r, c) * unit;
    }
  }
  return A;
}

/// DataError for the first NaN or Inf of row `row` of `what` from column `begin` on.
void require_finite_row(const char* what, const MatrixD& M, int64_t row, int64_t begin) {
  for (int64_t c = begin; c < M.cols(); ++c)
    if (!std::isfinite(M(row, c)))
      throw DataError(str(what, " of the inputs is ", std::isnan(M(row, c)) ? "NaN" : "infinite", " at row ",
                          row, ", column ", c));
}

/// D in loop order as a row-major matrix, dead channels 0.
MatrixD ordered(const MatrixD& D, const HessianFactor& f) {
  const auto K = int64_t(f.order.size());
  for (int64_t i = 0; i < K; ++i) require_finite_row("the cross moment D", D, i, 0);
  MatrixD out(K, K);
  for (int64_t i = 0; i < K; ++i)
    for (int64_t j = 0; j < K; ++j) {
      const int32_t r = f.order[size_t(i)], c = f.order[size_t(j)];
      out(i, j) = f.dead[size_t(r)] || f.dead[size_t(c)] ? 0.0 : D(r, c);
    }
  return out;
}

using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
Eigen::Map<const RowMajor> map_of(const MatrixD& m) { return {m.data(), m.rows(), m.cols()}; }

}  // namespace

void require_finite(const MatrixD& H) {
  for (int64_t i = 0; i < H.rows(); ++i) require_finite_row("the Hessian", H, i, i);
}

std::vector<int32_t> descending_diagonal(const MatrixD& H) {
  std::vector<int32_t> order(size_t(H.rows()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return H(a, a) > H(b, b); });
  return order;
}

HessianFactor factor_hessian(const MatrixD& H, const Rounding& rounding) {
  fix_block_sizes();
  require_finite(H);
  const int64_t K = H.rows();
  HessianFactor f;
  f.dead.resize(size_t(K));
  double trace = 0;
  for (int64_t i = 0; i < K; ++i) {
    f.dead[size_t(i)] = H(i, i) <= 0;
    f.dead_channels += f.dead[size_t(i)];
    trace += H(i, i);
  }
  if (rounding.order == Rounding::static_activation) {
    f.order = descending_diagonal(H);
  } else {
    f.order.resize(size_t(K));
    std::iota(f.order.begin(), f.order.end(), 0);
  }
  // Everything in units of the live channels' mean: the damping is then the fraction itself.
  const int64_t live = K - f.dead_channels;
  const double mean = live > 0 ? trace / double(live) : 1;
  f.damping = rounding.damping;
  Eigen::LLT<EigenMatrix> llt;
  for (int rise = 0; rise < 4; ++rise) {
    EigenMatrix A = flipped(H, f, 1 / mean);
    for (int64_t j = 0; j < K; ++j)
      A(j, j) = f.dead[size_t(f.order[size_t(K - 1 - j)])] ? 1 : A(j, j) + f.damping;
    llt.compute(A);
    f.ok = llt.info() == Eigen::Success && llt.rcond() > kLeastReciprocalCondition;
    if (f.ok) break;
    if (rise < 3) f.damping = f.damping > 0 ? 10 * f.damping : kFirstRise;
  }
  f.added = f.damping * mean;
  f.condition = f.ok ? 1 / llt.rcond() : INFINITY;
  if (!f.ok) return f;

  const bool keep = rounding.kind == Rounding::gptaq || rounding.kind == Rounding::qronos;
  if (keep) f.R = MatrixD(K, K);
  f.coefficients = Matrix(K, K);
  f.weight.resize(size_t(K));
  const double root = std::sqrt(mean);
  const auto& L = llt.matrixLLT();
  double sum = 0;
  for (int64_t k = 0; k < K; ++k) sum += L(k, k) * L(k, k) * mean;
  f.weight_unit = sum / double(K);
#pragma omp parallel for schedule(static)
  for (int64_t k = 0; k < K; ++k) {
    const double pivot = L(K - 1 - k, K - 1 - k);
    f.weight[size_t(k)] = float(pivot * pivot * mean / f.weight_unit);
    for (int64_t i = 0; i < K; ++i) {
      const double r = i <= k ? L(K - 1 - i, K - 1 - k) : 0;
      if (keep) f.R(k, i) = r * root;
      f.coefficients(k, i) = i < k ? float(r / pivot) : 0.0f;
    }
  }
  return f;
}

Matrix asymmetric_coefficients(const HessianFactor& f, const MatrixD& D, double alpha) {
  fix_block_sizes();
  const auto K = int64_t(f.order.size());
  // R (row k: R_ik) is Rt = R^T, lower. U = R^-1, so D U^T = D Rt^-1, and P = S U with S = triu(D U^T, 1):
  // P R = S, that is Rt P^T = S^T.
  const auto Rt = map_of(f.R).triangularView<Eigen::Lower>();
  EigenMatrix S = map_of(ordered(D, f));
  Rt.solveInPlace<Eigen::OnTheRight>(S);
  for (int64_t i = 0; i < K; ++i)
    for (int64_t j = 0; j <= i; ++j) S(i, j) = 0;
  EigenMatrix Pt = S.transpose();
  Rt.solveInPlace(Pt);
  Matrix out = Matrix::zeros(K, K);
  for (int64_t k = 0; k < K; ++k)
    for (int64_t i = 0; i < k; ++i) out(k, i) = float(alpha * Pt(k, i));
  return out;
}

QronosTargets qronos_targets(const HessianFactor& f, const MatrixD& D, MatrixView<const float> W) {
  fix_block_sizes();
  const auto K = int64_t(f.order.size());
  // W D H^-1 = W M, H = R R^T = Rt^T Rt: M^T = H^-1 D^T = Rt^-1 (Rt^-T D^T).
  const auto Rt = map_of(f.R).triangularView<Eigen::Lower>();
  const MatrixD by_order = ordered(D, f);
  EigenMatrix Mt = map_of(by_order).transpose();
  Rt.transpose().solveInPlace(Mt);
  Rt.solveInPlace(Mt);
  Matrix M(K, K);  // row k: what W moves onto column k
  for (int64_t k = 0; k < K; ++k)
    for (int64_t i = 0; i < K; ++i) M(k, i) = float(Mt(k, i));
  QronosTargets out{Matrix(W.rows, K), std::vector<float>(size_t(W.rows))};
  for (int64_t r = 0; r < W.rows; ++r) std::copy_n(W.row(r), K, out.W.row(r));
  gemm(W, M, out.W, true);
  const double h11 = [&] {  // (R R^T)_11: row 0 of R
    double sum = 0;
    for (int64_t k = 0; k < K; ++k) sum += f.R(k, 0) * f.R(k, 0);
    return sum;
  }();
  for (int64_t r = 0; r < W.rows; ++r) {
    double moved = 0;
    for (int64_t i = 0; i < K; ++i) moved += double(W(r, i)) * by_order(i, 0);
    out.first[size_t(r)] = float(double(W(r, 0)) + moved / h11);
  }
  return out;
}

}  // namespace fp4lab
