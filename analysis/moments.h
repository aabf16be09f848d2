// analysis/moments.h - mean and central moments of a sample, and the crest factor of its groups. In double,
// rows one after the other: the same bits for any number of threads. Moments of parts add up (Pebay 2008).
#pragma once
#include <cstdint>
#include <span>

#include "core/matrix.h"

namespace fp4lab {

/// n, the mean, and the sums of the 2nd to 4th powers of the deviations from it.
struct Moments {
  double n = 0, mean = 0, m2 = 0, m3 = 0, m4 = 0;

  Moments& operator+=(const Moments& o);

  /// sqrt(m2 / n): the population's, as the maximum-likelihood fit of a Normal has it. NaN without values.
  double std() const;
  /// m3 n^1/2 / m2^3/2 and n m4 / m2^2 - 3, biased like SciPy's; NaN without spread.
  double skewness() const;
  double excess_kurtosis() const;
};
/// Two passes: deviations are taken from the mean itself.
Moments moments_of(std::span<const float> values);

/// Sum over the groups with energy of max|x| / rms(x), and their number. group_size divides the columns.
struct CrestSum {
  double sum = 0;
  int64_t groups = 0;

  CrestSum& operator+=(const CrestSum& o) { return sum += o.sum, groups += o.groups, *this; }
  double mean() const;  // NaN without groups
};
CrestSum crest_factors(MatrixView<const float> X, int64_t group_size);

}  // namespace fp4lab
