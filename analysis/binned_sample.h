// analysis/binned_sample.h - millions of numbers as some ten thousand bins fine enough to fit distributions
// to.
//   A bin holds the float32 values that share sign, exponent and the first 12 bits of the mantissa: its width
//   is 2^-12 of its values (subnormals: 2^-138). It knows how many there are, their exact mean, smallest and
//   largest. A sum of f over the values, taken as counts times f(mean), is off by at most
//     sum_b n_b w_b^2 / 8 max|f''| over the bin, w_b <= 2^-12 |x|
//   (below 1e-8 per value for a Normal's log-likelihood with no mean). Memory follows the octaves in use.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace fp4lab {

class BinnedSample {
 public:
  struct Bin {
    double count, mean;
    float low, high;  // the smallest and largest value; equal: the bin is that value, exactly
  };

  /// Finite values; -0 counts as 0. The order of calls matters to the last bits of the means alone.
  void add(std::span<const float> values);
  void add(const BinnedSample& other);

  int64_t count() const { return count_; }
  /// The bins that hold something, ascending.
  std::vector<Bin> bins() const;

 private:
  struct Cell {
    int64_t count = 0;
    double sum = 0;
    float low = 0, high = 0;

    void add(const Cell& o);
  };
  static constexpr int kCellBits = 12, kPages = 512;  // a page per sign and exponent

  std::array<std::vector<Cell>, kPages> pages_;
  int64_t count_ = 0;
};

/// The k-th smallest value, k = ceil(q n) from 1: NumPy's "inverted_cdf". Exact at the ends of a bin, between
/// them as if its values were evenly spread. q in [0, 1]; there are values.
double quantile(std::span<const BinnedSample::Bin> bins, double q);
/// The middle value, or the mean of the two middle ones.
double median(std::span<const BinnedSample::Bin> bins);

}  // namespace fp4lab
