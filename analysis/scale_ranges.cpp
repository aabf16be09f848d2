#include "analysis/scale_ranges.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fp4lab {

namespace {

/// The smallest positive value of a type.
double smallest(const ScaleType& t) {
  return t.kind == ScaleKind::exponent ? 0x1p-127 : double(decode_scale(t, 1));
}

/// Whether a scale in double rounds to 0, ties to even: to the float types as their own codecs have it.
bool underflows(const ScaleType& t, double s) {
  return t.kind == ScaleKind::exponent ? s < smallest(t) : s <= smallest(t) / 2;
}

}  // namespace

const std::vector<ScaleTypeRange>& scale_type_ranges() {
  static const std::vector<ScaleTypeRange> all = [] {
    std::vector<ScaleTypeRange> list;
    for (const ScaleType& t : kScaleTypes) {
      const std::string name(t.name.starts_with('u') ? t.name.substr(1) : t.name);
      list.push_back({name, t, std::log2(smallest(t)), std::log2(double(t.max))});
    }
    return list;
  }();
  return all;
}

LostScales& LostScales::operator+=(const LostScales& o) {
  clipped += o.clipped, underflow += o.underflow;
  two_level_clipped += o.two_level_clipped, two_level_underflow += o.two_level_underflow;
  return *this;
}

ScaleRanges& ScaleRanges::operator+=(const ScaleRanges& o) {
  groups += o.groups, zero_groups += o.zero_groups;
  amax.add(o.amax);
  lost.resize(scale_type_ranges().size());
  for (size_t t = 0; t < o.lost.size(); ++t) lost[t] += o.lost[t];
  return *this;
}

ScaleRanges scale_ranges(MatrixView<const float> X, int64_t group_size, double q_max) {
  FP4LAB_CHECK(group_size > 0 && X.cols % group_size == 0 && q_max > 0, X.cols, " columns in groups of ",
               group_size, ", largest ", q_max);
  ScaleRanges out;
  std::vector<float> amax;
  for (int64_t r = 0; r < X.rows; ++r)
    for (const float* x = X.row(r); x < X.row(r) + X.cols; x += group_size) {
      float largest = 0;
      for (int64_t i = 0; i < group_size; ++i) largest = std::max(largest, std::fabs(x[i]));
      ++out.groups;
      if (largest > 0)
        amax.push_back(largest);
      else
        ++out.zero_groups;
    }
  out.amax.add(amax);
  const double top = amax.empty() ? 0 : double(*std::max_element(amax.begin(), amax.end()));
  for (const ScaleTypeRange& range : scale_type_ranges()) {
    LostScales lost;
    const double max = double(range.type.max);
    for (const float m : amax) {
      const double s = double(m) / q_max,
                   relative = double(m) / top * max;  // s / s_T, s_T = top / q_max / max
      lost.clipped += s > max, lost.underflow += underflows(range.type, s);
      lost.two_level_clipped += relative > max, lost.two_level_underflow += underflows(range.type, relative);
    }
    out.lost.push_back(lost);
  }
  return out;
}

Log2Histogram log2_histogram(const BinnedSample& amax, double q_max) {
  std::vector<std::pair<int64_t, double>> eighths;
  for (const auto& b : amax.bins())
    eighths.emplace_back(int64_t(std::floor(8 * (std::log2(b.mean) - std::log2(q_max)))), b.count);
  const int64_t first = eighths.empty() ? 0 : eighths.front().first;
  const int64_t last = eighths.empty() ? 0 : eighths.back().first;
  Log2Histogram h;
  h.counts.resize(size_t(last - first + 1));
  for (const auto& [eighth, count] : eighths) h.counts[size_t(eighth - first)] += count;
  for (int64_t e = first; e <= last + 1; ++e) h.edges.push_back(double(e) / 8);
  return h;
}

double log2_scale_quantile(const BinnedSample& amax, double q_max, double q) {
  if (amax.count() == 0) return std::numeric_limits<double>::quiet_NaN();
  const std::vector<BinnedSample::Bin> bins = amax.bins();
  return std::log2(quantile(bins, q)) - std::log2(q_max);
}

}  // namespace fp4lab
