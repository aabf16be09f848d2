// kernels/cuda/eight.cuh - eight neighbouring floats of a row in one thread, for kernels that stream.
#pragma once
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// Whether rows begin at multiples of 16 bytes and hold whole pairs of eights.
inline bool in_eights(MatrixView<const float> X) {
  return X.cols % 16 == 0 && (X.stride % 4 == 0 || X.rows == 1) &&
         reinterpret_cast<uintptr_t>(X.data) % 16 == 0;
}

struct Eight {
  float x[8];
};

/// `from` is 16-byte aligned. The second load finds its sectors in the first-level cache.
__device__ __forceinline__ Eight load_eight(const float* from) {
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

/// Called by all threads of a warp; those not `inside` write nothing. Threads 2i and 2i + 1 hold neighbouring
/// eights of a row. They swap halves, so that each store fills whole sectors of 32 bytes:
///   thread 2i:     [own 0..3]  [other's 0..3]
///   thread 2i + 1: [other's 4..7]  [own 4..7]
__device__ __forceinline__ void store_eight(float* to, const Eight& v, bool inside) {
  const bool odd = threadIdx.x % 2;
  float4 got;
  got.x = __shfl_xor_sync(~0u, odd ? v.x[0] : v.x[4], 1);
  got.y = __shfl_xor_sync(~0u, odd ? v.x[1] : v.x[5], 1);
  got.z = __shfl_xor_sync(~0u, odd ? v.x[2] : v.x[6], 1);
  got.w = __shfl_xor_sync(~0u, odd ? v.x[3] : v.x[7], 1);
  if (!inside) return;
  float4* const at = reinterpret_cast<float4*>(odd ? to - 4 : to);
  at[0] = odd ? got : float4{v.x[0], v.x[1], v.x[2], v.x[3]};
  at[2] = odd ? float4{v.x[4], v.x[5], v.x[6], v.x[7]} : got;
}

}  // namespace fp4lab::cuda
