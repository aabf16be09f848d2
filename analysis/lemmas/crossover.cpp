// Lemma 2: the relative MSE of Laplace and of Normal groups, sampled, and where the two cross.
#include <Eigen/LU>
#include <algorithm>
#include <cmath>

#include "analysis/lemmas/lemmas.h"
#include "analysis/lemmas/sampling.h"
#include "core/errors.h"

namespace fp4lab {

namespace {

void error_and_energy(const GroupView& g, double* m) {
  m[0] = m[1] = 0;
  for (int64_t j = 0; j < g.size; ++j) {
    const double x = double(g.x[j]), e = double(g.x_hat[j]) - x;
    m[0] += e * e, m[1] += x * x;
  }
}

GroupSample groups_of(const LemmaQuestion& q, Shape shape, int64_t group_size, double sigma) {
  GroupSample s;
  s.source = {shape, q.seed, sigma, 0};
  s.format = q.format, s.format.group_size = int(group_size);
  s.groups = (q.samples + group_size - 1) / group_size;
  return s;
}
MomentSums sampled(const LemmaQuestion& q, Shape shape, int64_t group_size, double sigma,
                   const BetweenChunks& between) {
  return sample_groups(groups_of(q, shape, group_size, sigma), 2, &error_and_energy, between);
}
Estimated relative(const MomentSums& sums) {
  return delta_method(sums, [](std::span<const double> m) { return m[0] / m[1]; });
}

std::string predictable(const LemmaQuestion& q) { return group_error_problem(q.format); }

LemmaAnswer answer_value(const LemmaQuestion& q, const BetweenChunks& between) {
  const int64_t G = q.format.group_size;
  const GroupError error(q.format);
  const Estimated e = relative(sampled(q, q.shape, G, q.log_normal_sigma, between));
  const double prediction = relative_mse(error, q.shape, std::log(double(G)));
  LemmaAnswer a = judged(q, interval_of(e, q.confidence), prediction, 0.005 * prediction);
  a.samples = double((q.samples + G - 1) / G * G);
  a.statement = error.exact_scale() ? "Lemma 2: the sampled relative MSE of groups of G is the exact "
                                      "integral (G-1)/G E_m E[(x-Q)^2 | |x| < m] / "
                                      "E x^2."
                                    : "Lemma 2: the sampled relative MSE of groups of G is E[sum x^2 "
                                      "psi(|x|/m)] / E[sum x^2], psi the error "
                                      "averaged over the phase of a rounded scale.";
  if (a.verdict == Verdict::differs)
    a.note = str("off by ", percent(a.interval.estimate / prediction - 1),
                 error.exact_scale()
                     ? std::string()
                     : str(": the integral takes the scales' phase as uniform, and groups whose sizes "
                           "spread by ln-deviation ",
                           q.log_normal_sigma, " need not have that"));
  if (a.verdict == Verdict::undecided)
    a.note = "the interval crosses an end of the tolerance: more samples decide";
  return a;
}

/// The sizes at which both distributions are sampled: around G, within a factor of 1.5.
std::vector<int64_t> sizes_around(double G) {
  std::vector<int64_t> sizes;
  for (int i = 0; i < 7; ++i) {
    const double s = G / 1.5 * std::pow(1.5 * 1.5, i / 6.0);
    const int64_t size = std::clamp<int64_t>(std::llround(s), 2, 4096);
    if (sizes.empty() || sizes.back() < size) sizes.push_back(size);
  }
  return sizes;
}

std::string crosses(const LemmaQuestion& q) {
  if (const std::string problem = group_error_problem(q.format); !problem.empty()) return problem;
  const std::optional<double> G = crossover_group_size(GroupError(q.format));
  if (!G)
    return "no crossover: one of Laplace and Normal groups has the lower relative MSE at G = 2 and at G = "
           "4096";
  if (sizes_around(*G).size() < 4) return str("the crossover at G = ", *G, " is too small to be located");
  return "";
}

/// Where a parabola in log G through the weighted points is zero, nearest to the middle; its derivative by
/// each point's value gives the error.
struct Root {
  double log_group, error;
};
Root fitted_root(const std::vector<int64_t>& sizes, const std::vector<Estimated>& difference, double near) {
  const Eigen::Index n = Eigen::Index(sizes.size());
  Eigen::MatrixXd A(n, 3);
  Eigen::VectorXd b(n);
  for (Eigen::Index i = 0; i < n; ++i) {
    const double w = 1 / difference[size_t(i)].error, l = std::log(double(sizes[size_t(i)])) - near;
    A.row(i) << w, w * l, w * l * l;
    b(i) = w * difference[size_t(i)].value;
  }
  const Eigen::MatrixXd inverse = (A.transpose() * A).inverse();
  const Eigen::Vector3d c = inverse * A.transpose() * b;
  double l = -c(0) / c(1);
  for (int i = 0; i < 50; ++i) l -= (c(0) + l * (c(1) + l * c(2))) / (c(1) + 2 * l * c(2));
  const Eigen::Vector3d gradient = Eigen::Vector3d(1, l, l * l) / (c(1) + 2 * l * c(2));
  return {l + near, std::sqrt(gradient.dot(inverse * gradient))};
}

LemmaAnswer answer_crossover(const LemmaQuestion& q, const BetweenChunks& between) {
  const GroupError error(q.format);
  const double prediction = crossover_group_size(error).value();
  const std::vector<int64_t> sizes = sizes_around(prediction);
  std::vector<Estimated> difference;
  LemmaAnswer::Curve at{"sampled.group_size", {}, "1", "G"};
  LemmaAnswer::Curve laplace{"sampled.laplace", {}, "1", "relative MSE"},
      normal{"sampled.normal", {}, "1", "relative MSE"};
  double samples = 0;
  for (const int64_t G : sizes) {
    const Estimated l = relative(sampled(q, Shape::laplace, G, q.log_normal_sigma, between));
    const Estimated n = relative(sampled(q, Shape::normal, G, q.log_normal_sigma, between));
    const double ratio = l.value / n.value;
    difference.push_back({ratio - 1, ratio * std::hypot(l.error / l.value, n.error / n.value)});
    at.values.push_back(double(G)), laplace.values.push_back(l.value), normal.values.push_back(n.value);
    samples += 2 * double((q.samples + G - 1) / G * G);
  }
  const Root root = fitted_root(sizes, difference, std::log(prediction));
  const double half = normal_quantile(q.confidence) * root.error, G = std::exp(root.log_group);
  LemmaAnswer a =
      judged(q, {G, std::exp(root.log_group - half), std::exp(root.log_group + half)}, prediction, 1);
  a.samples = samples;
  a.statement =
      "Lemma 2: Laplace groups have the lower relative MSE up to a group size, Normal ones (rotated) beyond; "
      "where "
      "sampled, against where the integrals cross.";
  if (a.verdict != Verdict::holds)
    a.note = str("sampled ", G, ", the integrals cross at ", prediction,
                 a.verdict == Verdict::undecided ? ": more samples decide" : "");
  LemmaAnswer::Curve size{"curve.group_size", {}, "1", "G"};
  LemmaAnswer::Curve exact_l{"curve.laplace", {}, "1", "relative MSE by quadrature"};
  LemmaAnswer::Curve exact_n{"curve.normal", {}, "1", "relative MSE by quadrature"};
  for (int i = 0; i < 45; ++i) {
    const double l = std::log(2.0) * (1 + i / 4.0);  // 2 to 4096, four to an octave
    size.values.push_back(std::exp(l));
    exact_l.values.push_back(relative_mse(error, Shape::laplace, l));
    exact_n.values.push_back(relative_mse(error, Shape::normal, l));
  }
  a.curves = {size, exact_l, exact_n, at, laplace, normal};
  return a;
}

}  // namespace

LemmaEntry lemma2_value() {
  return {"lemma2_value",
          "the sampled relative MSE of random groups against its integral",
          {"group_size", "distribution", "samples", "seed", "confidence", "log_normal_sigma"},
          0,
          &predictable,
          &answer_value,
          [](const LemmaQuestion& q) {
            return sampling_seconds(groups_of(q, q.shape, q.format.group_size, q.log_normal_sigma));
          }};
}
LemmaEntry lemma2_crossover() {
  return {"lemma2_crossover",
          "the group size where Laplace and Normal groups have equal relative MSE",
          {"samples", "seed", "confidence", "log_normal_sigma"},
          0,
          &crosses,
          &answer_crossover,
          [](const LemmaQuestion& q) {
            return 14 * sampling_seconds(groups_of(q, q.shape, 32, q.log_normal_sigma));
          }};
}

}  // namespace fp4lab
