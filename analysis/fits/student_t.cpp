// Student's t. For a location the scale of every nu is a root of one monotone function, and nu the maximum of
// what is left of the likelihood; for those the location is what reweighted means settle at (EM; Lange,
// Little and Taylor 1989). The two in turn from the median until neither moves: they hardly depend on each
// other.
//   nu stays in [0.5, 10000]: beyond, a t is a Normal to 1e-4 in its kurtosis.
#include <boost/math/distributions/students_t.hpp>
#include <boost/math/special_functions/gamma.hpp>
#include <boost/math/tools/toms748_solve.hpp>
#include <cmath>
#include <limits>
#include <numbers>

#include "analysis/fits/family.h"
#include "analysis/fits/maximize.h"

namespace fp4lab {

namespace {

constexpr double kLeastNu = 0.5, kMostNu = 1e4;

/// ln of the density at 0 of a t with scale 1.
double log_peak(double nu) {
  return boost::math::lgamma((nu + 1) / 2, InDouble()) - boost::math::lgamma(nu / 2, InDouble()) -
         0.5 * std::log(nu * std::numbers::pi);
}

/// ln of the scale: the mean of (nu + 1) r^2 / (nu s^2 + r^2) is 1 there, and falls as s grows.
double log_scale(const FitSample& s, double mu, double nu) {
  const auto excess = [&](double t) {
    const double spread = nu * std::exp(2 * t);
    double sum = 0;
    for (size_t i = 0; i < s.z.size(); ++i) {
      const double r = s.z[i] - mu, r2 = r * r;
      if (r2 > 0) sum += s.share[i] * r2 / (spread + r2);
    }
    return (nu + 1) * sum - 1;
  };
  double low = -1, high = 1;  // the mean |z| is 1
  while (low > -700 && excess(low) < 0) high = low, low *= 2;
  while (high < 350 && excess(high) > 0) low = high, high = std::fabs(2 * high) + 1;
  std::uintmax_t steps = 100;
  const auto ends = boost::math::tools::toms748_solve(excess, low, high,
                                                      boost::math::tools::eps_tolerance<double>(45), steps);
  return (ends.first + ends.second) / 2;
}

double log_likelihood(const FitSample& s, double mu, double scale, double nu) {
  double sum = 0;
  const double inverse = 1 / (nu * scale * scale);
  for (size_t i = 0; i < s.z.size(); ++i) {
    const double r = s.z[i] - mu;
    sum += s.share[i] * std::log1p(r * r * inverse);
  }
  return log_peak(nu) - std::log(scale) - (nu + 1) / 2 * sum;
}

/// Reweighted means from `mu` on, until they stand still.
double location(const FitSample& s, double mu, double scale, double nu) {
  for (int step = 0; step < 200; ++step) {
    double weights = 0, sum = 0;
    for (size_t i = 0; i < s.z.size(); ++i) {
      const double r = s.z[i] - mu, w = s.share[i] / (nu * scale * scale + r * r);
      weights += w, sum += w * r;
    }
    const double move = sum / weights;
    mu += move;
    if (std::fabs(move) <= 1e-12 * scale) break;
  }
  return mu;
}

FitParameters fit(const FitSample& s) {
  if (s.largest_share >= kSpikeShare) {
    const double none = std::numeric_limits<double>::quiet_NaN();
    return {none, none, none};
  }
  double mu = 0, nu = 0, scale = 1;
  for (int round = 0; round < 50; ++round) {
    const double before = mu;
    nu = std::exp(argmax(
        [&](double t) {
          const double n = std::exp(t);
          return log_likelihood(s, mu, std::exp(log_scale(s, mu, n)), n);
        },
        std::log(kLeastNu), std::log(kMostNu)));
    scale = std::exp(log_scale(s, mu, nu));
    mu = location(s, mu, scale, nu);
    if (std::fabs(mu - before) <= 1e-9 * scale) break;  // nu and the scale are the best ones for it
  }
  return {nu, s.centre + s.unit * mu, s.unit * scale};
}

}  // namespace

Family student_t_family() {
  return {"student_t",
          "Gamma((nu+1)/2) / (Gamma(nu/2) s sqrt(nu pi)) (1 + (x-mu)^2 / (nu s^2))^(-(nu+1)/2)",
          {{"nu", "1", "degrees of freedom of greatest likelihood, in [0.5, 10000]"},
           {"mu", "x", "of greatest likelihood"},
           {"scale", "x", "s of greatest likelihood"}},
          &fit,
          [](const FitParameters& p) -> std::function<double(double)> {
            return [nu = p[0], mu = p[1], inverse = 1 / p[2],
                    constant = log_peak(p[0]) - std::log(p[2])](double x) {
              const double z = (x - mu) * inverse;
              return constant - (nu + 1) / 2 * std::log1p(z * z / nu);
            };
          },
          [](const FitParameters& p) -> std::function<double(double)> {
            return [t = boost::math::students_t_distribution<double, InDouble>(p[0]), mu = p[1],
                    s = p[2]](double x) { return boost::math::cdf(t, (x - mu) / s); };
          }};
}

}  // namespace fp4lab
