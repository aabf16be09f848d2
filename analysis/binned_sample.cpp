#include "analysis/binned_sample.h"

#include <algorithm>
#include <cmath>

#include "core/errors.h"
#include "core/portable.h"

namespace fp4lab {

namespace {

using Bin = BinnedSample::Bin;

double total(std::span<const Bin> bins) {
  double n = 0;
  for (const Bin& b : bins) n += b.count;
  return n;
}
/// The k-th smallest, k from 1.
double of_rank(std::span<const Bin> bins, double k) {
  FP4LAB_CHECK(!bins.empty() && k >= 1);
  for (const Bin& b : bins) {
    // The ends of a bin are known; what lies between them is taken to be evenly spread.
    if (k <= b.count)
      return b.count == 1 ? double(b.low)
                          : double(b.low) + (double(b.high) - double(b.low)) * ((k - 1) / (b.count - 1));
    k -= b.count;
  }
  return double(bins.back().high);
}

}  // namespace

void BinnedSample::Cell::add(const Cell& o) {
  low = count == 0 ? o.low : std::min(low, o.low);
  high = count == 0 ? o.high : std::max(high, o.high);
  count += o.count, sum += o.sum;
}

void BinnedSample::add(std::span<const float> values) {
  for (const float value : values) {
    const float x = value + 0.0f;  // -0 becomes 0
    const uint32_t bits = float_bits(x);
    std::vector<Cell>& page = pages_[bits >> 23];
    if (page.empty()) page.resize(size_t(1) << kCellBits);
    page[bits >> (23 - kCellBits) & ((1u << kCellBits) - 1)].add({1, double(x), x, x});
  }
  count_ += int64_t(values.size());
}

void BinnedSample::add(const BinnedSample& other) {
  for (size_t p = 0; p < pages_.size(); ++p) {
    if (other.pages_[p].empty()) continue;
    if (pages_[p].empty()) pages_[p].resize(size_t(1) << kCellBits);
    for (size_t c = 0; c < pages_[p].size(); ++c)
      if (other.pages_[p][c].count > 0) pages_[p][c].add(other.pages_[p][c]);
  }
  count_ += other.count_;
}

std::vector<Bin> BinnedSample::bins() const {
  std::vector<Bin> out;
  const auto take = [&out](const Cell& c) {
    if (c.count > 0) out.push_back({double(c.count), c.sum / double(c.count), c.low, c.high});
  };
  // The bits of negative numbers order like their magnitudes.
  for (size_t p = kPages; p-- > kPages / 2;)
    for (size_t c = pages_[p].size(); c-- > 0;) take(pages_[p][c]);
  for (size_t p = 0; p < kPages / 2; ++p)
    for (const Cell& c : pages_[p]) take(c);
  return out;
}

double quantile(std::span<const Bin> bins, double q) {
  return of_rank(bins, std::max(1.0, std::ceil(q * total(bins))));
}

double median(std::span<const Bin> bins) {
  const double n = total(bins), below = std::floor((n + 1) / 2);
  const double first = of_rank(bins, below);
  return std::fmod(n, 2) == 1 ? first : (first + of_rank(bins, below + 1)) / 2;
}

}  // namespace fp4lab
