// core/portable.h - the two words that let one function run on the CPU and in a kernel.
#pragma once

#if defined(__CUDACC__)
#define FP4LAB_HD __host__ __device__ __forceinline__
#else
// Always inlined: the row kernels are compiled once per instruction set, and a shared out-of-line copy
// of a helper could come from the wrong one.
#define FP4LAB_HD inline __attribute__((always_inline))
#endif

#include <bit>
#include <cstdint>
#if !defined(__CUDA_ARCH__)
#include <cstring>
#endif

namespace fp4lab {

/// The 32 bits of x. (std::bit_cast is constexpr host code only under nvcc.)
FP4LAB_HD constexpr uint32_t float_bits(float x) { return __builtin_bit_cast(uint32_t, x); }
/// The float with these 32 bits.
FP4LAB_HD constexpr float bits_float(uint32_t b) { return __builtin_bit_cast(float, b); }

}  // namespace fp4lab
