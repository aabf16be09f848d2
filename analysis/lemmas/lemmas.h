// analysis/lemmas/lemmas.h - the lemmas and remarks of arXiv 2509.23202 as experiments: each question about
// one of them gets an estimate with its interval, the prediction, how far apart they may be, and a verdict.
#pragma once
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/lemmas/interval.h"
#include "analysis/lemmas/maxima.h"
#include "formats/format.h"

namespace fp4lab {

/// Which energy Lemma 2's rate is about.
enum class Energy {
  retained,          // R(G) = 1 - MSE(G) under nearest rounding
  outside_dead_zone  // E[x^2; |x| > delta m] / E x^2: what the paper's proof counts
};
/// Whose exponents it is compared with.
enum class Form { paper, derived };
/// Which exponent: R = C (log G)^p G^-kappa.
enum class Exponent { group_size, log_group_size };

/// A lemma reads some of these (LemmaEntry::reads).
struct LemmaQuestion {
  FormatSpec format{kE2M1, 16, kFP32};  // its group size is the lemma's G
  Shape shape = Shape::normal;
  int64_t groups = 1;   // independent groups drawn
  int64_t samples = 1;  // elements drawn (rounded up to whole groups)
  uint64_t seed = 1;
  double confidence = 0.99;
  double tolerance = std::numeric_limits<double>::quiet_NaN();  // absolute half-width; NaN: the lemma's own
  double log_normal_sigma = 0;
  double outlier_share = 1e-3;
  int64_t hadamard = 0;
  double log_group_size = 1e6;
  Energy energy = Energy::retained;
  Form form = Form::derived;
  Exponent exponent = Exponent::log_group_size;
};

struct LemmaAnswer {
  Interval interval;
  double prediction, tolerance;
  Verdict verdict;
  double samples;         // elements drawn; 0 for quadrature
  std::string statement;  // what is compared, one sentence
  std::string note;       // how far off and why, "" when the verdict is "holds" and nothing is to be said
  struct Number {
    std::string name;
    double value;
    std::string units, equation;
  };
  std::vector<Number> numbers;
  struct Curve {
    std::string name;
    std::vector<double> values;
    std::string units, equation;
  };
  std::vector<Curve> curves;
};

using BetweenChunks = std::function<void()>;  // may throw

struct LemmaEntry {
  std::string_view name, description;
  std::vector<std::string_view> reads;  // keys of a cell beyond lemma, format and tolerance
  double log_normal_sigma;              // its default
  /// Why the question cannot be asked, or "".
  std::string (*problem)(const LemmaQuestion& q);
  LemmaAnswer (*answer)(const LemmaQuestion& q, const BetweenChunks& between);
  double (*seconds)(const LemmaQuestion& q);  // on one core
};
/// Every lemma and remark, in the paper's order.
const std::vector<LemmaEntry>& lemmas();
const LemmaEntry* find_lemma(std::string_view name);
std::vector<std::string> lemma_names();

// The rows of the list.
LemmaEntry lemma1();
LemmaEntry lemma1_unbiased();
LemmaEntry remark1();
LemmaEntry remark2();
LemmaEntry lemma2_value();
LemmaEntry lemma2_rate();
LemmaEntry lemma2_crossover();
LemmaEntry lemma3();
LemmaEntry lemma4();

/// The verdict of interval, prediction and tolerance (the question's, or the lemma's own `tolerance`).
LemmaAnswer judged(const LemmaQuestion& q, const Interval& interval, double prediction, double tolerance);

/// Lemma 2: R = C (log G)^log_power G^-group_power.
struct Rate {
  double group_power, log_power;
};
/// The exponents of a form; group_power is the same in both.
Rate predicted_rate(double delta, Shape shape, Energy energy, Form form);

/// Each exponent by least squares over nine log G from L/4 to L, the other one as expected: log G and
/// log log G are so alike there that fitting both at once magnifies what is left of 1 / log G tenfold.
struct RateFit : Rate {
  std::vector<double> log_group_size, log_energy;
};
RateFit fit_rate(const std::function<double(double)>& log_energy, double log_group_size,
                 const Rate& expected);

/// "1.2 %": three significant digits at most.
std::string percent(double ratio);

}  // namespace fp4lab
