#include "analysis/distribution_fits.h"

#include <omp.h>

#include <algorithm>
#include <boost/math/special_functions/beta.hpp>
#include <boost/math/special_functions/gamma.hpp>
#include <cmath>
#include <functional>
#include <numbers>

#include "core/random.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

enum { kNormal, kLaplace, kStudent, kGaussian, kLogistic };  // families() in their order
constexpr int64_t kN = 100000;

/// n values g(u1, u2), the u uniform in (0, 1).
std::vector<float> sample(int64_t n, const std::function<double(double, double)>& g) {
  const Stream stream(11, "test");
  std::vector<float> out;
  for (int64_t i = 0; i < n; ++i) {
    const auto b = stream.block(uint64_t(i));
    out.push_back(float(g(uniform_open(b[0], b[1]), uniform_open(b[2], b[3]))));
  }
  return out;
}
double normal(double u, double v) { return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v); }
double student(double nu, double u, double v) {  // the polar method of Bailey (1994)
  return std::sqrt(nu * (std::pow(u, -2 / nu) - 1)) * std::cos(2 * std::numbers::pi * v);
}
double gaussian(double beta, double u, double v) {
  return (v < 0.5 ? -1 : 1) * std::pow(boost::math::gamma_p_inv(1 / beta, u), 1 / beta);
}
double signed_exponential(double u, double v) { return (v < 0.5 ? 1 : -1) * std::log(u); }

SampleToFit ready(const std::vector<float>& values) {
  BinnedSample s;
  s.add(values);
  return {s.bins(), moments_of(values)};
}
FamilyFits fit(const std::vector<float>& values) { return fit_families(std::vector{ready(values)})[0]; }

/// The log-likelihood per value, value by value.
double exact(size_t family, const FitParameters& p, const std::vector<float>& values) {
  const auto log_density = families()[family].log_density(p);
  double sum = 0;
  for (const float x : values) sum += log_density(double(x));
  return sum / double(values.size());
}

struct Known {
  size_t family;
  FitParameters p;
  std::function<double(double, double)> draw;
};
const std::vector<Known> kKnown = {
    {kNormal, {0.3, 2}, [](double u, double v) { return 0.3 + 2 * normal(u, v); }},
    {kNormal, {50, 1}, [](double u, double v) { return 50 + normal(u, v); }},
    {kLaplace, {-0.2, 0.5}, [](double u, double v) { return -0.2 + 0.5 * signed_exponential(u, v); }},
    {kStudent, {1, 0, 1}, [](double u, double v) { return student(1, u, v); }},
    {kStudent, {3, 0.1, 0.02}, [](double u, double v) { return 0.1 + 0.02 * student(3, u, v); }},
    {kStudent, {12, -1, 4}, [](double u, double v) { return -1 + 4 * student(12, u, v); }},
    {kGaussian, {0.5, 1, 0.7}, [](double u, double v) { return 0.5 + gaussian(0.7, u, v); }},
    {kGaussian, {0.5, 1, 1.4}, [](double u, double v) { return 0.5 + gaussian(1.4, u, v); }},
    {kGaussian, {0, 3, 4}, [](double u, double v) { return 3 * gaussian(4, u, v); }},
    {kLogistic, {-2, 0.7}, [](double u, double) { return -2 + 0.7 * std::log(u / (1 - u)); }},
};

}  // namespace

TEST_CASE("fits: samples of known distributions, within their sampling error", "[analysis][fits]") {
  for (const Known& known : kKnown) {
    const Family& family = families()[known.family];
    DYNAMIC_SECTION(family.name << " " << known.p[0] << " " << known.p[1] << " " << known.p[2]) {
      const std::vector<float> values = sample(kN, known.draw);
      const FamilyFits fits = fit(values);
      const FamilyFit& own = fits[known.family];
      CAPTURE(own.parameters[0], own.parameters[1], own.parameters[2]);
      // What is reported is over all values, and the fit beats the truth by half a chi^2 of k degrees of
      // freedom.
      CHECK(std::fabs(own.log_likelihood - exact(known.family, own.parameters, values)) <= 5e-6);
      const double gain = 2 * kN * (own.log_likelihood - exact(known.family, known.p, values));
      CHECK(gain >= -1e-3 - (known.p[0] == 50 ? 1 : 0));
      CHECK(gain <= 30);
      const double k = double(family.parameters.size());
      CHECK(own.aic == Approx(2 * k - 2 * kN * own.log_likelihood).epsilon(1e-13));
      // The family itself wins, but for a nested one by as little as its own parameter wins.
      const bool nested = known.family == kNormal || known.family == kLaplace;
      CHECK(own.aic <= fits[best_family(fits)].aic + (nested ? 12 : 0));
    }
  }
}

