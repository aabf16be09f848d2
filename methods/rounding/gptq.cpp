#include "methods/rounding/gptq.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/group_coder.h"
#include "kernels/cpu/gemm.h"
#include "methods/rounding/panels.h"
#include "methods/scales/scale_metric.h"

namespace fp4lab {

namespace {

// Columns whose errors reach the later ones through one product: fewer, and packing that product costs more
// than it computes; more, and the chains within the panel leave the second-level cache.
constexpr int64_t kOuter = 256;
// Columns within a panel that are brought up to date together.
constexpr int64_t kInner = 32;

/// Scales of every group for every row, turned on their side: what the loop reads.
struct ScalePanels {
  int64_t padded;            // rows, a multiple of kColumnLanes
  std::vector<float> scale;  // (groups, padded)
  Bytes zero;                // (groups, padded), int_asym only

  float* at(int64_t group, int64_t row) { return &scale[size_t(group * padded + row)]; }
};

class Loop {
 public:
  Loop(const FormatSpec& format, const WeightScales& search, const Rounding& rounding,
       MatrixView<const float> W, const MatrixD& H, const HessianFactor& factor)
      : format_(format),
        rounding_(rounding),
        rule_(search.rule_for(format)),
        factor_(factor),
        N_(W.rows),
        K_(W.cols),
        live_(without_dead(W, factor)),
        coder_(format, search, W.cols, tensor_factors(format, search, live_)),
        g_(coder_.group()),
        groups_(K_ / g_) {
    panels_.padded = (N_ + kPanelRows - 1) / kPanelRows * kPanelRows;
    panels_.scale.assign(size_t(groups_ * panels_.padded), 0);
    if (format.has_zero_points()) panels_.zero = Bytes(size_t(groups_ * panels_.padded));
    FP4LAB_CHECK(rounding.scales == Rounding::up_front || rounding.order != Rounding::static_activation);
    if (rounding.scales == Rounding::up_front) {
      scales_ = search.needs_hessian() ? choose_weighted_scales(format, search, live_, H)
                                       : choose_scales(format, live_, search);
      turn_scales();
      return;
    }
    scales_ = {N_, K_, Bytes(size_t(N_ * groups_ * format.scale.bytes)),
               Bytes(format.has_zero_points() ? size_t(N_ * groups_) : 0), coder_.factors()};
    metric_ = rounding.scales == Rounding::in_loop ? ScaleMetric::in_loop(factor, g_)
                                                   : ScaleMetric::offline(search, H, g_);
    by_metric_ = rounding.scales == Rounding::in_loop || search.needs_hessian();
  }

  GptqResult run(const MatrixD& D) {
    codes_ = Bytes(size_t(N_ * K_));
    errors_ = Matrix(N_, K_);
    losses_.assign(size_t(N_), 0);
    set_targets(D);
    // A panel ends where a group does, if scales are chosen on the way.
    const int64_t width = std::min(K_, choosing() ? std::max(g_, kOuter / g_ * g_) : kOuter);
    Matrix correction(N_, width);
    for (int64_t begin = 0; begin < K_; begin += width) {
      const int64_t end = std::min(K_, begin + width), m = end - begin;
      const MatrixView<float> C{correction.data(), N_, m, m};
      const auto rows_of = [&](const Matrix& coefficients) {
        return MatrixView<const float>{coefficients.row(begin), m, begin, K_};
      };
      if (begin > 0) {
        gemm({errors_.data(), N_, begin, K_}, rows_of(factor_.coefficients), C);
        if (values_.size())
          gemm({values_.data(), N_, begin, K_}, rows_of(asymmetric_), {targets_.data() + begin, N_, m, K_},
               true);
      }
      run_panel(begin, m, begin > 0 ? C : MatrixView<float>{});
    }
    return finish();
  }

