// Kolmogorov-Smirnov distances and p-values, histograms, and the positions of a subsample.
#include <algorithm>
#include <cmath>
#include <set>

#include "analysis/distribution_fits.h"
#include "core/random.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

const std::function<double(double)> kUniform = [](double x) { return std::clamp(x, 0.0, 1.0); };

std::vector<BinnedSample::Bin> bins_of(const std::vector<float>& values) {
  BinnedSample s;
  s.add(values);
  return s.bins();
}
std::vector<float> uniforms(uint64_t seed, int64_t n) {
  const Stream stream(seed, "test");
  std::vector<float> out;
  for (int64_t i = 0; i < n; ++i) {
    const auto b = stream.block(uint64_t(i));
    out.push_back(float(uniform_open(b[0], b[1])));
  }
  return out;
}

}  // namespace

TEST_CASE("ks: distances by hand", "[analysis][fits]") {
  CHECK(ks_distance({0.5f}, kUniform) == 0.5);
  CHECK(ks_distance({0.75f, 0.25f}, kUniform) == 0.25);
  CHECK(ks_distance({0.25f, 0.25f, 0.25f, 1.0f}, kUniform) == 0.5);  // just after the three
  CHECK(ks_distance({0.875f, 0.875f, 0.875f}, kUniform) == 0.875);   // just before them
  CHECK(ks_distance(bins_of({0.25f, 0.25f, 0.25f, 1.0f}), kUniform) == 0.5);
  CHECK(ks_distance(bins_of({0.875f, 0.875f, 0.875f}), kUniform) == 0.875);
  CHECK(ks_distance({2, 3}, kUniform) == 1);
}

TEST_CASE("ks: the distance of bins is that of all values but for a bin's share", "[analysis][fits]") {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<float> values = uniforms(seed, 50000);
    const double exact = ks_distance(values, kUniform), binned = ks_distance(bins_of(values), kUniform);
    CHECK(binned <= exact + 1e-15);
    CHECK(exact - binned <= 5e-5);
    const auto skewed = [](double x) { return x * x; };
    CHECK(std::fabs(ks_distance(values, skewed) - ks_distance(bins_of(values), skewed)) <= 5e-5);
  }
}

TEST_CASE("ks: p-values against the tables of the exact distribution", "[analysis][fits]") {
  // Critical values: Massey (1951), Miller (1956).
  const double table[][3] = {{10, 0.40925, 0.05},  {10, 0.48893, 0.01}, {10, 0.32260, 0.2},
                             {20, 0.29408, 0.05},  {20, 0.35241, 0.01}, {50, 0.18845, 0.05},
                             {100, 0.13403, 0.05}, {100, 0.16081, 0.01}};
  for (const auto& [n, distance, p] : table) {
    CAPTURE(n, distance);
    CHECK(ks_p_value(distance, n) == Approx(p).margin(2e-3));
  }
  // The limit: K(1.3581) = .95, K(.82757) = .5, K(.5) = .0361.
  CHECK(ks_p_value(1.35810e-4, 1e8) == Approx(0.05).margin(2e-5));
  CHECK(ks_p_value(0.827574e-4, 1e8) == Approx(0.5).margin(1e-4));
  CHECK(ks_p_value(0.5e-4, 1e8) == Approx(0.963945).margin(1e-4));
  CHECK(ks_p_value(0, 100) == 1);
  CHECK(ks_p_value(1, 100) < 1e-80);
  double before = 1;
  for (double d = 0; d < 1; d += 1e-4) {  // falls, across both series
    const double p = ks_p_value(d, 40);
    REQUIRE(p <= before + 1e-12);
    REQUIRE(p >= 0);
    before = p;
  }
}

TEST_CASE("ks: p-values of the distribution itself are uniform", "[analysis][fits]") {
  int below_half = 0, below_tenth = 0;
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    const double p = ks_p_value(ks_distance(uniforms(seed, 100), kUniform), 100);
    below_half += p < 0.5, below_tenth += p < 0.1;
  }
  CHECK(std::abs(below_half - 1000) <= 5 * std::sqrt(500.0));
  CHECK(std::abs(below_tenth - 200) <= 5 * std::sqrt(180.0));
}

TEST_CASE("histogram: equal bins, what lies outside is left out", "[analysis][fits]") {
  const std::vector<float> values = {-1, -0.001f, 0, 0.5f, 0.999f, 1, 1.5f, 2, 7};
  CHECK(histogram(bins_of(values), 0, 2, 4) == std::vector<double>{1, 2, 1, 1});
  CHECK(histogram(bins_of(values), -10, 10, 1) == std::vector<double>{9});
  CHECK(histogram(bins_of(values), 8, 9, 2) == std::vector<double>{0, 0});
}

TEST_CASE("positions: different, ascending, every set as likely", "[analysis][fits]") {
  CHECK(draw_positions(1, 3, 5) == std::vector<int64_t>{0, 1, 2});
  CHECK(draw_positions(1, 3, 3) == std::vector<int64_t>{0, 1, 2});
  CHECK(draw_positions(1, 0, 3).empty());
  CHECK(draw_positions(5, 1000000, 2000) == draw_positions(5, 1000000, 2000));
  CHECK(draw_positions(5, 1000000, 2000) != draw_positions(6, 1000000, 2000));
  std::vector<int> sets(1 << 5);
  constexpr int kDraws = 10000;
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    const std::vector<int64_t> drawn = draw_positions(seed, 5, 2);
    REQUIRE(drawn.size() == 2);
    REQUIRE((0 <= drawn[0] && drawn[0] < drawn[1] && drawn[1] < 5));
    ++sets[size_t(1 << drawn[0] | 1 << drawn[1])];
  }
  for (const int count : sets)
    if (count > 0) CHECK(std::abs(count - kDraws / 10) <= 5 * std::sqrt(kDraws * 0.1 * 0.9));
  CHECK(std::count(sets.begin(), sets.end(), 0) == 32 - 10);
}
