// Laplace: the median, and the mean distance from it.
#include <cmath>

#include "analysis/fits/family.h"

namespace fp4lab {

Family laplace_family() {
  return {"laplace",
          "exp(-|x-mu| / b) / 2b",
          {{"mu", "x", "median(x)"}, {"b", "x", "mean(|x-mu|)"}},
          [](const FitSample& s) {
            return FitParameters{s.centre, s.unit, 0};
          },
          [](const FitParameters& p) -> std::function<double(double)> {
            return [mu = p[0], inverse = 1 / p[1], constant = -std::log(2 * p[1])](double x) {
              return constant - std::fabs(x - mu) * inverse;
            };
          },
          [](const FitParameters& p) -> std::function<double(double)> {
            return [mu = p[0], b = p[1]](double x) {
              const double tail = 0.5 * std::exp(-std::fabs(x - mu) / b);
              return x < mu ? tail : 1 - tail;
            };
          }};
}

}  // namespace fp4lab
