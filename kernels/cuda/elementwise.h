// kernels/cuda/elementwise.h - kernels/cpu/elementwise.h on a GPU, with the CPU's bits: the same operations
// in the same order, sums in the same 16 lanes, the same exp. Matrices and weights are in GPU memory.
#pragma once
#include <span>

#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

void rms_norm(Gpu& gpu, MatrixView<const float> X, std::span<const float> weight, float eps,
              MatrixView<float> out);
void rope(Gpu& gpu, MatrixView<float> X, int64_t head_dim, MatrixView<const float> table, int64_t length);
void swiglu(Gpu& gpu, MatrixView<const float> gate_up, MatrixView<float> out);
/// Waits for the answer, as the next two do.
int64_t first_nonfinite(Gpu& gpu, MatrixView<const float> X);
/// Elements with |x| > limit.
int64_t count_above(Gpu& gpu, MatrixView<const float> X, float limit);
/// amax and sum_abs are the host's.
void column_stats(Gpu& gpu, MatrixView<const float> X, std::span<float> amax, std::span<double> sum_abs);

}  // namespace fp4lab::cuda
