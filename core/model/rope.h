// core/model/rope.h - the angles of the rotary position embedding.
#pragma once
#include <span>
#include <vector>

#include "core/matrix.h"
#include "core/model/config.h"

namespace fp4lab {

/// Radians per position of each pair of channels (head_dim / 2), in float32 as transformers computes them.
std::vector<float> inverse_frequencies(const ModelConfig& config);
/// Cosines (columns < head_dim / 2) and sines of position * frequency, (positions, head_dim). The angle is
/// rounded to float32, then the cosine is taken.
Matrix rope_table(std::span<const float> frequencies, int64_t positions);
Matrix rope_table(const ModelConfig& config, int64_t positions);

}  // namespace fp4lab
