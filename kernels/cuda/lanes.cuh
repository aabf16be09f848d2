// kernels/cuda/lanes.cuh - the CPU's 16 lanes on a GPU: 16 neighbouring threads of a warp, each one lane of a
// sum.
#pragma once
#include <cuda_runtime.h>

#include "core/portable.h"

namespace fp4lab {

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return fma(a, b, c); }

}  // namespace fp4lab

#include "kernels/exp.h"

namespace fp4lab::cuda {

inline constexpr int kLanes = 16;

/// The threads of this thread's 16.
__device__ __forceinline__ unsigned half_warp() { return 0xffffu << (threadIdx.x & 16); }

/// The sum of 16 lanes by halves 8, 4, 2, 1, in every one of them. An addition does not depend on the order
/// of its two operands, so that each of the threads forms the CPU's sum.
template <class T>
__device__ __forceinline__ T add_lanes(T v, unsigned threads) {
#pragma unroll
  for (int half = 8; half >= 1; half /= 2) v += __shfl_xor_sync(threads, v, half, 16);
  return v;
}

__device__ __forceinline__ float magnitude(float x) { return bits_float(float_bits(x) & 0x7fffffffu); }

}  // namespace fp4lab::cuda
