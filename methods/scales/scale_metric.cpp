#include "methods/scales/scale_metric.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "formats/group_coder.h"
#include "methods/rounding/panels.h"

namespace fp4lab {

namespace {

/// Of a block's mean diagonal: enough for a factor of any block, nothing to a scale's choice.
constexpr double kBlockDamping = 1e-6;

/// Weights and coefficients of d^T H_b d for the block of g columns from `begin` on.
void block_metric(const MatrixD& H, int64_t begin, int64_t g, float* weight, float* coefficients) {
  double trace = 0;
  for (int64_t i = 0; i < g; ++i) trace += H(begin + i, begin + i);
  std::fill_n(weight, g, 0.0f), std::fill_n(coefficients, g * g, 0.0f);
  if (!(trace > 0)) return;  // inputs that are always 0: every scale costs nothing
  const double unit = double(g) / trace;
  Eigen::MatrixXd A(g, g);  // indices flipped, as in factor_hessian
  for (int64_t j = 0; j < g; ++j)
    for (int64_t i = j; i < g; ++i)
      A(i, j) = H(begin + g - 1 - i, begin + g - 1 - j) * unit + (i == j ? kBlockDamping : 0);
  const Eigen::LLT<Eigen::MatrixXd> llt(A);
  FP4LAB_CHECK(llt.info() == Eigen::Success, "block at channel ", begin);
  const auto& L = llt.matrixLLT();
  for (int64_t k = 0; k < g; ++k) {
    const double pivot = L(g - 1 - k, g - 1 - k);
    weight[k] = float(pivot * pivot);
    for (int64_t i = 0; i < k; ++i) coefficients[k * g + i] = float(L(g - 1 - i, g - 1 - k) / pivot);
  }
}

}  // namespace

ScaleMetric ScaleMetric::offline(const WeightScales& search, const MatrixD& H, int64_t group) {
  ScaleMetric m;
  m.g_ = group;
  if (!search.needs_hessian()) return m;
  require_finite(H);
  const int64_t K = H.rows();
  m.weight_.resize(size_t(K));
  if (search.kind == WeightScales::local_hessian) {
    m.coefficients_.resize(size_t(K * group));
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < K / group; ++b)
      block_metric(H, b * group, group, &m.weight_[size_t(b * group)],
                   &m.coefficients_[size_t(b * group * group)]);
    return m;
  }
  double trace = 0;
  for (int64_t i = 0; i < K; ++i) trace += H(i, i);
  const double unit = trace > 0 ? double(K) / trace : 1;
  for (int64_t i = 0; i < K; ++i) m.weight_[size_t(i)] = float(H(i, i) * unit);
  return m;
}

ScaleMetric ScaleMetric::in_loop(const HessianFactor& factor, int64_t group) {
  ScaleMetric m;
  m.g_ = group;
  m.compensated_ = true;
  m.weight_ = factor.weight;
  m.shared_ = &factor.coefficients;
  return m;
}

void ScaleMetric::apply(int64_t group, GroupLoss& loss) const {
  loss.g = g_;
  loss.compensated = compensated_;
  loss.weight = weight_.empty() ? nullptr : &weight_[size_t(group * g_)];
  if (shared_) {
    loss.coefficients = &(*shared_)(group * g_, group * g_);
    loss.coefficient_stride = shared_->cols();
  } else if (!coefficients_.empty()) {
    loss.coefficients = &coefficients_[size_t(group * g_ * g_)];
    loss.coefficient_stride = g_;
  }
}

bool GroupSearch::choose(int64_t group, int64_t row, int64_t rows, const float* value, int64_t stride,
                         uint32_t* codes, float* effective) {
  const int count = coder_.candidates_per_group();
  const int64_t g = coder_.group(), padded = padded_rows(rows);
  listed_.resize(size_t(count)), effective_.resize(size_t(count));
  tried_.assign(size_t(count * padded), 0), scale_.assign(size_t(count * padded), 0);
  loss_.resize(size_t(padded)), least_.assign(size_t(padded), std::numeric_limits<float>::infinity());
  bool finite = true;
  for (int64_t r = 0; r < rows; ++r) {
    float amax = 0;
    for (int64_t k = 0; k < g; ++k) {
      const float a = std::abs(value[k * stride + r]);
      finite = finite && a <= std::numeric_limits<float>::max();
      amax = std::max(amax, a);
    }
    coder_.candidates(amax, row + r, listed_.data(), effective_.data());
    for (int j = 0; j < count; ++j) {
      tried_[size_t(j * padded + r)] = listed_[size_t(j)];
      scale_[size_t(j * padded + r)] = effective_[size_t(j)];
    }
  }
  if (!finite) return false;
  GroupLoss loss;
  loss.n = padded, loss.value = value, loss.stride = stride;
  metric_.apply(group, loss);
  const Element& element = coder_.format().element;
  for (int j = 0; j < count; ++j) {
    loss.scale = &scale_[size_t(j * padded)];
    column_kernels().group_loss(element, loss, loss_.data());
    for (int64_t r = 0; r < rows; ++r)
      if (j == 0 || loss_[size_t(r)] < least_[size_t(r)]) {
        least_[size_t(r)] = loss_[size_t(r)];
        codes[r] = tried_[size_t(j * padded + r)];
        effective[r] = scale_[size_t(j * padded + r)];
      }
  }
  return true;
}

Scales choose_weighted_scales(const FormatSpec& format, const WeightScales& search, MatrixView<const float> W,
                              const MatrixD& H) {
  const GroupCoder coder(format, search, W.cols, tensor_factors(format, search, W));
  const int64_t g = coder.group(), groups = W.cols / g, bytes = format.scale.bytes;
  const ScaleMetric metric = ScaleMetric::offline(search, H, g);
  Scales scales{W.rows, W.cols, Bytes(size_t(W.rows * groups * bytes)), {}, coder.factors()};
  int64_t bad = W.rows;
#pragma omp parallel
  {
    GroupSearch find(coder, metric);
    std::vector<float> panel(size_t(g * kPanelRows)), effective(static_cast<size_t>(kPanelRows));
    std::vector<uint32_t> codes(static_cast<size_t>(kPanelRows));
#pragma omp for schedule(static) reduction(min : bad)
    for (int64_t row = 0; row < W.rows; row += kPanelRows) {
      const int64_t rows = std::min(kPanelRows, W.rows - row);
      for (int64_t k = 0; k < groups; ++k) {
        load_panel(W, row, rows, k * g, g, panel.data());
        if (!find.choose(k, row, rows, panel.data(), kPanelRows, codes.data(), effective.data())) {
          bad = std::min(bad, row);
          break;
        }
        for (int64_t r = 0; r < rows; ++r)
          std::memcpy(&scales.bytes[size_t(((row + r) * groups + k) * bytes)], &codes[size_t(r)],
                      size_t(bytes));
      }
    }
  }
  for (; bad < W.rows; ++bad)
    for (int64_t c = 0; c < W.cols; ++c)
      if (!std::isfinite(W(bad, c))) report_nonfinite(W, bad);
  return scales;
}

}  // namespace fp4lab
