#include "analysis/binned_sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/portable.h"
#include "core/random.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

BinnedSample of(const std::vector<float>& values) {
  BinnedSample s;
  s.add(values);
  return s;
}
std::vector<float> normals(int64_t n, double scale) {
  const Stream stream(7, "test");
  std::vector<float> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(float(scale * normal_pair(stream.block(uint64_t(i)))[0]));
  return out;
}

}  // namespace

TEST_CASE("binned sample: every sign and exponent, in order", "[analysis]") {
  std::vector<float> values = {0.0f, -0.0f, std::numeric_limits<float>::max(),
                               -std::numeric_limits<float>::max()};
  for (int e = 0; e < 255; ++e)
    for (const uint32_t mantissa : {0u, 1u, 0x7ffu, 0x800u, 0x7fffffu})
      for (const uint32_t sign : {0u, 0x80000000u})
        values.push_back(bits_float(sign | uint32_t(e) << 23 | mantissa));
  const std::vector<BinnedSample::Bin> bins = of(values).bins();
  double n = 0;
  for (size_t i = 0; i < bins.size(); ++i) {
    CAPTURE(i, bins[i].low, bins[i].high);
    n += bins[i].count;
    CHECK(bins[i].low <= bins[i].high);
    CHECK(bins[i].mean >= double(bins[i].low));
    CHECK(bins[i].mean <= double(bins[i].high));
    CHECK(double(bins[i].high) - double(bins[i].low) <=
          std::max(0x1p-138,
                   0x1p-12 * std::fabs(double(bins[i].low)) + 0x1p-12 * std::fabs(double(bins[i].high))));
    if (i > 0) CHECK(bins[i - 1].high < bins[i].low);
  }
  CHECK(n == double(values.size()));
  CHECK(of(values).count() == int64_t(values.size()));
  // The mantissas 0, 1, 0x7ff share a bin; 0x800 and 0x7fffff have their own.
  CHECK(bins.size() == 2 * 255 * 3);
}

TEST_CASE("binned sample: counts, means and ends are exact, parts add up", "[analysis]") {
  const std::vector<float> values = normals(20000, 1);
  const std::vector<BinnedSample::Bin> bins = of(values).bins();
  std::vector<float> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  size_t at = 0;
  for (const auto& b : bins) {
    double sum = 0;
    REQUIRE(sorted[at] == b.low);
    for (double k = 0; k < b.count; ++k) sum += double(sorted[at++]);
    REQUIRE(sorted[at - 1] == b.high);
    REQUIRE(sum / b.count == Approx(b.mean).epsilon(1e-14));
  }
  CHECK(at == sorted.size());

  BinnedSample whole;
  whole.add(of({values.begin(), values.begin() + 777}));
  whole.add(of({}));
  whole.add(of({values.begin() + 777, values.end()}));
  CHECK(whole.count() == 20000);
  const std::vector<BinnedSample::Bin> again = whole.bins();
  REQUIRE(again.size() == bins.size());
  for (size_t i = 0; i < bins.size(); ++i) {
    REQUIRE(again[i].count == bins[i].count);
    REQUIRE(again[i].low == bins[i].low);
    REQUIRE(again[i].high == bins[i].high);
    REQUIRE(again[i].mean == Approx(bins[i].mean).epsilon(1e-14));
  }
}

TEST_CASE("binned sample: quantiles", "[analysis]") {
  const auto few = of({3, -1, 4, -1, 5, 9, -2, 6}).bins();  // -2 -1 -1 3 4 5 6 9
  CHECK(quantile(few, 0) == -2);
  CHECK(quantile(few, 0.125) == -2);
  CHECK(quantile(few, 0.126) == -1);
  CHECK(quantile(few, 0.5) == 3);
  CHECK(quantile(few, 0.51) == 4);
  CHECK(quantile(few, 1) == 9);
  CHECK(median(few) == 3.5);
  CHECK(median(of({7}).bins()) == 7);
  CHECK(median(of({7, 1, 2}).bins()) == 2);
  // Within a bin: between its ends, evenly.
  const float step = 0x1p-20f;
  const auto close = of({1, 1 + step, 1 + 2 * step}).bins();
  REQUIRE(close.size() == 1);
  CHECK(quantile(close, 0) == 1);
  CHECK(median(close) == 1 + 0x1p-20);
  CHECK(quantile(close, 1) == 1 + 0x1p-19);

  std::vector<float> sorted = normals(99999, 3);
  const auto bins = of(sorted).bins();
  std::sort(sorted.begin(), sorted.end());
  CHECK(median(bins) == Approx(double(sorted[49999])).epsilon(0x1p-12));
  for (const double q : {0.001, 0.25, 0.75, 0.999}) {
    CAPTURE(q);
    CHECK(quantile(bins, q) == Approx(double(sorted[size_t(std::ceil(q * 99999)) - 1])).epsilon(0x1p-12));
  }
}
