// kernels/cuda/hadamard_runs.h - kernels/cpu/hadamard_blocks.h on a GPU: Hadamard rotations of power-of-two
// size by butterflies. Which thread makes an addition, and how many stages it makes between two looks at
// memory, does not show in the bits.
#pragma once
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// Each run of k * stride channels of X's rows, in place: H_k kron I_stride / sqrt(k), k a power of two;
/// k * stride divides X.cols. `before` and `after` (X.cols) are signs multiplied before the stages and after
/// the factor, or null. T is float or double.
template <class T>
void hadamard_runs(Gpu& gpu, MatrixView<T> X, int64_t k, int64_t stride, const float* before,
                   const float* after);

}  // namespace fp4lab::cuda