TEST_CASE("fits: no step away from them is likelier", "[analysis][fits]") {
  for (const Known& known : kKnown)
    for (size_t f = 0; f < families().size(); ++f) {
      const Family& family = families()[f];
      const std::vector<float> values = sample(20000, known.draw);
      const FamilyFit own = fit(values)[f];
      const double top = exact(f, own.parameters, values);
      for (size_t k = 0; k < family.parameters.size(); ++k) {
        const bool location = family.parameters[k].name == "mu";
        const size_t scale = f == kStudent ? 2 : 1;
        const double unit = location ? own.parameters[scale] : own.parameters[k];
        const double h = unit * (family.parameters[k].name == "nu" ? 2e-2 : 1e-3);
        FitParameters low = own.parameters, high = own.parameters;
        low[k] -= h, high[k] += h;
        const double below = exact(f, low, values), above = exact(f, high, values);
        CAPTURE(known.family, family.name, family.parameters[k].name, own.parameters[k]);
        // At a bound it may climb outwards.
        if (f == kStudent && k == 0 && own.parameters[0] >= 9999) continue;
        if (f == kGaussian && (own.parameters[2] >= 19.99 || own.parameters[2] <= 0.201)) continue;
        // A generalized Gaussian of beta < 1 has a peak of its likelihood at every value.
        const bool rough = location && f == kGaussian && own.parameters[2] < 1;
        CHECK(below <= top + (rough ? 1e-5 : 1e-7));
        CHECK(above <= top + (rough ? 1e-5 : 1e-7));
        // Where the peak is round: the gradient is 0 beside the curvature, by a parabola through three
        // points.
        if (location && (f == kLaplace || (f == kGaussian && own.parameters[2] < 1.5))) continue;
        const double bend = below + above - 2 * top, shift = (below - above) / 2 / bend;  // in steps of h
        CHECK(std::fabs(shift) <= 0.05);
      }
    }
}

TEST_CASE("fits: closed forms", "[analysis][fits]") {
  const FamilyFits fits = fit({1, 2, 3, 4, 10});
  CHECK(fits[kNormal].parameters[0] == 4);
  CHECK(fits[kNormal].parameters[1] == Approx(std::sqrt(10.0)).epsilon(1e-15));
  CHECK(fits[kNormal].log_likelihood ==
        Approx(-0.5 * std::log(2 * std::numbers::pi * 10) - 0.5).epsilon(1e-14));
  CHECK(fits[kNormal].aic == Approx(4 + 5 * (std::log(2 * std::numbers::pi * 10) + 1)).epsilon(1e-14));
  CHECK(fits[kLaplace].parameters[0] == 3);
  CHECK(fits[kLaplace].parameters[1] == Approx(11.0 / 5).epsilon(1e-15));
  CHECK(fits[kLaplace].log_likelihood == Approx(-std::log(4.4) - 1).epsilon(1e-14));
  // Two values: everything symmetric is centred between them.
  const FamilyFits two = fit({-1, 3});
  for (const size_t f : {kNormal, kLaplace, kLogistic}) CHECK(two[f].parameters[0] == Approx(1).margin(1e-9));
  CHECK(two[kNormal].parameters[1] == 2);
  CHECK(two[kLaplace].parameters[1] == 2);
  // Logistic at -1, 1 of scale s: u tanh(u / 2) = 1, u = 1 / s.
  const double u = 2 / two[kLogistic].parameters[1];
  CHECK(u * std::tanh(u / 2) == Approx(1).epsilon(1e-12));
}

TEST_CASE("fits: shift, mirror and scale move them along", "[analysis][fits]") {
  const std::vector<float> values = sample(5000, [](double u, double v) { return 0.2 + student(4, u, v); });
  const FamilyFits fits = fit(values);
  for (const float factor : {0x1p100f, 0x1p-100f, -1.0f, -0x1p-3f}) {
    std::vector<float> moved = values;
    for (float& x : moved) x *= factor;
    const FamilyFits there = fit(moved);
    for (size_t f = 0; f < families().size(); ++f)
      for (size_t k = 0; k < families()[f].parameters.size(); ++k) {
        const std::string_view name = families()[f].parameters[k].name;
        const double by = name == "nu" || name == "beta" ? 1.0
                          : name == "mu"                 ? double(factor)
                                                         : std::fabs(double(factor));
        CAPTURE(factor, families()[f].name, name);
        CHECK(there[f].parameters[k] / by == Approx(fits[f].parameters[k]).epsilon(1e-5).margin(1e-7));
        CHECK(there[f].log_likelihood + std::log(std::fabs(double(factor))) ==
              Approx(fits[f].log_likelihood).epsilon(1e-9));
      }
  }
}

TEST_CASE("fits: the same bits for any number of threads", "[analysis][fits]") {
  std::vector<SampleToFit> samples;
  for (const Known& known : kKnown) samples.push_back(ready(sample(3000, known.draw)));
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = fit_families(samples);
  omp_set_num_threads(3);
  const auto three = fit_families(samples);
  omp_set_num_threads(threads);
  for (size_t i = 0; i < samples.size(); ++i)
    for (size_t f = 0; f < families().size(); ++f) {
      CHECK(one[i][f].parameters == three[i][f].parameters);
      CHECK(one[i][f].log_likelihood == three[i][f].log_likelihood);
    }
}

