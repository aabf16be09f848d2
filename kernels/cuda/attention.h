// kernels/cuda/attention.h - kernels/cpu/attention.h on a GPU, with the CPU's bits: tiles of 64 queries and
// 64 keys, scores and weighted values as chains of fused multiply-adds over ascending channels and keys, sums
// of weights in 16 lanes, the same exp.
#pragma once
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// Causal softmax attention within each window of `length` rows; heads of up to 256 channels (ConfigError).
void attention(Gpu& gpu, MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
               int64_t head_dim, int64_t length, float scale, MatrixView<float> out);

/// That the shapes belong together.
void check_attention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
                     int64_t head_dim, int64_t length, MatrixView<float> out);

}  // namespace fp4lab::cuda
