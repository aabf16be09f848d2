#include "analysis/lemmas/maxima.h"

#include <algorithm>
#include <boost/math/quadrature/gauss.hpp>
#include <boost/math/special_functions/erf.hpp>
#include <boost/math/tools/roots.hpp>
#include <cmath>
#include <limits>

#include "core/errors.h"

namespace fp4lab {

namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();
constexpr double kLogHalfNormal = -0.22579135264472743236;  // log sqrt(2 / pi)
constexpr double kNegligible = 45;                          // e^-45 = 3e-20

/// Sums given by their logarithms.
class LogSum {
 public:
  void add(double log_term) {
    if (log_term == kNone) return;
    if (log_term > peak_) {
      sum_ = sum_ * std::exp(peak_ - log_term) + 1;
      peak_ = log_term;
    } else {
      sum_ += std::exp(log_term - peak_);
    }
  }
  double log() const { return peak_ == kNone ? kNone : peak_ + std::log(sum_); }

 private:
  double peak_ = kNone, sum_ = 0;
};

/// Calls take(node, weight) for Gauss's rule with n nodes on [low, high].
template <unsigned n, class Take>
void gauss_nodes(double low, double high, Take take) {
  using Rule = boost::math::quadrature::gauss<double, n>;
  const double middle = (low + high) / 2, half = (high - low) / 2;
  for (size_t i = 0; i < Rule::abscissa().size(); ++i) {
    const double d = half * Rule::abscissa()[i], w = half * Rule::weights()[i];
    take(middle + d, w);
    if (d != 0) take(middle - d, w);
  }
}

double log_density(Shape shape, double x) {  // of |x|
  return shape == Shape::normal ? kLogHalfNormal - x * x / 2 : -x;
}

/// log P(|x| > m) of the Normal for m >= 30, to 1e-12.
double log_normal_tail(double m) {
  const double r = 1 / (m * m);
  return kLogHalfNormal - m * m / 2 - std::log(m) + std::log1p(r * (-1 + r * (3 + r * (-15 + r * 105))));
}

/// m with P(|x| > m) = e^log_survival.
double magnitude_at(Shape shape, double log_survival) {
  if (shape == Shape::laplace) return -log_survival;
  if (log_survival > -460) return std::sqrt(2.0) * boost::math::erfc_inv(std::exp(log_survival));
  double m = std::sqrt(-2 * log_survival);
  for (int i = 0; i < 6; ++i) m += (log_normal_tail(m) - log_survival) / (m + 1 / m);
  return m;
}

/// log of integral_0^G (1 - v/G)^(G - less) g(m(v)) dv, v = e^-u; log_g(m) is log g. With less = 1 this is
/// E g(m).
template <class LogG>
double log_over_largest(Shape shape, double log_group, int less, LogG log_g) {
  const double low = std::max(-log_group, -std::log(60.0)), high = kNegligible;
  constexpr int kPanels = 24;  // about 2 wide: 15 nodes see a Gumbel density to rounding
  LogSum sum;
  for (int p = 0; p < kPanels; ++p) {
    const double width = (high - low) / kPanels;
    gauss_nodes<15>(low + p * width, low + (p + 1) * width, [&](double u, double w) {
      const double log_s = -u - log_group;
      if (log_s >= 0) return;
      // Above e^34 groups, G - less and log1p(-S) are G and -S to rounding.
      const double log_weight =
          log_group > 34 ? -std::exp(-u) : (std::exp(log_group) - less) * std::log1p(-std::exp(log_s));
      sum.add(std::log(w) - u + log_weight + log_g(magnitude_at(shape, log_s)));
    });
  }
  return sum.log();
}

/// log E sum_j h(|x_j|, m) / E sum_j x_j^2, h = m^2 top for the largest itself; log_inner(m) is the log of
/// integral_0^m h f dx.
template <class LogInner>
double log_share(Shape shape, double log_group, double log_top, LogInner log_inner) {
  LogSum sum;
  if (log_top != kNone)
    sum.add(log_over_largest(shape, log_group, 1, [](double m) { return 2 * std::log(m); }) + log_top -
            log_group);
  sum.add(log_over_largest(shape, log_group, 2, log_inner) + std::log1p(-std::exp(-log_group)));
  return sum.log() - std::log(second_moment(shape));
}

/// log of integral_a^b kernel(x) f(x) dx, kernel a polynomial >= 0 (a quadratic at most).
template <class Kernel>
double log_integral(Shape shape, double a, double b, Kernel kernel) {
  // Beyond `reach`, f has fallen by e^-kNegligible.
  const double reach =
      shape == Shape::normal ? 2 * kNegligible / (a + std::sqrt(a * a + 2 * kNegligible)) : kNegligible;
  double sum = 0;
  gauss_nodes<30>(0, std::min(b - a, reach), [&](double x, double w) {
    const double fall = shape == Shape::normal ? x * (a + x / 2) : x;
    sum += w * std::exp(-fall) * kernel(a + x);
  });
  return sum > 0 ? std::log(sum) + log_density(shape, a) : kNone;
}

}  // namespace

