// analysis/fits/maximize.h - the largest value of a function of one variable: Brent's method of Boost.Math,
// with the ends of the interval looked at too. Internal to analysis/fits.
#pragma once
#include <boost/math/policies/policy.hpp>
#include <boost/math/tools/minima.hpp>

namespace fp4lab {

/// Special functions in double throughout (by default Boost computes in long double): the same on every
/// machine.
using InDouble = boost::math::policies::policy<boost::math::policies::promote_double<false>>;

/// Where f, with one peak in [low, high], is largest: to about 1e-8 beside 1, which is where its value stops
/// telling neighbours apart.
template <class F>
double argmax(F f, double low, double high) {
  std::uintmax_t steps = 200;
  const auto [x, value] =
      boost::math::tools::brent_find_minima([&](double t) { return -f(t); }, low, high, 28, steps);
  double best = x, largest = -value;
  for (const double end : {low, high})
    if (const double there = f(end); there >= largest) best = end, largest = there;
  return best;
}

}  // namespace fp4lab
