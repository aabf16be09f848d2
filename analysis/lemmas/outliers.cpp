// Lemmas 3 and 4: what outliers, and the largest elements of groups that are not rotated, lose.
#include <bit>
#include <cmath>

#include "analysis/lemmas/lemmas.h"
#include "analysis/lemmas/sampling.h"
#include "core/errors.h"

namespace fp4lab {

namespace {

double square_relative(float x, float x_hat) {
  const double r = x != 0 ? (double(x_hat) - double(x)) / double(x) : 0;
  return r * r;
}

enum Moment { outlier_error, outlier_count, top_error, top_is_outlier, kMoments };
void outlier_moments(const GroupView& g, double* m) {
  m[outlier_error] = m[outlier_count] = 0;
  for (int64_t j = 0; j < g.size; ++j)
    if (g.outlier[j]) m[outlier_error] += square_relative(g.x[j], g.x_hat[j]), m[outlier_count] += 1;
  const int64_t t = g.top();
  m[top_error] = square_relative(g.x[t], g.x_hat[t]);
  m[top_is_outlier] = g.outlier[t];
}
double outlier_ratio(std::span<const double> m) { return m[outlier_error] / m[outlier_count] / m[top_error]; }

GroupSample groups_of(const LemmaQuestion& q, double outlier_share, double sigma) {
  GroupSample s;
  s.source = {q.shape, q.seed, sigma, outlier_share};
  s.format = q.format, s.groups = q.groups, s.hadamard = q.hadamard;
  return s;
}
double drawn(const LemmaQuestion& q) { return double(q.groups) * double(q.format.group_size); }

std::string problem3(const LemmaQuestion& q) {
  if (q.hadamard == 0) {
    const bool exact = q.format.scale.kind == ScaleKind::fp32 && q.format.rule.kind == ScaleRule::absmax;
    return exact ? "without a rotation this scale leaves outliers no error to compare (remark2); a rounded "
                   "scale, or a "
                   "hadamard, does"
                 : "";
  }
  if (!std::has_single_bit(uint64_t(q.hadamard)) || q.format.group_size % q.hadamard != 0)
    return str("a rotation within the groups: a power of two that divides the group size ",
               q.format.group_size, "; found hadamard ", q.hadamard);
  return "";
}

LemmaAnswer answer3(const LemmaQuestion& q, const BetweenChunks& between) {
  const MomentSums sums =
      sample_groups(groups_of(q, q.outlier_share, 0), kMoments, &outlier_moments, between);
  const double order = q.outlier_share * double(q.format.group_size);
  LemmaAnswer a = judged(q, interval_of(delta_method(sums, &outlier_ratio), q.confidence), 1, order);
  a.samples = drawn(q);
  a.statement =
      str("Lemma 3: E[(x-x^)^2/x^2 | outlier] is MSE_top_rel over the groups that hold an outlier, up to "
          "O(pG); their ratio against 1 +- pG (a constant of 1), p = ",
          q.outlier_share, q.hadamard ? str(", rotated by H_", q.hadamard) : "", ".");
  a.numbers = {
      {"outlier_mse_rel", sums.mean(outlier_error) / sums.mean(outlier_count), "1",
       "E[(x-x^)^2 / x^2 | outlier]"},
      {"mse_top_rel", sums.mean(top_error), "1", "E[(x-x^)^2 / x^2 at the top] over groups with an outlier"},
      {"outliers_per_group", sums.mean(outlier_count), "1", "E[outliers | at least one]"},
      {"top_is_outlier_share", sums.mean(top_is_outlier), "1",
       "P(the top element is an outlier | there is one)"}};
  if (a.verdict != Verdict::holds)
    a.note = str("off by ", percent(a.interval.estimate - 1),
                 ": O(pG) leaves its constant open, and here it is ", (a.interval.estimate - 1) / order, "; ",
                 percent(1 - sums.mean(top_is_outlier) / sums.mean(outlier_count)),
                 " of the outliers are not the top of their group, and lose more or less than it");
  return a;
}

void top_relative(const GroupView& g, double* m) {
  const int64_t t = g.top();
  m[0] = square_relative(g.x[t], g.x_hat[t]);
}

std::string problem4(const LemmaQuestion& q) {
  if (const std::string problem = group_error_problem(q.format); !problem.empty()) return problem;
  if (GroupError(q.format).exact_scale())
    return "the top element of a group whose scale is not rounded has no error (remark2); Lemma 4 is about "
           "ue8m0 and "
           "8-bit minifloat scales";
  return "";
}

LemmaAnswer answer4(const LemmaQuestion& q, const BetweenChunks& between) {
  const MomentSums sums = sample_groups(groups_of(q, 0, q.log_normal_sigma), 1, &top_relative, between);
  const Estimated e = delta_method(sums, [](std::span<const double> m) { return m[0]; });
  const double prediction = GroupError(q.format).top();
  LemmaAnswer a = judged(q, interval_of(e, q.confidence), prediction, 0.01 * prediction);
  a.samples = drawn(q);
  a.statement =
      str("Lemma 4: MSE_top_rel of a power-of-two-invariant quantizer over a smooth wide scale distribution "
          "(ln-deviation ",
          q.log_normal_sigma, ") is integral_1^2 (x-Q(x))^2/x^2 dx/(x ln 2), whatever G.");
  if (a.verdict != Verdict::holds)
    a.note = str(
        "off by ", percent(e.value / prediction - 1),
        a.verdict == Verdict::undecided ? ": the interval crosses an end of the tolerance, more groups decide"
        : q.log_normal_sigma < 0.5 ? str(": groups whose sizes spread by ln-deviation ", q.log_normal_sigma,
                                         " do not meet every phase of the scale alike; .5 is wide enough")
                                   : ": the scales' phase is not uniform");
  return a;
}

}  // namespace

LemmaEntry lemma3() {
  return {"lemma3",
          "outliers: their relative error against MSE_top_rel of the groups that hold one",
          {"group_size", "distribution", "blocks", "seed", "confidence", "outlier_share", "hadamard"},
          0,
          &problem3,
          &answer3,
          [](const LemmaQuestion& q) { return sampling_seconds(groups_of(q, q.outlier_share, 0)); }};
}
LemmaEntry lemma4() {
  return {"lemma4",
          "not rotated: MSE_top_rel against its integral, at any group size",
          {"group_size", "distribution", "blocks", "seed", "confidence", "log_normal_sigma"},
          0.5,
          &problem4,
          &answer4,
          [](const LemmaQuestion& q) { return sampling_seconds(groups_of(q, 0, q.log_normal_sigma)); }};
}

}  // namespace fp4lab
