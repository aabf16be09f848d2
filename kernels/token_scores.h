// kernels/token_scores.h - what perplexity, KL and agreement need of one token's logits, gathered over tiles
// of the vocabulary, so that no run holds all logits of a model with 128 k entries.
#pragma once
#include <cstdint>
#include <limits>

namespace fp4lab {

/// One model's logits l of one token.
struct LogitSums {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0;     // of exp(l - max)
  float label = 0;    // l of the token that follows
  int32_t best = -1;  // argmax, the first on ties
};

struct TokenScores {
  LogitSums full, quantized;
  double cross = 0;  // sum of exp(l_full - max_full) (l_full - l_quantized)
};

}  // namespace fp4lab
