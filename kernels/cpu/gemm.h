// kernels/cpu/gemm.h - the matrix products whose bits depend on nothing but their inputs.
//   Every output is one chain of fused multiply-adds over ascending k (DESIGN.md, "Two machines, one
//   algorithm"): tiles, threads, batch and vector width change nothing (of a NaN: that
//   it is one; its sign and payload are not promised).
#pragma once
#include "core/matrix.h"

namespace fp4lab {

/// Y (M, N) = X (M, K) W (N, K)^T in float32: y = fma(x_k, w_k, y) for k = 0, 1, ..., K - 1 from y = 0, or
/// with `accumulate` from what Y holds (a residual stream). Views may be strided; Y overlaps neither X nor W.
void gemm(MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y, bool accumulate = false);

/// H (K, K) += X^T X for X (T, K): h_ij = fma(double(x_ti), double(x_tj), h_ij) for t = 0, 1, ..., T - 1, in
/// double. Only the upper triangle (j >= i) is read and written.
void syrk(MatrixView<const float> X, MatrixView<double> H);

/// D (K, N) += X^T Y for X (T, K) and Y (T, N), whole: d_ij = fma(double(x_ti), double(y_tj), d_ij) for
/// t = 0, 1, ..., T - 1, in double. X may be Y: the upper triangle then has syrk's bits.
void cross(MatrixView<const float> X, MatrixView<const float> Y, MatrixView<double> D);

}  // namespace fp4lab
