// kernels/bench/eigen_gemm.h - Eigen's products, compiled for AVX-512: what `fp4lab bench gemm` is measured
// beside. Only on processors with AVX-512.
#pragma once
#include "core/matrix.h"

namespace fp4lab {

/// Y (M, N) = X (M, K) W (N, K)^T.
void eigen_gemm(MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y);
/// Upper triangle of H (K, K) += X^T X, for X (T, K) in double.
void eigen_syrk(MatrixView<const double> X, MatrixView<double> H);

}  // namespace fp4lab
