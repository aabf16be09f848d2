// SPEC section 8: the closed forms and integrals of the lemmas, against numbers typed from there or worked
// out another way.
#include <cmath>

#include "analysis/lemmas/lemmas.h"
#include "formats/quantize.h"
#include "formats/registry.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

FormatSpec exact(const Element& element) { return {element, 16, kFP32}; }
FormatSpec e8m0(ScaleRule rule, const Element& element = kE2M1) { return {element, 32, kUE8M0, rule}; }
bool rounds_to(double value, double printed, double last_digit) {
  return std::fabs(value - printed) <= 0.5 * last_digit * (1 + 1e-9);
}

/// E (1 - x^ / x)^2 of the largest element of a group of two, by the codec itself: x log-uniform over one
/// octave (midpoints), beside a zero. s_T puts the scales of minifloats into [2, 4], normal numbers of all of
/// them.
double top_by_codec(FormatSpec f, int steps) {
  if (f.scale.kind == ScaleKind::minifloat) f.tensor_scale = {TensorScale::fixed, 0.5f / f.element.scale_max};
  f.group_size = 2;
  Matrix x(steps, 2), back(steps, 2);
  for (int i = 0; i < steps; ++i) x(i, 0) = float(std::exp2((i + 0.5) / steps)), x(i, 1) = 0;
  fake_quantize(f, x, back);
  double sum = 0;
  for (int i = 0; i < steps; ++i) {
    const double r = 1 - double(back(i, 0)) / double(x(i, 0));
    sum += r * r;
  }
  return sum / steps;
}

/// Lemma 2's integral as the specification writes it, by midpoints: (G-1)/G E_m E[(x-Q)^2 | |x| < m] / E x^2.
double relative_mse_by_midpoints(Shape shape, int G) {
  const double grid[] = {0, .5, 1, 1.5, 2, 3, 4, 6};
  const auto density = [&](double x) {
    return shape == Shape::normal ? std::sqrt(2 / M_PI) * std::exp(-x * x / 2) : std::exp(-x);
  };
  const auto below = [&](double x) {
    return shape == Shape::normal ? std::erf(x / std::sqrt(2.0)) : -std::expm1(-x);
  };
  double sum = 0;
  const double dm = 0.02;
  for (double m = dm / 2; m < 30; m += dm) {
    double inner = 0;
    const int n = 2000;
    for (int i = 0; i < n; ++i) {
      const double t = (i + 0.5) / n;
      double nearest = 0;
      for (const double g : grid)
        if (std::fabs(6 * t - g) < std::fabs(6 * t - nearest)) nearest = g;
      const double error = m * (t - nearest / 6);
      inner += error * error * density(t * m) * m / n;
    }
    sum += dm * G * density(m) * std::pow(below(m), G - 1) * inner / below(m);
  }
  return double(G - 1) / G * sum / (shape == Shape::normal ? 1 : 2);
}

}  // namespace

TEST_CASE("phi: its least value, its plateau and its values beyond", "[analysis][lemmas]") {
  CHECK(rounds_to(phi(kE2M1, 8), .017164, 1e-6));
  for (double x = 1.75; x <= 7; x += 1.0 / 64) {
    CAPTURE(x);
    CHECK(rounds_to(phi(kE2M1, x), .010723, 1e-6));
  }
  CHECK(phi(kE2M1, 1.74) > phi(kE2M1, 1.75));
  CHECK(phi(kE2M1, 7.01) > phi(kE2M1, 7));
  CHECK(rounds_to(phi(kE2M1, .5), .27865, 1e-5));
  CHECK(rounds_to(phi(kE2M1, 1), .038203, 1e-6));
  CHECK(rounds_to(phi(kE2M1, 1.5), .022173, 1e-6));
  CHECK(rounds_to(phi(kE2M1, 10), .04782, 1e-5));
  CHECK(rounds_to(phi(kE2M1, 12), .0983, 1e-4));
  CHECK(phi(kE2M1, 1e-3) == Approx(1));  // all in the dead zone
}

