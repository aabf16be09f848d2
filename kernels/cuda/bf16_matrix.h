// kernels/cuda/bf16_matrix.h - a float32 matrix rounded to bf16 (nearest, ties to even) for tensor cores.
#pragma once
#include <cuda_bf16.h>

#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

struct Bf16Matrix {
  GpuArray<__nv_bfloat16> data;
  int64_t rows, cols, stride;  // stride: cols rounded up to 16, zeros in between
};
Bf16Matrix to_bf16(Gpu& gpu, MatrixView<const float> X);

}  // namespace fp4lab::cuda
