// kernels/cpu/dense_product.h - small products whose bits depend on nothing but their inputs: what a dense
// block of a LinearMap costs. gemm.h packs both operands and is made for large ones; here A is read where it
// lies, so that a block of 16 channels is worth the call.
#pragma once
#include "core/matrix.h"

namespace fp4lab {

/// Y (M, N) = A (M, K) B (K, N): y = fma(a_k, b_k, y) for k = 0, 1, ..., K - 1 from y = 0. Views may be
/// strided; Y overlaps neither A nor B. One thread.
void dense_product(MatrixView<const float> A, MatrixView<const float> B, MatrixView<float> Y);
void dense_product(MatrixView<const double> A, MatrixView<const double> B, MatrixView<double> Y);

}  // namespace fp4lab
