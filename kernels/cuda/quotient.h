// kernels/cuda/quotient.h - division of many floats by one, with the bits of `/`.
#pragma once
#include <cmath>

#include "core/portable.h"

namespace fp4lab::cuda {

/// x / s by five operations, where a GPU's division takes ten and a branch.
///   r = 1/s rounded to nearest; q = x r is within 2 ulp of the quotient; a correction by the remainder
///   x - q s leaves it within 1 ulp; the remainder is then exact, and by Markstein's theorem (IA-64 and
///   Elementary Functions, 2000) a second correction rounds the quotient correctly.
/// Exact when 2^-40 <= |x / s|, since no step then leaves the normal range; smaller quotients come out below
/// 2^-39 with their sign, which every element type here rounds as it rounds zero.
struct Quotient {
  float s, r;

  /// Whether this s can be divided by in this way, for |x| <= amax.
  static FP4LAB_HD bool serves(float s, float amax) {
    return s >= 0x1p-60f && s <= 0x1p60f && amax <= s * 0x1p60f;
  }
  FP4LAB_HD explicit Quotient(float divisor) : s(divisor), r(1.0f / divisor) {}
  FP4LAB_HD float of(float x) const {
    const uint32_t sign = float_bits(x) & 0x80000000u;  // -0 must stay what it is
    const float a = bits_float(float_bits(x) & 0x7fffffffu);
    float q = a * r;
    q = fmaf(fmaf(-q, s, a), r, q);
    q = fmaf(fmaf(-q, s, a), r, q);
    return bits_float(float_bits(q) | sign);
  }
};

}  // namespace fp4lab::cuda