 private:
  /// Looks for NaN and Inf in all of W: dead channels hide theirs, and scales chosen on the way meet the
  /// others too late to name them.
  static Matrix without_dead(MatrixView<const float> W, const HessianFactor& factor) {
    Matrix live(W.rows, W.cols);
    for (int64_t r = 0; r < W.rows; ++r)
      for (int64_t c = 0; c < W.cols; ++c) {
        if (!std::isfinite(W(r, c))) report_nonfinite(W, r);
        live(r, c) = factor.dead[size_t(c)] ? 0.0f : W(r, c);
      }
    return live;
  }
  bool choosing() const { return rounding_.scales != Rounding::up_front; }
  bool natural() const { return rounding_.order != Rounding::static_activation; }

  /// The stored scales' effective values (and zero points), by group.
  void turn_scales() {
#pragma omp parallel
    {
      std::vector<float> row(static_cast<size_t>(groups_));
#pragma omp for schedule(static)
      for (int64_t r = 0; r < N_; ++r) {
        coder_.effective(scales_.bytes.data() + r * groups_ * format_.scale.bytes, r, groups_, row.data());
        for (int64_t k = 0; k < groups_; ++k) *panels_.at(k, r) = row[size_t(k)];
        if (format_.has_zero_points())
          for (int64_t k = 0; k < groups_; ++k)
            panels_.zero.data()[k * panels_.padded + r] = scales_.zero_points.data()[r * groups_ + k];
      }
    }
  }

  void set_targets(const MatrixD& D) {
    Matrix ordered(N_, K_);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < N_; ++r)
      for (int64_t k = 0; k < K_; ++k) ordered(r, k) = live_(r, factor_.order[size_t(k)]);
    if (rounding_.kind == Rounding::qronos) {
      QronosTargets t = qronos_targets(factor_, D, ordered);
      targets_ = std::move(t.W), first_ = std::move(t.first);
    } else {
      targets_ = std::move(ordered);
    }
    if (rounding_.kind == Rounding::gptaq) {
      asymmetric_ = asymmetric_coefficients(factor_, D, rounding_.alpha);
      values_ = Matrix(N_, K_);
    }
  }

  /// Room of one thread for one panel of one run of rows.
  struct Work {
    std::vector<float> target, correction, value, error, effective;
    std::vector<uint8_t> codes, zero;
    std::vector<uint32_t> chosen;
    std::vector<const float*> scale;
    std::vector<const uint8_t*> zeros;
    std::vector<float> group;           // (g): a group's compensated values in one row
    std::vector<float> moved, negated;  // (g, kPanelRows): a and -a of `compensate`
    GroupScratch scratch;
    GroupSearch search;
    Work(const Loop& loop, int64_t m)
        : target(size_t(m * kPanelRows)),
          correction(target.size()),
          value(target.size()),
          error(target.size()),
          effective(size_t(kPanelRows)),
          codes(target.size()),
          zero(size_t(kPanelRows)),
          chosen(size_t(kPanelRows)),
          scale(size_t(m)),
          zeros(size_t(m)),
          group(loop.choosing() ? size_t(loop.g_) : 0),
          moved(loop.choosing() ? size_t(loop.g_ * kPanelRows) : 0),
          negated(moved.size()),
          scratch(1, loop.coder_.candidates_per_group()),
          search(loop.coder_, loop.metric_) {}
  };

