#include <cmath>

#include "analysis/lemmas/interval.h"
#include "core/random.h"
#include "tests/catch.h"

using namespace fp4lab;

TEST_CASE("verdicts: within, outside, across", "[analysis][lemmas]") {
  CHECK(judge({1, .99, 1.01}, 1, .02) == Verdict::holds);
  CHECK(judge({1, .98, 1.02}, 1, .02) == Verdict::holds);  // the ends count as within
  CHECK(judge({1.1, 1.03, 1.2}, 1, .02) == Verdict::differs);
  CHECK(judge({.9, .8, .97}, 1, .02) == Verdict::differs);
  CHECK(judge({1.01, 1.0, 1.03}, 1, .02) == Verdict::undecided);
  CHECK(judge({1, .9, 1.1}, 1, .02) == Verdict::undecided);  // too wide to say anything
  CHECK(judge({1.03, 1.02, 1.04}, 1, .02) == Verdict::undecided);
  CHECK(judge({std::nan(""), std::nan(""), std::nan("")}, 1, .02) == Verdict::undecided);
  CHECK(name_of(Verdict::holds) == "holds");
  CHECK(name_of(Verdict::differs) == "differs");
  CHECK(name_of(Verdict::undecided) == "undecided");
}

TEST_CASE("normal quantiles", "[analysis][lemmas]") {
  CHECK(normal_quantile(.99) == Approx(2.575829304).epsilon(1e-9));
  CHECK(normal_quantile(.95) == Approx(1.959963985).epsilon(1e-9));
}

TEST_CASE("moment sums: means, covariances, parts added", "[analysis][lemmas]") {
  const double blocks[4][2] = {{1, 2}, {3, 1}, {2, 6}, {-2, 3}};
  MomentSums all(2), first(2), second(2);
  for (int i = 0; i < 4; ++i) {
    all.add(blocks[i]);
    (i < 2 ? first : second).add(blocks[i]);
  }
  first += second;
  for (const MomentSums& s : {all, first}) {
    CHECK(s.count() == 4);
    CHECK(s.mean(0) == 1);
    CHECK(s.mean(1) == 3);
    CHECK(s.covariance(0, 0) == 3.5);   // 18 / 4 - 1
    CHECK(s.covariance(0, 1) == -.25);  // (2 + 3 + 12 - 6) / 4 - 3
    CHECK(s.largest(0) == 3);
    CHECK(s.largest(1) == 6);
  }
}

TEST_CASE("delta method: exact for a mean, textbook for a ratio", "[analysis][lemmas]") {
  MomentSums s(2);
  const Stream stream(1, "test");
  for (uint64_t i = 0; i < 1000; ++i) {
    const auto z = normal_pair(stream.block(i));
    const double x[2] = {3 + z[0], 5 + z[1] + z[0]};
    s.add(x);
  }
  const Estimated mean = delta_method(s, [](std::span<const double> m) { return m[1]; });
  CHECK(mean.value == s.mean(1));
  CHECK(mean.error == Approx(std::sqrt(s.covariance(1, 1) / 1000)).epsilon(1e-6));
  const Estimated ratio = delta_method(s, [](std::span<const double> m) { return m[0] / m[1]; });
  const double r = s.mean(0) / s.mean(1);
  const double variance = (s.covariance(0, 0) - 2 * r * s.covariance(0, 1) + r * r * s.covariance(1, 1)) /
                          (s.mean(1) * s.mean(1));
  CHECK(ratio.value == r);
  CHECK(ratio.error == Approx(std::sqrt(variance / 1000)).epsilon(1e-5));
  const Interval i = interval_of(ratio, .99);
  CHECK(i.high - i.estimate == Approx(2.575829304 * ratio.error));
  CHECK(i.estimate - i.low == Approx(2.575829304 * ratio.error));
}

TEST_CASE("delta method: 99 % intervals hold the truth 99 % of the time", "[analysis][lemmas]") {
  int inside = 0;
  const int trials = 2000;
  for (int t = 0; t < trials; ++t) {
    const Stream stream(7, "coverage", uint64_t(t));
    MomentSums s(2);
    for (uint64_t i = 0; i < 200; ++i) {
      const auto z = normal_pair(stream.block(i));
      const double x[2] = {z[0] * z[0], 2 + z[1]};  // E ratio of means = 1/2
      s.add(x);
    }
    const Interval i =
        interval_of(delta_method(s, [](std::span<const double> m) { return m[0] / m[1]; }), .99);
    inside += i.low <= .5 && .5 <= i.high;
  }
  // A chi-squared mean of 200 is a little skew: 98.5 % or so are inside. Four standard errors below that.
  CAPTURE(inside);
  CHECK(inside >= 1945);
  CHECK(inside < trials);
}
