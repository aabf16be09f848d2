#include "kernels/cuda/bf16_matrix.h"

#include <algorithm>

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kAlign = 16;  // elements: fast kernels read 16 bytes at a time

/// A row per block and turn; 4 elements per thread. `vectors`: rows begin at 16 bytes.
__global__ void round_kernel(MatrixView<const float> from, __nv_bfloat16* to, int64_t stride, bool vectors) {
  for (int64_t r = blockIdx.y; r < from.rows; r += gridDim.y) {
    const float* const x = from.row(r);
    for (int64_t c = 4 * (int64_t(blockIdx.x) * blockDim.x + threadIdx.x); c < stride;
         c += 4 * int64_t(gridDim.x) * blockDim.x) {
      float v[4] = {};
      if (vectors && c + 4 <= from.cols) {
        *reinterpret_cast<float4*>(v) = *reinterpret_cast<const float4*>(x + c);
      } else {
        for (int i = 0; i < 4; ++i)
          if (c + i < from.cols) v[i] = x[c + i];
      }
      const __nv_bfloat162 low = __floats2bfloat162_rn(v[0], v[1]), high = __floats2bfloat162_rn(v[2], v[3]);
      uint2 packed;
      packed.x = *reinterpret_cast<const uint32_t*>(&low),
      packed.y = *reinterpret_cast<const uint32_t*>(&high);
      *reinterpret_cast<uint2*>(to + r * stride + c) = packed;
    }
  }
}

}  // namespace

Bf16Matrix to_bf16(Gpu& gpu, MatrixView<const float> X) {
  const int64_t stride = (X.cols + kAlign - 1) / kAlign * kAlign;
  Bf16Matrix out{gpu.allocate<__nv_bfloat16>(X.rows * stride), X.rows, X.cols, stride};
  if (X.rows == 0) return out;
  const dim3 grid(blocks_for(stride / 4, kThreads, 64), unsigned(std::min<int64_t>(X.rows, 65535)));
  round_kernel<<<grid, kThreads, 0, gpu.stream()>>>(X, out.data.data(), stride,
                                                    X.stride % 4 == 0 && uintptr_t(X.data) % 16 == 0);
  FP4LAB_CUDA_LAUNCHED("rounding ", X.rows, " x ", X.cols, " to bf16");
  return out;
}

}  // namespace fp4lab::cuda
