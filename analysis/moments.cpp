#include "analysis/moments.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fp4lab {

namespace {
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Of a part short enough that plain sums keep their digits.
Moments of_part(std::span<const float> values) {
  Moments m;
  m.n = double(values.size());
  double sum = 0;
  for (const float x : values) sum += double(x);
  m.mean = sum / m.n;
  for (const float x : values) {
    const double d = double(x) - m.mean, d2 = d * d;
    m.m2 += d2, m.m3 += d2 * d, m.m4 += d2 * d2;
  }
  return m;
}
}  // namespace

Moments& Moments::operator+=(const Moments& o) {
  if (o.n == 0) return *this;
  if (n == 0) return *this = o;
  const double total = n + o.n, d = o.mean - mean, dn = d / total;
  const Moments a = *this;
  m4 = a.m4 + o.m4 + d * dn * dn * dn * a.n * o.n * (a.n * a.n - a.n * o.n + o.n * o.n) +
       6 * dn * dn * (a.n * a.n * o.m2 + o.n * o.n * a.m2) + 4 * dn * (a.n * o.m3 - o.n * a.m3);
  m3 = a.m3 + o.m3 + d * dn * dn * a.n * o.n * (a.n - o.n) + 3 * dn * (a.n * o.m2 - o.n * a.m2);
  m2 = a.m2 + o.m2 + d * dn * a.n * o.n;
  mean = a.mean + dn * o.n;
  n = total;
  return *this;
}

double Moments::std() const { return n > 0 ? std::sqrt(m2 / n) : kNaN; }
double Moments::skewness() const { return m2 > 0 ? std::sqrt(n) * m3 / (m2 * std::sqrt(m2)) : kNaN; }
double Moments::excess_kurtosis() const { return m2 > 0 ? n * m4 / (m2 * m2) - 3 : kNaN; }

Moments moments_of(std::span<const float> values) {
  constexpr size_t kPart = 65536;
  Moments m;
  for (size_t begin = 0; begin < values.size(); begin += kPart)
    m += of_part(values.subspan(begin, std::min(kPart, values.size() - begin)));
  return m;
}

double CrestSum::mean() const { return groups > 0 ? sum / double(groups) : kNaN; }

CrestSum crest_factors(MatrixView<const float> X, int64_t group_size) {
  FP4LAB_CHECK(group_size > 0 && X.cols % group_size == 0, X.cols, " columns in groups of ", group_size);
  CrestSum total;
  for (int64_t r = 0; r < X.rows; ++r)
    for (const float* x = X.row(r); x < X.row(r) + X.cols; x += group_size) {
      double largest = 0, energy = 0;
      for (int64_t i = 0; i < group_size; ++i) {
        const double v = std::fabs(double(x[i]));
        largest = std::max(largest, v), energy += v * v;
      }
      if (energy > 0) total += {largest / std::sqrt(energy / double(group_size)), 1};
    }
  return total;
}

}  // namespace fp4lab
