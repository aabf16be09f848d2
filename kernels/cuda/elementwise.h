// kernels/cuda/elementwise.h - kernels/cpu/elementwise.h on a GPU, with the CPU's bits: the same operations
// in the same order, sums in the same 16 lanes, the same exp. Matrices and weights are in GPU memory, what is
// called host is the program's. Views may be strided. The sign and payload of a NaN are the machine's own.
#pragma once
#include <span>

#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// out = x / sqrt(mean(x^2) + eps) * weight over each run of weight.size() columns, which divides X.cols. out
/// may be X. Squares are summed in 16 lanes of double.
void rms_norm(Gpu& gpu, MatrixView<const float> X, std::span<const float> weight, float eps,
              MatrixView<float> out);

/// Rotary embedding in place: row t stands at position t % length; table (>= length, head_dim) has the
/// cosines of i < head_dim / 2, then the sines.
void rope(Gpu& gpu, MatrixView<float> X, int64_t head_dim, MatrixView<const float> table, int64_t length);

/// out (T, I) = silu(gate) * up for gate_up (T, 2 I): gates first, then ups.
void swiglu(Gpu& gpu, MatrixView<const float> gate_up, MatrixView<float> out);

/// Row-major index of the first NaN or Inf, or -1. Waits for the answer, as the next two do.
int64_t first_nonfinite(Gpu& gpu, MatrixView<const float> X);

/// Elements with |x| > limit.
int64_t count_above(Gpu& gpu, MatrixView<const float> X, float limit);

/// Per column, on the host: amax[c] = max(amax[c], |x|), sum_abs[c] += |x| in double over ascending rows. A
/// NaN shows in the sum alone.
void column_stats(Gpu& gpu, MatrixView<const float> X, std::span<float> amax, std::span<double> sum_abs);

}  // namespace fp4lab::cuda
