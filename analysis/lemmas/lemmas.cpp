#include "analysis/lemmas/lemmas.h"

#include <cmath>

#include "core/errors.h"
#include "core/text.h"

namespace fp4lab {

const std::vector<LemmaEntry>& lemmas() {
  static const std::vector<LemmaEntry> all = {lemma1(),           lemma1_unbiased(), remark1(),
                                              remark2(),          lemma2_value(),    lemma2_rate(),
                                              lemma2_crossover(), lemma3(),          lemma4()};
  return all;
}
const LemmaEntry* find_lemma(std::string_view name) {
  for (const LemmaEntry& l : lemmas())
    if (l.name == name) return &l;
  return nullptr;
}
std::vector<std::string> lemma_names() { return names_of(lemmas()); }

LemmaAnswer judged(const LemmaQuestion& q, const Interval& interval, double prediction, double tolerance) {
  LemmaAnswer a{};
  a.interval = interval, a.prediction = prediction;
  a.tolerance = std::isnan(q.tolerance) ? tolerance : q.tolerance;
  a.verdict = judge(interval, prediction, a.tolerance);
  return a;
}

std::string percent(double ratio) {
  std::ostringstream out;
  out.precision(3);
  out << 100 * ratio << " %";
  return out.str();
}

}  // namespace fp4lab
