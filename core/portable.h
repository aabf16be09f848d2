// core/portable.h - what lets one codec serve a scalar loop, a vector loop and a GPU thread.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define FP4LAB_HD __host__ __device__ __forceinline__
#else
// Always inlined: the row kernels are compiled once per instruction set, and a shared out-of-line copy of a
// helper could come from the wrong one.
#define FP4LAB_HD inline __attribute__((always_inline))
#endif

namespace fp4lab {

/// What a codec needs to know of its lane type F: a float, or in the CPU's row kernels a vector of floats.
/// Codecs are templates on F and use only arithmetic, comparisons, `mask ? a : b`, and these. All operations
/// are lane by lane.
template <class F>
struct Lanes;

template <>
struct Lanes<float> {
  using Bits = uint32_t;
  FP4LAB_HD static constexpr Bits bits(float x) { return __builtin_bit_cast(uint32_t, x); }
  FP4LAB_HD static constexpr float value(Bits b) { return __builtin_bit_cast(float, b); }
  FP4LAB_HD static constexpr float all(float x) { return x; }
  FP4LAB_HD static constexpr Bits all_bits(uint32_t b) { return b; }
  /// The integer as a float; b is a two's complement int32.
  FP4LAB_HD static constexpr float from_int(Bits b) { return float(int32_t(b)); }
};

/// The 32 bits of x, and the float with these 32 bits.
FP4LAB_HD constexpr uint32_t float_bits(float x) { return Lanes<float>::bits(x); }
FP4LAB_HD constexpr float bits_float(uint32_t b) { return Lanes<float>::value(b); }

}  // namespace fp4lab
