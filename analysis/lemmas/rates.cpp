// Lemma 2: the rate at which the energy that survives quantization falls with the group size.
#include <cmath>

#include "analysis/lemmas/lemmas.h"
#include "core/errors.h"

namespace fp4lab {

namespace {

/// Equal steps of log log G.
std::vector<double> geometric(double low, double high, int count) {
  std::vector<double> at;
  for (int i = 0; i < count; ++i) at.push_back(low * std::pow(high / low, double(i) / (count - 1)));
  return at;
}

double delta_of(const std::vector<GridLevel>& levels) { return levels[1].threshold / levels.back().value; }

std::function<double(double)> log_energy_of(const LemmaQuestion& q) {
  const std::vector<GridLevel> levels = grid_levels(q.format.element);
  if (q.energy == Energy::retained)
    return [levels, shape = q.shape](double L) { return log_retained(levels, shape, L); };
  return [delta = delta_of(levels), shape = q.shape](double L) {
    return log_outside_dead_zone(delta, shape, L);
  };
}

std::string rate_note(const LemmaQuestion& q, const LemmaAnswer& a, double log_power,
                      double exact_log_power) {
  const bool other = q.exponent == Exponent::log_group_size && log_power != exact_log_power;
  if (a.verdict == Verdict::holds)
    return other ? str("the exact exponent is ", exact_log_power, ", within the tolerance") : "";
  const std::string off = str("fitted ", a.interval.estimate, ", predicted ", a.prediction, ": ");
  if (!other) return off + str("log G = ", q.log_group_size, " is too small for the limit");
  if (q.energy == Energy::retained)
    return off + str("the paper's rate is that of the energy outside the dead zone; at its edge nearest "
                     "rounding keeps "
                     "nothing, since x^2 - (x - Q)^2 = Q (2x - Q) = 0, and the power of log G falls by ",
                     log_power - exact_log_power);
  return off + str("the exact exponent is (1 + delta^2) / 2 = ", exact_log_power);
}

LemmaAnswer answer_rate(const LemmaQuestion& q, const BetweenChunks& between) {
  const double delta = delta_of(grid_levels(q.format.element));
  const auto log_energy = log_energy_of(q);
  between();
  const Rate rate = predicted_rate(delta, q.shape, q.energy, q.form);
  const Rate derived = predicted_rate(delta, q.shape, q.energy, Form::derived);
  const RateFit fit = fit_rate(log_energy, q.log_group_size, derived);
  const RateFit half = fit_rate(log_energy, q.log_group_size / 2, derived);
  const bool of_group = q.exponent == Exponent::group_size;
  const double found = of_group ? fit.group_power : fit.log_power;
  const double before = of_group ? half.group_power : half.log_power;
  const double predicted = of_group ? rate.group_power : rate.log_power;
  // No chance in it: corrections fall as 1 / log G, so the exponent still has to move by what it moved since
  // half of log G.
  const double moves = std::fabs(found - before);
  LemmaAnswer a = judged(q, {found, found - 2 * moves, found + 2 * moves}, predicted,
                         of_group ? 0.001 * predicted : 0.01);
  a.statement =
      str("Lemma 2: the ",
          q.energy == Energy::retained ? "energy kept by nearest rounding, R(G) = 1 - MSE(G),"
                                       : "energy outside the dead zone, E[x^2; |x| > delta m] / E x^2,",
          " of ", name_of(q.shape), " groups goes as (log G)^p G^-kappa; ", of_group ? "kappa" : "p",
          " fitted at log G = ", q.log_group_size, " against ",
          q.form == Form::paper ? "the paper's rate." : "the rate derived for this energy.");
  a.note = rate_note(q, a, rate.log_power, derived.log_power);
  a.numbers = {
      {"kappa", fit.group_power, "1", "slope of p ln ln G - ln R against ln G, p as derived"},
      {"log_power", fit.log_power, "1", "slope of ln R + kappa ln G against ln ln G, kappa as derived"},
      {"delta", delta, "1", "half the smallest grid step over the largest value"}};
  const std::vector<double> L = geometric(std::log(2.0), 690, 60);  // e^690 is still a double
  LemmaAnswer::Curve size{"curve.group_size", {}, "1", "G"}, at{"curve.log_group_size", L, "1", "ln G"};
  LemmaAnswer::Curve kept{"curve.estimate", {}, "1", "R(G) by quadrature"};
  LemmaAnswer::Curve form{
      "curve.prediction", {}, "1", "C (log G)^p G^-kappa as predicted, C from the largest G"};
  const double log_c = fit.log_energy.back() - rate.log_power * std::log(q.log_group_size) +
                       rate.group_power * q.log_group_size;
  for (const double l : L) {
    size.values.push_back(std::exp(l));
    kept.values.push_back(std::exp(log_energy(l)));
    form.values.push_back(std::exp(log_c + rate.log_power * std::log(l) - rate.group_power * l));
  }
  a.curves = {size,
              at,
              kept,
              form,
              {"fit.log_group_size", fit.log_group_size, "1", "ln G"},
              {"fit.log_energy", fit.log_energy, "1", "ln R(G)"}};
  return a;
}

}  // namespace

RateFit fit_rate(const std::function<double(double)>& log_energy, double log_group_size,
                 const Rate& expected) {
  RateFit fit{};
  fit.log_group_size = geometric(log_group_size / 4, log_group_size, 9);
  for (const double L : fit.log_group_size) fit.log_energy.push_back(log_energy(L));
  // Least squares through (a, b), both about their means.
  const auto slope = [&](auto a_of, auto b_of) {
    double a_mean = 0, b_mean = 0, ab = 0, aa = 0;
    const size_t n = fit.log_group_size.size();
    for (size_t i = 0; i < n; ++i) a_mean += a_of(i) / double(n), b_mean += b_of(i) / double(n);
    for (size_t i = 0; i < n; ++i) {
      ab += (a_of(i) - a_mean) * (b_of(i) - b_mean);
      aa += (a_of(i) - a_mean) * (a_of(i) - a_mean);
    }
    return ab / aa;
  };
  const auto L = [&](size_t i) { return fit.log_group_size[i]; };
  fit.log_power = slope([&](size_t i) { return std::log(L(i)); },
                        [&](size_t i) { return fit.log_energy[i] + expected.group_power * L(i); });
  fit.group_power =
      -slope(L, [&](size_t i) { return fit.log_energy[i] - expected.log_power * std::log(L(i)); });
  return fit;
}

Rate predicted_rate(double delta, Shape shape, Energy energy, Form form) {
  const double square = delta * delta;
  if (shape == Shape::laplace)
    return {delta, form == Form::paper || energy == Energy::outside_dead_zone ? 2.0 : 1.0};
  if (form == Form::paper) return {square, 0.5};
  return {square, energy == Energy::retained ? (square - 1) / 2 : (square + 1) / 2};
}

LemmaEntry lemma2_rate() {
  return {"lemma2_rate",
          "by quadrature: the exponents of the energy kept, against a rate",
          {"distribution", "log_group_size", "energy", "form", "exponent"},
          0,
          [](const LemmaQuestion& q) {
            if (const std::string problem = group_error_problem(q.format); !problem.empty()) return problem;
            return GroupError(q.format).exact_scale()
                       ? std::string()
                       : "the rate is that of scales that are not rounded: fp32, fp16 or "
                         "bf16";
          },
          &answer_rate,
          [](const LemmaQuestion&) { return 0.1; }};
}
}  // namespace fp4lab