TEST_CASE("fits: bounds, spikes and what cannot be fitted", "[analysis][fits]") {
  const FamilyFits flat = fit(sample(20000, [](double u, double) { return u; }));
  CHECK(flat[kStudent].parameters[0] == Approx(1e4));
  CHECK(flat[kGaussian].parameters[2] == Approx(20));
  CHECK(best_family(flat) == kGaussian);
  // A cusp heavier than any generalized Gaussian.
  const FamilyFits steep =
      fit(sample(20000, [](double u, double v) { return std::pow(signed_exponential(u, v), 9.0); }));
  CHECK(steep[kGaussian].parameters[2] == Approx(0.2).epsilon(0.1));
  CHECK(steep[kStudent].parameters[0] == Approx(0.5));

  for (const double zeros : {0.2, 0.3, 0.9}) {
    const FamilyFits sparse =
        fit(sample(20000, [&](double u, double v) { return v < zeros ? 0 : std::log(u) + 0.5; }));
    for (size_t f = 0; f < families().size(); ++f) {
      CAPTURE(zeros, families()[f].name);
      const bool none = zeros > 0.25 && (f == kStudent || f == kGaussian);
      CHECK(std::isnan(sparse[f].parameters[0]) == none);
      CHECK(std::isnan(sparse[f].log_likelihood) == none);
      CHECK(std::isnan(sparse[f].aic) == none);
    }
    if (zeros > 0.25) CHECK(best_family(sparse) != size_t(kStudent));
    if (zeros == 0.9) CHECK(sparse[kLaplace].parameters[0] == 0);
  }

  const auto problem = [](const std::vector<float>& values) {
    return std::string(fit_problem(moments_of(values)).value_or(""));
  };
  const std::string same = "its values are all the same, or within 1/256 of their mean";
  CHECK(problem({}) == "there are no values");
  CHECK(problem({2}) == "it is a single value");
  CHECK(problem({0, 0, 0}) == same);
  CHECK(problem(std::vector<float>(1000, 0.1f)) == same);
  CHECK(problem({1000, 1001}) == same);
  CHECK(problem({100, 101}) == "");
  CHECK(problem({0, 0, 0, 1e-30f}) == "");
  CHECK(problem({3e38f, -3e38f, 0}) == "");
  // Extremes of float32 are numbers like others.
  for (const FamilyFit& f : fit({3e38f, -3e38f, 0, 1e38f, 2e38f, -1e38f}))
    CHECK(std::isfinite(f.log_likelihood));
  for (const FamilyFit& f : fit({1e-40f, -1e-40f, 3e-41f, -2e-41f, 5e-41f, -7e-41f}))
    CHECK(std::isfinite(f.log_likelihood));
}

TEST_CASE("fits: distribution functions", "[analysis][fits]") {
  const auto cdf = [](size_t f, const FitParameters& p, double x) { return families()[f].cdf(p)(x); };
  CHECK(cdf(kNormal, {1, 2}, 1 + 2 * 1.959963984540054) == Approx(0.975).epsilon(1e-14));
  CHECK(cdf(kLaplace, {1, 2}, 1 + 2 * std::log(2)) == Approx(0.75).epsilon(1e-14));
  CHECK(cdf(kStudent, {1, 2, 3}, 5) == Approx(0.75).epsilon(1e-14));
  CHECK(cdf(kStudent, {2, 0, 1}, 4) == Approx(0.5 + 4 / (2 * std::sqrt(18.0))).epsilon(1e-14));
  CHECK(cdf(kLogistic, {1, 2}, 1 + 2 * std::log(3)) == Approx(0.75).epsilon(1e-14));
  for (const double x : {-7.0, -1.0, 0.0, 0.3, 5.0}) {
    CHECK(cdf(kGaussian, {1, 2 * std::numbers::sqrt2, 2}, x) ==
          Approx(cdf(kNormal, {1, 2}, x)).epsilon(1e-12));
    CHECK(cdf(kGaussian, {1, 2, 1}, x) == Approx(cdf(kLaplace, {1, 2}, x)).epsilon(1e-12));
    CHECK(cdf(kStudent, {1e4, 1, 2}, x) == Approx(cdf(kNormal, {1, 2}, x)).margin(2e-5));
  }
  // The density is their slope.
  for (const Known& known : kKnown)
    for (const double t : {-3.0, -0.5, 0.25, 2.0}) {
      const size_t location = known.family == kStudent ? 1 : 0;
      const double unit = known.p[location + 1], x = known.p[location] + t * unit, h = 1e-5 * unit;
      CAPTURE(known.family, known.p[0], t);
      const double slope = (cdf(known.family, known.p, x + h) - cdf(known.family, known.p, x - h)) / (2 * h);
      CHECK(slope ==
            Approx(std::exp(families()[known.family].log_density(known.p)(x))).epsilon(1e-6).margin(1e-10));
    }
}
