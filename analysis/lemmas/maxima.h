// analysis/lemmas/maxima.h - expectations over groups of G independent elements, by quadrature over the
// group's largest magnitude m. Nothing is sampled.
//   With f, S the density and the survival function of |x|, G f(m) (1 - S(m))^(G-1) is the density of m, and
//   given m the other G - 1 magnitudes have density f / (1 - S(m)) below m. The variable of integration is
//   u = -log(G S(m)), Gumbel distributed for large G, so that G may be e^1000000: G comes as its logarithm,
//   and what would underflow goes out as one.
#pragma once
#include <optional>
#include <string_view>
#include <vector>

#include "analysis/lemmas/group_error.h"

namespace fp4lab {

enum class Shape { normal, laplace };  // N(0, 1); density exp(-|x|) / 2
std::string_view name_of(Shape shape);
double second_moment(Shape shape);  // E x^2: 1, 2

/// E max_j x_j^2 over groups of e^log_group.
double mean_largest_square(Shape shape, double log_group);

/// E sum (x - x^)^2 / E sum x^2 over groups of e^log_group, log_group >= log 2. For a scale that is not
/// rounded this is (G-1)/G E_m E[(x - Q)^2 | |x| < m] / E x^2.
double relative_mse(const GroupError& error, Shape shape, double log_group);

/// log of R(G) = 1 - relative_mse for a scale that is not rounded: of the energy that survives quantization.
double log_retained(const std::vector<GridLevel>& levels, Shape shape, double log_group);

/// log of E[x^2; |x| > delta m] / E x^2: of the energy outside the dead zone.
double log_outside_dead_zone(double delta, Shape shape, double log_group);

/// The G in [2, 4096] (as a real number) where Laplace and Normal blocks have equal relative MSE; nothing
/// when one of them has the lower one at both ends.
std::optional<double> crossover_group_size(const GroupError& error);

}  // namespace fp4lab