TEST_CASE("psi: the top element's error is what the codec makes of it", "[analysis][lemmas]") {
  const double least = .010723;
  CHECK(rounds_to(GroupError(e8m0({.kind = ScaleRule::floor})).top(), .017164, 1e-6));
  for (const ScaleRule::Kind kind : {ScaleRule::even, ScaleRule::ceil, ScaleRule::fpq}) {
    CAPTURE(entry_of(kind).name);
    CHECK(rounds_to(GroupError(e8m0({.kind = kind})).top(), least, 1e-6));
  }
  CHECK(rounds_to(GroupError(kNvfp4).top(), .000702, 1e-6));
  CHECK(GroupError(exact(kE2M1)).top() == 0);

  std::vector<FormatSpec> formats;
  for (const Element& element : {kE2M1, kInt4, fp4lab::element("e2m3"), fp4lab::element("int8")}) {
    for (const ScaleRule::Kind kind : {ScaleRule::floor, ScaleRule::even, ScaleRule::ceil,
                                       ScaleRule::ceil_pow2, ScaleRule::nearest, ScaleRule::fpq})
      formats.push_back(e8m0({.kind = kind}, element));
    for (const double c : {2.5, 3.6, 5.0}) formats.push_back(e8m0({.kind = ScaleRule::map, .c = c}, element));
    for (const char* scale : {"e4m3", "e5m2", "e3m4", "e2m5", "e6m1", "e7m0"})
      formats.push_back({element, 16, *find_scale_type(scale), {}, {TensorScale::dynamic}});
  }
  for (const FormatSpec& f : formats) {
    CAPTURE(f.element.name, f.scale.name, entry_of(f.rule.kind).name, f.rule.c);
    const double by_codec = top_by_codec(f, 100000);
    CHECK(GroupError(f).top() == Approx(by_codec).epsilon(2e-4).margin(1e-9));
  }
}

TEST_CASE("psi: which formats have one", "[analysis][lemmas]") {
  CHECK(group_error_problem(kMxfp4).empty());
  FormatSpec f = kMxfp4;
  for (const ScaleRule::Kind kind : {ScaleRule::search, ScaleRule::quest, ScaleRule::fitted}) {
    f.rule.kind = kind;
    CHECK(group_error_problem(f).find("it looks at more than the group's largest magnitude") !=
          std::string::npos);
  }
  CHECK(group_error_problem(find_format("int4-asym")->spec).find("not symmetric") != std::string::npos);
  CHECK(group_error_problem(find_format("int4-peer")->spec).find("int4-full") != std::string::npos);
  CHECK(group_error_problem({kE2M1, 16, scale_type("e1m6")}).find("e1m6 scales") != std::string::npos);
  CHECK(group_error_problem({kE2M1, 16, scale_type("int8")}).find("int8 scales") != std::string::npos);
}

TEST_CASE("Lemma 2: the exact relative MSE", "[analysis][lemmas]") {
  const GroupError e2m1(exact(kE2M1));
  const auto mse = [&](Shape shape, int G) { return relative_mse(e2m1, shape, std::log(double(G))); };
  CHECK(rounds_to(mse(Shape::normal, 16), .008863, 1e-6));
  CHECK(rounds_to(mse(Shape::normal, 32), .010220, 1e-6));
  CHECK(rounds_to(mse(Shape::laplace, 16), .008315, 1e-6));
  CHECK(rounds_to(mse(Shape::laplace, 32), .010512, 1e-6));
  for (const Shape shape : {Shape::normal, Shape::laplace})
    for (const int G : {2, 3, 16, 25, 256}) {
      CAPTURE(name_of(shape), G);
      CHECK(mse(shape, G) == Approx(relative_mse_by_midpoints(shape, G)).epsilon(5e-4));
      // The same energy counted from the other side.
      CHECK(mse(shape, G) ==
            Approx(-std::expm1(log_retained(e2m1.levels(), shape, std::log(double(G))))).epsilon(1e-9));
    }
}

TEST_CASE("Lemma 2: rounded scales, to the table's 1 %", "[analysis][lemmas]") {
  struct Row {
    FormatSpec format;
    double expected[4];  // Normal G16, Normal G32, Laplace G16, Laplace G32
  };
  const Row rows[] = {
      {{kE2M1, 16, kE4M3, {}, {TensorScale::dynamic}}, {.00904, .01033, .00859, .01070}},
      {{kInt4, 16, kE4M3, {}, {TensorScale::dynamic}}, {.00745, .00952, .01052, .01485}},
      {e8m0({.kind = ScaleRule::floor}), {.01370, .01335, .01563, .01596}},
      {e8m0({.kind = ScaleRule::ceil}), {.01285, .01367, .01518, .01749}},
      {e8m0({.kind = ScaleRule::fpq}), {.01285, .01367, .01518, .01749}},
      {e8m0({.kind = ScaleRule::even}), {.01208, .01261, .01372, .01531}},
  };
  for (const Row& row : rows) {
    int column = 0;
    for (const Shape shape : {Shape::normal, Shape::laplace})
      for (const int G : {16, 32}) {
        CAPTURE(row.format.scale.name, entry_of(row.format.rule.kind).name, name_of(shape), G);
        CHECK(relative_mse(GroupError(row.format), shape, std::log(double(G))) ==
              Approx(row.expected[column++]).epsilon(.01));
      }
  }
}