  void run_panel(int64_t begin, int64_t m, MatrixView<const float> C) {
    int64_t bad = N_;
#pragma omp parallel
    {
      Work work(*this, m);
#pragma omp for schedule(dynamic) reduction(min : bad)
      for (int64_t row = 0; row < N_; row += kPanelRows) {
        const int64_t rows = std::min(kPanelRows, N_ - row);
        load_panel(targets_, row, rows, begin, m, work.target.data());
        if (C.data)
          load_panel(C, row, rows, 0, m, work.correction.data());
        else
          std::fill(work.correction.begin(), work.correction.end(), 0.0f);
        if (begin == 0)
          for (int64_t r = 0; r < rows && !first_.empty(); ++r)
            work.correction[size_t(r)] = first_[size_t(row + r)] - work.target[size_t(r)];
        if (!round_columns(begin, m, row, rows, work)) bad = std::min(bad, row);
        store_panel(work.error.data(), row, rows, begin, m, errors_);
        if (values_.size()) {
          store_panel(work.value.data(), row, rows, begin, m, values_);
          store_panel(work.target.data(), row, rows, begin, m, targets_);
        }
        for (int64_t k = 0; k < m; ++k)
          for (int64_t r = 0; r < rows; ++r) {
            const size_t at = size_t(k * kPanelRows + r);
            codes_.data()[(row + r) * K_ + factor_.order[size_t(begin + k)]] = work.codes[at];
            // v - q, and t - q for the damping that the loop's loss has and H has not. Qronos rounds its
            // first column from elsewhere than its target: there is nothing before it, so that t - q is what
            // counts.
            const bool first = begin + k == 0;
            const double t = double(work.error[at]),
                         d = first ? t : double(work.value[at]) - double(work.target[at]) + t;
            losses_[size_t(row + r)] +=
                double(factor_.weight[size_t(begin + k)]) * factor_.weight_unit * d * d -
                factor_.added * t * t;
          }
      }
    }
    if (bad < N_)
      throw DataError(str("rows ", bad, " to ", std::min(bad + kPanelRows, N_) - 1,
                          ": compensated weights are not finite any more; more damping may help"));
  }

  /// The columns of one panel for rows [row, row + rows); false when values stop being finite.
  bool round_columns(int64_t begin, int64_t m, int64_t row, int64_t rows, Work& w) {
    const ColumnKernels& kernels = column_kernels();
    const int64_t n = padded_rows(rows), inner = choosing() ? g_ : values_.size() ? 1 : kInner;
    bool finite = true;
    for (int64_t k = 0; k < m; k += inner) {
      const int64_t count = std::min(inner, m - k), at = k * kPanelRows;
      const float* coefficients = &factor_.coefficients(begin + k, begin);
      if (values_.size()) {
        // GPTAQ's targets move too; within a group they do so column by column, after its scale is chosen.
        kernels.accumulate(w.value.data(), k, &asymmetric_(begin + k, begin), K_, n, count, kPanelRows,
                           &w.target[size_t(at)]);
      }
      kernels.accumulate(w.error.data(), k, coefficients, K_, n, count, kPanelRows,
                         &w.correction[size_t(at)]);
      if (choosing()) finite = choose(begin + k, k, row, rows, w) && finite;
      const int64_t step = values_.size() ? 1 : count;
      for (int64_t j = k; j < k + count; j += step) {
        if (j > k) {
          kernels.accumulate(&w.value[size_t(at)], j - k, &asymmetric_(begin + j, begin + k), K_, n, 1,
                             kPanelRows, &w.target[size_t(j * kPanelRows)]);
          kernels.accumulate(&w.error[size_t(at)], j - k, &factor_.coefficients(begin + j, begin + k), K_, n,
                             1, kPanelRows, &w.correction[size_t(j * kPanelRows)]);
        }
        round_step(begin, j, step, row, n, w);
      }
    }
    return finite;
  }

  void round_step(int64_t begin, int64_t j, int64_t step, int64_t row, int64_t n, Work& w) {
    for (int64_t k = 0; k < step; ++k) {
      const int64_t group = factor_.order[size_t(begin + j + k)] / g_;
      w.scale[size_t(k)] = panels_.at(group, row);
      if (format_.has_zero_points()) w.zeros[size_t(k)] = panels_.zero.data() + group * panels_.padded + row;
    }
    const int64_t at = j * kPanelRows;
    RoundPanel p;
    p.n = n, p.m = step, p.stride = kPanelRows;
    p.target = &w.target[size_t(at)], p.correction = &w.correction[size_t(at)];
    p.coefficients = &factor_.coefficients(begin + j, begin + j), p.coefficient_stride = K_;
    p.scale = w.scale.data(), p.zero = format_.has_zero_points() ? w.zeros.data() : nullptr;
    p.value = &w.value[size_t(at)], p.error = &w.error[size_t(at)], p.codes = &w.codes[size_t(at)];
    column_kernels().round(format_.element, p);
  }

