// kernels/cuda/gptq.h - the loop of methods/rounding/gptq.cpp on a GPU, for scales chosen up front.
//   Panels of 128 columns: one warp rounds a row's panel column by column; then a product takes the panel's
//   errors to all later columns. Every correction is one chain of fused multiply-adds over ascending columns,
//   as on the CPU: from the same factor and scales come the same codes.
#pragma once
#include "kernels/cuda/hessian_factor.h"
#include "kernels/cuda/quantize.h"

namespace fp4lab::cuda {

struct GptqCodes {
  DeviceQuantized q;
  double loss = 0;  // tr((W - Q) H (W - Q)^T), undamped H; rows are summed in another order than on the CPU
};

/// W (N, K) on the GPU. `scales`: those of W with its dead channels at 0 (choose_scales), used up.
GptqCodes gptq(Gpu& gpu, MatrixView<const float> W, const DeviceFactor& factor, DeviceQuantized scales);

/// W with the factor's dead channels at 0. DataError for a NaN or Inf anywhere in W.
GpuArray<float> without_dead(Gpu& gpu, MatrixView<const float> W, const DeviceFactor& factor);

}  // namespace fp4lab::cuda
