// kernels/cuda/scores.h - kernels/cpu/elementwise_scores.cpp on a GPU: maxima, places and sums of a tile's
// logits are found there in the CPU's 16 lanes; what joins tiles stays on the host, because its exp in double
// is the math library's.
#pragma once
#include <span>

#include "kernels/cuda/gpu.h"
#include "kernels/token_scores.h"

namespace fp4lab::cuda {

/// update_scores of kernels/cpu/elementwise.h. Logits are in GPU memory, labels and scores on the host.
void update_scores(Gpu& gpu, MatrixView<const float> full, MatrixView<const float> quantized, int64_t first,
                   std::span<const int32_t> labels, std::span<TokenScores> scores);

}  // namespace fp4lab::cuda
