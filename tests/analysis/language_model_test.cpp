#include "analysis/language_model.h"

#include <cmath>

#include "core/random.h"
#include "kernels/cpu/elementwise.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

/// Scores of tokens with these logits, in one tile.
std::vector<TokenScores> scores_of(const Matrix& full, const Matrix& quantized,
                                   const std::vector<int32_t>& labels) {
  std::vector<TokenScores> scores(size_t(full.rows()));
  update_scores(full, quantized, 0, labels, scores);
  return scores;
}

}  // namespace

TEST_CASE("language model: two tokens of three words by hand", "[analysis]") {
  // p = (1/2, 1/4, 1/4), (1/4, 1/2, 1/4); p' = (1/4, 1/2, 1/4) twice. The last token predicts nothing.
  Matrix full(3, 3), quantized(3, 3);
  const float l2 = float(std::log(2.0)), f[] = {l2, 0, 0, 0, l2, 0, 9, 9, 9},
              q[] = {0, l2, 0, 0, l2, 0, -9, 0, 9};
  std::copy_n(f, 9, full.data());
  std::copy_n(q, 9, quantized.data());
  const std::vector<TokenScores> scores = scores_of(full, quantized, {0, 2, -1});
  const CorpusScore s = score_corpus(scores, 3, true);
  // -log p: log 2, log 4; quantized log 4, log 4. KL: (1/2) log 2 + (1/4) log(1/2) = (1/4) log 2; 0.
  CHECK(s.perplexity_full == Approx(std::sqrt(8.0)).epsilon(1e-6));
  CHECK(s.perplexity == Approx(4.0).epsilon(1e-6));
  CHECK(s.recovery_percent == Approx(100 * std::sqrt(8.0) / 4).epsilon(1e-6));
  CHECK(s.kl == Approx(0.125 * std::log(2.0)).epsilon(1e-6));
  CHECK(s.kl_p99 == Approx(0.25 * std::log(2.0)).epsilon(1e-6));
  CHECK(s.top1_agreement == 0.5);
  CHECK(s.windows.size() == 1);
  CHECK(std::isnan(s.perplexity_se));
  CHECK(std::isnan(s.kl_se));
}

TEST_CASE("language model: errors come from the spread of windows", "[analysis]") {
  // Two windows of one prediction each: -log p = log 2 and log 4.
  Matrix full(4, 2), same(4, 2);
  const float l3 = float(std::log(3.0)), f[] = {0, 0, 0, 0, l3, 0, 0, 0};
  std::copy_n(f, 8, full.data());
  std::copy_n(f, 8, same.data());
  const std::vector<TokenScores> scores = scores_of(full, same, {0, -1, 1, -1});
  const CorpusScore s = score_corpus(scores, 2, true);
  const double mean = 1.5 * std::log(2.0), sd = std::log(2.0) / std::sqrt(2.0);  // of the two
  CHECK(s.perplexity == Approx(std::exp(mean)).epsilon(1e-6));
  CHECK(s.perplexity_se == Approx(std::exp(mean) * sd / std::sqrt(2.0)).epsilon(1e-6));
  CHECK(s.kl == 0);  // equal logits: exactly
  CHECK(s.kl_p99 == 0);
  CHECK(s.top1_agreement == 1);
  CHECK(s.recovery_percent == 100);
  CHECK(s.windows[1].nll == Approx(std::log(4.0)).epsilon(1e-6));
}

TEST_CASE("language model: the 99th percentile is the nearest rank", "[analysis]") {
  // 200 tokens whose KL is 0 but for 3 of them: rank ceil(.99 * 200) = 198 is the smallest of the three.
  Matrix full(201, 2), quantized(201, 2);
  std::vector<int32_t> labels(201, 0);
  labels.back() = -1;
  for (int64_t t = 0; t < 201; ++t) {
    full(t, 0) = quantized(t, 0) = 1, full(t, 1) = quantized(t, 1) = 0;
    if (t >= 50 && t < 53) quantized(t, 0) = float(t - 48);  // 2, 3, 4
  }
  const CorpusScore s = score_corpus(scores_of(full, quantized, labels), 201, true);
  const auto kl = [](double a) {  // between logits (1, 0) and (a, 0)
    const double p = std::exp(1.0) / (std::exp(1.0) + 1);
    return p * (1 - a) - std::log(std::exp(1.0) + 1) + std::log(std::exp(a) + 1);
  };
  CHECK(s.kl_p99 == Approx(kl(2)).epsilon(1e-5));
  CHECK(s.kl == Approx((kl(2) + kl(3) + kl(4)) / 200).epsilon(1e-5));
}

TEST_CASE("language model: one model alone", "[analysis]") {
  Matrix full(2, 2);
  full(0, 0) = full(0, 1) = full(1, 0) = full(1, 1) = 3;
  std::vector<TokenScores> scores(2);
  const std::vector<int32_t> labels = {1, -1};
  update_scores(full, {}, 0, labels, scores);
  const CorpusScore s = score_corpus(scores, 2, false);
  CHECK(s.perplexity == Approx(2.0));
  CHECK(s.perplexity == s.perplexity_full);
  CHECK(s.kl == 0);
  CHECK(s.top1_agreement == 1);
}
