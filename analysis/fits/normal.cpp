// Normal: the mean, and the root of the mean squared deviation from it.
#include <boost/math/special_functions/erf.hpp>
#include <cmath>
#include <numbers>

#include "analysis/fits/family.h"

namespace fp4lab {

Family normal_family() {
  return {"normal",
          "exp(-(x-mu)^2 / 2 sigma^2) / (sigma sqrt(2 pi))",
          {{"mu", "x", "mean(x)"}, {"sigma", "x", "sqrt(mean((x-mu)^2))"}},
          [](const FitSample& s) {
            return FitParameters{s.mean, s.std, 0};
          },
          [](const FitParameters& p) -> std::function<double(double)> {
            const double mu = p[0], inverse = 1 / p[1];
            const double constant = -std::log(p[1]) - 0.5 * std::log(2 * std::numbers::pi);
            return [=](double x) {
              const double z = (x - mu) * inverse;
              return constant - 0.5 * z * z;
            };
          },
          [](const FitParameters& p) -> std::function<double(double)> {
            return [mu = p[0], scale = p[1] * std::numbers::sqrt2](double x) {
              return 0.5 * boost::math::erfc((mu - x) / scale);
            };
          }};
}

}  // namespace fp4lab
