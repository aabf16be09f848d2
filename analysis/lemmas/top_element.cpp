// Lemma 1 and the two remarks: what a rotation does to the largest element of a group.
#include <bit>
#include <cmath>

#include "analysis/lemmas/lemmas.h"
#include "analysis/lemmas/sampling.h"
#include "core/errors.h"

namespace fp4lab {

namespace {

enum Moment { top_e2, top_ex, top_x2, e2, ey, y2, kMoments };

/// e = x^ - x at the largest element, and of the group's elements as the format sees them (a rotation keeps
/// sums of squares and products).
void top_moments(const GroupView& g, double* m) {
  const int64_t t = g.top();
  const double x = double(g.x[t]), e = double(g.x_hat[t]) - x;
  double ee = 0, cross = 0, yy = 0;
  for (int64_t j = 0; j < g.size; ++j) {
    const double y = double(g.y[j]), d = double(g.y_hat[j]) - y;
    ee += d * d, cross += d * y, yy += y * y;
  }
  const double n = double(g.size);
  m[top_e2] = e * e, m[top_ex] = e * x, m[top_x2] = x * x;
  m[e2] = ee / n, m[ey] = cross / n, m[y2] = yy / n;
}

GroupSample groups_of(const LemmaQuestion& q, bool rotated) {
  GroupSample s;
  s.source = {q.shape, q.seed, 0, 0};
  s.format = q.format, s.groups = q.groups;
  s.hadamard = rotated ? q.format.group_size : 0;
  return s;
}
double seconds_rotated(const LemmaQuestion& q) { return sampling_seconds(groups_of(q, true)); }
double drawn(const LemmaQuestion& q) { return double(q.groups) * double(q.format.group_size); }

std::string needs_hadamard(const LemmaQuestion& q) {
  if (std::has_single_bit(uint64_t(q.format.group_size))) return "";
  return str("the rotation is a Hadamard matrix of the group's size, a power of two; found ",
             q.format.group_size);
}
std::string never(const LemmaQuestion&) { return ""; }

double ratio(std::span<const double> m) { return m[top_e2] / m[e2]; }
double unbiased_ratio(std::span<const double> m) {
  const double a = m[ey] / m[y2];
  return (m[top_e2] - 2 * a * m[top_ex] + a * a * m[top_x2]) / (m[e2] - 2 * a * m[ey] + a * a * m[y2]);
}
double relative_ratio(std::span<const double> m) { return m[top_e2] / m[top_x2] / (m[e2] / m[y2]); }

void add_shrinkage(const MomentSums& sums, LemmaAnswer& a) {
  a.numbers.push_back({"shrinkage", sums.mean(ey) / sums.mean(y2), "1", "a = E[e y] / E[y^2], e = y^ - y"});
  a.numbers.push_back(
      {"shrinkage_top", sums.mean(top_ex) / sums.mean(top_x2), "1", "E[e_top x_top] / E[x_top^2]"});
}

/// What the proof assumes and this quantizer does not do.
std::string shrinkage_note(const LemmaQuestion& q, const MomentSums& sums, double deviation) {
  return str("holds to ", percent(std::fabs(deviation)),
             ": the proof takes the error independent of the value, but ", q.format.element.name,
             " changes the rotated value by a = ", percent(sums.mean(ey) / sums.mean(y2)),
             " of it, the top element by ", percent(sums.mean(top_ex) / sums.mean(top_x2)),
             "; with a removed the ratio is ", unbiased_ratio(sums.means()));
}
std::string undecided_note(const LemmaAnswer& a) {
  return str("off by ", percent(a.interval.estimate / a.prediction - 1), ", and the interval, +-",
             percent((a.interval.high - a.interval.low) / 2 / a.prediction),
             ", crosses an end of the tolerance, +-", percent(a.tolerance / a.prediction));
}

LemmaAnswer answer_lemma1(const LemmaQuestion& q, const BetweenChunks& between) {
  const MomentSums sums = sample_groups(groups_of(q, true), kMoments, &top_moments, between);
  LemmaAnswer a = judged(q, interval_of(delta_method(sums, &ratio), q.confidence), 1, 0.005);
  a.samples = drawn(q);
  a.statement =
      "Lemma 1: under a Hadamard rotation of the group's size the largest element's error is the average "
      "one, "
      "E e_top^2 / E e^2 = 1.";
  add_shrinkage(sums, a);
  a.numbers.push_back({"mse_rel_tensor", sums.mean(e2) / sums.mean(y2), "1", "E e^2 / E x^2"});
  if (a.verdict == Verdict::differs) a.note = shrinkage_note(q, sums, a.interval.estimate - 1);
  if (a.verdict == Verdict::undecided) a.note = undecided_note(a);
  return a;
}

LemmaAnswer answer_unbiased(const LemmaQuestion& q, const BetweenChunks& between) {
  const MomentSums sums = sample_groups(groups_of(q, true), kMoments, &top_moments, between);
  LemmaAnswer a = judged(q, interval_of(delta_method(sums, &unbiased_ratio), q.confidence), 1, 0.005);
  a.samples = drawn(q);
  a.statement =
      "Lemma 1 without the shrinkage a = E[e y] / E[y^2] of the rotated value: E (e_top - a x_top)^2 / "
      "E (e - a y)^2 = 1.";
  add_shrinkage(sums, a);
  if (a.verdict == Verdict::differs)
    a.note = str("holds to ", percent(std::fabs(a.interval.estimate - 1)),
                 ": what is left of the error still depends on the value");
  if (a.verdict == Verdict::undecided) a.note = undecided_note(a);
  return a;
}

LemmaAnswer answer_remark1(const LemmaQuestion& q, const BetweenChunks& between) {
  const MomentSums sums = sample_groups(groups_of(q, true), kMoments, &top_moments, between);
  const double prediction =
      second_moment(q.shape) / mean_largest_square(q.shape, std::log(double(q.format.group_size)));
  LemmaAnswer a = judged(q, interval_of(delta_method(sums, &relative_ratio), q.confidence), prediction,
                         0.005 * prediction);
  a.samples = drawn(q);
  a.statement =
      "Remark 1, as Lemma 1 implies it: rotated, the largest element's relative error is the average one "
      "divided "
      "by its share of the energy, (E e_top^2 / E x_top^2) / (E e^2 / E x^2) = E x^2 / E max_j x_j^2.";
  add_shrinkage(sums, a);
  a.numbers.push_back(
      {"mse_top_rel_of_means", sums.mean(top_e2) / sums.mean(top_x2), "1", "E e_top^2 / E x_top^2"});
  a.numbers.push_back({"mse_rel_tensor", sums.mean(e2) / sums.mean(y2), "1", "E e^2 / E x^2"});
  if (a.verdict == Verdict::differs) a.note = shrinkage_note(q, sums, a.interval.estimate / prediction - 1);
  if (a.verdict == Verdict::undecided) a.note = undecided_note(a);
  return a;
}

/// (e / x)^2 and |e| in ulps of x, at the largest element.
void exact_moments(const GroupView& g, double* m) {
  const int64_t t = g.top();
  const float x = std::fabs(g.x[t]), e = std::fabs(g.x_hat[t] - g.x[t]);
  const double relative = x > 0 ? double(e) / double(x) : 0;
  m[0] = relative * relative;
  m[1] = double(e) / double(std::nextafter(x, 3.4e38f) - x);
}

LemmaAnswer answer_remark2(const LemmaQuestion& q, const BetweenChunks& between) {
  const MomentSums sums = sample_groups(groups_of(q, false), 2, &exact_moments, between);
  const Estimated e = delta_method(sums, [](std::span<const double> m) { return m[0]; });
  LemmaAnswer a = judged(q, interval_of(e, q.confidence), 0, 0x1p-46);
  a.samples = drawn(q);
  a.statement =
      "Remark 2: without a rotation the largest element is kept, E (e_top / x_top)^2 = 0 (to one ulp of "
      "float32, "
      "2^-46).";
  a.numbers.push_back({"largest_ulps", sums.largest(1), "ulp", "max over groups of |e_top| / ulp(x_top)"});
  if (a.verdict != Verdict::holds)
    a.note = str("an ", q.format.scale.name,
                 " scale is rounded, and leaves the largest element a relative error of ",
                 percent(std::sqrt(e.value)), " (root mean square)",
                 group_error_problem(q.format).empty() && !GroupError(q.format).exact_scale()
                     ? str("; Lemma 4's limit is ", percent(std::sqrt(GroupError(q.format).top())))
                     : std::string());
  return a;
}

const std::vector<std::string_view> kKeys = {"group_size", "distribution", "blocks", "seed", "confidence"};

}  // namespace

LemmaEntry lemma1() {
  return {"lemma1",        "rotated: E e_top^2 / E e^2 = 1", kKeys, 0, &needs_hadamard, &answer_lemma1,
          &seconds_rotated};
}
LemmaEntry lemma1_unbiased() {
  return {"lemma1_unbiased",
          "Lemma 1 with the quantizer's shrinkage removed",
          kKeys,
          0,
          &needs_hadamard,
          &answer_unbiased,
          &seconds_rotated};
}
LemmaEntry remark1() {
  return {"remark1",       "rotated: the top element's relative error against the average one",
          kKeys,           0,
          &needs_hadamard, &answer_remark1,
          &seconds_rotated};
}
LemmaEntry remark2() {
  return {"remark2",
          "not rotated: the top element has no error",
          kKeys,
          0,
          &never,
          &answer_remark2,
          [](const LemmaQuestion& q) { return sampling_seconds(groups_of(q, false)); }};
}

}  // namespace fp4lab
