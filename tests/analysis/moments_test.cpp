#include "analysis/moments.h"

#include <cmath>
#include <vector>

#include "core/random.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {
Moments of(const std::vector<float>& values) { return moments_of(values); }
}  // namespace

TEST_CASE("moments: by hand", "[analysis]") {
  const Moments m = of({1, 2, 3, 4, 10});  // deviations -3 -2 -1 0 6
  CHECK(m.n == 5);
  CHECK(m.mean == 4);
  CHECK(m.m2 == 50);
  CHECK(m.m3 == 180);
  CHECK(m.m4 == 1394);
  CHECK(m.std() == Approx(std::sqrt(10.0)));
  CHECK(m.skewness() == Approx(36 / std::pow(10, 1.5)));
  CHECK(m.excess_kurtosis() == Approx(1394.0 / 5 / 100 - 3));
  CHECK(of({-1, 1}).excess_kurtosis() == -2);
}

TEST_CASE("moments: none, one, all the same", "[analysis]") {
  CHECK(std::isnan(of({}).std()));
  CHECK(std::isnan(of({}).skewness()));
  for (const std::vector<float>& values : {std::vector<float>{3}, std::vector<float>(100000, 0.1f)}) {
    const Moments m = of(values);
    CHECK(m.mean == Approx(double(values[0])).epsilon(1e-14));
    CHECK(m.std() <= 1e-14);
    CHECK((std::isnan(m.skewness()) || m.m2 < 1e-20));
  }
  CHECK(std::isnan(of({3}).excess_kurtosis()));
  CHECK(std::isfinite(of({3e38f, -3e38f}).excess_kurtosis()));
}

TEST_CASE("moments: parts add up, far from zero too", "[analysis]") {
  const Stream stream(3, "test");
  for (const double offset : {0.0, 1000.0}) {
    std::vector<float> values;
    for (uint64_t i = 0; i < 200000; ++i) {
      const double z = normal_pair(stream.block(i))[0];
      values.push_back(float(offset + z + (z > 1 ? z * z : 0)));  // skewed
    }
    Moments parts;
    for (size_t begin = 0; begin < values.size(); begin += 12345)
      parts += moments_of(std::span(values).subspan(begin, std::min<size_t>(12345, values.size() - begin)));
    parts += Moments{};
    // Plainly, in extended precision.
    long double mean = 0, m2 = 0, m3 = 0, m4 = 0;
    for (const float x : values) mean += x;
    mean /= static_cast<long double>(values.size());
    for (const float x : values) {
      const long double d = x - mean;
      m2 += d * d, m3 += d * d * d, m4 += d * d * d * d;
    }
    for (const Moments& m : {of(values), parts}) {
      CHECK(m.n == 200000);
      CHECK(m.mean == Approx(double(mean)).epsilon(1e-13));
      CHECK(m.m2 == Approx(double(m2)).epsilon(1e-11));
      CHECK(m.m3 == Approx(double(m3)).epsilon(1e-9));
      CHECK(m.m4 == Approx(double(m4)).epsilon(1e-9));
    }
  }
}

TEST_CASE("moments: crest factors", "[analysis]") {
  Matrix X(2, 6);
  const float values[] = {3, -4, 0, 0, 5, 5, 0, 0, 1e30f, 0, -2, 1};
  std::copy(std::begin(values), std::end(values), X.data());
  const CrestSum pairs =
      crest_factors(X, 2);  // (3, -4): 4 / sqrt(12.5); (5, 5): 1; (1e30, 0): sqrt 2; (-2, 1)
  CHECK(pairs.groups == 4);
  CHECK(pairs.mean() == Approx((4 / std::sqrt(12.5) + 1 + std::sqrt(2.0) + 2 / std::sqrt(2.5)) / 4));
  CHECK(crest_factors(X, 6).groups == 2);
  CHECK(crest_factors(X, 6).mean() == Approx((5 / std::sqrt(75.0 / 6) + std::sqrt(6.0)) / 2));
  CrestSum sum = pairs;
  sum += crest_factors(X, 6);
  CHECK(sum.groups == 6);
  CHECK(std::isnan(crest_factors(Matrix::zeros(2, 4), 2).mean()));
}