TEST_CASE("Lemma 2: the largest of G", "[analysis][lemmas]") {
  // Laplace: the largest of G exponentials is a sum of independent ones, E m^2 = H^2 + sum 1/k^2.
  for (const int G : {2, 7, 64, 4096}) {
    double harmonic = 0, squares = 0;
    for (int k = 1; k <= G; ++k) harmonic += 1.0 / k, squares += 1.0 / k / k;
    CAPTURE(G);
    CHECK(mean_largest_square(Shape::laplace, std::log(double(G))) ==
          Approx(harmonic * harmonic + squares).epsilon(1e-10));
  }
  CHECK(mean_largest_square(Shape::normal, std::log(2.0)) == Approx(1 + 2 / M_PI).epsilon(1e-10));
}

TEST_CASE("Lemma 2: Laplace is better up to G = 25", "[analysis][lemmas]") {
  const GroupError e2m1(exact(kE2M1));
  const auto laplace_is_better = [&](int G) {
    return relative_mse(e2m1, Shape::laplace, std::log(double(G))) <
           relative_mse(e2m1, Shape::normal, std::log(double(G)));
  };
  for (int G = 2; G <= 100; ++G) {
    CAPTURE(G);
    CHECK(laplace_is_better(G) == (G <= 25));
  }
  const std::optional<double> crossover = crossover_group_size(e2m1);
  REQUIRE(crossover);
  CHECK((*crossover > 25 && *crossover < 26));
  CHECK_FALSE(
      crossover_group_size(GroupError(exact(kInt4))));  // the uniform grid suits the Normal at any size
}

TEST_CASE("Lemma 2: exponents at log G = 1e6, and 1e3 on the ternary grid", "[analysis][lemmas]") {
  struct Case {
    Element element;
    double delta, L, log_tolerance;
  };
  for (const Case& c : {Case{kE2M1, 1.0 / 24, 1e6, .003}, Case{kInt4, 1.0 / 14, 1e6, .003},
                        Case{element("int2"), .5, 1e3, .012}}) {
    const std::vector<GridLevel> levels = grid_levels(c.element);
    CHECK(levels[1].threshold / levels.back().value == Approx(c.delta).epsilon(1e-15));
    const double d2 = c.delta * c.delta;
    struct Want {
      Shape shape;
      Energy energy;
      double kappa, p;
    };
    for (const Want& w : {Want{Shape::laplace, Energy::retained, c.delta, 1},
                          Want{Shape::laplace, Energy::outside_dead_zone, c.delta, 2},
                          Want{Shape::normal, Energy::retained, d2, (d2 - 1) / 2},
                          Want{Shape::normal, Energy::outside_dead_zone, d2, (d2 + 1) / 2}}) {
      CAPTURE(c.element.name, name_of(w.shape), int(w.energy));
      const Rate rate = predicted_rate(c.delta, w.shape, w.energy, Form::derived);
      CHECK(rate.group_power == w.kappa);
      CHECK(rate.log_power == w.p);
      const RateFit fit = fit_rate(
          [&](double L) {
            return w.energy == Energy::retained ? log_retained(levels, w.shape, L)
                                                : log_outside_dead_zone(c.delta, w.shape, L);
          },
          c.L, rate);
      CHECK(std::fabs(fit.log_power - w.p) < c.log_tolerance);
      CHECK(fit.group_power == Approx(w.kappa).epsilon(1e-4));
    }
  }
  // The paper's exponents: the same powers of G, others of log G.
  CHECK(predicted_rate(.25, Shape::laplace, Energy::retained, Form::paper).log_power == 2);
  CHECK(predicted_rate(.25, Shape::normal, Energy::retained, Form::paper).log_power == .5);
  CHECK(predicted_rate(.25, Shape::normal, Energy::retained, Form::paper).group_power == .0625);
}
