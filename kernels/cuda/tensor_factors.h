// kernels/cuda/tensor_factors.h - formats/tensor_factors.cpp on a GPU: what a format needs from the whole
// matrix before its groups can be coded.
#pragma once
#include <vector>

#include "formats/quantize.h"
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// s_T, one s_T per row, fitted a and b, or none; the CPU's numbers and errors.
std::vector<float> tensor_factors(Gpu& gpu, const FormatSpec& format, const WeightScales& search,
                                  MatrixView<const float> X);

/// Tensor scales of each `rows_per_factor` rows of a finite X, on the GPU; waits for nothing.
GpuArray<float> dynamic_scales(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X,
                               int64_t rows_per_factor);

/// DataError naming the first NaN or Inf of a row that has one.
[[noreturn]] void report_nonfinite(Gpu& gpu, MatrixView<const float> X, int64_t row);

}  // namespace fp4lab::cuda
