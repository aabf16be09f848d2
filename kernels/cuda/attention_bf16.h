// kernels/cuda/attention_bf16.h - attention for "compute": "bfloat16": queries, keys, values and weights
// rounded to bf16, products on tensor cores with float32 sums. Not the CPU's bits; an output is off by at
// most about 2^-6 of the largest value that it averages (three roundings to 8 bits, one of them in the
// exponent).
#pragma once
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// kernels/cuda/attention.h; heads of more than 128 channels, or not of a multiple of 8, are computed in
/// float32.
void attention_bf16(Gpu& gpu, MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
                    int64_t head_dim, int64_t length, float scale, MatrixView<float> out);

}  // namespace fp4lab::cuda
