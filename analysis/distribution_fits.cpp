#include "analysis/distribution_fits.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <set>

#include "core/errors.h"
#include "core/random.h"

namespace fp4lab {

namespace {

FamilyFit fit_one(const Family& family, const FitSample& ready, const SampleToFit& sample) {
  FamilyFit fit{family.fit(ready), std::numeric_limits<double>::quiet_NaN(),
                std::numeric_limits<double>::quiet_NaN()};
  if (std::isnan(fit.parameters[0])) return fit;
  const auto log_density = family.log_density(fit.parameters);
  double sum = 0;
  for (const auto& b : sample.bins) sum += b.count * log_density(b.mean);
  fit.log_likelihood = sum / sample.moments.n;
  fit.aic = 2 * double(family.parameters.size()) - 2 * sum;
  return fit;
}

}  // namespace

const std::vector<Family>& families() {
  static const std::vector<Family> all = {normal_family(), laplace_family(), student_t_family(),
                                          generalized_gaussian_family(), logistic_family()};
  return all;
}

std::optional<std::string_view> fit_problem(const Moments& moments) {
  if (moments.n == 0) return "there are no values";
  if (moments.n == 1) return "it is a single value";
  if (!(moments.std() > std::fabs(moments.mean) / 256) || moments.std() == 0)
    return "its values are all the same, or within 1/256 of their mean";
  return std::nullopt;
}

std::vector<FamilyFits> fit_families(std::span<const SampleToFit> samples) {
  const size_t n = families().size();
  std::vector<FitSample> ready(samples.size());
  std::vector<FamilyFits> fits(samples.size(), FamilyFits(n));
#pragma omp parallel
  {
#pragma omp for schedule(dynamic, 1)
    for (size_t i = 0; i < samples.size(); ++i)
      ready[i] = make_fit_sample(samples[i].bins, samples[i].moments);
      // Each fit is one thread's work from its start to its end.
#pragma omp for schedule(dynamic, 1)
    for (size_t i = 0; i < samples.size() * n; ++i)
      fits[i / n][i % n] = fit_one(families()[i % n], ready[i / n], samples[i / n]);
  }
  return fits;
}

size_t best_family(const FamilyFits& fits) {
  size_t best = 0;  // the Normal, which always has a fit
  for (size_t f = 1; f < fits.size(); ++f)
    if (fits[f].aic < fits[best].aic) best = f;
  return best;
}

double ks_distance(std::span<const BinnedSample::Bin> bins, const std::function<double(double)>& cdf) {
  double n = 0, below = 0, distance = 0;
  for (const auto& b : bins) n += b.count;
  for (const auto& b : bins) {
    const double low = cdf(double(b.low)), high = b.low == b.high ? low : cdf(double(b.high));
    distance = std::max(distance, low - below / n);
    below += b.count;
    distance = std::max(distance, below / n - high);
  }
  return distance;
}

double ks_distance(std::vector<float> values, const std::function<double(double)>& cdf) {
  std::sort(values.begin(), values.end());
  std::vector<BinnedSample::Bin> single;
  for (const float x : values) single.push_back({1, double(x), x, x});
  return ks_distance(single, cdf);
}

double ks_p_value(double distance, double n) {
  const double root = std::sqrt(n);
  const double x = distance * root + 1 / (6 * root) + (distance * root - 1) / (4 * n);
  if (x <= 0) return 1;
  double sum = 0;
  if (x < 1) {  // the theta function's other series, quick for small x
    for (int k = 1; k < 20; k += 2)
      sum += std::exp(-double(k * k) * std::numbers::pi * std::numbers::pi / (8 * x * x));
    return 1 - std::sqrt(2 * std::numbers::pi) / x * sum;
  }
  for (int k = 1; k < 20; ++k) sum += (k % 2 ? 2 : -2) * std::exp(-2.0 * k * k * x * x);
  return std::clamp(sum, 0.0, 1.0);
}

std::vector<double> histogram(std::span<const BinnedSample::Bin> bins, double low, double high,
                              int64_t count) {
  std::vector<double> counts(static_cast<size_t>(count));
  for (const auto& b : bins) {
    const double at = std::floor((b.mean - low) / (high - low) * double(count));
    if (at >= 0 && at < double(count)) counts[size_t(at)] += b.count;
  }
  return counts;
}

std::vector<int64_t> draw_positions(uint64_t seed, int64_t population, int64_t count) {
  // Floyd's way: number j is drawn from 0..j, and is j itself where what was drawn is taken.
  const Stream stream(seed, "distribution subsample");
  const int64_t first = std::max<int64_t>(0, population - count);
  std::set<int64_t> drawn;
  for (int64_t j = first; j < population; ++j) {
    const int64_t t = first == 0 ? j : int64_t(stream.below(uint64_t(j - first), uint64_t(j) + 1));
    if (!drawn.insert(t).second) drawn.insert(j);
  }
  return {drawn.begin(), drawn.end()};
}

}  // namespace fp4lab
