// kernels/cuda/products_bf16.h - products for "compute": "bfloat16": operands rounded to bf16 (nearest, ties
// to even), sums in float32 by cuBLASLt. Not the CPU's bits: |error| of an output is at most about 2^-8 sum
// |x_k w_k| from the roundings of both operands, and K 2^-24 of the same sum from the float32 sums.
#pragma once
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// Y (M, N) = X (M, K) W (N, K)^T, or added to what Y holds. Y's rows may be strided.
void gemm_bf16(Gpu& gpu, MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y,
               bool accumulate);

/// H (K, K) += X^T X, upper triangle: float32 sums over these rows, added in double.
void syrk_bf16(Gpu& gpu, MatrixView<const float> X, MatrixView<double> H);

}  // namespace fp4lab::cuda
