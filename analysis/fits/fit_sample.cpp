#include <algorithm>
#include <cmath>

#include "analysis/fits/family.h"
#include "core/errors.h"

namespace fp4lab {

FitSample make_fit_sample(std::span<const BinnedSample::Bin> bins, const Moments& moments) {
  FitSample s;
  s.mean = moments.mean, s.std = moments.std();
  s.centre = median(bins);
  double distance = 0;
  for (const auto& b : bins) {
    distance += b.count * std::fabs(b.mean - s.centre);
    s.largest_share = std::max(s.largest_share, b.count / moments.n);
  }
  s.unit = distance / moments.n;
  FP4LAB_CHECK(s.unit > 0, "the values of a sample are all the same");
  double begin = 0;  // where the joined bin starts
  for (const auto& b : bins) {
    const double z = (b.mean - s.centre) / s.unit, share = b.count / moments.n;
    const double low = (double(b.low) - s.centre) / s.unit, high = (double(b.high) - s.centre) / s.unit;
    const double width = high - begin, relative = 0x1p-8 * std::min(std::fabs(begin), std::fabs(high));
    // Never across the median, where a density may have its edge; beside it no spike that the values have
    // not.
    const bool joins = !s.z.empty() && (begin < 0) == (high <= 0 && low < 0) &&
                       (width <= relative || (width <= 0x1p-15 && s.share.back() + share <= 0x1p-12));
    if (!joins) {
      begin = low;
      s.z.push_back(z), s.share.push_back(share);
      continue;
    }
    s.share.back() += share;
    s.z.back() += (z - s.z.back()) * share / s.share.back();
  }
  return s;
}

}  // namespace fp4lab
