// analysis/lemmas/interval.h - estimates with confidence intervals, and what they say about a prediction.
//   Everything sampled here is a smooth function of means over independent blocks (a ratio, mostly), so one
//   mechanism serves all: the means of a few moments per block with their covariance, and the delta method.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace fp4lab {

struct Interval {
  double estimate, low, high;
};

enum class Verdict { holds, differs, undecided };
std::string_view name_of(Verdict v);

/// holds: the interval lies within prediction +- tolerance; differs: outside of it; undecided: across one of
/// its ends, or not a number.
Verdict judge(const Interval& interval, double prediction, double tolerance);

/// z with P(|N(0,1)| <= z) = confidence, which lies in (0, 1): 2.5758 for .99.
double normal_quantile(double confidence);

/// Sums over blocks of k moments and of their products.
class MomentSums {
 public:
  explicit MomentSums(int moments);
  void add(std::span<const double> block);  // (k)
  MomentSums& operator+=(const MomentSums& other);

  int64_t count() const { return count_; }
  int moments() const { return k_; }
  double mean(int i) const { return sums_[size_t(i)] / double(count_); }
  std::vector<double> means() const;
  double covariance(int i, int j) const;  // of one block's moments
  double largest(int i) const { return largest_[size_t(i)]; }

 private:
  int k_;
  int64_t count_ = 0;
  std::vector<double> sums_, products_, largest_;  // (k), (k, k), (k)
};

using OfMeans = std::function<double(std::span<const double>)>;

/// f(means) and its standard error sqrt(grad f' C grad f / n), by central differences.
struct Estimated {
  double value, error;
};
Estimated delta_method(const MomentSums& sums, const OfMeans& f);
Interval interval_of(const Estimated& e, double confidence);

}  // namespace fp4lab
