#include "analysis/outliers.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/portable.h"

namespace fp4lab {

namespace {

uint32_t magnitude(float x) { return float_bits(x) & 0x7fffffffu; }

/// Counts bin(magnitude) of all elements; bin < 0 is not counted.
template <class Bin>
std::vector<int64_t> histogram(MatrixView<const float> X, int bins, Bin bin) {
  std::vector<int64_t> total(static_cast<size_t>(bins));
#pragma omp parallel
  {
    std::vector<int64_t> mine(static_cast<size_t>(bins));
#pragma omp for schedule(static) nowait
    for (int64_t r = 0; r < X.rows; ++r) {
      const float* x = X.row(r);
      for (int64_t c = 0; c < X.cols; ++c)
        if (const int b = bin(magnitude(x[c])); b >= 0) ++mine[size_t(b)];
    }
#pragma omp critical
    for (size_t b = 0; b < total.size(); ++b) total[b] += mine[b];
  }
  return total;
}

/// The bin that holds the k-th largest (k >= 1); k becomes its rank within the bin.
uint32_t bin_of_rank(const std::vector<int64_t>& counts, int64_t& k) {
  size_t b = counts.size() - 1;
  for (; b > 0 && counts[b] < k; --b) k -= counts[b];
  return uint32_t(b);
}

/// Row-major index of the n-th element (n >= 1) whose magnitude is `threshold`.
int64_t index_of_tie(MatrixView<const float> X, uint32_t threshold, int64_t n) {
  for (int64_t r = 0; r < X.rows; ++r) {
    const float* x = X.row(r);
    int64_t ties = 0;
    for (int64_t c = 0; c < X.cols; ++c) ties += magnitude(x[c]) == threshold;
    if (ties < n) {
      n -= ties;
      continue;
    }
    for (int64_t c = 0; c < X.cols; ++c)
      if (magnitude(x[c]) == threshold && --n == 0) return r * X.cols + c;
  }
  FP4LAB_CHECK(false, "the histogram counted more ties than there are");
  return -1;
}

}  // namespace

OutlierCut outlier_cut(MatrixView<const float> X, double share) {
  FP4LAB_CHECK(share > 0 && share <= 1, "share ", share);
  if (X.size() == 0) return {};
  // The factor undoes the rounding of `share` and of the product: 0.07 of 100 elements is 7.
  int64_t k = std::max<int64_t>(1, int64_t(std::ceil(share * double(X.size()) * (1 - 0x1p-51))));
  // Magnitudes have 31 bits: 15 above, 16 below.
  const uint32_t high = bin_of_rank(histogram(X, 1 << 15, [](uint32_t m) { return int(m >> 16); }), k);
  const auto low_counts =
      histogram(X, 1 << 16, [high](uint32_t m) { return m >> 16 == high ? int(m & 0xffffu) : -1; });
  const uint32_t low = bin_of_rank(low_counts, k);
  const uint32_t threshold = high << 16 | low;
  if (threshold == 0) return {1, INT64_MAX};
  return {threshold, low_counts[low] == k ? INT64_MAX : index_of_tie(X, threshold, k)};
}

}  // namespace fp4lab
