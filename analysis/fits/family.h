// analysis/fits/family.h - one family of distributions: its parameters, density, cumulative distribution, and
// the parameters of greatest likelihood for a sample. One file each; the table is families().
#pragma once
#include <array>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "analysis/binned_sample.h"
#include "analysis/moments.h"

namespace fp4lab {

/// A sample made ready for iterations: the bins of a BinnedSample joined while they are narrow beside their
/// distance from the median, in coordinates z = (x - centre) / unit that no magnitude of x can disturb.
/// Joined bins are at most 2^-8 of |z| wide (near 0 2^-15, while they hold less than 2^-12 of the values):
/// parameters fitted to them are off by some 1e-6, a likelihood at its maximum by the square of that.
struct FitSample {
  double centre = 0, unit = 1;   // the median, and mean |x - median|: the fit of a Laplace, exactly
  double mean = 0, std = 1;      // of x, exactly
  double largest_share = 0;      // of the values that the fullest bin of the BinnedSample has
  std::vector<double> z, share;  // of each bin: mean, ascending, and part of the values; they add up to 1
};
/// The values are not all the same.
FitSample make_fit_sample(std::span<const BinnedSample::Bin> bins, const Moments& moments);

/// In the order of the family's `parameters`; all NaN where the likelihood has no maximum.
using FitParameters = std::array<double, 3>;

struct FitParameter {
  std::string_view name, units, source_equation;
};

/// A student_t, or a generalized Gaussian, fitted to a sample of which one value has this share or more would
/// be a spike of no width at that value: their likelihood has no maximum that means anything.
inline constexpr double kSpikeShare = 0.25;

struct Family {
  std::string_view name, density;  // "exp(-|x-mu|/b) / 2b"
  std::vector<FitParameter> parameters;
  FitParameters (*fit)(const FitSample& sample);
  /// ln of the density, and the share below x, for parameters a fit has found.
  std::function<double(double x)> (*log_density)(const FitParameters& p);
  std::function<double(double x)> (*cdf)(const FitParameters& p);
};

Family normal_family();
Family laplace_family();
Family student_t_family();
Family generalized_gaussian_family();
Family logistic_family();

}  // namespace fp4lab
