// kernels/cpu/elementwise.h - the operations between the products. Every row's bits depend on that row alone:
// not on threads, batch or vector width (sums run in 16 fixed lanes; exp is ours, not the math library's).
#pragma once
#include <span>

#include "core/matrix.h"
#include "kernels/token_scores.h"

namespace fp4lab {

/// out = x / sqrt(mean(x^2) + eps) * weight over each run of weight.size() columns: a whole row for a layer
/// norm, one head for the q and k norms of Qwen3. X.cols is a multiple of weight.size(). out may be X.
void rms_norm(MatrixView<const float> X, std::span<const float> weight, float eps, MatrixView<float> out);

/// Rotary embedding in place: row t stands at position t % length; in each head of head_dim channels,
/// (a, b) = (x[i], x[i + d/2]) becomes (a cos - b sin, b cos + a sin). table (>= length, head_dim): cosines
/// of i < d/2, then sines.
void rope(MatrixView<float> X, int64_t head_dim, MatrixView<const float> table, int64_t length);

/// out (T, I) = silu(gate) * up for gate_up (T, 2 I): gates first, then ups. silu(x) = x / (1 + exp(-x)).
void swiglu(MatrixView<const float> gate_up, MatrixView<float> out);

/// Row-major index of the first NaN or Inf, or -1.
int64_t first_nonfinite(MatrixView<const float> X);

/// Per column: amax[c] = max(amax[c], |x|), sum_abs[c] += |x| in double over ascending rows. A NaN
/// shows in the sum alone.
void column_stats(MatrixView<const float> X, std::span<float> amax, std::span<double> sum_abs);

/// Takes one tile of logits, the vocabulary entries [first, first + full.cols), into the tokens' scores;
/// tiles come in ascending order. `quantized` is empty (no data) when there is one model only. labels[t] is
/// the id that follows token t, or -1. A tile's sums are formed in fixed lanes in double. Logits of -inf add
/// nothing; a NaN shows in the sum; cross is Inf where the quantized model alone rules an entry out.
void update_scores(MatrixView<const float> full, MatrixView<const float> quantized, int64_t first,
                   std::span<const int32_t> labels, std::span<TokenScores> scores);

}  // namespace fp4lab
