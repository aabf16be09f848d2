#include "analysis/language_model.h"

#include <algorithm>
#include <cmath>

#include "core/errors.h"

namespace fp4lab {

namespace {

double log_sum(const LogitSums& s) { return double(s.max) + std::log(s.sum); }

/// Standard error of the mean of `values`.
template <class Value>
double standard_error(const std::vector<WindowScore>& windows, double mean, const Value& value) {
  double squares = 0;
  for (const WindowScore& w : windows) squares += (value(w) - mean) * (value(w) - mean);
  const auto n = double(windows.size());
  return n < 2 ? std::nan("") : std::sqrt(squares / (n - 1) / n);
}

}  // namespace

double negative_log_likelihood(const LogitSums& s) { return log_sum(s) - double(s.label); }

double kl_divergence(const TokenScores& s) {
  // sum p (l - l') - (Z - Z'), p = exp(l - Z).
  return s.cross / s.full.sum - (log_sum(s.full) - log_sum(s.quantized));
}

CorpusScore score_corpus(std::span<const TokenScores> scores, int64_t length, bool quantized) {
  FP4LAB_CHECK(length >= 2 && !scores.empty() && int64_t(scores.size()) % length == 0, scores.size(), " ",
               length);
  CorpusScore out{};
  const int64_t predictions = length - 1;
  std::vector<double> token_kl;
  WindowScore sum{};
  for (size_t begin = 0; begin < scores.size(); begin += size_t(length)) {
    WindowScore w{};
    for (const TokenScores& s : scores.subspan(begin, size_t(predictions))) {
      w.nll_full += negative_log_likelihood(s.full);
      if (!quantized) continue;
      w.nll += negative_log_likelihood(s.quantized);
      token_kl.push_back(kl_divergence(s));
      w.kl += token_kl.back();
      w.top1_agreement += s.full.best == s.quantized.best ? 1 : 0;
    }
    if (!quantized) w.nll = w.nll_full, w.top1_agreement = double(predictions);
    for (double* v : {&w.nll_full, &w.nll, &w.kl, &w.top1_agreement}) *v /= double(predictions);
    sum.nll_full += w.nll_full, sum.nll += w.nll, sum.kl += w.kl, sum.top1_agreement += w.top1_agreement;
    out.windows.push_back(w);
  }
  // Windows are of equal length, so the mean of their means is the mean over all predictions.
  const auto n = double(out.windows.size());
  const double nll = sum.nll / n;
  out.perplexity_full = std::exp(sum.nll_full / n);
  out.perplexity = std::exp(nll);
  out.perplexity_se =
      out.perplexity * standard_error(out.windows, nll, [](const WindowScore& w) { return w.nll; });
  out.kl = sum.kl / n;
  out.kl_se = standard_error(out.windows, out.kl, [](const WindowScore& w) { return w.kl; });
  out.top1_agreement = sum.top1_agreement / n;
  out.top1_agreement_se =
      standard_error(out.windows, out.top1_agreement, [](const WindowScore& w) { return w.top1_agreement; });
  if (!token_kl.empty()) {
    const auto rank = size_t(std::ceil(0.99 * double(token_kl.size()))) - 1;
    std::nth_element(token_kl.begin(), token_kl.begin() + int64_t(rank), token_kl.end());
    out.kl_p99 = token_kl[rank];
  }
  out.recovery_percent = 100 * out.perplexity_full / out.perplexity;
  return out;
}

}  // namespace fp4lab
