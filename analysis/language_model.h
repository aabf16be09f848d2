// analysis/language_model.h - from token scores to what a quantized language model is judged by: SPEC section
// 7, "Model".
#pragma once
#include <span>
#include <vector>

#include "kernels/token_scores.h"

namespace fp4lab {

/// Negative log-likelihood of the token that follows, in nats.
double negative_log_likelihood(const LogitSums& s);
/// KL(full || quantized) of the next token's distribution, in nats; exactly 0 for equal logits, elsewhere
/// true to about 1e-7 (a small one may come out below 0 by that much).
double kl_divergence(const TokenScores& s);

/// One window: means over its predictions (length - 1 of them: the last token has no successor).
struct WindowScore {
  double nll_full, nll, kl, top1_agreement;
};

struct CorpusScore {
  std::vector<WindowScore> windows;
  double perplexity_full, perplexity;  // exp of the mean over all predictions
  double perplexity_se;                // from the spread of the window means: perplexity * sd / sqrt(windows)
  double kl, kl_se, kl_p99;            // mean, its error, and the 99th percentile over tokens (nearest rank)
  double top1_agreement, top1_agreement_se;
  double recovery_percent;  // 100 perplexity_full / perplexity
};

/// Scores of (windows, length) tokens, row-major; the last of each window is not a prediction. Errors are NaN
/// for a single window. With `quantized` false only perplexity_full and its window values are measured, and
/// they stand for both models.
CorpusScore score_corpus(std::span<const TokenScores> scores, int64_t length, bool quantized);

}  // namespace fp4lab
