// kernels/cuda/attention.h - kernels/cpu/attention.h on a GPU, with the CPU's bits: tiles of 64 queries and
// 64 keys, scores and weighted values as chains of fused multiply-adds over ascending channels and keys, sums
// of weights in 16 lanes, the same exp, the running maximum moved at the same keys.
#pragma once
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// Causal softmax attention within each window of `length` consecutive rows, all in GPU memory:
///   out[t, h] = sum_s softmax_s(scale q[t, h] . k[s, h / (H / KV)]) v[s, h / (H / KV)], s <= t in the window
///   q     (T, H * head_dim), k, v (T, KV * head_dim): strided views, heads side by side; H a multiple of KV
///   out   (T, H * head_dim), overlaps none of them
/// ConfigError for heads of more than 256 channels. Fastest where rows and heads begin at multiples of 16
/// bytes.
void attention(Gpu& gpu, MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
               int64_t head_dim, int64_t length, float scale, MatrixView<float> out);

/// That the shapes belong together.
void check_attention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
                     int64_t head_dim, int64_t length, MatrixView<float> out);

}  // namespace fp4lab::cuda
