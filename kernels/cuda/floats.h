// kernels/cuda/floats.h - stored floats become float32 on the GPU.
#pragma once
#include "core/io/tensor_file.h"
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// to (rows, cols) = the bytes of an F32, F16 or BF16 tensor on the host; exact.
void upload_floats(Gpu& gpu, DType dtype, std::span<const std::byte> host, MatrixView<float> to);

}  // namespace fp4lab::cuda