std::string_view name_of(Shape shape) { return shape == Shape::normal ? "normal" : "laplace"; }
double second_moment(Shape shape) { return shape == Shape::normal ? 1 : 2; }

double mean_largest_square(Shape shape, double log_group) {
  return std::exp(log_over_largest(shape, log_group, 1, [](double m) { return 2 * std::log(m); }));
}

double relative_mse(const GroupError& error, Shape shape, double log_group) {
  struct Node {
    double t, weight;  // of psi(t) t^2
  };
  std::vector<Node> nodes;  // the same for every m
  const std::vector<double> kinks = error.kinks();
  for (size_t k = 0; k + 1 < kinks.size(); ++k)
    gauss_nodes<10>(kinks[k], kinks[k + 1], [&](double t, double w) {
      nodes.push_back({t, w * error(t) * t * t});
    });
  const double top = error.top();
  return std::exp(log_share(shape, log_group, top > 1e-30 ? std::log(top) : kNone, [&](double m) {
    double sum = 0;
    for (const Node& n : nodes) sum += n.weight * std::exp(log_density(shape, n.t * m));
    return std::log(sum) + 3 * std::log(m);
  }));
}

double log_retained(const std::vector<GridLevel>& levels, Shape shape, double log_group) {
  const double largest = levels.back().value;
  // x^2 - (x - Q)^2 = Q (2 x - Q), which is m^2 for the largest itself.
  return log_share(shape, log_group, 0, [&](double m) {
    LogSum sum;
    for (size_t k = 1; k < levels.size(); ++k) {
      const double q = levels[k].value / largest * m, a = levels[k].threshold / largest * m;
      const double b = k + 1 < levels.size() ? levels[k + 1].threshold / largest * m : m;
      sum.add(log_integral(shape, a, b, [q](double x) { return q * (2 * x - q); }));
    }
    return sum.log();
  });
}

double log_outside_dead_zone(double delta, Shape shape, double log_group) {
  return log_share(shape, log_group, 0, [&](double m) {
    return log_integral(shape, delta * m, m, [](double x) { return x * x; });
  });
}

std::optional<double> crossover_group_size(const GroupError& error) {
  const auto difference = [&](double log_group) {
    return relative_mse(error, Shape::laplace, log_group) / relative_mse(error, Shape::normal, log_group) - 1;
  };
  const double low = std::log(2.0), high = std::log(4096.0);
  const double at_low = difference(low), at_high = difference(high);
  if ((at_low < 0) == (at_high < 0)) return {};
  uintmax_t steps = 60;
  const auto [a, b] = boost::math::tools::toms748_solve(difference, low, high, at_low, at_high,
                                                        boost::math::tools::eps_tolerance<double>(30), steps);
  return std::exp((a + b) / 2);
}

}  // namespace fp4lab
