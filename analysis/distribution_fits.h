// analysis/distribution_fits.h - which family of distributions a sample is like: maximum-likelihood fits, how
// likely the sample is under each, and how far its distribution function is from theirs.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "analysis/fits/family.h"

namespace fp4lab {

/// normal, laplace, student_t, generalized_gaussian, logistic.
const std::vector<Family>& families();

/// One family fitted to one sample; all NaN where its likelihood has no maximum (kSpikeShare).
struct FamilyFit {
  FitParameters parameters;
  double log_likelihood;  // nats per value, over all bins of the BinnedSample
  double aic;             // 2 parameters - 2 values log_likelihood
};
/// One fit per family, in their order. For any number of threads the same bits.
using FamilyFits = std::vector<FamilyFit>;

/// What is fitted: bins() of a BinnedSample, and the moments of the same values.
struct SampleToFit {
  std::vector<BinnedSample::Bin> bins;
  Moments moments;
};
/// Why nothing can be fitted to it, if so: no values, or all within 1/256 of their mean (with one value and
/// constant tensors among them), where the bins are too wide and every likelihood a spike.
std::optional<std::string_view> fit_problem(const Moments& moments);
/// The fits of each sample, which has no problem. Samples and families run in parallel.
std::vector<FamilyFits> fit_families(std::span<const SampleToFit> samples);

/// The index of the least AIC.
size_t best_family(const FamilyFits& fits);

/// The Kolmogorov-Smirnov distance sup |F_n - F| of all values. Taken where F_n is known, at the ends of the
/// bins: exact where bins are single values, elsewhere too small by at most the share F gives to one bin
/// (below 1e-4, and some 1e-6 for values that lie like F within a bin).
double ks_distance(std::span<const BinnedSample::Bin> bins, const std::function<double(double)>& cdf);
/// The same of a few values, in any order.
double ks_distance(std::vector<float> values, const std::function<double(double)>& cdf);
/// P(D >= distance) for n values of the distribution itself: Kolmogorov's limit with Vrbik's correction for
/// finite n (2018), within 3e-3 at n = 10, 1e-5 at n = 2000. For a distribution fitted to these same values
/// it is too large.
double ks_p_value(double distance, double n);

/// Counts per equal bin of [low, high]; values outside are left out. A bin of the sample counts where its
/// mean lies.
std::vector<double> histogram(std::span<const BinnedSample::Bin> bins, double low, double high,
                              int64_t count);

/// `count` different numbers of 0..population-1, ascending: every set equally likely, in memory of its own
/// size. All of them when count >= population.
std::vector<int64_t> draw_positions(uint64_t seed, int64_t population, int64_t count);

}  // namespace fp4lab
