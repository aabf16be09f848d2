// Generalized Gaussian. For a location and a beta the scale is closed: alpha^beta = beta mean |x - mu|^beta.
// Beta and the location are found in turn from the median.
//   beta stays in [0.2, 20]: towards 0 the density at a single value grows without limit, towards infinity it
//   is a uniform one. For beta >= 1 the location is the one minimum of mean |x - mu|^beta. For less it has a
//   dip at every value; the deepest near the middle is looked for between the quartiles, at the median and at
//   0 (where sparse tensors have a spike).
#include <algorithm>
#include <boost/math/special_functions/gamma.hpp>
#include <cmath>
#include <limits>

#include "analysis/fits/family.h"
#include "analysis/fits/maximize.h"

namespace fp4lab {

namespace {

constexpr double kLeastBeta = 0.2, kMostBeta = 20;

double mean_power(const FitSample& s, double mu, double beta) {
  double sum = 0;
  for (size_t i = 0; i < s.z.size(); ++i) sum += s.share[i] * std::pow(std::fabs(s.z[i] - mu), beta);
  return sum;
}

/// ln of the density at mu.
double log_peak(double log_alpha, double beta) {
  return std::log(beta / 2) - log_alpha - boost::math::lgamma(1 / beta, InDouble());
}

double shape(const FitSample& s, double mu) {
  std::vector<double> logs(s.z.size());
  for (size_t i = 0; i < logs.size(); ++i) logs[i] = std::log(std::fabs(s.z[i] - mu));  // -inf: no distance
  return std::exp(argmax(
      [&](double t) {
        const double beta = std::exp(t);
        double sum = 0;
        for (size_t i = 0; i < logs.size(); ++i) sum += s.share[i] * std::exp(beta * logs[i]);
        return log_peak(std::log(beta * sum) / beta, beta) - 1 / beta;
      },
      std::log(kLeastBeta), std::log(kMostBeta)));
}

/// The best of some locations among bins [begin, end), at most kTries, evenly spread by index; and how far
/// apart they were.
size_t best_bin(const FitSample& s, double beta, size_t begin, size_t end, size_t& step) {
  constexpr size_t kTries = 64;
  step = (end - begin + kTries - 1) / kTries;
  size_t best = begin;
  double least = mean_power(s, s.z[begin], beta);
  for (size_t i = begin + step; i < end; i += step)
    if (const double there = mean_power(s, s.z[i], beta); there < least) best = i, least = there;
  return best;
}

/// The first bin with the share q of all values at it and below.
size_t bin_at(const FitSample& s, double q) {
  double below = 0;
  size_t i = 0;
  while (i + 1 < s.z.size() && (below += s.share[i]) < q) ++i;
  return i;
}

double location(const FitSample& s, double beta) {
  if (beta >= 1) return argmax([&](double mu) { return -mean_power(s, mu, beta); }, s.z.front(), s.z.back());
  const size_t begin = bin_at(s, 0.25), end = bin_at(s, 0.75) + 1;
  size_t step = 0;
  size_t at = best_bin(s, beta, begin, end, step);
  while (step > 1) {
    const size_t from = std::max(begin, at - std::min(at, step)), to = std::min(end, at + step + 1);
    at = best_bin(s, beta, from, to, step);
  }
  double best = s.z[at];
  for (const double mu : {0.0, -s.centre / s.unit})
    if (mean_power(s, mu, beta) <= mean_power(s, best, beta)) best = mu;
  return best;
}

FitParameters fit(const FitSample& s) {
  if (s.largest_share >= kSpikeShare) {
    const double none = std::numeric_limits<double>::quiet_NaN();
    return {none, none, none};
  }
  double mu = 0, beta = shape(s, mu);
  for (int round = 0; round < 10; ++round) {
    const double mu_before = mu, beta_before = beta;
    mu = location(s, beta);
    beta = shape(s, mu);
    if (std::fabs(mu - mu_before) <= 1e-7 && std::fabs(beta - beta_before) <= 1e-7 * beta) break;
  }
  const double alpha = std::pow(beta * mean_power(s, mu, beta), 1 / beta);
  return {s.centre + s.unit * mu, s.unit * alpha, beta};
}

}  // namespace

Family generalized_gaussian_family() {
  return {"generalized_gaussian",
          "beta / (2 alpha Gamma(1/beta)) exp(-(|x-mu| / alpha)^beta)",
          {{"mu", "x", "argmin mean(|x-mu|^beta)"},
           {"alpha", "x", "(beta mean(|x-mu|^beta))^(1/beta)"},
           {"beta", "1", "of greatest likelihood, in [0.2, 20]"}},
          &fit,
          [](const FitParameters& p) -> std::function<double(double)> {
            return [mu = p[0], inverse = 1 / p[1], beta = p[2], constant = log_peak(std::log(p[1]), p[2])](
                       double x) { return constant - std::pow(std::fabs(x - mu) * inverse, beta); };
          },
          [](const FitParameters& p) -> std::function<double(double)> {
            return [mu = p[0], alpha = p[1], beta = p[2]](double x) {
              const double tail =
                  0.5 * boost::math::gamma_q(1 / beta, std::pow(std::fabs(x - mu) / alpha, beta), InDouble());
              return x < mu ? tail : 1 - tail;
            };
          }};
}

}  // namespace fp4lab