  /// value = the group's columns as the errors of all columns before the group leave them, A_k = t_k + a_k.
  /// The sums so far hold only what reaches a column straight from those; what comes by way of the group's
  /// own earlier columns, had they no error of their own, follows: a_k += sum over the group's i < k of (t_i
  /// - A_i) R_ik / R_kk = -a_i R_ik / R_kk.
  void compensate(int64_t column, int64_t k, int64_t n, Work& w) {
    for (int64_t j = 0; j < g_; ++j) {
      const size_t at = size_t((k + j) * kPanelRows), own = size_t(j * kPanelRows);
      std::copy_n(&w.correction[at], kPanelRows, &w.moved[own]);
      column_kernels().accumulate(w.negated.data(), j, &factor_.coefficients(column + j, column), K_, n, 1,
                                  kPanelRows, &w.moved[own]);
      for (size_t r = 0; r < size_t(kPanelRows); ++r) {
        w.negated[own + r] = -w.moved[own + r];
        w.value[at + r] = w.target[at + r] + w.moved[own + r];
      }
    }
  }

  /// Chooses the scales of the group that begins at column `column`, panel column k.
  bool choose(int64_t column, int64_t k, int64_t row, int64_t rows, Work& w) {
    const int64_t group = column / g_;
    const size_t at = size_t(k * kPanelRows);
    compensate(column, k, padded_rows(rows), w);
    float* effective = panels_.at(group, row);
    const int64_t bytes = format_.scale.bytes;
    const auto stored = [&](int64_t r) {
      return &scales_.bytes[size_t(((row + r) * groups_ + group) * bytes)];
    };
    if (by_metric_) {
      if (!w.search.choose(group, row, rows, &w.value[at], kPanelRows, w.chosen.data(), effective))
        return false;
      for (int64_t r = 0; r < rows; ++r) std::memcpy(stored(r), &w.chosen[size_t(r)], size_t(bytes));
      return true;
    }
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < g_; ++i) w.group[size_t(i)] = w.value[at + size_t(i * kPanelRows + r)];
      uint8_t zero = 0;
      if (!coder_.choose(w.group.data(), row + r, 1, nullptr, stored(r), &zero, effective + r, w.scratch))
        return false;
      if (format_.has_zero_points()) {
        scales_.zero_points.data()[(row + r) * groups_ + group] = zero;
        panels_.zero.data()[group * panels_.padded + row + r] = zero;
      }
    }
    return true;
  }

  GptqResult finish() {
    FormatSpec stored = format_;
    stored.rule = rule_;
    GptqResult out{{stored, std::move(scales_), Bytes(size_t(N_ * stored.code_bytes(K_)))}, 0};
    const RowKernels& kernels = row_kernels();
    for (int64_t r = 0; r < N_; ++r) {
      uint8_t* to = out.q.codes.data() + r * stored.code_bytes(K_);
      if (stored.packed())
        kernels.pack(codes_.data() + r * K_, K_, to);
      else
        std::copy_n(codes_.data() + r * K_, K_, to);
      out.loss += losses_[size_t(r)];
    }
    return out;
  }

  FormatSpec format_;
  Rounding rounding_;
  ScaleRule rule_;  // that the stored scales were chosen by
  const HessianFactor& factor_;
  int64_t N_, K_;
  Matrix live_;  // W, dead channels 0
  GroupCoder coder_;
  int64_t g_, groups_;
  Scales scales_;
  ScalePanels panels_{};
  ScaleMetric metric_;
  bool by_metric_ = false;
  Matrix targets_, errors_, values_, asymmetric_;  // in loop order; the last two for gptaq alone
  std::vector<float> first_;                       // qronos
  Bytes codes_;                                    // (N, K), one per byte, stored order
  std::vector<double> losses_;                     // by row
};

}  // namespace

GptqResult gptq(const FormatSpec& format, const WeightScales& search, const Rounding& rounding,
                MatrixView<const float> W, const MatrixD& H, const MatrixD& D, const HessianFactor& factor) {
  FP4LAB_CHECK(factor.ok && int64_t(factor.order.size()) == W.cols, factor.order.size(), " of ", W.cols);
  return Loop(format, search, rounding, W, H, factor).run(D);
}

}  // namespace fp4lab
