#include "analysis/lemmas/interval.h"

#include <algorithm>
#include <boost/math/special_functions/erf.hpp>
#include <cmath>
#include <limits>

#include "core/errors.h"

namespace fp4lab {

std::string_view name_of(Verdict v) {
  switch (v) {
    case Verdict::holds: return "holds";
    case Verdict::differs: return "differs";
    case Verdict::undecided: break;
  }
  return "undecided";
}

Verdict judge(const Interval& interval, double prediction, double tolerance) {
  const double low = prediction - tolerance, high = prediction + tolerance;
  if (interval.low >= low && interval.high <= high) return Verdict::holds;
  if (interval.high < low || interval.low > high) return Verdict::differs;
  return Verdict::undecided;
}

double normal_quantile(double confidence) { return std::sqrt(2.0) * boost::math::erf_inv(confidence); }

MomentSums::MomentSums(int moments)
    : k_(moments),
      sums_(size_t(moments)),
      products_(size_t(moments * moments)),
      largest_(size_t(moments), -std::numeric_limits<double>::infinity()) {}

void MomentSums::add(std::span<const double> block) {
  FP4LAB_CHECK(int(block.size()) == k_, block.size(), " moments, expected ", k_);
  ++count_;
  for (size_t i = 0; i < block.size(); ++i) {
    sums_[i] += block[i];
    largest_[i] = std::max(largest_[i], block[i]);
    for (size_t j = 0; j < block.size(); ++j) products_[i * block.size() + j] += block[i] * block[j];
  }
}

MomentSums& MomentSums::operator+=(const MomentSums& other) {
  FP4LAB_CHECK(other.k_ == k_, other.k_, " moments, expected ", k_);
  count_ += other.count_;
  for (size_t i = 0; i < sums_.size(); ++i) {
    sums_[i] += other.sums_[i];
    largest_[i] = std::max(largest_[i], other.largest_[i]);
  }
  for (size_t i = 0; i < products_.size(); ++i) products_[i] += other.products_[i];
  return *this;
}

std::vector<double> MomentSums::means() const {
  std::vector<double> m;
  for (int i = 0; i < k_; ++i) m.push_back(mean(i));
  return m;
}

double MomentSums::covariance(int i, int j) const {
  return products_[size_t(i * k_ + j)] / double(count_) - mean(i) * mean(j);
}

Estimated delta_method(const MomentSums& sums, const OfMeans& f) {
  const int k = sums.moments();
  std::vector<double> at = sums.means(), gradient(size_t(k), 0.0);
  const double value = f(at);
  for (int i = 0; i < k; ++i) {
    // A thousandth of a block's deviation: far above rounding, far below where f would bend.
    const double deviation = std::sqrt(std::max(0.0, sums.covariance(i, i))), mean = at[size_t(i)];
    if (deviation == 0) continue;
    const double step = 1e-3 * std::min(deviation, mean == 0 ? deviation : std::fabs(mean));
    at[size_t(i)] = mean + step;
    const double above = f(at);
    at[size_t(i)] = mean - step;
    const double below = f(at);
    at[size_t(i)] = mean;
    gradient[size_t(i)] = (above - below) / (2 * step);
  }
  double variance = 0;
  for (int i = 0; i < k; ++i)
    for (int j = 0; j < k; ++j) variance += gradient[size_t(i)] * gradient[size_t(j)] * sums.covariance(i, j);
  return {value, std::sqrt(std::max(0.0, variance) / double(sums.count()))};
}

Interval interval_of(const Estimated& e, double confidence) {
  const double half = normal_quantile(confidence) * e.error;
  return {e.value, e.value - half, e.value + half};
}

}  // namespace fp4lab
