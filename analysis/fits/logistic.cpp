// Logistic. In a = 1/s and b = mu/s the log-likelihood is concave: Newton's method, its steps halved while
// they do not climb, from the Normal's parameters.
#include <cmath>
#include <numbers>

#include "analysis/fits/family.h"

namespace fp4lab {

namespace {

struct Climb {
  double value = 0, ga = 0, gb = 0, haa = 0, hab = 0, hbb = 0;  // gradient, and minus the Hessian
};
/// mean of ln a + l(a z - b), l(u) = -|u| - 2 ln(1 + e^-|u|), and its derivatives.
Climb at(const FitSample& s, double a, double b) {
  Climb c;
  c.value = std::log(a), c.ga = 1 / a, c.haa = 1 / (a * a);
  for (size_t i = 0; i < s.z.size(); ++i) {
    const double z = s.z[i], u = a * z - b, e = std::exp(-std::fabs(u)), n = s.share[i];
    const double slope = -std::copysign((1 - e) / (1 + e), u), bend = 2 * e / ((1 + e) * (1 + e));
    c.value += n * (-std::fabs(u) - 2 * std::log1p(e));
    c.ga += n * slope * z, c.gb -= n * slope;
    c.haa += n * bend * z * z, c.hab -= n * bend * z, c.hbb += n * bend;
  }
  return c;
}

FitParameters fit(const FitSample& s) {
  double a = std::numbers::pi / std::sqrt(3.0) * s.unit / s.std, b = a * (s.mean - s.centre) / s.unit;
  Climb here = at(s, a, b);
  for (int step = 0; step < 100; ++step) {
    const double det = here.haa * here.hbb - here.hab * here.hab;
    double da = (here.hbb * here.ga - here.hab * here.gb) / det;
    double db = (here.haa * here.gb - here.hab * here.ga) / det;
    if (!std::isfinite(da) || !std::isfinite(db)) break;
    if (std::fabs(da) <= 1e-13 * a && std::fabs(db) <= 1e-13 * (1 + std::fabs(b))) break;
    Climb there;
    int halvings = 0;
    for (;; da /= 2, db /= 2, ++halvings) {
      if (halvings == 60) break;
      if (a + da <= 0) continue;
      there = at(s, a + da, b + db);
      if (there.value >= here.value - 1e-14) break;  // the last steps climb less than sums are rounded
    }
    if (halvings == 60) break;
    a += da, b += db, here = there;
  }
  return {s.centre + s.unit * b / a, s.unit / a, 0};
}

}  // namespace

Family logistic_family() {
  return {"logistic",
          "e^-z / (s (1 + e^-z)^2), z = (x-mu)/s",
          {{"mu", "x", "of greatest likelihood"}, {"s", "x", "of greatest likelihood"}},
          &fit,
          [](const FitParameters& p) -> std::function<double(double)> {
            return [mu = p[0], inverse = 1 / p[1], constant = -std::log(p[1])](double x) {
              const double u = std::fabs(x - mu) * inverse;
              return constant - u - 2 * std::log1p(std::exp(-u));
            };
          },
          [](const FitParameters& p) -> std::function<double(double)> {
            return [mu = p[0], s = p[1]](double x) {
              const double e = std::exp(-std::fabs(x - mu) / s);
              return (x < mu ? e : 1.0) / (1 + e);
            };
          }};
}

}  // namespace fp4lab
