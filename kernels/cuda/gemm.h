// kernels/cuda/gemm.h - kernels/cpu/gemm.h on a GPU, with the CPU's bits: every output is one chain of fused
// multiply-adds over ascending k, inside one thread. No split sums, no tensor cores.
#pragma once
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// Y (M, N) = X (M, K) W (N, K)^T in float32, with `accumulate` on from what Y holds. Views may be strided.
void gemm(Gpu& gpu, MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y,
          bool accumulate = false);

/// H (K, K) += X^T X in double, the upper triangle, for X (T, K): chains over ascending t.
void syrk(Gpu& gpu, MatrixView<const float> X, MatrixView<double> H);

/// D (K, N) += X^T Y in double, whole, for X (T, K) and Y (T, N).
void cross(Gpu& gpu, MatrixView<const float> X, MatrixView<const float> Y, MatrixView<double> D);

}  // namespace fp4lab::cuda
